//! Composite-model photometry (cModel) of an observation: an elliptical exponential and an elliptical de Vaucouleurs profile,
//! each fitted through the PSF to the reference band, and then in each band the best non-negative sum of the two, of which the
//! flux is kept. It is the surveys' galaxy photometry: Lupton et al. 2001 (ASP Conf. Ser. 238, 269), Abazajian et al. 2004 (AJ
//! 128, 502, section 4.2), Bosch et al. 2018 (PASJ 70, S5, section 4.9.9). The exponential has no end; the de Vaucouleurs
//! profile has SDSS's (see `profile`).
//!
//! Errors are those of the fluxes with the shapes free: to first order the flux is linear in the pixels, and its weights are
//! known, those by way of the shapes too. So they hold for correlated noise as well. What the profiles cannot be, such as
//! arms, is not part of them.

use std::ops::Range;

use crate::Result;
use crate::forward::Psf;

mod fit;
mod profile;
mod render;
#[cfg(test)]
mod tests;

use fit::{Fit, Pixels, Problem};
use profile::Profile;
pub use profile::Shape;
use render::Renderer;

const PROFILES: [Profile; 2] = [Profile::Exponential, Profile::DeVaucouleurs];
/// Pixels beyond this many on a side, about the target, are left out: they hold little, and take long.
const LARGEST_STAMP: usize = 160;
/// Two profiles are one where so small a part of them differs: a point source has no shape.
const DISTINCT: f64 = 1e-8;

/// One band. All slices are of `rows x columns` pixels.
#[derive(Clone, Copy, Debug)]
pub struct Band<'a> {
    /// Values, sky and all, and the level of that sky: nJy per pixel.
    pub values: &'a [f32],
    pub sky: f64,
    /// Variance of the noise.
    pub variance: &'a [f32],
    /// Pixels that count.
    pub counts: &'a [bool],
    /// The PSF with pixels of pitch 1.
    pub psf: &'a Psf,
    /// Autocovariance of the sky noise: largest lag L and `(2 L + 1)^2` values, which the variance holds; `None` where all
    /// noise is independent.
    pub correlated: Option<(usize, &'a [f64])>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Photometry {
    /// Flux in each band and its standard deviation, nJy.
    pub flux: Vec<f64>,
    pub error: Vec<f64>,
    /// Shapes of the exponential and the de Vaucouleurs profile, in the pixels of the stamp.
    pub shapes: [Shape; 2],
}

/// Measures bands of `shape` pixels (rows, columns), with the shapes of the band `reference`; `target` is (x, y). A fit that
/// starts from the shapes of another one, `start`, finds the minimum next to them. `None` where a fit does not converge or the
/// reference band has no positive flux.
pub fn measure(
    bands: &[Band],
    reference: usize,
    shape: [usize; 2],
    target: [f64; 2],
    start: Option<[Shape; 2]>,
) -> Result<Option<Photometry>> {
    let stamp = Stamp::new(shape, target);
    let target = [target[0] - stamp.columns.start as f64, target[1] - stamp.rows.start as f64];
    let prepared: Vec<Prepared> = bands.iter().map(|band| Prepared::new(band, &stamp)).collect();
    let own = &prepared[reference];
    let width = bands[reference].psf.fwhm();
    let mut fits = Vec::new();
    for (index, profile) in PROFILES.into_iter().enumerate() {
        let problem = Problem { profile, renderer: &own.renderer, pixels: &own.pixels, target, width };
        match problem.solve(start.map(|shapes| shapes[index]))? {
            Some(fit) => fits.push(fit),
            None => return Ok(None),
        }
    }
    let shapes = [fits[0].shape, fits[1].shape];
    let main = own.combine(&shapes)?;
    let (mut flux, mut error) = (Vec::new(), Vec::new());
    for (index, band) in prepared.iter().enumerate() {
        let own_band = index == reference;
        let sum = band.combine(&shapes)?;
        // Where nothing of a band is positive, the error is that of the reference band's mixture.
        let parts = if sum.parts == [0.0; 2] { main.parts } else { sum.parts };
        let (mut direct, by_shapes) = band.responses(&sum, parts, &fits, own)?;
        let variance = if own_band {
            direct.iter_mut().zip(by_shapes).for_each(|(direct, other)| *direct += other);
            band.noise.variance(&direct)
        } else {
            band.noise.variance(&direct) + own.noise.variance(&by_shapes)
        };
        flux.push(sum.parts.iter().sum());
        error.push(variance.sqrt());
    }
    let known = flux.iter().chain(&error).all(|value: &f64| value.is_finite());
    Ok(known.then_some(Photometry { flux, error, shapes }))
}

/// The part of the pixels that is looked at.
struct Stamp {
    rows: Range<usize>,
    columns: Range<usize>,
    width: usize,
}

impl Stamp {
    fn new([rows, columns]: [usize; 2], target: [f64; 2]) -> Stamp {
        let range = |side: usize, centre: f64| {
            let length = side.min(LARGEST_STAMP);
            let first = (centre - 0.5 * length as f64).round().clamp(0.0, (side - length) as f64) as usize;
            first..first + length
        };
        Stamp { rows: range(rows, target[1]), columns: range(columns, target[0]), width: columns }
    }

    fn shape(&self) -> [usize; 2] {
        [self.rows.len(), self.columns.len()]
    }

    fn cut<T: Copy>(&self, plane: &[T]) -> Vec<T> {
        let row = |row: usize| &plane[row * self.width + self.columns.start..row * self.width + self.columns.end];
        self.rows.clone().flat_map(row).copied().collect()
    }
}

/// The two profiles in a band: images of unit flux and their derivatives, and the flux in each.
struct Sum {
    images: Vec<Vec<Vec<f64>>>,
    parts: [f64; 2],
}

/// A band's stamp.
struct Prepared {
    renderer: Renderer,
    pixels: Pixels,
    noise: Noise,
}

impl Prepared {
    fn new(band: &Band, stamp: &Stamp) -> Prepared {
        let (variance, counts) = (stamp.cut(band.variance), stamp.cut(band.counts));
        let at = |values: Vec<f64>| values.into_iter().zip(&counts).map(|(value, on)| if *on { value } else { 0.0 });
        let values = stamp.cut(band.values).into_iter().map(|value| f64::from(value) - band.sky).collect();
        let weights = variance.iter().map(|value| 1.0 / f64::from(*value)).collect();
        let (lag, autocovariance) = band.correlated.map_or((0, vec![0.0]), |(lag, values)| (lag, values.to_vec()));
        let shared = autocovariance[autocovariance.len() / 2];
        // The model's own noise, and what the edge adds, is independent.
        let own = variance.iter().map(|value| (f64::from(*value) - shared).max(0.0)).collect();
        Prepared {
            renderer: Renderer::new(band.psf, stamp.shape()),
            pixels: Pixels { values: at(values).collect(), weights: at(weights).collect() },
            noise: Noise { shape: stamp.shape(), own, lag, autocovariance },
        }
    }

    /// The best non-negative sum of the two profiles.
    fn combine(&self, shapes: &[Shape; 2]) -> Result<Sum> {
        let images = [0, 1].map(|index| self.renderer.with_derivatives(PROFILES[index], &shapes[index]));
        let images: Vec<Vec<Vec<f64>>> = images.into_iter().collect::<Result<_>>()?;
        let product = |left: usize, right: usize| self.pixels.product(&images[left][0], &images[right][0]);
        let [own, cross, other] = [product(0, 0), product(0, 1), product(1, 1)];
        let [first, second] = [0, 1].map(|index| self.pixels.product(&images[index][0], &self.pixels.values));
        let determinant = own * other - cross * cross;
        let both = [(first * other - second * cross) / determinant, (second * own - first * cross) / determinant];
        let distinct = determinant > DISTINCT * own * other;
        let parts = if distinct && both.iter().all(|part| *part >= 0.0) {
            both
        } else if first.max(0.0).powi(2) / own >= second.max(0.0).powi(2) / other {
            [first.max(0.0) / own, 0.0]
        } else {
            [0.0, second.max(0.0) / other]
        };
        Ok(Sum { images, parts })
    }

    /// The change of the flux of `sum` with each pixel's value: of this band, and by way of the shapes, which `fits` found in
    /// the band `reference`. `parts` tells which profiles are in the sum.
    fn responses(
        &self,
        sum: &Sum,
        parts: [f64; 2],
        fits: &[Fit],
        reference: &Prepared,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let used: Vec<usize> = (0..2).filter(|&index| parts[index] > 0.0).collect();
        let product = |left: usize, right: usize| self.pixels.product(&sum.images[left][0], &sum.images[right][0]);
        // The normal matrix's inverse, summed over its rows.
        let sums: Vec<f64> = match used[..] {
            [only] => vec![1.0 / product(only, only)],
            _ => {
                let [own, cross, other] = [product(0, 0), product(0, 1), product(1, 1)];
                [other - cross, own - cross].map(|value| value / (own * other - cross * cross)).to_vec()
            }
        };
        let direct: Vec<f64> = (0..self.pixels.weights.len())
            .map(|pixel| {
                let value: f64 = used.iter().zip(&sums).map(|(&index, by)| by * sum.images[index][0][pixel]).sum();
                self.pixels.weights[pixel] * value
            })
            .collect();
        let mut by_shapes = vec![0.0; direct.len()];
        for &index in &used {
            let change = |parameter: usize| {
                let image = &sum.images[index][1 + parameter];
                -sum.parts[index] * direct.iter().zip(image).map(|(by, value)| by * value).sum::<f64>()
            };
            let response = fits[index].response(&reference.pixels, std::array::from_fn(change));
            by_shapes.iter_mut().zip(response).for_each(|(total, value)| *total += value);
        }
        Ok((direct, by_shapes))
    }
}

/// The noise of a stamp: independent, and of the sky.
struct Noise {
    shape: [usize; 2],
    own: Vec<f64>,
    lag: usize,
    autocovariance: Vec<f64>,
}

impl Noise {
    /// Variance of the sum of the pixels with these weights.
    fn variance(&self, weights: &[f64]) -> f64 {
        let independent: f64 = weights.iter().zip(&self.own).map(|(weight, own)| weight * weight * own).sum();
        let ([rows, columns], lag) = (self.shape, self.lag);
        let mut shared = 0.0;
        for dy in 0..=lag.min(rows - 1) {
            for dx in 0..=2 * lag {
                let covariance = self.autocovariance[(lag + dy) * (2 * lag + 1) + dx];
                // Lags come in pairs: the upper half stands for the lower one.
                let twice = if dy > 0 || dx > lag { 2.0 } else { 1.0 };
                if covariance == 0.0 || (dy == 0 && dx < lag) {
                    continue;
                }
                let (left, right) = (lag.saturating_sub(dx), dx.saturating_sub(lag));
                if left.max(right) >= columns {
                    continue;
                }
                for row in 0..rows - dy {
                    let here = &weights[row * columns + left..(row + 1) * columns - right];
                    let there = &weights[(row + dy) * columns + right..(row + dy + 1) * columns - left];
                    let pairs: f64 = here.iter().zip(there).map(|(here, there)| here * there).sum();
                    shared += twice * covariance * pairs;
                }
            }
        }
        independent + shared
    }
}
