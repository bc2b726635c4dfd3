//! Problems whose answer is known, and what every sampler must do on them: independent standard normal pixels seen through
//! a gain (`UnitGaussian`, `ToyLikelihood`), a Gaussian prior with a linear model, amplitude and sky (`GaussianToy`), and a
//! prior of two images (`TwoModes`).

use tch::{Device, Kind, Tensor};

use super::{Problem, Sampler, State, run};
use crate::Result;
use crate::forward::linear::LinearLikelihood;
use crate::forward::{Latent, Likelihood, Linearized, NuisancePrior};
use crate::prior::analytic::{GaussianDenoiser, MixtureDenoiser};
use crate::prior::{Covariance, Denoiser};
use crate::random::{BlockNoise, Key, Purpose};

pub const SHAPE: [i64; 3] = [2, 8, 8];
pub const GAIN: f64 = 3.0;
pub const NOISE_SD: f64 = 0.1;

/// The exact denoiser of independent N(0, 1) pixels.
pub struct UnitGaussian;

impl Denoiser for UnitGaussian {
    fn shape(&self) -> [i64; 3] {
        SHAPE
    }

    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(x.f_div_scalar(1.0 + sigma * sigma)?)
    }

    fn flops(&self) -> f64 {
        0.0
    }
}

/// y = unit (GAIN x + NOISE_SD e), for a truth drawn from the prior.
pub struct ToyLikelihood {
    unit: f64,
    data: Tensor,
    mask: Tensor,
    nuisance: NuisancePrior,
}

impl ToyLikelihood {
    pub fn new(unit: f64) -> Self {
        let draw = |step| Tensor::from_slice(&Key::new(5, "toy", 0, Purpose::PriorDraw, step).normal(128)).view(SHAPE);
        let options = (Kind::Float, Device::Cpu);
        ToyLikelihood {
            unit,
            data: (draw(0) * GAIN + draw(1) * NOISE_SD) * unit,
            mask: Tensor::ones(SHAPE, options),
            nuisance: NuisancePrior {
                ln_amplitude_mean: Tensor::zeros([1], options),
                ln_amplitude_sd: Tensor::zeros([1], options),
                sky_sd: Tensor::zeros([2], options),
            },
        }
    }
}

impl Likelihood for ToyLikelihood {
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
        Ok(&latent.image * (GAIN * self.unit))
    }

    fn linearize_within(&self, latent: &Latent, _tangent_error: f64) -> Result<Box<dyn Linearized>> {
        let prediction = self.predict(latent)?;
        let variance = prediction.full_like((NOISE_SD * self.unit).powi(2));
        Ok(Box::new(ToyLinearized { gain: GAIN * self.unit, prediction, variance }))
    }
}

struct ToyLinearized {
    gain: f64,
    prediction: Tensor,
    variance: Tensor,
}

impl Linearized for ToyLinearized {
    fn prediction(&self) -> &Tensor {
        &self.prediction
    }

    fn apply(&self, direction: &Latent) -> Result<Tensor> {
        Ok(&direction.image * self.gain)
    }

    fn adjoint(&self, residual: &Tensor) -> Result<Latent> {
        let options = (Kind::Float, Device::Cpu);
        Ok(Latent {
            image: residual * self.gain,
            ln_amplitude: Tensor::zeros([residual.size()[0], 1], options),
            sky: Tensor::zeros([residual.size()[0], SHAPE[0]], options),
        })
    }

    fn covariance(&self, vector: &Tensor) -> Result<Tensor> {
        Ok(vector * &self.variance)
    }

    fn variance(&self) -> &Tensor {
        &self.variance
    }

    fn noise(&self, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        Ok(noise.normal(Purpose::PerturbData, step, &SHAPE, Device::Cpu)? * self.variance.sqrt())
    }
}

/// Samples `first .. first + count` of the toy object.
pub fn problem<'a>(
    denoiser: &'a dyn Denoiser,
    likelihood: Option<&'a dyn Likelihood>,
    first: u32,
    count: u32,
) -> Problem<'a> {
    Problem { denoiser, likelihood, noise: BlockNoise::new(9, "toy", first, count), device: Device::Cpu }
}

/// `UnitGaussian`, whose estimate of the first sample is not finite below this noise level.
struct LosesTheFirst(f64);

impl Denoiser for LosesTheFirst {
    fn shape(&self) -> [i64; 3] {
        SHAPE
    }

    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let factor = Tensor::f_ones([x.size()[0], 1, 1, 1], (Kind::Float, Device::Cpu))?;
        if sigma < self.0 {
            let _ = factor.f_narrow(0, 0, 1)?.f_fill_(f64::NAN)?;
        }
        Ok(UnitGaussian.denoise_with_grad(x, sigma)?.f_mul(&factor)?)
    }

    fn flops(&self) -> f64 {
        0.0
    }
}

/// Asserts that a sample that is lost on the way leaves the others of its block what they are worth.
pub fn assert_outlives_a_lost_sample(sampler: &dyn Sampler) -> Result<()> {
    let likelihood = ToyLikelihood::new(1.0);
    let draws = run(sampler, &problem(&LosesTheFirst(0.3), Some(&likelihood), 0, 8))?;
    assert_eq!(draws.image.narrow(0, 0, 1).isfinite().all().int64_value(&[]), 0, "the first is not lost");
    let residual = (likelihood.data() - likelihood.predict(&draws)?).narrow(0, 1, 7);
    let misfit = residual.square().mean(Kind::Double).sqrt().double_value(&[]) / NOISE_SD;
    assert!(misfit < 2.0, "{misfit}: draws of the posterior have 1.4, and those of the prior 42");
    Ok(())
}

/// The covariance of `UnitGaussian`.
pub fn unit_covariance() -> Result<Covariance> {
    let (pixels, options) = (SHAPE.iter().product::<i64>(), (Kind::Float, Device::Cpu));
    let component = Tensor::zeros([1, pixels], options);
    let _ = component.narrow(1, 0, 1).fill_(1.0);
    let diagonal = Tensor::ones([pixels], options) - component.view(-1);
    Covariance::new(SHAPE, Tensor::zeros([pixels], options), component, Tensor::ones([1], options), diagonal)
}

/// Mean and variance of draws of `UnitGaussian` without data: 8192 values, so that five standard errors are 0.055 and
/// 0.078.
pub fn draws_without_data(sampler: &dyn Sampler) -> Result<[f64; 2]> {
    let draws = run(sampler, &problem(&UnitGaussian, None, 0, 64))?.image.to_kind(Kind::Double);
    Ok([draws.mean(Kind::Double).double_value(&[]), draws.var(true).double_value(&[])])
}

/// Root mean square of y - A(x), in units of the noise, with the data in units of their own. The prior's draws are off by
/// the gain times sqrt(2), and draws of the posterior by about 1.4.
pub fn misfit(sampler: &dyn Sampler, unit: f64) -> Result<f64> {
    let likelihood = ToyLikelihood::new(unit);
    let draws = run(sampler, &problem(&UnitGaussian, Some(&likelihood), 0, 8))?;
    let residual = likelihood.data() - likelihood.predict(&draws)?;
    Ok(residual.square().mean(Kind::Double).sqrt().double_value(&[]) / (NOISE_SD * unit))
}

/// Asserts that a run that is saved and loaded after each step ends with the same bytes.
pub fn assert_resumes(sampler: &dyn Sampler) -> Result<()> {
    let toy = GaussianToy::new(false)?;
    let denoiser = toy.denoiser()?;
    let problem = problem(&denoiser, Some(&toy.likelihood), 0, 3);
    let whole = run(sampler, &problem)?;
    let mut state = sampler.start(&problem)?;
    for done in 0..sampler.steps() {
        assert_eq!(state.step, done);
        sampler.step(&problem, &mut state)?;
        state = State::load(&state.save()?, Device::Cpu)?;
    }
    let resumed = sampler.finish(&problem, state)?;
    assert!(whole.image == resumed.image && whole.ln_amplitude == resumed.ln_amplitude && whole.sky == resumed.sky);
    Ok(())
}

/// The largest difference between a sample of a block of three and the same sample alone.
pub fn batch_dependence(sampler: &dyn Sampler) -> Result<f64> {
    let toy = GaussianToy::new(false)?;
    let denoiser = toy.denoiser()?;
    let together = flat(&run(sampler, &problem(&denoiser, Some(&toy.likelihood), 0, 3))?);
    let alone = flat(&run(sampler, &problem(&denoiser, Some(&toy.likelihood), 2, 1))?);
    Ok((together.narrow(0, 2, 1) - alone).abs().max().double_value(&[]))
}

/// 16 pixels with a Gaussian prior, y = A x + c ln a + sky + noise with 12 data: the posterior of all 18 unknowns is known.
pub struct GaussianToy {
    parts: [Tensor; 4],
    pub likelihood: LinearLikelihood,
    /// Of the 16 pixels, ln a and the sky, f64.
    mean: Tensor,
    variance: Tensor,
}

/// How draws compare with the exact posterior.
#[derive(Debug)]
pub struct Comparison {
    /// Largest error of a mean, in standard deviations of the posterior.
    pub mean: f64,
    /// Lowest, average and highest ratio of a variance to the exact one.
    pub variance: [f64; 3],
}

impl GaussianToy {
    /// The pixels of the prior are correlated, or independent with one variance.
    pub fn new(independent: bool) -> Result<GaussianToy> {
        let random = |step: u32, shape: &[i64]| {
            let count = shape.iter().product::<i64>() as usize;
            Tensor::from_slice(&Key::new(11, "toy", 0, Purpose::Evaluation, step).normal(count)).view(shape)
        };
        let double = |t: &Tensor| t.to_kind(Kind::Double);
        let (q, _) = random(0, &[16, 5]).qr(true);
        let (variances, diagonal) = if independent {
            (Tensor::zeros([5], (Kind::Float, Device::Cpu)), Tensor::full([16], 0.8, (Kind::Float, Device::Cpu)))
        } else {
            (Tensor::from_slice(&[4.0f32, 2.0, 1.0, 0.5, 0.2]), random(1, &[16]).square() * 0.2 + 0.01)
        };
        let nuisance = NuisancePrior {
            ln_amplitude_mean: Tensor::from_slice(&[0.4f32]),
            ln_amplitude_sd: Tensor::from_slice(&[0.3f32]),
            sky_sd: Tensor::from_slice(&[0.5f32]),
        };
        let (matrix, amplitude) = (random(3, &[12, 16]) * 0.5, random(4, &[12, 1]));
        let data = random(5, &[1, 1, 12]);
        let likelihood = LinearLikelihood::new(data.copy(), matrix.copy(), amplitude.copy(), 0.3, nuisance)?;

        let c0 = double(&q).matmul(&double(&variances).diag(0)).matmul(&double(&q).tr()) + double(&diagonal).diag(0);
        let prior = Tensor::zeros([18, 18], (Kind::Double, Device::Cpu));
        prior.narrow(0, 0, 16).narrow(1, 0, 16).copy_(&c0);
        prior.narrow(0, 16, 2).narrow(1, 16, 2).copy_(&Tensor::from_slice(&[0.09f64, 0.25]).diag(0));
        let ones = Tensor::ones([12, 1], (Kind::Double, Device::Cpu));
        let jacobian = Tensor::cat(&[double(&matrix), double(&amplitude), ones], 1);
        let before = Tensor::cat(&[double(&random(2, &[16])), Tensor::from_slice(&[0.4f64, 0.0])], 0);
        let noise = Tensor::eye(12, (Kind::Double, Device::Cpu)) * 0.09;
        let through = prior.matmul(&jacobian.tr());
        let gain = through.matmul(&(jacobian.matmul(&through) + noise).inverse());
        let mean = &before + gain.matmul(&(double(&data).view(-1) - jacobian.mv(&before)).view([12, 1])).view(-1);
        let variance = (&prior - gain.matmul(&jacobian).matmul(&prior)).diagonal(0, 0, 1).copy();
        let parts = [random(2, &[16]), q.tr().contiguous(), variances, diagonal];
        Ok(GaussianToy { parts, likelihood, mean, variance })
    }

    pub fn covariance(&self) -> Result<Covariance> {
        let [mean, components, variances, diagonal] = &self.parts;
        Covariance::new([1, 4, 4], mean.copy(), components.copy(), variances.copy(), diagonal.copy())
    }

    pub fn denoiser(&self) -> Result<GaussianDenoiser> {
        Ok(GaussianDenoiser::new(self.covariance()?))
    }

    /// `count` draws against the exact posterior. Five standard errors of a mean are 5 / sqrt(count) standard deviations,
    /// and of a variance 5 sqrt(2 / count) of itself.
    pub fn compare(&self, sampler: &dyn Sampler, count: u32) -> Result<Comparison> {
        let denoiser = self.denoiser()?;
        let draws = flat(&run(sampler, &problem(&denoiser, Some(&self.likelihood), 0, count))?);
        let mean = (draws.mean_dim(0, false, Kind::Double) - &self.mean) / self.variance.sqrt();
        let ratio = draws.var_dim(0, true, false) / &self.variance;
        let number = |t: Tensor| t.double_value(&[]);
        let variance = [number(ratio.min()), number(ratio.mean(Kind::Double)), number(ratio.max())];
        Ok(Comparison { mean: number(mean.abs().max()), variance })
    }
}

/// Two images of four pixels with little scatter, and data that prefer one of them nine to one.
pub struct TwoModes {
    denoiser: MixtureDenoiser,
    covariance: Covariance,
    likelihood: LinearLikelihood,
}

impl TwoModes {
    pub fn new() -> Result<TwoModes> {
        let options = (Kind::Float, Device::Cpu);
        let (scatter, noise, pixels) = (0.1f64, 1.0f64, 4i64);
        let image = Tensor::full([pixels], 0.5, options);
        let images = Tensor::stack(&[image.copy(), -&image], 0).view([2, 1, 2, 2]);
        let component = (&image / image.norm()).view([1, pixels]);
        let strength = image.square().sum(Kind::Float).view([1]);
        let rest = Tensor::full([pixels], scatter * scatter, options);
        // y = x + noise: of data f m, the images m and -m have the ratio exp(2 f m^2 / variance).
        let variance = scatter * scatter + noise * noise;
        let data = (&image * (9f64.ln() * variance / 2.0)).view([1, 1, pixels]);
        let none = || Tensor::full([1], 1e-6, options);
        let nuisance =
            NuisancePrior { ln_amplitude_mean: Tensor::zeros([1], options), ln_amplitude_sd: none(), sky_sd: none() };
        let (matrix, amplitude) = (Tensor::eye(pixels, options), Tensor::zeros([pixels, 1], options));
        Ok(TwoModes {
            denoiser: MixtureDenoiser::new(images, scatter)?,
            covariance: Covariance::new([1, 2, 2], image.zeros_like(), component, strength, rest)?,
            likelihood: LinearLikelihood::new(data, matrix, amplitude, noise, nuisance)?,
        })
    }

    pub fn covariance(&self) -> Result<Covariance> {
        self.covariance.to_device(Device::Cpu)
    }

    /// The part of 4000 draws that is of the image with nine tenths of the posterior.
    pub fn share(&self, sampler: &dyn Sampler) -> Result<f64> {
        let noise = BlockNoise::new(1, "two modes", 0, 4000);
        let likelihood = Some(&self.likelihood as &dyn Likelihood);
        let draws = run(sampler, &Problem { denoiser: &self.denoiser, likelihood, noise, device: Device::Cpu })?.image;
        let means = draws.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double);
        Ok(means.gt(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]))
    }
}

/// Image, ln a and sky of each draw in a row, f64.
fn flat(draws: &Latent) -> Tensor {
    let count = draws.image.size()[0];
    Tensor::cat(&[draws.image.view([count, -1]), draws.ln_amplitude.copy(), draws.sky.copy()], 1).to_kind(Kind::Double)
}
