//! Signs of life between ranks, and the end of a job in which one is missing. A job that is ended so can be run again: it
//! exits as resumable.

use std::time::{Duration, Instant};

use super::leader::Leader;
use super::lease::ToWorker;
use crate::cluster::Comm;
use crate::error::exit::RESUMABLE;
use crate::{Error, Result};

/// A leader that works on files is waited for this many times the hang timeout. Ranks beat from a loop that touches no
/// file, but the leader's own loop recovers journals, flushes, and writes products: minutes for a shard of large images
/// with many draws, or while a file server is being replaced. A limit that publishing exceeds would never let a survey
/// end. Since a job that was ended wrongly costs a restart and at most the journal's interval, no more than this.
const BUSY: u32 = 4;

impl Leader<'_> {
    /// Tells the other ranks when they will hear of the leader again at the latest.
    pub(super) fn say_alive(&self, limit: Duration) -> Result<()> {
        let word = ToWorker::Alive { seconds: limit.as_secs_f64() };
        (1..self.ranks.len()).try_for_each(|rank| self.tell(rank, word.clone()))
    }

    /// To be called before work on files that may take long.
    pub(super) fn say_busy(&mut self) -> Result<()> {
        let timeout = Duration::from_secs_f64(self.survey.config.run.hang_timeout);
        if self.busy.is_none_or(|told| told.elapsed() >= beat_interval(timeout)) {
            self.busy = Some(Instant::now());
            self.say_alive(leader_patience(timeout))?;
        }
        Ok(())
    }
}

/// How often a rank says that it lives.
pub fn beat_interval(hang_timeout: Duration) -> Duration {
    (hang_timeout / 10).min(Duration::from_secs(1))
}

/// How long other ranks wait for a word of a leader that works on files, or that has said nothing yet.
pub fn leader_patience(hang_timeout: Duration) -> Duration {
    hang_timeout.saturating_mul(BUSY)
}

/// Ends the job because this rank's worker hangs.
pub fn hung(comm: &dyn Comm, object: &str, silent: Duration) -> ! {
    tracing::error!(
        "rank {} on {}, device {}: no step for {:.0} s, on object {object}: aborting (run again to go on; where steps \
         take so long, raise `run.hang_timeout`)",
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
