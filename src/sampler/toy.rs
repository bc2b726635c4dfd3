//! A problem whose answer is known, for tests of samplers: independent standard normal pixels, seen through a gain.

use tch::{Device, Kind, Tensor};

use super::Problem;
use crate::Result;
use crate::forward::{Latent, Likelihood, Linearized, NuisancePrior};
use crate::prior::Denoiser;
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

    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.denoise_with_grad(x, sigma)
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
