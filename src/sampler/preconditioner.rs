//! The preconditioner of the data-space solves. J P J^T + Sigma has a few very large eigenvalues, those of the galaxy's
//! brightness, colour and overall shape, on top of a moderate rest: with V the images of the prior covariance's low-rank
//! modes and of amplitude and sky, and Q an approximation of Sigma^-1,
//!
//! ```text
//! M = Q^-1 + V V^T,    M^-1 = Q - Q V (I + V^T Q V)^-1 V^T Q
//! ```
//!
//! V and Q are taken at the mean of the batch and shared by its samples, so that they cost a few products a sample. Where
//! samples have likelihoods of their own, each group of those that are alike has its V and Q, of the likelihood that stands for
//! them, and D M^-1 D is used, with D the standard deviation of its sky noise over that of each sample: pixels that count for
//! less in a sample do so here.

use tch::{Kind, Tensor};

use super::conjugate_gradient::dot;
use crate::Result;
use crate::forward::{Group, Latent, Likelihood, Linearized};

/// Added to eigenvalues before dividing by them: far below the 1 that the noise contributes.
const TINY: f64 = 1e-9;

/// Largest eigenvalue that is taken off whole. Along it M^-1 is what remains of 1 - e / (1 + e), which in f32 must stay
/// well above rounding, or M would not be positive. What is larger costs the solver a few iterations.
const LARGEST: f64 = 1e5;

/// M^-1 of one linearisation.
pub struct Preconditioner {
    /// One, or one for each group of samples.
    parts: Vec<Part>,
}

/// Samples of a batch that share V and Q.
struct Part {
    /// Which they are, `[G]`, and D, `[G, C, my, mx]`; `None` for all samples, with D = 1.
    group: Option<[Tensor; 2]>,
    shared: Shared,
}

/// (Q^-1 + V V^T)^-1.
struct Shared {
    /// The linearisation that knows Q.
    linear: Box<dyn Linearized>,
    /// Q V u / sqrt(e) for the eigenvectors u of V^T Q V and their eigenvalues e, `[modes, C my mx]`.
    basis: Tensor,
    /// e / (1 + e) for the eigenvalue e of each, `[modes]`.
    removed: Tensor,
}

impl Preconditioner {
    /// Linearises at the mean of `point` over the batch, or over each group of it. `modes` `[K, C, n, n]` is the low-rank part of
    /// the image's prior covariance; without it the image is held fixed.
    pub fn new(
        likelihood: &dyn Likelihood,
        point: &Latent,
        modes: Option<&Tensor>,
        tangent_error: f64,
    ) -> Result<Self> {
        let of_group = |group: &Group| -> Result<Part> {
            let select = |tensor: &Tensor| tensor.f_index_select(0, group.samples);
            let point = Latent {
                image: select(&point.image)?,
                ln_amplitude: select(&point.ln_amplitude)?,
                sky: select(&point.sky)?,
            };
            let shared = Shared::new(group.likelihood, &point, modes, tangent_error)?;
            Ok(Part { group: Some([group.samples.shallow_clone(), group.weights.shallow_clone()]), shared })
        };
        let mut parts = likelihood.groups().iter().map(of_group).collect::<Result<Vec<_>>>()?;
        if parts.is_empty() {
            parts.push(Part { group: None, shared: Shared::new(likelihood, point, modes, tangent_error)? });
        }
        Ok(Preconditioner { parts })
    }

    /// The number of directions that the data see better than the prior, of those taken off: the sum of e / (1 + e), in the mean
    /// over the samples.
    pub fn directions(&self) -> Result<f64> {
        let (mut sum, mut count) = (0.0, 0.0);
        for Part { group, shared } in &self.parts {
            let samples = group.as_ref().map_or(1, |[samples, _]| samples.numel()) as f64;
            sum += samples * shared.removed.f_sum(Kind::Double)?.f_double_value(&[])?;
            count += samples;
        }
        Ok(sum / count)
    }

    /// M^-1 r, `[B, C, my, mx]`, and r^T Q r, the square of r in units of the noise, `[B, 1, 1, 1]`.
    pub fn apply(&self, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut out = residual.f_empty_like()?;
        let mut squared = residual.f_new_empty([residual.size()[0], 1, 1, 1], (residual.kind(), residual.device()))?;
        for Part { group, shared } in &self.parts {
            let Some([samples, weights]) = group else { return shared.apply(residual) };
            let (own, own_squared) = shared.apply(&residual.f_index_select(0, samples)?.f_mul(weights)?)?;
            let _ = out.f_index_copy_(0, samples, &own.f_mul(weights)?)?;
            let _ = squared.f_index_copy_(0, samples, &own_squared)?;
        }
        Ok((out, squared))
    }
}

impl Shared {
    fn new(likelihood: &dyn Likelihood, point: &Latent, modes: Option<&Tensor>, tangent_error: f64) -> Result<Self> {
        // A sample that has become NaN or infinite must not spoil the others.
        let mean = |tensor: &Tensor| -> Result<Tensor> {
            let finite = tensor.f_where_scalarother(&tensor.f_isfinite()?, f64::NAN)?;
            Ok(finite.f_nanmean([0i64].as_slice(), true, Kind::Float)?)
        };
        let centre =
            Latent { image: mean(&point.image)?, ln_amplitude: mean(&point.ln_amplitude)?, sky: mean(&point.sky)? };
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
        Ok(Shared { linear, basis, removed })
    }

    fn apply(&self, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        let size = residual.size();
        let along = residual.f_reshape([size[0], -1])?.f_matmul(&self.basis.f_tr()?)?.f_mul(&self.removed)?;
        let weighted = self.linear.precision(residual)?;
        let squared = dot(residual, &weighted)?;
        Ok((weighted.f_sub(&along.f_matmul(&self.basis)?.f_view(size.as_slice())?)?, squared))
    }
}
