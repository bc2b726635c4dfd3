use super::super::edge::WEIGHT_FLOOR;
use super::*;
use crate::random::{Key, Purpose};

/// Adjoint dot products, relative to the norms of both sides: rounding of the kind.
pub(super) const ADJOINT_FLOAT: f64 = 1e-6;
pub(super) const ADJOINT_DOUBLE: f64 = 1e-12;
const PITCH: f64 = 0.168;
pub(super) const BANDS: i64 = 3;
pub(crate) const SIZE: i64 = 24;

pub(super) fn random(shape: &[i64], step: u32, kind: Kind) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values = Key::new(1, "galaxy", 0, Purpose::Evaluation, step).normal(count);
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

pub(super) fn field() -> Field {
    Field::window([20.3, 19.8], [40, 44], SIZE, 0.11, PITCH).unwrap().field
}

pub(crate) fn input(kind: Kind, amplitudes: i64, correlated: bool) -> GalaxyLikelihoodInput {
    let field = field();
    let [my, mx] = field.shape;
    let shape = [BANDS, my, mx];
    let mask = random(&shape, 20, Kind::Float).gt(-1.2).to_kind(Kind::Float);
    let sky_noise = if correlated {
        let [py, px] = [my + 5, mx + 4];
        let k = |count: i64| {
            (Tensor::arange(count, (Kind::Double, Device::Cpu)) * (std::f64::consts::TAU / count as f64)).cos()
        };
        let power = (k(py).view([1, -1, 1]) + k(px).view([1, 1, -1]) * 1.3 + 2.5) * 0.1;
        SkyNoise::Correlated { power: power.expand([BANDS, py, px], false).contiguous() }
    } else {
        SkyNoise::White { variance: random(&shape, 21, Kind::Float).square() + 0.1 }
    };
    GalaxyLikelihoodInput {
        object: "test".into(),
        field,
        data: random(&shape, 22, Kind::Float) * 2.0,
        mask,
        sky_noise,
        gain: Some(vec![10.0, 20.0, 30.0]),
        relative_error: 0.02,
        psfs: vec![
            Psf::gaussian(21, 0.6, PITCH).unwrap(),
            Psf::gaussian(20, 0.7, PITCH).unwrap(),
            Psf::gaussian(15, 0.5, PITCH).unwrap(),
        ],
        stretch: Stretch::Asinh { scale: 0.02 },
        reference: (amplitudes == 1).then_some(1),
        colours: (amplitudes == 1).then(|| vec![0.7, 1.0, 1.6]),
        nuisance: NuisancePrior {
            ln_amplitude_mean: Tensor::zeros([amplitudes], (Kind::Float, Device::Cpu)),
            ln_amplitude_sd: Tensor::ones([amplitudes], (Kind::Float, Device::Cpu)),
            sky_sd: Tensor::ones([BANDS], (Kind::Float, Device::Cpu)),
        },
        down_weight_edges: true,
        device: Device::Cpu,
        kind,
    }
}

pub(crate) fn latent(batch: i64, amplitudes: i64, step: u32, kind: Kind) -> Latent {
    Latent {
        // Bright on the whole, as galaxies are: the total flux must be positive.
        image: random(&[batch, BANDS, SIZE, SIZE], step, kind) + 1.0,
        ln_amplitude: random(&[batch, amplitudes], step + 1, kind),
        sky: random(&[batch, BANDS], step + 2, kind),
    }
}

pub(super) fn dot(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Double) * b.to_kind(Kind::Double)).sum(Kind::Double).double_value(&[])
}

pub(super) fn latent_dot(a: &Latent, b: &Latent) -> f64 {
    dot(&a.image, &b.image) + dot(&a.ln_amplitude, &b.ln_amplitude) + dot(&a.sky, &b.sky)
}

#[test]
fn jacobian_and_covariance_adjoints() {
    for amplitudes in [1, BANDS] {
        for correlated in [false, true] {
            for (kind, tolerance) in [(Kind::Float, ADJOINT_FLOAT), (Kind::Double, ADJOINT_DOUBLE)] {
                let likelihood = GalaxyLikelihood::new(input(kind, amplitudes, correlated)).unwrap();
                let at = likelihood.linearize(&latent(2, amplitudes, 1, kind)).unwrap();
                let direction = latent(2, amplitudes, 5, kind);
                let vector = random(&at.prediction().size(), 9, kind);
                let forward = at.apply(&direction).unwrap();
                let back = at.adjoint(&vector).unwrap();
                assert_eq!(back.ln_amplitude.size(), [2, amplitudes]);
                let error = (dot(&vector, &forward) - latent_dot(&back, &direction)).abs();
                let norm = (dot(&vector, &vector) * dot(&forward, &forward)).sqrt();
                assert!(error < tolerance * norm, "J {kind:?} {amplitudes}: {:e}", error / norm);

                let other = random(&at.prediction().size(), 10, kind);
                let (left, right) = (at.covariance(&vector).unwrap(), at.covariance(&other).unwrap());
                let error = (dot(&other, &left) - dot(&vector, &right)).abs();
                let norm = (dot(&other, &other) * dot(&left, &left)).sqrt();
                assert!(error < tolerance * norm, "Sigma {kind:?} {correlated}: {:e}", error / norm);
                assert!(dot(&vector, &left) > 0.0);
            }
        }
    }
}

#[test]
fn jacobian_is_the_derivative_of_the_prediction() {
    for amplitudes in [1, BANDS] {
        let likelihood = GalaxyLikelihood::new(input(Kind::Double, amplitudes, false)).unwrap();
        let (point, direction) = (latent(2, amplitudes, 1, Kind::Double), latent(2, amplitudes, 5, Kind::Double));
        let h = 1e-5;
        let moved = |sign: f64| Latent {
            image: &point.image + &direction.image * (sign * h),
            ln_amplitude: &point.ln_amplitude + &direction.ln_amplitude * (sign * h),
            sky: &point.sky + &direction.sky * (sign * h),
        };
        let up = likelihood.predict(&moved(1.0)).unwrap();
        let down = likelihood.predict(&moved(-1.0)).unwrap();
        let want = (up - down) / (2.0 * h);
        let at = likelihood.linearize(&point).unwrap();
        let got = at.apply(&direction).unwrap();
        let error = (&got - &want).abs().max().double_value(&[]) / want.abs().max().double_value(&[]);
        // Central differences: h^2 and rounding 1e-16 / h.
        assert!(error < 1e-8, "{error:e}");
        assert_eq!(at.prediction(), &likelihood.predict(&point).unwrap());
    }
}

#[test]
fn masked_pixels_have_no_weight() {
    for correlated in [false, true] {
        let mut input = input(Kind::Float, 1, correlated);
        // What is in a masked pixel must not matter.
        input.data = input.data.where_self(&input.mask.gt(0.0), &Tensor::from(f32::NAN));
        let likelihood = GalaxyLikelihood::new(input).unwrap();
        let at = likelihood.linearize(&latent(2, 1, 1, Kind::Float)).unwrap();
        let masked: Tensor = 1.0 - likelihood.mask();
        let vector = random(&at.prediction().size(), 9, Kind::Float);
        let noise = BlockNoise::new(1, "galaxy", 0, 2);
        for tensor in [
            &(likelihood.data() * &masked),
            &(at.prediction() * &masked),
            &(at.apply(&latent(2, 1, 5, Kind::Float)).unwrap() * &masked),
            &(at.covariance(&vector).unwrap() * &masked),
            &(at.noise(&noise, 0).unwrap() * &masked),
            &((at.variance() - 1.0) * &masked),
        ] {
            assert_eq!(tensor.abs().max().double_value(&[]), 0.0);
        }
        let hidden = at.adjoint(&(&vector * &masked)).unwrap();
        assert_eq!(hidden.image.abs().max().double_value(&[]), 0.0);
        assert_eq!(hidden.sky.abs().max().double_value(&[]), 0.0);
    }
}

#[test]
fn the_edge_is_down_weighted_and_the_middle_is_not() {
    let psf = Psf::gaussian(21, 0.6, PITCH).unwrap();
    let field = Field::window([30.0, 30.0], [61, 61], 64, 0.11, PITCH).unwrap().field;
    let factor = edge_inflation(&field, std::slice::from_ref(&psf)).unwrap();
    let [my, mx] = field.shape;
    assert_eq!(factor.double_value(&[0, my / 2, mx / 2]), 1.0);
    let radius = psf.encircled_energy_radius(0.99);
    for (index, position) in field.columns().iter().enumerate() {
        let distance = (position + 0.055).min(63.5 * 0.11 - position);
        let value = factor.double_value(&[0, my / 2, index as i64]);
        assert!(if distance >= radius { value == 1.0 } else { value >= 1.0 }, "{distance}: {value}");
        assert!(distance > 0.05 || value > 10.0, "{distance}: {value}");
    }
    // A corner is as bad as its two edges together.
    let corner = factor.double_value(&[0, 0, 0]);
    assert!(corner >= factor.double_value(&[0, 0, mx / 2]) && corner <= WEIGHT_FLOOR.powi(-2) * 1.0001);
}

#[test]
fn unusable_data_is_the_objects_own_trouble() {
    let mut holes = input(Kind::Float, 1, false);
    holes.data = holes.data.f_full_like(f64::NAN).unwrap();
    let mut hidden = input(Kind::Float, 1, false);
    hidden.mask = hidden.mask.zeros_like();
    let mut sky = input(Kind::Float, 1, false);
    sky.sky_noise = SkyNoise::White { variance: sky.mask.zeros_like() };
    for (input, word) in [(holes, "finite"), (hidden, "no usable pixel"), (sky, "positive")] {
        let error = GalaxyLikelihood::new(input).unwrap_err();
        assert!(matches!(&error, Error::Object { object, what } if object == "test" && what.contains(word)), "{error}");
    }
}
