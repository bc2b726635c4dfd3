//! How alike two images are: PSNR, SSIM, flux ratio.

use serde::Serialize;

/// Standard deviation of SSIM's window, pixels, and where it ends.
const WINDOW: f64 = 1.5;
const REACH: i64 = 5;

/// Where and in which stretch images are compared.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scoring {
    /// Pixels on a side.
    pub size: usize,
    /// Radius of the circle about the middle that counts, pixels.
    pub radius: f64,
    /// Softening of the stretch asinh(f / softening), in the units of the images: the same for all methods.
    pub softening: f64,
}

/// The likeness of an image to its reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Peak signal to noise ratio in linear flux, dB: the peak is that of the reference.
    pub psnr: f64,
    /// The same in the stretch.
    pub psnr_stretched: f64,
    /// Structural similarity (Wang et al. 2004, IEEE TIP 13, 600) in the stretch, mean over the circle.
    pub ssim: f64,
    /// Flux in the circle over that of the reference.
    pub flux_ratio: f64,
}

impl Scoring {
    /// Compares `image` with `reference`, both `[size, size]`.
    pub fn score(&self, image: &[f64], reference: &[f64]) -> Score {
        let inside: Vec<usize> = (0..self.size * self.size).filter(|&index| self.counts(index)).collect();
        let stretched =
            |values: &[f64]| values.iter().map(|value| (value / self.softening).asinh()).collect::<Vec<_>>();
        let (image_s, reference_s) = (stretched(image), stretched(reference));
        let flux = |values: &[f64]| inside.iter().map(|&index| values[index]).sum::<f64>();
        Score {
            psnr: psnr(image, reference, &inside),
            psnr_stretched: psnr(&image_s, &reference_s, &inside),
            ssim: self.ssim(&image_s, &reference_s, &inside),
            flux_ratio: flux(image) / flux(reference),
        }
    }

    /// Whether a pixel is in the circle.
    pub fn counts(&self, index: usize) -> bool {
        let centre = (self.size as f64 - 1.0) / 2.0;
        ((index / self.size) as f64 - centre).hypot((index % self.size) as f64 - centre) <= self.radius
    }

    fn ssim(&self, image: &[f64], reference: &[f64], inside: &[usize]) -> f64 {
        let range = inside.iter().map(|&index| reference[index]).fold(f64::MIN, f64::max);
        let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
        let size = self.size as i64;
        let one = |index: usize| {
            let (row, column) = (index as i64 / size, index as i64 % size);
            let [mut weight, mut a, mut b, mut aa, mut bb, mut ab] = [0.0; 6];
            for y in (row - REACH).max(0)..=(row + REACH).min(size - 1) {
                for x in (column - REACH).max(0)..=(column + REACH).min(size - 1) {
                    let distance = ((y - row).pow(2) + (x - column).pow(2)) as f64;
                    let w = (-0.5 * distance / (WINDOW * WINDOW)).exp();
                    let (p, q) = (image[(y * size + x) as usize], reference[(y * size + x) as usize]);
                    weight += w;
                    a += w * p;
                    b += w * q;
                    aa += w * p * p;
                    bb += w * q * q;
                    ab += w * p * q;
                }
            }
            let [a, b, aa, bb, ab] = [a, b, aa, bb, ab].map(|sum| sum / weight);
            let (variance_a, variance_b, covariance) = (aa - a * a, bb - b * b, ab - a * b);
            (2.0 * a * b + c1) * (2.0 * covariance + c2) / ((a * a + b * b + c1) * (variance_a + variance_b + c2))
        };
        inside.iter().map(|&index| one(index)).sum::<f64>() / inside.len() as f64
    }
}

fn psnr(image: &[f64], reference: &[f64], inside: &[usize]) -> f64 {
    let peak = inside.iter().map(|&index| reference[index]).fold(f64::MIN, f64::max);
    let error =
        inside.iter().map(|&index| (image[index] - reference[index]).powi(2)).sum::<f64>() / inside.len() as f64;
    10.0 * (peak * peak / error).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_image_is_alike_and_errors_are_seen() {
        let size = 32;
        let at = |index: usize| ((index / size) as f64 - 15.5).hypot((index % size) as f64 - 15.5);
        let reference: Vec<f64> = (0..size * size).map(|index| 100.0 * (-at(index) / 4.0).exp()).collect();
        let scoring = Scoring { size, radius: 12.0, softening: 3.0 };
        let same = scoring.score(&reference, &reference);
        assert!(same.psnr == f64::INFINITY && (same.ssim - 1.0).abs() < 1e-12 && same.flux_ratio == 1.0);
        // An error of 1 everywhere: PSNR 20 log10(peak).
        let peak = reference.iter().copied().fold(0.0, f64::max);
        let off: Vec<f64> = reference.iter().map(|value| value + 1.0).collect();
        let score = scoring.score(&off, &reference);
        assert!((score.psnr - 20.0 * peak.log10()).abs() < 1e-9);
        // What lies outside of the circle does not count.
        let mut outside = reference.clone();
        outside[0] = 1e9;
        assert_eq!(scoring.score(&outside, &reference).psnr, f64::INFINITY);
        let flat = vec![reference.iter().sum::<f64>() / 1024.0; 1024];
        assert!(scoring.score(&flat, &reference).ssim < 0.5);
    }
}
