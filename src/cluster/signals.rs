//! Signals that ask for a graceful stop: USR1 (which mpirun and srun forward), TERM, and INT (a second INT kills).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::{Error, Result};

/// Exit status of a process that a second interrupt ended.
const INTERRUPTED: i32 = 130;

/// A flag that is raised when this process is asked to stop.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let fault = |error: std::io::Error| Error::internal(format!("cannot watch for signals: {error}"));
    // Registered before the flag's own handler, so that the first interrupt finds it down.
    signal_hook::flag::register_conditional_shutdown(SIGINT, INTERRUPTED, flag.clone()).map_err(fault)?;
    for signal in [SIGUSR1, SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, flag.clone()).map_err(fault)?;
    }
    Ok(flag)
}
