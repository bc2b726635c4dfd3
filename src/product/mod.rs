//! What a survey leaves behind: the record of each object, the shard files that hold them, merging and export.

use serde::{Deserialize, Serialize};

pub mod catalog;
pub mod digest;
pub mod export;
pub mod merge;
pub mod meta;
pub mod read;
pub mod record;
pub mod rounding;
pub mod run;
pub mod schema;
pub mod shard;
pub mod stack;
pub mod statistics;

pub use meta::ShardMeta;
pub use read::Shard;
pub use shard::{write_file, write_shard};

/// How an object ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    Done,
    Failed,
}

/// An array of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordArray {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Everything that is kept of one object. Names are those of the product schema, which knows units and meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectRecord {
    pub id: String,
    pub status: Status,
    /// Why it failed; empty when done.
    pub reason: String,
    /// Bits of trouble that does not prevent a result (see the schema).
    pub flags: u32,
    /// One number per object.
    pub scalars: Vec<(String, f64)>,
    /// Images, and short vectors such as the per-band amplitude or the WCS.
    pub arrays: Vec<(String, RecordArray)>,
    /// One number per posterior sample.
    pub samples: Vec<(String, Vec<f32>)>,
}

impl ObjectRecord {
    /// The record of an object that could not be done.
    pub fn failed(id: &str, reason: impl std::fmt::Display) -> Self {
        ObjectRecord {
            id: id.to_string(),
            status: Status::Failed,
            reason: reason.to_string(),
            flags: 0,
            scalars: Vec::new(),
            arrays: Vec::new(),
            samples: Vec::new(),
        }
    }
}
