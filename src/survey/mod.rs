//! A survey: its plan, its shards, and the ranks that work on them.

pub mod claim;
pub mod engine;
pub mod record;
pub mod science;
pub mod folder;
mod health;
mod leader;
pub mod lease;
pub mod pins;
pub mod plan;
mod progress;
pub mod receipt;
pub mod retry;
pub mod run;
mod shard;
pub mod status;
pub mod toy;
pub mod worker;
