//! Work that ranks share without speaking to each other: each does its part, which it leaves in files, and rank 0 reports
//! once all have finished. The same command goes on after a stop, with any number of ranks.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::cli::RESUMABLE;
use crate::cluster::{self, Comm, signals};
use crate::evaluate::Outcome;
use crate::io::digest;
use crate::{Error, Result};

/// Between two looks for news of other ranks.
const PAUSE: Duration = Duration::from_millis(20);

/// Joins the other ranks, does `work`, which ends early when its flag is raised, and lets rank 0 `report` on what it gave.
/// Returns the exit code.
pub fn shared<T>(
    work: impl FnOnce(&dyn Comm, &AtomicBool) -> Result<(Outcome, T)>,
    report: impl FnOnce(T) -> Result<i32>,
) -> Result<i32> {
    let stop = signals::stop_flag()?;
    cluster::abort_on_panic();
    let comm = cluster::join()?;
    let outcome = stop_in_time(comm.as_ref(), &stop).and_then(|()| work(comm.as_ref(), &stop));
    let told = tell(comm.as_ref(), &outcome);
    // Before any return, because a rank that leaves without this makes the others wait.
    let done = match (comm.rank(), told) {
        (0, Ok(true)) => outcome.and_then(|(_, result)| report(result)),
        (0, Ok(false)) => outcome.map(|_| RESUMABLE),
        (_, Ok(_)) => outcome.map(|(ended, _)| if ended == Outcome::Finished { super::DONE } else { RESUMABLE }),
        (_, Err(error)) => outcome.and(Err(error)),
    };
    comm.finish()?;
    done
}

/// Raises the flag before the job's time is over, on every rank, as rank 0 has heard it.
fn stop_in_time(comm: &dyn Comm, stop: &Arc<AtomicBool>) -> Result<()> {
    let own = if comm.rank() == 0 { signals::time_to_work() } else { None };
    let told = comm.broadcast(own.map_or(Vec::new(), |time| time.as_secs().to_le_bytes().to_vec()))?;
    if let Ok(seconds) = told.try_into() {
        signals::stop_after(stop, Duration::from_secs(u64::from_le_bytes(seconds)));
    }
    Ok(())
}

/// The digest of this program: what another one made is not taken for this one's.
pub fn program() -> Result<String> {
    let path = std::env::current_exe()
        .map_err(|error| Error::internal(format!("cannot find the program's own file: {error}")))?;
    digest::file(&path)
}

/// Ranks tell rank 0 how they ended: the first byte is the kind, the rest an error's text. Rank 0 answers whether all are
/// finished.
fn tell<T>(comm: &dyn Comm, outcome: &Result<(Outcome, T)>) -> Result<bool> {
    let message = match outcome {
        Ok((Outcome::Finished, _)) => vec![0],
        Ok((Outcome::Stopped, _)) => vec![1],
        Err(error) => [vec![2], error.to_string().into_bytes()].concat(),
    };
    if comm.rank() != 0 {
        comm.send(0, message)?;
        return Ok(false);
    }
    let mut finished = message == [0];
    let mut failed = None;
    for _ in 1..comm.size() {
        let (rank, message) = loop {
            match comm.receive()? {
                Some(news) => break news,
                None => std::thread::sleep(PAUSE),
            }
        };
        finished &= message == [0];
        if message.first() == Some(&2) {
            failed = Some(format!("rank {rank}: {}", String::from_utf8_lossy(&message[1..])));
        }
    }
    match failed {
        Some(why) => Err(Error::internal(why)),
        None => Ok(finished),
    }
}
