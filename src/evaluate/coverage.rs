//! Coverage pixel by pixel: how often the truth is within the intervals that a product's mean and variance claim, by observed
//! S/N and by the distance from the centre. It measures sampler, likelihood and prior together: where truths are not of the
//! prior's kind, the prior too.
//!
//! For n draws of a Gaussian posterior that is right, (truth - mean) / sd / (1 + 1/n)^(1/2) is Student's t with n - 1 degrees
//! of freedom; the intervals are those of that distribution, so that they hold what they should for any n.

use serde::Serialize;

use crate::evaluate::recovery::{Measured, SIGNAL_BINS, student_within};
use crate::{Error, Result};

/// The intervals.
pub const NOMINAL: [f64; 3] = [0.5, 0.68, 0.95];
/// Lower edges of the rings, in units of the posterior's half-light radius.
pub const RADII: [f64; 5] = [0.0, 0.5, 1.0, 2.0, 3.0];
/// Fewer draws have no variance to speak of.
const FEWEST_DRAWS: u32 = 3;

/// One object's pixels within one ring.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ring {
    pub pixels: u64,
    /// Those whose truth is within each interval.
    pub inside: [u64; 3],
    /// Sums over the pixels: posterior mean less truth, and truth.
    pub excess: f64,
    pub truth: f64,
}

/// An object's rings.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub signal_to_noise: f64,
    pub rings: [Ring; RADII.len()],
}

impl Object {
    /// Of images `[C, n, n]` that are mean and variance of `draws` draws, and their truth; `r50` in pixels, about the centre
    /// of the grid. Pixels without variance are left out. `None` of an object with too few draws for a variance, or without a
    /// radius (nothing was detected).
    ///
    /// Errors: images of different sizes.
    pub fn of(
        [mean, variance, truth]: [&[f32]; 3],
        size: usize,
        draws: u32,
        r50: f64,
        signal_to_noise: f64,
    ) -> Result<Option<Object>> {
        if mean.len() != variance.len() || mean.len() != truth.len() || mean.len() % (size * size).max(1) != 0 {
            let found = [mean.len(), variance.len(), truth.len()];
            return Err(Error::internal(format!("mean, variance and truth have {found:?} pixels")));
        }
        if draws < FEWEST_DRAWS || r50.is_nan() || r50 <= 0.0 {
            return Ok(None);
        }
        let limits =
            NOMINAL.map(|part| student_quantile(part, f64::from(draws) - 1.0) * (1.0 + 1.0 / f64::from(draws)).sqrt());
        let centre = (size as f64 - 1.0) / 2.0;
        let mut rings = [Ring::default(); RADII.len()];
        for (index, ((&mean, &variance), &truth)) in mean.iter().zip(variance).zip(truth).enumerate() {
            let (y, x) = ((index / size % size) as f64 - centre, (index % size) as f64 - centre);
            let radius = x.hypot(y) / r50;
            let ring = &mut rings[RADII.iter().rposition(|&low| radius >= low).unwrap_or(0)];
            let sd = f64::from(variance).sqrt();
            if sd.is_nan() || sd <= 0.0 || !mean.is_finite() || !truth.is_finite() {
                continue;
            }
            let off = f64::from(mean) - f64::from(truth);
            ring.pixels += 1;
            ring.excess += off;
            ring.truth += f64::from(truth);
            for (count, limit) in ring.inside.iter_mut().zip(limits) {
                *count += u64::from(off.abs() < limit * sd);
            }
        }
        Ok(Some(Object { signal_to_noise, rings }))
    }
}

/// Objects of one bin of S/N, within one ring.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Observed S/N, from and to (`None`: no upper edge).
    pub signal: (f64, Option<f64>),
    /// Radius over the half-light radius, from and to (`None`: to the field's edge).
    pub radius: (f64, Option<f64>),
    pub objects: usize,
    pub pixels: u64,
    /// Share of the truths within the intervals of `NOMINAL`, mean over objects: pixels of an object hang together.
    pub found: [Measured; 3],
    /// Flux of posterior means less that of truths, over that of truths, all objects together; its error by leaving each out.
    pub bias: Measured,
}

/// All cells that have objects.
pub fn cells(objects: &[Object]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (bin, &low) in SIGNAL_BINS.iter().enumerate() {
        let high = SIGNAL_BINS.get(bin + 1).copied();
        let inside =
            |object: &&Object| object.signal_to_noise >= low && high.is_none_or(|high| object.signal_to_noise < high);
        for (ring, &radius) in RADII.iter().enumerate() {
            let rings: Vec<&Ring> = objects
                .iter()
                .filter(inside)
                .map(|object| &object.rings[ring])
                .filter(|ring| ring.pixels > 0)
                .collect();
            if rings.is_empty() {
                continue;
            }
            let share = |which: usize| {
                let shares: Vec<f64> =
                    rings.iter().map(|ring| ring.inside[which] as f64 / ring.pixels as f64).collect();
                Measured::mean(&shares)
            };
            cells.push(Cell {
                signal: (low, high),
                radius: (radius, RADII.get(ring + 1).copied()),
                objects: rings.len(),
                pixels: rings.iter().map(|ring| ring.pixels).sum(),
                found: [0, 1, 2].map(share),
                bias: bias(&rings),
            });
        }
    }
    cells
}

/// A ratio of sums, with the jackknife's error.
fn bias(rings: &[&Ring]) -> Measured {
    let sums = rings.iter().fold([0.0, 0.0], |[excess, truth], ring| [excess + ring.excess, truth + ring.truth]);
    let count = rings.len() as f64;
    let without = rings.iter().map(|ring| (sums[0] - ring.excess) / (sums[1] - ring.truth));
    let without: Vec<f64> = without.collect();
    let mean = without.iter().sum::<f64>() / count;
    let spread: f64 = without.iter().map(|value| (value - mean).powi(2)).sum();
    let error = if rings.len() > 1 { (spread * (count - 1.0) / count).sqrt() } else { f64::NAN };
    Measured { value: sums[0] / sums[1], error }
}

/// The half-width that holds `part` of Student's t, by bisection.
fn student_quantile(part: f64, freedom: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e3);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if student_within(middle, freedom) < part { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    const SIZE: usize = 24;

    /// Means and variances of `draws` normal draws in each pixel, and truths of the same distribution; claimed with
    /// standard deviations that are `factor` times too large, and a mean that is `shift` standard deviations too high.
    fn object(number: u32, draws: u32, factor: f32, shift: f32) -> Object {
        let count = SIZE * SIZE;
        let key = |sample| Key::new(number.into(), "coverage", sample, Purpose::Evaluation, 0).normal(count);
        let all: Vec<Vec<f32>> = (0..draws).map(key).collect();
        let truth: Vec<f32> = key(draws).iter().map(|value| value + 5.0).collect();
        let (mut mean, mut variance) = (vec![0.0; count], vec![0.0; count]);
        for pixel in 0..count {
            let average = all.iter().map(|draw| draw[pixel]).sum::<f32>() / draws as f32;
            let squares = all.iter().map(|draw| (draw[pixel] - average).powi(2)).sum::<f32>();
            mean[pixel] = average + 5.0 + shift;
            variance[pixel] = factor * factor * squares / (draws - 1) as f32;
        }
        Object::of([&mean, &variance, &truth], SIZE, draws, 4.0, 30.0).unwrap().unwrap()
    }

    fn all(draws: u32, factor: f32, shift: f32) -> Vec<Cell> {
        cells(&(0..40).map(|number| object(number, draws, factor, shift)).collect::<Vec<_>>())
    }

    #[test]
    fn intervals_hold_what_they_should_for_few_and_many_draws() {
        for draws in [4, 32] {
            let cells = all(draws, 1.0, 0.0);
            assert_eq!((cells.len(), cells[0].objects, cells[0].signal), (RADII.len(), 40, (20.0, Some(50.0))));
            assert_eq!(cells.iter().map(|cell| cell.pixels).sum::<u64>(), 40 * (SIZE * SIZE) as u64);
            for (cell, (found, nominal)) in
                cells.iter().flat_map(|cell| cell.found.iter().zip(NOMINAL).map(move |f| (cell, f)))
            {
                assert!((found.value - nominal).abs() < 4.0 * found.error, "{draws} draws: {cell:?}");
            }
            assert!(cells.iter().all(|cell| cell.bias.value.abs() < 4.0 * cell.bias.error));
        }
    }

    #[test]
    fn wrong_widths_and_means_are_seen() {
        let narrow = all(16, 0.6, 0.0);
        assert!(narrow.iter().all(|cell| cell.found[1].value < NOMINAL[1] - 5.0 * cell.found[1].error), "{narrow:?}");
        let wide = all(16, 1.6, 0.0);
        assert!(wide.iter().all(|cell| cell.found[1].value > NOMINAL[1] + 5.0 * cell.found[1].error), "{wide:?}");
        // One in five: every pixel's mean is 20 % too high.
        let high = all(16, 1.0, 1.0);
        assert!(high.iter().all(|cell| (cell.bias.value - 0.2).abs() < 4.0 * cell.bias.error), "{high:?}");
    }

    #[test]
    fn what_has_no_coverage_is_left_out() {
        let image = vec![1.0f32; 16];
        let of = |other: &[f32], draws, r50| Object::of([&image, other, &image], 4, draws, r50, 1.0);
        assert!(of(&image[..8], 8, 1.0).is_err());
        assert_eq!(
            [of(&image, 2, 1.0), of(&image, 8, f64::NAN), of(&image, 8, 0.0)].map(Result::unwrap),
            [None, None, None]
        );
        // No variance, no interval.
        assert_eq!(of(&[0.0; 16], 8, 1.0).unwrap().unwrap().rings, [Ring::default(); RADII.len()]);
        // Tables of Student's t.
        assert!(
            (student_quantile(0.95, 7.0) - 2.365).abs() < 0.002 && (student_quantile(0.5, 3.0) - 0.765).abs() < 0.002
        );
    }
}
