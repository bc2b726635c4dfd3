//! The training step: the gradient of the objective's loss, micro-batch by micro-batch, and the optimizer's answer to the sum.

use std::time::Duration;

use tch::{Device, Kind, Tensor};

use crate::cluster::Solo;
use crate::device::Half;
use crate::prior::Denoiser;
use crate::train::backward::{Backward, Part};
use crate::train::batches::Batch;
use crate::train::config::{Precision, TrainConfig};
use crate::train::objective::Objective;
use crate::train::optimizer::Optimizer;
use crate::train::parameters::{Layout, Network};
use crate::train::reduce::{Partial, Reducer};
use crate::train::scale::LossScale;
use crate::train::setup::Setup;
use crate::{Error, Result};

/// A network in training.
pub struct Trainer {
    pub config: TrainConfig,
    pub setup: Setup,
    pub optimizer: Optimizer,
    /// Steps done.
    pub step: u64,
    /// Of the loss, where the network computes in f16.
    pub scale: LossScale,
    pub layout: Layout,
    objective: Objective,
    network: Network,
    leaves: Vec<Tensor>,
    averaged: Network,
    shape: [i64; 3],
    device: Device,
}

/// What one step was like.
#[derive(Debug)]
pub struct StepReport {
    pub loss: f64,
    /// `None` where the gradient overflowed f16, and the step was left out.
    pub gradient_norm: Option<f64>,
    /// Noise level and loss of each image.
    pub images: Vec<(f64, f64)>,
    /// A rank has been asked to stop.
    pub stop: bool,
}

impl Trainer {
    /// A network before its first step, on the CPU.
    pub fn new(config: &TrainConfig, setup: Setup) -> Result<Self> {
        Trainer::on(config, setup, Device::Cpu)
    }

    /// A network before its first step, on a device.
    pub fn on(config: &TrainConfig, setup: Setup, device: Device) -> Result<Self> {
        let shape = setup.covariance.shape;
        let objective = Objective::new(config, &setup.covariance, setup.sigma_max, device)?;
        let layout = Layout::new(&config.architecture()?, shape)?;
        let weights = layout.initial(config.run.seed)?.f_to_device(device)?;
        let optimizer = Optimizer::new(&config.optimizer, weights, layout.decay_mask()?.f_to_device(device)?)?;
        let (network, leaves) = layout.network(&optimizer.weights, true)?;
        let (averaged, _) = layout.network(&optimizer.average, false)?;
        Ok(Trainer {
            config: config.clone(),
            setup,
            optimizer,
            step: 0,
            scale: LossScale::default(),
            layout,
            objective,
            network,
            leaves,
            averaged,
            shape,
            device,
        })
    }

    /// The noise levels of the training.
    pub fn levels(&self) -> &[f64] {
        self.objective.levels()
    }

    /// One step on the whole batch of this step.
    pub fn train(&mut self, batch: &Batch) -> Result<StepReport> {
        let mut reducer = Reducer::new(&Solo, &self.config.optimizer, Duration::MAX)?;
        let total = self.sum(batch, false, &mut reducer)?;
        self.apply(&total, &batch.levels)
    }

    /// The sum over the micro-batches of the whole batch, of which `batch` is a rank's share: the gradient of the mean loss, then
    /// whether a rank wants to `stop`, then the loss of each image. Of the last micro-batch, the decoder's gradient is exchanged
    /// while the encoder's is made.
    pub fn sum(&self, batch: &Batch, stop: bool, reducer: &mut Reducer) -> Result<Tensor> {
        if batch.step != self.step {
            return Err(Error::internal(format!("batch of step {} at step {}", batch.step, self.step)));
        }
        let (all, micro) = (batch.levels.len(), self.config.optimizer.micro_batch());
        let pixels = self.shape.iter().product::<i64>() as usize;
        let mut decoders = Partial::default();
        let mut encoders = Partial::default();
        let mut parameters = [Vec::new(), Vec::new()];
        for first in batch.images.clone().step_by(micro) {
            let place = (first - batch.images.start) * pixels..(first - batch.images.start + micro) * pixels;
            let levels = &batch.levels[first..first + micro];
            let (loss, losses, backward) = self.forward(&batch.flux[place.clone()], &batch.noise[place], levels)?;
            let share =
                |gradient: &Tensor| self.unscaled(gradient)?.f_div_scalar((all / micro) as f64).map_err(Error::from);
            let (decoder, rest) = backward.decoder(&loss)?;
            decoders.push((first / micro) as u32, share(&decoder.gradient)?)?;
            let encoder = if first + micro < batch.images.end {
                rest.gradient()?
            } else {
                reducer.begin(std::mem::take(&mut decoders), all)?;
                reducer.during(move || rest.gradient())?
            };
            let mut tail = vec![0.0f32; 1 + all];
            tail[0] = f32::from(u8::from(stop));
            tail[1 + first..1 + first + micro].copy_from_slice(&losses);
            let tail = Tensor::f_from_slice(&tail)?.f_to_device(encoder.gradient.device())?;
            encoders.push((first / micro) as u32, Tensor::f_cat(&[share(&encoder.gradient)?, tail], 0)?)?;
            parameters = [decoder.parameters, encoder.parameters];
        }
        reducer.begin(encoders, all)?;
        let (decoder, encoder) = (reducer.end()?, reducer.end()?);
        let [of_decoder, of_encoder] = parameters;
        let length = self.layout.length() - decoder.size()[0];
        let tail = encoder.f_narrow(0, length, 1 + all as i64)?.f_to_device(self.device)?;
        let gradient = encoder.f_narrow(0, 0, length)?;
        let parts = [Part { parameters: of_decoder, gradient: decoder }, Part { parameters: of_encoder, gradient }];
        Ok(Tensor::f_cat(&[self.layout.join(&parts, self.device)?, tail], 0)?)
    }

    /// The mean loss of a micro-batch (times the scale, where there is one), the loss of each of its images, and its backward
    /// pass.
    fn forward(&self, flux: &[f32], noise: &[f32], levels: &[i64]) -> Result<(Tensor, Vec<f32>, Backward)> {
        let x0 = {
            let _guard = tch::no_grad_guard();
            self.setup.stretch.forward(&self.tensor(flux)?)?
        };
        let half = self.config.run.precision.half();
        let mut backward = Backward::new(&self.leaves);
        let noise = self.tensor(noise)?;
        let mut hand_over = |given: &Tensor| backward.hand_over(given);
        let per_image = self.objective.losses(&self.network, &x0, &noise, levels, half, &mut hand_over)?;
        let loss = per_image.f_mean(Kind::Float)?;
        let loss = self.loss_scale().map_or(Ok(loss.shallow_clone()), |scale| loss.f_mul_scalar(scale))?;
        Ok((loss, Vec::<f32>::try_from(&per_image.f_detach()?.f_to_device(Device::Cpu)?)?, backward))
    }

    /// What the loss is multiplied by, where the network computes in f16.
    fn loss_scale(&self) -> Option<f64> {
        (self.config.run.precision.half() == Some(Half::F16)).then(|| self.scale.factor())
    }

    /// A gradient of the scaled loss as that of the loss itself.
    fn unscaled(&self, gradient: &Tensor) -> Result<Tensor> {
        Ok(self.loss_scale().map_or(Ok(gradient.shallow_clone()), |scale| gradient.f_div_scalar(scale))?)
    }

    /// Steps by the sum over all micro-batches. The same sum gives the same bits on every rank.
    pub fn apply(&mut self, total: &Tensor, levels: &[i64]) -> Result<StepReport> {
        let length = self.layout.length();
        let tail = Vec::<f32>::try_from(&total.f_narrow(0, length, 1 + levels.len() as i64)?)?;
        let losses = &tail[1..];
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len() as f64;
        if !loss.is_finite() {
            return Err(Error::internal(format!("step {}: the loss is {loss}: the training has diverged", self.step)));
        }
        let gradient = total.f_narrow(0, 0, length)?.f_to_device(self.optimizer.weights.device())?;
        let f16 = self.config.run.precision == Precision::F16;
        let finite = !f16 || gradient.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0;
        // A gradient that has overflowed f16 is no gradient: the step is left out, and the next one has a smaller scale.
        let gradient_norm = if finite { Some(self.optimizer.update(&gradient, self.step)?) } else { None };
        if f16 {
            self.scale.learn(finite)?;
        }
        self.step += 1;
        let grid = self.levels();
        let images = levels.iter().zip(losses).map(|(&level, &loss)| (grid[level as usize], f64::from(loss)));
        Ok(StepReport { loss, gradient_norm, images: images.collect(), stop: tail[0] > 0.0 })
    }

    /// Loss of the averaged network and of the Wiener denoiser alone, on stretched images `[B, C, n, n]` with these
    /// standard normal numbers, all at one level of the grid.
    pub fn heldout_loss(&self, x0: &Tensor, noise: &Tensor, level: i64) -> Result<(f64, f64)> {
        let _guard = tch::no_grad_guard();
        let (mut network, mut wiener) = (0.0, 0.0);
        let count = x0.size()[0];
        let batch = self.config.optimizer.micro_batch() as i64;
        for first in (0..count).step_by(batch as usize) {
            let length = batch.min(count - first);
            let part = x0.f_narrow(0, first, length)?.f_to_device(self.device)?;
            let white = noise.f_narrow(0, first, length)?.f_to_device(self.device)?;
            let (own, other) = self.objective.heldout(&self.averaged, &part, &white, level)?;
            network += own * length as f64;
            wiener += other * length as f64;
        }
        Ok((network / count as f64, wiener / count as f64))
    }

    /// The averaged network as a denoiser (its weights are copied).
    pub fn denoiser(&self) -> Result<Box<dyn Denoiser>> {
        self.objective.denoiser(&self.layout, &self.optimizer.average, &self.setup.covariance)
    }

    /// The noise levels that it may be used at, the largest first.
    pub fn range(&self) -> [f64; 2] {
        let levels = self.levels();
        let (low, high) = (levels.first().copied().unwrap_or(0.0), levels.last().copied().unwrap_or(f64::INFINITY));
        [self.setup.sigma_max.min(high), self.config.levels.sigma_min.max(low)]
    }

    fn tensor(&self, values: &[f32]) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        Ok(Tensor::f_from_slice(values)?.f_view([-1, channels, height, width])?.f_to_device(self.device)?)
    }
}
