//! Held-out measurements: the loss by noise level against the pure Wiener denoiser, and whether draws repeat training
//! images.

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::random::{Key, Purpose};
use crate::train::source::ImageSource;
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
#[derive(Clone, Copy, Debug)]
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
        let mut values = Vec::new();
        let all = source.heldout_len();
        let count = count.min(all);
        for index in 0..count {
            values.extend(source.heldout_image(index * all / count)?);
        }
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

/// Distance (root mean square over pixels) from each of `images` `[N, C, n, n]` to its nearest among `references`
/// `[M, C, n, n]`, both stretched.
pub fn nearest_distances(images: &Tensor, references: &Tensor) -> Result<Vec<f64>> {
    let pixels = images.size()[1..].iter().product::<i64>();
    let (flat, other) = (images.f_reshape([-1, pixels])?, references.f_reshape([-1, pixels])?);
    let norms = |t: &Tensor| -> Result<Tensor> { Ok(t.f_square()?.f_sum_dim_intlist(1, false, Kind::Float)?) };
    let products = flat.f_matmul(&other.f_tr()?)?.f_mul_scalar(-2.0)?;
    let squares = products.f_add(&norms(&flat)?.f_unsqueeze(1)?)?.f_add(&norms(&other)?)?;
    let nearest = squares.f_amin([1i64].as_slice(), false)?.f_clamp_min(0.0)?.f_div_scalar(pixels as f64)?.f_sqrt()?;
    Ok(Vec::<f64>::try_from(nearest.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?)?)
}
