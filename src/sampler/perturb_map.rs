//! Covariance-guided perturb-and-MAP with renoising: the default sampler. One network forward a step, no gradient
//! through the network.
//!
//! Each step treats p(x0 | x_t) as the Gaussian N(D(x_t), C) with the covariance C of the prior's Gaussian part, draws
//! x0 ~ p(x0 | x_t, y) by perturb-and-MAP (Papandreou & Yuille 2010, "Gaussian sampling by local perturbations"), and
//! renoises it to the next level, independently of x_t (the decoupling of DAPS, Zhang et al. 2024, arXiv:2407.01521):
//!
//! ```text
//! x  = mu0 + N(0, C0 + t_max^2 I)
//! per step, noise level t, next level b:
//!   D  = denoise(x, t);   C = t^2 C0 (C0 + t^2)^-1;   u ~ N(0, C);   v ~ N(0, Sigma)
//!   x0 = D + u + C J^T (J C J^T + Sigma)^-1 [y - v - A(x0') - J (D + u - x0')]      x0' the point of linearisation
//!   x  = x0 + b e'                                                                  the last step: u = v = 0, b = 0
//! ```
//!
//! Amplitude and sky are not diffused: at each step they are drawn jointly with x0 from their own priors, and once more
//! given the final image. What the prior's images fulfil exactly (their unit flux) conditions N(D, C) at each step
//! (`condition.rs`), and Sigma holds the error of the tangent itself (`tangent_error`).

use std::rc::Rc;

use tch::Tensor;

use super::condition::{ConditionedPrior, perturbation, scale_by_prior};
use super::conjugate_gradient::{self, Stop};
use super::preconditioner::Preconditioner;
use super::{Problem, Sampler, State};
use crate::forward::{Latent, Likelihood, Linearized};
use crate::prior::ancestral::karras_grid;
use crate::prior::{Covariance, Level};
use crate::random::Purpose;
use crate::{Error, Result};

/// Relative error below which a tangent is not taken anew.
const TANGENT_GOOD: f64 = 0.02;

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
}

impl PerturbMap {
    /// Prepares the operators of every level; `covariance` is the prior's C0, on the device of the network.
    pub fn new(covariance: Covariance, settings: Settings) -> Result<Self> {
        let levels =
            karras_levels(settings.t_max, settings.t_min, settings.steps)?.into_iter().map(|t| covariance.level(t));
        let levels = levels.collect::<Result<Vec<_>>>()?;
        Ok(PerturbMap { settings, covariance, levels })
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
        let error = tangent_error(level.t);
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
        let again = if error > TANGENT_GOOD { self.settings.relinearizations } else { 0 };
        for round in 0..=again {
            let prior = ConditionedPrior::new(likelihood, nuisance, level, &point.image)?;
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

/// Cuts the changes of pixels and of ln a at what one linearisation can be trusted with. That matters at the high noise
/// levels only, where the network's next estimate takes up what is cut off; where draws are decided, changes are small.
fn within_reach(solution: Latent, point: &Latent, reach: Option<f64>) -> Result<Latent> {
    let Some(reach) = reach else { return Ok(solution) };
    let limit =
        |new: &Tensor, old: &Tensor| -> Result<Tensor> { Ok(new.f_sub(old)?.f_clamp(-reach, reach)?.f_add(old)?) };
    Ok(Latent {
        image: limit(&solution.image, &point.image)?,
        ln_amplitude: limit(&solution.ln_amplitude, &point.ln_amplitude)?,
        sky: solution.sky,
    })
}

/// Relative error of the tangent of the stretch at noise level `t`. x0 is uncertain by about t there, or by about one
/// where t is larger, and the second-order term of exp(x) is half the square. Counted as noise, it keeps the steps at
/// high levels from fitting bright galaxies to a precision that a linear model does not have; at the levels where draws
/// are decided it is far below the noise.
fn tangent_error(t: f64) -> f64 {
    0.5 * t.min(1.0).powi(2)
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
                let image = if last { denoised } else { denoised.f_add(&level.draw(&problem.noise, state.step)?)? };
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
            let white = problem.noise.normal(Purpose::Renoise, state.step, &drawn.image.size()[1..], problem.device)?;
            drawn.image = drawn.image.f_add(&white.f_mul_scalar(next)?)?;
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
mod tests {
    use super::*;
    use crate::forward::NuisancePrior;
    use crate::forward::linear::LinearLikelihood;
    use crate::prior::analytic::GaussianDenoiser;
    use crate::random::{BlockNoise, Key};
    use tch::{Device, Kind};

    fn random(step: u32, shape: &[i64]) -> Tensor {
        let count = shape.iter().product::<i64>() as usize;
        Tensor::from_slice(&Key::new(11, "pm", 0, Purpose::Evaluation, step).normal(count)).view(shape)
    }

    /// Mean and variance of the draws against the closed form, for x, ln a and sky, within Monte Carlo error.
    #[test]
    fn gaussian_posterior_is_exact_at_32_steps() {
        let shape = [1, 4, 4];
        let (q, _) = random(0, &[16, 5]).qr(true);
        let variances = Tensor::from_slice(&[4.0f32, 2.0, 1.0, 0.5, 0.2]);
        let diagonal = random(1, &[16]).square() * 0.2 + 0.01;
        let covariance = || {
            Covariance::new(shape, random(2, &[16]), q.tr().contiguous(), variances.copy(), diagonal.copy()).unwrap()
        };
        let nuisance = NuisancePrior {
            ln_amplitude_mean: Tensor::from_slice(&[0.4f32]),
            ln_amplitude_sd: Tensor::from_slice(&[0.3f32]),
            sky_sd: Tensor::from_slice(&[0.5f32]),
        };
        // y = A x + c ln a + 1 sky + noise, A a 12 x 16 matrix.
        let matrix = random(3, &[12, 16]) * 0.5;
        let amplitude = random(4, &[12, 1]);
        let likelihood =
            LinearLikelihood::new(random(5, &[1, 1, 12]), matrix.copy(), amplitude.copy(), 0.3, nuisance).unwrap();
        let denoiser = GaussianDenoiser::new(covariance());
        let settings = Settings {
            steps: 32,
            t_max: 3.0 * covariance().largest_sd(),
            t_min: 0.01,
            relinearizations: 0,
            stop: Stop { tolerance: 1e-5, iterations: 60 },
        };
        let sampler = PerturbMap::new(covariance(), settings).unwrap();
        let count = 4000u32;
        let problem = Problem {
            denoiser: &denoiser,
            likelihood: Some(&likelihood),
            noise: BlockNoise::new(1, "gaussian", 0, count),
            device: Device::Cpu,
        };
        let draws = super::super::run(&sampler, &problem).unwrap();
        let flat =
            Tensor::cat(&[draws.image.view([-1, 16]), draws.ln_amplitude.view([-1, 1]), draws.sky.view([-1, 1])], 1)
                .to_kind(Kind::Double);

        let double = |t: &Tensor| t.to_kind(Kind::Double);
        let c0 = double(&q).matmul(&double(&variances).diag(0)).matmul(&double(&q).tr()) + double(&diagonal).diag(0);
        let extra = Tensor::from_slice(&[0.09f64, 0.25]).diag(0);
        let zeros = Tensor::zeros([16, 2], (Kind::Double, Device::Cpu));
        let prior = Tensor::cat(&[Tensor::cat(&[c0, zeros.copy()], 1), Tensor::cat(&[zeros.tr(), extra], 1)], 0);
        let ones = Tensor::ones([12, 1], (Kind::Double, Device::Cpu));
        let jacobian = Tensor::cat(&[double(&matrix), double(&amplitude), ones], 1);
        let mean0 = Tensor::cat(&[double(&random(2, &[16])), Tensor::from_slice(&[0.4f64, 0.0])], 0);
        let noise = Tensor::eye(12, (Kind::Double, Device::Cpu)) * 0.09;
        let gain =
            prior.matmul(&jacobian.tr()).matmul(&(jacobian.matmul(&prior).matmul(&jacobian.tr()) + noise).inverse());
        let observed = double(&random(5, &[12]));
        let mean = &mean0 + gain.matmul(&(observed - jacobian.mv(&mean0)));
        let posterior = &prior - gain.matmul(&jacobian).matmul(&prior);
        let exact = posterior.diagonal(0, 0, 1);

        let found_mean = flat.mean_dim(0, false, Kind::Double);
        let found = flat.var_dim(0, true, false);
        // 18 quantities: 4 standard errors.
        let z = ((found_mean - mean) / (&exact / f64::from(count)).sqrt()).abs().max().double_value(&[]);
        let ratio = (found / exact - 1.0).abs().max().double_value(&[]);
        assert!(z < 4.0, "mean off by {z} standard errors");
        assert!(ratio < 4.0 * (2.0 / f64::from(count)).sqrt(), "variance off by a factor {ratio}");
    }

    #[test]
    fn saved_and_resumed_after_each_step_gives_the_same_bytes() {
        let shape = [1, 4, 4];
        let covariance = || {
            let (q, _) = random(0, &[16, 2]).qr(true);
            Covariance::new(
                shape,
                random(1, &[16]),
                q.tr().contiguous(),
                random(2, &[2]).square(),
                random(3, &[16]).square(),
            )
            .unwrap()
        };
        let settings = Settings {
            steps: 6,
            t_max: 5.0,
            t_min: 0.05,
            relinearizations: 1,
            stop: Stop { tolerance: 1e-4, iterations: 20 },
        };
        let sampler = PerturbMap::new(covariance(), settings).unwrap();
        let denoiser = GaussianDenoiser::new(covariance());
        let nuisance = NuisancePrior {
            ln_amplitude_mean: Tensor::from_slice(&[0.0f32]),
            ln_amplitude_sd: Tensor::from_slice(&[0.3f32]),
            sky_sd: Tensor::from_slice(&[0.5f32]),
        };
        let likelihood =
            LinearLikelihood::new(random(5, &[1, 1, 8]), random(6, &[8, 16]), random(7, &[8, 1]), 0.3, nuisance)
                .unwrap();
        let problem = Problem {
            denoiser: &denoiser,
            likelihood: Some(&likelihood),
            noise: BlockNoise::new(1, "resume", 0, 3),
            device: Device::Cpu,
        };
        let whole = super::super::run(&sampler, &problem).unwrap();
        let mut state = sampler.start(&problem).unwrap();
        while state.step < sampler.steps() {
            sampler.step(&problem, &mut state).unwrap();
            state = State::load(&state.save().unwrap(), Device::Cpu).unwrap();
        }
        let resumed = sampler.finish(&problem, state).unwrap();
        assert_eq!(whole.image, resumed.image);
        assert_eq!(whole.ln_amplitude, resumed.ln_amplitude);
        assert_eq!(whole.sky, resumed.sky);
    }
}
