//! Which worker gets what: the leader's choices of leases and of shards to claim. What it chooses moves no bits.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use serde_json::json;

use super::folder::Folder;
use super::leader::{Answer, Held, Leader, Rank, Survey};
use super::lease::ToWorker;
use super::next_shard::{Opened, open_next};
use super::shard::OpenShard;
use crate::Result;

/// Leases that a worker holds at most: the one it works on, and the next, so that it never waits.
const MAX_LEASES: usize = 2;

impl Leader<'_> {
    /// Gives leases to workers that have room, the emptiest first.
    pub(super) fn assign(&mut self) -> Result<()> {
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
            let Some((shard, place)) = self.choose(workers) else {
                return if load == 0 { self.ask_back() } else { Ok(()) };
            };
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

    /// A rank is idle and nothing waits: the rank with the largest lease is asked for what it has not done of it. One at a
    /// time, since what one gives back may be enough for all.
    fn ask_back(&mut self) -> Result<()> {
        if self.ranks.iter().any(|rank| rank.asked == Some(Answer::Open)) {
            return Ok(());
        }
        let size = |rank: &Rank| rank.leases.front().filter(|_| rank.asked.is_none()).map_or(0, |held| held.node.level);
        let largest = (0..self.ranks.len()).max_by_key(|&rank| size(&self.ranks[rank]));
        let Some(rank) = largest.filter(|&rank| size(&self.ranks[rank]) > 0) else { return Ok(()) };
        self.ranks[rank].asked = Some(Answer::Open);
        self.tell(rank, ToWorker::Yield)
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
        self.say_busy()?;
        let open: BTreeSet<u32> = self.shards.keys().copied().collect();
        let Survey { folder, plan, config, .. } = self.survey;
        match open_next(folder, plan, config, &open)? {
            Opened::Shard(shard) => {
                self.held.remove(&shard.index);
                self.survey.events.write("claimed", json!({ "shard": shard.index, "attempt": shard.attempt() }));
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
    pub(super) fn nothing_left(&mut self) -> Result<bool> {
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
}
