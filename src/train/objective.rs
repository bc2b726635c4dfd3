//! What is learned: denoising with the Gaussian skip (the lean network), or the noise of a variance-preserving diffusion (the
//! improved-diffusion U-Net).
//!
//! ```text
//! EDM   ((D(x0 + t n, t) - x0) / c_out(t))^2 = (gate F - (x0 - W) / c_out)^2            (Karras et al. 2022, arXiv:2206.00364)
//! VP    (eps_theta(sqrt(ab) x0 + sqrt(1 - ab) n, t) - n)^2, t uniform                   (Ho et al. 2020, arXiv:2006.11239)
//!       + T / 1000 L_t where the variance is learned, no gradient to its mean           (Nichol & Dhariwal 2021, eq. 16)
//! ```
//!
//! each as the mean over an image's pixels.

use tch::{Device, Kind, Tensor};

use crate::device::{Half, HalfPrecision};
use crate::prior::card::{Architecture, UnetConfig};
use crate::prior::lean_denoiser::LeanDenoiser;
use crate::prior::schedule::Schedule;
use crate::prior::skip::Skip;
use crate::prior::vp::VpDenoiser;
use crate::prior::{Covariance, Denoiser, HandOver, as_it_is};
use crate::train::batches::level_grid;
use crate::train::config::TrainConfig;
use crate::train::parameters::{Layout, Network};
use crate::{Error, Result};

/// The scale of times that the U-Net is given.
const TIMES: f64 = 1000.0;

/// A loss with its tables.
pub enum Objective {
    Edm { skip: Skip },
    Vp { schedule: Schedule, config: UnetConfig, covariance: Covariance, levels: Vec<f64> },
}

impl Objective {
    /// The objective of the config's network, on `device`.
    pub fn new(config: &TrainConfig, covariance: &Covariance, sigma_max: f64, device: Device) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let covariance = covariance.to_device(device)?;
        Ok(match config.architecture()? {
            Architecture::Unet(unet) => {
                let schedule = Schedule::named(&unet.noise_schedule, unet.diffusion_steps)?;
                let levels = (0..schedule.steps()).map(|index| schedule.sigma(index)).collect();
                Objective::Vp { schedule, config: unet, covariance, levels }
            }
            _ => {
                let levels = level_grid(config.levels.sigma_min, sigma_max, config.levels.count);
                Objective::Edm { skip: Skip::new(&covariance, &levels)? }
            }
        })
    }

    /// The noise levels of the training, in the variance-exploding convention.
    pub fn levels(&self) -> &[f64] {
        match self {
            Objective::Edm { skip } => skip.levels(),
            Objective::Vp { levels, .. } => levels,
        }
    }

    /// The loss of each of the stretched images `x0` `[B, C, n, n]` with these standard normal numbers, at these levels; the
    /// network alone may compute in 16 bits. What its encoder gives its decoder passes through `hand_over`.
    pub fn losses(
        &self,
        network: &Network,
        x0: &Tensor,
        noise: &Tensor,
        levels: &[i64],
        half: Option<Half>,
        hand_over: &mut HandOver,
    ) -> Result<Tensor> {
        match (self, network) {
            (Objective::Edm { skip }, Network::Lean(network)) => {
                let (prepared, target) = {
                    let _guard = tch::no_grad_guard();
                    noisy(skip, x0, noise, levels)?
                };
                let forward = || network.forward_handing_over(&prepared.inputs, &prepared.ln_sigma, hand_over);
                let output = compute(half, x0.device(), forward)?.f_mul(&prepared.gate)?;
                mean(&output.f_sub(&target)?.f_square()?)
            }
            (Objective::Vp { schedule, config, .. }, Network::Unet(network)) => {
                let column = |pick: &dyn Fn(usize) -> f64| column(levels, pick, x0.device());
                let signal = column(&|index| schedule.alpha_bar[index].sqrt())?;
                let sd = column(&|index| (1.0 - schedule.alpha_bar[index]).sqrt())?;
                let x_t = x0.f_mul(&signal)?.f_add(&noise.f_mul(&sd)?)?;
                let times = column(&|index| index as f64 * TIMES / schedule.steps() as f64)?.f_view(-1)?;
                let output = compute(half, x0.device(), || network.forward_handing_over(&x_t, &times, hand_over))?;
                let channels = x0.size()[1];
                let predicted = output.f_narrow(1, 0, channels)?;
                let simple = mean(&predicted.f_sub(noise)?.f_square()?)?;
                if !config.learn_sigma {
                    return Ok(simple);
                }
                let fraction = output.f_narrow(1, channels, channels)?.f_add_scalar(1.0)?.f_div_scalar(2.0)?;
                let bound = variational(schedule, levels, x0, &x_t, &predicted.f_detach()?, &fraction)?;
                Ok(simple.f_add(&bound.f_mul_scalar(schedule.steps() as f64 / TIMES)?)?)
            }
            _ => Err(Error::internal("the network is not that of the objective")),
        }
    }

    /// Mean squared errors of the network and of the Wiener denoiser, in units that a level's losses have.
    pub fn heldout(&self, network: &Network, x0: &Tensor, noise: &Tensor, level: i64) -> Result<(f64, f64)> {
        let _guard = tch::no_grad_guard();
        let levels = vec![level; x0.size()[0] as usize];
        let wiener = match self {
            Objective::Edm { skip } => noisy(skip, x0, noise, &levels)?.1.f_square()?,
            Objective::Vp { covariance, levels: grid, .. } => {
                let sigma = grid[level as usize];
                let x = x0.f_add(&noise.f_mul_scalar(sigma)?)?;
                let estimate = covariance.level(sigma)?.wiener(&x)?;
                x.f_sub(&estimate)?.f_div_scalar(sigma)?.f_sub(noise)?.f_square()?
            }
        };
        let network = match (self, network) {
            (Objective::Vp { schedule, .. }, Network::Unet(network)) => {
                let (alpha_bar, sigma) = (schedule.alpha_bar[level as usize], schedule.sigma(level as usize));
                let x_t = x0.f_add(&noise.f_mul_scalar(sigma)?)?.f_mul_scalar(alpha_bar.sqrt())?;
                let time = level as f64 * TIMES / schedule.steps() as f64;
                let times = Tensor::f_full([x0.size()[0]], time, (Kind::Float, x0.device()))?;
                network.forward(&x_t, &times)?.f_narrow(1, 0, x0.size()[1])?.f_sub(noise)?.f_square()?
            }
            _ => self.losses(network, x0, noise, &levels, None, &mut as_it_is)?,
        };
        let number = |values: &Tensor| -> Result<f64> { Ok(values.f_mean(Kind::Float)?.f_double_value(&[])?) };
        Ok((number(&network)?, number(&wiener)?))
    }

    /// The network with a copy of these weights as a denoiser, on their device.
    pub fn denoiser(&self, layout: &Layout, weights: &Tensor, covariance: &Covariance) -> Result<Box<dyn Denoiser>> {
        let copy = weights.f_detach_copy()?;
        Ok(match (self, layout.network(&copy, false)?.0) {
            (Objective::Vp { config, .. }, Network::Unet(network)) => Box::new(VpDenoiser::of_unet(network, config)?),
            (Objective::Edm { .. }, Network::Lean(network)) => {
                Box::new(LeanDenoiser::new(network, covariance.to_device(weights.device())?))
            }
            _ => return Err(Error::internal("the network is not that of the objective")),
        })
    }
}

/// What a network says, in f32, with or without 16-bit numbers inside.
fn compute(half: Option<Half>, device: Device, forward: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    let inside = half.map(|half| HalfPrecision::begin(half, device)).transpose()?;
    let output = forward()?;
    drop(inside);
    Ok(output.f_to_kind(Kind::Float)?)
}

/// The mean over each image's pixels, `[B]`.
fn mean(values: &Tensor) -> Result<Tensor> {
    Ok(values.f_mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float)?)
}

/// A number for each image, `[B, 1, 1, 1]`.
fn column(levels: &[i64], pick: &dyn Fn(usize) -> f64, device: Device) -> Result<Tensor> {
    let values: Vec<f32> = levels.iter().map(|&level| pick(level as usize) as f32).collect();
    Ok(Tensor::f_from_slice(&values)?.f_view([-1, 1, 1, 1])?.f_to_device(device)?)
}

/// The lean network's inputs and its target (x0 - W) / c_out.
fn noisy(skip: &Skip, x0: &Tensor, noise: &Tensor, levels: &[i64]) -> Result<(crate::prior::skip::Prepared, Tensor)> {
    let sigma = column(levels, &|index| skip.levels()[index], x0.device())?;
    let x = x0.f_add(&noise.f_mul(&sigma)?)?;
    let prepared = skip.prepare(&x, &Tensor::f_from_slice(levels)?.f_to_device(x0.device())?)?;
    let target = x0.f_sub(&prepared.wiener)?.f_div(&prepared.output_scale)?;
    Ok((prepared, target))
}

/// L_t in bits per dimension: the divergence of p(x_{t-1} | x_t), whose log-variance lies the `fraction` of the way from that
/// of the posterior to ln beta, from q(x_{t-1} | x_t, x_0). At t = 0 it is the negative log-density of x_0 (the published code
/// scores 8-bit grey levels there; these images are continuous).
fn variational(
    schedule: &Schedule,
    levels: &[i64],
    x0: &Tensor,
    x_t: &Tensor,
    predicted: &Tensor,
    fraction: &Tensor,
) -> Result<Tensor> {
    let column = |pick: &dyn Fn(usize) -> f64| column(levels, pick, x0.device());
    // The posterior's variance is zero at t = 0: as published, that of t = 1 stands for it.
    let true_ln = column(&|index| schedule.posterior(index.max(1)).variance.ln())?;
    let largest = column(&|index| schedule.betas[index].ln())?;
    let ln_variance = fraction.f_mul(&largest.f_sub(&true_ln)?)?.f_add(&true_ln)?;
    let signal = column(&|index| schedule.alpha_bar[index].sqrt())?;
    let sd = column(&|index| (1.0 - schedule.alpha_bar[index]).sqrt())?;
    let guess = x_t.f_sub(&predicted.f_mul(&sd)?)?.f_div(&signal)?;
    // The two means differ by their x_0 only.
    let shift = x0.f_sub(&guess)?.f_mul(&column(&|index| schedule.posterior(index).of_x0)?)?.f_square()?;
    let inverse = ln_variance.f_neg()?.f_exp()?;
    let spread = ln_variance.f_sub(&true_ln)?;
    let divergence = spread
        .f_add(&spread.f_neg()?.f_exp()?)?
        .f_add(&shift.f_mul(&inverse)?)?
        .f_sub_scalar(1.0)?
        .f_mul_scalar(0.5)?;
    let ln_density = ln_variance.f_add(&shift.f_mul(&inverse)?)?.f_add_scalar(std::f64::consts::TAU.ln())?;
    let first = column(&|index| f64::from(u8::from(index == 0)))?;
    let rest = first.f_neg()?.f_add_scalar(1.0)?;
    let bound = divergence.f_mul(&rest)?.f_add(&ln_density.f_mul_scalar(0.5)?.f_mul(&first)?)?;
    Ok(mean(&bound)?.f_div_scalar(std::f64::consts::LN_2)?)
}
