//! `daps`: decoupled annealing posterior sampling (Zhang et al. 2024, arXiv:2407.01521, Algorithm 1 and equation 7): at
//! each noise level a whole (short) solution of the probability-flow equation, Langevin steps on x0, and fresh noise that
//! does not remember x:
//!
//! ```text
//! xhat = x followed from level t to 0 by Euler steps,  x <- D + (b/t) (x - D),  D = denoise(x, t)
//! x0   = xhat, then N times      x0 <- x0 + eta grad ln [ N(x0; xhat, r^2) p(y | x0) ] + sqrt(2 eta) e,     r = t
//! x    = x0 + t' e'                                                       the next level t'; the last x0 is the draw
//! ```
//!
//! eta is tuned for each task in the paper. Here it is a fraction of 1 / L, L the largest curvature of the target (by power
//! iteration, for each sample and level), so that it means the same whatever the units and the signal-to-noise ratio.
//!
//! It is *not* calibrated: N(xhat, r^2) is not p(x0 | x_t) (xhat is a draw already), and N steps of that size do not mix
//! where the curvature is much less than L. Without data the Langevin steps are left out: xhat is then a draw of the prior.
//! The method holds no other unknowns: amplitude and sky are drawn from their conditional, given each x0.

use tch::Tensor;

use super::amplitude::draw_nuisance;
use super::conjugate_gradient::Stop;
use super::guidance::{TINY, image_direction, norm};
use super::tangent::tangent_error;
use super::{Problem, Sampler, State, chain};
use crate::forward::{Latent, Likelihood};
use crate::prior::Covariance;
use crate::prior::ancestral::karras_grid;
use crate::random::Purpose;
use crate::{Error, Result};

/// Euler steps of each level, unless the config says otherwise: published are 5 and 10.
pub const ODE_STEPS: u32 = 5;
/// Langevin steps of each level, unless the config says otherwise: published are about 100.
pub const LANGEVIN_STEPS: u32 = 100;
/// eta L, unless the config says otherwise. The variance along the stiffest direction is too large by
/// 1 / (1 - eta L / 2), without bound at 2.
pub const LANGEVIN_RATE: f64 = 0.2;
/// The largest eta L: power iteration finds the curvature to a few per cent, from below.
pub const LARGEST_RATE: f64 = 1.9;
/// Enough for the largest curvature to a few per cent, starting from the data's own pull.
const POWER_ITERATIONS: usize = 4;

/// Settings of the sampler.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Network evaluations, over all levels.
    pub steps: u32,
    pub ode_steps: u32,
    pub t_max: f64,
    pub t_min: f64,
    pub langevin_steps: u32,
    /// eta L.
    pub langevin_rate: f64,
    /// Of the solver that draws amplitude and sky.
    pub stop: Stop,
}

/// The sampler, with its noise levels.
pub struct Daps {
    settings: Settings,
    /// Of the annealing, from t_max to t_min, then 0.
    levels: Vec<f64>,
    rounds: chain::Rounds,
    covariance: Covariance,
}

impl Daps {
    /// Noise levels are in units of the prior's images.
    pub fn new(covariance: Covariance, settings: Settings) -> Result<Daps> {
        let rounds = chain::Rounds::new("daps", settings.steps, settings.ode_steps)?;
        let levels = chain::levels("daps", settings.t_max, settings.t_min, rounds.count)?;
        let rate = settings.langevin_rate;
        if !(rate > 0.0 && rate <= LARGEST_RATE) {
            return Err(Error::usage(format!("daps: the Langevin rate is {rate}, expected 0 to {LARGEST_RATE}")));
        }
        // Each has a random stream of its own, numbered by 32 bits.
        if settings.langevin_steps == 0 || settings.steps.checked_mul(settings.langevin_steps).is_none() {
            let found = settings.langevin_steps;
            return Err(Error::usage(format!("daps: {found} Langevin steps a level, expected 1 to about 100")));
        }
        Ok(Daps { settings, levels, rounds, covariance })
    }

    /// x0 from xhat.
    fn langevin(
        &self,
        problem: &Problem,
        likelihood: &dyn Likelihood,
        step: u32,
        from: &Latent,
        t: f64,
    ) -> Result<Tensor> {
        let precision = 1.0 / (t * t);
        let eta = curvature(likelihood, from, t)?.f_add_scalar(precision)?.f_reciprocal()?;
        let eta = eta.f_mul_scalar(self.settings.langevin_rate)?;
        let spread = eta.f_mul_scalar(2.0)?.f_sqrt()?;
        let mut at = from.plus(&image_direction(from.image.f_zeros_like()?, from)?)?;
        let count = self.settings.langevin_steps;
        for inner in 0..count {
            let linear = likelihood.linearize_within(&at, tangent_error(t))?;
            let residual = likelihood.data().f_unsqueeze(0)?.f_sub(linear.prediction())?;
            let pull = linear.adjoint(&linear.precision(&residual)?)?.image;
            let slope = pull.f_sub(&at.image.f_sub(&from.image)?.f_mul_scalar(precision)?)?;
            // No other step of this method draws with this purpose.
            let white = chain::white(problem, Purpose::PerturbWhite, step * count + inner)?;
            at.image = at.image.f_add(&slope.f_mul(&eta)?)?.f_add(&white.f_mul(&spread)?)?;
            if let Some(reach) = likelihood.reach() {
                // Beyond it the curvature is another one, and the steps could diverge.
                at.image = at.image.f_sub(&from.image)?.f_clamp(-reach, reach)?.f_add(&from.image)?;
            }
        }
        Ok(at.image)
    }
}

/// The largest eigenvalue of J^T Sigma^-1 J over images, for each sample: `[B, 1, 1, 1]`.
fn curvature(likelihood: &dyn Likelihood, at: &Latent, t: f64) -> Result<Tensor> {
    let linear = likelihood.linearize_within(at, tangent_error(t))?;
    let residual = likelihood.data().f_unsqueeze(0)?.f_sub(linear.prediction())?;
    let pull = linear.adjoint(&linear.precision(&residual)?)?.image;
    let mut direction = pull.f_div(&norm(&pull)?)?;
    let mut largest = norm(&pull)?;
    for _ in 0..POWER_ITERATIONS {
        let forward = linear.apply(&image_direction(direction, at)?)?;
        let back = linear.adjoint(&linear.precision(&forward)?)?.image;
        largest = norm(&back)?;
        direction = back.f_div(&largest)?;
    }
    Ok(largest.f_clamp_min(TINY)?)
}

impl Sampler for Daps {
    fn name(&self) -> &'static str {
        "daps"
    }

    fn steps(&self) -> u32 {
        self.settings.steps
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        chain::start(problem, &self.covariance, self.levels[0])
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let place = self.rounds.place(state.step);
        let [level, after] = chain::pair("daps", &self.levels, place.round)?;
        // At the last level there is nowhere to go but to 0, whatever the number of steps.
        let grid = karras_grid(level, self.settings.t_min, place.length);
        let t = grid[place.index as usize];
        let b = grid.get(place.index as usize + 1).copied().unwrap_or(0.0);
        let mut latent = chain::latent(state)?;
        let denoised = problem.denoiser.denoise(&latent.image, t)?;
        latent.image = denoised.f_add(&latent.image.f_sub(&denoised)?.f_mul_scalar(b / t)?)?;
        if b == 0.0 {
            if let Some(likelihood) = problem.likelihood {
                latent.image = self.langevin(problem, likelihood, state.step, &latent, level)?;
                latent = draw_nuisance(problem, likelihood, state.step, &latent, self.settings.stop)?;
            }
            if after > 0.0 {
                let fresh = chain::white(problem, Purpose::Renoise, state.step)?;
                latent.image = latent.image.f_add(&fresh.f_mul_scalar(after)?)?;
            }
        }
        chain::advance(state, latent, None)
    }

    fn finish(&self, _problem: &Problem, state: State) -> Result<Latent> {
        chain::latent(&state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::toy::*;
    use super::*;

    const STOP: Stop = Stop { tolerance: 1e-5, iterations: 60 };
    /// f32 rounding in products of other sizes, amplified by the chain.
    const BATCH_TOLERANCE: f64 = 1e-4;

    fn settings(steps: u32, t_max: f64) -> Settings {
        Settings {
            steps,
            ode_steps: ODE_STEPS,
            t_max,
            t_min: 0.02,
            langevin_steps: LANGEVIN_STEPS,
            langevin_rate: LANGEVIN_RATE,
            stop: STOP,
        }
    }

    fn on_toy(steps: u32) -> Daps {
        let covariance = GaussianToy::new(false).unwrap().covariance().unwrap();
        Daps::new(covariance, settings(steps, 6.0)).unwrap()
    }

    #[test]
    fn without_data_it_draws_from_the_prior_as_far_as_its_euler_steps_do() {
        let draws = |ode_steps, steps| {
            let settings = Settings { ode_steps, ..settings(steps, 40.0) };
            draws_without_data(&Daps::new(unit_covariance().unwrap(), settings).unwrap()).unwrap()
        };
        let [mean, variance] = draws(40, 800);
        // Five standard errors, and a few per cent for 40 Euler steps.
        assert!(mean.abs() < 0.055 && (variance - 1.0).abs() < 0.12, "{mean} {variance}");
        // Found: 0.76. The usual five steps follow the equation less well.
        let [_, variance] = draws(ODE_STEPS, 200);
        assert!(variance > 0.6 && variance < 0.9, "{variance}");
    }

    #[test]
    fn with_data_it_moves_to_them_whatever_their_units() {
        let sampler = Daps::new(unit_covariance().unwrap(), settings(50, 40.0)).unwrap();
        let [one, other] = [1.0, 1e4].map(|unit| misfit(&sampler, unit).unwrap());
        // Found: 1.07 (draws of the prior are off by 42).
        assert!(one < 2.0 && (one / other - 1.0).abs() < 1e-3, "{one} {other}");
    }

    /// What is true of it on a Gaussian posterior: it is near, and too wide, for xhat is a draw before noise is added to it.
    #[test]
    fn gaussian_posterior_is_approached() {
        let found = GaussianToy::new(false).unwrap().compare(&on_toy(200), 1000).unwrap();
        // Found: 0.47 standard deviations and 1.2 to 1.9 times the variance.
        assert!(found.mean < 1.0 && found.variance[0] > 0.8 && found.variance[2] < 3.0, "{found:?}");
        assert!(found.variance[1] > 1.2, "{found:?}");
    }

    #[test]
    fn it_resumes_and_samples_do_not_depend_on_their_batch() {
        // 11 steps: rounds of 6 and 5.
        assert_resumes(&on_toy(11)).unwrap();
        let difference = batch_dependence(&on_toy(20)).unwrap();
        assert!(difference < BATCH_TOLERANCE, "{difference}");
    }

    #[test]
    fn bad_settings_are_named() {
        let good = settings(10, 40.0);
        let cases = [
            (Settings { ode_steps: 0, ..good }, "rounds of 0"),
            (Settings { ode_steps: 6, ..good }, "at least 2 rounds"),
            (Settings { langevin_steps: 0, ..good }, "0 Langevin steps"),
            (Settings { langevin_steps: u32::MAX, ..good }, "Langevin steps"),
            (Settings { langevin_rate: 2.0, ..good }, "rate is 2"),
            (Settings { t_min: 50.0, ..good }, "t_min = 50"),
        ];
        for (bad, words) in cases {
            let error = Daps::new(unit_covariance().unwrap(), bad).err().unwrap().to_string();
            assert!(error.contains("daps") && error.contains(words), "{error}");
        }
    }
}
