//! The sum of the micro-batches' gradients over the ranks. It is taken along a fixed binary tree over the micro-batches, by
//! our own additions, so that its bits depend on neither the number of ranks nor the order in which messages arrive.
//!
//! Each rank adds up what it can of its own, consecutive micro-batches. The vector is cut into buckets; each bucket has an
//! owner, who gets the other ranks' parts of it, adds them along the tree, and sends the sum to all. The exchange starts when
//! the backward pass has ended: it is not overlapped with it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use crate::cluster::Comm;
use crate::error::exit::RESUMABLE;
use crate::posterior::tree::TreeNode;
use crate::train::config::OptimizerSection;
use crate::{Error, Result};

/// Numbers in a bucket: 4 MiB.
const BUCKET: i64 = 1 << 20;
/// Bytes before the numbers of a message: step, kind, bucket, level, index.
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

/// Adds over the ranks of a job, step by step.
pub struct Reducer<'a> {
    comm: &'a dyn Comm,
    /// Images in a micro-batch, and micro-batches in this step's batch.
    micro: usize,
    micro_batches: u32,
    /// How long the other ranks may be silent.
    patience: Duration,
    step: u32,
    /// Messages of the next step, from ranks that are ahead.
    early: Vec<Vec<u8>>,
}

impl<'a> Reducer<'a> {
    /// For the ranks of `comm`. More ranks than micro-batches are a usage error.
    pub fn new(comm: &'a dyn Comm, optimizer: &OptimizerSection, patience: Duration) -> Result<Self> {
        let micro_batches = optimizer.least_micro_batches();
        if comm.size() > micro_batches {
            return Err(Error::usage(format!(
                "{} ranks, but a batch has {micro_batches} micro-batches: start at most so many ranks, or make \
                 optimizer.micro_batch smaller (which changes the rounding of the sum)",
                comm.size()
            )));
        }
        Ok(Reducer { comm, micro: optimizer.micro_batch(), micro_batches: 0, patience, step: 0, early: Vec::new() })
    }

    /// The sum of all micro-batches' vectors, on the CPU, in a batch of so many images. Every rank must call it once for each
    /// step.
    pub fn sum(&mut self, own: Partial, batch: usize) -> Result<Tensor> {
        self.micro_batches = (batch / self.micro) as u32;
        let root = TreeNode::root(self.micro_batches);
        let mut mine = BTreeMap::new();
        for (node, value) in own.nodes {
            mine.insert(node, value.f_to_device(Device::Cpu)?.f_contiguous()?);
        }
        if self.comm.size() == 1 {
            return total(root, self.micro_batches, &mut mine);
        }
        let length = mine.values().next().map_or(0, |value| value.numel() as i64);
        let mut exchange = Exchange::new(self, length);
        for bucket in 0..exchange.sums.len() {
            let owner = bucket % self.comm.size();
            for (node, value) in &mine {
                let part = exchange.slice(value, bucket)?;
                if owner == self.comm.rank() {
                    exchange.parts[bucket].insert(*node, part);
                } else {
                    self.comm.send(owner, message([self.step, PART, bucket as u32, node.level, node.index], &part)?)?;
                }
            }
        }
        for bucket in (self.comm.rank()..exchange.sums.len()).step_by(self.comm.size()) {
            exchange.close(self, bucket)?;
        }
        for early in std::mem::take(&mut self.early) {
            exchange.take(self, early)?;
        }
        let (mut looks, mut heard) = (0, Instant::now());
        while exchange.open > 0 {
            match self.comm.receive()? {
                Some((_, bytes)) => {
                    exchange.take(self, bytes)?;
                    (looks, heard) = (0, Instant::now());
                }
                None if looks < EAGER => looks += 1,
                None if heard.elapsed() < self.patience => std::thread::sleep(PAUSE),
                None => {
                    let seconds = self.patience.as_secs();
                    eprintln!(
                        "error: {}: no gradient from another rank for {seconds} s; run again to go on",
                        crate::cluster::host()
                    );
                    self.comm.abort(RESUMABLE);
                }
            }
        }
        self.step = self.step.wrapping_add(1);
        let sums: Vec<Tensor> = exchange.sums.into_iter().flatten().collect();
        Ok(Tensor::f_cat(&sums, 0)?)
    }
}

/// One step's buckets.
struct Exchange {
    length: i64,
    /// The parts that an owner waits for.
    expected: usize,
    parts: Vec<BTreeMap<TreeNode, Tensor>>,
    sums: Vec<Option<Tensor>>,
    /// Buckets without a sum.
    open: usize,
}

impl Exchange {
    fn new(reducer: &Reducer, length: i64) -> Self {
        let buckets = ((length + BUCKET - 1) / BUCKET) as usize;
        let ranks = reducer.comm.size();
        let nodes = |rank| {
            let range = share(rank, ranks, reducer.micro_batches as usize);
            nodes_of(range.start as u32..range.end as u32).len()
        };
        Exchange {
            length,
            expected: (0..ranks).map(nodes).sum(),
            parts: (0..buckets).map(|_| BTreeMap::new()).collect(),
            sums: (0..buckets).map(|_| None).collect(),
            open: buckets,
        }
    }

    fn slice(&self, value: &Tensor, bucket: usize) -> Result<Tensor> {
        let first = bucket as i64 * BUCKET;
        Ok(value.f_narrow(0, first, BUCKET.min(self.length - first))?)
    }

    /// Takes in a message; one of the next step is put aside.
    fn take(&mut self, reducer: &mut Reducer, bytes: Vec<u8>) -> Result<()> {
        let broken = || Error::internal("a rank has sent a message that is no gradient: do all run the same program?");
        let (head, body) = bytes.split_at_checked(HEADER).ok_or_else(broken)?;
        let mut words = head.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let mut word = || words.next().ok_or_else(broken);
        let (step, kind, bucket, level, index) = (word()?, word()?, word()? as usize, word()?, word()?);
        if step == reducer.step.wrapping_add(1) {
            reducer.early.push(bytes);
            return Ok(());
        }
        let length = BUCKET.min(self.length - bucket as i64 * BUCKET);
        if step != reducer.step || bucket >= self.sums.len() || body.len() as i64 != 4 * length {
            return Err(broken());
        }
        let value = Tensor::f_from_data_size(body, &[length], Kind::Float)?;
        if kind == SUM {
            self.open -= usize::from(self.sums[bucket].replace(value).is_none());
            return Ok(());
        }
        self.parts[bucket].insert(TreeNode { level, index }, value);
        self.close(reducer, bucket)
    }

    /// Adds up a bucket of ours once all its parts are here, and tells the others.
    fn close(&mut self, reducer: &Reducer, bucket: usize) -> Result<()> {
        if self.parts[bucket].len() < self.expected {
            return Ok(());
        }
        let root = TreeNode::root(reducer.micro_batches);
        let sum = total(root, reducer.micro_batches, &mut self.parts[bucket])?;
        for rank in (0..reducer.comm.size()).filter(|&rank| rank != reducer.comm.rank()) {
            reducer.comm.send(rank, message([reducer.step, SUM, bucket as u32, 0, 0], &sum)?)?;
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
mod tests {
    use super::*;
    use crate::cluster::local::ranks;
    use crate::random::{Key, Purpose};

    /// Three buckets, the last one short.
    const LENGTH: i64 = 2 * BUCKET + 77;

    /// Micro-batches of one image.
    fn optimizer(micro_batches: usize) -> OptimizerSection {
        toml::from_str(&format!("steps = 3\nbatch = {micro_batches}\nmicro_batch = 1")).unwrap()
    }

    fn sums(count: usize, micro_batches: usize) -> Vec<Tensor> {
        let run = move |comm: crate::cluster::local::Local| {
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
                found.push(reducer.sum(own, micro_batches).unwrap());
            }
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

    #[test]
    fn more_ranks_than_micro_batches_are_refused() {
        let comm = ranks(3).remove(0);
        let error = Reducer::new(&comm, &optimizer(2), Duration::ZERO).err().unwrap();
        assert!(error.exit_code() == 2 && error.to_string().contains("3 ranks"), "{error}");
    }
}
