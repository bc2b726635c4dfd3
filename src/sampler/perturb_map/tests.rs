//! The default sampler against what is known exactly.

use super::*;
use crate::forward::NuisancePrior;
use crate::forward::linear::LinearLikelihood;
use crate::prior::Denoiser;
use crate::prior::analytic::GaussianDenoiser;
use crate::random::{BlockNoise, Key};
use crate::sampler::run;
use tch::{Device, Kind};

fn random(step: u32, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    Tensor::from_slice(&Key::new(11, "pm", 0, Purpose::Evaluation, step).normal(count)).view(shape)
}

/// ln a ~ N(mean, sd^2), sky ~ N(0, sky^2); 1e-6 is as good as fixed.
pub(super) fn nuisance(mean: f32, sd: f32, sky: f32) -> NuisancePrior {
    let [ln_amplitude_mean, ln_amplitude_sd, sky_sd] = [mean, sd, sky].map(|value| Tensor::from_slice(&[value]));
    NuisancePrior { ln_amplitude_mean, ln_amplitude_sd, sky_sd }
}

/// A prior of independent pixels, `[1, n, n]`, of this variance.
pub(super) fn independent(side: i64, variance: f64) -> Covariance {
    let options = (Kind::Float, Device::Cpu);
    let (pixels, none) = (side * side, |size: &[i64]| Tensor::zeros(size, options));
    let diagonal = Tensor::full([pixels], variance, options);
    Covariance::new([1, side, side], none(&[pixels]), none(&[0, pixels]), none(&[0]), diagonal).unwrap()
}

#[test]
fn a_lost_sample_takes_no_other_along() {
    let settings = Settings {
        steps: 12,
        t_max: 3.0,
        t_min: 0.01,
        relinearizations: 1,
        sweeps: 0,
        stop: Stop { tolerance: 0.1, iterations: 60 },
    };
    let sampler = PerturbMap::new(crate::sampler::toy::unit_covariance().unwrap(), None, settings).unwrap();
    crate::sampler::toy::assert_outlives_a_lost_sample(&sampler).unwrap();
}

/// Mean and variance of the draws against the closed form, for x, ln a and sky, within Monte Carlo error.
#[test]
fn gaussian_posterior_is_exact_at_32_steps() {
    let shape = [1, 4, 4];
    let (q, _) = random(0, &[16, 5]).qr(true);
    let variances = Tensor::from_slice(&[4.0f32, 2.0, 1.0, 0.5, 0.2]);
    let diagonal = random(1, &[16]).square() * 0.2 + 0.01;
    let covariance =
        || Covariance::new(shape, random(2, &[16]), q.tr().contiguous(), variances.copy(), diagonal.copy()).unwrap();
    let nuisance = nuisance(0.4, 0.3, 0.5);
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
        sweeps: 0,
        stop: Stop { tolerance: 1e-5, iterations: 60 },
    };
    let count = 4000u32;
    let double = |t: &Tensor| t.to_kind(Kind::Double);
    let c0 = double(&q).matmul(&double(&variances).diag(0)).matmul(&double(&q).tr()) + double(&diagonal).diag(0);
    let extra = Tensor::from_slice(&[0.09f64, 0.25]).diag(0);
    let zeros = Tensor::zeros([16, 2], (Kind::Double, Device::Cpu));
    let prior = Tensor::cat(&[Tensor::cat(&[c0, zeros.copy()], 1), Tensor::cat(&[zeros.tr(), extra], 1)], 0);
    let ones = Tensor::ones([12, 1], (Kind::Double, Device::Cpu));
    let jacobian = Tensor::cat(&[double(&matrix), double(&amplitude), ones], 1);
    let mean0 = Tensor::cat(&[double(&random(2, &[16])), Tensor::from_slice(&[0.4f64, 0.0])], 0);
    let noise = Tensor::eye(12, (Kind::Double, Device::Cpu)) * 0.09;
    let gain = prior.matmul(&jacobian.tr()).matmul(&(jacobian.matmul(&prior).matmul(&jacobian.tr()) + noise).inverse());
    let observed = double(&random(5, &[12]));
    let mean = &mean0 + gain.matmul(&(observed - jacobian.mv(&mean0)));
    let posterior = &prior - gain.matmul(&jacobian).matmul(&prior);
    let exact = posterior.diagonal(0, 0, 1);

    for sweeps in [0, 8] {
        let sampler = PerturbMap::new(covariance(), None, Settings { sweeps, ..settings }).unwrap();
        let noise = BlockNoise::new(1, "gaussian", 0, count);
        let problem = Problem { denoiser: &denoiser, likelihood: Some(&likelihood), noise, device: Device::Cpu };
        let draws = run(&sampler, &problem).unwrap();
        let parts = [draws.image.view([-1, 16]), draws.ln_amplitude.view([-1, 1]), draws.sky.view([-1, 1])];
        let flat = Tensor::cat(&parts, 1).to_kind(Kind::Double);
        let found_mean = flat.mean_dim(0, false, Kind::Double);
        let found = flat.var_dim(0, true, false);
        // 18 quantities: 4 standard errors. Widening (`inflation.rs`) moves means by 0.02 to 0.03 deviations, with sweeps by up to 0.035
        // (40,000 draws of 7 seeds).
        let moved = if sweeps > 0 { 0.035 * f64::from(count).sqrt() } else { 0.0 };
        let z = ((found_mean - &mean) / (&exact / f64::from(count)).sqrt()).abs().max().double_value(&[]);
        let ratio = (found / &exact - 1.0).abs().max().double_value(&[]);
        assert!(z < 4.0 + moved, "{sweeps} sweeps: mean off by {z} standard errors");
        assert!(ratio < 4.0 * (2.0 / f64::from(count)).sqrt(), "{sweeps} sweeps: variance off by a factor {ratio}");
    }
}

/// Every pixel of an image is of one scale s, half of the images are of each: D(x) = E[s^2 / (s^2 + t^2) | x] x.
struct TwoScales([f64; 2]);

impl Denoiser for TwoScales {
    fn shape(&self) -> [i64; 3] {
        [1, 4, 4]
    }
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let squares = x.square().sum_dim_intlist([1i64, 2, 3].as_slice(), true, Kind::Double);
        let total = self.0.map(|scale| scale * scale + sigma * sigma);
        let log = total.map(|total| -8.0 * total.ln() - &squares / (2.0 * total));
        let first = (&log[0] - &log[1]).sigmoid();
        let [low, high] = [0, 1].map(|k| self.0[k] * self.0[k] / total[k]);
        Ok(x * (first * (low - high) + high).to_kind(Kind::Float))
    }
    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.denoise(x, sigma)
    }
    fn flops(&self) -> f64 {
        0.0
    }
}

/// The Gaussian that stands for the prior in a step knows one scale only. That does not show in the draws, since x keeps what
/// it knew.
#[test]
fn what_is_not_gaussian_is_kept() {
    let scales = [0.5, 3.0];
    let variance = (scales[0] * scales[0] + scales[1] * scales[1]) / 2.0;
    let covariance = independent(4, variance);
    let settings = Settings {
        steps: 32,
        t_max: 10.0,
        t_min: 0.02,
        relinearizations: 0,
        sweeps: 0,
        stop: Stop { tolerance: 1e-3, iterations: 10 },
    };
    let sampler = PerturbMap::new(covariance, None, settings).unwrap();
    let denoiser = TwoScales(scales);
    let noise = BlockNoise::new(1, "two scales", 0, 4000);
    let problem = Problem { denoiser: &denoiser, likelihood: None, noise, device: Device::Cpu };
    let draws = run(&sampler, &problem).unwrap().image;
    let rms = draws.square().mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double).sqrt();
    let large = rms.gt((scales[0] * scales[1]).sqrt()).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    // Half of the images are large. Found: 0.555 in 32 steps, and 0.826 when x_t is forgotten; five standard errors are 0.04.
    assert!((large - 0.5).abs() < 0.1, "{large}");
}

/// A prior that is sure of the wrong image, and data that are clear: the draws follow the data, with all that these leave
/// open. Data that the prior expects are left alone.
#[test]
fn a_prior_that_the_data_contradict_gives_way() {
    let options = (Kind::Float, Device::Cpu);
    let none = |size: &[i64]| Tensor::zeros(size, options);
    let covariance = || independent(8, 0.01);
    let settings = Settings {
        steps: 32,
        t_max: 0.5,
        t_min: 0.002,
        relinearizations: 0,
        sweeps: 0,
        stop: Stop { tolerance: 1e-4, iterations: 60 },
    };
    let sampler = PerturbMap::new(covariance(), None, settings).unwrap();
    let denoiser = GaussianDenoiser::new(covariance());
    // Noise of a tenth of the prior's standard deviation of 0.1, and images of 0 and of 20 standard deviations.
    let misfit = |value: f64| {
        let nuisance = nuisance(0.0, 1e-6, 1e-6);
        let data = Tensor::full([1, 1, 64], value, options) + random(7, &[1, 1, 64]) * 0.01;
        let matrix = Tensor::eye(64, options);
        let likelihood = LinearLikelihood::new(data.copy(), matrix, none(&[64, 1]), 0.01, nuisance).unwrap();
        let noise = BlockNoise::new(1, "contradicted", 0, 64);
        let problem = Problem { denoiser: &denoiser, likelihood: Some(&likelihood), noise, device: Device::Cpu };
        let draws = run(&sampler, &problem).unwrap().image.view([64, 64]);
        (draws - data.view([1, 64])).square().mean(Kind::Double).sqrt().double_value(&[]) / 0.01
    };
    // In units of the noise; the exact posterior of this prior would leave 20 (1 / 10)^2 * 10 = 2 of the second.
    let (expected, contradicted) = (misfit(0.0), misfit(2.0));
    assert!((expected - 1.0).abs() < 0.1, "{expected}");
    assert!(contradicted < 1.3, "{contradicted}");
}

/// A companion where the prior expects empty sky: too little light for the galaxy as a whole to be widened. It is in the draws, and
/// the sky elsewhere stays as the prior has it.
#[test]
fn a_companion_that_the_prior_excludes_is_drawn() {
    let (sd, noise) = (0.01, 0.05);
    let options = (Kind::Float, Device::Cpu);
    let covariance = || independent(8, sd * sd);
    let settings = Settings {
        steps: 32,
        t_max: 0.5,
        t_min: 0.001,
        relinearizations: 0,
        sweeps: 0,
        stop: Stop { tolerance: 1e-4, iterations: 60 },
    };
    let sampler = PerturbMap::new(covariance(), None, settings).unwrap();
    let denoiser = GaussianDenoiser::new(covariance());
    let nuisance = nuisance(0.0, 1e-6, 1e-6);
    let (place, light) = (27, 0.6);
    let data = random(7, &[1, 1, 64]) * noise;
    let _ = data.narrow(2, place, 1).fill_(light);
    let [matrix, amplitude] = [Tensor::eye(64, options), Tensor::zeros([64, 1], options)];
    let likelihood = LinearLikelihood::new(data, matrix, amplitude, noise, nuisance).unwrap();
    let noise = BlockNoise::new(1, "companion", 0, 64);
    let problem = Problem { denoiser: &denoiser, likelihood: Some(&likelihood), noise, device: Device::Cpu };
    let draws = run(&sampler, &problem).unwrap().image.view([64, 64]);
    let there = draws.narrow(1, place, 1).mean(Kind::Double).double_value(&[]);
    let far = draws.index_select(1, &Tensor::from_slice(&[0i64, 7, 56, 63])).std(true).double_value(&[]);
    // The exact posterior of this prior has 0.04 of it; what is left out here is no longer significant (4.5 of 5.6 deviations).
    assert!(there > 0.55 * light && there < 1.05 * light, "{there}");
    assert!((far / sd - 1.0).abs() < 0.2, "{far}"); // 256 numbers, and the means of four pixels.
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
        sweeps: 2,
        stop: Stop { tolerance: 1e-4, iterations: 20 },
    };
    let sampler = PerturbMap::new(covariance(), None, settings).unwrap();
    let denoiser = GaussianDenoiser::new(covariance());
    let nuisance = nuisance(0.0, 0.3, 0.5);
    let likelihood =
        LinearLikelihood::new(random(5, &[1, 1, 8]), random(6, &[8, 16]), random(7, &[8, 1]), 0.3, nuisance).unwrap();
    let problem = Problem {
        denoiser: &denoiser,
        likelihood: Some(&likelihood),
        noise: BlockNoise::new(1, "resume", 0, 3),
        device: Device::Cpu,
    };
    let whole = run(&sampler, &problem).unwrap();
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

/// y = e^x + noise, pixel by pixel: as curved as bright pixels are.
struct Exponential {
    data: Tensor,
    mask: Tensor,
    sd: f64,
    nuisance: NuisancePrior,
    /// Whether it tells that it bends.
    tells: bool,
}

impl Likelihood for Exponential {
    fn data(&self) -> &Tensor {
        &self.data
    }
    fn mask(&self) -> &Tensor {
        &self.mask
    }
    fn nuisance(&self) -> &NuisancePrior {
        &self.nuisance
    }
    fn predict(&self, latent: &Latent) -> Result<Tensor> {
        Ok(latent.image.f_exp()?)
    }
    fn bend(&self, image: &Tensor) -> Result<Option<Tensor>> {
        Ok(if self.tells { Some(image.f_ones_like()?) } else { None })
    }
    fn linearize_within(&self, latent: &Latent, tangent_error: f64) -> Result<Box<dyn Linearized>> {
        let flux = latent.image.f_exp()?;
        let variance = flux.f_mul_scalar(tangent_error)?.f_square()?.f_add_scalar(self.sd.powi(2))?;
        Ok(Box::new(ExponentialPoint { flux, variance }))
    }
}

struct ExponentialPoint {
    flux: Tensor,
    variance: Tensor,
}

impl Linearized for ExponentialPoint {
    fn prediction(&self) -> &Tensor {
        &self.flux
    }
    fn apply(&self, direction: &Latent) -> Result<Tensor> {
        Ok(direction.image.f_mul(&self.flux)?)
    }
    fn adjoint(&self, residual: &Tensor) -> Result<Latent> {
        let image = residual.f_mul(&self.flux)?;
        let none = Tensor::f_zeros([image.size()[0], 1], (Kind::Float, Device::Cpu))?;
        Ok(Latent { image, ln_amplitude: none.shallow_clone(), sky: none })
    }
    fn covariance(&self, vector: &Tensor) -> Result<Tensor> {
        Ok(vector.f_mul(&self.variance)?)
    }
    fn variance(&self) -> &Tensor {
        &self.variance
    }
    fn noise(&self, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        let white = noise.normal(Purpose::PerturbData, step, &self.flux.size()[1..], Device::Cpu)?;
        Ok(white.f_mul(&self.variance.f_sqrt()?)?)
    }
}

/// How much too bright draws are of 256 pixels that are seen at S/N 1 to 4 each, in posterior deviations.
fn brightness_of_curved_draws(tells: bool) -> f64 {
    let (prior_sd, sd, count, side) = (0.5, 0.5, 64u32, 16i64);
    let settings = Settings {
        steps: 32,
        t_max: 3.0 * prior_sd,
        t_min: 0.005,
        relinearizations: 1,
        sweeps: 0,
        stop: Stop { tolerance: 1e-4, iterations: 30 },
    };
    let data: Vec<f32> = [-0.6f32, -0.1, 0.1, 0.7].map(f32::exp).repeat(64);
    let likelihood = Exponential {
        data: Tensor::from_slice(&data).view([1, side, side]),
        mask: Tensor::ones([1, side, side], (Kind::Float, Device::Cpu)),
        sd,
        nuisance: nuisance(0.0, 0.0, 0.0),
        tells,
    };
    let sampler = PerturbMap::new(independent(side, prior_sd * prior_sd), None, settings).unwrap();
    let denoiser = GaussianDenoiser::new(independent(side, prior_sd * prior_sd));
    let noise = BlockNoise::new(1, "curved", 0, count);
    let problem = Problem { denoiser: &denoiser, likelihood: Some(&likelihood), noise, device: Device::Cpu };
    let draws = run(&sampler, &problem).unwrap().image.view([i64::from(count), side * side]);
    let means = Vec::<f64>::try_from(draws.mean_dim([0i64].as_slice(), false, Kind::Double)).unwrap();
    let biases = means.iter().zip(&data).map(|(found, datum)| {
        let (mut sums, mut weights) = ([0.0; 2], 0.0);
        for i in 0..4000 {
            let x = (f64::from(i) / 2000.0 - 1.0) * 6.0 * prior_sd;
            let miss = (f64::from(*datum) - x.exp()) / sd;
            let weight = (-0.5 * (miss * miss + (x / prior_sd).powi(2))).exp();
            sums = [sums[0] + weight * x, sums[1] + weight * x * x];
            weights += weight;
        }
        let exact = sums[0] / weights;
        (found - exact) / (sums[1] / weights - exact * exact).sqrt()
    });
    biases.sum::<f64>() / means.len() as f64
}

#[test]
fn draws_of_a_curved_model_are_hardly_too_bright() {
    let [left, before] = [true, false].map(brightness_of_curved_draws);
    // The error of these means is 0.01; found were 0.00 and 0.08.
    assert!(left.abs() < 0.03 && before > 0.05, "{left}, {before} without the correction");
}
