//! Priors of galaxies: denoisers, the networks behind them, and what is known about each prior (its card, its moments).

use tch::Tensor;

use crate::Result;

pub mod analytic;
pub mod ancestral;
pub mod card;
pub mod coarse;
pub mod schedule;
pub mod unet;
pub mod unet_check;
pub mod unet_layout;
pub mod vp;
pub mod weights;

pub mod covariance;
pub mod file;
pub mod import;
pub mod lean;
pub mod lean_denoiser;
pub mod local;
pub mod skip;
pub mod spread;
pub mod store;

pub use card::Card;
pub use covariance::{Covariance, Level};
pub use file::Prior;
pub use spread::Spread;
pub use weights::{Weights, write_safetensors};

/// Called with each tensor that a network's encoder hands to its decoder, which takes what it gives. Training cuts the gradient
/// there (`train/backward.rs`).
pub type HandOver<'a> = dyn FnMut(&Tensor) -> Result<Tensor> + 'a;

/// The decoder takes what the encoder gave.
pub(crate) fn as_it_is(given: &Tensor) -> Result<Tensor> {
    Ok(given.shallow_clone())
}

/// A prior, seen through its denoiser D(x, sigma) = E[x0 | x0 + sigma eps = x] (variance-exploding convention, as in
/// Karras et al. 2022, arXiv:2206.00364).
pub trait Denoiser: Send {
    /// `[C, n, n]`
    fn shape(&self) -> [i64; 3];

    /// D(x, sigma) for `x` of shape `[B, C, n, n]`. No gradient is recorded.
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.denoise_with_grad(x, sigma)
    }

    /// D(x, sigma) with a gradient graph back to `x` (which has `requires_grad` set), for samplers that need one.
    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor>;

    /// What its network makes of `x` at its coarsest level, averaged over places, `[B, F]`; `None` without a network.
    fn features(&self, _x: &Tensor, _sigma: f64) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Cost of one forward of one sample, in floating-point operations (multiply and add are two).
    fn flops(&self) -> f64;
}
