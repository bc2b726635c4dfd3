//! Training of priors.

pub mod batches;
pub mod checkpoint;
pub mod config;
pub mod heldout;
pub mod optimizer;
pub mod parameters;
pub mod picture;
pub mod session;
pub mod setup;
pub mod source;
pub mod trainer;
