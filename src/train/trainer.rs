//! The training step: denoising score matching with the Gaussian skip,
//!
//! ```text
//! loss = mean over pixels of ((D(x0 + t n, t) - x0) / c_out(t))^2 = mean (gate F - (x0 - W) / c_out)^2
//! ```
//!
//! so that every noise level weighs alike and a network that says nothing has a loss of about one.

use tch::{Device, Kind, Tensor};

use crate::prior::lean::LeanNetwork;
use crate::prior::lean_denoiser::LeanDenoiser;
use crate::prior::skip::Skip;
use crate::train::batches::{Batch, level_grid};
use crate::train::config::TrainConfig;
use crate::train::optimizer::Optimizer;
use crate::train::parameters::Layout;
use crate::train::setup::Setup;
use crate::{Error, Result};

/// A network in training.
pub struct Trainer {
    pub config: TrainConfig,
    pub setup: Setup,
    pub optimizer: Optimizer,
    /// Steps done.
    pub step: u64,
    pub layout: Layout,
    skip: Skip,
    network: LeanNetwork,
    leaves: Vec<Tensor>,
    averaged: LeanNetwork,
    shape: [i64; 3],
}

/// What one step was like.
#[derive(Debug)]
pub struct StepReport {
    pub loss: f64,
    pub gradient_norm: f64,
    /// Noise level and loss of each image.
    pub images: Vec<(f64, f64)>,
}

impl Trainer {
    /// A network before its first step.
    pub fn new(config: &TrainConfig, setup: Setup) -> Result<Self> {
        let shape = setup.covariance.shape;
        let levels = level_grid(config.levels.sigma_min, setup.sigma_max, config.levels.count);
        let skip = {
            let _guard = tch::no_grad_guard();
            Skip::new(&setup.covariance, &levels)?
        };
        let layout = Layout::new(&config.network, shape)?;
        let optimizer = Optimizer::new(&config.optimizer, layout.initial(config.run.seed)?, layout.decay_mask()?)?;
        let (network, leaves) = layout.network(&optimizer.weights, true)?;
        let (averaged, _) = layout.network(&optimizer.average, false)?;
        Ok(Trainer {
            config: config.clone(),
            setup,
            optimizer,
            step: 0,
            layout,
            skip,
            network,
            leaves,
            averaged,
            shape,
        })
    }

    /// The noise levels of the training.
    pub fn levels(&self) -> &[f64] {
        self.skip.levels()
    }

    /// One step on the batch of this step.
    pub fn train(&mut self, batch: &Batch) -> Result<StepReport> {
        if batch.step != self.step {
            return Err(Error::internal(format!("batch of step {} at step {}", batch.step, self.step)));
        }
        let (prepared, target) = {
            let _guard = tch::no_grad_guard();
            let (x0, noise) = (self.images(&batch.flux)?, self.tensor(&batch.noise)?);
            self.noisy(&self.setup.stretch.forward(&x0)?, &noise, &batch.levels)?
        };
        let output = self.network.forward(&prepared.inputs, &prepared.ln_sigma)?.f_mul(&prepared.gate)?;
        let squares = output.f_sub(&target)?.f_square()?;
        let per_image = squares.f_mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float)?;
        let loss = per_image.f_mean(Kind::Float)?;
        let gradients = Tensor::f_run_backward(&[&loss], &self.leaves, false, false)?;
        let flat: Vec<Tensor> =
            gradients.iter().map(|gradient| gradient.f_reshape([-1])).collect::<std::result::Result<_, _>>()?;
        let gradient_norm = self.optimizer.update(&Tensor::f_cat(&flat, 0)?, self.step)?;
        self.step += 1;
        let losses = Vec::<f32>::try_from(&per_image.f_detach()?)?;
        let levels = self.levels();
        let images = batch.levels.iter().zip(&losses).map(|(&level, &loss)| (levels[level as usize], f64::from(loss)));
        Ok(StepReport { loss: loss.f_double_value(&[])?, gradient_norm, images: images.collect() })
    }

    /// Loss of the averaged network and of the Wiener denoiser alone, on stretched images `[B, C, n, n]` with these
    /// standard normal numbers, all at one level of the grid.
    pub fn heldout_loss(&self, x0: &Tensor, noise: &Tensor, level: i64) -> Result<(f64, f64)> {
        let _guard = tch::no_grad_guard();
        let (mut network, mut wiener) = (0.0, 0.0);
        let count = x0.size()[0];
        let batch = self.config.optimizer.batch as i64;
        for first in (0..count).step_by(batch as usize) {
            let length = batch.min(count - first);
            let (part, white) = (x0.f_narrow(0, first, length)?, noise.f_narrow(0, first, length)?);
            let (prepared, target) = self.noisy(&part, &white, &vec![level; length as usize])?;
            let output = self.averaged.forward(&prepared.inputs, &prepared.ln_sigma)?.f_mul(&prepared.gate)?;
            network += output.f_sub(&target)?.f_square()?.f_mean(Kind::Float)?.f_double_value(&[])? * length as f64;
            wiener += target.f_square()?.f_mean(Kind::Float)?.f_double_value(&[])? * length as f64;
        }
        Ok((network / count as f64, wiener / count as f64))
    }

    /// The averaged network as a denoiser (its weights are copied).
    pub fn denoiser(&self) -> Result<LeanDenoiser> {
        let copy = self.optimizer.average.f_detach_copy()?;
        let (network, _) = self.layout.network(&copy, false)?;
        Ok(LeanDenoiser::new(network, self.setup.covariance.to_device(Device::Cpu)?))
    }

    /// Linear flux as a tensor `[B, C, n, n]`.
    fn images(&self, values: &[f32]) -> Result<Tensor> {
        self.tensor(values)
    }

    fn tensor(&self, values: &[f32]) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        Ok(Tensor::f_from_slice(values)?.f_view([-1, channels, height, width])?)
    }

    /// The network's inputs and its target (x0 - W) / c_out.
    fn noisy(&self, x0: &Tensor, noise: &Tensor, levels: &[i64]) -> Result<(crate::prior::skip::Prepared, Tensor)> {
        let sigma: Vec<f32> = levels.iter().map(|&level| self.levels()[level as usize] as f32).collect();
        let sigma = Tensor::f_from_slice(&sigma)?.f_view([-1, 1, 1, 1])?;
        let noisy = x0.f_add(&noise.f_mul(&sigma)?)?;
        let prepared = self.skip.prepare(&noisy, &Tensor::f_from_slice(levels)?)?;
        let target = x0.f_sub(&prepared.wiener)?.f_div(&prepared.output_scale)?;
        Ok((prepared, target))
    }
}
