use std::path::{Path, PathBuf};

use super::*;
use crate::io::fits::{Keyword, NewImage, Pixels, write_images};
use crate::random::{Key, Purpose};

const SCALE: f64 = 0.168;
/// nJy per count at FLUXMAG0 = 6.3095734448e10.
const NJY: f64 = 3631e9 / 6.3095734448e10;

/// A folder with a simulated target in two bands, g and r, and its config.
struct Scene {
    folder: tempfile::TempDir,
    size: [usize; 2],
    wcs: TanWcs,
    target: Target,
}

impl Scene {
    fn new() -> Scene {
        let scale = SCALE / 3600.0;
        let wcs = TanWcs { crval: [150.0, 2.2], crpix: [400.0, -300.0], cd: [[-scale, 0.0], [0.0, scale]] };
        let [ra, dec] = wcs.pixel_to_sky([120.3, 99.6]);
        let target = Target {
            id: "42".into(),
            ra,
            dec,
            redshift: 0.3,
            redshift_error: None,
            ebv: None,
            extinction: None,
            columns: Default::default(),
            trouble: None,
        };
        let scene = Scene { folder: tempfile::tempdir().unwrap(), size: [200, 240], wcs, target };
        for band in ["g", "r"] {
            scene.write(band, &scene.counts(band), None);
            scene.write_psf(band, &gaussian_psf(), &[]);
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An exponential disc of 200 counts at the target, one neighbour, noise of 0.01 counts.
    fn counts(&self, band: &str) -> Vec<f32> {
        let [ny, nx] = self.size;
        let mut values = Key::new(1, band, 0, Purpose::ObservationNoise, 0).normal(ny * nx);
        for (index, value) in values.iter_mut().enumerate() {
            let (x, y) = ((index % nx) as f64, (index / nx) as f64);
            let disc = |x0: f64, y0: f64, total: f64, scale: f64| {
                total / (std::f64::consts::TAU * scale * scale) * (-(x - x0).hypot(y - y0) / scale).exp()
            };
            let light = disc(120.3, 99.6, 200.0, 5.0) + disc(150.0, 110.0, 50.0, 3.0);
            *value = (0.01 * f64::from(*value) + light) as f32;
        }
        values
    }

    fn image<'a>(&'a self, values: &'a [f32]) -> NewImage<'a> {
        let keywords = vec![Keyword::number("FLUXMAG0", 6.3095734448e10, "")];
        let pixels = Pixels::Floats(values);
        NewImage { name: "", shape: &self.size, pixels, wcs: Some(self.wcs), keywords }
    }

    fn write(&self, band: &str, values: &[f32], more: Option<Vec<NewImage>>) {
        let mut images = vec![self.image(values)];
        images.extend(more.unwrap_or_default());
        write_images(&self.path(&format!("42-{band}.fits")), &images).unwrap();
    }

    fn write_psf(&self, band: &str, values: &[f32], keywords: &[Keyword]) {
        let side = (values.len() as f64).sqrt() as usize;
        let pixels = Pixels::Floats(values);
        let image = NewImage { name: "", shape: &[side, side], pixels, wcs: None, keywords: keywords.to_vec() };
        write_images(&self.path(&format!("psf-{band}.fits")), &[image]).unwrap();
    }

    fn config(&self, more: &str) -> Config {
        let text = format!(
            "survey = {{ name = 't', folder = 'runs' }}\ncatalog = {{ paths = ['c.csv'] }}\nprior = {{ path = 'p' }}\n\
             [data]\nbands = ['g', 'r']\nimage = '{0}/{{id}}-{{band}}.fits'\npsf = '{0}/psf-{{band}}.fits'\n{more}",
            self.folder.path().display()
        );
        Config::parse(&text, Path::new("test.toml")).unwrap()
    }

    fn observe(&self, more: &str) -> Result<Observation> {
        observe(&self.target, &self.config(more), 12.0)
    }

    /// The reason for which the object fails.
    fn reason(&self, more: &str) -> String {
        match self.observe(more) {
            Err(Error::Object { object, what }) if object == "42" => what,
            other => panic!("expected the object's own failure, found {other:?}"),
        }
    }
}

fn gaussian_psf() -> Vec<f32> {
    (0..41 * 41)
        .map(|i| (-0.5 * (((i % 41) as f64 - 20.0).powi(2) + ((i / 41) as f64 - 20.0).powi(2)) / 3.24).exp() as f32)
        .collect()
}

#[test]
fn an_observation_is_calibrated_cut_and_masked() {
    let scene = Scene::new();
    let observation = scene.observe("").unwrap();
    // 12 arcsec are 71.4 pixels.
    assert!((71..=73).contains(&observation.shape[0]) && (71..=73).contains(&observation.shape[1]));
    // The sub-pixel position is kept, and the WCS of the cut agrees with it.
    let [x, y] = observation.target;
    assert!((x.fract() - 0.3).abs() < 1e-6 && (y.fract() - 0.6).abs() < 1e-6, "{x} {y}");
    let [u, v] = observation.wcs.sky_to_pixel([scene.target.ra, scene.target.dec]).unwrap();
    assert!((x - u).abs() < 1e-6 && (y - v).abs() < 1e-6);
    let [_, nx] = observation.shape;
    for band in &observation.bands {
        // One part in fifty: the wings of the sources.
        assert!((f64::from(band.variance[0]).sqrt() / (0.01 * NJY) - 1.0).abs() < 0.02, "{}", band.variance[0]);
        assert!((0.9..1.02).contains(&(band.flux / (200.0 * NJY))), "{}", band.flux / NJY);
        assert!(band.flux_error > 0.0 && band.flux_error < 0.02 * band.flux);
        let brightest = (0..band.image.len()).max_by(|&a, &b| band.image[a].total_cmp(&band.image[b])).unwrap();
        assert_eq!([brightest % nx, brightest / nx], [x.round() as usize, y.round() as usize]);
        assert!(band.usable[brightest]);
        let neighbour = (y - 99.6 + 110.0).round() as usize * nx + (x - 120.3 + 150.0).round() as usize;
        assert!(!band.usable[neighbour] && band.image[neighbour] > 0.0);
        assert!((band.autocovariance.at(0, 0) / f64::from(band.variance[0]) - 1.0).abs() < 1e-3);
        assert_eq!(band.psf.shape, [41, 41]);
    }
    let unmasked = scene.observe("[neighbours]\nmask = false").unwrap();
    assert!(unmasked.bands[0].usable.iter().all(|&usable| usable));
}

#[test]
fn a_section_of_a_large_coadd_is_the_cutout() {
    let small = Scene::new();
    let mut large = Scene::new();
    // The same pixels inside a larger image.
    (large.size, large.wcs.crpix) = ([900, 1100], [400.0 + 500.0, -300.0 + 300.0]);
    for band in ["g", "r"] {
        let inner = small.counts(band);
        let mut values: Vec<f32> = Key::new(2, band, 0, Purpose::ObservationNoise, 0).normal(900 * 1100);
        values.iter_mut().for_each(|value| *value *= 0.01);
        for y in 0..200 {
            values[(y + 300) * 1100 + 500..(y + 300) * 1100 + 740].copy_from_slice(&inner[y * 240..(y + 1) * 240]);
        }
        large.write(band, &values, None);
    }
    let (one, other) = (small.observe("").unwrap(), large.observe("").unwrap());
    assert_eq!(one.shape, other.shape);
    assert!((one.target[0] - other.target[0]).abs() < 1e-6 && (one.target[1] - other.target[1]).abs() < 1e-6);
    for (a, b) in one.bands.iter().zip(&other.bands) {
        // The two measure their sky over different surroundings.
        let tolerance = 0.3 * 0.01 * NJY as f32;
        assert!(a.image.iter().zip(&b.image).all(|(u, v)| (u - v).abs() < tolerance));
        assert!((a.flux / b.flux - 1.0).abs() < 0.02);
    }
}

#[test]
fn bad_pixels_have_no_weight() {
    let scene = Scene::new();
    let mut counts = scene.counts("r");
    let at = |x: usize, y: usize| y * 240 + x;
    (counts[at(100, 90)], counts[at(101, 90)]) = (f32::NAN, f32::INFINITY);
    counts[at(95, 80)] = 5000.0;
    counts[at(130, 85)] = -3.9;
    let mut bits = vec![0i32; 200 * 240];
    (bits[at(110, 120)], bits[at(112, 120)], bits[at(114, 120)]) = (1, 32, 4);
    let mask = NewImage {
        name: "MASK",
        shape: &scene.size,
        pixels: Pixels::Integers(&bits),
        wcs: None,
        keywords: vec![Keyword::integer("MP_BAD", 0, ""), Keyword::integer("MP_DETECTED", 5, "")],
    };
    scene.write("r", &counts, Some(vec![mask]));
    let usable = |more: &str, x: usize, y: usize| {
        let observation = scene.observe(more).unwrap();
        let (dx, dy) = (x as f64 - 120.3 + observation.target[0], y as f64 - 99.6 + observation.target[1]);
        let index = dy.round() as usize * observation.shape[1] + dx.round() as usize;
        let band = &observation.bands[1];
        assert!(band.image.iter().all(|value| value.is_finite()));
        assert!(band.usable[index] || band.image[index] == 0.0);
        band.usable[index]
    };
    let saturated = "saturation = 1000.0";
    for (x, y) in [(100, 90), (101, 90), (95, 80), (130, 85), (110, 120), (114, 120)] {
        assert!(!usable(saturated, x, y), "{x} {y}");
    }
    // The detection bit makes no pixel bad, and the config may choose the bits.
    assert!(usable(saturated, 112, 120));
    assert!(usable("saturation = 1000.0\nmask_bits = 4", 110, 120));
    assert!(!usable("saturation = 1000.0\nmask_bits = 4", 114, 120));
}

#[test]
fn a_variance_plane_is_used_and_scaled() {
    let scene = Scene::new();
    let counts = scene.counts("g");
    let plane: Vec<f32> = counts.iter().map(|&value| 2e-4 + 0.01 * value.max(0.0)).collect();
    let (shape, pixels) = (&scene.size, Pixels::Floats(&plane));
    let variance = NewImage { name: "VARIANCE", shape, pixels, wcs: None, keywords: Vec::new() };
    scene.write("g", &counts, Some(vec![variance]));
    let observation = scene.observe("").unwrap();
    let (g, r) = (&observation.bands[0], &observation.bands[1]);
    assert!(g.variance_holds_sources && !r.variance_holds_sources);
    let lowest = g.variance.iter().copied().fold(f32::MAX, f32::min);
    // The plane's floor plus whatever light the faintest pixel has.
    assert!((f64::from(lowest) / (2e-4 * NJY * NJY) - 1.0).abs() < 0.1);
    let centre = observation.target[1].round() as usize * observation.shape[1] + observation.target[0].round() as usize;
    assert!(g.variance[centre] > 10.0 * lowest);
}

#[test]
fn extinction_multiplies_flux_and_noise() {
    let mut scene = Scene::new();
    let plain = scene.observe("").unwrap();
    scene.target.extinction = Some(vec![0.5, 0.0]);
    let corrected = scene.observe("[noise]\ngain = [2.0, 2.0]").unwrap();
    let factor = 10f64.powf(0.2);
    let (before, after) = (&plain.bands[0], &corrected.bands[0]);
    assert!((after.flux / before.flux / factor - 1.0).abs() < 1e-5);
    assert!((f64::from(after.variance[0] / before.variance[0]) / factor.powi(2) - 1.0).abs() < 1e-5);
    assert!((after.autocovariance.at(0, 1) / before.autocovariance.at(0, 1) / factor.powi(2) - 1.0).abs() < 1e-9);
    assert!((after.gain.unwrap() - 2.0 / factor).abs() < 1e-12 && after.extinction_factor == factor);
    assert_eq!(corrected.bands[1].gain, Some(2.0));
}

#[test]
fn files_that_cannot_be_used_fail_the_object_alone_and_are_named() {
    let scene = Scene::new();
    let path = scene.path("42-r.fits");
    let whole = std::fs::read(&path).unwrap();
    for (length, words) in [(0, "is empty"), (100, "FITS"), (2000, "FITS"), (5760, "truncated"), (100_000, "truncated")]
    {
        std::fs::write(&path, &whole[..length]).unwrap();
        let reason = scene.reason("");
        assert!(reason.contains("42-r.fits") && reason.contains(words), "{length}: {reason}");
    }
    std::fs::write(&path, b"hello, this is not a FITS file".repeat(500)).unwrap();
    assert!(scene.reason("").contains("42-r.fits"));
    std::fs::remove_file(&path).unwrap();
    let reason = scene.reason("");
    assert!(reason.contains("42-r.fits") && reason.contains("no such file"), "{reason}");
    std::fs::create_dir(&path).unwrap();
    assert!(scene.reason("").contains("not a file"));
}

#[test]
fn psfs_that_cannot_be_used_fail_the_object_alone() {
    let scene = Scene::new();
    scene.write_psf("r", &[0.0; 441], &[]);
    let reason = scene.reason("");
    assert!(reason.contains("psf-r.fits") && reason.contains("zero everywhere"), "{reason}");
    scene.write_psf("r", &gaussian_psf(), &[Keyword::text("FILTER", "HSC-G", "")]);
    let reason = scene.reason("");
    assert!(reason.contains("psf-r.fits") && reason.contains("another band than `r`"), "{reason}");
    scene.write_psf("r", &[f32::NAN; 441], &[]);
    assert!(scene.reason("").contains("not numbers"));
    scene.write_psf("r", &[1.0; 1], &[]);
    assert!(scene.reason("").contains("expected 3 to 1024"));
}

#[test]
fn targets_off_the_image_and_bands_that_disagree_fail_alone() {
    let mut scene = Scene::new();
    scene.target.dec += 0.5;
    let reason = scene.reason("");
    assert!(reason.contains("outside the image"), "{reason}");
    scene.target.ra += 180.0;
    assert!(scene.reason("").contains("outside the image"));

    let mut scene = Scene::new();
    scene.wcs.crpix[0] += 1.0;
    scene.write("r", &scene.counts("r"), None);
    let reason = scene.reason("");
    assert!(reason.contains("band r is not on the grid of band g: the WCS differ by 1.00"), "{reason}");

    let mut scene = Scene::new();
    scene.target.trouble = Some("the redshift is missing".into());
    assert_eq!(scene.reason(""), "the redshift is missing");
}

#[test]
fn a_saturated_target_and_an_unknown_flux_scale_fail_alone() {
    let scene = Scene::new();
    let reason = scene.reason("saturation = 0.5");
    assert!(reason.contains("saturated"), "{reason}");
    let image = NewImage { keywords: Vec::new(), ..scene.image(&[0.0]) };
    let counts = scene.counts("r");
    let image = NewImage { pixels: Pixels::Floats(&counts), ..image };
    write_images(&scene.path("42-r.fits"), &[image]).unwrap();
    let reason = scene.reason("");
    assert!(reason.contains("42-r.fits") && reason.contains("data.zero_point"), "{reason}");
    // The config's zero point, or a unit in the header, mends it: 27.0 is FLUXMAG0 = 6.3e10.
    let flux = scene.observe("zero_point = 27.0").unwrap().bands[1].flux;
    assert!((0.9..1.02).contains(&(flux / (200.0 * NJY))), "{flux}");
    for (key, njy) in [(Keyword::text("BUNIT", "nJy", ""), 1.0), (Keyword::number("MAGZERO", 27.0, ""), NJY)] {
        let image = NewImage { keywords: vec![key], ..scene.image(&counts) };
        write_images(&scene.path("42-r.fits"), &[image]).unwrap();
        let flux = scene.observe("").unwrap().bands[1].flux;
        assert!((0.9..1.02).contains(&(flux / (200.0 * njy))), "{flux}");
    }
}

#[test]
fn an_image_without_sky_needs_a_variance_plane() {
    let scene = Scene::new();
    let counts: Vec<f32> = scene.counts("r").iter().map(|_| 0.0).collect();
    scene.write("r", &counts, None);
    let reason = scene.reason("");
    assert!(reason.contains("band r") && reason.contains("variance plane"), "{reason}");
}
