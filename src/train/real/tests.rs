use super::*;

const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/galaxies");

/// The two real sources as the shipped recipe names them.
fn sources() -> [RealSource; 2] {
    let toml = format!(
        r#"
        [[real]]
        path = "{SHARED}/hst327_f814w_160x160_0p06.npz"
        pixel_scale = 0.06
        psf_fwhm = 0.11
        redshift = {{ kind = "drawn", low = 0.4, high = 1.0 }}
        isolated = true
        [[real]]
        path = "{SHARED}/ceers130_7band_100x100.npz"
        pixel_scale = 0.03
        psf_fwhm = 0.066
        redshift = {{ kind = "column", key = "redshift" }}
        channels = [0, 1, 2]
        dimming = [-0.05, 0.0, 0.2]
        exclude = [8, 26, 59]
        min_signal_to_noise = 20.0
        only = {{ key = "subset", value = "sample_2" }}
        "#
    );
    #[derive(Deserialize)]
    struct File {
        real: [RealSource; 2],
    }
    toml::from_str::<File>(&toml).unwrap().real
}

fn skipped() -> bool {
    let absent = !std::path::Path::new(SHARED).exists();
    if absent {
        println!("SKIPPED: needs ../shared");
    }
    absent
}

#[test]
fn real_sources_are_read_cleaned_and_viewed() {
    if skipped() {
        return;
    }
    let grid = Grid::demonstration();
    for (index, (source, least)) in sources().iter().zip([150, 40]).enumerate() {
        let galaxies = read(source, &grid, 1, &index.to_string()).unwrap();
        assert!(galaxies.len() >= least, "source {index}: {} galaxies", galaxies.len());
        for (number, galaxy) in galaxies.iter().enumerate().step_by(7) {
            let mut stream = Stream::new(1, "test", number as u64, Purpose::Augmentation);
            let image = galaxy.view(&grid, &AugmentationConfig::default(), &mut stream);
            assert!(image.iter().all(|value| value.is_finite() && *value >= 0.0), "{}", galaxy.name);
            let sum: f64 = image[4096..8192].iter().map(|&v| f64::from(v)).sum();
            assert!((sum - 1.0).abs() < 1e-4, "{}: {sum}", galaxy.name);
        }
    }
}

/// The manifest tells of four near-duplicate pairs in the HST file: images 72 and 118 are one of them.
#[test]
fn near_duplicates_share_a_group_and_a_side() {
    if skipped() {
        return;
    }
    let galaxies = read(&sources()[0], &Grid::demonstration(), 1, "0").unwrap();
    let group = |name: &str| galaxies.iter().find(|galaxy| galaxy.name == name).map(|galaxy| galaxy.group.clone());
    assert!(group("0/72").is_some());
    assert_eq!(group("0/72"), group("0/118"));
    let total = galaxies.len();
    let config = DatasetConfig { heldout_fraction: 0.3, ..DatasetConfig::default() };
    let (train, heldout) = split(galaxies, &config);
    assert_eq!(train.len() + heldout.len(), total);
    assert!(!heldout.is_empty());
    assert!(heldout.iter().all(|out| train.iter().all(|galaxy| galaxy.group != out.group)));
}

/// Simulated truths, written as FITS files and as an HDF5 file, come back as training galaxies: flux kept, size kept.
#[test]
fn complete_images_are_read_from_fits_and_hdf5() {
    use crate::io::fits::{Keyword, NewImage, Pixels, write_images};
    let folder = tempfile::tempdir().unwrap();
    let grid = Grid::demonstration();
    let fits = folder.path().join("fits");
    std::fs::create_dir(&fits).unwrap();
    let galaxies: Vec<_> = (0..3).map(|index| crate::train::procedural::draw(2, index, &grid)).collect();
    for (index, galaxy) in galaxies.iter().enumerate() {
        let plane = |band: usize| NewImage {
            name: "",
            shape: &[64, 64],
            pixels: Pixels::Floats(&galaxy.image[band * 4096..(band + 1) * 4096]),
            wcs: None,
            keywords: vec![Keyword::number("REDSHIFT", 0.5, "")],
        };
        write_images(&fits.join(format!("{index}.fits")), &[plane(0), plane(1), plane(2)]).unwrap();
    }
    let hdf5 = folder.path().join("galaxies.hdf5");
    let file = crate::io::hdf5::Writer::create(&hdf5).unwrap();
    let all: Vec<f32> = galaxies.iter().flat_map(|galaxy| galaxy.image.clone()).collect();
    file.numbers("images", &[3, 3, 64, 64], &all).unwrap();
    file.numbers("REDSHIFT", &[3], &[0.5f64; 3]).unwrap();
    file.close().unwrap();
    for (path, format) in [(fits, "fits"), (hdf5, "hdf5")] {
        let theta = theta_arcsec(grid.pixel_kpc, 0.5).unwrap();
        let text = format!(
            "path = {path:?}\nformat = '{format}'\npixel_scale = {theta}\npsf_fwhm = {}\nchannels = [0, 1, 2]\n\
             complete = true\nr50_kpc = [0.1, 50.0]\nredshift = {{ kind = 'column', key = 'REDSHIFT' }}",
            1.4 * theta
        );
        let read = read(&toml::from_str(&text).unwrap(), &grid, 1, format).unwrap();
        assert_eq!(read.len(), 3);
        for (galaxy, drawn) in read.iter().zip(&galaxies) {
            // Radii are those of pixel centres here, and of circles around the nucleus there.
            assert!((galaxy.r50_kpc() - drawn.truth.r50_kpc).abs() < 0.8, "{format}");
            let mut stream = Stream::new(1, "test", 0, Purpose::Augmentation);
            let augmentation = AugmentationConfig { zoom: [1.0, 1.0], shift: 0.0, colour: 0.0 };
            let image = galaxy.view(&grid, &augmentation, &mut stream);
            let flux = |band: usize| image[band * 4096..(band + 1) * 4096].iter().map(|&v| f64::from(v)).sum::<f64>();
            // Corners may turn out of the frame.
            assert!((flux(0) / drawn.truth.flux[0] - 1.0).abs() < 0.05, "{format}: {}", flux(0));
        }
    }
}

/// Writes contact sheets to look at: `cargo test --release real_gallery -- --ignored --nocapture`.
#[test]
#[ignore = "writes pictures to look at"]
fn real_gallery() {
    if skipped() {
        return;
    }
    let grid = Grid::demonstration();
    for (index, source) in sources().iter().enumerate() {
        let start = std::time::Instant::now();
        let galaxies = read(source, &grid, 1, &index.to_string()).unwrap();
        println!("source {index}: {} galaxies in {:.1} s", galaxies.len(), start.elapsed().as_secs_f64());
        let start = std::time::Instant::now();
        let images: Vec<Vec<f32>> = galaxies
            .iter()
            .enumerate()
            .map(|(number, galaxy)| {
                let mut stream = Stream::new(1, "gallery", number as u64, Purpose::Augmentation);
                galaxy.view(&grid, &AugmentationConfig::default(), &mut stream)
            })
            .collect();
        println!("{:.2} ms per view", start.elapsed().as_secs_f64() / images.len() as f64 * 1e3);
        for (sheet, part) in images.chunks(80).enumerate() {
            let path = std::env::temp_dir().join(format!("unseeing-real-{index}-{sheet}.png"));
            crate::train::gallery::write(&path, part, &grid, 10).unwrap();
        }
        crate::train::gallery::print_statistics(&images, &grid);
        let colour = |a: usize, b: usize| {
            let flux = |image: &[f32], band: usize| image[band * 4096..(band + 1) * 4096].iter().sum::<f32>();
            let mut values: Vec<f32> = images.iter().map(|i| -2.5 * (flux(i, a) / flux(i, b)).log10()).collect();
            values.sort_by(f32::total_cmp);
            [0.1, 0.5, 0.9].map(|q| values[(q * (values.len() - 1) as f64) as usize])
        };
        println!("g-r {:?} r-i {:?} (10, 50, 90 %)", colour(0, 1), colour(1, 2));
    }
}
