//! Ranks as MPI processes. MPI is called from the main thread only (`MPI_THREAD_FUNNELED`).

use std::cell::{Cell, RefCell};
use std::time::Duration;

use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::{MatchedReceiveVec, Source};
use mpi::request::{Request, StaticScope};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::{CommunicatorCollectives, Destination, Root};

use super::Comm;
use super::deadline::Deadline;
use crate::{Error, Result};

/// Bytes in one broadcast: MPI counts in C integers, so long buffers go in pieces.
const BROADCAST_PIECE: usize = 256 << 20;
/// How long the launcher may take to start all ranks.
const START: Duration = Duration::from_secs(3600);
/// Pause between two looks at a barrier.
const BARRIER_PAUSE: Duration = Duration::from_millis(1);

/// This process in the MPI world.
pub struct Mpi {
    sends: RefCell<Vec<Pending>>,
    world: SimpleCommunicator,
    local_rank: usize,
    local_size: usize,
    /// `None`: ranks wait for each other for ever.
    patience: Cell<Option<Duration>>,
    // Last, because dropping it finalizes MPI.
    _universe: Universe,
}

/// A message on its way. MPI reads the buffer until the request completes; it is then given back to the allocator.
struct Pending {
    request: Request<'static, [u8], StaticScope>,
    buffer: *mut [u8],
}

impl Mpi {
    /// Initialises MPI; once per process.
    pub fn start() -> Result<Mpi> {
        let _deadline = Deadline::new("all ranks to start", START);
        let (universe, threading) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| Error::internal("MPI has been initialised before"))?;
        if threading < Threading::Funneled {
            return Err(Error::usage(format!("this MPI library gives threads only {threading:?}, Funneled is needed")));
        }
        let world = universe.world();
        let node = world.split_shared(world.rank());
        let (local_rank, local_size) = (node.rank() as usize, node.size() as usize);
        let patience = Cell::new(None);
        Ok(Mpi { sends: RefCell::default(), world, local_rank, local_size, patience, _universe: universe })
    }

    fn deadline(&self, what: &'static str) -> Option<Deadline> {
        self.patience.get().map(|patience| Deadline::new(what, patience))
    }

    /// Frees the buffers of messages that have left.
    fn progress(&self) {
        let mut sends = self.sends.borrow_mut();
        let waiting = std::mem::take(&mut *sends);
        for Pending { request, buffer } in waiting {
            match request.test() {
                // SAFETY: `buffer` came from Box::into_raw in `send`, and MPI has finished reading it.
                Ok(_) => drop(unsafe { Box::from_raw(buffer) }),
                Err(request) => sends.push(Pending { request, buffer }),
            }
        }
    }
}

impl Comm for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn local_size(&self) -> usize {
        self.local_size
    }

    fn send(&self, to: usize, message: Vec<u8>) -> Result<()> {
        if to >= self.size() {
            return Err(Error::internal(format!("there is no rank {to}")));
        }
        if i32::try_from(message.len()).is_err() {
            return Err(Error::internal(format!("a message of {} bytes is too long for MPI", message.len())));
        }
        let buffer = Box::into_raw(message.into_boxed_slice());
        // SAFETY: the buffer is freed only in `progress`, after the request has completed (or never).
        let bytes: &'static [u8] = unsafe { &*buffer };
        let request = self.world.process_at_rank(to as i32).immediate_send(StaticScope, bytes);
        self.sends.borrow_mut().push(Pending { request, buffer });
        self.progress();
        Ok(())
    }

    fn receive(&self) -> Result<Option<(usize, Vec<u8>)>> {
        self.progress();
        let Some(matched) = self.world.any_process().immediate_matched_probe() else { return Ok(None) };
        let (message, status) = matched.matched_receive_vec::<u8>();
        Ok(Some((status.source_rank() as usize, message)))
    }

    fn broadcast(&self, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        let _deadline = self.deadline("all ranks to take what the leader sends");
        let root = self.world.process_at_rank(0);
        let mut length = bytes.len() as u64;
        root.broadcast_into(&mut length);
        bytes.resize(length as usize, 0);
        for piece in bytes.chunks_mut(BROADCAST_PIECE) {
            root.broadcast_into(piece);
        }
        Ok(bytes)
    }

    fn set_patience(&self, patience: Duration) {
        self.patience.set(Some(patience));
    }

    fn abort(&self, code: i32) -> ! {
        self.world.abort(code)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let _deadline = self.deadline("all ranks to leave");
        // Messages that nobody waits for any more (a last heartbeat) are taken in here, so that their senders are free.
        let mut barrier = self.world.immediate_barrier();
        loop {
            while self.receive()?.is_some() {}
            match barrier.test() {
                Ok(_) => break,
                Err(pending) => barrier = pending,
            }
            std::thread::sleep(BARRIER_PAUSE);
        }
        while !self.sends.borrow().is_empty() {
            while self.receive()?.is_some() {}
            std::thread::sleep(BARRIER_PAUSE);
        }
        Ok(())
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // Only after an error are there messages left; their buffers are leaked, because MPI may still read them.
        for pending in self.sends.take() {
            std::mem::forget(pending.request);
        }
        // MPI's own end comes next, in which ranks wait for each other once more: the limit outlives this.
        std::mem::forget(self.deadline("all ranks to end"));
    }
}
