//! Ranks and messages: the only place that names MPI. A rank's main thread alone uses its `Comm`.

use std::time::Duration;

use crate::{Error, Result};

pub mod about;
mod alone;
mod deadline;
pub mod local;
mod mpi;
pub mod signals;

pub use alone::Solo;

/// Messages between the ranks of one job. Nothing here blocks, except `broadcast`.
pub trait Comm {
    /// This process, from 0. Rank 0 leads.
    fn rank(&self) -> usize;
    /// The number of ranks.
    fn size(&self) -> usize;
    /// This process among those of the same node, from 0: it names the device.
    fn local_rank(&self) -> usize;
    /// The number of ranks on this node.
    fn local_size(&self) -> usize;
    /// Starts sending. Messages between two ranks arrive in the order in which they were sent.
    fn send(&self, to: usize, message: Vec<u8>) -> Result<()>;
    /// A message that has arrived, with its sender, or `None`.
    fn receive(&self) -> Result<Option<(usize, Vec<u8>)>>;
    /// Gives every rank the bytes of rank 0. Every rank must call it.
    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>>;
    /// How long `broadcast` and `finish` may wait for the other ranks from now on: for ever unless told, since only the
    /// caller knows how long the others' work takes. A job whose ranks do not come in this time ends, resumable. Without
    /// effect where ranks cannot die alone.
    fn set_patience(&self, _patience: Duration) {}
    /// Ends every rank at once with this exit code.
    fn abort(&self, code: i32) -> !;
    /// Waits until every rank is here and what was sent has arrived, and leaves.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Joins the job that this process was launched in: MPI under `mpirun` or `srun --mpi=pmix`, alone without a launcher.
pub fn join() -> Result<Box<dyn Comm>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let launched =
        ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"].iter().any(|name| std::env::var_os(name).is_some());
    // `srun` tells how many processes it started even when it gives them no way to find each other.
    let step = number("SLURM_STEP_NUM_TASKS").unwrap_or(1);
    let expected = number("OMPI_COMM_WORLD_SIZE").unwrap_or(step);
    let comm: Box<dyn Comm> = if launched { Box::new(mpi::Mpi::start()?) } else { Box::new(Solo) };
    if comm.size() == 1 && expected > 1 {
        comm.finish()?;
        return Err(Error::usage(format!(
            "{expected} processes were started, but each of them is alone in its MPI world: start them with \
             `srun --mpi=pmix` (`srun --mpi=list` tells what this machine has), or with the mpirun of the MPI library \
             that this program was built with"
        )));
    }
    Ok(comm)
}

/// Makes a panic on any thread end the process. A rank that unwinds would leave the others waiting for ever; a rank that
/// aborts makes the launcher end them.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// This machine's name.
pub fn host() -> String {
    let mut buffer = [0u8; 256];
    // SAFETY: the pointer and the length are those of a buffer that lives through the call.
    let status = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len()) };
    let end = buffer.iter().position(|&byte| byte == 0).unwrap_or(buffer.len());
    if status == 0 { String::from_utf8_lossy(&buffer[..end]).into_owned() } else { "unknown".into() }
}
