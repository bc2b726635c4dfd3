//! How the uncertainty of the network's estimate differs from place to place. The Gaussian N(mu, C0) that stands for the
//! prior in a sampler's step has one covariance for all galaxies: it holds the sky around a small galaxy to be as uncertain
//! as if a large one could be there, and data noise is then taken for faint light. The network knows better. So each
//! step scales the Gaussian's covariance by what the network's estimate D itself tells,
//!
//! ```text
//! C(D, t) = G C(t) G,   G = diag(g),   g_i = g(t, band, blurred D_i)
//! g^2     = E[(blurred (x0 - D))^2] / blurred C(t)_ii                 over prior draws x0, D = D(x0 + t e, t)
//! ```
//!
//! The table g(t, band, D) is measured on draws of the prior (`unseeing moments`) and is part of its file. Errors and
//! covariance are compared after a blur of the order of the seeing, since what the data see decides. E[(x0 - D)(x0 - D)^T]
//! is the mean of Cov[x0 | x_t] over x_t.

use tch::{Device, Kind, Tensor};

use crate::prior::{Covariance, Denoiser};
use crate::random::{BlockNoise, Purpose};
use crate::{Error, Result};

/// Noise levels of the table; it is interpolated between them.
pub const LEVELS: usize = 14;
/// The blur, in pixels of the prior: the seeing of ground-based images at the redshifts of their galaxies.
const BLUR: f64 = 1.5;
/// Cumulative shares of pixels, sorted by D, that the nodes stand between. Galaxies cover few of the pixels.
const SHARES: [f64; 17] =
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.875, 0.925, 0.96, 0.98, 0.99, 0.995, 0.998, 1.0];
/// Draws of the Gaussian that give its blurred variance (to 6 % in each pixel, far better in a node).
const GAUSSIAN_DRAWS: u32 = 512;
/// Factors outside are cut: below, the data could not correct the network at all; above, the Gaussian part is right.
const RANGE: [f64; 2] = [0.02, 1.5];

/// The table.
#[derive(Debug)]
pub struct Spread {
    /// ln t, increasing.
    levels: Vec<f64>,
    /// Blurred D at the nodes, increasing, and ln g there: `[L, C, K]` each.
    nodes: Tensor,
    ln_factors: Tensor,
}

impl Spread {
    /// From its parts, as they stand in a file.
    pub fn new(levels: Vec<f64>, nodes: Tensor, ln_factors: Tensor) -> Result<Self> {
        let size = nodes.size();
        let increasing = levels.windows(2).all(|pair| pair[0] < pair[1]);
        if size.len() != 3
            || size[0] != levels.len() as i64
            || size[2] < 2
            || ln_factors.size() != size
            || !increasing
            || levels.is_empty()
        {
            return Err(Error::usage(format!(
                "the prior's spread: {} levels, nodes {size:?}, factors {:?}; expected increasing levels and [L, C, K] twice",
                levels.len(),
                ln_factors.size()
            )));
        }
        Ok(Spread { levels, nodes, ln_factors })
    }

    /// The same, with deviations so many times as large.
    pub fn widened(&self, factor: f64) -> Result<Self> {
        let ln_factors = self.ln_factors.f_add_scalar(factor.ln())?;
        Spread::new(self.levels.clone(), self.nodes.shallow_clone(), ln_factors)
    }

    /// Measures the table with `draws` of the prior, `[N, C, n, n]`, from noise level `t_min` to `t_max`; `block` draws go
    /// through the network at a time.
    pub fn measure(
        denoiser: &dyn Denoiser,
        covariance: &Covariance,
        draws: &Tensor,
        [t_min, t_max]: [f64; 2],
        seed: u64,
        block: u32,
    ) -> Result<Self> {
        let count = draws.size()[0] as u32;
        let device = draws.device();
        let (mut levels, mut nodes, mut ln_factors) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..LEVELS {
            let t = t_min * (t_max / t_min).powf(index as f64 / (LEVELS - 1) as f64);
            let step = index as u32;
            let (mut errors, mut estimates) = (Vec::new(), Vec::new());
            for first in (0..count).step_by(block as usize) {
                let size = block.min(count - first);
                let truth = draws.f_narrow(0, i64::from(first), i64::from(size))?;
                let noise = BlockNoise::new(seed, "spread", first, size);
                let white = noise.normal(Purpose::Evaluation, step, &draws.size()[1..], device)?;
                let estimate = denoiser.denoise(&truth.f_add(&white.f_mul_scalar(t)?)?, t)?;
                errors.push(blurred(&truth.f_sub(&estimate)?)?.f_square()?);
                estimates.push(blurred(&estimate)?);
            }
            let (errors, estimates) = (Tensor::f_cat(&errors, 0)?, Tensor::f_cat(&estimates, 0)?);
            let level = covariance.level(t)?;
            let noise = BlockNoise::new(seed, "spread of the Gaussian", 0, GAUSSIAN_DRAWS);
            let gaussian = blurred(&level.draw(&noise, step)?)?.f_square()?;
            let gaussian = gaussian.f_mean_dim([0i64].as_slice(), true, Kind::Float)?.f_expand_as(&errors)?;
            for band in 0..draws.size()[1] {
                let plane = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.f_narrow(1, band, 1)?.f_reshape([-1])?) };
                let (sorted, order) = plane(&estimates)?.f_sort(0, false)?;
                let sort = |tensor: &Tensor| -> Result<Tensor> { Ok(plane(tensor)?.f_index_select(0, &order)?) };
                let (errors, gaussian) = (sort(&errors)?, sort(&gaussian)?);
                let pixels = sorted.numel() as f64;
                for pair in SHARES.windows(2) {
                    let [from, to] = [pair[0], pair[1]].map(|share| (share * pixels) as i64);
                    let mean = |tensor: &Tensor| -> Result<f64> {
                        Ok(tensor.f_narrow(0, from, (to - from).max(1))?.f_mean(Kind::Double)?.f_double_value(&[])?)
                    };
                    let ratio = mean(&errors)? / mean(&gaussian)?.max(f64::MIN_POSITIVE);
                    nodes.push(mean(&sorted)? as f32);
                    ln_factors.push(ratio.sqrt().clamp(RANGE[0], RANGE[1]).ln() as f32);
                }
            }
            levels.push(t.ln());
        }
        let shape = [LEVELS as i64, draws.size()[1], SHARES.len() as i64 - 1];
        let table = |values: &[f32]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_view(shape)?.f_to_device(device)?)
        };
        Spread::new(levels, table(&nodes)?, table(&ln_factors)?)
    }

    /// g for the network's estimates `[B, C, n, n]` at noise level `t`: of the same shape.
    pub fn factor(&self, t: f64, denoised: &Tensor) -> Result<Tensor> {
        let blurred = blurred(denoised)?;
        let last = self.levels.len() - 1;
        let above = self.levels.partition_point(|&level| level < t.ln()).min(last);
        let below = above.saturating_sub(1);
        let gap = self.levels[above] - self.levels[below];
        let share = if gap > 0.0 { ((t.ln() - self.levels[below]) / gap).clamp(0.0, 1.0) } else { 0.0 };
        let mut bands = Vec::new();
        for band in 0..denoised.size()[1] {
            // The mean of two tables that are linear between their nodes is one that is linear between the nodes of both.
            let [low, high] = [self.row(below, band)?, self.row(above, band)?];
            let (nodes, _) = Tensor::f_cat(&[&low.0, &high.0], 0)?.f_sort(0, false)?;
            let ln_factors = look_up(&low, &nodes)?.f_lerp(&look_up(&high, &nodes)?, share)?;
            bands.push(look_up(&(nodes, ln_factors), &blurred.f_narrow(1, band, 1)?)?);
        }
        Ok(Tensor::f_cat(&bands, 1)?.f_exp_()?)
    }

    /// The nodes of one level and band, and ln g there.
    fn row(&self, level: usize, band: i64) -> Result<(Tensor, Tensor)> {
        let row = |table: &Tensor| -> Result<Tensor> { Ok(table.f_get(level as i64)?.f_get(band)?.f_contiguous()?) };
        Ok((row(&self.nodes)?, row(&self.ln_factors)?))
    }

    /// The parts, as they stand in a file: levels (ln t), nodes and ln g.
    pub fn parts(&self) -> (&[f64], &Tensor, &Tensor) {
        (&self.levels, &self.nodes, &self.ln_factors)
    }

    /// The same on another device.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        Ok(Spread {
            levels: self.levels.clone(),
            nodes: self.nodes.f_to_device(device)?,
            ln_factors: self.ln_factors.f_to_device(device)?,
        })
    }
}

/// ln g at `values` of any shape, linear between the nodes and constant outside.
fn look_up((nodes, ln_factors): &(Tensor, Tensor), values: &Tensor) -> Result<Tensor> {
    let intervals = nodes.numel() as i64 - 1;
    let (left, right) = (nodes.f_narrow(0, 0, intervals)?, nodes.f_narrow(0, 1, intervals)?);
    let low = ln_factors.f_narrow(0, 0, intervals)?;
    let slopes = ln_factors.f_narrow(0, 1, intervals)?.f_sub(&low)?.f_div(&right.f_sub(&left)?.f_clamp_min(1e-12)?)?;
    let inside = values.f_maximum(&nodes.f_narrow(0, 0, 1)?)?.f_minimum(&nodes.f_narrow(0, intervals, 1)?)?;
    // A value between the first two nodes is in interval 0.
    let interval = inside.f_bucketize(&right.f_contiguous()?, false, false)?.f_clamp_max(intervals - 1)?;
    let beyond = inside.f_sub(&left.f_take(&interval)?)?;
    Ok(low.f_take(&interval)?.f_addcmul(&slopes.f_take(&interval)?, &beyond)?)
}

/// Images `[B, C, n, n]` under a Gaussian blur; beyond the edge they are taken to be zero.
fn blurred(images: &Tensor) -> Result<Tensor> {
    let radius = (3.0 * BLUR).ceil() as i64;
    let weights: Vec<f32> = (-radius..=radius).map(|i| (-0.5 * (i as f64 / BLUR).powi(2)).exp() as f32).collect();
    let sum: f32 = weights.iter().sum();
    let kernel = Tensor::f_from_slice(&weights)?.f_div_scalar(f64::from(sum))?.f_to_device(images.device())?;
    let (batch, channels, height, width) = images.size4()?;
    let flat = images.f_reshape([batch * channels, 1, height, width])?;
    let long = 2 * radius + 1;
    let none: Option<&Tensor> = None;
    let across = flat.f_conv2d(&kernel.f_view([1, 1, 1, long])?, none, 1, [0, radius], 1, 1)?;
    let along = across.f_conv2d(&kernel.f_view([1, 1, long, 1])?, none, 1, [radius, 0], 1, 1)?;
    Ok(along.f_view([batch, channels, height, width])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::analytic::GaussianDenoiser;
    use crate::random::Key;

    const SIZE: i64 = 16;

    /// A few smooth modes and a diagonal; all of it where `inside` is one.
    fn gaussian(inside: &Tensor) -> Covariance {
        let pixels = SIZE * SIZE;
        let white = Key::new(4, "spread test", 0, Purpose::Evaluation, 0).normal((6 * pixels) as usize);
        let (q, _) = Tensor::linalg_qr(&Tensor::from_slice(&white).view([pixels, 6]), "reduced");
        let variances = Tensor::from_slice(&[9.0f32, 6.0, 4.0, 3.0, 2.0, 1.0]);
        let diagonal: Tensor = inside.view([pixels]) * 0.2 + 1e-3;
        let components = q.tr() * inside.view([1, pixels]);
        let zero = Tensor::zeros([pixels], (Kind::Float, Device::Cpu));
        Covariance::new([1, SIZE, SIZE], zero, components, variances, diagonal).unwrap()
    }

    #[test]
    fn a_gaussian_prior_needs_no_scaling() {
        let everywhere = Tensor::ones([SIZE, SIZE], (Kind::Float, Device::Cpu));
        let covariance = gaussian(&everywhere);
        let draws = covariance.draw(1e-3, &BlockNoise::new(2, "draws", 0, 2000), 0).unwrap();
        let denoiser = GaussianDenoiser::new(gaussian(&everywhere));
        let spread = Spread::measure(&denoiser, &covariance, &draws, [0.1, 5.0], 3, 500).unwrap();
        let worst = spread.ln_factors.abs().max().double_value(&[]);
        // The least populated node has 0.2 % of 512,000 correlated pixels, and the reference has 512 draws.
        assert!(worst < 0.1, "{worst}");
    }

    /// The prior's galaxies fill half of the field only, on the left; its Gaussian is believed to fill it all.
    #[test]
    fn where_the_network_is_sure_the_covariance_shrinks() {
        let half = Tensor::cat(
            &[
                Tensor::ones([SIZE, SIZE / 2], (Kind::Float, Device::Cpu)),
                Tensor::zeros([SIZE, SIZE / 2], (Kind::Float, Device::Cpu)),
            ],
            1,
        );
        let everywhere = Tensor::ones([SIZE, SIZE], (Kind::Float, Device::Cpu));
        let draws = gaussian(&half).draw(1e-3, &BlockNoise::new(2, "draws", 0, 500), 0).unwrap() + &half * 10.0;
        struct Shifted(GaussianDenoiser, Tensor);
        impl Denoiser for Shifted {
            fn shape(&self) -> [i64; 3] {
                self.0.shape()
            }
            fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
                Ok(self.0.denoise(&(x - &self.1), sigma)? + &self.1)
            }
            fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
                self.denoise(x, sigma)
            }
            fn flops(&self) -> f64 {
                self.0.flops()
            }
        }
        let denoiser = Shifted(GaussianDenoiser::new(gaussian(&half)), &half * 10.0);
        let spread = Spread::measure(&denoiser, &gaussian(&everywhere), &draws, [0.1, 5.0], 3, 500).unwrap();
        let factor = spread.factor(0.7, &draws.narrow(0, 0, 4)).unwrap();
        // Away from the border, which the blur smears.
        let mean = |first: i64| factor.narrow(3, first, 5).mean(Kind::Float).double_value(&[]);
        let (left, right) = (mean(1), mean(10));
        assert!((left - 1.0).abs() < 0.15, "{left}");
        assert!(right < 0.35, "{right}");
    }

    #[test]
    fn the_table_is_interpolated_and_checked() {
        let nodes = Tensor::from_slice(&[0.0f32, 1.0, 0.0, 2.0]).view([2, 1, 2]);
        let ln_factors = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 4.0]).view([2, 1, 2]);
        let spread = Spread::new(vec![0.0, 1.0], nodes.copy(), ln_factors.copy()).unwrap();
        // A constant image stays itself under the blur, but for the edge.
        let at = |t: f64, value: f64| {
            let image = Tensor::full([1, 1, 15, 15], value, (Kind::Float, Device::Cpu));
            spread.factor(t, &image).unwrap().double_value(&[0, 0, 7, 7]).ln()
        };
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        close(at(1.0, 0.5), 0.5);
        close(at(1.0, -3.0), 0.0);
        close(at(1.0, 7.0), 1.0);
        close(at(std::f64::consts::E, 0.5), 2.5);
        close(at(100.0, 2.0), 4.0);
        close(at(0.5f64.exp(), 0.5), 1.5);
        let image = Tensor::full([1, 1, 15, 15], 0.5, (Kind::Float, Device::Cpu));
        let wide = spread.widened(1.5).unwrap().factor(1.0, &image).unwrap().double_value(&[0, 0, 7, 7]);
        close(wide.ln(), 0.5 + 1.5f64.ln());
        assert!(Spread::new(vec![1.0, 0.0], nodes.copy(), ln_factors.copy()).is_err());
        assert!(Spread::new(vec![0.0], nodes, ln_factors).is_err());
    }
}
