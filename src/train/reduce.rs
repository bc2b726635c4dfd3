//! The sum of the micro-batches' gradients over the ranks. It is taken along a fixed binary tree over the micro-batches, by
//! our own additions, so that its bits depend on neither the number of ranks nor the order in which messages arrive.
//!
//! Each rank adds up what it can of its own, consecutive micro-batches. The vector is cut into buckets; each bucket has an
//! owner, who gets the other ranks' parts of it, adds them along the tree, and sends the sum to all. The decoder's gradient is
//! exchanged while the backward pass goes through the encoder (`backward.rs`): MPI belongs to the main thread, so the pass
//! has a thread of its own meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::mpsc::{Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::cluster::Comm;
use crate::device::set_threads;
use crate::error::exit::RESUMABLE;
use crate::posterior::tree::TreeNode;
use crate::train::config::OptimizerSection;
use crate::{Error, Result};

/// Numbers in a bucket of several ranks: 4 MiB.
const BUCKET: i64 = 1 << 20;
/// Bytes before the numbers of a message: exchange, kind, bucket, level, index.
const HEADER: usize = 20;
/// Messages of these kinds: a part of a bucket for its owner, and the sum of a bucket from its owner.
const PART: u32 = 0;
const SUM: u32 = 1;
/// Looks for a message before the processor is given to others between two looks.
const EAGER: u32 = 200;
const PAUSE: Duration = Duration::from_micros(200);

/// Sums of consecutive micro-batches.
#[derive(Debug, Default)]
pub struct Partial {
    pub nodes: Vec<(TreeNode, Tensor)>,
}

impl Partial {
    /// Adds the vector of the next micro-batch; neighbours in the tree are added at once.
    pub fn push(&mut self, micro_batch: u32, vector: Tensor) -> Result<()> {
        let (mut node, mut sum) = (TreeNode::leaf(micro_batch), vector);
        while let Some((left, _)) = self.nodes.last() {
            if left.level != node.level || left.index + 1 != node.index || node.index % 2 == 0 {
                break;
            }
            if let Some((_, value)) = self.nodes.pop() {
                sum = value.f_add(&sum)?;
            }
            node = node.parent();
        }
        self.nodes.push((node, sum));
        Ok(())
    }
}

/// The nodes that `Partial` has in the end for these micro-batches.
fn nodes_of(range: Range<u32>) -> Vec<TreeNode> {
    let mut nodes: Vec<TreeNode> = Vec::new();
    for micro_batch in range {
        let mut node = TreeNode::leaf(micro_batch);
        while nodes
            .last()
            .is_some_and(|left| left.level == node.level && left.index + 1 == node.index && node.index % 2 == 1)
        {
            nodes.pop();
            node = node.parent();
        }
        nodes.push(node);
    }
    nodes
}

/// The micro-batches of a rank.
pub fn share(rank: usize, ranks: usize, micro_batches: usize) -> Range<usize> {
    rank * micro_batches / ranks..(rank + 1) * micro_batches / ranks
}

/// The sum below `node` of what was found, taken along the tree over `leaves` micro-batches.
fn total(node: TreeNode, leaves: u32, found: &mut BTreeMap<TreeNode, Tensor>) -> Result<Tensor> {
    if let Some(value) = found.remove(&node) {
        return Ok(value);
    }
    let missing = || Error::internal(format!("the gradient of micro-batch {} is missing", node.index));
    let (left, right) = node.children().ok_or_else(missing)?;
    let sum = total(left, leaves, found)?;
    if right.blocks(leaves).is_empty() {
        return Ok(sum);
    }
    Ok(sum.f_add(&total(right, leaves, found)?)?)
}

/// Adds over the ranks of a job. A sum is begun and ended; several can be under way, and end in the order in which they were
/// begun, the same on every rank.
pub struct Reducer<'a> {
    comm: &'a dyn Comm,
    /// Images in a micro-batch, and micro-batches in the first step's batch.
    micro: usize,
    least: usize,
    /// How long the other ranks may be silent.
    patience: Duration,
    /// The number of the next exchange.
    next: u32,
    under_way: VecDeque<Exchange>,
    /// Messages of exchanges that are not begun here yet, from ranks that are ahead.
    early: Vec<Vec<u8>>,
    waited: Duration,
    /// Does what is to be done meanwhile: one thread for all steps, since libtorch keeps memory for each thread.
    helper: Option<Sender<Job>>,
}

/// What a helper does.
type Job = Box<dyn FnOnce() + Send>;

impl<'a> Reducer<'a> {
    /// For the ranks of `comm`. More ranks than micro-batches are a usage error.
    pub fn new(comm: &'a dyn Comm, optimizer: &OptimizerSection, patience: Duration) -> Result<Self> {
        let least = optimizer.least_micro_batches();
        if comm.size() > least {
            return Err(Error::usage(format!(
                "{} ranks, but a batch has {least} micro-batches: start at most so many ranks, or make \
                 optimizer.micro_batch smaller (which changes the rounding of the sum)",
                comm.size()
            )));
        }
        Ok(Reducer {
            comm,
            micro: optimizer.micro_batch(),
            least,
            patience,
            next: 0,
            under_way: VecDeque::new(),
            early: Vec::new(),
            waited: Duration::ZERO,
            helper: None,
        })
    }

    /// Time spent waiting for other ranks so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Sends this rank's part of a sum over all micro-batches of a batch of so many images. Every rank must begin and end the
    /// same sums in the same order.
    pub fn begin(&mut self, own: Partial, batch: usize) -> Result<()> {
        let (comm, ranks) = (self.comm, self.comm.size());
        let micro_batches = (batch / self.micro) as u32;
        debug_assert!(micro_batches as usize >= self.least);
        let mut mine = BTreeMap::new();
        for (node, value) in own.nodes {
            mine.insert(node, value.f_to_device(Device::Cpu)?.f_contiguous()?);
        }
        let length = mine.values().next().map_or(0, |value| value.numel() as i64);
        let mut exchange = Exchange::new(self.next, ranks, micro_batches, length);
        self.next = self.next.wrapping_add(1);
        for bucket in 0..exchange.sums.len() {
            let owner = bucket % ranks;
            for (node, value) in &mine {
                let part = exchange.slice(value, bucket)?;
                if owner == comm.rank() {
                    exchange.parts[bucket].insert(*node, part);
                } else {
                    let head = [exchange.number, PART, bucket as u32, node.level, node.index];
                    comm.send(owner, message(head, &part)?)?;
                }
            }
        }
        for bucket in (comm.rank()..exchange.sums.len()).step_by(ranks) {
            exchange.close(comm, bucket)?;
        }
        self.under_way.push_back(exchange);
        for early in std::mem::take(&mut self.early) {
            self.take(early)?;
        }
        Ok(())
    }

    /// Takes in one message, if one has arrived.
    fn poll(&mut self) -> Result<bool> {
        let Some((_, bytes)) = self.comm.receive()? else { return Ok(false) };
        self.take(bytes)?;
        Ok(true)
    }

    /// Does `work` on another thread, with as many threads for its operations as this one has, while what other ranks send is taken
    /// in, added up and sent on. Alone, there is nothing to take in.
    pub fn during<T: Send + 'static>(&mut self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        if self.comm.size() == 1 {
            return work();
        }
        let (give, done) = channel();
        let job: Job = Box::new(move || {
            let _ = give.send(work());
        });
        let helper = self.helper.get_or_insert_with(helper);
        let lost = || Error::internal("a thread of the training has panicked");
        helper.send(job).map_err(|_| lost())?;
        loop {
            match done.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Disconnected) => return Err(lost()),
                Err(TryRecvError::Empty) if self.poll()? => {}
                Err(TryRecvError::Empty) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// The sum that was begun first of those under way, on the CPU.
    pub fn end(&mut self) -> Result<Tensor> {
        let (began, mut heard, mut looks) = (Instant::now(), Instant::now(), 0);
        while self.under_way.front().is_some_and(|exchange| exchange.open > 0) {
            if self.poll()? {
                (looks, heard) = (0, Instant::now());
            } else if looks < EAGER {
                looks += 1;
            } else if heard.elapsed() < self.patience {
                std::thread::sleep(PAUSE);
            } else {
                let seconds = self.patience.as_secs();
                eprintln!(
                    "error: {}: no gradient from another rank for {seconds} s; run again to go on",
                    crate::cluster::host()
                );
                self.comm.abort(RESUMABLE);
            }
        }
        self.waited += began.elapsed();
        let done = self.under_way.pop_front().ok_or_else(|| Error::internal("no sum of gradients is under way"))?;
        let mut sums: Vec<Tensor> = done.sums.into_iter().flatten().collect();
        match sums.len() {
            1 => Ok(sums.remove(0)),
            _ => Ok(Tensor::f_cat(&sums, 0)?),
        }
    }

    /// Takes in a message; one of an exchange to come is put aside.
    fn take(&mut self, bytes: Vec<u8>) -> Result<()> {
        let broken = || Error::internal("a rank has sent a message that is no gradient: do all run the same program?");
        let (head, body) = bytes.split_at_checked(HEADER).ok_or_else(broken)?;
        let mut words = head.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let mut word = || words.next().ok_or_else(broken);
        let (number, kind, bucket, level, index) = (word()?, word()?, word()? as usize, word()?, word()?);
        // Numbers wrap around: those of the nearer half are to come.
        if number.wrapping_sub(self.next) < u32::MAX / 2 {
            self.early.push(bytes);
            return Ok(());
        }
        let exchange = self.under_way.iter_mut().find(|exchange| exchange.number == number).ok_or_else(broken)?;
        if bucket >= exchange.sums.len() || body.len() as i64 != 4 * exchange.length_of(bucket) {
            return Err(broken());
        }
        let value = Tensor::f_from_data_size(body, &[exchange.length_of(bucket)], Kind::Float)?;
        if kind == SUM {
            exchange.open -= usize::from(exchange.sums[bucket].replace(value).is_none());
            return Ok(());
        }
        exchange.parts[bucket].insert(TreeNode { level, index }, value);
        exchange.close(self.comm, bucket)
    }
}

/// Starts a thread that does one job after the other, with as many threads for its operations as this one has, until its sender is
/// dropped.
fn helper() -> Sender<Job> {
    let threads = tch::get_num_threads() as u32;
    let (give, jobs) = channel::<Job>();
    std::thread::spawn(move || {
        if set_threads(threads).is_ok() {
            jobs.into_iter().for_each(|job| job());
        }
    });
    give
}

/// The buckets of one sum.
struct Exchange {
    number: u32,
    micro_batches: u32,
    length: i64,
    /// Numbers in a bucket. Alone, one holds them all.
    bucket: i64,
    /// The parts that an owner waits for.
    expected: usize,
    parts: Vec<BTreeMap<TreeNode, Tensor>>,
    sums: Vec<Option<Tensor>>,
    /// Buckets without a sum.
    open: usize,
}

impl Exchange {
    fn new(number: u32, ranks: usize, micro_batches: u32, length: i64) -> Self {
        let bucket = if ranks == 1 { length.max(1) } else { BUCKET };
        let buckets = ((length + bucket - 1) / bucket) as usize;
        let nodes = |rank| {
            let range = share(rank, ranks, micro_batches as usize);
            nodes_of(range.start as u32..range.end as u32).len()
        };
        Exchange {
            number,
            micro_batches,
            length,
            bucket,
            expected: (0..ranks).map(nodes).sum(),
            parts: (0..buckets).map(|_| BTreeMap::new()).collect(),
            sums: (0..buckets).map(|_| None).collect(),
            open: buckets,
        }
    }

    fn length_of(&self, bucket: usize) -> i64 {
        self.bucket.min(self.length - bucket as i64 * self.bucket)
    }

    fn slice(&self, value: &Tensor, bucket: usize) -> Result<Tensor> {
        Ok(value.f_narrow(0, bucket as i64 * self.bucket, self.length_of(bucket))?)
    }

    /// Adds up a bucket of ours once all its parts are here, and tells the others.
    fn close(&mut self, comm: &dyn Comm, bucket: usize) -> Result<()> {
        if self.parts[bucket].len() < self.expected {
            return Ok(());
        }
        let sum = total(TreeNode::root(self.micro_batches), self.micro_batches, &mut self.parts[bucket])?;
        for rank in (0..comm.size()).filter(|&rank| rank != comm.rank()) {
            comm.send(rank, message([self.number, SUM, bucket as u32, 0, 0], &sum)?)?;
        }
        self.open -= usize::from(self.sums[bucket].replace(sum).is_none());
        Ok(())
    }
}

fn message(head: [u32; 5], values: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0u8; HEADER + 4 * values.numel()];
    for (place, word) in bytes.chunks_exact_mut(4).zip(head) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    values.f_copy_data_u8(&mut bytes[HEADER..], values.numel())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
