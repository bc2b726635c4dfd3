//! Training: galaxies to learn from, and the training of priors.

pub mod augment;
pub mod dataset;
#[cfg(test)]
mod gallery;
pub mod procedural;
pub mod real;
pub mod stream;

pub use dataset::{Dataset, DatasetConfig};
