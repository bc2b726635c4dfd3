//! Training batches, made ahead of the training step by threads of their own. Everything in a batch is a pure function of
//! (seed, step), so that a run that is resumed sees the same batches.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use crate::random::{Key, Purpose, object_seed};
use crate::train::config::{LevelsSection, OptimizerSection, TrainConfig};
use crate::train::reduce::share;
use crate::train::source::ImageSource;
use crate::{Error, Result};

/// Batches of each thread that wait for the training step.
const AHEAD: usize = 2;

/// The images of a step, with their noise: all B of a batch, or a rank's share of them.
#[derive(Debug, PartialEq)]
pub struct Batch {
    pub step: u64,
    /// Which of the batch's images are here.
    pub images: Range<usize>,
    /// Linear flux, `C x n x n` values for each of them.
    pub flux: Vec<f32>,
    /// Standard normal numbers, as many.
    pub noise: Vec<f32>,
    /// Index of each image's noise level in the grid, for all B.
    pub levels: Vec<i64>,
}

/// The logarithmic grid of noise levels.
pub fn level_grid(sigma_min: f64, sigma_max: f64, count: usize) -> Vec<f64> {
    let ratio = (sigma_max / sigma_min).ln();
    (0..count).map(|index| sigma_min * (ratio * index as f64 / (count - 1) as f64).exp()).collect()
}

/// What makes batches.
#[derive(Clone)]
pub struct BatchMaker {
    source: Arc<dyn ImageSource>,
    seed: u64,
    optimizer: OptimizerSection,
    /// Whose share is made: that of this rank, of so many.
    rank: usize,
    ranks: usize,
    /// Steps of the schedule whose times are drawn uniformly; `None` for noise levels by `levels`.
    times: Option<i64>,
    levels: LevelsSection,
    sigma_max: f64,
}

impl BatchMaker {
    pub fn new(source: Arc<dyn ImageSource>, config: &TrainConfig, sigma_max: f64) -> Self {
        BatchMaker {
            source,
            seed: object_seed(config.run.seed, "train"),
            optimizer: config.optimizer.clone(),
            rank: 0,
            ranks: 1,
            times: config.unet.as_ref().map(|unet| unet.diffusion_steps),
            levels: config.levels.clone(),
            sigma_max,
        }
    }

    /// Makes only the share of a rank. An image is the same whoever makes it.
    pub fn only(mut self, rank: usize, ranks: usize) -> Self {
        (self.rank, self.ranks) = (rank, ranks);
        self
    }

    /// The batch of step `step`.
    pub fn make(&self, step: u64) -> Result<Batch> {
        let narrow = u32::try_from(step).map_err(|_| Error::internal("more than 2^32 training steps"))?;
        let pixels = self.source.shape().iter().product::<i64>() as usize;
        let (batch, draw) = self.optimizer.batch_at(step);
        let micro = self.optimizer.micro_batch();
        let share = share(self.rank, self.ranks, batch / micro);
        let images = share.start * micro..share.end * micro;
        let mut flux = Vec::with_capacity(images.len() * pixels);
        let mut noise = vec![0.0; images.len() * pixels];
        for (index, part) in images.clone().zip(noise.chunks_mut(pixels)) {
            let image = self.source.training_image(draw + index as u64)?;
            if image.len() != pixels {
                return Err(Error::internal(format!("training image of {} values, expected {pixels}", image.len())));
            }
            flux.extend(image);
            Key::of_seed(self.seed, index as u32, Purpose::TrainingNoise, narrow).fill_normal(part);
        }
        let levels = (0..batch as u32).map(|index| self.level(index, narrow)).collect();
        Ok(Batch { step, images, flux, noise, levels })
    }

    /// ln sigma is normal, or uniform over the grid for a share of the images; the nearest level of the grid. Or a time of
    /// the schedule, uniform.
    fn level(&self, index: u32, step: u32) -> i64 {
        let key = Key::of_seed(self.seed, index, Purpose::TrainingLevel, step);
        let normal = f64::from(key.normal(1)[0]);
        let choice = Key::of_seed(self.seed, index, Purpose::TrainingChoice, step).uniform(2);
        if let Some(times) = self.times {
            return ((choice[1] * times as f64) as i64).min(times - 1);
        }
        let (low, high) = (self.levels.sigma_min.ln(), self.sigma_max.ln());
        let place = if choice[0] < self.levels.uniform_share {
            choice[1]
        } else {
            (self.levels.ln_mean + self.levels.ln_sd * normal - low) / (high - low)
        };
        let last = (self.levels.count - 1) as f64;
        (place * last).round().clamp(0.0, last) as i64
    }

    /// Starts `makers` threads, at least one, which take the steps from `first` on in turn. They end when the receiver is
    /// dropped.
    pub fn start(self, first: u64, makers: usize) -> Batches {
        let makers = makers.max(1) as u64;
        let queues = (0..makers).map(|maker| {
            let (sender, receiver) = sync_channel(AHEAD);
            let this = self.clone();
            std::thread::spawn(move || {
                for step in (first + maker..).step_by(makers as usize) {
                    let batch = this.make(step);
                    let failed = batch.is_err();
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
            });
            receiver
        });
        Batches { queues: queues.collect(), next: 0 }
    }
}

/// The batches of one step after the other.
pub struct Batches {
    queues: Vec<Receiver<Result<Batch>>>,
    next: usize,
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    /// Waits for the batch. `None` once a thread has ended, which it does after an error.
    fn next(&mut self) -> Option<Result<Batch>> {
        let queue = &self.queues[self.next];
        self.next = (self.next + 1) % self.queues.len();
        queue.recv().ok()
    }
}
