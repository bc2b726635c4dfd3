use tch::{Device, Kind};

use super::super::tests::{ADJOINT_DOUBLE, ADJOINT_FLOAT, BANDS, SIZE, dot, input, latent, latent_dot, random};
use super::*;
use crate::forward::{GalaxyLikelihoodInput, Psf};
use crate::random::BlockNoise;

/// Smaller, equal and larger fields than that of the window (0.11 arcsec): by what photometric redshifts are off.
const PITCHES: [f64; 3] = [0.085, 0.11, 0.14];
/// Sums of a few thousand products in f64, relative to the largest value.
const ROUNDING: f64 = 1e-11;

/// An observation whose first PSF is off its centre, so that a transfer function and its conjugate differ.
fn observed(kind: Kind, correlated: bool) -> GalaxyLikelihoodInput {
    let mut input = input(kind, 1, correlated);
    let mut values = input.psfs[0].values().to_vec();
    values.rotate_right(1);
    let [height, width] = input.psfs[0].shape();
    input.psfs[0] = Psf::new(&values, height, width, input.field.detector_pitch, true).unwrap();
    input
}

fn apart(left: &Tensor, right: &Tensor) -> f64 {
    (left - right).abs().max().double_value(&[]) / right.abs().max().double_value(&[])
}

/// Sample `index` of a batch.
fn one(latent: &Latent, index: i64) -> Latent {
    let narrow = |tensor: &Tensor| tensor.narrow(0, index, 1);
    Latent { image: narrow(&latent.image), ln_amplitude: narrow(&latent.ln_amplitude), sky: narrow(&latent.sky) }
}

#[test]
fn adjoints_of_samples_with_redshifts_of_their_own() {
    for correlated in [false, true] {
        for (kind, tolerance) in [(Kind::Float, ADJOINT_FLOAT), (Kind::Double, ADJOINT_DOUBLE)] {
            let likelihood = GalaxyLikelihood::new(observed(kind, correlated)).unwrap().for_pitches(&PITCHES).unwrap();
            let at = likelihood.linearize(&latent(3, 1, 1, kind)).unwrap();
            let direction = latent(3, 1, 5, kind);
            let vector = random(&at.prediction().size(), 9, kind);
            let (forward, back) = (at.apply(&direction).unwrap(), at.adjoint(&vector).unwrap());
            let error = (dot(&vector, &forward) - latent_dot(&back, &direction)).abs();
            let norm = (dot(&vector, &vector) * dot(&forward, &forward)).sqrt();
            assert!(error < tolerance * norm, "J {kind:?}: {:e}", error / norm);
            let other = random(&at.prediction().size(), 10, kind);
            let (left, right) = (at.covariance(&vector).unwrap(), at.covariance(&other).unwrap());
            let error = (dot(&other, &left) - dot(&vector, &right)).abs();
            let norm = (dot(&other, &other) * dot(&left, &left)).sqrt();
            assert!(error < tolerance * norm, "Sigma {kind:?} {correlated}: {:e}", error / norm);
        }
    }
}

/// What a batch gives for a sample is what a likelihood of that redshift alone, on the same window, gives.
#[test]
fn a_sample_of_a_batch_is_that_of_its_own_redshift() {
    for correlated in [false, true] {
        let made = || observed(Kind::Double, correlated);
        let batch = GalaxyLikelihood::new(made()).unwrap().for_pitches(&PITCHES).unwrap();
        let (point, direction) = (latent(3, 1, 1, Kind::Double), latent(3, 1, 5, Kind::Double));
        let at = batch.linearize(&point).unwrap();
        let (images, vector) = (at.apply(&direction).unwrap(), random(&at.prediction().size(), 9, Kind::Double));
        let back = at.adjoint(&vector).unwrap();
        for (index, pitch) in PITCHES.into_iter().enumerate() {
            let field = Field { prior_pitch: pitch, ..made().field };
            let alone = GalaxyLikelihood::new(GalaxyLikelihoodInput { field, ..made() }).unwrap();
            let index = index as i64;
            let of = |tensor: &Tensor| tensor.narrow(0, index, 1);
            let here = alone.linearize(&one(&point, index)).unwrap();
            let own = here.adjoint(&of(&vector)).unwrap();
            for (name, found, want) in [
                ("prediction", of(at.prediction()), here.prediction().shallow_clone()),
                ("predict", of(&batch.predict(&point).unwrap()), here.prediction().shallow_clone()),
                ("J", of(&images), here.apply(&one(&direction, index)).unwrap()),
                ("J^T", of(&back.image), own.image),
                ("J^T, amplitude", of(&back.ln_amplitude), own.ln_amplitude),
                ("variance", of(at.variance()), here.variance().shallow_clone()),
                ("Sigma", of(&at.covariance(&vector).unwrap()), here.covariance(&of(&vector)).unwrap()),
                ("about 1 / Sigma", of(&at.precision(&vector).unwrap()), here.precision(&of(&vector)).unwrap()),
            ] {
                assert!(apart(&found, &want) < ROUNDING, "{name}, {pitch}: {:e}", apart(&found, &want));
            }
            let noise = |first: u32, count: u32| BlockNoise::new(1, "galaxy", first, count);
            let want = here.noise(&noise(index as u32, 1), 0).unwrap();
            assert!(apart(&of(&at.noise(&noise(0, 3), 0).unwrap()), &want) < ROUNDING);
        }
        let wrong = batch.predict(&latent(2, 1, 1, Kind::Double)).unwrap_err().to_string();
        assert!(wrong.contains("expected [3, 3, 24, 24]"), "{wrong}");
    }
}

/// Beyond a sample's own field there is no model: pixels there hardly count, and those of the others do.
#[test]
fn pixels_beyond_a_samples_field_hardly_count() {
    let made = |edges: bool| {
        let input = input(Kind::Double, 1, false);
        GalaxyLikelihoodInput { mask: input.mask.ones_like(), down_weight_edges: edges, ..input }
    };
    let flat = GalaxyLikelihood::new(made(false)).unwrap();
    let reference = GalaxyLikelihood::new(made(true)).unwrap();
    let batch = reference.for_pitches(&PITCHES).unwrap();
    let covered = batch.own().covered();
    assert_eq!(covered.size()[0], 3);
    let share = |index: i64| covered.get(index).mean(Kind::Double).double_value(&[]);
    // The field is 0.085 / 0.11 of the window on each side; windows begin and end at pixels.
    assert!((share(0) - (0.085f64 / 0.11).powi(2)).abs() < 0.1, "{}", share(0));
    assert_eq!((share(1), share(2)), (1.0, 1.0));
    let double = (Kind::Double, Device::Cpu);
    let dark = Latent {
        image: Tensor::ones([3, BANDS, SIZE, SIZE], double) * 1e-9,
        ln_amplitude: Tensor::zeros([3, 1], double) - 30.0,
        sky: Tensor::zeros([3, BANDS], double),
    };
    let variance = batch.linearize(&dark).unwrap().variance() / flat.linearize(&dark).unwrap().variance();
    let beyond = variance.get(0).masked_select(&covered.get(0).eq(0.0));
    // The least weight is 0.05; in the middle of an edge pixel a little more may be left.
    assert!(beyond.min().double_value(&[]) > 100.0, "{}", beyond.min());
    let [my, mx] = made(true).field.shape;
    let middle = variance.narrow(2, my / 2, 1).narrow(3, mx / 2, 1);
    // In the smallest field the PSF's wings reach from its edge to its middle. The light is 1e-13 of the noise.
    assert!(middle.get(0).max().double_value(&[]) < INNER, "{}", middle.get(0).max());
    assert!((middle.narrow(0, 1, 2) - 1.0).abs().max().double_value(&[]) < 1e-9, "{middle}");
    // What is said of all samples together uses the smallest field.
    let common = reference.down_weighted_for(PITCHES[0]).unwrap();
    let light = Tensor::zeros([1, BANDS, my, mx], (Kind::Double, Device::Cpu));
    let found = common.variance_of(&light).unwrap() / flat.variance_of(&light).unwrap();
    assert!(apart(&found.get(0), &variance.get(0)) < 1e-6);
    assert!(common.inner().sum(Kind::Double).double_value(&[]) < reference.inner().sum(Kind::Double).double_value(&[]));
    // The preconditioner is told: each pitch is a group of its own here, of that pitch.
    let groups = batch.groups();
    assert_eq!(groups.len(), 3);
    for (index, group) in groups.iter().enumerate() {
        assert_eq!(Vec::<i64>::try_from(group.samples).unwrap(), [index as i64]);
        assert!(apart(group.weights, &group.weights.ones_like()) < 1e-9);
    }
}

/// Samples of similar redshifts share a likelihood, of the middle of theirs, whose edges count as much less as theirs do.
#[test]
fn groups_hold_samples_of_similar_redshifts() {
    assert_eq!(groups(&[0.2, 0.1, 0.105, 0.3, 0.21]), [vec![1, 2], vec![0, 4], vec![3]]);
    assert_eq!(groups(&[0.1]), [[0]]);
    let made = || observed(Kind::Double, false);
    let pitches = [0.13, 0.105, 0.1, 0.131];
    let batch = GalaxyLikelihood::new(made()).unwrap().for_pitches(&pitches).unwrap();
    let (point, direction) = (latent(4, 1, 1, Kind::Double), latent(4, 1, 5, Kind::Double));
    let own = batch.own().linearize(&point).unwrap();
    let images = own.apply(&direction).unwrap();
    for (group, samples) in batch.groups().iter().zip([[1i64, 2], [0, 3]]) {
        assert_eq!(Vec::<i64>::try_from(group.samples).unwrap(), samples);
        for (place, sample) in samples.into_iter().enumerate() {
            let at = group.likelihood.linearize(&one(&point, sample)).unwrap();
            let error = apart(&at.apply(&one(&direction, sample)).unwrap(), &images.narrow(0, sample, 1));
            assert!((1e-6..0.2).contains(&error), "{sample}: {error}");
            let dark = |likelihood: &dyn Likelihood, count: i64| {
                let mut dark = latent(count, 1, 1, Kind::Double);
                dark.ln_amplitude = dark.ln_amplitude * 0.0 - 60.0;
                likelihood.linearize(&dark).unwrap().variance().shallow_clone()
            };
            let ratio = dark(group.likelihood, 1) / dark(batch.own(), 4).narrow(0, sample, 1);
            let used = batch.mask() * group.weights.get(place as i64).square();
            assert!(apart(&(ratio * batch.mask()), &used) < 1e-9, "{sample}");
        }
    }
}
