//! A shard that this job works on: its claim, its journal, and how far each of its objects has come.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::SystemTime;

use super::claim::Claim;
use super::engine::Packed;
use super::folder::Folder;
use super::lease::Lease;
use super::pack;
use super::plan::Plan;
use super::receipt::{Receipt, ShardContext, ShardWriter};
use super::record::{self, Known, ShardJournal};
use super::tidy;
use crate::catalog::Target;
use crate::io::{digest, publish};
use crate::posterior::tree::TreeNode;
use crate::product::{ObjectRecord, Status};
use crate::{Error, Result, failpoint};

/// One object of the shard.
pub struct Object {
    pub target: Target,
    pub known: Known,
    /// Leases to be given, first come first.
    pub queue: VecDeque<TreeNode>,
    /// Leases that workers hold, and those of them that workers work on now.
    pub held: BTreeSet<TreeNode>,
    pub active: BTreeSet<TreeNode>,
    /// The failure of the lowest block so far: with it, the reason does not depend on the order of work.
    failure: Option<(u32, String)>,
    /// Whether the object has been cut into leases.
    pub begun: bool,
}

impl Object {
    /// Whether the process has died once while it worked on this object.
    pub fn is_suspect(&self) -> bool {
        self.known.deaths > 0
    }

    /// Not done, and nothing of it leased or waiting to be.
    pub fn is_waiting(&self) -> bool {
        self.known.record.is_none() && !self.begun
    }
}

/// The shard.
pub struct OpenShard {
    pub index: u32,
    first: u64,
    blocks: u32,
    claim: Claim,
    journal: ShardJournal,
    /// The shard's packed inputs, if there are any.
    bundle: Option<PathBuf>,
    pub objects: Vec<Object>,
    started: SystemTime,
    pub worker_seconds: f64,
}

impl OpenShard {
    pub(super) fn start(folder: &Folder, plan: &Plan, index: u32, claim: Claim) -> Result<OpenShard> {
        let (range, digest) = (plan.range(index)?, plan.digest()?);
        let targets = plan.targets(folder, index)?;
        let mut known = vec![Known::nothing(plan.blocks); targets.len()];
        // Listed again now that the shard is ours: the last holder may have written until a moment ago.
        let attempts = Folder::attempts(&folder.journals(), "journal")?;
        let earlier: Vec<u32> = attempts.get(&index).into_iter().flatten().copied().collect();
        record::recover(folder, &digest, index, &earlier, range.first, &mut known)?;
        let mut journal = ShardJournal::create(folder, &digest, index, claim.attempt())?;
        let mut objects = Vec::with_capacity(targets.len());
        for (place, (target, mut known)) in targets.into_iter().zip(known).enumerate() {
            let object = range.first + place as u64;
            if let Some(record) = known.give_up(&target.id) {
                tracing::error!("object {}: {}", target.id, record.reason);
                journal.crashed(object)?;
                known.record = Some(record);
            } else if let (Some(trouble), None) = (&target.trouble, &known.record) {
                let record = ObjectRecord::failed(&target.id, trouble);
                journal.record(object, &record)?;
                known.record = Some(record);
            }
            objects.push(Object {
                target,
                known,
                queue: VecDeque::new(),
                held: BTreeSet::new(),
                active: BTreeSet::new(),
                failure: None,
                begun: false,
            });
        }
        let (first, blocks) = (range.first, plan.blocks);
        let started = SystemTime::now();
        let bundle = pack::sound_bundle(folder, plan, index)?;
        Ok(OpenShard { index, first, blocks, claim, journal, bundle, objects, started, worker_seconds: 0.0 })
    }

    /// The number of this attempt at the shard.
    pub fn attempt(&self) -> u32 {
        self.claim.attempt()
    }

    /// The place of an object in this shard.
    pub fn place(&self, object: u64) -> Option<usize> {
        let place = object.checked_sub(self.first)? as usize;
        (place < self.objects.len()).then_some(place)
    }

    pub fn is_done(&self) -> bool {
        self.objects.iter().all(|object| object.known.record.is_some())
    }

    /// Records of objects that ended, and how many of them failed.
    pub fn ended(&self) -> (u64, u64) {
        let records = self.objects.iter().filter_map(|object| object.known.record.as_ref());
        records.fold((0, 0), |(all, failed), record| (all + 1, failed + u64::from(record.status == Status::Failed)))
    }

    /// Cuts a waiting object into at least `pieces` leases, as far as it has blocks; one lease is the whole object.
    pub fn cut(&mut self, place: usize, pieces: u32) {
        let root = TreeNode::root(self.blocks);
        self.objects[place].begun = true;
        if pieces > 1 {
            self.queue_below(place, root, pieces);
        }
        if self.objects[place].queue.is_empty() {
            self.objects[place].queue.push_back(root);
        }
    }

    /// Queues what is not known of a part of an object, in at least so many pieces, as far as it has blocks.
    fn queue_below(&mut self, place: usize, node: TreeNode, pieces: u32) {
        let blocks = self.blocks;
        let object = &mut self.objects[place];
        let mut level = node.level;
        while level > 0 && 1u32 << (node.level - level) < pieces {
            level -= 1;
        }
        let depth = node.level - level;
        let nodes = (node.index << depth..(node.index + 1) << depth).map(|index| TreeNode { level, index });
        let (known, failure) = (&object.known, object.failure.as_ref().map_or(u32::MAX, |(lowest, _)| *lowest));
        // Blocks that are known need no lease, even where only some of a piece's are; nor do those behind a failure.
        let open = |node: &TreeNode| {
            let mut range = node.blocks(blocks);
            range.start < failure && range.any(|block| !known.parts.has_block(block))
        };
        object.queue.extend(nodes.filter(open));
    }

    /// A worker has given a lease back, to be shared; what it had done of it has been added.
    pub fn take_back(&mut self, place: usize, node: TreeNode, pieces: u32) -> Result<()> {
        self.end(place, node)?;
        self.queue_below(place, node, pieces);
        self.settle(place)
    }

    /// The next lease of an object.
    pub fn lease(&mut self, place: usize) -> Option<Lease> {
        let object = &mut self.objects[place];
        let node = object.queue.pop_front()?;
        object.held.insert(node);
        let range = node.blocks(self.blocks);
        let states = object.known.states.range(range).map(|(_, saved)| saved.clone()).collect();
        Some(Lease {
            object: self.first + place as u64,
            target: object.target.clone(),
            blocks: self.blocks,
            node,
            packed: self.bundle.clone().map(|bundle| Packed { bundle, place }),
            nodes: object.known.parts.below(node),
            states,
        })
    }

    /// A worker turns to a lease. Written down first: if the process dies of it, the next attempt knows.
    pub fn begin(&mut self, place: usize, node: TreeNode) -> Result<()> {
        let object = &mut self.objects[place];
        if object.active.is_empty() {
            self.journal.begin(self.first + place as u64)?;
        }
        object.active.insert(node);
        Ok(())
    }

    /// A worker has let go of a lease.
    fn end(&mut self, place: usize, node: TreeNode) -> Result<()> {
        let object = &mut self.objects[place];
        object.held.remove(&node);
        if object.active.remove(&node) && object.active.is_empty() {
            self.journal.end(self.first + place as u64)?;
        }
        Ok(())
    }

    /// A part has been computed.
    pub fn add_node(&mut self, place: usize, node: TreeNode, part: crate::posterior::Node) -> Result<()> {
        self.journal.node(self.first + place as u64, node, &part)?;
        self.objects[place].known.add_node(node, part);
        self.objects[place].known.parts.collapse(TreeNode::root(self.blocks));
        self.end(place, node)?;
        self.settle(place)
    }

    /// An object is done.
    pub fn add_record(&mut self, place: usize, node: TreeNode, record: ObjectRecord) -> Result<()> {
        self.journal.record(self.first + place as u64, &record)?;
        let object = &mut self.objects[place];
        object.known = Known::nothing(self.blocks);
        object.known.record = Some(record);
        self.end(place, node)
    }

    /// A lease has failed: nothing behind its blocks is needed any more, what lies before them still is.
    pub fn add_failure(&mut self, place: usize, node: TreeNode, reason: String) -> Result<()> {
        let block = node.blocks(self.blocks).start;
        let object = &mut self.objects[place];
        if object.failure.as_ref().is_none_or(|(lowest, _)| block < *lowest) {
            object.failure = Some((block, reason));
        }
        let blocks = self.blocks;
        object.queue.retain(|waiting| waiting.blocks(blocks).start < block);
        self.end(place, node)?;
        self.settle(place)
    }

    /// What a worker has saved on the way.
    pub fn add_saved(
        &mut self,
        place: usize,
        nodes: Vec<(TreeNode, crate::posterior::Node)>,
        state: Option<super::engine::SavedBlock>,
    ) -> Result<()> {
        let object = self.first + place as u64;
        for (node, part) in nodes {
            self.journal.node(object, node, &part)?;
            self.objects[place].known.add_node(node, part);
        }
        if let Some(saved) = state
            && saved.state.step > 0
        {
            self.journal.state(object, &saved)?;
            self.objects[place].known.add_state(saved);
        }
        Ok(())
    }

    /// Once no lease of an object is out or waiting: it has failed, or its parts are all there to be finished.
    fn settle(&mut self, place: usize) -> Result<()> {
        let object = &mut self.objects[place];
        if !object.queue.is_empty() || !object.held.is_empty() || object.known.record.is_some() {
            return Ok(());
        }
        match object.failure.take() {
            Some((_, reason)) => {
                tracing::warn!("object {}: failed: {reason}", object.target.id);
                let record = ObjectRecord::failed(&object.target.id, reason);
                object.known = Known::nothing(self.blocks);
                self.journal.record(self.first + place as u64, &record)?;
                self.objects[place].known.record = Some(record);
            }
            None => object.queue.push_back(TreeNode::root(self.blocks)),
        }
        Ok(())
    }

    /// Says that this job lives; false if another job has taken the shard.
    pub fn touch(&self) -> Result<bool> {
        self.claim.touch()
    }

    pub fn sync(&mut self) -> Result<()> {
        self.journal.sync()
    }

    /// Ends the attempt after a stop: nothing is in flight any more, and the shard is free. The claim is given back even
    /// where the journal cannot be written, on a full disk: that alone says that no object was to blame.
    pub fn stop(mut self) -> Result<()> {
        let said = self.end_all();
        self.claim.release()?;
        said
    }

    fn end_all(&mut self) -> Result<()> {
        for place in 0..self.objects.len() {
            if !self.objects[place].active.is_empty() {
                self.journal.end(self.first + place as u64)?;
            }
        }
        self.journal.sync()
    }

    /// Publishes the product and then the receipt. `None` if another job did so first, or has taken the shard.
    pub fn publish(
        mut self,
        folder: &Folder,
        context: &ShardContext,
        writer: &dyn ShardWriter,
        hosts: &BTreeSet<String>,
        ranks: u32,
    ) -> Result<Option<Receipt>> {
        self.journal.sync()?;
        if folder.receipt(self.index).exists() || !self.claim.is_mine()? {
            return Ok(None);
        }
        let objects = std::mem::take(&mut self.objects);
        let records: Vec<ObjectRecord> = objects.into_iter().filter_map(|object| object.known.record).collect();
        let path = folder.shard(self.index, writer.extension());
        let mut overtaken = false;
        let written = publish::publish_path(&path, |temporary| {
            let content = writer.write(temporary, &records, context)?;
            // Writing may have taken long enough for a thief to have finished.
            overtaken = folder.receipt(self.index).exists();
            if overtaken { Err(Error::internal("another job has finished the shard")) } else { Ok(content) }
        });
        if overtaken {
            return Ok(None);
        }
        let content_blake3 = written?;
        let failed = records.iter().filter(|record| record.status == Status::Failed);
        let failures: Vec<_> = failed.map(|record| (record.id.clone(), record.reason.clone())).collect();
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let receipt = Receipt {
            shard: self.index,
            file: path.strip_prefix(folder.root()).unwrap_or(&path).to_path_buf(),
            blake3: digest::file(&path)?,
            content_blake3,
            plan: context.plan.digest()?,
            objects: records.len() as u32,
            failed: failures.len() as u32,
            failures,
            version: env!("CARGO_PKG_VERSION").into(),
            attempt: self.claim.attempt(),
            hosts: hosts.clone(),
            ranks,
            started: seconds(self.started),
            finished: seconds(SystemTime::now()),
            worker_seconds: self.worker_seconds,
            gpu_hours: self.worker_seconds / 3600.0,
            objects_per_gpu_hour: records.len() as f64 / self.worker_seconds.max(1e-9) * 3600.0,
        };
        failpoint::at("receipt.before")?;
        receipt.publish(folder)?;
        failpoint::at("receipt.after")?;
        tidy::clean(folder, self.index, receipt.failed > 0)?;
        Ok(Some(receipt))
    }
}
