//! Sky level and noise of an image from its source-masked pixels: rms and stationary autocovariance.
//!
//! A whole-frame spread counts faint wings and neighbours as noise (1.3 to 1.9 times too much in deep fields). Sources
//! are found on the smoothed image, at a threshold high enough that noise peaks stay in (else the masking would eat the
//! noise that is to be measured), and their masks are grown to cover the wings.

use super::Autocovariance;
use super::frame::{Frame, grown, median_and_spread, without_specks};

/// Smoothing of the detection image, pixels.
const SMOOTHING: f64 = 2.0;
/// Detection threshold in units of the smoothed image's rms. High: see above.
const THRESHOLD: f64 = 4.5;
/// Masks are grown by this many pixels.
const GROW: f64 = 4.0;
/// A detection has at least this many pixels.
const LEAST_PIXELS: usize = 8;
const ROUNDS: usize = 12;
/// Deviations beyond this many rms are clipped from the rms.
const CLIP: f64 = 4.0;
/// Largest lag of the autocovariance, pixels.
pub(crate) const LAG: usize = 8;
/// With fewer sky pixels than this no noise can be measured.
pub(crate) const LEAST_SKY: usize = 200;
/// The spectrum must not fall below this fraction of its mean, for the noise covariance to be invertible.
const SPECTRUM_FLOOR: f64 = 1e-3;

/// The sky of an image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sky {
    /// Mean level of the source-free pixels, and its standard error (which knows that the noise is correlated).
    pub level: f64,
    pub level_error: f64,
    /// Standard deviation of a pixel.
    pub rms: f64,
    pub autocovariance: Autocovariance,
    /// Number of source-free pixels.
    pub pixels: usize,
}

/// Measures the sky over the pixels where `good`; `None` if too few are free of sources.
pub(crate) fn measure(frame: &Frame, good: &[bool]) -> Option<Sky> {
    let sky = source_free(frame, good)?;
    let mut kept: Vec<f64> = frame.values.iter().zip(&sky).filter(|&(_, &ok)| ok).map(|(&v, _)| f64::from(v)).collect();
    let mut level = mean(&kept);
    let mut rms = spread(&kept, level);
    for _ in 0..ROUNDS {
        let before = kept.len();
        kept.retain(|value| (value - level).abs() < CLIP * rms);
        (level, rms) = (mean(&kept), spread(&kept, mean(&kept)));
        if kept.len() == before {
            break;
        }
    }
    if kept.len() < LEAST_SKY || !rms.is_finite() || rms <= 0.0 {
        return None;
    }
    let use_pixel = |(&value, &ok): (&f32, &bool)| ok && (f64::from(value) - level).abs() < CLIP * rms;
    let used: Vec<bool> = frame.values.iter().zip(&sky).map(use_pixel).collect();
    let autocovariance = autocovariance(frame, &used, level, rms);
    let long_run: f64 = autocovariance.values.iter().sum();
    let level_error = (long_run.max(rms * rms) / kept.len() as f64).sqrt();
    Some(Sky { level, level_error, rms, autocovariance, pixels: kept.len() })
}

/// The pixels free of sources, found in rounds: each round's noise is that of the pixels left by the one before.
fn source_free(frame: &Frame, good: &[bool]) -> Option<Vec<bool>> {
    let smoothed = frame.smoothed(good, SMOOTHING);
    let mut sources = vec![false; good.len()];
    for _ in 0..ROUNDS {
        let quiet = smoothed.values.iter().zip(good.iter().zip(&sources));
        let values: Vec<f32> = quiet.filter(|(_, (ok, source))| **ok && !**source).map(|(&v, _)| v).collect();
        if values.len() < LEAST_SKY {
            return None;
        }
        let (level, rms) = median_and_spread(values);
        let limit = (level + THRESHOLD * rms) as f32;
        let found: Vec<bool> = smoothed.values.iter().zip(good).map(|(&v, &ok)| ok && v > limit).collect();
        let found = grown(&without_specks(&found, frame.shape, LEAST_PIXELS), frame.shape, GROW);
        let changed = found.iter().zip(&sources).filter(|(a, b)| a != b).count();
        sources = found;
        if changed * 500 < sources.len() {
            break;
        }
    }
    Some(good.iter().zip(&sources).map(|(&ok, &source)| ok && !source).collect())
}

/// Autocovariance over pairs of used pixels, tapered to zero beyond the largest lag, and made non-negative in Fourier
/// space. Its value at lag 0 is `rms^2`.
fn autocovariance(frame: &Frame, used: &[bool], level: f64, rms: f64) -> Autocovariance {
    let [ny, nx] = frame.shape;
    let values: Vec<f32> =
        frame.values.iter().zip(used).map(|(&v, &ok)| if ok { v - level as f32 } else { 0.0 }).collect();
    let flags: Vec<f32> = used.iter().map(|&ok| if ok { 1.0 } else { 0.0 }).collect();
    let lag = LAG as isize;
    let width = 2 * LAG + 1;
    let reach = reach(used.iter().filter(|&&ok| ok).count());
    let mut out = vec![0.0; width * width];
    for dy in 0..=lag {
        for dx in -lag..=lag {
            if dy == 0 && dx < 0 {
                continue;
            }
            let (mut sum, mut pairs) = (0f64, 0f64);
            let (x0, x1) = ((-dx).max(0) as usize, (nx as isize - dx.max(0)).max(0) as usize);
            for y in 0..ny.saturating_sub(dy as usize) {
                if x0 >= x1 {
                    break;
                }
                let here = y * nx + x0..y * nx + x1;
                let shift = dy as usize * nx;
                let there = (here.start + shift).wrapping_add_signed(dx)..(here.end + shift).wrapping_add_signed(dx);
                let products = values[here.clone()].iter().zip(&values[there.clone()]).map(|(a, b)| a * b);
                sum += f64::from(products.sum::<f32>());
                pairs += f64::from(flags[here].iter().zip(&flags[there]).map(|(a, b)| a * b).sum::<f32>());
            }
            let value = if pairs > 0.0 { sum / pairs } else { 0.0 } * taper(((dy * dy + dx * dx) as f64).sqrt(), reach);
            out[((dy + lag) * width as isize + dx + lag) as usize] = value;
            out[((lag - dy) * width as isize + lag - dx) as usize] = value;
        }
    }
    non_negative(&mut out, rms * rms);
    Autocovariance { lag: LAG, values: out }
}

/// The largest lag that so many pixels can tell: at each frequency the spectrum's error is about sqrt((2 L + 1)^2 /
/// pixels), and is kept below a fifth.
fn reach(pixels: usize) -> f64 {
    (0.5 * ((pixels as f64 / 30.0).sqrt() - 1.0)).clamp(1.0, LAG as f64)
}

/// One out to half the largest lag, then a cosine down to zero just beyond it.
fn taper(distance: f64, reach: f64) -> f64 {
    let (half, end) = (reach / 2.0, reach + 1.0);
    let fraction = ((distance - half) / (end - half)).clamp(0.0, 1.0);
    0.5 + 0.5 * (std::f64::consts::PI * fraction).cos()
}

/// Projects in turn onto the spectra above the floor and onto the functions that vanish beyond the largest lag and are
/// `variance` at 0.
fn non_negative(values: &mut [f64], variance: f64) {
    const GRID: usize = 4 * LAG + 8;
    let width = 2 * LAG + 1;
    let cosine: Vec<f64> = (0..GRID).map(|k| (std::f64::consts::TAU * k as f64 / GRID as f64).cos()).collect();
    // Lags counted modulo the grid, so that phases are whole numbers.
    let phase = |k: usize, index: usize| k * (index + GRID - LAG);
    let mut spectrum = vec![0.0; GRID * GRID];
    for _ in 0..12 {
        let scale = variance / values[LAG * width + LAG].max(f64::MIN_POSITIVE);
        values.iter_mut().for_each(|value| *value *= scale);
        let mut lowest = f64::INFINITY;
        for (k, out) in spectrum.iter_mut().enumerate() {
            let sum = values.iter().enumerate();
            *out = sum.map(|(i, v)| v * cosine[(phase(k / GRID, i / width) + phase(k % GRID, i % width)) % GRID]).sum();
            lowest = f64::min(lowest, *out);
        }
        let floor = SPECTRUM_FLOOR * variance;
        if lowest >= floor {
            return;
        }
        spectrum.iter_mut().for_each(|value| *value = value.max(2.0 * floor));
        for (i, value) in values.iter_mut().enumerate() {
            let sum = spectrum.iter().enumerate();
            let total: f64 =
                sum.map(|(k, s)| s * cosine[(phase(k / GRID, i / width) + phase(k % GRID, i % width)) % GRID]).sum();
            *value = total / (GRID * GRID) as f64;
        }
    }
    let scale = variance / values[LAG * width + LAG].max(f64::MIN_POSITIVE);
    values.iter_mut().for_each(|value| *value *= scale);
}

impl Autocovariance {
    /// White noise of the given variance.
    pub fn white(variance: f64) -> Self {
        let mut values = vec![0.0; (2 * LAG + 1).pow(2)];
        values[LAG * (2 * LAG + 1) + LAG] = variance;
        Autocovariance { lag: LAG, values }
    }

    /// Variance of a sum over `side x side` pixels, in units of that of white noise of the same pixel variance.
    pub fn block_excess(&self, side: usize) -> f64 {
        let side = side as isize;
        let mut sum = 0.0;
        for dy in 1 - side..side {
            for dx in 1 - side..side {
                sum += ((side - dy.abs()) * (side - dx.abs())) as f64 * self.at(dy, dx);
            }
        }
        sum / ((side * side) as f64 * self.at(0, 0))
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn spread(values: &[f64], centre: f64) -> f64 {
    (values.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    /// White noise smoothed by a Gaussian of 0.8 pixels and scaled to an rms of 0.01: its autocovariance is a Gaussian
    /// of sigma 0.8 sqrt(2).
    fn correlated(size: usize, sample: u32) -> Frame {
        let values = Key::new(5, "noise", sample, Purpose::ObservationNoise, 0).normal(size * size);
        let white = Frame { shape: [size, size], values };
        let mut frame = white.smoothed(&vec![true; size * size], 0.8);
        let sum: f64 = frame.values.iter().map(|&v| f64::from(v).powi(2)).sum();
        let rms = (sum / (size * size) as f64).sqrt();
        frame.values.iter_mut().for_each(|value| *value *= (0.01 / rms) as f32);
        frame
    }

    /// Block variance (4 x 4) of unit-variance noise with Gaussian autocovariance exp(-d^2 / (4 s^2)).
    fn expected_block(s: f64) -> f64 {
        let mut sum = 0.0;
        for dy in -3i32..=3 {
            for dx in -3i32..=3 {
                let weight = f64::from((4 - dy.abs()) * (4 - dx.abs()));
                sum += weight * (-f64::from(dy * dy + dx * dx) / (4.0 * s * s)).exp();
            }
        }
        sum / 16.0
    }

    #[test]
    fn recovers_the_noise_between_sources() {
        let size = 256;
        let mut frame = correlated(size, 0);
        // Sixty galaxies of all brightnesses, with exponential wings, and a sky level.
        let places = Key::new(5, "places", 0, Purpose::Galaxy, 0).uniform(240);
        for galaxy in places.chunks(4) {
            let (y0, x0) = (galaxy[0] * size as f64, galaxy[1] * size as f64);
            let (peak, scale) = (0.05 * 10f64.powf(2.5 * galaxy[2]), 1.5 + 2.0 * galaxy[3]);
            for (index, value) in frame.values.iter_mut().enumerate() {
                let r = ((index / size) as f64 - y0).hypot((index % size) as f64 - x0);
                *value += (peak * (-r / scale).exp()) as f32;
            }
        }
        frame.values.iter_mut().for_each(|value| *value += 0.003);
        let sky = measure(&frame, &vec![true; size * size]).unwrap();
        // Six per cent: undetected wings. The whole-frame spread is several times larger.
        assert!((sky.rms / 0.01 - 1.0).abs() < 0.06, "rms {}", sky.rms);
        assert!((sky.level - 0.003).abs() < 0.0015, "level {}", sky.level);
        let (_, whole) = median_and_spread(frame.values.clone());
        assert!(whole > 1.2 * sky.rms, "the test is too easy: {whole}");
        let block = sky.autocovariance.block_excess(4);
        let expected = expected_block(0.8);
        // Fifteen per cent: sampling error and wings.
        assert!((block / expected - 1.0).abs() < 0.15, "{block} {expected}");
    }

    #[test]
    fn autocovariance_is_that_of_the_noise_and_non_negative() {
        let frame = correlated(384, 1);
        let sky = measure(&frame, &vec![true; 384 * 384]).unwrap();
        let covariance = &sky.autocovariance;
        for (dy, dx) in [(0, 1), (1, 0), (1, 1), (0, 2), (2, 1), (-1, 1)] {
            let expected = 1e-4 * (-f64::from((dy * dy + dx * dx) as i32) / (4.0 * 0.64)).exp();
            // Sampling error of 1.5e5 pixels (about 0.5 % of the variance), and the clipped rms.
            assert!((covariance.at(dy, dx) - expected).abs() < 0.02 * 1e-4, "{dy} {dx}");
        }
        assert_eq!(covariance.at(2, 1), covariance.at(-2, -1));
        for k in 0..100 {
            let (ky, kx) = (f64::from(k / 10) * 0.31, f64::from(k % 10) * 0.31);
            let mut power = 0.0;
            for dy in -8isize..=8 {
                for dx in -8isize..=8 {
                    power += covariance.at(dy, dx) * (ky * dy as f64 + kx * dx as f64).cos();
                }
            }
            // Between the frequencies of the projection's grid it may dip a little.
            assert!(power > -0.01 * covariance.at(0, 0), "{ky} {kx} {power}");
        }
    }

    #[test]
    fn white_noise_stays_white_and_no_sky_is_no_measurement() {
        let values = Key::new(5, "white", 0, Purpose::ObservationNoise, 0).normal(200 * 200);
        let sky = measure(&Frame { shape: [200, 200], values }, &[true; 40000]).unwrap();
        // Four standard errors of 4e4 pixels.
        assert!((sky.rms - 1.0).abs() < 0.015 && (sky.autocovariance.block_excess(4) - 1.0).abs() < 0.1);
        assert!(sky.level.abs() < 5.0 * sky.level_error);
        let flat = Frame { shape: [50, 50], values: vec![1.0; 2500] };
        assert_eq!(measure(&flat, &[true; 2500]), None);
        assert_eq!(measure(&flat, &[false; 2500]), None);
    }
}
