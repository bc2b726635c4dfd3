//! The fixed binary tree over the blocks of an object. Whoever computes a node, and in whatever order nodes arrive, the
//! merges are the same, and so are the bits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An aligned subtree: the blocks `index << level .. (index + 1) << level` (cut at the number of blocks).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TreeNode {
    pub level: u32,
    pub index: u32,
}

impl TreeNode {
    /// The root of the tree over `blocks` blocks.
    pub fn root(blocks: u32) -> Self {
        TreeNode { level: blocks.max(1).next_power_of_two().trailing_zeros(), index: 0 }
    }

    /// The leaf of one block.
    pub fn leaf(block: u32) -> Self {
        TreeNode { level: 0, index: block }
    }

    /// The blocks below this node.
    pub fn blocks(&self, blocks: u32) -> std::ops::Range<u32> {
        let first = (self.index << self.level).min(blocks);
        first..((self.index + 1) << self.level).min(blocks)
    }

    /// The two halves, or `None` for a leaf. The right one may hold no blocks.
    pub fn children(&self) -> Option<(TreeNode, TreeNode)> {
        let level = self.level.checked_sub(1)?;
        Some((TreeNode { level, index: 2 * self.index }, TreeNode { level, index: 2 * self.index + 1 }))
    }

    /// The node above.
    pub fn parent(&self) -> TreeNode {
        TreeNode { level: self.level + 1, index: self.index / 2 }
    }
}

/// Merges the nodes in `found` into `target` along the tree; `None` while some block of it is missing.
pub fn assemble<T: Clone>(
    target: TreeNode,
    blocks: u32,
    found: &BTreeMap<TreeNode, T>,
    merge: &dyn Fn(T, T) -> T,
) -> Option<T> {
    if let Some(node) = found.get(&target) {
        return Some(node.clone());
    }
    let (left, right) = target.children()?;
    let left_part = assemble(left, blocks, found, merge)?;
    if right.blocks(blocks).is_empty() {
        return Some(left_part);
    }
    Some(merge(left_part, assemble(right, blocks, found, merge)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each merge is written down as a bracket, so the tree's shape is visible.
    fn bracket(left: String, right: String) -> String {
        format!("({left}{right})")
    }

    #[test]
    fn any_set_of_nodes_gives_the_same_merges() {
        let blocks = 5;
        let root = TreeNode::root(blocks);
        let leaves: BTreeMap<_, _> = (0..blocks).map(|b| (TreeNode::leaf(b), b.to_string())).collect();
        let want = assemble(root, blocks, &leaves, &bracket).unwrap();
        assert_eq!(want, "(((01)(23))4)");
        let mut mixed = leaves.clone();
        let pair = TreeNode { level: 1, index: 1 };
        mixed.insert(pair, assemble(pair, blocks, &leaves, &bracket).unwrap());
        mixed.remove(&TreeNode::leaf(2));
        assert_eq!(assemble(root, blocks, &mixed, &bracket).unwrap(), want);
        mixed.remove(&TreeNode::leaf(4));
        assert_eq!(assemble(root, blocks, &mixed, &bracket), None);
    }
}
