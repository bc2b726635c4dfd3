//! The forward model: from a latent galaxy to the pixels of the detector, with the adjoint of every linear piece.
//!
//! ```text
//! F_c  = a * S^-1(x_c)                              flux per prior pixel (nJy)
//! y_ci = sum_j F_cj Phi_c(r_i - r_j) + b_c + noise  flux per detector pixel (nJy)
//! ```
//!
//! The prior's grid: the target sits at prior coordinate ((n-1)/2, (n-1)/2), the middle of the grid, as the centroids of
//! the training images do. The products' WCS has its reference pixel there. Pixel coordinates are 0-based in the program.
//!
//! This module is pure: values in, values out.

use tch::Tensor;

use crate::Result;
use crate::random::BlockNoise;

pub mod edge;
pub mod field;
pub mod galaxy;
pub mod linear;
pub mod noise;
pub mod psf;
pub mod resample;
pub mod sampling;
mod spectral;
pub mod stretch;

pub use field::{Field, Window};
pub use galaxy::{GalaxyLikelihood, GalaxyLikelihoodInput, PhotoZLikelihood};
pub use noise::{SkyNoise, correlated_grid};
pub use psf::Psf;
pub use sampling::SamplingOperator;
pub use stretch::Stretch;

/// A batch of B latent galaxies, or of directions in that space.
#[derive(Debug)]
pub struct Latent {
    /// Stretched image on the prior's grid, `[B, C, n, n]`, dimensionless.
    pub image: Tensor,
    /// Natural logarithm of the amplitude in nJy, `[B, A]`: A = 1, one for all bands, or A = C, one for each.
    pub ln_amplitude: Tensor,
    /// Sky level that the calibration left behind, nJy per detector pixel, `[B, C]`.
    pub sky: Tensor,
}

impl Latent {
    /// `self + other`, part by part (shapes broadcast).
    pub fn plus(&self, other: &Latent) -> Result<Latent> {
        Ok(Latent {
            image: self.image.f_add(&other.image)?,
            ln_amplitude: self.ln_amplitude.f_add(&other.ln_amplitude)?,
            sky: self.sky.f_add(&other.sky)?,
        })
    }

    /// `self - other`, part by part.
    pub fn minus(&self, other: &Latent) -> Result<Latent> {
        Ok(Latent {
            image: self.image.f_sub(&other.image)?,
            ln_amplitude: self.ln_amplitude.f_sub(&other.ln_amplitude)?,
            sky: self.sky.f_sub(&other.sky)?,
        })
    }
}

/// The priors of amplitude and sky: ln a ~ N(mean, sd^2), b_c ~ N(0, sd_c^2). A zero sd fixes the quantity.
#[derive(Debug)]
pub struct NuisancePrior {
    /// `[A]`
    pub ln_amplitude_mean: Tensor,
    /// `[A]`
    pub ln_amplitude_sd: Tensor,
    /// `[C]`, nJy per detector pixel.
    pub sky_sd: Tensor,
}

/// What a sampler sees of an observation: p(y | latent), Gaussian around a prediction.
///
/// Masked pixels have no weight: `data`, predictions, Jacobian products and noise are exactly zero there.
pub trait Likelihood: Send {
    /// The observation, `[C, my, mx]`, nJy per detector pixel, zero where masked.
    fn data(&self) -> &Tensor;
    /// 1 where a pixel counts and 0 where it is masked, `[C, my, mx]`.
    fn mask(&self) -> &Tensor;
    /// The priors of amplitude and sky.
    fn nuisance(&self) -> &NuisancePrior;
    /// The noise-free observation of each latent galaxy, `[B, C, my, mx]`.
    fn predict(&self, latent: &Latent) -> Result<Tensor>;
    /// What the prior's images are known to fulfil exactly, linearised: their unit total flux. `None` where there is no
    /// such thing.
    fn constraint(&self, _image: &Tensor) -> Result<Option<Constraint>> {
        Ok(None)
    }
    /// How far a pixel (stretched units) and ln a may move from a point of linearisation before the tangent is of no use;
    /// `None` where the model is linear.
    fn reach(&self) -> Option<f64> {
        None
    }
    /// How much flux bends at each pixel: the second over the first derivative of flux by the image, dimensionless. The model is
    /// then exponential in ln a, too. `None` where the model is linear in both.
    fn bend(&self, _image: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }
    /// One likelihood for any batch, where each sample of this one has its own; `None` where samples have the same anyway.
    fn common(&self) -> Option<&dyn Likelihood> {
        None
    }
    /// Where samples have likelihoods of their own: those that are alike, each sample in one group. Empty where all have the
    /// same.
    fn groups(&self) -> Vec<Group<'_>> {
        Vec::new()
    }
    /// Prediction, Jacobian and noise covariance at `latent`.
    fn linearize(&self, latent: &Latent) -> Result<Box<dyn Linearized>> {
        self.linearize_within(latent, 0.0)
    }
    /// The same with the error of the tangent itself counted as noise: `tangent_error` is its relative error in flux.
    fn linearize_within(&self, latent: &Latent, tangent_error: f64) -> Result<Box<dyn Linearized>>;
}

/// Samples of a batch with a likelihood that stands for theirs where an approximation is enough.
pub struct Group<'a> {
    /// Which they are, `[G]`, rising.
    pub samples: &'a Tensor,
    pub likelihood: &'a dyn Likelihood,
    /// The standard deviation of its sky noise over that of each of them, `[G, C, my, mx]`.
    pub weights: &'a Tensor,
}

/// A scalar that is zero for every image of the prior, linearised at one image per sample.
#[derive(Debug)]
pub struct Constraint {
    /// Its value, `[B]`.
    pub value: Tensor,
    /// Its gradient, `[B, C, n, n]`.
    pub gradient: Tensor,
    /// The tolerance: one standard deviation.
    pub sd: f64,
}

/// A likelihood linearised at one latent galaxy per sample: y ~ N(prediction + J (latent' - latent), Sigma).
/// The covariance may depend on the model (photon noise, PSF error); it is frozen at the point of linearisation.
pub trait Linearized {
    /// `[B, C, my, mx]`
    fn prediction(&self) -> &Tensor;
    /// J applied to a direction: `[B, C, my, mx]`.
    fn apply(&self, direction: &Latent) -> Result<Tensor>;
    /// J^T applied to a vector of the data space `[B, C, my, mx]`.
    fn adjoint(&self, residual: &Tensor) -> Result<Latent>;
    /// Sigma applied to a vector of the data space (zero on masked pixels).
    fn covariance(&self, vector: &Tensor) -> Result<Tensor>;
    /// Diagonal of Sigma, `[B, C, my, mx]`; one on masked pixels, so that it can be divided by.
    fn variance(&self) -> &Tensor;
    /// An approximation of Sigma^-1 applied to a vector, symmetric and positive; zero on masked pixels.
    fn precision(&self, vector: &Tensor) -> Result<Tensor> {
        Ok(vector.f_div(self.variance())?)
    }
    /// Draws of N(0, Sigma), `[B, C, my, mx]`, by key.
    fn noise(&self, noise: &BlockNoise, step: u32) -> Result<Tensor>;
    /// What point sources at the prior's pixels would look like; `None` where pixels of the prior have no place in the data.
    fn point_sources(&self) -> Result<Option<PointSources<'_>>> {
        Ok(None)
    }
}

/// A linear map of images.
pub type LinearMap<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

/// Point sources of unit flux, one at each pixel of the prior's grid, as the data show them: P, for a matched filter.
pub struct PointSources<'a> {
    /// P^T v for `v` `[B, C, my, mx]`: `[B, C, n, n]`.
    pub matched: LinearMap<'a>,
    /// The sum of the squares of each over the variance of the noise, `[B, C, n, n]`: that of P^T Sigma^-1 (y - A(x)), in noise
    /// without correlation.
    pub precision: Tensor,
}
