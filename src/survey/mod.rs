//! A survey: its plan, its shards, and the ranks that work on them.

pub mod engine;
pub mod record;
pub mod science;
