//! A worker: the thread of each rank that runs the engine. It takes leases, one after the other, and reports. It knows
//! nothing of messages between ranks: its rank's main thread carries them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::engine::{Engine, OpenObject, SavedBlock};
use super::health::Pulse;
use super::lease::{Lease, Outcome, Parts, ToLeader, ToWorker};
use crate::cluster;
use crate::config::{Config, DeviceKind};
use crate::device;
use crate::posterior::tree::TreeNode;
use crate::{Error, Result, failpoint};

/// What an engine is built from: the same on every rank, except for the rank itself.
#[derive(Clone, Debug)]
pub struct RankContext {
    pub rank: usize,
    /// The rank among those of this node: it names the device.
    pub local_rank: usize,
    pub local_size: usize,
    /// Threads of the network; set, and checked, before the engine is built.
    pub threads: u32,
    pub config: Config,
    /// The prior's file, read and hashed once by the leader.
    pub prior: Arc<Vec<u8>>,
}

/// Builds a rank's engine, on the thread that will run it.
pub type EngineFactory = Arc<dyn Fn(&RankContext) -> Result<Box<dyn Engine>> + Send + Sync>;

/// The worker thread as its rank's main thread sees it.
pub struct Worker {
    orders: Sender<ToWorker>,
    reports: Receiver<ToLeader>,
    stopping: Arc<AtomicBool>,
    yields: Arc<AtomicU32>,
    pub pulse: Arc<Pulse>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread.
    pub fn start(context: RankContext, factory: EngineFactory) -> Result<Worker> {
        let (orders, order_box) = channel();
        let (report_box, reports) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let yields = Arc::new(AtomicU32::new(0));
        let pulse = Arc::new(Pulse::default());
        let desk = Desk {
            orders: order_box,
            reports: report_box,
            stopping: stopping.clone(),
            yields: yields.clone(),
            pulse: pulse.clone(),
            interval: Duration::from_secs_f64(context.config.run.journal_interval),
        };
        let thread = std::thread::Builder::new()
            .name("worker".into())
            .spawn(move || desk.work(&context, &factory))
            .map_err(|error| Error::internal(format!("cannot start the worker thread: {error}")))?;
        Ok(Worker { orders, reports, stopping, yields, pulse, thread })
    }

    /// One that never gets ready, for tests of a leader whose other ranks are simulated.
    #[cfg(test)]
    pub fn silent() -> Worker {
        let (orders, order_box) = channel();
        let (report_box, reports) = channel();
        let thread = std::thread::spawn(move || {
            while let Ok(order) = order_box.recv() {
                if matches!(order, ToWorker::Stop) {
                    let _ = report_box.send(ToLeader::Stopped);
                }
            }
        });
        let (stopping, yields, pulse) = Default::default();
        Worker { orders, reports, stopping, yields, pulse, thread }
    }

    /// Hands over a message of the leader.
    pub fn give(&self, order: ToWorker) {
        if matches!(order, ToWorker::Stop | ToWorker::Exit) {
            self.stopping.store(true, Ordering::SeqCst);
        }
        if matches!(order, ToWorker::Yield) {
            self.yields.fetch_add(1, Ordering::SeqCst);
        }
        // A worker that has ended has told why, and needs no more orders.
        let _ = self.orders.send(order);
    }

    /// The next report, waited for at most for `wait`.
    pub fn report(&self, wait: Duration) -> Option<ToLeader> {
        match self.reports.recv_timeout(wait) {
            Ok(report) => Some(report),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wait);
                None
            }
        }
    }

    /// Waits for the thread's end, after `Exit`.
    pub fn join(self) -> Result<()> {
        drop(self.orders);
        self.thread.join().map_err(|_| Error::internal("the worker thread panicked"))
    }
}

/// The worker's own side.
struct Desk {
    orders: Receiver<ToWorker>,
    reports: Sender<ToLeader>,
    stopping: Arc<AtomicBool>,
    /// Orders to yield that have been given and not been taken from the queue: leases found before them are given back.
    yields: Arc<AtomicU32>,
    pulse: Arc<Pulse>,
    interval: Duration,
}

impl Desk {
    fn tell(&self, report: ToLeader) {
        // The main thread outlives this one; if it is gone, the process is ending.
        let _ = self.reports.send(report);
    }

    fn work(&self, context: &RankContext, factory: &EngineFactory) {
        let outcome = device::set_threads(context.threads).and_then(|_| factory(context));
        match outcome {
            Ok(mut engine) => {
                let device = match context.config.run.device {
                    DeviceKind::Cpu => "cpu".to_string(),
                    DeviceKind::Cuda => format!("cuda:{}", context.local_rank),
                };
                self.tell(ToLeader::Ready { host: cluster::host(), device });
                self.serve(context, engine.as_mut());
            }
            Err(error) => {
                self.fatal(context, &error);
                while let Ok(order) = self.orders.recv() {
                    match order {
                        ToWorker::Stop => self.tell(ToLeader::Stopped),
                        ToWorker::Exit => return,
                        ToWorker::Lease(_) | ToWorker::Yield | ToWorker::Alive { .. } => {}
                    }
                }
            }
        }
    }

    /// The next lease; `None` when it is time to leave. A stop is answered on the way.
    fn next_lease(&self) -> Option<Box<Lease>> {
        loop {
            match self.orders.recv().ok()? {
                // A lease that comes after a stop was sent before it: the leader still knows all that is in it.
                ToWorker::Lease(lease) if !self.stopping.load(Ordering::SeqCst) => {
                    if self.yields.load(Ordering::SeqCst) == 0 {
                        return Some(lease);
                    }
                    self.tell(ToLeader::Yielded { object: lease.object, node: lease.node });
                }
                ToWorker::Yield => {
                    self.yields.fetch_sub(1, Ordering::SeqCst);
                }
                ToWorker::Lease(_) | ToWorker::Alive { .. } => {}
                ToWorker::Stop => self.tell(ToLeader::Stopped),
                ToWorker::Exit => return None,
            }
        }
    }

    fn serve(&self, context: &RankContext, engine: &mut dyn Engine) {
        let mut next = self.next_lease();
        while let Some(lease) = next {
            self.pulse.begin(&lease.target.id);
            let started = Instant::now();
            match engine.open(&lease.target, lease.packed.as_ref()) {
                Ok(open) => next = self.serve_object(open.as_ref(), lease, started),
                Err(error) => {
                    match error {
                        // The run folder is damaged (a bundle is), and no object is to blame.
                        Error::File { .. } => self.fatal(context, &error),
                        _ => self.fail(&lease, &error),
                    }
                    self.pulse.end();
                    next = self.next_lease();
                }
            }
        }
    }

    /// Works on leases of one object as long as they come; returns the first lease of another.
    fn serve_object(&self, open: &dyn OpenObject, first: Box<Lease>, started: Instant) -> Option<Box<Lease>> {
        let (mut lease, mut started) = (first, started);
        loop {
            let (level, index) = (lease.node.level, lease.node.index);
            tracing::debug!(object = lease.target.id, blocks = lease.blocks, level, index, "lease");
            match self.sample(open, &lease) {
                Ok(Some(outcome)) => self.tell(ToLeader::Done {
                    object: lease.object,
                    node: lease.node,
                    seconds: started.elapsed().as_secs_f64(),
                    outcome,
                }),
                // After a stop the leader asks for nothing more.
                Ok(None) if self.stopping.load(Ordering::SeqCst) => {}
                Ok(None) => self.tell(ToLeader::Yielded { object: lease.object, node: lease.node }),
                Err(error) => self.fail(&lease, &error),
            }
            self.pulse.end();
            let next = self.next_lease()?;
            if next.object != lease.object {
                return Some(next);
            }
            (lease, started) = (next, Instant::now());
            self.pulse.begin(&lease.target.id);
        }
    }

    /// Something that no other object would do better with: the job ends.
    fn fatal(&self, context: &RankContext, error: &Error) {
        let message = format!("rank {} on {}: {error}", context.rank, cluster::host());
        self.tell(ToLeader::Fatal { message, code: error.exit_code() });
    }

    fn fail(&self, lease: &Lease, error: &Error) {
        // The object's name is in the record already, and a reason must not depend on where it was found.
        let reason = match error {
            Error::Object { what, .. } => what.clone(),
            other => other.to_string(),
        };
        let suspicious = !matches!(error, Error::Object { .. } | Error::File { .. });
        self.tell(ToLeader::Failed { object: lease.object, node: lease.node, reason, suspicious });
    }

    /// Computes a lease; `None` if a stop, or the order to yield, came first (what there was has been reported).
    fn sample(&self, open: &dyn OpenObject, lease: &Lease) -> Result<Option<Outcome>> {
        if open.blocks() != lease.blocks {
            return Err(Error::internal(format!(
                "the engine has {} blocks for `{}`, the plan has {}",
                open.blocks(),
                lease.target.id,
                lease.blocks
            )));
        }
        let mut parts = Parts::new(lease.blocks);
        lease.nodes.iter().for_each(|(place, node)| parts.insert(*place, node.clone()));
        let mut told: BTreeSet<TreeNode> = lease.nodes.iter().map(|(place, _)| *place).collect();
        let mut last_save = Instant::now();
        let mut kept = false;
        for block in lease.node.blocks(lease.blocks) {
            if parts.has_block(block) {
                continue;
            }
            let saved = lease.states.iter().find(|saved| saved.block == block);
            let mut state = match saved {
                Some(saved) => open.resume(&saved.state)?,
                None => open.start(block)?,
            };
            self.pulse.tick();
            while state.step < open.steps() {
                let mut stopping = self.stopping.load(Ordering::SeqCst);
                if !kept && self.yields.load(Ordering::SeqCst) > 0 {
                    // A single block cannot be shared, and to go on with it elsewhere would only cost.
                    kept = lease.node.blocks(lease.blocks).all(|other| other == block || parts.has_block(other));
                    match kept {
                        true => self.tell(ToLeader::Kept),
                        false => stopping = true,
                    }
                }
                if stopping || last_save.elapsed() >= self.interval {
                    let state = SavedBlock { block, state: state.save()? };
                    self.save(lease, &parts, &mut told, Some(state));
                    last_save = Instant::now();
                }
                if stopping {
                    return Ok(None);
                }
                failpoint::at("worker.step")?;
                open.step(block, &mut state)?;
                self.pulse.step(open.samples(block));
            }
            parts.insert(TreeNode::leaf(block), open.finish_block(block, state)?);
            parts.collapse(lease.node);
            self.pulse.tick();
        }
        let node = parts.assemble(lease.node).ok_or_else(|| Error::internal("a lease ended with blocks missing"))?;
        if lease.node == TreeNode::root(lease.blocks) {
            return Ok(Some(Outcome::Record(Box::new(open.finish(node)?))));
        }
        Ok(Some(Outcome::Node(node)))
    }

    fn save(&self, lease: &Lease, parts: &Parts, told: &mut BTreeSet<TreeNode>, state: Option<SavedBlock>) {
        let new = parts.iter().filter(|(place, _)| !told.contains(place));
        let nodes: Vec<_> = new.map(|(place, node)| (*place, node.clone())).collect();
        told.extend(nodes.iter().map(|(place, _)| *place));
        self.tell(ToLeader::Saved { object: lease.object, nodes, state });
    }
}
