//! Experiments: whether samplers are calibrated, whether prior and sampler are consistent, and whether this machine keeps the bits.

pub mod draws;
pub mod ranks;
pub mod recovery;
pub mod statistics;
pub mod truths;

pub mod calibration;
pub mod compare;
pub mod consistency;
pub mod coverage;
pub mod determinism;
pub mod dominance;
pub mod features;
pub mod mock;
pub mod quality;
pub mod selftest;
pub mod simulate;
pub mod standin;

/// How a rank's share of the work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// A signal came first; another run goes on.
    Stopped,
}
