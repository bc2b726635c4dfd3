//! Held-out measurements: the loss by noise level against the pure Wiener denoiser, and whether draws repeat training
//! images.

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::random::{Key, Purpose};
use crate::train::source::{ImageSource, together};
use crate::train::trainer::Trainer;

/// Noise levels at which the held-out loss is measured (the nearest of the grid), stretched units.
const LEVELS: [f64; 12] = [0.005, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 3.0, 10.0, 30.0, 1e9];

/// Held-out images and their noise.
pub struct Heldout {
    /// Stretched, `[H, C, n, n]`.
    pub images: Tensor,
    noise: Tensor,
}

/// Loss at one noise level.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LevelLoss {
    pub sigma: f64,
    pub network: f64,
    pub wiener: f64,
}

impl LevelLoss {
    /// Below one where the network beats the Wiener denoiser.
    pub fn ratio(&self) -> f64 {
        self.network / self.wiener
    }
}

impl Heldout {
    /// `count` held-out images (or as many as there are), spread evenly over all of them.
    pub fn new(source: &dyn ImageSource, trainer: &Trainer, count: usize) -> Result<Self> {
        let [channels, height, width] = source.shape();
        let all = source.heldout_len();
        let count = count.min(all);
        let numbers: Vec<u64> = (0..count).map(|index| (index * all / count) as u64).collect();
        let values = together(&numbers, |index| source.heldout_image(index as usize))?.concat();
        let flux = Tensor::f_from_slice(&values)?.f_view([-1, channels, height, width])?;
        let white = Key::new(trainer.config.run.seed, "held out", 0, Purpose::Evaluation, 0).normal(values.len());
        let noise = Tensor::f_from_slice(&white)?.f_view_as(&flux)?;
        Ok(Heldout { images: trainer.setup.stretch.forward(&flux)?, noise })
    }

    /// Losses by level.
    pub fn losses(&self, trainer: &Trainer) -> Result<Vec<LevelLoss>> {
        let grid = trainer.levels();
        let mut found: Vec<LevelLoss> = Vec::new();
        for wanted in LEVELS {
            let distance = |sigma: f64| (sigma / wanted).ln().abs();
            let nearest = (0..grid.len()).min_by(|&a, &b| distance(grid[a]).total_cmp(&distance(grid[b])));
            let level = nearest.unwrap_or(0);
            if found.last().is_some_and(|last| last.sigma == grid[level]) {
                continue;
            }
            let (network, wiener) = trainer.heldout_loss(&self.images, &self.noise, level as i64)?;
            found.push(LevelLoss { sigma: grid[level], network, wiener });
        }
        Ok(found)
    }
}

/// Training images compared at a time.
const CHUNK: u64 = 512;

/// Distance (root mean square over pixels, stretched units) from each of `images` `[N, C, n, n]` (stretched) to the
/// nearest of the first `count` training images in any of their eight orientations; sorted.
pub fn nearest_training_distances(
    images: &Tensor,
    source: &dyn ImageSource,
    trainer: &Trainer,
    count: u64,
) -> Result<Vec<f64>> {
    let _guard = tch::no_grad_guard();
    let [channels, height, width] = source.shape();
    let pixels = channels * height * width;
    let mut turned = Vec::with_capacity(8);
    for quarter in 0..4 {
        let image = images.f_rot90(quarter, [2, 3])?;
        turned.push(image.f_flip([3])?);
        turned.push(image);
    }
    let turned = Tensor::f_cat(&turned, 0)?.f_reshape([-1, pixels])?;
    let norms = turned.f_square()?.f_sum_dim_intlist(1, false, Kind::Float)?;
    let mut nearest = norms.f_full_like(f64::INFINITY)?;
    for first in (0..count).step_by(CHUNK as usize) {
        let mut values = Vec::new();
        for draw in first..(first + CHUNK).min(count) {
            values.extend(source.training_image(draw)?);
        }
        let flux = Tensor::f_from_slice(&values)?.f_view([-1, pixels])?;
        let training = trainer.setup.stretch.forward(&flux)?;
        let own = training.f_square()?.f_sum_dim_intlist(1, false, Kind::Float)?;
        let squares = own.f_sub(&turned.f_matmul(&training.f_tr()?)?.f_mul_scalar(2.0)?)?;
        nearest = nearest.f_minimum(&squares.f_amin([1i64].as_slice(), false)?)?;
    }
    let squares = nearest.f_add(&norms)?.f_view([8, -1])?.f_amin([0i64].as_slice(), false)?;
    let distances = squares.f_clamp_min(0.0)?.f_div_scalar(pixels as f64)?.f_sqrt()?;
    let mut distances = Vec::<f64>::try_from(distances.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?;
    distances.sort_by(f64::total_cmp);
    Ok(distances)
}
