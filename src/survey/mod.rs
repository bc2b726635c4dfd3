//! A survey: its plan, its shards, and the ranks that work on them.

pub mod engine;
