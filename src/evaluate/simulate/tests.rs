use super::*;
use crate::config::Config;
use crate::io::fits::Fits;

fn options(folder: PathBuf) -> SimulateOptions {
    SimulateOptions {
        folder,
        objects: 2,
        seed: 4,
        grid: Grid::demonstration(),
        redshift_error: None,
        redshifts: [0.1, 0.6],
        magnitudes: [18.5, 22.0],
        optics: Optics::hsc(Depth::UltraDeep),
        correlated: true,
        neighbours: 0.0,
        empty_planes: false,
        prior: "priors/default.safetensors".into(),
        samples: 64,
        galaxies: Galaxies::Procedural,
        images: None,
        shear: [0.0, 0.0],
        inject: None,
    }
}

fn of(options: &SimulateOptions, index: u32) -> Result<SimulatedObject> {
    object(options, &Source::open(options)?, index)
}

#[test]
fn objects_are_reproducible_and_have_their_flux() {
    let options = options("unused".into());
    let first = of(&options, 0).unwrap();
    assert_eq!(first.images, of(&options, 0).unwrap().images);
    assert_ne!(first.images, of(&options, 1).unwrap().images);
    // Light of the field's middle arrives: the cutout's total is the truth's, give or take noise, wings and what lies
    // beyond the field.
    for (band, image) in first.images.iter().enumerate() {
        let truth: f64 = first.flux[band * 4096..(band + 1) * 4096].iter().map(|&v| f64::from(v)).sum();
        let seen: f64 = image.iter().map(|&v| f64::from(v)).sum();
        let noise = 2.0 * first.noise[band] * (image.len() as f64).sqrt();
        assert!((seen - truth).abs() < 0.1 * truth + 4.0 * noise, "band {band}: {seen} {truth}");
    }
}

/// Everything is there, the config is one that `run` accepts, and image, catalogue and truth agree on where the target is.
#[test]
fn a_survey_is_written_with_a_usable_config() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path().join("survey"));
    let path = simulate(&options, |_| {}).unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!((config.posterior.samples, config.run.threads), (64, 1));
    assert!(config.prior.path.is_absolute());
    let object = of(&options, 1).unwrap();
    let mut fits = Fits::open(&options.folder.join("cutouts/sim-0001-r.fits")).unwrap();
    assert_eq!(fits.hdus().len(), 3);
    let image = fits.first_image().unwrap();
    assert_eq!(image.shape, object.shape);
    let wcs = fits.header(0).wcs().unwrap();
    let at = wcs.sky_to_pixel([object.ra, object.dec]).unwrap();
    assert!((at[0] - object.target[0]).abs() < 1e-6 && (at[1] - object.target[1]).abs() < 1e-6);
    let values = fits.section(&image, (0, object.shape[0]), (0, object.shape[1])).unwrap().values;
    let njy: f64 = values.iter().map(|&v| f64::from(v)).sum::<f64>() * 3631e9 / 6.309_573_444_801_93e10;
    let expected: f64 = object.images[1].iter().map(|&v| f64::from(v)).sum();
    assert!((njy / expected - 1.0).abs() < 1e-5);
    let catalog = std::fs::read_to_string(options.folder.join("catalog.csv")).unwrap();
    assert_eq!(catalog.lines().filter(|line| line.starts_with("sim-")).count(), 2);
    let truth = crate::io::hdf5::Reader::open(&options.folder.join("truth.hdf5")).unwrap();
    assert_eq!(truth.info("flux").unwrap().0, [2, 3, 64, 64]);
    // A second survey does not go over the first.
    assert!(simulate(&options, |_| {}).err().unwrap().to_string().contains("already"));
}

#[test]
fn empty_planes_are_empty() {
    let folder = tempfile::tempdir().unwrap();
    let options = SimulateOptions { objects: 1, empty_planes: true, ..options(folder.path().join("survey")) };
    simulate(&options, |_| {}).unwrap();
    let fits = Fits::open(&options.folder.join("cutouts/sim-0000-g.fits")).unwrap();
    assert_eq!(fits.hdus().len(), 3);
    assert!(!fits.hdus()[1].is_plane() && !fits.hdus()[2].is_plane());
}

/// Every source gives the magnitude that was asked for, in the truth and in the sky; blank sky has none.
#[test]
fn all_sources_have_their_flux() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.fits");
    let size = 96usize;
    let place = |index: usize| ((index % size) as f64 - 47.5, (index / size) as f64 - 47.5);
    let mags: Vec<f32> = (0..size * size)
        .map(|index| {
            let (x, y) = place(index);
            // An exponential disc of 3 kpc; beyond 12 kpc there is no light.
            let radius = x.hypot(y) * 0.3;
            if radius < 12.0 { (20.0 + 1.0857 * radius / 3.0) as f32 } else { f32::INFINITY }
        })
        .collect();
    let image = crate::io::fits::NewImage {
        name: "",
        shape: &[size, size],
        pixels: crate::io::fits::Pixels::Floats(&mags),
        wcs: None,
        keywords: Vec::new(),
    };
    crate::io::fits::write_images(&path, &[image]).unwrap();
    for galaxies in [Galaxies::Prior, Galaxies::Point, Galaxies::Image, Galaxies::Blank] {
        let images = Images { paths: vec![path.clone()], units: Some(Units::Mag), pixel_kpc: Some(0.3) };
        let options = SimulateOptions {
            objects: 1,
            galaxies: galaxies.clone(),
            images: Some(images),
            magnitudes: [19.0, 19.0],
            redshifts: [0.3, 0.3],
            ..options("unused".into())
        };
        let object = of(&options, 0).unwrap();
        let total = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>();
        let truth = total(&object.flux[2 * 4096..]);
        let expected = if galaxies == Galaxies::Blank { 0.0 } else { 10f64.powf(-0.4 * (19.0 - 31.4)) };
        assert!((truth - expected).abs() <= 1e-5 * expected, "{galaxies:?}: {truth} for {expected}");
        let noise = object.noise[2] * (object.images[2].len() as f64).sqrt();
        // Wings of the PSF beyond its image, and the correlated noise of the whole frame.
        assert!((total(&object.images[2]) - expected).abs() < 1e-3 * expected + 12.0 * noise, "{galaxies:?}");
        assert_eq!(object.magnitudes[2].is_finite(), galaxies != Galaxies::Blank);
    }
}

/// Part of the flux that may be lost or gained between a source and its image.
const FLUX: f64 = 1e-5;

fn total(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum()
}

/// A FITS file as of the TNG simulations: a magnitude image for each band, in an extension of its own, and others between.
fn photo(path: &std::path::Path, magnitudes: &[(&str, f32)], size: usize) {
    use crate::io::fits::{Keyword, NewImage, Pixels, write_images};
    let planes: Vec<Vec<f32>> = magnitudes
        .iter()
        .map(|(_, magnitude)| {
            let at = |index: usize| ((index % size) as f64 - 30.0).hypot((index / size) as f64 - 30.0);
            let value = |index| if at(index) < 24.0 { magnitude + 0.1 * at(index) as f32 } else { f32::INFINITY };
            (0..size * size).map(value).collect()
        })
        .collect();
    let shape = [size, size];
    let images: Vec<NewImage> = magnitudes
        .iter()
        .zip(&planes)
        .map(|((name, _), plane)| NewImage {
            name,
            shape: &shape,
            pixels: Pixels::Floats(plane),
            wcs: None,
            keywords: vec![
                Keyword::text("BUNIT", "AB mag/arcsec2", ""),
                Keyword::text("CTYPE1", "pc", ""),
                Keyword::number("CDELT1", 400.0, ""),
            ],
        })
        .collect();
    write_images(path, &images).unwrap();
}

/// Without noise, what arrives on a detector that is large enough is what was sent, for each source of light.
#[test]
fn every_source_keeps_its_flux_through_seeing_and_sampling() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shalo_091-1_v0_photo.fits");
    let bands = [("SUBARU_HSC.G", 22.0), ("SUBARU_HSC.R", 21.5), ("CFHT_MEGACAM.R", 10.0), ("SUBARU_HSC.I", 20.5)];
    photo(&path, &bands, 60);
    let images = Images { paths: vec![path], units: None, pixel_kpc: None };
    let seeing = Seeing::Moffat { fwhm: vec![0.6, 0.7, 0.9], beta: 3.0 };
    for galaxies in [Galaxies::Procedural, Galaxies::Prior, Galaxies::Point, Galaxies::Image, Galaxies::Blank] {
        let options = SimulateOptions {
            objects: 1,
            galaxies: galaxies.clone(),
            images: Some(images.clone()),
            optics: Optics { seeing: seeing.clone(), ..Optics::hsc(Depth::Wide) },
            ..options("unused".into())
        };
        let light = Source::open(&options).unwrap().light(0, &options.grid).unwrap().into_owned();
        let psfs = options.optics.psfs(&options.grid.bands, &mut Stream::new(1, "x", 0, Purpose::Evaluation)).unwrap();
        // 102 kpc at a redshift of 0.4 are 19 arcsec, 113 pixels; the PSFs reach 27 pixels further.
        let seen = observe(&light, 3.0, 0.4, [110.3, 109.6], 220, &psfs).unwrap();
        for (band, image) in seen.iter().enumerate() {
            let expected = 3.0 * light.flux[band];
            let found = total(image);
            assert!((found - expected).abs() <= FLUX * expected, "{galaxies:?}: {found} for {expected}");
        }
    }
}

/// Bands are found by the extensions' names, and units and pitch are those of the header.
#[test]
fn the_tng_layout_is_read_by_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shalo_091-1_v0_photo.fits");
    // Out of order, and with a filter that is not HSC's.
    photo(
        &path,
        &[("SUBARU_HSC.I", 20.5), ("CFHT_MEGACAM.R", 10.0), ("SUBARU_HSC.G", 22.0), ("SUBARU_HSC.R", 21.5)],
        60,
    );
    let one = Images { paths: vec![path.clone()], units: None, pixel_kpc: None };
    let bands = ["g", "r", "i"].map(String::from);
    let lights = images::read(&one, &bands).unwrap();
    assert_eq!((lights.len(), lights[0].size), (1, 60));
    assert!((lights[0].pixel_kpc - 0.4).abs() < 1e-12, "{}", lights[0].pixel_kpc);
    // Half a magnitude and one magnitude between the bands.
    let colour = |a: usize, b: usize| -2.5 * (lights[0].flux[a] / lights[0].flux[b]).log10();
    assert!(
        (colour(0, 1) - 0.5).abs() < 1e-5 && (colour(1, 2) - 1.0).abs() < 1e-5,
        "{} {}",
        colour(0, 1),
        colour(1, 2)
    );
    let several = Images { paths: vec![path.clone(), path.clone()], ..one.clone() };
    assert_eq!(images::read(&several, &bands).unwrap().len(), 2);
    let error = images::read(&one, &["z".to_string()]).err().unwrap().to_string();
    assert!(error.contains("no extension SUBARU_HSC.Z") && error.contains("SUBARU_HSC.G"), "{error}");
    // An option goes before the header.
    let told = Images { units: Some(Units::Flux), pixel_kpc: Some(0.1), ..one };
    let light = &images::read(&told, &bands[..1]).unwrap()[0];
    assert!(light.pixel_kpc == 0.1 && light.image[30 * 60 + 30] > 20.0);
}

/// A real snapshot of a radiative-transfer simulation: header and magnitudes as they are in the wild.
#[test]
fn a_skirt_snapshot_is_read_without_options() {
    let place = |band| format!("../shared/data/simulated/photo_{band}_CNN_G2G3_e-orbit_1_186_i0_total.fits.gz");
    let paths: Vec<PathBuf> = ["g", "r", "i"].map(|band| place(band).into()).to_vec();
    if !paths[0].exists() {
        println!("SKIPPED: needs ../shared");
        return;
    }
    let images = Images { paths, units: None, pixel_kpc: None };
    let light = &images::read(&images, &["g", "r", "i"].map(String::from)).unwrap()[0];
    assert!((light.size, (light.pixel_kpc - 0.09765625).abs() < 1e-12) == (512, true));
    let colour = -2.5 * (light.flux[0] / light.flux[2]).log10();
    assert!((0.0..2.0).contains(&colour), "g - i = {colour}");
    let coarse = light.on_grid(64, 0.8, 1.0);
    assert!((total(&coarse[..4096]) / light.flux[0] - 1.0).abs() < FLUX, "51 kpc hold all of its 50");
}

#[test]
fn archives_of_images_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npz");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    zip.start_file("images.npy", zip::write::SimpleFileOptions::default()).unwrap();
    let mut header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 8, 8), }".to_string();
    header += &" ".repeat(127 - (10 + header.len()) % 64 % 64);
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    (0..2 * 3 * 64).for_each(|value| bytes.extend((value as f32).to_le_bytes()));
    std::io::Write::write_all(&mut zip, &bytes).unwrap();
    zip.finish().unwrap();
    let images = Images { paths: vec![path], units: None, pixel_kpc: Some(0.5) };
    let bands = ["g", "r", "i"].map(String::from);
    let lights = images::read(&images, &bands).unwrap();
    assert_eq!((lights.len(), lights[1].size), (2, 8));
    assert_eq!((lights[1].image[0], lights[1].flux[2]), (192.0, (320..384).sum::<i32>() as f64));
    let error = images::read(&images, &bands[..2]).err().unwrap().to_string();
    assert!(error.contains("(N, 2, n, n)"), "{error}");
    let error = images::read(&Images { pixel_kpc: None, ..images }, &bands).err().unwrap();
    assert!(error.exit_code() == 2 && error.to_string().contains("--image-kpc"), "{error}");
}

/// Noise and sky level are those that were asked for, and the truths say so.
#[test]
fn noise_and_sky_are_those_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let optics = Optics { noise: vec![2.0, 3.0, 4.0], sky: vec![-0.5], ..Optics::hsc(Depth::Wide) };
    let options = SimulateOptions {
        objects: 1,
        galaxies: Galaxies::Blank,
        correlated: false,
        optics,
        ..options(folder.path().join("survey"))
    };
    let object = of(&options, 0).unwrap();
    for (image, noise) in object.images.iter().zip([2.0, 3.0, 4.0]) {
        let count = image.len() as f64;
        let mean = total(image) / count;
        let sd = (image.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count).sqrt();
        // Five standard errors.
        assert!((mean + 0.5).abs() < 5.0 * noise / count.sqrt(), "{mean}");
        assert!((sd / noise - 1.0).abs() < 5.0 / (2.0 * count).sqrt(), "{sd}");
    }
    simulate(&options, |_| {}).unwrap();
    let truth = crate::io::hdf5::Reader::open(&options.folder.join("truth.hdf5")).unwrap();
    let numbers = |name| truth.attribute("", name).unwrap();
    assert_eq!(numbers("noise_sd"), Some(crate::io::hdf5::Attribute::Numbers(vec![2.0, 3.0, 4.0])));
    assert_eq!(numbers("sky"), Some(crate::io::hdf5::Attribute::Numbers(vec![-0.5; 3])));
}

/// Redshifts of the catalogue are scattered; all that is seen, and the truth, are those of the true ones.
#[test]
fn scattered_redshifts_are_the_catalogues_only() {
    let folder = tempfile::tempdir().unwrap();
    let plain = SimulateOptions { objects: 12, ..options(folder.path().join("plain")) };
    let error = 0.02;
    let scattered =
        SimulateOptions { redshift_error: Some(error), folder: folder.path().join("scattered"), ..plain.clone() };
    let mut pulls = Vec::new();
    simulate(&scattered, |object| pulls.push((object.catalogued - object.redshift) / error)).unwrap();
    simulate(&plain, |object| assert_eq!(object.catalogued, object.redshift)).unwrap();
    // Twelve normal numbers: the chance of a larger or smaller one is below 1e-4.
    let square = pulls.iter().map(|pull| pull * pull).sum::<f64>() / 12.0;
    assert!((0.1..3.8).contains(&square), "{pulls:?}");
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(text("plain/truth.csv"), text("scattered/truth.csv"));
    assert!(text("scattered/catalog.csv").contains("redshift,redshift_err,"));
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let truth = |name: &str| {
        let reader = crate::io::hdf5::Reader::open(&folder.path().join(name)).unwrap();
        (reader.read::<f64>("redshift").unwrap(), reader.read::<f32>("flux").unwrap())
    };
    assert_eq!(truth("plain/truth.hdf5"), truth("scattered/truth.hdf5"));
    assert_eq!(bytes("plain/psfs/sim-0003-r.fits"), bytes("scattered/psfs/sim-0003-r.fits"));
    let config = |name: &str| Config::read(&folder.path().join(name)).unwrap();
    assert!(config("scattered/config.toml").photo_z.propagated());
    assert!(!config("plain/config.toml").photo_z.propagated());
    // Nothing is scattered by nothing.
    let exact = SimulateOptions { redshift_error: Some(0.0), folder: folder.path().join("exact"), ..plain.clone() };
    simulate(&exact, |object| assert_eq!(object.catalogued, object.redshift)).unwrap();
    for wrong in [-0.1, f64::NAN, 7.0] {
        let options =
            SimulateOptions { redshift_error: Some(wrong), folder: folder.path().join("wrong"), ..plain.clone() };
        assert!(simulate(&options, |_| {}).unwrap_err().to_string().contains("0 to 6"));
    }
}
