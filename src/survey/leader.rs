//! The leader: rank 0's main thread. It alone writes. It claims shards, gives leases to all workers (its own among them),
//! keeps the journals, and publishes what is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::folder::Folder;
use super::lease::{Outcome, ToLeader, ToWorker, decode, encode};
use super::plan::Plan;
use super::progress::Progress;
use super::receipt::{Receipt, ShardContext, ShardWriter};
use super::shard::{OpenShard, Opened, open_next};
use super::worker::Worker;
use crate::cluster::Comm;
use crate::config::Config;
use crate::error::exit::{DONE, RESUMABLE, SOME_FAILED};
use crate::posterior::tree::TreeNode;
use crate::{Error, Result};

/// Leases that a worker holds at most: the one it works on, and the next, so that it never waits.
const MAX_LEASES: usize = 2;
/// Faults in a row, possibly the machine's own, after which a rank is not trusted with further objects.
const MAX_TROUBLES: u32 = 3;
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
}

/// A lease that a rank holds.
#[derive(Clone, Copy)]
struct Held {
    shard: u32,
    attempt: u32,
    place: usize,
    node: TreeNode,
}

struct Rank {
    ready: bool,
    stopped: bool,
    leases: VecDeque<Held>,
    heard: Instant,
    work: u64,
    troubles: u32,
    host: String,
}

/// The leader's memory.
pub struct Leader<'a> {
    survey: Survey<'a>,
    worker: &'a mut Worker,
    stop: Arc<AtomicBool>,
    ranks: Vec<Rank>,
    shards: BTreeMap<u32, Box<OpenShard>>,
    /// Shards that other jobs hold, and when they were seen to be touched first.
    held: BTreeMap<u32, SystemTime>,
    /// Whether the last look found no shard to claim, and when that was.
    none_left: Option<Instant>,
    stopping: bool,
    fatal: Option<(String, i32)>,
    progress: Progress,
    last_touch: Instant,
    last_sync: Instant,
    last_look: Instant,
}

impl<'a> Leader<'a> {
    pub fn new(survey: Survey<'a>, worker: &'a mut Worker, stop: Arc<AtomicBool>, progress: Progress) -> Leader<'a> {
        let now = Instant::now();
        let rank = || Rank {
            ready: false,
            stopped: false,
            leases: VecDeque::new(),
            heard: now,
            work: 0,
            troubles: 0,
            host: "unknown".into(),
        };
        Leader {
            survey,
            worker,
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
        let folder = self.survey.folder;
        let receipts = Receipt::list(folder)?;
        let missing = self.survey.plan.shards.len().saturating_sub(receipts.len());
        if missing > 0 && self.stop.load(Ordering::SeqCst) {
            tracing::info!("stopped early, {missing} shards are not done: run again to go on");
            return Ok(RESUMABLE);
        }
        if missing > 0 {
            tracing::info!("nothing is left for this job: other jobs work on the last {missing} shards");
        }
        let mut failed = 0;
        for shard in receipts {
            failed += Receipt::read(folder, shard)?.map_or(0, |receipt| receipt.failed);
        }
        Ok(if failed > 0 { SOME_FAILED } else { DONE })
    }

    fn tell(&self, rank: usize, order: ToWorker) -> Result<()> {
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
            ToLeader::Ready { host } => {
                self.ranks[rank].ready = true;
                self.ranks[rank].host = host;
            }
            ToLeader::Beat { work } => {
                let new = work.saturating_sub(self.ranks[rank].work);
                self.ranks[rank].work = work;
                self.progress.add_work(new);
            }
            ToLeader::StopRequested => self.stop.store(true, Ordering::SeqCst),
            ToLeader::Stopped => self.ranks[rank].stopped = true,
            ToLeader::Fatal { message, code } => self.give_up(message, code),
            ToLeader::Saved { object, nodes, state } => {
                // Of the oldest lease, unless that lease's shard was lost to another job.
                let front = self.ranks[rank].leases.front().copied();
                if let Some((shard, held)) = front.and_then(|held| self.find(held)) {
                    if shard.place(object) == Some(held.place) {
                        shard.add_saved(held.place, nodes, state)?;
                    }
                }
            }
            ToLeader::Done { seconds, outcome, .. } => {
                self.ranks[rank].troubles = 0;
                if let Some((shard, held)) = self.ranks[rank].leases.pop_front().and_then(|held| self.find(held)) {
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
                if let Some((shard, held)) = self.ranks[rank].leases.pop_front().and_then(|held| self.find(held)) {
                    shard.add_failure(held.place, held.node, reason)?;
                }
                self.begin_front(rank)?;
            }
        }
        Ok(())
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

    fn trouble(&mut self, rank: usize, reason: &str) {
        self.ranks[rank].troubles += 1;
        if self.ranks[rank].troubles >= MAX_TROUBLES {
            let host = &self.ranks[rank].host;
            let message = format!(
                "rank {rank} on {host} failed {MAX_TROUBLES} objects in a row, the last with `{reason}`: this may be the \
                 machine's fault. When it is mended, `unseeing retry` clears the failed objects"
            );
            self.give_up(message, 1);
        }
    }

    fn give_up(&mut self, message: String, code: i32) {
        if self.fatal.is_none() {
            self.fatal = Some((message, code));
        }
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Gives leases to workers that have room, the emptiest first.
    fn assign(&mut self) -> Result<()> {
        // Ranks that are still getting ready count too: there must be something left for them.
        let workers = self.ranks.len();
        loop {
            let ready = self.ranks.iter().enumerate().filter(|(_, rank)| rank.ready && !rank.stopped);
            let Some((rank, load)) =
                ready.map(|(index, rank)| (index, rank.leases.len())).min_by_key(|&(_, load)| load)
            else {
                return Ok(());
            };
            if load >= MAX_LEASES {
                return Ok(());
            }
            self.claim_more(workers)?;
            // A second lease only while there is plenty: near the end it would wait behind the first for nothing.
            if load > 0 && self.units() <= workers {
                return Ok(());
            }
            let Some((shard, place)) = self.choose(workers) else { return Ok(()) };
            let Some(open) = self.shards.get_mut(&shard) else { return Ok(()) };
            let attempt = open.attempt();
            let Some(lease) = open.lease(place) else { return Ok(()) };
            if load == 0 {
                open.begin(place, lease.node)?;
            }
            self.ranks[rank].leases.push_back(Held { shard, attempt, place, node: lease.node });
            self.tell(rank, ToWorker::Lease(Box::new(lease)))?;
        }
    }

    /// Objects that wait, those under suspicion left out.
    fn waiting(&self) -> usize {
        let objects = self.shards.values().flat_map(|shard| &shard.objects);
        objects.filter(|object| object.is_waiting() && !object.is_suspect()).count()
    }

    /// Leases that could be given now.
    fn units(&self) -> usize {
        let queued: usize =
            self.shards.values().flat_map(|shard| &shard.objects).map(|object| object.queue.len()).sum();
        queued + self.waiting()
    }

    /// The object whose lease comes next: pieces that wait; then whole objects; then, one at a time, objects during
    /// which the process has died once, so that a second death blames the right one.
    fn choose(&mut self, workers: usize) -> Option<(u32, usize)> {
        let places = |shard: &OpenShard| 0..shard.objects.len();
        for (&index, shard) in &self.shards {
            if let Some(place) = places(shard).find(|&place| !shard.objects[place].queue.is_empty()) {
                return Some((index, place));
            }
        }
        let waiting = self.waiting();
        let suspect_busy = self.shards.values().flat_map(|shard| &shard.objects);
        let suspect_busy =
            suspect_busy.filter(|object| object.is_suspect() && object.begun && object.known.record.is_none()).count()
                > 0;
        for (&index, shard) in &mut self.shards {
            let wanted = |place: &usize| {
                let object = &shard.objects[*place];
                object.is_waiting() && (if waiting > 0 { !object.is_suspect() } else { !suspect_busy })
            };
            if let Some(place) = (0..shard.objects.len()).find(wanted) {
                // Whole objects while there are enough for everyone; otherwise pieces, more than there are workers, so
                // that the last to finish is not waited for long.
                let enough = workers == 1 || waiting >= workers;
                let pieces = if enough { 1 } else { (2 * workers).div_ceil(waiting.max(1)) };
                shard.cut(place, pieces as u32);
                return Some((index, place));
            }
        }
        None
    }

    /// Claims shards until every worker can have a whole object, or none is left.
    fn claim_more(&mut self, workers: usize) -> Result<()> {
        while self.units() < workers && self.none_left.is_none() {
            let suspects = self.shards.values().flat_map(|shard| &shard.objects);
            if suspects.filter(|object| object.is_waiting() && object.is_suspect()).count() > 0 {
                return Ok(());
            }
            self.claim_one()?;
        }
        Ok(())
    }

    fn claim_one(&mut self) -> Result<()> {
        let open: BTreeSet<u32> = self.shards.keys().copied().collect();
        let Survey { folder, plan, config, .. } = self.survey;
        match open_next(folder, plan, config, &open)? {
            Opened::Shard(shard) => {
                self.held.remove(&shard.index);
                self.shards.insert(shard.index, shard);
            }
            Opened::NoneLeft { held } => {
                self.none_left = Some(Instant::now());
                // A shard whose claim has been touched since it was seen first has a living holder.
                let before = std::mem::take(&mut self.held);
                self.held =
                    held.into_iter().map(|(shard, time)| (shard, *before.get(&shard).unwrap_or(&time))).collect();
            }
        }
        Ok(())
    }

    /// Whether this job has nothing more to do. Shards of other jobs are waited for until their claims are seen to be
    /// alive, or are stale and can be taken over: so a job that follows a killed one leaves nothing undone.
    fn nothing_left(&mut self) -> Result<bool> {
        if !self.shards.is_empty() || self.ranks.iter().any(|rank| !rank.leases.is_empty()) {
            return Ok(false);
        }
        let Some(looked) = self.none_left else { return Ok(false) };
        if self.held.is_empty() {
            return Ok(true);
        }
        let alive = |(&shard, &seen): (&u32, &SystemTime)| -> bool {
            let claims = Folder::attempts(&self.survey.folder.claims(), "claim").unwrap_or_default();
            let last = claims.get(&shard).and_then(|attempts| attempts.last());
            let touched = last.and_then(|&attempt| {
                std::fs::metadata(self.survey.folder.claim(shard, attempt)).and_then(|data| data.modified()).ok()
            });
            touched.is_some_and(|touched| touched > seen)
        };
        let pause = (self.survey.config.run.claim_timeout / 20.0).clamp(0.1, 30.0);
        if looked.elapsed().as_secs_f64() < pause {
            return Ok(false);
        }
        if self.held.iter().all(alive) {
            return Ok(true);
        }
        self.none_left = None;
        Ok(false)
    }

    fn publish_done(&mut self) -> Result<()> {
        let done: Vec<u32> = self.shards.iter().filter(|(_, shard)| shard.is_done()).map(|(&index, _)| index).collect();
        for index in done {
            let Some(shard) = self.shards.remove(&index) else { continue };
            let Survey { comm, folder, plan, config, prior, writer } = self.survey;
            let context = ShardContext { plan, config, prior, shard: index };
            let hosts = self.ranks.iter().filter(|rank| rank.ready).map(|rank| rank.host.clone()).collect();
            match shard.publish(folder, &context, writer, &hosts, comm.size() as u32)? {
                Some(receipt) => {
                    self.progress.publish(receipt.objects, receipt.failed);
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
        if self.last_look.elapsed() >= beat_interval(timeout) {
            self.last_look = Instant::now();
            let work = self.worker.pulse.work();
            self.hear(0, ToLeader::Beat { work })?;
            self.watch(timeout);
            let (ended, failed) =
                self.shards.values().map(|shard| shard.ended()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            self.progress.show(ended, failed);
        }
        if self.last_sync.elapsed().as_secs_f64() >= run.journal_interval {
            self.last_sync = Instant::now();
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
            if rank.ready && rank.heard.elapsed() > timeout {
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

/// How often a rank says that it lives.
pub fn beat_interval(hang_timeout: Duration) -> Duration {
    (hang_timeout / 10).min(Duration::from_secs(1))
}

/// Ends the job because this rank's worker hangs.
pub fn hung(comm: &dyn Comm, object: &str, silent: Duration) -> ! {
    tracing::error!(
        "rank {} on {}, device {}: no step for {:.0} s, on object {object}: aborting (run again to go on)",
        comm.rank(),
        crate::cluster::host(),
        comm.local_rank(),
        silent.as_secs_f64()
    );
    comm.abort(RESUMABLE)
}

/// An error of the leader, as the exit code of the whole job.
pub fn abort_with(comm: &dyn Comm, error: &Error) -> ! {
    eprintln!("error: {error}");
    comm.abort(error.exit_code())
}
