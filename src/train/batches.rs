//! Training batches, made ahead of the training step by a thread of their own. Everything in a batch is a pure function of
//! (seed, step), so that a run that is resumed sees the same batches.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::random::{Key, Purpose, object_seed};
use crate::train::config::{LevelsSection, TrainConfig};
use crate::train::source::ImageSource;
use crate::{Error, Result};

/// Batches that wait for the training step.
const AHEAD: usize = 4;

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
    batch: usize,
    images: Range<usize>,
    levels: LevelsSection,
    sigma_max: f64,
}

impl BatchMaker {
    pub fn new(source: Arc<dyn ImageSource>, config: &TrainConfig, sigma_max: f64) -> Self {
        BatchMaker {
            source,
            seed: object_seed(config.run.seed, "train"),
            batch: config.optimizer.batch,
            images: 0..config.optimizer.batch,
            levels: config.levels.clone(),
            sigma_max,
        }
    }

    /// Makes only these images of each batch. An image is the same whoever makes it.
    pub fn only(mut self, images: Range<usize>) -> Self {
        self.images = images;
        self
    }

    /// The batch of step `step`.
    pub fn make(&self, step: u64) -> Result<Batch> {
        let narrow = u32::try_from(step).map_err(|_| Error::internal("more than 2^32 training steps"))?;
        let pixels = self.source.shape().iter().product::<i64>() as usize;
        let mut flux = Vec::with_capacity(self.images.len() * pixels);
        let mut noise = vec![0.0; self.images.len() * pixels];
        for (index, part) in self.images.clone().zip(noise.chunks_mut(pixels)) {
            let image = self.source.training_image(step * self.batch as u64 + index as u64)?;
            if image.len() != pixels {
                return Err(Error::internal(format!("training image of {} values, expected {pixels}", image.len())));
            }
            flux.extend(image);
            Key::of_seed(self.seed, index as u32, Purpose::TrainingNoise, narrow).fill_normal(part);
        }
        let levels = (0..self.batch as u32).map(|index| self.level(index, narrow)).collect();
        Ok(Batch { step, images: self.images.clone(), flux, noise, levels })
    }

    /// ln sigma is normal, or uniform over the grid for a share of the images; the nearest level of the grid.
    fn level(&self, index: u32, step: u32) -> i64 {
        let key = Key::of_seed(self.seed, index, Purpose::TrainingLevel, step);
        let normal = f64::from(key.normal(1)[0]);
        let choice = Key::of_seed(self.seed, index, Purpose::TrainingChoice, step).uniform(2);
        let (low, high) = (self.levels.sigma_min.ln(), self.sigma_max.ln());
        let place = if choice[0] < self.levels.uniform_share {
            choice[1]
        } else {
            (self.levels.ln_mean + self.levels.ln_sd * normal - low) / (high - low)
        };
        let last = (self.levels.count - 1) as f64;
        (place * last).round().clamp(0.0, last) as i64
    }

    /// Starts the thread: batches from `first` on, in order. It ends when the receiver is dropped.
    pub fn start(self, first: u64) -> Receiver<Result<Batch>> {
        let (sender, receiver): (SyncSender<Result<Batch>>, _) = sync_channel(AHEAD);
        std::thread::spawn(move || {
            for step in first.. {
                let batch = self.make(step);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        receiver
    }
}
