//! A job of one rank, without MPI.

use super::Comm;
use crate::{Error, Result};

/// The only rank.
pub struct Solo;

impl Comm for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn local_size(&self) -> usize {
        1
    }

    fn send(&self, to: usize, _message: Vec<u8>) -> Result<()> {
        Err(Error::internal(format!("message to rank {to} of a job of one rank")))
    }

    fn receive(&self) -> Result<Option<(usize, Vec<u8>)>> {
        Ok(None)
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        Ok(bytes)
    }

    fn abort(&self, code: i32) -> ! {
        // Without exit handlers: the worker thread may be inside a library, holding what they would wait for.
        // SAFETY: ends the process; nothing of it is used afterwards.
        unsafe { libc::_exit(code) }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
