//! Experiments: whether prior and sampler are consistent, and whether this machine keeps the bits.

pub mod ranks;
pub mod statistics;

pub mod consistency;
pub mod determinism;
pub mod selftest;
pub mod simulate;
pub mod standin;
