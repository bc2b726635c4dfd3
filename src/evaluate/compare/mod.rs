//! Comparison of a posterior with a sharp image of the same sky (or a simulated truth), beside Richardson-Lucy and Wiener
//! deconvolution of the same data. One band, on the grid of the products.

pub mod deconvolve;
pub mod metrics;
pub mod reference;
pub mod summary;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::forward::{Field, Psf, SamplingOperator};
use crate::product::ObjectRecord;
use crate::{Error, Result};

pub use metrics::{Score, Scoring};

/// Iterations of Richardson-Lucy that the best is chosen from, with the reference at hand: its best case.
const LUCY_ITERATIONS: usize = 200;
/// Strengths of the Wiener filter's smoothness that the best is chosen from, likewise: 10^-5 to 10^1.
const WIENER_STRENGTHS: usize = 13;

/// What was observed in one band, ready to be deconvolved.
pub struct Observed {
    pub field: Field,
    pub psf: Psf,
    pub operator: SamplingOperator,
    /// nJy per detector pixel, as calibrated: the posterior's own sky level is not taken off, for the other methods do not
    /// know it; `[1, 1, my, mx]`.
    pub data: Tensor,
    /// 1 / variance, 0 where masked.
    pub weight: Tensor,
    /// Standard deviation of the sky noise, nJy per detector pixel.
    pub noise: f64,
}

impl Observed {
    /// Band `band` of a record; `psf` on the detector's pixels.
    ///
    /// Errors: a record without its observation (a failed object).
    pub fn of(record: &ObjectRecord, band: usize, psf: Psf) -> Result<Observed> {
        let need = |name: &str| {
            let missing = || Error::object(&record.id, format!("it has no `{name}` to compare with"));
            record.array(name).filter(|array| band < array.shape[0]).ok_or_else(missing)
        };
        let (image, mask, variance) = (need("observation")?, need("mask")?, need("observation_variance")?);
        let [_, rows, columns] = image.shape[..] else {
            return Err(Error::object(&record.id, "its observation is not [band, y, x]"));
        };
        let size = need("mean")?.shape[2] as i64;
        let scalar = |name: &str| record.scalar(name).unwrap_or(f64::NAN);
        let missing = || Error::object(&record.id, "its products have no WCS");
        let (product, detector) =
            (record.wcs("wcs").ok_or_else(missing)?, record.wcs("observation_wcs").ok_or_else(missing)?);
        let middle = (size as f64 - 1.0) / 2.0;
        let target = detector.sky_to_pixel(product.pixel_to_sky([middle; 2]));
        let field = Field {
            size,
            prior_pitch: scalar("pixel_scale"),
            detector_pitch: scalar("observation_pixel_scale"),
            target: target.map_err(|error| Error::object(&record.id, error))?,
            shape: [rows as i64, columns as i64],
        };
        let plane = rows * columns;
        let part = |values: &[f32]| values[band * plane..(band + 1) * plane].to_vec();
        let on = part(&mask.values);
        let data: Vec<f64> = part(&image.values)
            .iter()
            .zip(&on)
            .map(|(value, on)| if *on > 0.0 { f64::from(*value) } else { 0.0 })
            .collect();
        let weight: Vec<f64> = part(&variance.values)
            .iter()
            .zip(&on)
            .map(|(value, on)| if *on > 0.0 { 1.0 / f64::from(*value) } else { 0.0 })
            .collect();
        let shape = [1, 1, rows as i64, columns as i64];
        let operator = SamplingOperator::new(&field, std::slice::from_ref(&psf), Kind::Double, Device::Cpu)?;
        Ok(Observed {
            field,
            psf,
            operator,
            data: Tensor::f_from_slice(&data)?.f_view(shape)?,
            weight: Tensor::f_from_slice(&weight)?.f_view(shape)?,
            noise: record.vector("noise_sd").get(band).copied().unwrap_or(f64::NAN),
        })
    }
}

/// One method's image with its score.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub method: String,
    pub score: Score,
    /// What was chosen with the reference at hand, by the PSNR in linear flux: iterations, or strength.
    pub chosen: Option<f64>,
    /// The highest PSNR in linear flux and the highest SSIM over all that could be chosen, each by itself.
    pub best_psnr: f64,
    pub best_ssim: f64,
    #[serde(skip)]
    pub image: Vec<f64>,
}

/// Scores of the posterior mean and draws, `[n, n]` each, and of Richardson-Lucy and Wiener, against `reference`.
/// `smooth` brings an image to the reference's resolution.
pub fn compare(
    observed: &Observed,
    mean: &[f64],
    draws: &[Vec<f64>],
    reference: &[f64],
    scoring: &Scoring,
    smooth: &dyn Fn(&[f64]) -> Vec<f64>,
) -> Result<Vec<Entry>> {
    let entry = |method: &str, image: &[f64], chosen: Option<f64>| {
        let image = smooth(image);
        let score = scoring.score(&image, reference);
        Entry { method: method.into(), score, chosen, best_psnr: score.psnr, best_ssim: score.ssim, image }
    };
    let mut entries = vec![entry("posterior mean", mean, None)];
    entries.extend(draws.iter().enumerate().map(|(index, draw)| entry(&format!("draw {}", index + 1), draw, None)));
    // Chosen by the PSNR in linear flux, the one that these methods aim at.
    let mut best = None;
    deconvolve::richardson_lucy(observed, LUCY_ITERATIONS, &mut |iteration, image| {
        keep(&mut best, entry("Richardson-Lucy", image, Some(iteration as f64)));
    })?;
    entries.extend(best.take());
    for step in 0..WIENER_STRENGTHS {
        let strength = 10f64.powf(-5.0 + 0.5 * step as f64);
        keep(&mut best, entry("Wiener", &deconvolve::wiener(observed, strength)?, Some(strength)));
    }
    entries.extend(best);
    Ok(entries)
}

/// Puts the candidate in the place of the best one, if it is better, and keeps the best numbers.
fn keep(best: &mut Option<Entry>, candidate: Entry) {
    let (psnr, ssim) = best.as_ref().map_or((f64::MIN, f64::MIN), |best| (best.best_psnr, best.best_ssim));
    let (psnr, ssim) = (psnr.max(candidate.score.psnr), ssim.max(candidate.score.ssim));
    if best.as_ref().is_none_or(|best| candidate.score.psnr > best.score.psnr) {
        *best = Some(candidate);
    }
    if let Some(best) = best {
        (best.best_psnr, best.best_ssim) = (psnr, ssim);
    }
}

#[cfg(test)]
mod tests;
