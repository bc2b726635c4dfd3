//! Experiments on priors, samplers and machines.

pub mod determinism;
pub mod selftest;
pub mod standin;
