//! A limit on what needs every rank at once. MPI's collectives and its end wait for ever for a rank that is frozen or on a
//! dead node, and MPI gives no way out of them: only leaving the process does, which makes the launcher end the others.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::error::exit::RESUMABLE;

/// Ends this process if it is not dropped in time.
pub struct Deadline {
    // Dropping it tells the thread that all is well.
    _met: Sender<()>,
}

impl Deadline {
    /// Starts to wait. `what` is being waited for, for the message; the process exits as one that can be run again.
    pub fn new(what: &'static str, within: Duration) -> Deadline {
        let (met, waiting) = channel::<()>();
        std::thread::spawn(move || {
            if waiting.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
                eprintln!(
                    "error: {}: waited {:.0} s for {what}: a rank is silent; run again to go on",
                    super::host(),
                    within.as_secs_f64()
                );
                // Without exit handlers: the main thread is inside MPI, holding what they would wait for.
                // SAFETY: ends the process; nothing of it is used afterwards.
                unsafe { libc::_exit(RESUMABLE) }
            }
        });
        Deadline { _met: met }
    }
}
