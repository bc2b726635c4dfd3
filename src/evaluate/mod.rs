//! Experiments on priors, samplers and machines.

pub mod determinism;
pub mod standin;
