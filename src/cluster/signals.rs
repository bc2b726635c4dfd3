//! What asks for a graceful stop: the signals USR1 (which mpirun and srun forward), TERM, and INT (a second INT kills); and the
//! end of the job's time, where Slurm tells it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::{Error, Result};

/// A job that gets no signal stops by itself so long before the end of its time, and after 9/10 of it at the latest. The batch
/// scripts' signal comes earlier.
const MARGIN: Duration = Duration::from_secs(300);

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

/// Raises the flag before the time of the Slurm job is over, if this process is in one that has an end.
pub fn stop_before_the_end(flag: &Arc<AtomicBool>) {
    let end = std::env::var("SLURM_JOB_END_TIME").ok().and_then(|text| text.trim().parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Some(left) = end.and_then(|end: u64| working_time(Duration::from_secs(end), now)) {
        let flag = flag.clone();
        std::thread::spawn(move || {
            std::thread::sleep(left);
            flag.store(true, Ordering::SeqCst);
        });
    }
}

/// How long to work before the end; `None` for an end that is past, which is another job's (the environment was inherited).
fn working_time(end: Duration, now: Duration) -> Option<Duration> {
    let left = end.checked_sub(now).filter(|left| !left.is_zero())?;
    Some(left - MARGIN.min(left / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_before_the_job_does() {
        let time =
            |end, now| working_time(Duration::from_secs(end), Duration::from_secs(now)).map(|time| time.as_secs());
        assert_eq!(time(72_000, 0), Some(71_700));
        assert_eq!(time(1_100, 100), Some(900));
        assert_eq!((time(100, 100), time(99, 100)), (None, None));
    }
}
