//! `split-gibbs`: annealed split Gibbs sampling (Wu et al. 2024, "Principled probabilistic imaging using diffusion models
//! as plug-and-play priors", arXiv:2405.18782; Coeurdoux et al. 2023, arXiv:2304.11134), the reference that other samplers
//! are certified against. It alternates two exact conditionals of
//!
//! ```text
//! pi(x, z) ~ p(y | x) N(x; z, rho^2) p(z)                      z ~ p(z) N(y; A z, Sigma + rho^2 A A^T) for a linear A
//!
//! likelihood step  x | z:  N(z, rho^2) p(y | x), drawn by perturb-and-MAP, jointly with amplitude and sky
//! prior step       z | x:  reverse diffusion of x from noise level rho to 0, in L steps:
//!   D = denoise(x, t);   u ~ N(0, C),  C = t^2 C0 (C0 + t^2)^-1
//!   x <- D + (b/t)^2 (x - D) + (1 - (b/t)^2) u + b sqrt(1 - (b/t)^2) e                        next level b; last b = 0
//! ```
//!
//! It starts with a draw of the prior, by a reverse diffusion from t_max. rho falls over most of the rounds and is then
//! held; z is the draw, at the end, with amplitude and sky given z. No gradient through the network, and no assumption
//! about p(x0 | x_t, y). What is not exact:
//!
//! * rho > 0: the posterior is that of data with noise Sigma + rho^2 A A^T. rho must be well below the posterior's
//!   standard deviations; each round then forgets only about (rho / sd)^2, so that draws lag behind as rho falls. On a
//!   Gaussian posterior of 18 unknowns their variances are 5 % too large after 100 rounds, and 2 % after 400.
//! * The ancestral step takes x0's covariance given x_t as that of the prior's Gaussian, C (without u it would be zero).
//!   For a Gaussian prior that is exact at any L; else the error is of second order in a step, and falls with L.
//! * In the asinh stretch a coupling of rho above about 1 makes no sense: exp(rho e) in every pixel is more light than any
//!   galaxy has. rho then starts at 1, and what the data hardly see stays about where the prior's draw has put it: modes
//!   of a posterior that are further apart keep the weights of the start.
//! * A forward model that is not linear is linearised anew in each round of Gauss-Newton, and a draw is within about rho
//!   of its last point, so that the tangent's relative error is about rho^2 / 2. Sigma is that of the point, and its
//!   determinant is left out, as in all samplers here.

use tch::{Kind, Tensor};

use super::amplitude::draw_nuisance;
use super::condition::perturbation;
use super::conjugate_gradient::Stop;
use super::gauss_newton::{self, GaussNewton, scale_image};
use super::guidance::with_prior_nuisance;
use super::tangent::tangent_error;
use super::{Problem, Sampler, State, chain};
use crate::forward::{Latent, Likelihood};
use crate::prior::Covariance;
use crate::prior::ancestral::karras_grid;
use crate::random::Purpose;
use crate::{Error, Result};

/// Reverse-diffusion steps of a round, unless the config says otherwise.
pub const REVERSE_STEPS: u32 = 4;
/// The part of the rounds that rho is held for, unless the config says otherwise.
pub const HELD: f64 = 0.1;

/// The part of the network evaluations that goes into the first draw of the prior, and no less than one round.
const START: u32 = 10;

/// Settings of the sampler.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Network evaluations, over the start and all rounds.
    pub steps: u32,
    /// L.
    pub reverse_steps: u32,
    /// Where the first draw of the prior starts.
    pub t_max: f64,
    /// rho of the first round, and where it is held.
    pub rho_max: f64,
    pub rho: f64,
    /// The part of the rounds that rho is held for.
    pub held: f64,
    /// Where the reverse diffusion ends: the last step goes from here to 0.
    pub t_min: f64,
    /// How often the forward model is linearised anew within a likelihood step.
    pub relinearizations: u32,
    pub stop: Stop,
}

/// The sampler, with rho of all its rounds.
pub struct SplitGibbs {
    settings: Settings,
    /// Network evaluations of the first draw of the prior.
    start: u32,
    rounds: chain::Rounds,
    rho: Vec<f64>,
    covariance: Covariance,
}

impl SplitGibbs {
    /// rho and noise levels are in units of the prior's images.
    pub fn new(covariance: Covariance, settings: Settings) -> Result<SplitGibbs> {
        let Settings { steps, rho, rho_max, t_max, t_min, held, .. } = settings;
        let start = (steps / START).max(settings.reverse_steps).min(steps);
        let rounds = chain::Rounds::new("split-gibbs", steps - start, settings.reverse_steps)?;
        if !(t_min > 0.0 && rho >= t_min && rho_max >= rho && t_max >= rho_max && t_max.is_finite()) {
            return Err(Error::usage(format!(
                "split-gibbs: rho from {rho_max} to {rho} with t_max = {t_max} and t_min = {t_min}, expected \
                 t_max >= rho_max >= rho >= t_min > 0"
            )));
        }
        if !(0.0..=1.0).contains(&held) {
            return Err(Error::usage(format!(
                "split-gibbs: rho held for a part {held} of the rounds, expected 0 to 1"
            )));
        }
        let kept = ((f64::from(rounds.count) * held) as u32).min(rounds.count - 1);
        let mut schedule = karras_grid(rho_max, rho, rounds.count - kept);
        schedule.extend((0..kept).map(|_| rho));
        Ok(SplitGibbs { settings, start, rounds, rho: schedule, covariance })
    }

    /// The level of a step, the next one (0 at the end of a reverse diffusion), and then the round that comes after it.
    fn place(&self, step: u32) -> Result<([f64; 2], u32)> {
        let (from, index, length, next) = if step < self.start {
            (Some(&self.settings.t_max), step, self.start, 0)
        } else {
            let place = self.rounds.place(step - self.start);
            (self.rho.get(place.round as usize), place.index, place.length, place.round + 1)
        };
        let Some(&from) = from else {
            return Err(Error::internal(format!("split-gibbs: no step {step} of {}", self.settings.steps)));
        };
        let grid = karras_grid(from, self.settings.t_min, length);
        let after = grid.get(index as usize + 1).copied().unwrap_or(0.0);
        Ok(([grid[index as usize], after], next))
    }

    /// x | z.
    fn likelihood_step(
        &self,
        problem: &Problem,
        likelihood: &dyn Likelihood,
        step: u32,
        z: &Latent,
        rho: f64,
    ) -> Result<Latent> {
        let nuisance = likelihood.nuisance();
        let spread = Tensor::f_full([1i64], rho * rho, (Kind::Float, problem.device))?;
        let white = chain::white(problem, Purpose::PerturbWhite, step)?.f_mul_scalar(rho)?;
        let centre = with_prior_nuisance(problem, z.image.shallow_clone())?;
        let centre = centre.plus(&perturbation(problem, nuisance, step, white)?)?;
        let prior = |direction: &Latent| scale_image(direction, nuisance, &spread);
        let modes = gauss_newton::modes(&self.covariance, &spread.f_sqrt()?)?;
        let solver = GaussNewton {
            likelihood,
            prior: &prior,
            modes: Some(&modes),
            rounds: 1 + self.settings.relinearizations,
            tangent_error: tangent_error(rho),
            stop: self.settings.stop,
        };
        solver.draw(problem, step, &centre, z)
    }

    /// One reverse-diffusion step of x from level t to b.
    fn reverse(&self, problem: &Problem, step: u32, x: &Tensor, [t, b]: [f64; 2]) -> Result<Tensor> {
        // The step's own numbers: the start has used those of step 0.
        let spread = self.covariance.level(t)?.draw(&problem.noise, step + 1)?;
        let estimate = problem.denoiser.denoise(x, t)?.f_add(&spread)?;
        chain::ancestral(problem, step, x, &estimate, [t, b])
    }
}

impl Sampler for SplitGibbs {
    fn name(&self) -> &'static str {
        "split-gibbs"
    }

    fn steps(&self) -> u32 {
        self.settings.steps
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        chain::start(problem, &self.covariance, self.settings.t_max)
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let (levels, next) = self.place(state.step)?;
        let mut latent = chain::latent(state)?;
        latent.image = self.reverse(problem, state.step, &latent.image, levels)?;
        if levels[1] == 0.0 {
            latent = match (self.rho.get(next as usize), problem.likelihood) {
                (Some(&next), Some(likelihood)) => {
                    self.likelihood_step(problem, likelihood, state.step, &latent, next)?
                }
                (Some(&next), None) => {
                    let white = chain::white(problem, Purpose::PerturbWhite, state.step)?;
                    latent.image = latent.image.f_add(&white.f_mul_scalar(next)?)?;
                    latent
                }
                (None, Some(likelihood)) => {
                    draw_nuisance(problem, likelihood, state.step, &latent, self.settings.stop)?
                }
                (None, None) => latent,
            };
        }
        chain::advance(state, latent, None)
    }

    fn finish(&self, _problem: &Problem, state: State) -> Result<Latent> {
        chain::latent(&state)
    }
}

#[cfg(test)]
mod tests;
