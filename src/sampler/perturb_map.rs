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
//! x_t knew: without data these steps are ancestral sampling, with an error of second order in a step where C is wrong. Above
//! `ANCESTRAL_BELOW` x_t is forgotten.
//! G, when the prior has a table for it, scales C to the network's own uncertainty (`prior/spread.rs`).
//!
//! Amplitude and sky are not diffused: at each step they are drawn jointly with x0 from their own priors, and once more
//! given the final image. What the prior's images fulfil exactly (their unit flux) conditions N(D, C) at each step
//! (`condition.rs`), and Sigma holds the error of the tangent itself (`tangent.rs`).

use std::rc::Rc;

use tch::Tensor;

use super::condition::{ConditionedPrior, perturbation};
use super::conjugate_gradient::Stop;
use super::gauss_newton::{self, draw_nuisance};
use super::guidance::with_prior_nuisance;
use super::preconditioner::Preconditioner;
use super::tangent::{tangent_error, within_reach};
use super::{Problem, Sampler, State, chain};
use crate::Result;
use crate::forward::{Latent, Likelihood, Linearized};
use crate::prior::covariance::Local;
use crate::prior::{Covariance, Level, Spread};
use crate::random::Purpose;

/// Noise level below which a tangent is good enough, and is not taken anew: half its square is 2 % in flux.
const TANGENT_GOOD: f64 = 0.2;

/// Noise level, in standard deviations of the prior's strongest mode, below which x is renoised with what it knew. What is
/// not Gaussian and decided above it is lost. But with memory at all levels 7 of 320 draws of the three HSC galaxies were
/// lost: what the first steps had put where the network has never seen light grew into one pixel with all of it.
const ANCESTRAL_BELOW: f64 = 0.19;

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
    /// From t_max to t_min, then 0.
    grid: Vec<f64>,
    levels: Vec<Level>,
    /// The noise level below which x is renoised with what it knew.
    ancestral_below: f64,
    spread: Option<Spread>,
}

impl PerturbMap {
    /// Prepares the operators of every level; `covariance` is the prior's C0, on the device of the network, and `spread`
    /// the table of its uncertainty, where it has one.
    pub fn new(covariance: Covariance, spread: Option<Spread>, settings: Settings) -> Result<Self> {
        let grid = chain::levels("perturb-map", settings.t_max, settings.t_min, settings.steps)?;
        let levels = grid.iter().filter(|t| **t > 0.0).map(|t| covariance.level(*t)).collect::<Result<Vec<_>>>()?;
        let ancestral_below = ANCESTRAL_BELOW * covariance.largest_sd();
        Ok(PerturbMap { settings, covariance, grid, levels, ancestral_below, spread })
    }

    /// The scales of the covariance where the network's estimate is `denoised`.
    fn scales(&self, t: f64, denoised: &Tensor) -> Result<Option<Tensor>> {
        self.spread.as_ref().map(|spread| spread.factor(t, denoised)).transpose()
    }

    /// A draw of x0 (and of amplitude and sky) given x_t and the data, or, in the last step, its mean.
    fn conditional(
        &self,
        problem: &Problem,
        likelihood: &dyn Likelihood,
        step: u32,
        before: &Latent,
        denoised: Tensor,
        level: &Local,
    ) -> Result<Latent> {
        let nuisance = likelihood.nuisance();
        // Linearise at the denoised image with the amplitude and sky of the step before.
        let mut point = Latent {
            image: denoised.shallow_clone(),
            ln_amplitude: before.ln_amplitude.shallow_clone(),
            sky: before.sky.shallow_clone(),
        };
        let mut centre = with_prior_nuisance(problem, denoised)?;
        let error = tangent_error(level.t());
        let mut linear: Rc<dyn Linearized> = likelihood.linearize_within(&point, error)?.into();
        let mut data = likelihood.data().f_unsqueeze(0)?;
        let mut slack = None;
        if step + 1 < self.settings.steps {
            let image = level.draw(&problem.noise, step)?;
            centre = centre.plus(&perturbation(problem, nuisance, step, image)?)?;
            data = data.f_sub(&linear.noise(&problem.noise, step)?)?;
            slack = Some(problem.noise.normal(Purpose::PerturbConstraint, step, &[], problem.device)?);
        }
        // The covariance of the noise stays the one that the data were perturbed with.
        let noise = linear.clone();
        let stop = self.settings.stop;
        // Where the tangent is better than the data, another one changes nothing.
        let again = if level.t() > TANGENT_GOOD { self.settings.relinearizations } else { 0 };
        for round in 0..=again {
            let prior = ConditionedPrior::new(likelihood, nuisance, level, &point.image)?;
            let conditioned = prior.centre(&centre, &point.image, slack.as_ref())?;
            let preconditioner = Preconditioner::new(likelihood, &point, Some(&level.modes()?), error)?;
            let apply = |direction: &Latent| prior.apply(direction);
            let stop = if round < again { stop.loosened(ROUGH) } else { stop };
            let both = [linear.as_ref(), noise.as_ref()];
            let pull = gauss_newton::pull(&conditioned, &point, &data, both, &apply, &preconditioner, stop)?;
            point = within_reach(conditioned.plus(&apply(&pull)?)?, &point, likelihood.reach())?;
            if round < again {
                linear = likelihood.linearize_within(&point, error)?.into();
            }
        }
        Ok(point)
    }
}

impl Sampler for PerturbMap {
    fn name(&self) -> &'static str {
        "perturb-map"
    }

    fn steps(&self) -> u32 {
        self.settings.steps
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        chain::start(problem, &self.covariance, self.settings.t_max)
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let [t, b] = chain::pair("perturb-map", &self.grid, state.step)?;
        let before = chain::latent(state)?;
        let denoised = problem.denoiser.denoise(&before.image, t)?;
        let level = self.levels[state.step as usize].scaled_by(self.scales(t, &denoised)?);
        let last = b == 0.0;
        let mut drawn = match problem.likelihood {
            Some(likelihood) => self.conditional(problem, likelihood, state.step, &before, denoised, &level)?,
            None if last => with_prior_nuisance(problem, denoised)?,
            None => with_prior_nuisance(problem, denoised.f_add(&level.draw(&problem.noise, state.step)?)?)?,
        };
        if let (true, Some(likelihood)) = (last, problem.likelihood) {
            // Amplitude and sky were only maximised over above: draw them given the final image.
            drawn = draw_nuisance(problem, likelihood, state.step, &drawn, self.settings.stop)?;
        }
        if t > self.ancestral_below && !last {
            let white = chain::white(problem, Purpose::Renoise, state.step)?;
            drawn.image = drawn.image.f_add(&white.f_mul_scalar(b)?)?;
        } else {
            drawn.image = chain::ancestral(problem, state.step, &before.image, &drawn.image, [t, b])?;
        }
        chain::advance(state, drawn);
        Ok(())
    }

    fn finish(&self, _problem: &Problem, state: State) -> Result<Latent> {
        chain::latent(&state)
    }
}

#[cfg(test)]
mod tests;
