use super::*;
use crate::config::Config;
use crate::io::fits::Fits;

fn options(folder: PathBuf) -> SimulateOptions {
    SimulateOptions {
        folder,
        objects: 2,
        seed: 4,
        grid: Grid::demonstration(),
        redshifts: [0.1, 0.6],
        magnitudes: [18.5, 22.0],
        depth: Depth::UltraDeep,
        correlated: true,
        neighbours: 0.0,
        empty_planes: false,
        prior: "priors/default.safetensors".into(),
        samples: 64,
        galaxies: Galaxies::Procedural,
        images: None,
        shear: [0.0, 0.0],
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
        let images = Images { paths: vec![path.clone()], units: Units::Mag, pixel_kpc: 0.3 };
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
