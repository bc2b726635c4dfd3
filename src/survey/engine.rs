//! The seam between the system (who computes what, when, where) and the science (what is computed). The system sees an
//! engine that opens objects and advances blocks of samples; it never sees an image.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::catalog::Target;
use crate::posterior::Node;
use crate::product::ObjectRecord;
use crate::sampler::{SavedState, State};

/// Where the inputs of an object have been packed: the bundle of its shard, and its place in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    pub bundle: PathBuf,
    pub place: usize,
}

/// Opens objects. One per rank, living on the thread that runs the network.
pub trait Engine {
    /// Reads the object's inputs, from its bundle if they are packed, and prepares its likelihood. An `Error::Object` is
    /// the object's own trouble; an `Error::File` is of the run folder's own files, and ends the job.
    fn open(&mut self, target: &Target, packed: Option<&Packed>) -> Result<Box<dyn OpenObject + '_>>;
}

/// One object, ready to be sampled.
pub trait OpenObject {
    /// Blocks of samples that the object needs.
    fn blocks(&self) -> u32;
    /// Steps of one block.
    fn steps(&self) -> u32;
    /// Samples in `block` (the last may be smaller).
    fn samples(&self, block: u32) -> u32;
    /// The state before the first step of `block`.
    fn start(&self, block: u32) -> Result<State>;
    /// A state saved earlier, back on the device.
    fn resume(&self, saved: &SavedState) -> Result<State>;
    /// One sampler step of `block`.
    fn step(&self, block: u32, state: &mut State) -> Result<()>;
    /// The block's draws, reduced.
    fn finish_block(&self, block: u32, state: State) -> Result<Node>;
    /// The object's record, from all its blocks merged along the tree.
    fn finish(&self, node: Node) -> Result<ObjectRecord>;
}

/// How far a block has come: what is saved at the journal's interval or at a stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedBlock {
    pub block: u32,
    pub state: SavedState,
}
