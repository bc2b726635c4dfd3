//! The preconditioner of the data-space solves. J P J^T + Sigma has a few very large eigenvalues, those of the galaxy's
//! brightness, colour and overall shape, on top of a moderate rest: with V the images of the prior covariance's low-rank
//! modes and of amplitude and sky, and Q an approximation of Sigma^-1,
//!
//! ```text
//! M = Q^-1 + V V^T,    M^-1 = Q - Q V (I + V^T Q V)^-1 V^T Q
//! ```
//!
//! V and Q are taken at the mean of the batch and shared by its samples, so that they cost a few products a sample. Where
//! samples have likelihoods of their own, V and Q are of the one that stands for all, and D M^-1 D is used, with D the
//! standard deviation of its sky noise over that of each sample: pixels that count for less in a sample do so here.

use tch::{Kind, Tensor};

use super::conjugate_gradient::dot;
use crate::Result;
use crate::forward::{Latent, Likelihood, Linearized};

/// Added to eigenvalues before dividing by them: far below the 1 that the noise contributes.
const TINY: f64 = 1e-9;

/// Largest eigenvalue that is taken off whole. Along it M^-1 is what remains of 1 - e / (1 + e), which in f32 must stay
/// well above rounding, or M would not be positive. What is larger costs the solver a few iterations.
const LARGEST: f64 = 1e5;

/// M^-1 of one linearisation.
pub struct Preconditioner {
    /// The linearisation that knows Q.
    linear: Box<dyn Linearized>,
    /// Q V u / sqrt(e) for the eigenvectors u of V^T Q V and their eigenvalues e, `[modes, C my mx]`.
    basis: Tensor,
    /// e / (1 + e) for the eigenvalue e of each, `[modes]`.
    removed: Tensor,
    /// D, `[B, C, my, mx]`, where samples differ.
    weights: Option<Tensor>,
}

impl Preconditioner {
    /// Linearises at the mean of `point` over the batch. `modes` `[K, C, n, n]` is the low-rank part of the image's prior
    /// covariance; without it the image is held fixed.
    pub fn new(
        likelihood: &dyn Likelihood,
        point: &Latent,
        modes: Option<&Tensor>,
        tangent_error: f64,
    ) -> Result<Self> {
        // A sample that has become NaN or infinite must not spoil the others.
        let mean = |tensor: &Tensor| -> Result<Tensor> {
            let finite = tensor.f_where_scalarother(&tensor.f_isfinite()?, f64::NAN)?;
            Ok(finite.f_nanmean([0i64].as_slice(), true, Kind::Float)?)
        };
        let centre =
            Latent { image: mean(&point.image)?, ln_amplitude: mean(&point.ln_amplitude)?, sky: mean(&point.sky)? };
        let (likelihood, weights) = match likelihood.common() {
            Some(common) => (common.likelihood, Some(common.weights.shallow_clone())),
            None => (likelihood, None),
        };
        let linear = likelihood.linearize_within(&centre, tangent_error)?;
        let nuisance = likelihood.nuisance();
        let (amplitudes, bands) = (centre.ln_amplitude.size()[1], centre.sky.size()[1]);
        let count = modes.map_or(0, |modes| modes.size()[0]);
        let total = count + amplitudes + bands;
        let options = (Kind::Float, point.image.device());
        let mut image_size = centre.image.size();
        image_size[0] = total;
        let directions = Latent {
            image: Tensor::f_zeros(image_size.as_slice(), options)?,
            ln_amplitude: Tensor::f_zeros([total, amplitudes], options)?,
            sky: Tensor::f_zeros([total, bands], options)?,
        };
        if let Some(modes) = modes {
            directions.image.f_narrow(0, 0, count)?.f_copy_(modes)?;
        }
        directions.ln_amplitude.f_narrow(0, count, amplitudes)?.f_copy_(&nuisance.ln_amplitude_sd.f_diag(0)?)?;
        directions.sky.f_narrow(0, count + amplitudes, bands)?.f_copy_(&nuisance.sky_sd.f_diag(0)?)?;
        let images = linear.apply(&directions)?;
        let weighted = linear.precision(&images)?.f_view([total, -1])?.f_to_kind(Kind::Double)?;
        let images = images.f_view([total, -1])?.f_to_kind(Kind::Double)?;
        let gram = weighted.f_matmul(&images.f_tr()?)?;
        let (eigenvalues, vectors) = gram.f_add(&gram.f_tr()?)?.f_mul_scalar(0.5)?.f_linalg_eigh("L")?;
        // Directions that the data do not see have no eigenvalue to speak of, and need no basis vector.
        let seen = eigenvalues.f_clamp_min(0.0)?;
        let scale = seen.f_add_scalar(TINY)?.f_rsqrt()?;
        let basis = vectors.f_tr()?.f_matmul(&weighted)?.f_mul(&scale.f_unsqueeze(1)?)?.f_to_kind(Kind::Float)?;
        let capped = seen.f_clamp_max(LARGEST)?;
        let removed = capped.f_div(&capped.f_add_scalar(1.0)?)?.f_to_kind(Kind::Float)?;
        Ok(Preconditioner { linear, basis, removed, weights })
    }

    /// The number of directions that the data see better than the prior, of those taken off: the sum of e / (1 + e).
    pub fn directions(&self) -> Result<f64> {
        Ok(self.removed.f_sum(Kind::Double)?.f_double_value(&[])?)
    }

    /// M^-1 r, `[B, C, my, mx]`, and r^T Q r, the square of r in units of the noise, `[B, 1, 1, 1]`.
    pub fn apply(&self, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        let Some(weights) = &self.weights else { return self.apply_common(residual) };
        let (out, squared) = self.apply_common(&residual.f_mul(weights)?)?;
        Ok((out.f_mul(weights)?, squared))
    }

    fn apply_common(&self, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        let size = residual.size();
        let along = residual.f_reshape([size[0], -1])?.f_matmul(&self.basis.f_tr()?)?.f_mul(&self.removed)?;
        let weighted = self.linear.precision(residual)?;
        let squared = dot(residual, &weighted)?;
        Ok((weighted.f_sub(&along.f_matmul(&self.basis)?.f_view(size.as_slice())?)?, squared))
    }
}
