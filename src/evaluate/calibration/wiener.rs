//! A noisy Wiener image: a draw of the posterior that the prior's Gaussian part alone would give. It is the reference of
//! TARP (Lemos et al. 2023, arXiv:2302.03026), whose references must depend on the data: with references of the prior a
//! sampler that ignores the data passes.
//!
//! ```text
//! x = mu0 + u + C0 J^T w,   (J C0 J^T + Sigma) w = y - v - A(mu0) - J u,   u ~ N(0, C0), v ~ N(0, Sigma)
//! ```
//!
//! Amplitude and sky are held at their prior means. Any function of the data and of independent noise is a valid
//! reference, so that neither the tangent at mu0 nor an unfinished solve can make a calibrated sampler fail.

use tch::{Device, Kind, Tensor};

use super::problems::Setting;
use crate::Result;
use crate::forward::{Latent, Likelihood};
use crate::prior::Covariance;
use crate::random::BlockNoise;
use crate::sampler::conjugate_gradient::{Stop, dot, solve};

/// A rough solution is as good a reference as an exact one.
const STOP: Stop = Stop { tolerance: 1.0, iterations: 100 };

/// One draw, `[1, C, n, n]`, by key.
pub fn reference(setting: &Setting, likelihood: &dyn Likelihood, noise: &BlockNoise, device: Device) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let covariance = &setting.covariance;
    let [channels, rows, columns] = covariance.shape;
    let nuisance = likelihood.nuisance();
    let mean = covariance.mean.f_view([1, channels, rows, columns])?;
    let at = |image: Tensor, ln_amplitude: &Tensor| -> Result<Latent> {
        Ok(Latent {
            image,
            ln_amplitude: ln_amplitude.f_unsqueeze(0)?,
            sky: nuisance.sky_sd.f_zeros_like()?.f_unsqueeze(0)?,
        })
    };
    let still = nuisance.ln_amplitude_mean.f_zeros_like()?;
    let point = at(mean.shallow_clone(), &nuisance.ln_amplitude_mean)?;
    let linear = likelihood.linearize(&point)?;
    let shift = covariance.draw(0.0, noise, 0)?.f_sub(&mean)?.f_to_device(device)?;
    let predicted = linear.prediction().f_add(&linear.apply(&at(shift.shallow_clone(), &still)?)?)?;
    let rhs = likelihood.data().f_unsqueeze(0)?.f_sub(&linear.noise(noise, 0)?)?.f_sub(&predicted)?;
    let apply = |w: &Tensor| -> Result<Tensor> {
        let back = spread(covariance, &linear.adjoint(w)?.image)?;
        Ok(linear.apply(&at(back, &still)?)?.f_add(&linear.covariance(w)?)?)
    };
    let precondition = |residual: &Tensor| -> Result<(Tensor, Tensor)> {
        let weighted = linear.precision(residual)?;
        let squared = dot(residual, &weighted)?;
        Ok((weighted, squared))
    };
    let w = solve(&rhs, STOP, precondition, apply)?.weights;
    Ok(mean.f_add(&shift)?.f_add(&spread(covariance, &linear.adjoint(&w)?.image)?)?)
}

/// C0 applied to images `[B, C, n, n]`.
fn spread(covariance: &Covariance, images: &Tensor) -> Result<Tensor> {
    let flat = images.f_reshape([-1, covariance.mean.size()[0]])?;
    let along = flat.f_matmul(&covariance.components.f_tr()?)?.f_mul(&covariance.variances)?;
    let low_rank = along.f_matmul(&covariance.components)?;
    Ok(flat.f_mul(&covariance.diagonal)?.f_add(&low_rank)?.f_view_as(images)?.f_to_kind(Kind::Float)?)
}
