//! `diffpir`: denoising diffusion models for plug-and-play image restoration (Zhu et al. 2023, arXiv:2305.08995,
//! Algorithm 1), in the variance-exploding convention: denoise, move to the data by a proximal step, add noise again:
//!
//! ```text
//! D  = denoise(x, t)
//! x0 = argmin  (y - A(x0))^T Sigma^-1 (y - A(x0)) + lambda/t^2 |x0 - D|^2          rho_t = lambda sigma_n^2 / t^2
//!    = D + t^2/lambda J^T (J J^T t^2/lambda + Sigma)^-1 (y - A(D))
//! e' = (x - x0) / t
//! x  = x0 + b (sqrt(1 - zeta) e' + sqrt(zeta) e)                                   next noise level b; last b = 0
//! ```
//!
//! Sigma, whole, takes the place of their one sigma_n. The proximal step is a Gauss-Newton solve over image, amplitude and
//! sky together, the last two with their own priors. lambda and zeta are tuned for each task in the paper, lambda of order
//! 1 to 10. x0 is a mode and not a draw, and the width that lambda/t^2 stands for is not the prior's: the draws are *not*
//! calibrated. Amplitude and sky are drawn given the final image.

use tch::{Kind, Tensor};

use super::amplitude::draw_nuisance;
use super::conjugate_gradient::Stop;
use super::gauss_newton::{self, GaussNewton, scale_image};
use super::guidance::with_prior_nuisance;
use super::tangent::tangent_error;
use super::{Problem, Sampler, State, chain};
use crate::forward::{Latent, Likelihood};
use crate::prior::Covariance;
use crate::random::Purpose;
use crate::{Error, Result};

/// lambda, unless the config says otherwise.
pub const LAMBDA: f64 = 7.0;
/// zeta, unless the config says otherwise.
pub const ZETA: f64 = 0.3;

/// Settings of the sampler.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub steps: u32,
    pub t_max: f64,
    pub t_min: f64,
    pub lambda: f64,
    pub zeta: f64,
    /// How often the forward model is linearised anew within a step.
    pub relinearizations: u32,
    pub stop: Stop,
}

/// The sampler, with its noise levels.
pub struct DiffPir {
    settings: Settings,
    /// From t_max to t_min, then 0.
    levels: Vec<f64>,
    covariance: Covariance,
}

impl DiffPir {
    /// Noise levels are in units of the prior's images.
    pub fn new(covariance: Covariance, settings: Settings) -> Result<DiffPir> {
        let levels = chain::levels("diffpir", settings.t_max, settings.t_min, settings.steps)?;
        let Settings { lambda, zeta, .. } = settings;
        if !(lambda > 0.0 && lambda.is_finite()) {
            return Err(Error::usage(format!("diffpir: lambda is {lambda}, expected a positive number")));
        }
        if !(0.0..=1.0).contains(&zeta) {
            return Err(Error::usage(format!("diffpir: zeta is {zeta}, expected 0 to 1")));
        }
        Ok(DiffPir { settings, levels, covariance })
    }

    fn proximal(&self, problem: &Problem, likelihood: &dyn Likelihood, point: &Latent, t: f64) -> Result<Latent> {
        let centre = with_prior_nuisance(problem, point.image.shallow_clone())?;
        let spread = Tensor::f_full([1i64], t * t / self.settings.lambda, (Kind::Float, problem.device))?;
        let prior = |direction: &Latent| scale_image(direction, likelihood.nuisance(), &spread);
        let modes = gauss_newton::modes(&self.covariance, &spread.f_sqrt()?)?;
        let solver = GaussNewton {
            likelihood,
            prior: &prior,
            modes: Some(&modes),
            rounds: 1 + self.settings.relinearizations,
            tangent_error: tangent_error(t),
            stop: self.settings.stop,
        };
        solver.mode(&centre, point)
    }
}

impl Sampler for DiffPir {
    fn name(&self) -> &'static str {
        "diffpir"
    }

    fn steps(&self) -> u32 {
        self.settings.steps
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        chain::start(problem, &self.covariance, self.levels[0])
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let [t, b] = chain::pair("diffpir", &self.levels, state.step)?;
        let mut latent = chain::latent(state)?;
        let x = latent.image;
        latent.image = problem.denoiser.denoise(&x, t)?;
        if let Some(likelihood) = problem.likelihood {
            latent = self.proximal(problem, likelihood, &latent, t)?;
        }
        if b > 0.0 {
            let Settings { zeta, .. } = self.settings;
            let kept = x.f_sub(&latent.image)?.f_mul_scalar((1.0 - zeta).sqrt() * b / t)?;
            let fresh = chain::white(problem, Purpose::Renoise, state.step)?.f_mul_scalar(zeta.sqrt() * b)?;
            latent.image = latent.image.f_add(&kept)?.f_add(&fresh)?;
        } else if let Some(likelihood) = problem.likelihood {
            latent = draw_nuisance(problem, likelihood, state.step, &latent, self.settings.stop)?;
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

    fn settings(steps: u32, t_max: f64, zeta: f64) -> Settings {
        Settings { steps, t_max, t_min: 0.02, lambda: LAMBDA, zeta, relinearizations: 1, stop: STOP }
    }

    fn on_toy(steps: u32, zeta: f64) -> DiffPir {
        let covariance = GaussianToy::new(false).unwrap().covariance().unwrap();
        DiffPir::new(covariance, settings(steps, 6.0, zeta)).unwrap()
    }

    /// Fresh noise around a mean, step after step, loses the prior's variance: without any it is the deterministic DDIM.
    #[test]
    fn without_data_it_draws_from_the_prior_only_when_no_noise_is_fresh() {
        let draws = |zeta| {
            let sampler = DiffPir::new(unit_covariance().unwrap(), settings(100, 40.0, zeta)).unwrap();
            draws_without_data(&sampler).unwrap()
        };
        let [mean, variance] = draws(0.0);
        // Five standard errors; the finite number of steps takes a few per cent.
        assert!(mean.abs() < 0.055 && (variance - 1.0).abs() < 0.12, "{mean} {variance}");
        // Found: 0.87 and 0.48.
        let [some, all] = [draws(ZETA)[1], draws(1.0)[1]];
        assert!(some < 0.95 && some > 0.75 && all < 0.6, "{some} {all}");
    }

    #[test]
    fn with_data_it_moves_to_them_whatever_their_units() {
        let sampler = DiffPir::new(unit_covariance().unwrap(), settings(100, 40.0, ZETA)).unwrap();
        let [one, other] = [1.0, 1e4].map(|unit| misfit(&sampler, unit).unwrap());
        // Found: 2.4 (draws of the prior are off by 42).
        assert!(one < 4.0 && (one / other - 1.0).abs() < 1e-3, "{one} {other}");
    }

    /// What is true of it on a Gaussian posterior: it is near, but neither its mean nor its width is right.
    #[test]
    fn gaussian_posterior_is_approached() {
        let found = GaussianToy::new(false).unwrap().compare(&on_toy(100, ZETA), 1000).unwrap();
        // Found: 1.5 standard deviations and 1.3 to 3.1 times the variance.
        assert!(found.mean < 2.5 && found.variance[0] > 0.5 && found.variance[2] < 5.0, "{found:?}");
        assert!(found.variance[1] > 1.3, "{found:?}");
    }

    #[test]
    fn it_resumes_and_samples_do_not_depend_on_their_batch() {
        assert_resumes(&on_toy(6, ZETA)).unwrap();
        let difference = batch_dependence(&on_toy(20, ZETA)).unwrap();
        assert!(difference < BATCH_TOLERANCE, "{difference}");
    }

    #[test]
    fn bad_settings_are_named() {
        let good = settings(10, 40.0, ZETA);
        let cases = [
            (Settings { lambda: 0.0, ..good }, "lambda is 0"),
            (Settings { zeta: 1.5, ..good }, "zeta is 1.5"),
            (Settings { zeta: f64::NAN, ..good }, "zeta is NaN"),
            (Settings { t_min: 50.0, ..good }, "t_min = 50"),
            (Settings { steps: 1, ..good }, "1 noise levels"),
        ];
        for (bad, words) in cases {
            let error = DiffPir::new(unit_covariance().unwrap(), bad).err().unwrap().to_string();
            assert!(error.contains("diffpir") && error.contains(words), "{error}");
        }
    }
}
