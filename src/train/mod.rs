//! Training: galaxies to learn from, and the training of priors.

pub mod augment;
pub mod backward;
pub mod batches;
pub mod checkpoint;
pub mod collection;
pub mod config;
pub mod dataset;
#[cfg(test)]
mod gallery;
pub mod heldout;
pub mod objective;
pub mod optimizer;
pub mod parameters;
pub mod picture;
pub mod procedural;
pub mod real;
pub mod reduce;
pub mod rows;
pub mod scale;
pub mod session;
pub mod setup;
pub mod source;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod trainer;

pub use dataset::{Dataset, DatasetConfig};
