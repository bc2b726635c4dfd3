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

use super::conjugate_gradient::Stop;
use super::gauss_newton::{self, GaussNewton, draw_nuisance, scale_image, tangent_error};
use super::guidance::with_prior_nuisance;
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
        chain::advance(state, latent);
        Ok(())
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

    fn settings(steps: u32, t_max: f64, zeta: f64) -> Settings {
        Settings { steps, t_max, t_min: 0.02, lambda: LAMBDA, zeta, relinearizations: 1, stop: STOP }
    }

    fn on_toy(steps: u32, zeta: f64) -> DiffPir {
        let covariance = GaussianToy::new(false).unwrap().covariance().unwrap();
        DiffPir::new(covariance, settings(steps, 6.0, zeta)).unwrap()
    }

    #[test]
    fn probe() {
        for (n, z) in [(20, 0.3), (100, 0.3), (100, 0.0), (100, 1.0)] {
            let sampler = DiffPir::new(unit_covariance().unwrap(), settings(n, 40.0, z)).unwrap();
            println!("diffpir {n} {z} nodata {:?} misfit {} {}", draws_without_data(&sampler).unwrap(), misfit(&sampler, 1.0).unwrap(), misfit(&sampler, 1e4).unwrap());
            let toy = GaussianToy::new(false).unwrap();
            println!("diffpir {:?}", toy.compare(&on_toy(n, z), 4000).unwrap());
        }
        assert_resumes(&on_toy(6, 0.3)).unwrap();
        println!("batch {}", batch_dependence(&on_toy(20, 0.3)).unwrap());
    }
}
