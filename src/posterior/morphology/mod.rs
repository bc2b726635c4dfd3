//! Morphology of one noise-free galaxy image: sizes, concentration, asymmetry, Gini, M20, shape and colour gradient.
//! The same code measures posterior and interim-prior draws, so that populations can be reweighted.
//!
//! Definitions follow Conselice (2003, ApJS 147, 1) for C and A, Lotz et al. (2004, AJ 128, 163) for Gini, M20 and the
//! Petrosian segmentation, and Bernstein & Jarvis (2002, AJ 123, 583) for adaptive moments. Draws have no noise and no
//! background, so none is subtracted. Shapes are of the deconvolved draw under the prior: not for lensing.

mod light;
mod shape;
mod structure;

use light::{Growth, Plane};
use shape::adaptive_moments;
use structure::{REACH, asymmetry, colour_gradient, gini_m20};

use crate::{Error, Result};

/// Measures an image `[C, n, n]` of flux per pixel (nJy). `pixel_kpc` is the pitch; sizes and shapes are measured in
/// band `reference`. Returns (name, value) pairs in a fixed order: `flux_0` ... `flux_{C-1}` (the units of the image),
/// `r20`, `r50`, `r80` (kpc), `concentration`, `asymmetry`, `gini`, `m20`, `e1`, `e2`, `position_angle` (degrees),
/// `colour_gradient` (magnitudes). What cannot be measured (no flux) is NaN.
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
    let mut out: Vec<(String, f32)> =
        planes.iter().enumerate().map(|(band, plane)| (format!("flux_{band}"), plane.total() as f32)).collect();
    let galaxy = &planes[reference];
    let measured = measure(galaxy, &planes).unwrap_or([f64::NAN; 11]);
    for ((name, scale), value) in NAMES.iter().zip(measured) {
        let unit = if *scale { pixel_kpc } else { 1.0 };
        out.push((name.to_string(), (value * unit) as f32));
    }
    Ok(out)
}

/// The names of what `morphology` returns, in order.
pub fn names(bands: usize) -> Vec<String> {
    let fluxes = (0..bands).map(|band| format!("flux_{band}"));
    fluxes.chain(NAMES.iter().map(|(name, _)| name.to_string())).collect()
}

/// Names after the fluxes, and whether the value is a length.
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

fn measure(galaxy: &Plane, planes: &[Plane]) -> Option<[f64; 11]> {
    if !(galaxy.total() > 0.0) {
        return None;
    }
    let moments = adaptive_moments(galaxy);
    let centre = moments.map_or_else(|| galaxy.centroid(), |moments| moments.centre);
    let growth = Growth::of(galaxy, centre);
    let radius = |part: f64| growth.radius(part).unwrap_or(f64::NAN);
    let (r20, r50, r80) = (radius(0.2), radius(0.5), radius(0.8));
    // Without a Petrosian radius inside the field (a flat or negative profile) the field itself is the limit.
    let petrosian = growth.petrosian().unwrap_or(galaxy.size as f64 / 2.0 / REACH);
    let (gini, m20) = gini_m20(galaxy, centre, petrosian, growth.brightness(petrosian));
    let (e1, e2, angle) = moments.map_or((f64::NAN, f64::NAN, f64::NAN), |moments| moments.shape());
    let asymmetry = asymmetry(galaxy, centre, REACH * petrosian);
    let gradient = match planes {
        [first, .., last] => colour_gradient(first, last, centre, r50),
        _ => f64::NAN,
    };
    Some([r20, r50, r80, 5.0 * (r80 / r20).log10(), asymmetry, gini, m20, e1, e2, angle, gradient])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 64;

    /// A galaxy with surface brightness `profile(elliptical radius)`, integrated over pixels; axis ratio `q`, major axis at
    /// `angle` degrees, centre (x, y).
    fn galaxy(size: usize, centre: (f64, f64), q: f64, angle: f64, profile: impl Fn(f64) -> f64) -> Vec<f32> {
        const PARTS: usize = 9;
        let (sine, cosine) = angle.to_radians().sin_cos();
        let mut image = vec![0.0f32; size * size];
        for (index, pixel) in image.iter_mut().enumerate() {
            let mut sum = 0.0;
            for part in 0..PARTS * PARTS {
                let offset = |part: usize| (part as f64 + 0.5) / PARTS as f64 - 0.5;
                let x = (index % size) as f64 + offset(part % PARTS) - centre.0;
                let y = (index / size) as f64 + offset(part / PARTS) - centre.1;
                let (u, v) = (x * cosine + y * sine, (-x * sine + y * cosine) / q);
                sum += profile(u.hypot(v));
            }
            *pixel = (sum / (PARTS * PARTS) as f64) as f32;
        }
        image
    }

    fn exponential(scale: f64) -> impl Fn(f64) -> f64 {
        move |radius| (-radius / scale).exp()
    }

    fn measured(image: &[f32], bands: usize, name: &str) -> f64 {
        let values = morphology(image, bands, 1.0, 0).unwrap();
        f64::from(values.iter().find(|(key, _)| key == name).unwrap().1)
    }

    fn close(found: f64, want: f64, tolerance: f64) {
        assert!((found - want).abs() < tolerance, "{found} is not {want} to {tolerance}");
    }

    /// An exponential disc of scale h: r50 = 1.6783 h, r20 = 0.8244 h, r80 = 2.9943 h. The pixel adds a little to r20.
    #[test]
    fn sizes_of_an_exponential_disc() {
        let scale = 4.0;
        let image = galaxy(SIZE, (31.3, 31.8), 1.0, 0.0, exponential(scale));
        close(measured(&image, 1, "r50"), 1.6783 * scale, 0.01 * scale);
        close(measured(&image, 1, "r20"), 0.8244 * scale, 0.015 * scale);
        close(measured(&image, 1, "r80"), 2.9943 * scale, 0.02 * scale);
        close(measured(&image, 1, "concentration"), 5.0 * (2.9943f64 / 0.8244).log10(), 0.03);
        // 2 pi h^2, all but what is outside the field.
        close(measured(&image, 1, "flux_0") / (std::f64::consts::TAU * scale * scale), 1.0, 0.005);
        // Lengths are in kpc, that is, in units of the pitch.
        let values = morphology(&image, 1, 0.4, 0).unwrap();
        close(f64::from(values[2].1), 0.4 * 1.6783 * scale, 0.01 * scale);
    }

    /// C = 5.2 for a de Vaucouleurs profile, 2.8 for an exponential disc (Conselice 2003 gives 5.2 for the infinite
    /// profile); the field cuts the wings of the former, which lowers it.
    #[test]
    fn early_types_are_more_concentrated() {
        let re = 4.0;
        let size = 128;
        let vaucouleurs =
            galaxy(size, (63.5, 63.5), 1.0, 0.0, |radius| (-7.669 * ((radius / re).powf(0.25) - 1.0)).exp());
        // The same integrals by radius, inside the same square field: the reference has the pixels' own resolution only.
        let early = measured(&vaucouleurs, 1, "concentration");
        assert!((4.3..5.3).contains(&early), "{early}");
        let late = measured(&galaxy(SIZE, (31.5, 31.5), 1.0, 0.0, exponential(4.0)), 1, "concentration");
        close(late, 2.80, 0.03);
    }

    #[test]
    fn shapes_of_an_elliptical_gaussian() {
        for (q, angle) in [(0.5, 0.0), (0.5, 30.0), (0.7, 90.0), (0.8, -60.0)] {
            let image = galaxy(SIZE, (32.4, 30.7), q, angle, |radius| (-0.5 * (radius / 5.0).powi(2)).exp());
            // Distortion (1 - q^2) / (1 + q^2); the pixel's own second moment (1/12) makes it a little rounder.
            let (major, minor) = (25.0 + 1.0 / 12.0, 25.0 * q * q + 1.0 / 12.0);
            let distortion = (major - minor) / (major + minor);
            let (sine, cosine) = (2.0 * f64::to_radians(angle)).sin_cos();
            close(measured(&image, 1, "e1"), distortion * cosine, 2e-3);
            close(measured(&image, 1, "e2"), distortion * sine, 2e-3);
            let turn = (measured(&image, 1, "position_angle") - angle + 90.0).rem_euclid(180.0) - 90.0;
            close(turn, 0.0, 0.2);
        }
    }

    #[test]
    fn symmetric_galaxies_have_no_asymmetry_and_lopsided_ones_do() {
        // A point-symmetric galaxy with its centre anywhere in a pixel; what is left is the steps of the walk.
        for centre in [(31.5, 31.5), (31.0, 32.0), (31.23, 31.81)] {
            let image = galaxy(SIZE, centre, 0.6, 40.0, exponential(4.0));
            let found = measured(&image, 1, "asymmetry");
            assert!(found < 0.01, "{found} at {centre:?}");
        }
        let mut lopsided = galaxy(SIZE, (31.5, 31.5), 1.0, 0.0, exponential(4.0));
        let companion = galaxy(SIZE, (40.0, 31.5), 1.0, 0.0, exponential(1.5));
        lopsided.iter_mut().zip(&companion).for_each(|(pixel, other)| *pixel += other);
        assert!(measured(&lopsided, 1, "asymmetry") > 0.1);
    }

    #[test]
    fn gini_and_m20_order_galaxies_as_they_should() {
        let disc = galaxy(SIZE, (31.5, 31.5), 1.0, 0.0, exponential(4.0));
        let early = galaxy(SIZE, (31.5, 31.5), 1.0, 0.0, |radius| (-7.669 * ((radius / 4.0).powf(0.25) - 1.0)).exp());
        // All flux evenly spread: nothing is concentrated.
        let flat = galaxy(SIZE, (31.5, 31.5), 1.0, 0.0, |radius| f64::from(u8::from(radius < 12.0)));
        let gini = |image: &[f32]| measured(image, 1, "gini");
        assert!(gini(&early) > gini(&disc) && gini(&disc) > gini(&flat) + 0.2);
        assert!(gini(&flat) < 0.1);
        // Two equal clumps far apart have most of their second moment in their brightest pixels.
        let mut pair = galaxy(SIZE, (22.0, 31.5), 1.0, 0.0, exponential(1.5));
        let other = galaxy(SIZE, (41.0, 31.5), 1.0, 0.0, exponential(1.5));
        pair.iter_mut().zip(&other).for_each(|(pixel, other)| *pixel += other);
        assert!(measured(&pair, 1, "m20") > measured(&disc, 1, "m20") + 0.5);
        assert!((-2.5..-1.0).contains(&measured(&disc, 1, "m20")));
    }

    #[test]
    fn a_red_core_has_a_negative_colour_gradient() {
        // First band (blue) a larger disc than the last (red): bluer outside, so the colour first - last falls outwards.
        let mut image = galaxy(SIZE, (31.5, 31.5), 1.0, 0.0, exponential(5.0));
        image.extend(galaxy(SIZE, (31.5, 31.5), 1.0, 0.0, exponential(4.0)));
        assert!(measured(&image, 2, "colour_gradient") < -0.1);
        let half = image.len() / 2;
        image.copy_within(..half, half);
        close(measured(&image, 2, "colour_gradient"), 0.0, 1e-6);
    }

    #[test]
    fn images_without_flux_give_nan_and_wrong_shapes_are_errors() {
        let values = morphology(&[0.0; 3 * 64], 3, 1.0, 1).unwrap();
        assert_eq!(values.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names(3));
        assert!(
            values[..3].iter().all(|(_, value)| *value == 0.0) && values[3..].iter().all(|(_, value)| value.is_nan())
        );
        assert!(morphology(&[0.0; 10], 3, 1.0, 1).is_err());
        assert!(morphology(&[0.0; 12], 3, 1.0, 3).is_err());
        // A single bright pixel, noise and negative values must not panic.
        let mut odd = vec![0.0; 64];
        odd[0] = 1.0;
        morphology(&odd, 1, 1.0, 0).unwrap();
        let noise = crate::random::Key::new(1, "odd", 0, crate::random::Purpose::Evaluation, 0).normal(3 * 64 * 64);
        morphology(&noise, 3, 1.0, 1).unwrap();
        morphology(&[1.0], 1, 1.0, 0).unwrap();
    }

    /// The fastest of many, bounded loosely: the machine may be busy. The aim is below 1 ms at 64 x 64.
    #[test]
    fn it_is_fast() {
        let mut image = galaxy(SIZE, (31.3, 31.8), 0.6, 20.0, exponential(5.0));
        image.extend(image.clone());
        image.extend(image[..SIZE * SIZE].to_vec());
        let time = || {
            let start = std::time::Instant::now();
            morphology(&image, 3, 0.4, 1).unwrap();
            start.elapsed()
        };
        let each = (0..50).map(|_| time()).min().unwrap();
        println!("morphology of 64 x 64 x 3: {each:?}");
        assert!(each.as_millis() < 10, "{each:?}");
    }
}
