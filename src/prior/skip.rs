//! The Gaussian skip: preconditioning of a denoising network (as in Karras et al. 2022, arXiv:2206.00364, eq. 7) by the
//! exact denoiser of the prior's own Gaussian, so that the network learns only what is not Gaussian:
//!
//! ```text
//! D(x, t) = W(x, t) + c_out(t) gate(t) F(inputs; ln t)
//! W(x, t) = mu + C0 (C0 + t^2)^-1 (x - mu)                        (Woodbury, see prior/covariance.rs)
//! c_out   = sqrt(diag C(t)),  C(t) = t^2 C0 (C0 + t^2)^-1         what is left of the variance, pixel by pixel
//! gate    = 1 / (1 + t^2 / lambda_1)                              lambda_1 the largest variance of a component
//! inputs  = [(x - mu) / sqrt(diag C0 + t^2),  (W - mu) / sqrt(diag C0 - diag C(t)),  radius]
//! ```
//!
//! Every per-pixel scale is floored at a quarter of its root mean square over the pixels: the outskirts, where the
//! training images are nearly empty, would otherwise weigh as much as the galaxy. The gate closes where the noise is
//! above everything that the prior knows: the best estimate tends to W there, and what a network adds is its own error.

use tch::{Device, Kind, Tensor};

use crate::prior::covariance::Covariance;
use crate::{Error, Result};

/// Floor of the per-pixel scales, in units of their root mean square over the pixels.
const SCALE_FLOOR: f64 = 0.25;
/// The least variance of the Wiener estimate that is normalised, relative to that of the prior: at large noise levels
/// the estimate tells nothing, and must not be blown up out of rounding.
const LEAST_SIGNAL: f64 = 1e-6;

/// The tables of L noise levels, f32.
#[derive(Debug)]
pub struct Skip {
    shape: [i64; 3],
    mean: Tensor,
    /// diag(lambda)^(1/2) U, `[K, D]`.
    scaled: Tensor,
    diagonal: Tensor,
    /// Noise levels `[L]`.
    levels: Vec<f64>,
    level_tensor: Tensor,
    /// (I + S M^-1 S^T)^-1, `[L, K, K]`.
    inner: Tensor,
    /// 1 / sqrt(diag C0 + t^2), `[L, D]`.
    input_scale: Tensor,
    /// 1 / sqrt(diag C0 - diag C), `[L, D]`.
    wiener_scale: Tensor,
    /// sqrt(diag C), `[L, D]`.
    output_scale: Tensor,
    /// gate(t), `[L]`.
    gate: Tensor,
    /// Distance of each pixel from the centre, in half sides, `[1, 1, n, n]`.
    radius: Tensor,
}

/// What the skip makes of a batch of noisy images.
#[derive(Debug)]
pub struct Prepared {
    /// What the network sees, `[B, 2 C + 1, n, n]`.
    pub inputs: Tensor,
    /// ln t, `[B]`.
    pub ln_sigma: Tensor,
    /// W, `[B, C, n, n]`.
    pub wiener: Tensor,
    /// c_out, `[B, C, n, n]`.
    pub output_scale: Tensor,
    /// gate(t), `[B, 1, 1, 1]`.
    pub gate: Tensor,
}

impl Skip {
    /// Channels that the network sees, for images of `channels`.
    pub fn inputs(channels: i64) -> i64 {
        2 * channels + 1
    }

    /// Tables for `levels` (positive), on the covariance's device. Small matrices and scales are made in f64.
    pub fn new(covariance: &Covariance, levels: &[f64]) -> Result<Self> {
        if let Some(level) = levels.iter().find(|level| !(**level > 0.0 && level.is_finite())) {
            return Err(Error::internal(format!("noise level {level}, expected a positive number")));
        }
        let device = covariance.mean.device();
        let scaled = covariance.variances.f_sqrt()?.f_unsqueeze(1)?.f_mul(&covariance.components)?;
        let wide = scaled.f_to_kind(Kind::Double)?;
        let diagonal = covariance.diagonal.f_to_kind(Kind::Double)?;
        let rank = wide.size()[0];
        let total = wide.f_square()?.f_sum_dim_intlist(0, false, Kind::Double)?.f_add(&diagonal)?;
        let signal_floor = LEAST_SIGNAL * total.f_mean(Kind::Double)?.f_double_value(&[])?;
        let (mut inner, mut input, mut wiener, mut output) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for &level in levels {
            let variance = level * level;
            let inverse = diagonal.f_add_scalar(variance)?.f_reciprocal()?;
            let capacitance = wide.f_mul(&inverse)?.f_matmul(&wide.f_tr()?)?;
            let capacitance = capacitance.f_add(&Tensor::f_eye(rank, (Kind::Double, device))?)?;
            let small = if rank == 0 { capacitance } else { capacitance.f_inverse()? };
            let gain = inverse.f_mul_scalar(variance)?;
            let low_rank = small.f_matmul(&wide)?.f_mul(&wide)?.f_sum_dim_intlist(0, false, Kind::Double)?;
            let left = gain.f_mul(&diagonal)?.f_add(&gain.f_square()?.f_mul(&low_rank)?)?;
            let known = total.f_sub(&left)?.f_clamp_min(signal_floor)?;
            inner.push(small.f_to_kind(Kind::Float)?);
            input.push(floored(&total)?.f_square()?.f_add_scalar(variance)?.f_rsqrt()?.f_to_kind(Kind::Float)?);
            wiener.push(floored(&known)?.f_reciprocal()?.f_to_kind(Kind::Float)?);
            output.push(floored(&left)?.f_to_kind(Kind::Float)?);
        }
        let strongest = covariance.largest_sd().max(f64::MIN_POSITIVE);
        let gate: Vec<f32> = levels.iter().map(|&level| (1.0 / (1.0 + (level / strongest).powi(2))) as f32).collect();
        let narrow: Vec<f32> = levels.iter().map(|&level| level as f32).collect();
        Ok(Skip {
            shape: covariance.shape,
            mean: covariance.mean.shallow_clone(),
            scaled,
            diagonal: covariance.diagonal.shallow_clone(),
            levels: levels.to_vec(),
            level_tensor: Tensor::f_from_slice(&narrow)?.f_to_device(device)?,
            inner: Tensor::f_stack(&inner, 0)?,
            input_scale: Tensor::f_stack(&input, 0)?,
            wiener_scale: Tensor::f_stack(&wiener, 0)?,
            output_scale: Tensor::f_stack(&output, 0)?,
            gate: Tensor::f_from_slice(&gate)?.f_to_device(device)?,
            radius: radius(covariance.shape[1], device)?,
        })
    }

    /// The noise levels of the tables.
    pub fn levels(&self) -> &[f64] {
        &self.levels
    }

    /// The network's inputs, the Wiener estimate and the output scale of `x` `[B, C, n, n]`, whose noise levels are given
    /// by their index `[B]` in the tables (or by one index for all).
    pub fn prepare(&self, x: &Tensor, index: &Tensor) -> Result<Prepared> {
        let [channels, height, width] = self.shape;
        let pixels = channels * height * width;
        let batch = x.size()[0];
        let sigma = self.level_tensor.f_index_select(0, index)?;
        let centred = x.f_reshape([batch, pixels])?.f_sub(&self.mean)?;
        let variance = sigma.f_square()?.f_unsqueeze(1)?;
        let inverse = self.diagonal.f_unsqueeze(0)?.f_add(&variance)?.f_reciprocal()?;
        let own = centred.f_mul(&inverse)?;
        let modes = own.f_matmul(&self.scaled.f_tr()?)?;
        let inner = self.inner.f_index_select(0, index)?;
        let mixed = inner.f_matmul(&modes.f_unsqueeze(-1)?)?.f_squeeze_dim(-1)?;
        let solved = mixed.f_matmul(&self.scaled)?.f_mul(&inverse)?.f_sub(&own)?;
        // W - mu = (x - mu) - t^2 (C0 + t^2)^-1 (x - mu); `solved` is minus the last inverse.
        let known = centred.f_add(&solved.f_mul(&variance)?)?;
        let shape = [batch, channels, height, width];
        let scaled = centred.f_mul(&self.input_scale.f_index_select(0, index)?)?;
        let wiener_input = known.f_mul(&self.wiener_scale.f_index_select(0, index)?)?;
        let radius = self.radius.f_expand([batch, 1, height, width], true)?;
        let inputs = Tensor::f_cat(&[scaled.f_view(shape)?, wiener_input.f_view(shape)?, radius], 1)?;
        Ok(Prepared {
            inputs,
            ln_sigma: sigma.f_log()?.f_expand([batch], true)?,
            wiener: known.f_add(&self.mean)?.f_view(shape)?,
            output_scale: self.output_scale.f_index_select(0, index)?.f_view([-1, channels, height, width])?,
            gate: self.gate.f_index_select(0, index)?.f_view([-1, 1, 1, 1])?,
        })
    }
}

/// Square root of a per-pixel variance `[D]`, floored at `SCALE_FLOOR` of its root mean square.
fn floored(variance: &Tensor) -> Result<Tensor> {
    let floor = SCALE_FLOOR * SCALE_FLOOR * variance.f_mean(Kind::Double)?.f_double_value(&[])?;
    Ok(variance.f_clamp_min(floor)?.f_sqrt()?)
}

fn radius(size: i64, device: Device) -> Result<Tensor> {
    let axis = Tensor::f_arange(size, (Kind::Float, device))?.f_sub_scalar((size - 1) as f64 / 2.0)?;
    let axis = axis.f_mul_scalar(2.0 / size as f64)?.f_square()?;
    Ok(axis.f_unsqueeze(0)?.f_add(&axis.f_unsqueeze(1)?)?.f_sqrt()?.f_view([1, 1, size, size])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{BlockNoise, Key, Purpose};

    /// f32 arithmetic, and the cancellation of x against t^2 (C0 + t^2)^-1 x at large t.
    const F32_TOLERANCE: f64 = 3e-5;

    fn covariance() -> Covariance {
        let normal = |step, count| Key::new(5, "skip", 0, Purpose::Evaluation, step).normal(count);
        let (q, _) = Tensor::linalg_qr(&Tensor::from_slice(&normal(0, 128 * 4)).view([128, 4]), "reduced");
        let variances = Tensor::from_slice(&[50.0f32, 9.0, 2.0, 0.5]);
        let diagonal = Tensor::from_slice(&normal(2, 128)).square() * 0.1 + 1e-3;
        let mean = Tensor::from_slice(&normal(1, 128));
        Covariance::new([2, 8, 8], mean, q.tr().contiguous(), variances, diagonal).unwrap()
    }

    #[test]
    fn the_batched_wiener_estimate_is_that_of_each_level() {
        let covariance = covariance();
        let levels = [0.01, 0.3, 2.0, 40.0];
        let skip = Skip::new(&covariance, &levels).unwrap();
        let index = [3i64, 0, 2, 1, 1];
        let white = BlockNoise::new(3, "x", 0, 5).normal(Purpose::Evaluation, 0, &[2, 8, 8], Device::Cpu).unwrap();
        let sigma = Tensor::from_slice(&index.map(|i| levels[i as usize] as f32)).view([5, 1, 1, 1]);
        let x = covariance.draw(1e-6, &BlockNoise::new(3, "y", 0, 5), 0).unwrap() + white * sigma;
        let prepared = skip.prepare(&x, &Tensor::from_slice(&index)).unwrap();
        for (row, &level) in index.iter().enumerate() {
            let reference = covariance.level(levels[level as usize]).unwrap();
            let expected = reference.wiener(&x.narrow(0, row as i64, 1)).unwrap();
            let scale = expected.abs().max().double_value(&[]).max(levels[level as usize]);
            let error = (prepared.wiener.narrow(0, row as i64, 1) - expected).abs().max().double_value(&[]);
            assert!(error < F32_TOLERANCE * scale, "level {level}: {error} of {scale}");
        }
    }

    #[test]
    fn inputs_and_targets_of_a_gaussian_prior_have_unit_variance() {
        let covariance = covariance();
        let skip = Skip::new(&covariance, &[0.02, 0.5, 30.0]).unwrap();
        let count = 4000;
        for level in 0..3 {
            let sigma = skip.levels()[level as usize];
            let x0 = covariance.draw(1e-6, &BlockNoise::new(4, "x0", 0, count), 0).unwrap();
            let noise = BlockNoise::new(4, "n", 0, count);
            let noise = noise.normal(Purpose::Evaluation, level as u32, &[2, 8, 8], Device::Cpu).unwrap();
            let prepared = skip.prepare(&(&x0 + noise * sigma), &Tensor::from_slice(&[level])).unwrap();
            let target = (&x0 - &prepared.wiener) / &prepared.output_scale;
            let variance = target.square().mean_dim([0i64].as_slice(), false, Kind::Float);
            // One where the scale is not floored, less where it is; five standard errors of 4000 draws.
            let largest = variance.max().double_value(&[]);
            assert!(largest < 1.0 + 5.0 * (2.0f64 / 4000.0).sqrt() && largest > 0.8, "level {level}: {largest}");
            let inputs = prepared.inputs.narrow(1, 0, 4).square().mean_dim([0i64].as_slice(), false, Kind::Float);
            let largest = inputs.max().double_value(&[]);
            assert!(largest < 1.0 + 5.0 * (2.0f64 / 4000.0).sqrt() && largest > 0.8, "level {level}: {largest}");
        }
    }
}
