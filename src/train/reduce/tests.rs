//! The sum over ranks, which are threads here.

use super::*;
use crate::cluster::local::{Local, ranks};
use crate::random::{Key, Purpose};
use std::sync::mpsc::{Sender, channel};

/// Three buckets, the last one short.
const LENGTH: i64 = 2 * BUCKET + 77;

/// Micro-batches of one image.
fn optimizer(micro_batches: usize) -> OptimizerSection {
    toml::from_str(&format!("steps = 3\nbatch = {micro_batches}\nmicro_batch = 1")).unwrap()
}

fn sums(count: usize, micro_batches: usize) -> Vec<Tensor> {
    let run = move |comm: Local| {
        let mut reducer = Reducer::new(&comm, &optimizer(micro_batches), Duration::from_secs(60)).unwrap();
        let mut found = Vec::new();
        for step in 0..3 {
            let mut own = Partial::default();
            for micro_batch in share(comm.rank(), comm.size(), micro_batches) {
                // Few random numbers, repeated: what matters is that sums in another order differ.
                let few = Key::new(1, "g", micro_batch as u32, Purpose::Evaluation, step).normal(1000);
                let repeats = LENGTH / 1000 + 1;
                let vector = Tensor::from_slice(&few).repeat([repeats]).narrow(0, 0, LENGTH).contiguous();
                own.push(micro_batch as u32, vector).unwrap();
            }
            reducer.begin(own, micro_batches).unwrap();
            // Two under way at once, but for the last.
            if step > 0 {
                found.push(reducer.end().unwrap());
            }
        }
        found.push(reducer.end().unwrap());
        assert!(reducer.end().is_err());
        found.remove(2)
    };
    let threads: Vec<_> = ranks(count).into_iter().map(|comm| std::thread::spawn(move || run(comm))).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn the_sum_has_the_same_bits_on_any_number_of_ranks() {
    for micro_batches in [4, 7] {
        let alone = sums(1, micro_batches).remove(0);
        for count in [2, 3, 4] {
            for sum in sums(count, micro_batches) {
                assert_eq!(sum, alone, "{count} ranks, {micro_batches} micro-batches");
            }
        }
    }
}

/// Ranks that tell when a message has arrived.
struct Watched {
    comm: Local,
    told: Sender<()>,
}

impl Comm for Watched {
    fn rank(&self) -> usize {
        self.comm.rank()
    }
    fn size(&self) -> usize {
        self.comm.size()
    }
    fn local_rank(&self) -> usize {
        self.comm.local_rank()
    }
    fn local_size(&self) -> usize {
        self.comm.local_size()
    }
    fn send(&self, to: usize, message: Vec<u8>) -> Result<()> {
        self.comm.send(to, message)
    }
    fn receive(&self) -> Result<Option<(usize, Vec<u8>)>> {
        let received = self.comm.receive()?;
        if received.is_some() {
            self.told.send(()).map_err(|_| Error::internal("the work has ended"))?;
        }
        Ok(received)
    }
    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        self.comm.broadcast(bytes)
    }
    fn abort(&self, code: i32) -> ! {
        self.comm.abort(code)
    }
    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// A rank whose work ends only when a sum that was begun before it has come in.
#[test]
fn a_sum_comes_in_while_work_is_done() {
    let run = |comm: Local| {
        let patience = Duration::from_secs(60);
        let (told, heard) = channel();
        let comm = Watched { comm, told };
        let mut reducer = Reducer::new(&comm, &optimizer(2), patience).unwrap();
        let mut own = Partial::default();
        own.push(comm.rank() as u32, Tensor::from_slice(&[1.0f32, comm.rank() as f32])).unwrap();
        reducer.begin(own, 2).unwrap();
        let work = move || Ok((heard.recv_timeout(patience).is_ok(), tch::get_num_threads()));
        let (came_in, threads) = reducer.during(work).unwrap();
        assert!(came_in && threads == tch::get_num_threads(), "{came_in} {threads}");
        assert_eq!(reducer.end().unwrap(), Tensor::from_slice(&[2.0f32, 1.0]));
    };
    let threads: Vec<_> = ranks(2).into_iter().map(|comm| std::thread::spawn(move || run(comm))).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// All work is done by one thread; when that has panicked, this and all further work is an error.
#[test]
fn a_panic_of_the_helper_is_an_error() {
    let run = |comm: Local| {
        let mut reducer = Reducer::new(&comm, &optimizer(2), Duration::from_secs(60)).unwrap();
        let mut thread = || reducer.during(|| Ok(std::thread::current().id())).unwrap();
        let first = thread();
        assert!(thread() == first && first != std::thread::current().id());
        for _ in 0..2 {
            let error = reducer.during(|| -> Result<()> { panic!("on purpose") }).unwrap_err().to_string();
            assert!(error.contains("has panicked"), "{error}");
        }
    };
    let threads: Vec<_> = ranks(2).into_iter().map(|comm| std::thread::spawn(move || run(comm))).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn more_ranks_than_micro_batches_are_refused() {
    let comm = ranks(3).remove(0);
    let error = Reducer::new(&comm, &optimizer(2), Duration::ZERO).err().unwrap();
    assert!(error.exit_code() == 2 && error.to_string().contains("3 ranks"), "{error}");
}
