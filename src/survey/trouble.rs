//! What the leader makes of ranks that warn and fail.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::leader::Leader;

/// Faults in a row, possibly the machine's own, after which a rank is not trusted with further objects.
const MAX_TROUBLES: u32 = 3;

impl Leader<'_> {
    /// Puts what this rank's own log has warned of into the event log.
    pub(super) fn tell_warnings(&self) {
        self.warnings.take().iter().for_each(|message| self.warned(0, message));
    }

    /// A rank's log has warned: said here once, and kept in the event log.
    pub(super) fn warned(&self, rank: usize, message: &str) {
        if rank > 0 {
            let host = &self.ranks[rank].host;
            // Kept by itself, where it has its rank.
            self.survey.events.write("warning", json!({ "rank": rank, "host": host, "message": message }));
            tracing::info!("rank {rank} on {host} warns: {message}");
        } else {
            self.survey.events.write("warning", json!({ "rank": rank, "message": message }));
        }
    }

    /// A rank had a fault that may be its machine's.
    pub(super) fn trouble(&mut self, rank: usize, reason: &str) {
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

    /// Ends the job with this message and exit code; the first one counts.
    pub(super) fn give_up(&mut self, message: String, code: i32) {
        if self.fatal.is_none() {
            self.fatal = Some((message, code));
        }
        self.stop.store(true, Ordering::SeqCst);
    }
}
