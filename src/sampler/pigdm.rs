//! `pigdm`: pseudoinverse-guided diffusion (Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse
//! problems", ICLR), in its noisy form, linearised, in the variance-exploding convention:
//!
//! ```text
//! D   = denoise(x, t),    R = t^2 S / (S + t^2)                        S the prior's variance in each pixel, diag C0
//! g   = (dD/dx)^T J^T (J R J^T + Sigma)^-1 (y - A(D))                  the gradient of ln N(y; A(D), J R J^T + Sigma)
//! D_y = D + t^2 g
//! x   = D_y + (b/t)^2 (x - D_y) + b sqrt(1 - (b/t)^2) e                next noise level b; last b = 0
//! ```
//!
//! One backward pass a step. Published is R = t^2 / (1 + t^2), for data of variance one: S carries it over to this prior,
//! whose pixels differ. The guided estimate takes the place of D in the ancestral step: then the step is that of the exact
//! conditional process wherever R is the true covariance of x0 given x_t, which it is for independent Gaussian pixels. For
//! correlated ones the method is biased. Amplitude and sky have their own priors beside R in the solve, so that they are
//! marginalised over, and are drawn given the final image.

use tch::Tensor;

use super::condition::scale_by_prior;
use super::conjugate_gradient::Stop;
use super::gauss_newton::{self, GaussNewton, scale_image};
use super::guidance::{leaf, pull_back, with_prior_nuisance};
use super::tangent::{tangent_error, within_reach};
use super::{Problem, Sampler, State, chain};
use crate::Result;
use crate::forward::{Latent, Likelihood};
use crate::prior::Covariance;

/// The sampler, with its noise levels.
pub struct Pigdm {
    /// From t_max to t_min, then 0.
    levels: Vec<f64>,
    covariance: Covariance,
    /// S, `[C, n, n]`.
    variance: Tensor,
    stop: Stop,
}

impl Pigdm {
    /// `steps` noise levels from `t_max` down to `t_min`.
    pub fn new(covariance: Covariance, steps: u32, [t_max, t_min]: [f64; 2], stop: Stop) -> Result<Pigdm> {
        let levels = chain::levels("pigdm", t_max, t_min, steps)?;
        Ok(Pigdm { levels, variance: covariance.variance()?, covariance, stop })
    }

    /// D_y, with the amplitude and sky that belong to it.
    fn estimate(&self, problem: &Problem, likelihood: &dyn Likelihood, before: &Latent, t: f64) -> Result<Latent> {
        let x = leaf(&before.image)?;
        let denoised = problem.denoiser.denoise_with_grad(&x, t)?;
        let centre = with_prior_nuisance(problem, denoised.f_detach()?)?;
        let point = Latent {
            image: centre.image.shallow_clone(),
            ln_amplitude: before.ln_amplitude.shallow_clone(),
            sky: before.sky.shallow_clone(),
        };
        let nuisance = likelihood.nuisance();
        let spread = self.variance.f_mul_scalar(t * t)?.f_div(&self.variance.f_add_scalar(t * t)?)?;
        let prior = |direction: &Latent| scale_image(direction, nuisance, &spread);
        let modes = gauss_newton::modes(&self.covariance, &spread.f_sqrt()?)?;
        let solver = GaussNewton {
            likelihood,
            prior: &prior,
            modes: Some(&modes),
            rounds: 1,
            tangent_error: tangent_error(t),
            stop: self.stop,
        };
        let pull = solver.pull(&centre, &point)?;
        let mut change = scale_by_prior(&pull, nuisance, None)?;
        change.image = pull_back(&denoised, &x, &pull.image)?.f_mul_scalar(t * t)?;
        within_reach(centre.plus(&change)?, &point, likelihood.reach())
    }
}

impl Sampler for Pigdm {
    fn name(&self) -> &'static str {
        "pigdm"
    }

    fn steps(&self) -> u32 {
        self.levels.len() as u32 - 1
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        chain::start(problem, &self.covariance, self.levels[0])
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let [t, b] = chain::pair("pigdm", &self.levels, state.step)?;
        chain::guided(problem, state, [t, b], self.stop, |likelihood, before| {
            self.estimate(problem, likelihood, before, t)
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

    fn on_toy(independent: bool, steps: u32) -> Pigdm {
        let covariance = GaussianToy::new(independent).unwrap().covariance().unwrap();
        Pigdm::new(covariance, steps, [6.0, 0.02], STOP).unwrap()
    }

    #[test]
    fn without_data_it_draws_from_the_prior_and_with_data_it_moves_to_them() {
        let sampler = Pigdm::new(unit_covariance().unwrap(), 200, [40.0, 0.02], STOP).unwrap();
        let [mean, variance] = draws_without_data(&sampler).unwrap();
        // Five standard errors; the finite number of steps takes a few per cent.
        assert!(mean.abs() < 0.055 && (variance - 1.0).abs() < 0.12, "{mean} {variance}");
        let [one, other] = [1.0, 1e4].map(|unit| misfit(&sampler, unit).unwrap());
        // Found: 0.87 (draws of the prior are off by 42).
        assert!(one < 2.0 && (one / other - 1.0).abs() < 1e-3, "{one} {other}");
    }

    #[test]
    fn the_posterior_of_independent_gaussian_pixels_is_met() {
        let found = GaussianToy::new(true).unwrap().compare(&on_toy(true, 256), 4000).unwrap();
        // Five standard errors of 4000 draws are 0.08 and 0.11; 256 ancestral steps take 1 to 2 % of the variance.
        assert!(found.mean < 0.08 && found.variance[0] > 0.87 && found.variance[2] < 1.12, "{found:?}");
        assert!((found.variance[1] - 1.0).abs() < 0.04, "{found:?}");
    }

    /// What R leaves out, and that the comparison sees it.
    #[test]
    fn that_of_correlated_pixels_is_missed() {
        let found = GaussianToy::new(false).unwrap().compare(&on_toy(false, 256), 1000).unwrap();
        // Found: 0.35 standard deviations, where five standard errors are 0.16.
        assert!(found.mean > 0.2 && found.mean < 0.6, "{found:?}");
    }

    #[test]
    fn it_resumes_and_samples_do_not_depend_on_their_batch() {
        assert_resumes(&on_toy(false, 6)).unwrap();
        let difference = batch_dependence(&on_toy(false, 20)).unwrap();
        assert!(difference < BATCH_TOLERANCE, "{difference}");
    }

    #[test]
    fn bad_settings_are_named() {
        for (steps, levels) in [(10, [1.0, 2.0]), (10, [1.0, 0.0]), (1, [2.0, 0.1]), (10, [f64::NAN, 0.1])] {
            let error = Pigdm::new(unit_covariance().unwrap(), steps, levels, STOP).err().unwrap().to_string();
            assert!(error.contains("pigdm") && error.contains("t_max > t_min"), "{error}");
        }
    }
}
