//! `unseeing` takes the seeing out of survey galaxies: posterior samples of the sharp, noise-free galaxy behind a
//! ground-based image, under a diffusion-model prior (Spagnoletti et al. 2024, arXiv:2411.19158).
//!
//! ARCHITECTURE.md says what each module is and which invariants hold between them.

pub mod catalog;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod device;
pub mod error;
pub mod evaluate;
pub mod failpoint;
pub mod forward;
pub mod io;
pub mod observe;
pub mod posterior;
pub mod prior;
pub mod product;
pub mod random;
pub mod report;
pub mod sampler;
pub mod sky;
pub mod survey;
pub mod train;

pub use error::{Error, Result};
