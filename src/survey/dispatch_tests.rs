//! The leader with simulated workers: their clock is a number, so hours of work take milliseconds, and what happens next
//! is the test's choice. The leader is the real one, with real claims, journals and products.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::engine::SavedBlock;
use super::events::Events;
use super::folder::Folder;
use super::leader::{Leader, Survey};
use super::lease::{Lease, Outcome, Parts, ToLeader, ToWorker, decode, encode};
use super::plan::Plan;
use super::progress::Progress;
use super::receipt::{PlainWriter, Receipt};
use super::run::read_targets;
use super::toy;
use super::worker::Worker;
use crate::Result;
use crate::cluster::Comm;
use crate::config::Config;
use crate::posterior::tree::TreeNode;
use crate::posterior::{Moments, Node};
use crate::product::ObjectRecord;
use crate::random::{Key, Purpose};
use crate::sampler::SavedState;

/// What a worker does now.
struct Job {
    lease: Box<Lease>,
    parts: Parts,
    /// Steps done of the first block that is not known, and whether the lease stays although it was asked back.
    step: u32,
    kept: bool,
    /// When the step in flight ends.
    due: f64,
}

struct Simulated {
    seconds: f64,
    queue: VecDeque<ToWorker>,
    yields: usize,
    job: Option<Job>,
    outbox: VecDeque<ToLeader>,
}

/// What happens next: a step ends, or a message arrives.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Event {
    Step(usize),
    Message(usize),
}

type Choice = Box<dyn FnMut(&[(f64, Event)]) -> usize>;

struct Inner {
    now: f64,
    steps: u32,
    worked: u64,
    finished: f64,
    workers: Vec<Simulated>,
    choose: Choice,
    /// The leader acts between two messages.
    leaders_turn: bool,
}

/// The communicator of rank 0; ranks from 1 on are simulated.
struct Simulation(RefCell<Inner>);

impl Simulation {
    /// Workers that take so many seconds a step.
    fn new(config: &Config, seconds: &[f64], choose: Choice) -> Simulation {
        let ready = || VecDeque::from([ToLeader::Ready { host: "simulated".into(), device: "cpu".into() }]);
        let worker =
            |&seconds: &f64| Simulated { seconds, queue: VecDeque::new(), yields: 0, job: None, outbox: ready() };
        Simulation(RefCell::new(Inner {
            now: 0.0,
            steps: config.sampler.steps,
            worked: 0,
            finished: 0.0,
            workers: seconds.iter().map(worker).collect(),
            choose,
            leaders_turn: false,
        }))
    }
}

impl Inner {
    /// Takes from a worker's queue until it works or has nothing; answers as a worker does.
    fn turn(&mut self, index: usize) {
        let now = self.now;
        let steps = self.steps;
        let worker = &mut self.workers[index];
        while worker.job.is_none() {
            match worker.queue.pop_front() {
                None => return,
                Some(ToWorker::Yield) => worker.yields -= 1,
                Some(ToWorker::Stop) => worker.outbox.push_back(ToLeader::Stopped),
                Some(ToWorker::Exit | ToWorker::Alive { .. }) => {}
                Some(ToWorker::Lease(lease)) if worker.yields > 0 => {
                    worker.outbox.push_back(ToLeader::Yielded { object: lease.object, node: lease.node });
                }
                Some(ToWorker::Lease(lease)) => {
                    let mut parts = Parts::new(lease.blocks);
                    lease.nodes.iter().for_each(|(place, node)| parts.insert(*place, node.clone()));
                    let mut job = Job { lease, parts, step: 0, kept: false, due: now };
                    match job.next() {
                        // All is known: it is only to be finished.
                        None => {
                            let done = job.outcome();
                            worker.outbox.push_back(done);
                        }
                        Some(block) => {
                            job.step = job.saved(block);
                            job.due = now + worker.seconds / f64::from(steps);
                            worker.job = Some(job);
                        }
                    }
                }
            }
        }
    }

    fn step(&mut self, index: usize) {
        let (now, steps) = (self.now, self.steps);
        let worker = &mut self.workers[index];
        let Some(mut job) = worker.job.take() else { return };
        self.worked += 1;
        job.step += 1;
        let Some(block) = job.next() else { return };
        if job.step == steps {
            job.parts.insert(TreeNode::leaf(block), leaf(job.lease.object, block));
            job.parts.collapse(job.lease.node);
            job.step = job.next().map_or(0, |block| job.saved(block));
        }
        job.due = now + worker.seconds / f64::from(steps);
        let Some(block) = job.next() else {
            self.finished = now;
            worker.outbox.push_back(job.outcome());
            return self.turn(index);
        };
        if worker.yields > 0 && !job.kept {
            job.kept = job.lease.node.blocks(job.lease.blocks).filter(|&block| !job.parts.has_block(block)).count() < 2;
            if job.kept {
                worker.outbox.push_back(ToLeader::Kept);
            } else {
                let nodes = job.parts.iter().map(|(place, node)| (*place, node.clone())).collect();
                let state = Some(SavedBlock { block, state: SavedState { step: job.step, tensors: Vec::new() } });
                let (object, node) = (job.lease.object, job.lease.node);
                worker.outbox.push_back(ToLeader::Saved { object, nodes, state });
                worker.outbox.push_back(ToLeader::Yielded { object, node });
                return self.turn(index);
            }
        }
        worker.job = Some(job);
    }
}

impl Job {
    /// The first block that is not known.
    fn next(&self) -> Option<u32> {
        self.lease.node.blocks(self.lease.blocks).find(|&block| !self.parts.has_block(block))
    }

    fn saved(&self, block: u32) -> u32 {
        self.lease.states.iter().find(|saved| saved.block == block).map_or(0, |saved| saved.state.step)
    }

    fn outcome(&self) -> ToLeader {
        let Lease { object, node, blocks, target, .. } = self.lease.as_ref();
        let merged = self.parts.assemble(*node).unwrap();
        let outcome = if *node == TreeNode::root(*blocks) {
            let mut record = ObjectRecord::done(&target.id);
            record.set_scalar("mean", merged.moments[0].1.mean[0]);
            record.samples = merged.samples;
            Outcome::Record(Box::new(record))
        } else {
            Outcome::Node(merged)
        };
        ToLeader::Done { object: *object, node: *node, seconds: 1.0, outcome }
    }
}

fn leaf(object: u64, block: u32) -> Node {
    let values = Key::new(object, "simulated", block, Purpose::Evaluation, 0).normal(3);
    let mut moments = Moments::new(1);
    values.iter().for_each(|&value| moments.push(&[value]));
    Node { moments: vec![("x".into(), moments)], samples: vec![("s".into(), values)], draws: Vec::new(), lost: 0 }
}

impl Comm for Simulation {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        self.0.borrow().workers.len() + 1
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn local_size(&self) -> usize {
        self.size()
    }

    fn send(&self, to: usize, message: Vec<u8>) -> Result<()> {
        let mut inner = self.0.borrow_mut();
        let order: ToWorker = decode(&message)?;
        inner.workers[to - 1].yields += usize::from(matches!(order, ToWorker::Yield));
        inner.workers[to - 1].queue.push_back(order);
        inner.turn(to - 1);
        Ok(())
    }

    fn receive(&self) -> Result<Option<(usize, Vec<u8>)>> {
        let mut inner = self.0.borrow_mut();
        if std::mem::take(&mut inner.leaders_turn) {
            return Ok(None);
        }
        loop {
            let mut events = Vec::new();
            for (index, worker) in inner.workers.iter().enumerate() {
                // A message takes no time.
                events.extend((!worker.outbox.is_empty()).then_some((inner.now, Event::Message(index))));
                events.extend(worker.job.as_ref().map(|job| (job.due, Event::Step(index))));
            }
            if events.is_empty() {
                return Ok(None);
            }
            let chosen = (inner.choose)(&events);
            let (time, event) = events[chosen];
            inner.now = inner.now.max(time);
            match event {
                Event::Step(index) => inner.step(index),
                Event::Message(index) => {
                    inner.leaders_turn = true;
                    let message = inner.workers[index].outbox.pop_front();
                    return message.map(|message| Ok((index + 1, encode(&message)?))).transpose();
                }
            }
        }
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        Ok(bytes)
    }

    fn abort(&self, code: i32) -> ! {
        panic!("abort with {code}")
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Runs a survey in `root`; returns the simulation, and the content of each shard's product.
fn simulate(root: &Path, config: &Config, seconds: &[f64], choose: Choice) -> (Inner, Vec<String>) {
    let folder = Folder::new(&root.join("run"));
    let (plan, _) = Plan::ensure(config, &folder, || read_targets(config)).unwrap();
    folder.create().unwrap();
    let simulation = Simulation::new(config, seconds, choose);
    let survey = Survey {
        comm: &simulation,
        folder: &folder,
        plan: &plan,
        config,
        prior: b"none",
        writer: &PlainWriter,
        events: &Events::nowhere(),
    };
    let mut worker = Worker::silent();
    let progress = Progress::new(&plan, config.sampler.steps, 0, 0);
    let code = Leader::new(survey, &mut worker, Arc::new(AtomicBool::new(false)), progress, Default::default())
        .lead()
        .unwrap();
    assert_eq!(code, 0);
    let receipts = Receipt::list(&folder).unwrap();
    let digests = receipts.iter().map(|&shard| Receipt::read(&folder, shard).unwrap().unwrap().content_blake3);
    let digests: Vec<String> = digests.collect();
    assert_eq!(digests.len(), plan.shards.len());
    (simulation.0.into_inner(), digests)
}

fn earliest() -> Choice {
    Box::new(|events| (0..events.len()).min_by(|&a, &b| events[a].0.total_cmp(&events[b].0)).unwrap())
}

/// Objects of six blocks of six steps, in shards of eight.
fn config(objects: u32) -> (tempfile::TempDir, Config) {
    let root = tempfile::tempdir().unwrap();
    let config = toy::config(root.path(), &toy::names(objects), 8).unwrap();
    (root, config)
}

/// Makespan, and the least that is possible: all workers busy to the end.
fn makespan(objects: u32, seconds: &[f64]) -> (f64, f64) {
    let (root, config) = config(objects);
    let (simulation, _) = simulate(root.path(), &config, seconds, earliest());
    let steps = u64::from(objects) * 36;
    // A lease that changes hands is gone on with where it was.
    assert_eq!(simulation.worked, steps, "steps were done twice");
    let ideal = steps as f64 / 6.0 / seconds.iter().map(|seconds| 1.0 / seconds).sum::<f64>();
    (simulation.finished, ideal)
}

#[test]
fn one_slow_worker_of_four_costs_less_than_five_per_cent() {
    let seconds = [1.0, 1.0, 1.0, 3.0];
    for objects in [1, 2, 5, 16, 30, 31, 40, 41, 42, 43, 64, 100] {
        let (found, ideal) = makespan(objects, &seconds);
        println!("{objects} objects: makespan {:.3} of the ideal", found / ideal);
        // Blocks are not shared, so the others may have to wait for one block of the slowest, and for no more.
        assert!(found <= ideal + 3.0, "{objects} objects: {found} of {ideal}");
        assert!(objects < 40 || found < 1.05 * ideal, "{objects} objects: {found} of {ideal}");
    }
}

/// Two workers, two objects of two blocks: all orders in which steps can end and messages arrive.
#[test]
fn every_interleaving_of_a_small_case_gives_the_same_content() {
    let mut prefix: Vec<usize> = Vec::new();
    let mut contents: Vec<Vec<String>> = Vec::new();
    let mut count = 0;
    loop {
        // In memory, where there is such a place: thousands of surveys are flushed.
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut config = toy::config(root.path(), &toy::names(2), 2).unwrap();
        (config.sampler.steps, config.posterior.samples) = (1, 4);
        // What is chosen first, the number of choices there was, and what to choose from then on: always the first.
        let trace = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (chosen, begin) = (trace.clone(), prefix.clone());
        let choose = move |events: &[(f64, Event)]| {
            let mut chosen = chosen.lock().unwrap();
            let choice = begin.get(chosen.len()).copied().unwrap_or(0);
            chosen.push((choice, events.len()));
            choice
        };
        let (simulation, content) = simulate(root.path(), &config, &[1.0, 1.0], Box::new(choose));
        assert_eq!(simulation.worked, 4);
        contents.push(content);
        count += 1;
        let mut trace = trace.lock().unwrap().clone();
        // The next in order: the last choice that has another option, and nothing behind it.
        while trace.last().is_some_and(|&(choice, options)| choice + 1 >= options) {
            trace.pop();
        }
        let Some((last, _)) = trace.pop() else { break };
        prefix = trace.iter().map(|&(choice, _)| choice).chain([last + 1]).collect();
    }
    contents.dedup();
    println!("{count} interleavings");
    assert_eq!(contents.len(), 1);
    assert!(count > 100, "{count}");
}
