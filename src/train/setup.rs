//! What is measured on the training images before the first step: the stretch, the Gaussian part of the prior, and the
//! moments in flux that stand in for those of draws until `unseeing moments` has measured them.

use tch::{Kind, Tensor};

use crate::forward::Stretch;
use crate::prior::{Covariance, coarse};
use crate::train::config::{CovarianceSection, TrainConfig};
use crate::train::source::{ImageSource, together};
use crate::{Error, Result};

/// Images on which the stretch is measured.
const STRETCH_IMAGES: u64 = 512;
/// The stretch's scale in units of the median surface brightness at r50.
const STRETCH_FRACTION: f64 = 0.1;
/// Images stretched at a time.
const CHUNK: u64 = 256;

/// The measured quantities.
#[derive(Debug)]
pub struct Setup {
    pub stretch: Stretch,
    pub covariance: Covariance,
    /// Largest noise level.
    pub sigma_max: f64,
    /// Mean and variance of the flux, `[C, n, n]`, reference band's total = 1.
    pub flux_mean: Tensor,
    pub flux_variance: Tensor,
}

impl Setup {
    /// Measures everything on the first training images.
    pub fn measure(source: &dyn ImageSource, config: &TrainConfig) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let shape = source.shape();
        let scale = match config.prior.asinh_scale {
            Some(scale) => scale,
            None => stretch_scale(source, config)?,
        };
        let stretch = Stretch::Asinh { scale };
        let count = config.covariance.images;
        let mut images = Vec::new();
        let mut sum = Tensor::f_zeros(shape, (Kind::Double, tch::Device::Cpu))?;
        let mut squares = sum.f_zeros_like()?;
        for first in (0..count).step_by(CHUNK as usize) {
            let last = (first + CHUNK).min(count);
            let numbers: Vec<u64> = (first..last).collect();
            let values = together(&numbers, |draw| source.training_image(draw))?.concat();
            let flux = Tensor::f_from_slice(&values)?.f_view([(last - first) as i64, shape[0], shape[1], shape[2]])?;
            let wide = flux.f_to_kind(Kind::Double)?;
            let _ = sum.f_add_(&wide.f_sum_dim_intlist(0, false, Kind::Double)?)?;
            let _ = squares.f_add_(&wide.f_square()?.f_sum_dim_intlist(0, false, Kind::Double)?)?;
            images.push(stretch.forward(&flux)?);
        }
        let CovarianceSection { rank, floor, coarse, .. } = config.covariance;
        let images = Tensor::f_cat(&images, 0)?;
        let covariance = match coarse {
            1 => Covariance::fit(&images, rank, floor)?,
            factor => coarse::fit(&images, rank, floor, factor)?,
        };
        let sigma_max = config.levels.t_max_factor * covariance.largest_sd();
        if !sigma_max.is_finite() || sigma_max <= config.levels.sigma_min {
            return Err(Error::internal(format!("the training images hardly vary: largest noise level {sigma_max}")));
        }
        let mean = sum.f_div_scalar(count as f64)?;
        let variance = squares.f_div_scalar(count as f64)?.f_sub(&mean.f_square()?)?.f_clamp_min(0.0)?;
        Ok(Setup {
            stretch,
            covariance,
            sigma_max,
            flux_mean: mean.f_to_kind(Kind::Float)?,
            flux_variance: variance.f_to_kind(Kind::Float)?,
        })
    }
}

/// A tenth of the median, over training images, of the mean flux per pixel in a ring around the half-light radius of
/// the reference band.
fn stretch_scale(source: &dyn ImageSource, config: &TrainConfig) -> Result<f64> {
    let n = source.shape()[1] as usize;
    let band = config.reference_band()?;
    let numbers: Vec<u64> = (0..STRETCH_IMAGES).collect();
    let images = together(&numbers, |draw| source.training_image(draw))?;
    let mut found: Vec<f64> =
        images.iter().map(|image| surface_brightness_at_r50(&image[band * n * n..][..n * n], n)).collect();
    found.retain(|value| value.is_finite() && *value > 0.0);
    found.sort_by(f64::total_cmp);
    let median = found.get(found.len() / 2).copied();
    let median = median.ok_or_else(|| Error::internal("no training image has a half-light radius"))?;
    Ok(STRETCH_FRACTION * median)
}

/// Mean flux per pixel within 1.5 pixels of the radius, around the image's centre, that holds half of its flux.
pub fn surface_brightness_at_r50(plane: &[f32], n: usize) -> f64 {
    let centre = (n - 1) as f64 / 2.0;
    let radius = |pixel: usize| ((pixel % n) as f64 - centre).hypot((pixel / n) as f64 - centre);
    let mut order: Vec<usize> = (0..plane.len()).collect();
    order.sort_by(|&a, &b| radius(a).total_cmp(&radius(b)));
    let half = 0.5 * plane.iter().map(|&value| f64::from(value)).sum::<f64>();
    let mut within = 0.0;
    let r50 = order.iter().find_map(|&pixel| {
        within += f64::from(plane[pixel]);
        (within >= half).then(|| radius(pixel))
    });
    let Some(r50) = r50 else { return f64::NAN };
    let ring: Vec<f64> =
        order.iter().filter(|&&p| (radius(p) - r50).abs() < 1.5).map(|&p| f64::from(plane[p])).collect();
    ring.iter().sum::<f64>() / ring.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surface_brightness_of_an_exponential_disc() {
        let (n, scale) = (64, 5.0);
        let centre = (n - 1) as f64 / 2.0;
        let plane: Vec<f32> = (0..n * n)
            .map(|p| (-((p % n) as f64 - centre).hypot((p / n) as f64 - centre) / scale).exp() as f32)
            .collect();
        // Half of an exponential disc's light lies within 1.678 scales; the ring averages over pixels.
        let found = surface_brightness_at_r50(&plane, n);
        let expected = (-1.678f64).exp();
        assert!((found / expected - 1.0).abs() < 0.05, "{found} {expected}");
    }
}
