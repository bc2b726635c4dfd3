//! What asks for a graceful stop: the signals USR1 (which mpirun and srun forward), TERM, and INT (a second INT kills); and the
//! end of the job's time, where Slurm or the config tells it.

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

/// Raises the flag before the time of the Slurm job is over, if this process is in one that has an end: by
/// SLURM_JOB_END_TIME, or where that is not set by `squeue`, which is asked again when the time seems to be over, since an
/// operator may have given more. For one rank of a job where it can tell the others later; where it cannot, see `time_to_work`.
pub fn stop_before_the_end(flag: &Arc<AtomicBool>) {
    if let Some(left) = told_time() {
        stop_after(flag, left);
        return;
    }
    let Ok(job) = std::env::var("SLURM_JOB_ID") else { return };
    let flag = flag.clone();
    std::thread::spawn(move || {
        let Some(mut left) = time_left(&job).filter(|left| !left.is_zero()) else { return };
        let margin = MARGIN.min(left / 10);
        let (left_now, early) = (left.as_secs(), margin.as_secs());
        tracing::info!(
            "the job's time is over, by squeue, in {left_now} s: it stops {early} s before, if not told so earlier"
        );
        loop {
            std::thread::sleep(left.saturating_sub(margin));
            // Nobody answers any more: the time that was told counts.
            left = time_left(&job).unwrap_or_default();
            // squeue counts whole seconds.
            if left <= margin + Duration::from_secs(1) {
                flag.store(true, Ordering::SeqCst);
                return;
            }
        }
    });
}

/// How long this process should work by what Slurm tells, asked once, `None` where it tells nothing: for rank 0, which hands it
/// on to ranks that hear nothing more of each other. Slurm's controller is not to be asked by hundreds.
pub fn time_to_work() -> Option<Duration> {
    told_time().or_else(|| {
        let left = time_left(&std::env::var("SLURM_JOB_ID").ok()?).filter(|left| !left.is_zero())?;
        Some(left - MARGIN.min(left / 10))
    })
}

/// By SLURM_JOB_END_TIME.
fn told_time() -> Option<Duration> {
    let end: u64 = std::env::var("SLURM_JOB_END_TIME").ok()?.trim().parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    working_time(Duration::from_secs(end), now)
}

/// Raises the flag after a time.
pub fn stop_after(flag: &Arc<AtomicBool>, time: Duration) {
    let flag = flag.clone();
    std::thread::spawn(move || {
        std::thread::sleep(time);
        flag.store(true, Ordering::SeqCst);
    });
}

/// How long to work before the end; `None` for an end that is past, which is another job's (the environment was inherited).
fn working_time(end: Duration, now: Duration) -> Option<Duration> {
    let left = end.checked_sub(now).filter(|left| !left.is_zero())?;
    Some(left - MARGIN.min(left / 10))
}

/// The time that a job has left by `squeue`; `None` if there is no squeue, no such job, or no limit.
fn time_left(job: &str) -> Option<Duration> {
    let output = std::process::Command::new("squeue").args(["-h", "-j", job, "-o", "%L"]).output().ok()?;
    parse_time(String::from_utf8_lossy(&output.stdout).lines().next()?)
}

/// Slurm's `[days-]hours:minutes:seconds`, or `minutes:seconds`; `None` for its words (UNLIMITED, INVALID).
fn parse_time(text: &str) -> Option<Duration> {
    let (days, clock) = text.trim().split_once('-').unwrap_or(("0", text.trim()));
    let parts = clock.split(':').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>()?;
    let (2 | 3) = parts.len() else { return None };
    let seconds = parts.iter().fold(0, |sum, part| sum * 60 + part);
    Some(Duration::from_secs(days.parse::<u64>().ok()? * 86_400 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_slurm_are_read() {
        let seconds = |text| parse_time(text).map(|time| time.as_secs());
        assert_eq!(
            (seconds("9:59"), seconds(" 19:58:01\n"), seconds("2-00:00:10")),
            (Some(599), Some(71_881), Some(172_810))
        );
        for text in ["UNLIMITED", "INVALID", "", "17", "a-1:00:00", "-1:00"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn work_ends_before_the_job_does() {
        let time =
            |end, now| working_time(Duration::from_secs(end), Duration::from_secs(now)).map(|time| time.as_secs());
        assert_eq!(time(72_000, 0), Some(71_700));
        assert_eq!(time(1_100, 100), Some(900));
        assert_eq!((time(100, 100), time(99, 100)), (None, None));
    }
}
