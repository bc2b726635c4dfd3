//! The leader: rank 0's main thread. It alone writes. It claims shards, gives leases to all workers (its own among them),
//! keeps the journals, and publishes what is done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::events::{Events, Warnings};
use super::folder::Folder;
use super::lease::{Outcome, ToLeader, ToWorker, decode, encode};
use super::liveness::{beat_interval, hung};
use super::plan::Plan;
use super::progress::Progress;
use super::receipt::{Receipt, ShardContext, ShardWriter};
use super::shard::OpenShard;
use super::worker::Worker;
use crate::Result;
use crate::cluster::Comm;
use crate::config::Config;
use crate::error::exit::{DONE, RESUMABLE, SOME_FAILED};
use crate::posterior::tree::TreeNode;

/// How long the leader waits for its own worker before it looks at the other ranks' messages again.
pub const PAUSE: Duration = Duration::from_millis(2);
/// Seconds between touches of a claim, unless the claim timeout is short.
const TOUCH: f64 = 60.0;
/// A claim is touched at least this many times before it would be stale.
const TOUCHES: f64 = 10.0;

/// What does not change during a run.
#[derive(Clone, Copy)]
pub struct Survey<'a> {
    pub comm: &'a dyn Comm,
    pub folder: &'a Folder,
    pub plan: &'a Plan,
    pub config: &'a Config,
    pub prior: &'a [u8],
    pub writer: &'a dyn ShardWriter,
    pub events: &'a Events,
}

/// A lease that a rank holds.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) shard: u32,
    pub(super) attempt: u32,
    pub(super) place: usize,
    pub(super) node: TreeNode,
}

/// Whether a rank keeps a lease that it was asked to give back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Open,
    Kept,
}

pub(super) struct Rank {
    pub(super) ready: bool,
    pub(super) stopped: bool,
    pub(super) leases: VecDeque<Held>,
    /// What came of asking for its oldest lease back, if it was asked.
    pub(super) asked: Option<Answer>,
    heard: Instant,
    work: u64,
    pub(super) troubles: u32,
    pub(super) host: String,
}

/// The leader's memory.
pub struct Leader<'a> {
    pub(super) survey: Survey<'a>,
    worker: &'a mut Worker,
    pub(super) warnings: Warnings,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) ranks: Vec<Rank>,
    pub(super) shards: BTreeMap<u32, Box<OpenShard>>,
    /// Shards that other jobs hold, and when they were seen to be touched first.
    pub(super) held: BTreeMap<u32, SystemTime>,
    /// Whether the last look found no shard to claim, and when that was.
    pub(super) none_left: Option<Instant>,
    stopping: bool,
    pub(super) fatal: Option<(String, i32)>,
    progress: Progress,
    last_touch: Instant,
    last_sync: Instant,
    last_look: Instant,
    /// When the other ranks were told that the leader works on files, unless they have been told otherwise since.
    pub(super) busy: Option<Instant>,
}

impl<'a> Leader<'a> {
    pub fn new(
        survey: Survey<'a>,
        worker: &'a mut Worker,
        stop: Arc<AtomicBool>,
        progress: Progress,
        warnings: Warnings,
    ) -> Leader<'a> {
        let now = Instant::now();
        let rank = || Rank {
            ready: false,
            stopped: false,
            leases: VecDeque::new(),
            asked: None,
            heard: now,
            work: 0,
            troubles: 0,
            host: "unknown".into(),
        };
        Leader {
            survey,
            worker,
            warnings,
            stop,
            ranks: (0..survey.comm.size()).map(|_| rank()).collect(),
            shards: BTreeMap::new(),
            held: BTreeMap::new(),
            none_left: None,
            stopping: false,
            fatal: None,
            progress,
            last_touch: now,
            last_sync: now,
            last_look: now,
            busy: None,
        }
    }

    /// Leads until the survey is done or a stop is asked for; returns the exit code.
    pub fn lead(&mut self) -> Result<i32> {
        let outcome = self.work();
        if outcome.is_err() {
            // The error is what counts. Still, its objects are not to blame, and other jobs may have the shards.
            for (_, shard) in std::mem::take(&mut self.shards) {
                let _ = shard.stop();
            }
        }
        outcome
    }

    fn work(&mut self) -> Result<i32> {
        loop {
            let mut heard = false;
            while let Some((rank, bytes)) = self.survey.comm.receive()? {
                self.hear(rank, decode(&bytes)?)?;
                heard = true;
            }
            let pause = if heard { Duration::ZERO } else { PAUSE };
            if let Some(report) = self.worker.report(pause) {
                self.hear(0, report)?;
            }
            if self.stop.load(Ordering::SeqCst) && !self.stopping {
                self.begin_stop()?;
            }
            self.publish_done()?;
            if !self.stopping {
                self.assign()?;
                if self.nothing_left()? {
                    self.begin_stop()?;
                }
            }
            self.look_after()?;
            if self.stopping && self.ranks.iter().all(|rank| rank.stopped) {
                break;
            }
        }
        self.hear(0, ToLeader::Beat { work: self.worker.pulse.work() })?;
        self.publish_done()?;
        self.say_busy()?;
        for (_, shard) in std::mem::take(&mut self.shards) {
            shard.stop()?;
        }
        self.progress.finish();
        self.exit_code()
    }

    fn exit_code(&self) -> Result<i32> {
        if let Some((message, code)) = &self.fatal {
            tracing::error!("{message}");
            return Ok(*code);
        }
        let receipts = Receipt::all(self.survey.folder, self.survey.plan)?;
        let missing = self.survey.plan.shards.len().saturating_sub(receipts.len());
        if missing > 0 && self.stop.load(Ordering::SeqCst) {
            tracing::info!("stopped early, {missing} shards are not done: run again to go on");
            return Ok(RESUMABLE);
        }
        if missing > 0 {
            tracing::info!("nothing is left for this job: other jobs work on the last {missing} shards");
        }
        Ok(if receipts.iter().any(|receipt| receipt.failed > 0) { SOME_FAILED } else { DONE })
    }

    pub(super) fn tell(&self, rank: usize, order: ToWorker) -> Result<()> {
        if rank == 0 {
            self.worker.give(order);
            return Ok(());
        }
        self.survey.comm.send(rank, encode(&order)?)
    }

    fn begin_stop(&mut self) -> Result<()> {
        self.stopping = true;
        (0..self.ranks.len()).try_for_each(|rank| self.tell(rank, ToWorker::Stop))
    }

    /// Lets every rank leave; the last thing that is said.
    pub fn dismiss(&self) -> Result<()> {
        (0..self.ranks.len()).try_for_each(|rank| self.tell(rank, ToWorker::Exit))
    }

    fn hear(&mut self, rank: usize, message: ToLeader) -> Result<()> {
        self.ranks[rank].heard = Instant::now();
        match message {
            ToLeader::Ready { host, device } => {
                self.survey.events.write("rank", json!({ "rank": rank, "host": host, "device": device }));
                self.ranks[rank].ready = true;
                self.ranks[rank].host = host;
            }
            ToLeader::Beat { work } => {
                let new = work.saturating_sub(self.ranks[rank].work);
                self.ranks[rank].work = work;
                self.progress.add_work(new);
            }
            ToLeader::Yielded { .. } => {
                let pieces = 2 * self.ranks.len() as u32;
                if let Some((shard, held)) = self.pop_front(rank) {
                    shard.take_back(held.place, held.node, pieces)?;
                }
                self.begin_front(rank)?;
            }
            ToLeader::Kept => self.ranks[rank].asked = Some(Answer::Kept),
            ToLeader::Warning { message } => self.warned(rank, &message),
            ToLeader::StopRequested => self.stop.store(true, Ordering::SeqCst),
            ToLeader::Stopped => self.ranks[rank].stopped = true,
            ToLeader::Fatal { message, code } => self.give_up(message, code),
            ToLeader::Saved { object, nodes, state } => {
                // Of the oldest lease, unless that lease's shard was lost to another job.
                let front = self.ranks[rank].leases.front().copied();
                if let Some((shard, held)) = front.and_then(|held| self.find(held))
                    && shard.place(object) == Some(held.place)
                {
                    shard.add_saved(held.place, nodes, state)?;
                }
            }
            ToLeader::Done { seconds, outcome, .. } => {
                self.ranks[rank].troubles = 0;
                if let Some((shard, held)) = self.pop_front(rank) {
                    shard.worker_seconds += seconds;
                    match outcome {
                        Outcome::Node(node) => shard.add_node(held.place, held.node, node)?,
                        Outcome::Record(record) => shard.add_record(held.place, held.node, *record)?,
                    }
                }
                self.begin_front(rank)?;
            }
            ToLeader::Failed { reason, suspicious, .. } => {
                if suspicious {
                    self.trouble(rank, &reason);
                }
                if let Some((shard, held)) = self.pop_front(rank) {
                    shard.add_failure(held.place, held.node, reason)?;
                }
                self.begin_front(rank)?;
            }
        }
        Ok(())
    }

    /// The oldest lease of a rank is out of its hands.
    fn pop_front(&mut self, rank: usize) -> Option<(&mut OpenShard, Held)> {
        self.ranks[rank].asked = None;
        let held = self.ranks[rank].leases.pop_front()?;
        self.find(held)
    }

    /// The open shard of a lease, if it is still the same attempt.
    fn find(&mut self, held: Held) -> Option<(&mut OpenShard, Held)> {
        let shard = self.shards.get_mut(&held.shard)?;
        (shard.attempt() == held.attempt).then_some((shard.as_mut(), held))
    }

    fn begin_front(&mut self, rank: usize) -> Result<()> {
        // After a stop the worker begins nothing.
        let front = self.ranks[rank].leases.front().copied().filter(|_| !self.stopping);
        match front.and_then(|held| self.find(held)) {
            Some((shard, held)) => shard.begin(held.place, held.node),
            None => Ok(()),
        }
    }

    fn publish_done(&mut self) -> Result<()> {
        let done: Vec<u32> = self.shards.iter().filter(|(_, shard)| shard.is_done()).map(|(&index, _)| index).collect();
        for index in done {
            let Some(shard) = self.shards.remove(&index) else { continue };
            self.say_busy()?;
            let Survey { comm, folder, plan, config, prior, writer, .. } = self.survey;
            let context = ShardContext { plan, config, prior, shard: index };
            let hosts = self.ranks.iter().filter(|rank| rank.ready).map(|rank| rank.host.clone()).collect();
            match shard.publish(folder, &context, writer, &hosts, comm.size() as u32)? {
                Some(receipt) => {
                    self.progress.publish(receipt.objects, receipt.failed);
                    self.survey.events.write("published", json!(receipt));
                    tracing::info!(
                        "shard {index}: {} objects, {} failed, published as {}",
                        receipt.objects,
                        receipt.failed,
                        receipt.file.display()
                    );
                }
                None => tracing::warn!("shard {index}: another job has taken it over; its product is left to that job"),
            }
            // Something may be there to claim again.
            self.none_left = None;
        }
        Ok(())
    }

    /// What has to be done from time to time.
    fn look_after(&mut self) -> Result<()> {
        let run = &self.survey.config.run;
        let timeout = Duration::from_secs_f64(run.hang_timeout);
        let away = self.last_look.elapsed();
        if away >= beat_interval(timeout) {
            self.last_look = Instant::now();
            self.worker.pulse.looked_after(away, timeout);
            let work = self.worker.pulse.work();
            self.hear(0, ToLeader::Beat { work })?;
            self.watch(timeout);
            self.busy = None;
            self.tell_warnings();
            self.say_alive(timeout)?;
            let (ended, failed) =
                self.shards.values().map(|shard| shard.ended()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            self.progress.show(ended, failed);
        }
        if self.last_sync.elapsed().as_secs_f64() >= run.journal_interval {
            self.last_sync = Instant::now();
            self.say_busy()?;
            self.shards.values_mut().try_for_each(|shard| shard.sync())?;
        }
        if self.last_touch.elapsed().as_secs_f64() >= TOUCH.min(run.claim_timeout / TOUCHES) {
            self.last_touch = Instant::now();
            let mut lost = Vec::new();
            for (&index, shard) in &self.shards {
                if !shard.touch()? {
                    lost.push(index);
                }
            }
            for index in lost {
                tracing::warn!("shard {index}: this job was silent for too long, another one has taken it over");
                self.shards.remove(&index);
                self.none_left = None;
            }
        }
        Ok(())
    }

    /// Ends the job if a worker hangs or a rank has fallen silent: it can be run again from the journals.
    fn watch(&self, timeout: Duration) {
        if let Some((object, silent)) = self.worker.pulse.hung(timeout) {
            hung(self.survey.comm, &object, silent);
        }
        for (index, rank) in self.ranks.iter().enumerate().skip(1) {
            // A rank says that it lives before its worker is ready: one that was never heard is counted from the start.
            if rank.heard.elapsed() > timeout {
                let host = &rank.host;
                tracing::error!(
                    "rank {index} on {host} has been silent for {:.0} s: aborting",
                    rank.heard.elapsed().as_secs_f64()
                );
                self.survey.comm.abort(RESUMABLE);
            }
        }
    }
}
