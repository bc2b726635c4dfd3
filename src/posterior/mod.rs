//! From posterior samples to what is kept of them: moments merged along a fixed tree, per-sample quantities, flags.
//! This module is pure: values in, values out.

use serde::{Deserialize, Serialize};

pub mod cmodel;
pub mod flags;
pub mod moments;
pub mod morphology;
pub mod photometry;
pub mod predictive;
pub mod residual;
pub mod tree;
pub mod unlike;
pub mod variance_ratio;

pub use flags::Flag;
pub use moments::Moments;

/// The merged result of an aligned range of blocks of one object: what goes over the wire and into the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Moments by name (for example `flux`, `stretched`), in a fixed order.
    pub moments: Vec<(String, Moments)>,
    /// Per-sample quantities by name, in a fixed order; samples in the order of their index.
    pub samples: Vec<(String, Vec<f32>)>,
    /// The first few draws as images, `kept x C x n x n` values of flux (nJy per prior pixel), concatenated.
    pub draws: Vec<f32>,
    /// Draws that were no fit, and are in none of the above.
    pub lost: u32,
}

impl Node {
    /// Joins two neighbours: `self` holds the lower sample indices. Both must come from the same plan.
    pub fn merge(mut self, right: Node) -> Node {
        for ((_, left), (_, other)) in self.moments.iter_mut().zip(&right.moments) {
            left.merge(other);
        }
        for ((_, left), (_, other)) in self.samples.iter_mut().zip(right.samples) {
            left.extend(other);
        }
        self.draws.extend(right.draws);
        self.lost += right.lost;
        self
    }
}
