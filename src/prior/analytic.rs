//! Priors whose denoiser is known exactly: they certify samplers and run the whole system in seconds.

use std::cell::RefCell;
use std::collections::HashMap;

use tch::{Kind, Tensor};

use crate::prior::{Covariance, Denoiser, Level};
use crate::{Error, Result};

/// Noise levels whose operators are kept.
const KEPT_LEVELS: usize = 1024;

/// The Gaussian N(mu, C0): D(x, t) = mu + C0 (C0 + t^2)^-1 (x - mu).
pub struct GaussianDenoiser {
    covariance: Covariance,
    levels: RefCell<HashMap<u64, Level>>,
}

impl GaussianDenoiser {
    pub fn new(covariance: Covariance) -> Self {
        GaussianDenoiser { covariance, levels: RefCell::new(HashMap::new()) }
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let mut levels = self.levels.borrow_mut();
        if !levels.contains_key(&sigma.to_bits()) {
            if levels.len() >= KEPT_LEVELS {
                levels.clear();
            }
            let _guard = tch::no_grad_guard();
            levels.insert(sigma.to_bits(), self.covariance.level(sigma)?);
        }
        let level = levels.get(&sigma.to_bits()).ok_or_else(|| Error::internal("a noise level was lost"))?;
        level.wiener(x)
    }
}

impl Denoiser for GaussianDenoiser {
    fn shape(&self) -> [i64; 3] {
        self.covariance.shape
    }

    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.estimate(x, sigma)
    }

    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.estimate(x, sigma)
    }

    fn flops(&self) -> f64 {
        4.0 * self.covariance.components.numel() as f64
    }
}

/// M images m_k with probabilities p_k, each with independent Gaussian scatter s in every pixel:
///
/// ```text
/// w_k ~ p_k exp(-|x - m_k|^2 / (2 (s^2 + t^2)))
/// D(x, t) = s^2 / (s^2 + t^2) x + t^2 / (s^2 + t^2) sum_k w_k m_k
/// ```
pub struct MixtureDenoiser {
    /// `[M, C, n, n]`
    images: Tensor,
    /// ln p_k, `[M]`; any common constant may be added.
    ln_weights: Tensor,
    scatter: f64,
}

impl MixtureDenoiser {
    /// Equally likely images `[M, C, n, n]`, stretched; `scatter` is not negative.
    pub fn new(images: Tensor, scatter: f64) -> Result<Self> {
        if images.dim() != 4 || images.size()[0] == 0 || !(scatter >= 0.0 && scatter.is_finite()) {
            let found = images.size();
            return Err(Error::usage(format!(
                "mixture: images {found:?} and scatter {scatter}, expected [M, C, n, n]"
            )));
        }
        let ln_weights = Tensor::f_zeros([images.size()[0]], (Kind::Float, images.device()))?;
        Ok(MixtureDenoiser { images, ln_weights, scatter })
    }

    /// The same with probabilities `weights`, one for each image; they need not sum to one.
    pub fn weighted(images: Tensor, weights: &[f64], scatter: f64) -> Result<Self> {
        let positive = weights.iter().all(|weight| weight.is_finite() && *weight > 0.0);
        if images.size().first() != Some(&(weights.len() as i64)) || !positive {
            return Err(Error::usage(format!("mixture: weights {weights:?}, expected one positive number an image")));
        }
        let logarithms: Vec<f32> = weights.iter().map(|weight| weight.ln() as f32).collect();
        let ln_weights = Tensor::f_from_slice(&logarithms)?.f_to_device(images.device())?;
        Ok(MixtureDenoiser { ln_weights, ..MixtureDenoiser::new(images, scatter)? })
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let (components, channels, height, width) = self.images.size4()?;
        let images = self.images.f_view([components, channels * height * width])?;
        let flat = x.f_reshape([-1, channels * height * width])?;
        let total = self.scatter * self.scatter + sigma * sigma;
        // -|x - m|^2 / 2 without |x|^2, which is common to all components.
        let norms = images.f_square()?.f_sum_dim_intlist(1, false, Kind::Float)?.f_mul_scalar(0.5)?;
        let scores = flat.f_matmul(&images.f_tr()?)?.f_sub(&norms)?.f_div_scalar(total)?.f_add(&self.ln_weights)?;
        let mean = scores.f_softmax(1, Kind::Float)?.f_matmul(&images)?;
        let kept = self.scatter * self.scatter / total;
        Ok(flat.f_mul_scalar(kept)?.f_add(&mean.f_mul_scalar(1.0 - kept)?)?.f_view_as(x)?)
    }
}

impl Denoiser for MixtureDenoiser {
    fn shape(&self) -> [i64; 3] {
        let size = self.images.size();
        [size[1], size[2], size[3]]
    }

    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.estimate(x, sigma)
    }

    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.estimate(x, sigma)
    }

    fn flops(&self) -> f64 {
        4.0 * self.images.numel() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    #[test]
    fn the_mixture_denoiser_is_the_posterior_mean_of_draws() {
        let images = Tensor::from_slice(&[0.0f32, 0.0, 2.0, 1.0]).view([2, 1, 1, 2]);
        let (scatter, sigma) = (0.3, 0.8);
        let denoiser = MixtureDenoiser::new(images, scatter).unwrap();
        let x = Tensor::from_slice(&[0.9f32, 0.7]).view([1, 1, 1, 2]);
        let found = Vec::<f32>::try_from(denoiser.denoise(&x, sigma).unwrap().view(-1)).unwrap();
        // Importance sampling: prior draws weighted by the likelihood of x.
        let count = 400_000;
        let white = Key::new(1, "mixture", 0, Purpose::Evaluation, 0).normal(2 * count);
        let (mut total, mut sum) = (0.0, [0.0; 2]);
        for (index, pair) in white.chunks(2).enumerate() {
            let centre = if index % 2 == 0 { [0.0, 0.0] } else { [2.0, 1.0] };
            let draw: Vec<f64> = (0..2).map(|i| centre[i] + scatter * f64::from(pair[i])).collect();
            let distance = (draw[0] - 0.9).powi(2) + (draw[1] - 0.7).powi(2);
            let weight = (-0.5 * distance / (sigma * sigma)).exp();
            total += weight;
            sum[0] += weight * draw[0];
            sum[1] += weight * draw[1];
        }
        for index in 0..2 {
            // Monte Carlo error of 4e5 weighted draws with a deviation of about one is 0.002.
            assert!((f64::from(found[index]) - sum[index] / total).abs() < 0.008, "{found:?}");
        }
    }

    #[test]
    fn gradients_flow_only_when_asked() {
        let images = Tensor::from_slice(&[0.0f32, 0.0, 2.0, 1.0]).view([2, 1, 1, 2]);
        let denoiser = MixtureDenoiser::new(images, 0.3).unwrap();
        let x = Tensor::from_slice(&[0.9f32, 0.7]).view([1, 1, 1, 2]).set_requires_grad(true);
        assert!(!denoiser.denoise(&x, 0.5).unwrap().requires_grad());
        assert!(denoiser.denoise_with_grad(&x, 0.5).unwrap().requires_grad());
    }
}
