//! `mmps`: moment matching posterior sampling (Rozet et al. 2024, "Learning diffusion priors from observations by
//! expectation maximization", arXiv:2405.13712, section 4), in the variance-exploding convention. p(x0 | x_t) is taken as
//! N(D, V) with its own covariance, by Tweedie's formula the Jacobian of the denoiser, so that
//!
//! ```text
//! D   = denoise(x, t),    V = t^2 (dD/dx)^T                                            products by backward passes
//! D_y = D + t^2 d/dx ln p(y | x_t) = D + V J^T (J V J^T + Sigma)^-1 (y - A(D))         a few conjugate gradients
//! x   = D_y + (b/t)^2 (x - D_y) + b sqrt(1 - (b/t)^2) e                                next noise level b; last b = 0
//! ```
//!
//! For a Gaussian prior and a linear model N(D, V) is exact, and what is left is the error of finitely many ancestral
//! steps. The published method holds no other unknowns. Here amplitude and sky have their own priors beside V in the
//! solve, so that they are marginalised over, and are drawn given the final image. Each conjugate-gradient iteration is a
//! backward pass: the solver stops early, and the preconditioner (made with the C of the prior's Gaussian) makes the few
//! iterations count.

use tch::Tensor;

use super::condition::scale_by_prior;
use super::conjugate_gradient::Stop;
use super::gauss_newton::GaussNewton;
use super::guidance::{leaf, pull_back_again, with_prior_nuisance};
use super::tangent::tangent_error;
use super::{Problem, Sampler, State, chain};
use crate::forward::{Latent, Likelihood};
use crate::prior::{Covariance, Level};
use crate::{Error, Result};

/// Conjugate-gradient iterations of each step, each a backward pass through the network. The paper needs one to three for
/// its data; with three, the shipped prior's draws miss bright galaxies (chi^2 of 4 a pixel), and with eight they fit.
pub const ITERATIONS: u32 = 8;

/// The sampler, with its noise levels.
pub struct Mmps {
    /// From t_max to t_min, then 0.
    levels: Vec<f64>,
    covariance: Covariance,
    stop: Stop,
    /// The solver of amplitude and sky, which needs no network.
    nuisance_stop: Stop,
}

impl Mmps {
    /// `steps` noise levels from `t_max` down to `t_min`; `iterations` of the solver in each, at most; `stop` is how well
    /// it solves before.
    pub fn new(
        covariance: Covariance,
        steps: u32,
        [t_max, t_min]: [f64; 2],
        iterations: u32,
        stop: Stop,
    ) -> Result<Mmps> {
        let levels = chain::levels("mmps", t_max, t_min, steps)?;
        if iterations == 0 {
            return Err(Error::usage("mmps: 0 iterations of the solver, expected at least 1"));
        }
        Ok(Mmps { levels, covariance, stop: Stop { iterations, ..stop }, nuisance_stop: stop })
    }

    /// D_y, with the amplitude and sky that belong to it.
    fn estimate(
        &self,
        problem: &Problem,
        likelihood: &dyn Likelihood,
        before: &Latent,
        level: &Level,
    ) -> Result<Latent> {
        let x = leaf(&before.image)?;
        let denoised = problem.denoiser.denoise_with_grad(&x, level.t)?;
        let fixed = denoised.f_detach()?;
        let centre = with_prior_nuisance(problem, fixed.shallow_clone())?;
        let point =
            Latent { image: fixed, ln_amplitude: before.ln_amplitude.shallow_clone(), sky: before.sky.shallow_clone() };
        let variance = level.t * level.t;
        let prior = |direction: &Latent| {
            let mut out = scale_by_prior(direction, likelihood.nuisance(), None)?;
            out.image = pull_back_again(&denoised, &x, &direction.image)?.f_mul_scalar(variance)?;
            Ok(out)
        };
        let modes: Tensor = level.modes()?;
        let solver = GaussNewton {
            likelihood,
            prior: &prior,
            modes: Some(&modes),
            rounds: 1,
            tangent_error: tangent_error(level.t),
            stop: self.stop,
        };
        solver.mode(&centre, &point)
    }
}

impl Sampler for Mmps {
    fn name(&self) -> &'static str {
        "mmps"
    }

    fn steps(&self) -> u32 {
        self.levels.len() as u32 - 1
    }

    fn backward_passes(&self) -> u32 {
        // One more than the solver's iterations: the last gives the change of the image.
        self.stop.iterations + 1
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        chain::start(problem, &self.covariance, self.levels[0])
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let [t, b] = chain::pair("mmps", &self.levels, state.step)?;
        chain::guided(problem, state, [t, b], self.nuisance_stop, |likelihood, before| {
            self.estimate(problem, likelihood, before, &self.covariance.level(t)?)
        })
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

    fn on_toy(steps: u32, iterations: u32) -> Mmps {
        let covariance = GaussianToy::new(false).unwrap().covariance().unwrap();
        Mmps::new(covariance, steps, [6.0, 0.02], iterations, STOP).unwrap()
    }

    #[test]
    fn without_data_it_draws_from_the_prior_and_with_data_it_moves_to_them() {
        let sampler = Mmps::new(unit_covariance().unwrap(), 200, [40.0, 0.02], ITERATIONS, STOP).unwrap();
        let [mean, variance] = draws_without_data(&sampler).unwrap();
        // Five standard errors; the finite number of steps takes a few per cent.
        assert!(mean.abs() < 0.055 && (variance - 1.0).abs() < 0.12, "{mean} {variance}");
        let [one, other] = [1.0, 1e4].map(|unit| misfit(&sampler, unit).unwrap());
        // Found: 0.87 (draws of the prior are off by 42).
        assert!(one < 2.0 && (one / other - 1.0).abs() < 1e-3, "{one} {other}");
    }

    #[test]
    fn gaussian_posterior_is_met() {
        let found = GaussianToy::new(false).unwrap().compare(&on_toy(256, 60), 4000).unwrap();
        // Five standard errors of 4000 draws are 0.08 and 0.11; 256 ancestral steps take 1 to 2 % of the variance.
        assert!(found.mean < 0.08 && found.variance[0] > 0.87 && found.variance[2] < 1.12, "{found:?}");
        assert!((found.variance[1] - 1.0).abs() < 0.04, "{found:?}");
    }

    #[test]
    fn few_iterations_are_close() {
        let found = GaussianToy::new(false).unwrap().compare(&on_toy(256, 3), 1000).unwrap();
        // Found: 0.21 standard deviations.
        assert!(found.mean < 0.4 && (found.variance[1] - 1.0).abs() < 0.1, "{found:?}");
    }

    #[test]
    fn it_resumes_and_samples_do_not_depend_on_their_batch() {
        assert_resumes(&on_toy(6, 5)).unwrap();
        let difference = batch_dependence(&on_toy(20, 5)).unwrap();
        assert!(difference < BATCH_TOLERANCE, "{difference}");
    }

    #[test]
    fn bad_settings_are_named() {
        let make = |steps, levels, iterations| {
            let error = Mmps::new(unit_covariance().unwrap(), steps, levels, iterations, STOP).err();
            error.map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(make(10, [1.0, 2.0], 3).contains("t_max = 1"));
        assert!(make(1, [2.0, 1.0], 3).contains("1 noise levels"));
        assert!(make(10, [2.0, 1.0], 0).contains("0 iterations"));
    }
}
