//! From FITS files to training images, good and bad ones.

use std::path::Path;

use super::build::{Summary, build};
use super::cache::{CachedImages, ImagesSection, NormalisationKind};
use super::config::CollectionConfig;
use crate::io::fits::{Keyword, NewImage, Pixels, write_images};
use crate::io::hdf5::Reader;
use crate::train::source::ImageSource;

/// Native pixels on a side, of 100 pc: 4 kpc.
const SIDE: usize = 40;
/// f32 sums.
const TOLERANCE: f64 = 1e-5;

/// A round blob of magnitude `mag` per pixel in its middle, a little off centre, that falls by `slope`; no light beyond eight
/// pixels.
fn blob(mag: f32, slope: f32, side: usize) -> Vec<f32> {
    let at = |x: f32, y: f32| {
        let r2 = (x - side as f32 / 2.0).powi(2) + (y - side as f32 / 2.0 - 1.0).powi(2);
        if r2 < 64.0 { mag + slope * r2 } else { f32::INFINITY }
    };
    (0..side * side).map(|p| at((p % side) as f32, (p / side) as f32)).collect()
}

fn plane(mag: f32, side: usize) -> Vec<f32> {
    blob(mag, 0.1, side)
}

fn write(path: &Path, bands: &[(&str, Vec<f32>)], side: usize) {
    let keywords = vec![Keyword::number("CDELT1", 100.0, "pc")];
    let shape = [side, side];
    let images: Vec<NewImage> = bands
        .iter()
        .map(|(name, values)| NewImage {
            name,
            shape: &shape,
            pixels: Pixels::Floats(values),
            wcs: None,
            keywords: keywords.clone(),
        })
        .collect();
    write_images(path, &images).unwrap();
}

fn galaxy(folder: &Path, name: &str, mag: f32) {
    let band = |letter: &str, offset: f32| {
        (format!("SUBARU_HSC.{letter}"), blob(mag + offset, 0.1 + 0.01 * (mag - 20.0), SIDE))
    };
    let bands = [band("G", 0.5), band("R", 0.0), band("I", -0.2)];
    let bands: Vec<(&str, Vec<f32>)> = bands.iter().map(|(name, values)| (name.as_str(), values.clone())).collect();
    write(&folder.join(name), &bands, SIDE);
}

fn config(folder: &Path) -> CollectionConfig {
    CollectionConfig {
        from: vec![folder.join("photo")],
        out: folder.join("images.h5"),
        size: 8,
        shift: 1,
        pixel_kpc: 0.4,
        heldout_fraction: 0.3,
        ..CollectionConfig::default()
    }
}

/// Twelve subhalos with two cameras each, and everything that can be wrong.
fn collection(folder: &Path) -> Summary {
    let photo = folder.join("photo/deeper");
    std::fs::create_dir_all(&photo).unwrap();
    for subhalo in 0..12 {
        for camera in 0..2 {
            let name = format!("shalo_091-{subhalo}_v{camera}_photo.fits");
            galaxy(&photo, &name, 20.0 + subhalo as f32 * 0.3 + camera as f32 * 0.1);
        }
    }
    let good = std::fs::read(photo.join("shalo_091-3_v0_photo.fits")).unwrap();
    std::fs::write(photo.join("shalo_091-50_v0_photo.fits"), b"not FITS at all").unwrap();
    std::fs::write(photo.join("shalo_091-51_v0_photo.fits"), &good[..good.len() / 2]).unwrap();
    std::fs::write(photo.join("shalo_091-52_v0_photo.fits"), &good).unwrap();
    std::fs::write(photo.join("shalo_091-53_v0_photo.fits"), b"").unwrap();
    let (g, r, i) = ("SUBARU_HSC.G", "SUBARU_HSC.R", "SUBARU_HSC.I");
    let some = plane(20.0, SIDE);
    write(&photo.join("shalo_091-54_v0_photo.fits"), &[(g, some.clone()), (r, some.clone())], SIDE);
    let small = plane(20.0, 10);
    write(&photo.join("shalo_091-55_v0_photo.fits"), &[(g, small.clone()), (r, small.clone()), (i, small)], 10);
    let with = |value: f32| {
        let mut bad = some.clone();
        bad[820] = value;
        [(g, some.clone()), (r, bad), (i, some.clone())]
    };
    write(&photo.join("shalo_091-56_v0_photo.fits"), &with(f32::NAN), SIDE);
    write(&photo.join("shalo_091-57_v0_photo.fits"), &with(f32::NEG_INFINITY), SIDE);
    let dark = vec![f32::INFINITY; SIDE * SIDE];
    write(&photo.join("shalo_091-58_v0_photo.fits"), &[(g, dark), (r, some.clone()), (i, some)], SIDE);
    std::fs::write(photo.join("notes.txt"), "not an image").unwrap();
    build(&config(folder), &|_, _| {}).unwrap()
}

fn open(folder: &Path, normalisation: NormalisationKind, shift: usize) -> CachedImages {
    let config = config(folder);
    let section = ImagesSection { path: config.out.clone(), orientations: true, normalisation, shift };
    CachedImages::open(&section, &config.grid().unwrap(), 3, vec![(0, 0), (100, shift)]).unwrap()
}

#[test]
fn bad_files_are_skipped_with_their_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let summary = collection(folder.path());
    assert_eq!(summary.training + summary.heldout, 24);
    let expected = [
        ("-50_", "FITS"),
        ("-51_", ""),
        ("-52_", "the same image as deeper/shalo_091-3_v0_photo.fits"),
        ("-53_", "empty"),
        ("-54_", "no image `SUBARU_HSC.I`"),
        ("-55_", "too small: 1.0 x 1.0 kpc, 4.0 are needed"),
        ("-56_", "band r: 1 pixels are NaN or infinite"),
        ("-57_", "band r: 1 pixels are NaN or infinite"),
        ("-58_", "band g: no light"),
    ];
    assert_eq!(summary.skipped.len(), expected.len(), "{:?}", summary.skipped);
    for (one, (file, reason)) in summary.skipped.iter().zip(expected) {
        assert!(one.file.contains(file) && one.reason.contains(reason), "{one:?}, expected {reason}");
    }
    let reader = Reader::open(&summary.file).unwrap();
    assert_eq!(reader.read_texts("skipped/reason").unwrap().len(), expected.len());
    // Digests of content: the same files elsewhere give the same.
    let other = tempfile::tempdir().unwrap();
    assert_eq!(collection(other.path()).digest, summary.digest);
}

#[test]
fn the_split_is_by_subhalo_and_does_not_depend_on_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let summary = collection(folder.path());
    let sides = |file: &Path| {
        let reader = Reader::open(file).unwrap();
        let names = reader.read_texts("subhalo").unwrap();
        let (_, flags) = reader.read::<u8>("heldout").unwrap();
        names.into_iter().zip(flags).collect::<Vec<_>>()
    };
    let all = sides(&summary.file);
    for (name, side) in &all {
        assert!(all.iter().all(|(other, flag)| other != name || flag == side), "{name} is on both sides");
    }
    assert!(summary.heldout > 0 && summary.training > summary.heldout, "{summary:?}");
    for subhalo in 0..5 {
        std::fs::remove_file(folder.path().join(format!("photo/deeper/shalo_091-{subhalo}_v0_photo.fits"))).unwrap();
    }
    let fewer = build(&config(folder.path()), &|_, _| {}).unwrap();
    for pair in sides(&fewer.file) {
        // Of subhalo 52, a copy of 3, only now the original is gone.
        assert!(all.contains(&pair) || pair.0 == "52", "{pair:?} has changed sides");
    }
}

#[test]
fn images_are_normalised_functions_of_their_number() {
    let folder = tempfile::tempdir().unwrap();
    collection(folder.path());
    let images = open(folder.path(), NormalisationKind::ReferenceBand, 1);
    let again = open(folder.path(), NormalisationKind::ReferenceBand, 1);
    assert_eq!(images.shape(), [3, 8, 8]);
    for draw in [0, 7, 101, 1 << 40] {
        let image = images.training_image(draw).unwrap();
        assert_eq!(image, again.training_image(draw).unwrap());
        let sum: f64 = image[64..128].iter().map(|&v| f64::from(v)).sum();
        assert!((sum - 1.0).abs() < TOLERANCE, "{sum}");
    }
    // Colours come through: all bands have the same shape.
    let image = images.heldout_image(0).unwrap();
    let ratio = f64::from(image[27] / image[64 + 27]);
    assert!((ratio / 10f64.powf(-0.2) - 1.0).abs() < TOLERANCE, "{ratio}");
    let peaks = open(folder.path(), NormalisationKind::BandPeak, 1).training_image(5).unwrap();
    for plane in peaks.chunks(64) {
        assert_eq!(plane.iter().copied().fold(0.0f32, f32::max), 1.0);
    }
    assert_ne!(images.digest(), open(folder.path(), NormalisationKind::BandPeak, 1).digest());
    // Before the stage with shifts there is none: an image then is one of the eight views of a stored one.
    let spread = |p: usize| ((p % 8) as f32 - 3.5).powi(2) + ((p / 8 % 8) as f32 - 3.5).powi(2);
    let row = |draw: u64| {
        let image = images.training_image(draw).unwrap();
        image.iter().enumerate().map(|(p, v)| (v * spread(p) * 1e6) as i64).sum::<i64>()
    };
    let still: std::collections::BTreeSet<i64> = (0..100).map(row).collect();
    let shifted: std::collections::BTreeSet<i64> = (100..200).map(row).collect();
    assert!(still.len() <= 24 && shifted.len() > 24, "{} {}", still.len(), shifted.len());
}

#[test]
fn other_grids_and_damage_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    collection(folder.path());
    let section = ImagesSection {
        path: config.out.clone(),
        orientations: false,
        normalisation: NormalisationKind::ReferenceBand,
        shift: 0,
    };
    let grid = config.grid().unwrap();
    let message = |grid: &crate::train::procedural::Grid, shift: usize| {
        CachedImages::open(&section, grid, 0, vec![(0, shift)]).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(message(&grid, 1), "");
    assert!(message(&grid, 2).contains("shift = 1"));
    assert!(message(&crate::train::procedural::Grid { size: 16, ..grid.clone() }, 0).contains("asks for 16"));
    // Flipped bytes in the middle half of the file, where images are.
    let mut bytes = std::fs::read(&config.out).unwrap();
    let quarter = bytes.len() / 4;
    bytes[quarter..3 * quarter].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(&config.out, &bytes).unwrap();
    let outcome = CachedImages::open(&section, &grid, 0, vec![(0, 0)])
        .and_then(|images| (0..200).try_for_each(|draw| images.training_image(draw).map(|_| ())));
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("images.h5"), "{error}");
}

#[test]
fn a_file_for_each_band_and_configs_that_make_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let photo = folder.path().join("photo");
    std::fs::create_dir(&photo).unwrap();
    for (band, offset) in [("g", 0.5f32), ("r", 0.0), ("i", -0.2)] {
        write(&photo.join(format!("photo_{band}_orbit_186.fits")), &[("", plane(20.0 + offset, SIDE))], SIDE);
        if band != "i" {
            write(&photo.join(format!("photo_{band}_orbit_187.fits")), &[("", plane(21.0, SIDE))], SIDE);
        }
    }
    let text = r#"
        from = ["photo"]
        out = "images.h5"
        file_name = '^photo_(?<band>[gri])_orbit_(?<subhalo>\d+)\.fits$'
        size = 8
        shift = 1
        [native]
        pixel_kpc = 0.1
        [[bands]]
        name = "g"
        file = "g"
        [[bands]]
        name = "r"
        file = "r"
        [[bands]]
        name = "i"
        file = "i"
    "#;
    let path = folder.path().join("dataset.toml");
    std::fs::write(&path, text).unwrap();
    let summary = build(&CollectionConfig::read(&path).unwrap(), &|_, _| {}).unwrap();
    assert_eq!(summary.training + summary.heldout, 1);
    assert_eq!(summary.skipped.len(), 1);
    assert!(summary.skipped[0].reason.contains("no file for band i"), "{:?}", summary.skipped);
    let message = |from: &str, to: &str| {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let outcome = CollectionConfig::read(&path).and_then(|config| build(&config, &|_, _| {}));
        outcome.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(message("size =", "sizes =").contains("sizes"));
    assert!(message("?<subhalo>", "?<halo>").contains("subhalo"));
    assert!(message("(?<band>[gri])", "[gri]").contains("every band needs `file`"));
    assert!(message("pixel_kpc = 0.1", "unit_kpc = 0.1").contains("[native]"));
    assert!(message("photo_(", "foto_(").contains("no file below"));
    assert!(message("from = [\"photo\"]", "from = [\"absent\"]").contains("absent"));
    assert!(message("pixel_kpc = 0.1", "pixel_kpc = 0.01").contains("none of 1 images can be used"));
}
