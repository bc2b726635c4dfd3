//! Cases with known answers.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::features::{Features, Inception};
use super::*;
use crate::random::{Key, Purpose};

fn normal(name: &str, rows: i64, columns: i64) -> Tensor {
    let values = Key::new(1, name, 0, Purpose::Evaluation, 0).normal((rows * columns) as usize);
    Tensor::from_slice(&values).view([rows, columns])
}

fn row<'a>(found: &'a neighbours::Neighbours, name: &str) -> &'a neighbours::Row {
    found.rows.iter().find(|row| row.name == name).unwrap()
}

#[test]
fn draws_that_are_the_data_are_complete_and_others_are_not() {
    let (train, heldout) = (normal("train", 200, 4), normal("held", 200, 4));
    let same = neighbours::compare(&train, &heldout, &train, 1).unwrap();
    for name in ["precision", "recall", "coverage"] {
        assert_eq!(row(&same, name).draws, Measured { value: 1.0, interval: [1.0; 2] }, "{name}");
        // Another sample of the same population is not complete.
        let reference = row(&same, name).heldout;
        assert!(reference.value > 0.6 && reference.value < 1.0, "{name} {reference:?}");
        assert!(reference.interval[0] < reference.value && reference.value < reference.interval[1], "{name}");
    }
    // Each draw is in its own ball, and in those of the images that have it among their nearest five: six on average.
    let density = row(&same, "density").draws.value;
    assert!((density - 1.2).abs() < 1e-9, "{density}");

    // All draws are of one tenth of the population, along the first axis.
    let (_, order) = train.select(1, 0).sort(0, true);
    let few = train.index_select(0, &order.narrow(0, 0, 20)).repeat([10, 1]) + normal("jitter", 200, 4) * 0.05;
    let collapsed = neighbours::compare(&few, &heldout, &train, 1).unwrap();
    for name in ["recall", "coverage"] {
        let found = row(&collapsed, name);
        assert!(found.ratio.interval[1] < 0.5 && found.ratio.value > 0.0, "{name}: {found:?}");
    }
    assert!(row(&collapsed, "precision").draws.value > 0.9);

    // Far away, nothing is right.
    let away = neighbours::compare(&(&train + 100.0), &heldout, &train, 1).unwrap();
    assert!(away.rows.iter().all(|row| row.draws.value == 0.0));
    assert!(neighbours::compare(&train.narrow(0, 0, 3), &heldout, &train, 1).is_err());
}

/// Blobs of two bands on sixteen pixels, each with a companion somewhere, so that they have an orientation.
fn blobs(name: &str, count: i64) -> Tensor {
    let mut values = Vec::new();
    for index in 0..count {
        let draw = Key::new(2, name, index as u32, Purpose::Galaxy, 0).uniform(8);
        for band in 0..2 {
            for pixel in 0..256 {
                let blob = |x: f64, y: f64, width: f64| {
                    let (dx, dy) = (f64::from(pixel % 16) - x, f64::from(pixel / 16) - y);
                    (-(dx * dx + dy * dy) / (2.0 * width * width)).exp()
                };
                let (x, y) = (6.0 + 3.0 * draw[0], 6.0 + 3.0 * draw[1]);
                let companion = blob(x + 6.0 * draw[2] - 3.0, y + 6.0 * draw[3] - 3.0, 0.8) * (0.3 + draw[4]);
                values.push((blob(x, y, 1.0 + draw[5]) + companion * (1.0 + f64::from(band) * draw[6])) as f32);
            }
        }
    }
    Tensor::from_slice(&values).view([count, 2, 16, 16])
}

#[test]
fn repeated_images_are_found_whatever_way_they_are_turned_and_shifted() {
    let (train, heldout) = (blobs("train", 30), blobs("held", 30));
    let found = memorisation::measure(&train, &train, &heldout, 1).unwrap();
    assert_eq!((found.probability.value, found.probability.interval), (1.0, [1.0; 2]));
    // Sums of 512 products in f32, of images with a square sum of some ten.
    assert!(found.median_to_train < 1e-3, "{found:?}");
    let turned = train.rot90(1, [2, 3]).flip([2]).roll([2, -2], [2, 3]);
    let found = memorisation::measure(&turned, &train, &heldout, 1).unwrap();
    assert_eq!(found.probability.value, 1.0);
    assert!(found.median_to_train < 1e-3 && found.median_to_heldout > 0.01, "{found:?}");
    assert_eq!(memorisation::measure(&turned, &heldout, &train, 1).unwrap().probability.value, 0.0);
    // Others of the same kind are as often near to either. The sd of 300 such choices is 0.03.
    let found = memorisation::measure(&blobs("new", 300), &train, &heldout, 1).unwrap();
    assert!((found.probability.value - 0.5).abs() < 0.15, "{found:?}");
    assert_eq!(memorisation::measure(&heldout, &train, &train, 1).unwrap().probability.value, 0.5);
}

#[test]
fn power_is_that_of_the_wave_and_of_white_noise() {
    let row = Tensor::arange(16, (Kind::Float, Device::Cpu)) * (std::f64::consts::TAU * 3.0 / 16.0);
    let wave = row.cos().view([1, 1, 1, 16]).repeat([4, 1, 16, 1]);
    let white = normal("white", 400, 256).view([400, 1, 16, 16]);
    let found = spectrum::spectra(&wave, &white, &(&white * 2.0), &["r".to_string()]).unwrap().remove(0);
    assert_eq!(found.wave_number.len(), 8);
    // Two frequencies of the ring of 16 hold all of the power, 256 * 256 / 2 in sum over 256.
    let members = (0..256).filter(|p| {
        let frequency = |i: i32| f64::from(if i > 8 { i - 16 } else { i });
        frequency(p / 16).hypot(frequency(p % 16)).round() == 3.0
    });
    let expected = 128.0 / members.count() as f64;
    assert!((found.draws[2] / expected - 1.0).abs() < 1e-4 && found.draws[3] < 1e-6, "{found:?}");
    // Unit variance is unit power at every wave number: 400 images of at least 8 frequencies give it to 2.5 %, four times.
    assert!(found.train.iter().all(|power| (power - 1.0).abs() < 0.1), "{found:?}");
    assert!(found.heldout_ratio().iter().all(|ratio| (ratio - 4.0).abs() < 1e-3));
}

#[test]
fn a_torchscript_network_is_used_and_wrong_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fn save(path: &Path, mut network: impl FnMut(&[Tensor]) -> Vec<Tensor>) {
        let example = Tensor::zeros([2, 3, 299, 299], (Kind::Float, Device::Cpu));
        let module = tch::CModule::create_by_tracing("net", "forward", &[example], &mut network).unwrap();
        module.save(path).unwrap();
    }
    let [means, flat] = ["means.pt", "flat.pt"].map(|name| folder.path().join(name));
    save(&means, |x| vec![x[0].mean_dim([2i64, 3].as_slice(), true, Kind::Float)]);
    let network = Inception::load(&means).unwrap();
    let images = Tensor::full([5, 3, 8, 8], 2.5, (Kind::Float, Device::Cpu));
    let _ = images.select(1, 0).fill_(10.0);
    let found = network.features(&images).unwrap();
    // Half of white, and what is brighter than white; the last band comes first.
    assert_eq!(found.size(), [5, 3]);
    assert_eq!(Vec::<f64>::try_from(found.get(0)).unwrap(), [0.5, 0.5, 1.0]);
    save(&flat, |x| vec![x[0].mean(Kind::Float)]);
    let error = Inception::load(&flat).unwrap().features(&images).unwrap_err().to_string();
    assert!(error.contains("flat.pt") && error.contains("[5, features]"), "{error}");
    let wrong = folder.path().join("wrong.pt");
    std::fs::write(&wrong, b"not a network").unwrap();
    for path in [wrong, folder.path().join("absent.pt")] {
        let error = Inception::load(&path).err().unwrap();
        assert!(error.exit_code() == 2 && error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn standardised_features_have_the_training_images_units() {
    let train = normal("train", 100, 3) * Tensor::from_slice(&[2.0f32, 5.0, 0.0]) + 7.0;
    let features = Features::standardised("x", &(&train + 10.0), &train, &train).unwrap();
    assert_eq!(features.train.size(), [100, 2], "what does not vary is left out");
    let sd = train.std_dim([0i64].as_slice(), true, false);
    let shift = (&features.draws - &features.train).mean_dim([0i64].as_slice(), false, Kind::Double);
    for column in 0..2 {
        let expected = 10.0 / sd.double_value(&[column]);
        assert!((shift.double_value(&[column]) / expected - 1.0).abs() < 1e-4);
    }
    let distance = frechet::squared(&features.draws, &features.train).unwrap();
    let expected = shift.square().sum(Kind::Double).double_value(&[]);
    assert!((distance / expected - 1.0).abs() < 1e-6, "a shift has the distance of its means: {distance} {expected}");
}
