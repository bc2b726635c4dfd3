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

/// An exponential disc of scale h has its Petrosian radius (eta = 0.2) at 3.6224 h; within 1.5 of these lies 0.97190 of
/// its flux, and r20, r50, r80 of that are 0.80882, 1.63390, 2.85135 h. The pixel adds a little to r20.
#[test]
fn sizes_of_an_exponential_disc() {
    let scale = 4.0;
    let image = galaxy(SIZE, (31.3, 31.8), 1.0, 0.0, exponential(scale));
    close(measured(&image, 1, "r20"), 0.80882 * scale, 0.015 * scale);
    close(measured(&image, 1, "r50"), 1.63390 * scale, 0.01 * scale);
    close(measured(&image, 1, "r80"), 2.85135 * scale, 0.02 * scale);
    close(measured(&image, 1, "concentration"), 5.0 * (2.85135f64 / 0.80882).log10(), 0.03);
    // 2 pi h^2, all but what is outside the field.
    close(measured(&image, 1, "flux_0") / (std::f64::consts::TAU * scale * scale), 1.0, 0.005);
    // Lengths are in kpc, that is, in units of the pitch.
    let values = morphology(&image, 1, 0.4, 0).unwrap();
    let r50 = values.iter().find(|(name, _)| name == "r50").unwrap().1;
    close(f64::from(r50), 0.4 * 1.63390 * scale, 0.01 * scale);
}

/// Fluxes within circles, magnitudes and colours of a disc that is twice as bright in the second band.
#[test]
fn apertures_magnitudes_and_colours() {
    let scale = 4.0;
    let disc = galaxy(SIZE, (31.3, 31.8), 1.0, 0.0, exponential(scale));
    let image: Vec<f32> = disc.iter().copied().chain(disc.iter().map(|value| 2.0 * value)).collect();
    let values = morphology(&image, 2, 1.0, 0).unwrap();
    let get = |name: &str| f64::from(values.iter().find(|(key, _)| key == name).unwrap().1);
    for (name, radius) in APERTURES {
        let x = radius / scale;
        let expected = std::f64::consts::TAU * scale * scale * (1.0 - (1.0 + x) * (-x).exp());
        // The steps of the rings at the edge of a small circle.
        close(get(&format!("{name}_0")) / expected, 1.0, 0.01);
        close(get(&format!("{name}_1")) / get(&format!("{name}_0")), 2.0, 1e-5);
    }
    close(get("magnitude_0"), 31.4 - 2.5 * get("flux_0").log10(), 1e-5);
    close(get("colour_0"), 2.5 * 2f64.log10(), 1e-5);
    // A circle that leaves the field holds an unknown flux: 20 kpc are 40 pixels here.
    let small = morphology(&image, 2, 0.5, 0).unwrap();
    let in_20 = small.iter().find(|(name, _)| name == "flux_20kpc_0").unwrap().1;
    assert!(in_20.is_nan(), "{in_20}");
}

/// C = 5.2 for an infinite de Vaucouleurs profile, 2.8 for an exponential disc; light beyond 1.5 Petrosian radii does not
/// count, and the field cuts the wings, which lowers both.
#[test]
fn early_types_are_more_concentrated() {
    let re = 4.0;
    let size = 128;
    let vaucouleurs = galaxy(size, (63.5, 63.5), 1.0, 0.0, |radius| (-7.669 * ((radius / re).powf(0.25) - 1.0)).exp());
    // The same integrals by radius, inside the same square field: the reference has the pixels' own resolution only.
    let early = measured(&vaucouleurs, 1, "concentration");
    assert!((3.9..5.0).contains(&early), "{early}");
    let late = measured(&galaxy(SIZE, (31.5, 31.5), 1.0, 0.0, exponential(4.0)), 1, "concentration");
    close(late, 2.736, 0.03);
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
    assert!(values[..3].iter().all(|(_, value)| *value == 0.0) && values[3..].iter().all(|(_, value)| value.is_nan()));
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
