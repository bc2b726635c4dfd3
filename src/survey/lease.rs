//! What leader and workers say to each other.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::engine::{Packed, SavedBlock};
use crate::catalog::Target;
use crate::posterior::Node;
use crate::posterior::tree::{TreeNode, assemble};
use crate::product::ObjectRecord;
use crate::{Error, Result};

/// Work for one worker: an aligned subtree of the blocks of one object, with what is known of it already. The lease of
/// the root includes making the object's record, so a lease whose parts are all known is the finishing of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The object's number in the plan.
    pub object: u64,
    pub target: Target,
    /// Blocks of the whole object.
    pub blocks: u32,
    pub node: TreeNode,
    /// Where its inputs are, unless in files of their own.
    pub packed: Option<Packed>,
    /// Parts that are done.
    pub nodes: Vec<(TreeNode, Node)>,
    /// Blocks that were begun.
    pub states: Vec<SavedBlock>,
}

/// From the leader to a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToWorker {
    Lease(Box<Lease>),
    /// Save what is unfinished and answer `Stopped`.
    Stop,
    /// Others are idle: give back what is unfinished of every lease that was sent before this.
    Yield,
    /// Every rank has stopped: leave.
    Exit,
    /// The leader lives, and will say so again within so many seconds.
    Alive {
        seconds: f64,
    },
}

/// What a lease came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    Record(Box<ObjectRecord>),
    Node(Node),
}

/// From a worker to the leader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToLeader {
    /// The engine is built, on this device.
    Ready { host: String, device: String },
    /// What the rank's log warns of.
    Warning { message: String },
    /// The oldest lease is done.
    Done { object: u64, node: TreeNode, seconds: f64, outcome: Outcome },
    /// The oldest lease failed in `block` (the first block of its lease if it failed before or after the blocks).
    /// `suspicious`: the fault may be the machine's rather than the object's.
    Failed { object: u64, node: TreeNode, reason: String, suspicious: bool },
    /// How far the oldest lease has come.
    Saved { object: u64, nodes: Vec<(TreeNode, Node)>, state: Option<SavedBlock> },
    /// The oldest lease is given back, its parts and its state saved: the answer to `Yield`.
    Yielded { object: u64, node: TreeNode },
    /// The oldest lease is kept although it was to be given back: there is nothing in it to share.
    Kept,
    /// The rank is alive; `work` counts samples times steps since its start.
    Beat { work: u64 },
    /// This rank got a stop signal.
    StopRequested,
    /// Everything unfinished has been saved; the answer to `Stop`.
    Stopped,
    /// This rank cannot work at all.
    Fatal { message: String, code: i32 },
}

/// A message as bytes.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>> {
    postcard::to_stdvec(message).map_err(|error| Error::internal(format!("cannot encode a message: {error}")))
}

/// A message from bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|error| Error::internal(format!("cannot decode a message: {error}")))
}

/// Parts of an object that are done: merged as far as they can be, never overlapping.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    blocks: u32,
    nodes: BTreeMap<TreeNode, Node>,
}

impl Parts {
    /// Nothing done yet of `blocks` blocks.
    pub fn new(blocks: u32) -> Parts {
        Parts { blocks, nodes: BTreeMap::new() }
    }

    /// Adds a part; one that is covered already is dropped, and what it covers makes way.
    pub fn insert(&mut self, place: TreeNode, node: Node) {
        if self.covers(place) {
            return;
        }
        let range = place.blocks(self.blocks);
        let blocks = self.blocks;
        self.nodes.retain(|other, _| {
            let inside = other.blocks(blocks);
            !(range.start <= inside.start && inside.end <= range.end)
        });
        self.nodes.insert(place, node);
    }

    /// Merges neighbours that are both done, up to `top`. The merges are those of the fixed tree.
    pub fn collapse(&mut self, top: TreeNode) {
        loop {
            let ready = self.nodes.keys().copied().find_map(|place| {
                let parent = (place.level < top.level && place != top).then(|| place.parent())?;
                let (left, right) = parent.children()?;
                let right_done = right.blocks(self.blocks).is_empty() || self.nodes.contains_key(&right);
                (self.nodes.contains_key(&left) && right_done).then_some((parent, left, right))
            });
            let Some((parent, left, right)) = ready else { return };
            if let Some(mut merged) = self.nodes.remove(&left) {
                if let Some(other) = self.nodes.remove(&right) {
                    merged = merged.merge(other);
                }
                self.nodes.insert(parent, merged);
            }
        }
    }

    /// Whether all blocks below `place` are in parts that are done and that start at or above it.
    pub fn covers(&self, place: TreeNode) -> bool {
        let range = place.blocks(self.blocks);
        self.nodes.keys().any(|other| {
            let around = other.blocks(self.blocks);
            other.level >= place.level && around.start <= range.start && range.end <= around.end
        })
    }

    /// Whether `block` is in a part that is done.
    pub fn has_block(&self, block: u32) -> bool {
        self.nodes.keys().any(|other| other.blocks(self.blocks).contains(&block))
    }

    /// Whether every block of the object is in a part that is done.
    pub fn complete(&self) -> bool {
        (0..self.blocks).all(|block| self.has_block(block))
    }

    /// The merged result of `place`, if all of it is there.
    pub fn assemble(&self, place: TreeNode) -> Option<Node> {
        assemble(place, self.blocks, &self.nodes, &Node::merge)
    }

    /// The parts below `place`.
    pub fn below(&self, place: TreeNode) -> Vec<(TreeNode, Node)> {
        let range = place.blocks(self.blocks);
        let inside = |other: &TreeNode| {
            let found = other.blocks(self.blocks);
            range.start <= found.start && found.end <= range.end && other.level <= place.level
        };
        self.nodes.iter().filter(|(other, _)| inside(other)).map(|(other, node)| (*other, node.clone())).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&TreeNode, &Node)> {
        self.nodes.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::posterior::Moments;
    use crate::random::{Key, Purpose};

    fn leaf(block: u32) -> Node {
        let mut moments = Moments::new(4);
        for sample in 0..3 {
            moments.push(&Key::new(1, "parts", block * 3 + sample, Purpose::Evaluation, 0).normal(4));
        }
        Node {
            moments: vec![("x".into(), moments)],
            samples: vec![("s".into(), vec![block as f32])],
            draws: vec![],
            lost: 0,
        }
    }

    fn bits(node: &Node) -> Vec<u8> {
        encode(node).unwrap()
    }

    #[test]
    fn parts_in_any_order_collapse_to_the_same_bits_as_the_tree() {
        for blocks in 1..=9 {
            let root = TreeNode::root(blocks);
            let leaves: BTreeMap<_, _> = (0..blocks).map(|block| (TreeNode::leaf(block), leaf(block))).collect();
            let want = bits(&assemble(root, blocks, &leaves, &Node::merge).unwrap());
            for turn in 0..blocks {
                let mut parts = Parts::new(blocks);
                for offset in 0..blocks {
                    assert!(!parts.complete() && parts.assemble(root).is_none());
                    let block = (turn + offset * 7) % blocks;
                    let block = if blocks == 7 { (turn + offset * 3) % blocks } else { block };
                    parts.insert(TreeNode::leaf(block), leaf(block));
                    // Collapsing sometimes and sometimes not must make no difference.
                    if offset % 2 == turn % 2 {
                        parts.collapse(root);
                    }
                }
                assert!(parts.complete());
                assert_eq!(bits(&parts.assemble(root).unwrap()), want, "{blocks} blocks, turn {turn}");
            }
        }
    }

    #[test]
    fn a_part_that_is_covered_is_dropped_and_one_that_covers_replaces() {
        let mut parts = Parts::new(4);
        let pair = TreeNode { level: 1, index: 0 };
        parts.insert(TreeNode::leaf(0), leaf(0));
        assert!(!parts.covers(pair) && parts.has_block(0) && !parts.has_block(1));
        parts.insert(pair, leaf(0).merge(leaf(1)));
        parts.insert(TreeNode::leaf(1), leaf(1));
        assert_eq!(parts.iter().count(), 1);
        assert!(parts.covers(pair) && parts.covers(TreeNode::leaf(1)));
        assert_eq!(parts.below(TreeNode { level: 1, index: 1 }).len(), 0);
        assert_eq!(parts.below(TreeNode::root(4)).len(), 1);
    }
}
