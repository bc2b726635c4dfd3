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
//!
//! Nor is D quite the mean of x0 over draws of the prior: a learned denoiser need not fit what is drawn with it. Below t = 1 that of the
//! shipped prior gives the empty sky 0.001 more than its draws have, which is little for a pixel and half a standard deviation for the
//! sky's sum. The table has that too, h(t, band, blurred D) = E[x0 - D]: given data, x0 is held to be N(D + h, C(D, t)).

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
    /// Blurred D at the nodes, increasing, and ln g and h there: `[L, C, K]` each.
    nodes: Tensor,
    ln_factors: Tensor,
    shifts: Tensor,
}

/// What the table says of the network's estimates: g and h, `[B, C, n, n]` each.
#[derive(Debug)]
pub struct Told {
    pub factor: Tensor,
    pub shift: Tensor,
}

impl Spread {
    /// From its parts, as they stand in a file; without `shifts` the network is taken to be right on average.
    pub fn new(levels: Vec<f64>, nodes: Tensor, ln_factors: Tensor, shifts: Option<Tensor>) -> Result<Self> {
        let shifts = shifts.map_or_else(|| nodes.f_zeros_like(), Ok)?;
        let size = nodes.size();
        let increasing = levels.windows(2).all(|pair| pair[0] < pair[1]);
        if size.len() != 3
            || size[0] != levels.len() as i64
            || size[2] < 2
            || ln_factors.size() != size
            || shifts.size() != size
            || !increasing
            || levels.is_empty()
        {
            return Err(Error::usage(format!(
                "the prior's spread: {} levels, nodes {size:?}, factors {:?}, shifts {:?}; expected increasing levels and [L, C, K] \
                 three times",
                levels.len(),
                ln_factors.size(),
                shifts.size()
            )));
        }
        Ok(Spread { levels, nodes, ln_factors, shifts })
    }

    /// The same, with deviations so many times as large.
    pub fn widened(&self, factor: f64) -> Result<Self> {
        let ln_factors = self.ln_factors.f_add_scalar(factor.ln())?;
        Spread::new(self.levels.clone(), self.nodes.shallow_clone(), ln_factors, Some(self.shifts.shallow_clone()))
    }

    /// Measures g with `draws` of the prior, `[N, C, n, n]`, from noise level `t_min` to `t_max`; `block` draws go
    /// through the network at a time. h is zero.
    pub fn measure(
        denoiser: &dyn Denoiser,
        covariance: &Covariance,
        draws: &Tensor,
        [t_min, t_max]: [f64; 2],
        seed: u64,
        block: u32,
    ) -> Result<Self> {
        let device = draws.device();
        let (mut levels, mut nodes, mut ln_factors) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..LEVELS {
            let t = t_min * (t_max / t_min).powf(index as f64 / (LEVELS - 1) as f64);
            let step = index as u32;
            let (misses, estimates) = misses(
                denoiser,
                draws,
                t,
                &|first, size| {
                    let noise = BlockNoise::new(seed, "spread", first, size);
                    noise.normal(Purpose::Evaluation, step, &draws.size()[1..], device)
                },
                block,
            )?;
            let errors = misses.f_square()?;
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
        Spread::new(levels, table(&nodes)?, table(&ln_factors)?, None)
    }

    /// The same with h measured on `draws` of the prior, `[N, C, n, n]`, which g may have a part in: the mean of x0 - D where the
    /// blurred D is nearest to a node.
    pub fn with_shifts(self, denoiser: &dyn Denoiser, draws: &Tensor, seed: u64, block: u32) -> Result<Self> {
        let device = draws.device();
        let mut shifts = Vec::new();
        for (index, level) in self.levels.iter().enumerate() {
            let (misses, estimates) = misses(
                denoiser,
                draws,
                level.exp(),
                &|first, size| {
                    let noise = BlockNoise::new(seed, "shift", first, size);
                    noise.normal(Purpose::Evaluation, index as u32, &draws.size()[1..], device)
                },
                block,
            )?;
            for band in 0..draws.size()[1] {
                let (nodes, _) = self.row(index, band)?;
                let count = nodes.numel() as i64;
                let between =
                    nodes.f_narrow(0, 0, count - 1)?.f_add(&nodes.f_narrow(0, 1, count - 1)?)?.f_mul_scalar(0.5)?;
                let plane = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.f_narrow(1, band, 1)?.f_reshape([-1])?) };
                let nearest = plane(&estimates)?.f_contiguous()?.f_bucketize(&between, false, false)?;
                let missed = plane(&misses)?.f_to_kind(Kind::Double)?;
                let empty = Tensor::f_zeros([count], (Kind::Double, device))?;
                let sums = empty.f_index_add(0, &nearest, &missed)?;
                let pixels = empty.f_index_add(0, &nearest, &missed.f_ones_like()?)?;
                shifts.push(sums.f_div(&pixels.f_clamp_min(1.0)?)?.f_to_kind(Kind::Float)?);
            }
        }
        let shifts = Tensor::f_stack(&shifts, 0)?.f_view_as(&self.nodes)?;
        Spread::new(self.levels, self.nodes, self.ln_factors, Some(shifts))
    }

    /// What the table says of the network's estimates `[B, C, n, n]` at noise level `t`.
    pub fn tell(&self, t: f64, denoised: &Tensor) -> Result<Told> {
        let blurred = blurred(denoised)?;
        let last = self.levels.len() - 1;
        let above = self.levels.partition_point(|&level| level < t.ln()).min(last);
        let below = above.saturating_sub(1);
        let gap = self.levels[above] - self.levels[below];
        let share = if gap > 0.0 { ((t.ln() - self.levels[below]) / gap).clamp(0.0, 1.0) } else { 0.0 };
        let (mut factors, mut shifts) = (Vec::new(), Vec::new());
        for band in 0..denoised.size()[1] {
            // The mean of two tables that are linear between their nodes is one that is linear between the nodes of both.
            let [low, high] = [self.row(below, band)?, self.row(above, band)?];
            let (nodes, _) = Tensor::f_cat(&[&low.0, &high.0], 0)?.f_sort(0, false)?;
            let [(low_nodes, low), (high_nodes, high)] = [low, high];
            let [low_places, high_places] = [Places::of(&low_nodes, &nodes)?, Places::of(&high_nodes, &nodes)?];
            let places = Places::of(&nodes, &blurred.f_narrow(1, band, 1)?)?;
            let mean = |column: usize| -> Result<Tensor> {
                let [low, high] = [low_places.look_up(&low[column])?, high_places.look_up(&high[column])?];
                places.look_up(&low.f_lerp(&high, share)?)
            };
            factors.push(mean(0)?);
            shifts.push(mean(1)?);
        }
        Ok(Told { factor: Tensor::f_cat(&factors, 1)?.f_exp_()?, shift: Tensor::f_cat(&shifts, 1)? })
    }

    /// The nodes of one level and band, and ln g and h there.
    fn row(&self, level: usize, band: i64) -> Result<(Tensor, [Tensor; 2])> {
        let row = |table: &Tensor| -> Result<Tensor> { Ok(table.f_get(level as i64)?.f_get(band)?.f_contiguous()?) };
        Ok((row(&self.nodes)?, [row(&self.ln_factors)?, row(&self.shifts)?]))
    }

    /// The parts, as they stand in a file: levels (ln t), and nodes, ln g and h.
    pub fn parts(&self) -> (&[f64], [&Tensor; 3]) {
        (&self.levels, [&self.nodes, &self.ln_factors, &self.shifts])
    }

    /// The same on another device.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        Ok(Spread {
            levels: self.levels.clone(),
            nodes: self.nodes.f_to_device(device)?,
            ln_factors: self.ln_factors.f_to_device(device)?,
            shifts: self.shifts.f_to_device(device)?,
        })
    }
}

/// Where values of any shape lie between nodes: values beyond the nodes are taken for the outermost.
struct Places {
    /// The interval, and how far into it, from 0 to 1.
    interval: Tensor,
    share: Tensor,
}

impl Places {
    fn of(nodes: &Tensor, values: &Tensor) -> Result<Places> {
        let intervals = nodes.numel() as i64 - 1;
        let (left, right) = (nodes.f_narrow(0, 0, intervals)?, nodes.f_narrow(0, 1, intervals)?);
        let widths = right.f_sub(&left)?.f_clamp_min(1e-12)?;
        let inside = values.f_maximum(&nodes.f_narrow(0, 0, 1)?)?.f_minimum(&nodes.f_narrow(0, intervals, 1)?)?;
        // A value between the first two nodes is in interval 0.
        let interval = inside.f_bucketize(&right.f_contiguous()?, false, false)?.f_clamp_max(intervals - 1)?;
        let share = inside.f_sub(&left.f_take(&interval)?)?.f_div(&widths.f_take(&interval)?)?;
        Ok(Places { interval, share })
    }

    /// What stands at the nodes, linear between them.
    fn look_up(&self, table: &Tensor) -> Result<Tensor> {
        let intervals = table.numel() as i64 - 1;
        let low = table.f_narrow(0, 0, intervals)?;
        let steps = table.f_narrow(0, 1, intervals)?.f_sub(&low)?;
        Ok(low.f_take(&self.interval)?.f_addcmul(&steps.f_take(&self.interval)?, &self.share)?)
    }
}

/// Blurred x0 - D and blurred D for `draws` with `white` noise of level `t`, of draws `first ..  first + size` at a time.
fn misses(
    denoiser: &dyn Denoiser,
    draws: &Tensor,
    t: f64,
    white: &dyn Fn(u32, u32) -> Result<Tensor>,
    block: u32,
) -> Result<(Tensor, Tensor)> {
    let count = draws.size()[0] as u32;
    let (mut misses, mut estimates) = (Vec::new(), Vec::new());
    for first in (0..count).step_by(block as usize) {
        let size = block.min(count - first);
        let truth = draws.f_narrow(0, i64::from(first), i64::from(size))?;
        let estimate = denoiser.denoise(&truth.f_add(&white(first, size)?.f_mul_scalar(t)?)?, t)?;
        misses.push(blurred(&truth.f_sub(&estimate)?)?);
        estimates.push(blurred(&estimate)?);
    }
    Ok((Tensor::f_cat(&misses, 0)?, Tensor::f_cat(&estimates, 0)?))
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
mod tests;
