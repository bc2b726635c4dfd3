//! A survey: its plan, its shards, and the ranks that work on them.

pub mod claim;
#[cfg(test)]
mod dispatch_tests;
pub mod engine;
pub mod estimate;
pub mod events;
pub mod fitness;
pub mod folder;
mod health;
mod leader;
pub mod lease;
mod liveness;
mod next_shard;
pub mod object_record;
pub mod pack;
pub mod pins;
pub mod plan;
pub mod product_writer;
mod progress;
pub mod receipt;
pub mod record;
pub mod retry;
pub mod run;
mod schedule;
pub mod science;
mod shard;
pub mod status;
mod tidy;
pub mod toy;
mod trouble;
mod trust;
pub mod worker;
