//! Covariance-guided perturb-and-MAP with renoising: the default sampler. One network forward a step, no gradient
//! through the network.
//!
//! Each step treats p(x0 | x_t) as the Gaussian N(D(x_t), C) with the covariance C of the prior's Gaussian part, draws
//! x0 ~ p(x0 | x_t, y) by perturb-and-MAP (Papandreou & Yuille 2010, "Gaussian sampling by local perturbations"), and
//! goes to the next level by p(x_b | x0, x_t) (Ho et al. 2020, arXiv:2006.11239):
//!
//! ```text
//! x  = mu0 + N(0, C0 + t_max^2 I)
//! per step, noise level t, next level b:
//!   D  = denoise(x, t);   C = G t^2 C0 (C0 + t^2)^-1 G;   u ~ N(0, C);   v ~ N(0, Sigma)
//!   x0 = D + u + C J^T (J C J^T + Sigma)^-1 [y - v - A(x0') - J (D + u - x0')]      x0' the point of linearisation
//!   x  = x0 + (b/t)^2 (x - x0) + b sqrt(1 - (b/t)^2) e'                            the last step: u = v = 0, b = 0
//! ```
//!
//! The Gaussian is wrong about x0 where the prior is not Gaussian, but x_b knows of x0 only by 1 - (b/t)^2, and keeps what
//! x_t knew: without data the steps are ancestral sampling, whatever C is. Only above `ANCESTRAL_BELOW` is x_t forgotten.
//! G, when the prior has a table for it, scales C to the network's own uncertainty (`prior/spread.rs`).
//!
//! Amplitude and sky are not diffused: at each step they are drawn jointly with x0 from their own priors, and once more
//! given the final image. What the prior's images fulfil exactly (their unit flux) conditions N(D, C) at each step
//! (`condition.rs`), and Sigma holds the error of the tangent itself (`tangent.rs`).

use std::rc::Rc;

use tch::Tensor;

use super::condition::{ConditionedPrior, perturbation, scale_by_prior};
use super::conjugate_gradient::{self, Stop};
use super::preconditioner::Preconditioner;
use super::tangent::{tangent_error, within_reach};
use super::{Problem, Sampler, State};
use crate::forward::{Latent, Likelihood, Linearized};
use crate::prior::ancestral::karras_grid;
use crate::prior::{Covariance, Level, Spread};
use crate::random::Purpose;
use crate::{Error, Result};

/// Noise level below which a tangent is good enough, and is not taken anew: half its square is 2 % in flux.
const TANGENT_GOOD: f64 = 0.2;

/// Noise level below which x is renoised with what it knew. Above, the prior is as good as its Gaussian, and forgetting
/// mends what a far-off tangent may have spoilt: draws of bright galaxies were lost otherwise, one in sixty.
const ANCESTRAL_BELOW: f64 = 3.0;

/// A solution that only says where to linearise next needs this much less precision.
const ROUGH: f64 = 10.0;

/// Settings of the sampler.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Noise levels, and so network forwards.
    pub steps: u32,
    pub t_max: f64,
    pub t_min: f64,
    /// How often the forward model is linearised anew within a step.
    pub relinearizations: u32,
    pub stop: Stop,
}

/// The sampler, with the operators of all its noise levels.
pub struct PerturbMap {
    settings: Settings,
    covariance: Covariance,
    levels: Vec<Level>,
    spread: Option<Spread>,
}

impl PerturbMap {
    /// Prepares the operators of every level; `covariance` is the prior's C0, on the device of the network, and `spread`
    /// the table of its uncertainty, where it has one.
    pub fn new(covariance: Covariance, spread: Option<Spread>, settings: Settings) -> Result<Self> {
        let levels =
            karras_levels(settings.t_max, settings.t_min, settings.steps)?.into_iter().map(|t| covariance.level(t));
        let levels = levels.collect::<Result<Vec<_>>>()?;
        Ok(PerturbMap { settings, covariance, levels, spread })
    }

    /// The scales of the covariance where the network's estimate is `denoised`.
    fn scales(&self, t: f64, denoised: &Tensor) -> Result<Option<Tensor>> {
        self.spread.as_ref().map(|spread| spread.factor(t, denoised)).transpose()
    }

    /// A draw of x0 (and of amplitude and sky) given x_t and the data, or its mean when `perturbed` is false.
    fn conditional(
        &self,
        problem: &Problem,
        likelihood: &dyn Likelihood,
        state: &State,
        denoised: Tensor,
        perturbed: bool,
    ) -> Result<Latent> {
        let level = &self.levels[state.step as usize];
        let t = level.t;
        let level = level.scaled_by(self.scales(t, &denoised)?);
        let nuisance = likelihood.nuisance();
        // Linearise at the denoised image with the amplitude and sky of the step before.
        let mut point = Latent {
            image: denoised.shallow_clone(),
            ln_amplitude: state.get("ln_amplitude")?.shallow_clone(),
            sky: state.get("sky")?.shallow_clone(),
        };
        let count = problem.noise.count();
        let mut centre = Latent {
            image: denoised,
            ln_amplitude: nuisance.ln_amplitude_mean.f_unsqueeze(0)?.f_expand([count, -1], false)?,
            sky: nuisance.sky_sd.f_zeros_like()?.f_unsqueeze(0)?.f_expand([count, -1], false)?,
        };
        let error = tangent_error(t);
        let mut linear: Rc<dyn Linearized> = likelihood.linearize_within(&point, error)?.into();
        let mut data = likelihood.data().f_unsqueeze(0)?;
        let mut slack = None;
        if perturbed {
            let image = level.draw(&problem.noise, state.step)?;
            centre = centre.plus(&perturbation(problem, nuisance, state.step, image)?)?;
            data = data.f_sub(&linear.noise(&problem.noise, state.step)?)?;
            slack = Some(problem.noise.normal(Purpose::PerturbConstraint, state.step, &[], problem.device)?);
        }
        // The covariance of the noise stays the one that the data were perturbed with.
        let noise = linear.clone();
        let stop = self.settings.stop;
        // Where the tangent is better than the data, another one changes nothing.
        let again = if t > TANGENT_GOOD { self.settings.relinearizations } else { 0 };
        for round in 0..=again {
            let prior = ConditionedPrior::new(likelihood, nuisance, &level, &point.image)?;
            let conditioned = prior.centre(&centre, &point.image, slack.as_ref())?;
            let preconditioner = Preconditioner::new(likelihood, &point, Some(&level.modes()?), error)?;
            let apply = |direction: &Latent| prior.apply(direction);
            let stop = if round < again { stop.loosened(ROUGH) } else { stop };
            let solution =
                update(&conditioned, &point, &data, linear.as_ref(), noise.as_ref(), &apply, &preconditioner, stop)?;
            point = within_reach(solution, &point, likelihood.reach())?;
            if round < again {
                linear = likelihood.linearize_within(&point, error)?.into();
            }
        }
        Ok(point)
    }

    /// A draw of amplitude and sky given the image and the data.
    fn nuisance_draw(
        &self,
        problem: &Problem,
        likelihood: &dyn Likelihood,
        step: u32,
        point: Latent,
    ) -> Result<Latent> {
        let nuisance = likelihood.nuisance();
        let linear = likelihood.linearize(&point)?;
        let image = point.image.f_zeros_like()?;
        let fixed = Latent {
            image: point.image.shallow_clone(),
            ln_amplitude: nuisance.ln_amplitude_mean.f_unsqueeze(0)?,
            sky: nuisance.sky_sd.f_zeros_like()?.f_unsqueeze(0)?,
        };
        let centre = fixed.plus(&perturbation(problem, nuisance, step, image)?)?;
        let data = likelihood.data().f_unsqueeze(0)?.f_sub(&linear.noise(&problem.noise, step)?)?;
        let prior = |direction: &Latent| scale_by_prior(direction, nuisance, None);
        let preconditioner = Preconditioner::new(likelihood, &point, None, 0.0)?;
        let linear = linear.as_ref();
        let drawn = update(&centre, &point, &data, linear, linear, &prior, &preconditioner, self.settings.stop)?;
        within_reach(drawn, &point, likelihood.reach())
    }
}

/// x at the next noise level b, given the draw of x0 and x_t: p(x_b | x0, x_t) of the noising process (Ho et al. 2020,
/// arXiv:2006.11239, equations 6 and 7, for the variance-exploding process).
fn renoised(problem: &Problem, state: &State, x0: Tensor, t: f64, b: f64) -> Result<Tensor> {
    let kept = if t > ANCESTRAL_BELOW { 0.0 } else { (b / t).powi(2) };
    let white = problem.noise.normal(Purpose::Renoise, state.step, &x0.size()[1..], problem.device)?;
    let fresh = white.f_mul_scalar(b * (1.0 - kept).sqrt())?;
    Ok(x0.f_lerp(state.get("x")?, kept)?.f_add(&fresh)?)
}

/// centre + P J^T (J P J^T + Sigma)^-1 [data - A(point) - J (centre - point)], P the prior covariance.
#[allow(clippy::too_many_arguments)] // The terms of one formula.
fn update(
    centre: &Latent,
    point: &Latent,
    data: &Tensor,
    linear: &dyn Linearized,
    noise: &dyn Linearized,
    prior: &dyn Fn(&Latent) -> Result<Latent>,
    preconditioner: &Preconditioner,
    stop: Stop,
) -> Result<Latent> {
    let shift = linear.apply(&centre.minus(point)?)?;
    let rhs = data.f_sub(linear.prediction())?.f_sub(&shift)?;
    let (weights, iterations) = conjugate_gradient::solve(
        &rhs,
        stop,
        |residual| preconditioner.apply(residual),
        |w| {
            let through = linear.apply(&prior(&linear.adjoint(w)?)?)?;
            Ok(through.f_add(&noise.covariance(w)?)?)
        },
    )?;
    tracing::trace!(iterations, "conjugate gradients");
    centre.plus(&prior(&linear.adjoint(&weights)?)?)
}

/// The grid of noise levels of Karras et al. (2022, arXiv:2206.00364, equation 5) with rho = 7, from `t_max` down to
/// `t_min`; the level after the last is 0.
pub fn karras_levels(t_max: f64, t_min: f64, steps: u32) -> Result<Vec<f64>> {
    if !(t_min > 0.0 && t_max > t_min && t_max.is_finite() && steps >= 2) {
        return Err(Error::usage(format!(
            "sampler: {steps} noise levels from t_max = {t_max} to t_min = {t_min}; expected at least 2 and t_max > t_min > 0"
        )));
    }
    Ok(karras_grid(t_max, t_min, steps))
}

impl Sampler for PerturbMap {
    fn name(&self) -> &'static str {
        "perturb-map"
    }

    fn steps(&self) -> u32 {
        self.settings.steps
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        let x = self.covariance.draw(self.settings.t_max, &problem.noise, 0)?;
        let mut tensors = vec![("x".to_string(), x)];
        if let Some(likelihood) = problem.likelihood {
            let nuisance = likelihood.nuisance();
            let count = problem.noise.count();
            let repeat = |row: &Tensor| -> Result<Tensor> { Ok(row.f_unsqueeze(0)?.f_repeat([count, 1])?) };
            tensors.push(("ln_amplitude".to_string(), repeat(&nuisance.ln_amplitude_mean)?));
            tensors.push(("sky".to_string(), repeat(&nuisance.sky_sd.f_zeros_like()?)?));
        }
        Ok(State { step: 0, tensors })
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let level = &self.levels[state.step as usize];
        let next = self.levels.get(state.step as usize + 1).map_or(0.0, |level| level.t);
        let last = next == 0.0;
        let denoised = problem.denoiser.denoise(state.get("x")?, level.t)?;
        let mut drawn = match problem.likelihood {
            Some(likelihood) => self.conditional(problem, likelihood, state, denoised, !last)?,
            None => {
                let image = if last {
                    denoised
                } else {
                    {
                        let local = level.scaled_by(self.scales(level.t, &denoised)?);
                        denoised.f_add(&local.draw(&problem.noise, state.step)?)?
                    }
                };
                let none = Tensor::f_zeros([problem.noise.count(), 0], (tch::Kind::Float, problem.device))?;
                Latent { image, ln_amplitude: none.shallow_clone(), sky: none }
            }
        };
        if last {
            // Amplitude and sky were only maximised over above: draw them given the final image.
            if let Some(likelihood) = problem.likelihood {
                drawn = self.nuisance_draw(problem, likelihood, state.step, drawn)?;
            }
        } else {
            drawn.image = renoised(problem, state, drawn.image, level.t, next)?;
        }
        state.tensors = vec![
            ("x".to_string(), drawn.image),
            ("ln_amplitude".to_string(), drawn.ln_amplitude),
            ("sky".to_string(), drawn.sky),
        ];
        state.step += 1;
        Ok(())
    }

    fn finish(&self, _problem: &Problem, state: State) -> Result<Latent> {
        Ok(Latent {
            image: state.get("x")?.shallow_clone(),
            ln_amplitude: state.get("ln_amplitude")?.shallow_clone(),
            sky: state.get("sky")?.shallow_clone(),
        })
    }
}

#[cfg(test)]
mod tests;
