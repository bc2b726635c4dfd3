//! `dps`: diffusion posterior sampling (Chung et al. 2022, arXiv:2209.14687, Algorithm 1), in the variance-exploding
//! convention. Ancestral sampling with a pull towards the data through the network's own gradient:
//!
//! ```text
//! D  = denoise(x, t)
//! x' = D + (b/t)^2 (x - D) + b sqrt(1 - (b/t)^2) e                        next noise level b; last b = 0
//! x  = x' - zeta sqrt((1 + t^2) (1 + b^2)) d/dx ||r|| / ||J||,            r = Sigma^(-1/2) (y - A(D))
//! ```
//!
//! Chung et al. state the step for variance-preserving x_t = x / sqrt(1 + t^2): the square root carries it over, with
//! their step size zeta (their code's, on the gradient of the norm; their Algorithm 1 has twice that). Theirs is for a
//! forward model of norm one; dividing by the norm of the whitened Jacobian, J = Sigma^(-1/2) dA/dx at D, by power
//! iteration, makes zeta mean the same whatever the units, the pixels and the signal-to-noise ratio.
//!
//! Norms are those of each sample, so that no sample depends on its batch. Sigma is taken by its diagonal. Amplitude and
//! sky stay at their prior means: the method has no way to draw them. It is meant for about 1000 steps, and it is *not*
//! calibrated: it is here to be compared with.

use tch::Tensor;

use super::guidance::{TINY, image_direction, leaf, norm, pull_back, with_prior_nuisance};
use super::{Problem, Sampler, State};
use crate::forward::{Latent, Likelihood};
use crate::random::Purpose;
use crate::{Error, Result};

/// The exponent of the grid of noise levels (Karras et al. 2022, arXiv:2206.00364, eq. 5).
const RHO: f64 = 7.0;
/// Enough for a norm to a few per cent, starting from the data's own pull.
const POWER_ITERATIONS: usize = 4;

/// The sampler, with its noise levels.
pub struct Dps {
    /// From t_max to t_min, then 0.
    levels: Vec<f64>,
    guidance: f64,
}

impl Dps {
    /// `steps` noise levels from `t_max` down to `t_min`, in units of the prior's images; `guidance` is zeta, published
    /// as 0.3 to 1.
    pub fn new(steps: u32, t_max: f64, t_min: f64, guidance: f64) -> Result<Dps> {
        if steps < 2 || !(t_min > 0.0 && t_max > t_min && t_max.is_finite()) {
            return Err(Error::usage(format!(
                "dps: {steps} steps from t_max = {t_max} to t_min = {t_min}, expected at least 2 steps and \
                 t_max > t_min > 0"
            )));
        }
        if !(guidance >= 0.0 && guidance.is_finite()) {
            return Err(Error::usage(format!("dps: guidance is {guidance}, expected 0 or more")));
        }
        let (high, low) = (t_max.powf(1.0 / RHO), t_min.powf(1.0 / RHO));
        let last = f64::from(steps - 1);
        let mut levels: Vec<f64> =
            (0..steps).map(|index| (high + f64::from(index) / last * (low - high)).powf(RHO)).collect();
        levels.push(0.0);
        Ok(Dps { levels, guidance })
    }
}

impl Sampler for Dps {
    fn name(&self) -> &'static str {
        "dps"
    }

    fn steps(&self) -> u32 {
        self.levels.len() as u32 - 1
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        let noise = problem.noise.normal(Purpose::Start, 0, &problem.denoiser.shape(), problem.device)?;
        Ok(State { step: 0, tensors: vec![("x".into(), noise.f_mul_scalar(self.levels[0])?)] })
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let [t, b] = match self.levels.get(state.step as usize..state.step as usize + 2) {
            Some(&[t, b]) => [t, b],
            _ => return Err(Error::internal(format!("dps: no step {} of {}", state.step, self.steps()))),
        };
        let x = leaf(state.get("x")?)?;
        let denoised = match problem.likelihood {
            Some(_) => problem.denoiser.denoise_with_grad(&x, t)?,
            None => problem.denoiser.denoise(&x, t)?,
        };
        let (fixed, free) = (denoised.f_detach()?, x.f_detach()?);
        let kept = (b / t).powi(2);
        let mut next = fixed.f_add(&free.f_sub(&fixed)?.f_mul_scalar(kept)?)?;
        if b > 0.0 {
            let noise =
                problem.noise.normal(Purpose::Renoise, state.step, &problem.denoiser.shape(), problem.device)?;
            next = next.f_add(&noise.f_mul_scalar(b * (1.0 - kept).sqrt())?)?;
        }
        if let Some(likelihood) = problem.likelihood {
            let gradient = norm_gradient(problem, likelihood, &fixed)?;
            let scale = self.guidance * ((1.0 + t * t) * (1.0 + b * b)).sqrt();
            next = next.f_sub(&pull_back(&denoised, &x, &gradient)?.f_mul_scalar(scale)?)?;
        }
        state.tensors = vec![("x".into(), next)];
        state.step += 1;
        Ok(())
    }

    fn finish(&self, problem: &Problem, state: State) -> Result<Latent> {
        with_prior_nuisance(problem, state.get("x")?.shallow_clone())
    }
}

/// d||r||/dD / ||J|| at an image D, both whitened and per sample: `[B, C, n, n]`.
fn norm_gradient(problem: &Problem, likelihood: &dyn Likelihood, image: &Tensor) -> Result<Tensor> {
    let point = with_prior_nuisance(problem, image.shallow_clone())?;
    let linear = likelihood.linearize(&point)?;
    let residual = likelihood.data().f_unsqueeze(0)?.f_sub(linear.prediction())?;
    let weighted = residual.f_div(linear.variance())?;
    let distance = norm(&residual.f_div(&linear.variance().f_sqrt()?)?)?;
    let pull = linear.adjoint(&weighted)?.image;

    let mut direction = pull.f_div(&norm(&pull)?)?;
    let mut squared = norm(&pull)?;
    for _ in 0..POWER_ITERATIONS {
        let forward = linear.apply(&image_direction(direction, &point)?)?;
        let back = linear.adjoint(&forward.f_div(linear.variance())?)?.image;
        squared = norm(&back)?;
        direction = back.f_div(&squared)?;
    }
    let jacobian = squared.f_sqrt()?.f_clamp_min(TINY)?;
    Ok(pull.f_neg()?.f_div(&distance.f_mul(&jacobian)?)?)
}

#[cfg(test)]
mod tests {
    use super::super::toy::{GAIN, NOISE_SD, ToyLikelihood, UnitGaussian, problem};
    use super::super::{SavedState, run};
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn without_data_it_draws_from_the_prior() {
        let sampler = Dps::new(200, 40.0, 0.02, 1.0).unwrap();
        let draws = run(&sampler, &problem(&UnitGaussian, None, 0, 64)).unwrap().image;
        let values = draws.to_kind(Kind::Double);
        let (mean, variance) = (values.mean(Kind::Double).double_value(&[]), values.var(true).double_value(&[]));
        // 8192 values: five standard errors are 0.055 and 0.08; the finite number of steps adds a few per cent.
        assert!(mean.abs() < 0.055 && (variance - 1.0).abs() < 0.12, "{mean} {variance}");
    }

    #[test]
    fn with_data_it_moves_to_them_whatever_their_units() {
        let rms = |x: &Tensor| x.square().mean(Kind::Float).sqrt().double_value(&[]);
        let mut fits = Vec::new();
        for unit in [1.0, 1e4] {
            let likelihood = ToyLikelihood::new(unit);
            let sampler = Dps::new(200, 40.0, 0.02, 0.3).unwrap();
            let draws = run(&sampler, &problem(&UnitGaussian, Some(&likelihood), 0, 4)).unwrap();
            let residual = likelihood.data() - likelihood.predict(&draws).unwrap();
            // An unguided draw is off by the gain times sqrt(2).
            let fit = rms(&residual) / unit;
            assert!(fit < 0.3 * GAIN, "{fit} with noise {NOISE_SD}");
            fits.push(fit);
        }
        assert!((fits[0] / fits[1] - 1.0).abs() < 1e-3, "{fits:?}");
    }

    #[test]
    fn samples_do_not_depend_on_their_batch_and_states_continue() {
        let likelihood = ToyLikelihood::new(1.0);
        let sampler = Dps::new(20, 40.0, 0.02, 1.0).unwrap();
        let together = run(&sampler, &problem(&UnitGaussian, Some(&likelihood), 0, 3)).unwrap().image;
        let alone = problem(&UnitGaussian, Some(&likelihood), 2, 1);
        let mut state = sampler.start(&alone).unwrap();
        while state.step < sampler.steps() {
            sampler.step(&alone, &mut state).unwrap();
            let saved: SavedState = state.save().unwrap();
            state = State::load(&saved, Device::Cpu).unwrap();
        }
        let alone = sampler.finish(&alone, state).unwrap().image;
        // f32 rounding of sums over a sample, amplified by 20 steps.
        assert!((together.narrow(0, 2, 1) - alone).abs().max().double_value(&[]) < 1e-4);
    }

    #[test]
    fn bad_settings_are_named() {
        for (t_max, t_min, guidance) in [(1.0, 2.0, 1.0), (1.0, 0.0, 1.0), (f64::NAN, 0.1, 1.0), (2.0, 0.1, -1.0)] {
            assert!(Dps::new(10, t_max, t_min, guidance).is_err());
        }
        assert!(Dps::new(1, 2.0, 0.1, 1.0).is_err());
    }
}
