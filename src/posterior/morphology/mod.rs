//! Measurements of one noise-free galaxy image: fluxes, magnitudes, colours, sizes, concentration, asymmetry, Gini, M20,
//! shape and colour gradient. The same code measures posterior and interim-prior draws, so that populations can be
//! reweighted.
//!
//! Definitions are those of statmorph (Rodriguez-Gomez et al. 2019, MNRAS 483, 4140), after Conselice (2003, ApJS 147, 1)
//! for C and A and Lotz et al. (2004, AJ 128, 163) for Gini and M20; a test compares with it. What differs: images have no
//! noise and no background, so none is subtracted; both the image and the turned image are interpolated for A; and the
//! ellipse is that of adaptive moments (Bernstein & Jarvis 2002, AJ 123, 583), which need no segmentation map. Shapes are
//! of the deconvolved draw under the prior: not for lensing.

mod light;
mod segment;
mod shape;
mod structure;

use light::{Ellipse, Growth, Plane};
use segment::segment;
use shape::adaptive_moments;
use structure::{REACH, asymmetry, colour_gradient, gini, m20};

use crate::{Error, Result};

/// AB magnitude of 1 nJy.
pub const ZERO_POINT_NJY: f64 = 31.4;
/// Radii of the fixed apertures, kpc, by the name of their quantity.
pub const APERTURES: [(&str, f64); 3] = [("flux_3kpc", 3.0), ("flux_10kpc", 10.0), ("flux_20kpc", 20.0)];

/// Measures an image `[C, n, n]` of flux per pixel (nJy). `pixel_kpc` is the pitch; sizes and shapes are measured in
/// band `reference`. Returns (name, value) pairs in the order of `names`: `flux_0` ... `flux_{C-1}` (the units of the
/// image), `magnitude_*` (AB, where the units are nJy), `colour_0` ... `colour_{C-2}` (each band minus the next, AB
/// magnitudes), `flux_3kpc_*` and so on (within circles of that radius), `r20`, `r50`, `r80` (kpc), `concentration`,
/// `asymmetry`, `gini`, `m20`, `e1`, `e2`, `position_angle` (degrees), `colour_gradient` (magnitudes). What cannot be
/// measured (no flux, a circle that leaves the field) is NaN.
///
/// Errors: an image that is not of C square bands; a reference band that it does not have.
pub fn morphology(image: &[f32], bands: usize, pixel_kpc: f64, reference: usize) -> Result<Vec<(String, f32)>> {
    let size = ((image.len() / bands.max(1)) as f64).sqrt().round() as usize;
    if bands == 0 || size == 0 || image.len() != bands * size * size || reference >= bands {
        let length = image.len();
        return Err(Error::internal(format!("morphology of {length} values, {bands} bands, reference {reference}")));
    }
    let planes: Vec<Plane> = image
        .chunks(size * size)
        .map(|plane| Plane { size, values: plane.iter().map(|&value| f64::from(value)).collect() })
        .collect();
    let fluxes: Vec<f64> = planes.iter().map(Plane::total).collect();
    let magnitudes: Vec<f64> = fluxes.iter().map(|&flux| magnitude(flux)).collect();
    let mut values: Vec<f64> = fluxes.clone();
    values.extend(&magnitudes);
    values.extend(magnitudes.windows(2).map(|pair| pair[0] - pair[1]));
    let measured = measure(&planes[reference], &planes);
    for (_, radius) in APERTURES {
        let within =
            |plane: &Plane| measured.as_ref().map_or(f64::NAN, |found| plane.within(found.centre, radius / pixel_kpc));
        values.extend(planes.iter().map(within));
    }
    let numbers = measured.map_or([f64::NAN; 11], |found| found.numbers);
    values
        .extend(numbers.iter().zip(NAMES).map(|(value, (_, length))| if length { value * pixel_kpc } else { *value }));
    Ok(names(bands).into_iter().zip(values.into_iter().map(|value| value as f32)).collect())
}

/// AB magnitude of a flux in nJy; NaN where there is none.
pub fn magnitude(flux: f64) -> f64 {
    if flux > 0.0 { ZERO_POINT_NJY - 2.5 * flux.log10() } else { f64::NAN }
}

/// The names of what `morphology` returns, in order.
pub fn names(bands: usize) -> Vec<String> {
    let each = |name: &str, count: usize| (0..count).map(|band| format!("{name}_{band}")).collect::<Vec<_>>();
    let mut names = [each("flux", bands), each("magnitude", bands), each("colour", bands.saturating_sub(1))].concat();
    names.extend(APERTURES.iter().flat_map(|(name, _)| each(name, bands)));
    names.extend(NAMES.iter().map(|(name, _)| name.to_string()));
    names
}

/// Names after those of each band, and whether the value is a length.
const NAMES: [(&str, bool); 11] = [
    ("r20", true),
    ("r50", true),
    ("r80", true),
    ("concentration", false),
    ("asymmetry", false),
    ("gini", false),
    ("m20", false),
    ("e1", false),
    ("e2", false),
    ("position_angle", false),
    ("colour_gradient", false),
];

/// What is measured of a galaxy that has light: the numbers of `NAMES`, lengths in pixels.
struct Measured {
    centre: (f64, f64),
    numbers: [f64; 11],
}

fn measure(galaxy: &Plane, planes: &[Plane]) -> Option<Measured> {
    let total = galaxy.total();
    if total.is_nan() || total <= 0.0 {
        return None;
    }
    let moments = adaptive_moments(galaxy);
    let start = moments.map_or_else(|| galaxy.centroid(), |moments| moments.centre);
    // Without a Petrosian radius inside the field (a flat or negative profile) the field itself is the limit.
    let petrosian = |growth: &Growth| growth.petrosian().unwrap_or(galaxy.size as f64 / 2.0 / REACH);
    let (asymmetry, centre) = asymmetry(galaxy, start, REACH * petrosian(&Growth::of(galaxy, start, Ellipse::CIRCLE)));
    let growth = Growth::of(galaxy, centre, Ellipse::CIRCLE);
    let light = growth.within(REACH * petrosian(&growth));
    let radius = |part: f64| growth.radius(part * light).unwrap_or(f64::NAN);
    let (r20, r50, r80) = (radius(0.2), radius(0.5), radius(0.8));
    let ellipse = moments.map_or(Ellipse::CIRCLE, |moments| moments.ellipse());
    let along = petrosian(&Growth::of(galaxy, centre, ellipse));
    let pixels = segment(galaxy, start, ellipse, along);
    let (e1, e2, angle) = moments.map_or((f64::NAN, f64::NAN, f64::NAN), |moments| moments.shape());
    let gradient = match planes {
        [first, .., last] => colour_gradient(first, last, centre, r50),
        _ => f64::NAN,
    };
    let concentration = 5.0 * (r80 / r20).log10();
    let numbers = [r20, r50, r80, concentration, asymmetry, gini(&pixels), m20(&pixels), e1, e2, angle, gradient];
    Some(Measured { centre, numbers })
}

#[cfg(test)]
mod tests;
