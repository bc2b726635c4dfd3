//! What the simulated survey's telescope does: point spread functions and sky noise like those of HSC's coadds.

use crate::forward::Psf;
use crate::forward::psf::PsfError;
use crate::random::{Key, Purpose};
use crate::train::stream::Stream;
use crate::{Error, Result};

/// HSC's pixel, arcsec.
pub const PITCH: f64 = 0.168;
/// Pixels of a PSF image on a side.
pub const PSF_SIZE: usize = 43;
/// Exponent of the Moffat profile.
const BETA: f64 = 3.0;
/// Weight of the next pixel in the kernel that correlates the noise: blocks of 4 x 4 pixels then have about 2.7 times the
/// variance of white noise (2.5 to 3.7 is measured in coadds).
const CORRELATION: f32 = 0.22;

/// How deep the survey is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Depth {
    /// Sky noise like HSC's UltraDeep layer
    UltraDeep,
    /// Sky noise like HSC's Wide layer
    Wide,
}

/// Median seeing (FWHM, arcsec) and sky noise of the UltraDeep layer (nJy per pixel) of a band.
fn band_quality(band: &str) -> (f64, f64) {
    match band {
        "g" => (0.75, 0.35),
        "r" => (0.70, 0.45),
        "i" => (0.60, 0.56),
        "z" => (0.65, 0.90),
        _ => (0.66, 1.60),
    }
}

/// Standard deviation of the sky noise, nJy per pixel.
pub fn sky_noise(band: &str, depth: Depth) -> f64 {
    let (_, noise) = band_quality(band);
    match depth {
        Depth::UltraDeep => noise,
        Depth::Wide => 3.2 * noise,
    }
}

/// The effective PSF of one object in one band: an elliptical Moffat profile (Moffat 1969), slightly off the median
/// seeing, sampled at pixel centres. The pixel's response counts as inside.
pub fn effective_psf(band: &str, stream: &mut Stream) -> Result<Psf> {
    let fwhm = band_quality(band).0 * (1.0 + 0.03 * stream.normal()).clamp(0.85, 1.2);
    let ellipticity = stream.range(0.005, 0.04);
    let (sine, cosine) = (0.5 * stream.angle()).sin_cos();
    let radius = fwhm / PITCH / (2.0 * (2f64.powf(1.0 / BETA) - 1.0).sqrt());
    let middle = (PSF_SIZE / 2) as f64;
    let mut values: Vec<f64> = (0..PSF_SIZE * PSF_SIZE)
        .map(|at| {
            let (x, y) = ((at % PSF_SIZE) as f64 - middle, (at / PSF_SIZE) as f64 - middle);
            let (u, v) = ((x * cosine + y * sine) * (1.0 - ellipticity), (y * cosine - x * sine) * (1.0 + ellipticity));
            (1.0 + (u * u + v * v) / (radius * radius)).powf(-BETA)
        })
        .collect();
    let sum: f64 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= sum);
    Psf::new(&values, PSF_SIZE, PSF_SIZE, PITCH, true)
        .map_err(|error: PsfError| Error::internal(format!("simulated PSF: {error}")))
}

/// Sky noise of one image, `[height, width]` row by row, of this standard deviation; `correlated` as in coadds.
pub fn noise(seed: u64, id: &str, band: u32, shape: [usize; 2], sigma: f64, correlated: bool) -> Vec<f32> {
    let key = Key::new(seed, id, band, Purpose::ObservationNoise, 0);
    let [height, width] = shape;
    if !correlated {
        return key.normal(height * width).iter().map(|value| value * sigma as f32).collect();
    }
    let wide = width + 2;
    let white = key.normal((height + 2) * wide);
    let kernel = [CORRELATION, 1.0, CORRELATION];
    let square: f32 = kernel.iter().map(|weight| weight * weight).sum();
    let scale = sigma as f32 / square;
    (0..height * width)
        .map(|at| {
            let (x, y) = (at % width, at / width);
            let mut sum = 0.0;
            for (j, a) in kernel.iter().enumerate() {
                for (i, b) in kernel.iter().enumerate() {
                    sum += a * b * white[(y + j) * wide + x + i];
                }
            }
            scale * sum
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psfs_have_their_seeing_and_unit_sum() {
        for (band, fwhm) in [("g", 0.75), ("r", 0.70), ("i", 0.60)] {
            let psf = effective_psf(band, &mut Stream::new(1, "psf", 0, Purpose::Evaluation)).unwrap();
            assert!((psf.values().iter().sum::<f64>() - 1.0).abs() < 1e-12);
            // The draw scatters by 3 %.
            assert!((psf.fwhm() / fwhm - 1.0).abs() < 0.12, "{band}: {}", psf.fwhm());
        }
    }

    #[test]
    fn noise_has_its_variance_and_its_correlation() {
        let shape = [256, 256];
        for (correlated, low, high) in [(false, 0.9, 1.1), (true, 2.3, 3.2)] {
            let values = noise(3, "x", 0, shape, 2.0, correlated);
            let variance = values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64;
            assert!((variance / 4.0 - 1.0).abs() < 0.05, "{variance}");
            let mut blocks = 0.0;
            for y in (0..256).step_by(4) {
                for x in (0..256).step_by(4) {
                    let sum: f32 = (0..16).map(|k| values[(y + k / 4) * 256 + x + k % 4]).sum();
                    blocks += f64::from(sum * sum);
                }
            }
            // Block sums over what white noise of this variance would have; 4096 blocks scatter by 2 %.
            let ratio = blocks / 4096.0 / (16.0 * variance);
            assert!((low..high).contains(&ratio), "correlated {correlated}: {ratio}");
        }
    }
}
