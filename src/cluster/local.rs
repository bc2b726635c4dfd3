//! Ranks as threads of one process: the same messages without MPI, for tests.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Barrier};

use super::Comm;
use crate::{Error, Result};

/// One rank of `ranks`.
pub struct Local {
    rank: usize,
    inbox: Receiver<(usize, Vec<u8>)>,
    shared_inbox: Receiver<Vec<u8>>,
    peers: Vec<Sender<(usize, Vec<u8>)>>,
    shared_peers: Vec<Sender<Vec<u8>>>,
    barrier: Arc<Barrier>,
}

/// Makes the ranks of a job; each goes to its own thread.
pub fn ranks(size: usize) -> Vec<Local> {
    let (peers, inboxes): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
    let (shared_peers, shared): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
    let barrier = Arc::new(Barrier::new(size));
    let both = inboxes.into_iter().zip(shared).enumerate();
    both.map(|(rank, (inbox, shared_inbox))| Local {
        rank,
        inbox,
        shared_inbox,
        peers: peers.clone(),
        shared_peers: shared_peers.clone(),
        barrier: barrier.clone(),
    })
    .collect()
}

impl Comm for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.peers.len()
    }

    fn local_rank(&self) -> usize {
        self.rank
    }

    fn local_size(&self) -> usize {
        self.size()
    }

    fn send(&self, to: usize, message: Vec<u8>) -> Result<()> {
        let peer = self.peers.get(to).ok_or_else(|| Error::internal(format!("there is no rank {to}")))?;
        peer.send((self.rank, message)).map_err(|_| Error::internal(format!("rank {to} has gone")))
    }

    fn receive(&self) -> Result<Option<(usize, Vec<u8>)>> {
        match self.inbox.try_recv() {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Error::internal("all other ranks have gone")),
        }
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if self.rank == 0 {
            for peer in &self.shared_peers[1..] {
                peer.send(bytes.clone()).map_err(|_| Error::internal("a rank has gone"))?;
            }
            return Ok(bytes);
        }
        self.shared_inbox.recv().map_err(|_| Error::internal("rank 0 has gone"))
    }

    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.barrier.wait();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_broadcasts_reach_everyone() {
        let threads: Vec<_> = ranks(3)
            .into_iter()
            .map(|comm| {
                std::thread::spawn(move || {
                    let told = comm.broadcast(vec![comm.rank() as u8 + 9]).unwrap();
                    assert_eq!(told, [9]);
                    for count in 0..10 {
                        comm.send(0, vec![count]).unwrap();
                    }
                    let mut next = [0u8; 3];
                    while comm.rank() == 0 && next != [10; 3] {
                        if let Some((from, message)) = comm.receive().unwrap() {
                            assert_eq!(message, [next[from]]);
                            next[from] += 1;
                        }
                    }
                    Box::new(comm).finish().unwrap();
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
