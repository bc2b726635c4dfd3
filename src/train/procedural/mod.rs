//! Procedurally drawn galaxies: three-band images of known size in kpc, a pure function of (seed, index).
//!
//! The population is a broad demonstration population, not a census: discs with bulges, bars, arms, rings, knots and
//! dust; spheroids; irregulars; clumpy and interacting systems; a companion now and then. Sizes, bulge fractions and
//! colours follow the ranges of nearby and intermediate-redshift galaxies (e.g. Shen et al. 2003, MNRAS 343, 978).

use serde::{Deserialize, Serialize};

use super::stream::Stream;
use crate::random::Purpose;

pub mod canvas;
mod components;
mod kinds;
mod palette;
mod texture;

pub use canvas::{BLUR_FWHM_PIXELS, Canvas, Grid};
pub use palette::{Colour, Palette, Shift};

/// What a galaxy is, before details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Spiral,
    Lenticular,
    Elliptical,
    Irregular,
    Clumpy,
    Merger,
}

/// How often each kind is drawn, the median of its half-light radius (kpc) and the scatter of its logarithm.
const KINDS: [(Kind, f64, f64, f64); 6] = [
    (Kind::Spiral, 0.45, 5.2, 0.42),
    (Kind::Lenticular, 0.12, 3.8, 0.45),
    (Kind::Elliptical, 0.14, 3.2, 0.55),
    (Kind::Irregular, 0.12, 3.2, 0.45),
    (Kind::Clumpy, 0.09, 3.4, 0.40),
    (Kind::Merger, 0.08, 5.0, 0.40),
];
/// Half-light radii that are drawn, kpc.
const R50_RANGE: [f64; 2] = [0.8, 12.0];
/// How often something else is in the field.
const COMPANION_PROBABILITY: f64 = 0.13;

/// What is known of a drawn galaxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    pub kind: Kind,
    /// Half-light radius that the components were scaled to, kpc.
    pub size_kpc: f64,
    /// Position of the nucleus, pixels from the centre of the grid ((n-1)/2, (n-1)/2).
    pub offset: [f64; 2],
    /// Apparent axis ratio of the main component and its position angle (radians from the x axis).
    pub axis_ratio: f64,
    pub position_angle: f64,
    /// Share of the reference flux in the spheroid.
    pub bulge_fraction: f64,
    pub barred: bool,
    /// Spiral arms; 0 for none.
    pub arms: u32,
    /// Pitch angle of the arms, radians.
    pub pitch: f64,
    pub companions: u32,
    /// Half-light radius in the reference band, kpc, measured on the image around the nucleus.
    pub r50_kpc: f64,
    /// Flux per band in the field, in units of the reference band's.
    pub flux: Vec<f64>,
}

/// A drawn galaxy.
#[derive(Clone, Debug)]
pub struct Galaxy {
    pub truth: Truth,
    /// Flux per pixel `[C, n, n]`; the reference band sums to one over the field.
    pub image: Vec<f32>,
}

/// Draws galaxy `index` of the sequence `seed` on `grid` (which has been checked).
pub fn draw(seed: u64, index: u64, grid: &Grid) -> Galaxy {
    let mut stream = Stream::new(seed, "galaxy", index, Purpose::Galaxy);
    let weights = KINDS.map(|(_, weight, _, _)| weight);
    let (kind, _, median, scatter) = KINDS[stream.choice(&weights)];
    let size_kpc = stream.log_normal(median, scatter).clamp(R50_RANGE[0], R50_RANGE[1]);
    let offset = [stream.range(-0.5, 0.5), stream.range(-0.5, 0.5)];
    let palette = Palette::draw(kind, &mut stream);
    let mut truth = Truth {
        kind,
        size_kpc,
        offset,
        axis_ratio: 1.0,
        position_angle: stream.range(0.0, std::f64::consts::PI),
        bulge_fraction: 0.0,
        barred: false,
        arms: 0,
        pitch: 0.0,
        companions: 0,
        r50_kpc: 0.0,
        flux: Vec::new(),
    };
    let mut canvas = Canvas::new(grid);
    let mut painter = kinds::Painter {
        canvas: &mut canvas,
        bands: &grid.bands,
        extinction: palette::extinction(&grid.bands),
        palette,
        stream: &mut stream,
        centre: [(offset[0] * grid.pixel_kpc) as f32, (offset[1] * grid.pixel_kpc) as f32],
    };
    painter.paint(&mut truth);
    if painter.stream.chance(COMPANION_PROBABILITY) {
        truth.companions = 1 + u32::from(painter.stream.chance(0.2));
        for _ in 0..truth.companions {
            painter.companion(size_kpc);
        }
    }
    let mut image = canvas.reduce(BLUR_FWHM_PIXELS);
    normalise(&mut image, grid);
    let area = grid.size * grid.size;
    truth.flux = image.chunks_exact(area).map(|plane| plane.iter().map(|&v| f64::from(v)).sum()).collect();
    truth.r50_kpc = half_light_radius(&image[grid.reference * area..][..area], grid.size, offset) * grid.pixel_kpc;
    Galaxy { truth, image }
}

/// Scales all bands together so that the reference band sums to one; false when it holds no flux.
pub fn normalise(image: &mut [f32], grid: &Grid) -> bool {
    let area = grid.size * grid.size;
    let sum: f64 = image[grid.reference * area..][..area].iter().map(|&v| f64::from(v)).sum();
    if !(sum > 0.0 && sum.is_finite()) {
        return false;
    }
    image.iter_mut().for_each(|value| *value = (f64::from(*value) / sum) as f32);
    true
}

/// Radius (pixels) of the circle around the centre plus `offset` that holds half of the plane's light.
pub fn half_light_radius(plane: &[f32], size: usize, offset: [f64; 2]) -> f64 {
    let middle = (size as f64 - 1.0) / 2.0;
    let mut pixels: Vec<(f64, f64)> = plane
        .iter()
        .enumerate()
        .map(|(at, &value)| {
            let (x, y) = ((at % size) as f64 - middle - offset[0], (at / size) as f64 - middle - offset[1]);
            (x.hypot(y), f64::from(value))
        })
        .collect();
    pixels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = pixels.iter().map(|pixel| pixel.1).sum::<f64>() / 2.0;
    let (mut sum, mut inside) = (0.0, 0usize);
    for (radius, value) in &pixels {
        sum += value;
        inside += 1;
        if sum >= half {
            // The area of the pixels so far gives a radius that also makes sense below one pixel.
            let by_area = ((inside as f64 - 0.5 * value / value.max(1e-300)) / std::f64::consts::PI).sqrt();
            return if inside < 12 { by_area } else { *radius };
        }
    }
    0.0
}

#[cfg(test)]
mod tests;
