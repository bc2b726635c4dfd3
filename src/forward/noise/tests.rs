use super::*;
use crate::random::{Key, Purpose};

fn random(shape: &[i64], step: u32, kind: Kind) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values = Key::new(4, "noise", 0, Purpose::Evaluation, step).normal(count);
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

/// A spectrum with power at low frequencies, uneven in x and y and along the diagonals.
fn power(py: i64, px: i64) -> Tensor {
    let angle =
        |count: i64| Tensor::arange(count, (Kind::Double, Device::Cpu)) * (std::f64::consts::TAU / count as f64);
    let (y, x) = (angle(py).view([1, -1, 1]), angle(px).view([1, 1, -1]));
    // Covariances at lags (0,0), (1,0), (0,1) and (1,1): positive because the factors are below the mean's half.
    let shape = y.cos() * 0.5 + x.cos() * 0.7 + (&y + &x).cos() * 0.3 + 1.6;
    Tensor::cat(&[&shape * 2.0, shape], 0)
}

/// Covariance of that spectrum at a lag.
fn covariance_at_lag(band: usize, dy: i64, dx: i64) -> f64 {
    let scale = if band == 0 { 2.0 } else { 1.0 };
    scale
        * match (dy, dx) {
            (0, 0) => 1.6,
            (1, 0) | (-1, 0) => 0.25,
            (0, 1) | (0, -1) => 0.35,
            (1, 1) | (-1, -1) => 0.15,
            _ => 0.0,
        }
}

fn model(kind: Kind, mask: &Tensor) -> NoiseModel {
    NoiseModel::new(&NoiseInput {
        sky: &SkyNoise::Correlated { power: power(11, 10) },
        mask: &mask.to_kind(kind),
        inflation: None,
        gain: Some(&[4.0, 5.0]),
        relative_error: 0.1,
    })
    .unwrap()
}

/// Sigma as a dense matrix, from its definition.
fn dense(mask: &[f64], light: &[f64], [my, mx]: [i64; 2]) -> Vec<f64> {
    let pixels = (my * mx) as usize;
    let mut sigma = vec![0.0; 2 * pixels * pixels];
    for band in 0..2 {
        for i in 0..pixels {
            for j in 0..pixels {
                let (dy, dx) = (i as i64 / mx - j as i64 / mx, i as i64 % mx - j as i64 % mx);
                let mut value = covariance_at_lag(band, dy, dx);
                if i == j {
                    let light = light[band * pixels + i].max(0.0);
                    value += light / [4.0, 5.0][band] + (0.1 * light).powi(2);
                }
                sigma[(band * pixels + i) * pixels + j] = value * mask[band * pixels + i] * mask[band * pixels + j];
            }
        }
    }
    sigma
}

#[test]
fn correlated_covariance_is_the_dense_one() {
    let [my, mx] = [9, 8];
    let mask = random(&[2, my, mx], 0, Kind::Double).gt(-1.0).to_kind(Kind::Double);
    let light = random(&[1, 2, my, mx], 1, Kind::Double) * 3.0;
    let covariance = model(Kind::Double, &mask).at(&light, None).unwrap();
    let list = |t: &Tensor| Vec::<f64>::try_from(t.contiguous().view(-1)).unwrap();
    let sigma = Tensor::from_slice(&dense(&list(&mask), &list(&light), [my, mx])).view([2, my * mx, my * mx]);
    let vector = random(&[1, 2, my, mx], 2, Kind::Double);
    let want = sigma.bmm(&vector.view([2, my * mx, 1])).view([1, 2, my, mx]);
    let got = covariance.apply(&vector).unwrap();
    // f64 rounding of the transforms.
    assert!((&got - &want).abs().max().double_value(&[]) < 1e-12);
    let diagonal: Tensor = sigma.diagonal(0, 1, 2).contiguous().view([1, 2, my, mx]) + (1.0 - &mask);
    let error: Tensor = covariance.variance() - diagonal;
    assert!(error.abs().max().double_value(&[]) < 1e-12);
}

#[test]
fn draws_have_the_covariance() {
    let [my, mx] = [6, 5];
    let mask = random(&[2, my, mx], 3, Kind::Double).gt(-1.0).to_kind(Kind::Double);
    let light = random(&[1, 2, my, mx], 1, Kind::Double) * 3.0;
    let list = |t: &Tensor| Vec::<f64>::try_from(t.contiguous().view(-1)).unwrap();
    let count = 20_000;
    let noise = BlockNoise::new(1, "draws", 0, count as u32);
    let draws = model(Kind::Double, &mask).at(&light, None).unwrap().draw(&noise, 0).unwrap();
    assert_eq!(draws.size(), [count, 2, my, mx]);
    let sigma = Tensor::from_slice(&dense(&list(&mask), &list(&light), [my, mx])).view([2, my * mx, my * mx]);
    let flat = draws.view([count, 2, my * mx]).transpose(0, 1);
    let got = flat.transpose(1, 2).bmm(&flat) / count as f64;
    // Standard error of an element is below its largest variance (about 6) times sqrt(2 / count) = 0.06; the largest of
    // 1800 elements is within five.
    let scale = sigma.max().double_value(&[]) * (2.0 / count as f64).sqrt();
    assert!((got - sigma).abs().max().double_value(&[]) < 5.0 * scale);
}

#[test]
fn white_draws_have_the_variance_and_depend_on_the_sample_only() {
    let shape = [1, 4, 4];
    let mask = Tensor::ones(shape, (Kind::Float, Device::Cpu));
    let variance = random(&shape, 5, Kind::Float).square() + 0.2;
    let model = NoiseModel::new(&NoiseInput {
        sky: &SkyNoise::White { variance: variance.shallow_clone() },
        mask: &mask,
        inflation: None,
        gain: None,
        relative_error: 0.0,
    })
    .unwrap();
    let covariance = model.at(&Tensor::zeros([1, 1, 4, 4], (Kind::Float, Device::Cpu)), None).unwrap();
    let draws = covariance.draw(&BlockNoise::new(1, "white", 0, 20_000), 2).unwrap();
    let ratio = draws.square().mean_dim(0, false, Kind::Float) / &variance;
    // Five standard errors, sqrt(2 / 20000) = 0.01.
    assert!((ratio - 1.0).abs().max().double_value(&[]) < 0.05);
    let later = covariance.draw(&BlockNoise::new(1, "white", 7, 2), 2).unwrap();
    assert_eq!(later, draws.narrow(0, 7, 2));
}

#[test]
fn grids_are_large_enough_and_smooth() {
    assert_eq!([correlated_grid(85, 8), correlated_grid(39, 8), correlated_grid(1, 0)], [96, 48, 1]);
    assert_eq!(correlated_grid(300, 16), 320);
}

#[test]
fn a_spectrum_that_cannot_be_is_refused() {
    let mask = Tensor::ones([2, 9, 8], (Kind::Float, Device::Cpu));
    let refused = |power: Tensor, word: &str| {
        let sky = SkyNoise::Correlated { power };
        let input = NoiseInput { sky: &sky, mask: &mask, inflation: None, gain: None, relative_error: 0.0 };
        let error = NoiseModel::new(&input).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(power(8, 10), "at least 9 x 8");
    refused(power(11, 10) - 5.0, "not negative");
    refused(power(11, 10) * f64::NAN, "finite");
    refused(Tensor::zeros([2, 11, 10], (Kind::Double, Device::Cpu)), "positive");
}

/// Not a test of correctness: prints the time of one product with the correlated covariance.
#[test]
#[ignore = "a measurement"]
fn time_of_a_correlated_product() {
    tch::set_num_threads(1);
    for (m, padded) in [(85, 96), (39, 48), (85, 91)] {
        let mask = Tensor::ones([2, m, m], (Kind::Float, Device::Cpu));
        let sky = SkyNoise::Correlated { power: power(padded, padded) };
        let input = NoiseInput { sky: &sky, mask: &mask, inflation: None, gain: None, relative_error: 0.01 };
        let vector = random(&[24, 2, m, m], 7, Kind::Float);
        let covariance = NoiseModel::new(&input).unwrap().at(&vector, None).unwrap();
        let mut times: Vec<f64> = (0..40)
            .map(|_| {
                let start = std::time::Instant::now();
                let _out = covariance.apply(&vector).unwrap();
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("m {m}, grid {padded}: {:.2} ms median, {:.2} best (48 images)", times[20], times[0]);
        let noise = BlockNoise::new(1, "time", 0, 24);
        let start = std::time::Instant::now();
        let _draw = covariance.draw(&noise, 0).unwrap();
        println!("draw {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
    }
}

/// Largest over smallest eigenvalue of Q Sigma with Q the approximate inverse, and with Q the inverse diagonal.
fn condition_numbers(covariance: &Covariance, mask: &Tensor) -> (f64, f64) {
    let pixels = mask.numel() as i64;
    let eye =
        Tensor::eye(pixels, (Kind::Double, Device::Cpu)).view([pixels, mask.size()[0], mask.size()[1], mask.size()[2]]);
    // Masked pixels are left out: both operators are zero there.
    let used = mask.view(-1).nonzero().view(-1);
    let square = |t: Tensor| t.view([pixels, pixels]).index_select(0, &used).index_select(1, &used);
    let sigma = square(covariance.apply(&eye).unwrap());
    let precision = square(covariance.precision(&eye).unwrap());
    let asymmetry = (&precision - precision.tr()).abs().max().double_value(&[]);
    assert!(asymmetry < 1e-12, "{asymmetry}");
    let condition = |q: &Tensor| {
        let root = q.linalg_cholesky(false); // Fails where Q is not positive.
        let values = root.tr().matmul(&sigma).matmul(&root).linalg_eigvalsh("L");
        values.max().double_value(&[]) / values.min().double_value(&[])
    };
    let diagonal = square(eye / covariance.variance());
    (condition(&precision), condition(&diagonal))
}

/// The sky alone, and with light in a part of the field that is far above, near and below the sky.
#[test]
fn the_approximate_inverse_is_close_to_the_inverse() {
    let mask = random(&[2, 16, 15], 0, Kind::Double).gt(-1.5).to_kind(Kind::Double);
    let model = NoiseModel::new(&NoiseInput {
        sky: &SkyNoise::Correlated { power: power(24, 24) },
        mask: &mask,
        inflation: None,
        gain: None,
        relative_error: 0.1,
    })
    .unwrap();
    let dark = Tensor::zeros([1, 2, 16, 15], (Kind::Double, Device::Cpu));
    let ramp = (Tensor::arange(15, (Kind::Double, Device::Cpu)) * 0.5 - 1.0).exp().expand([1, 2, 16, 15], false);
    for (light, most) in [(dark, 4.0), (ramp, 6.0)] {
        let (ours, diagonal) = condition_numbers(&model.at(&light, None).unwrap(), &mask);
        assert!(ours < most && ours < 0.5 * diagonal, "{ours}, with the diagonal alone {diagonal}");
    }
}

#[test]
fn the_inverse_of_a_diagonal_covariance_is_exact() {
    let mask = random(&[2, 5, 4], 0, Kind::Double).gt(-1.0).to_kind(Kind::Double);
    let variance = random(&[2, 5, 4], 1, Kind::Double).square() + 0.1;
    let model = NoiseModel::new(&NoiseInput {
        sky: &SkyNoise::White { variance },
        mask: &mask,
        inflation: None,
        gain: None,
        relative_error: 0.1,
    })
    .unwrap();
    let covariance = model.at(&random(&[3, 2, 5, 4], 2, Kind::Double), None).unwrap();
    let vector = random(&[3, 2, 5, 4], 3, Kind::Double);
    let back = covariance.precision(&covariance.apply(&vector).unwrap()).unwrap();
    assert!((back - vector * mask).abs().max().double_value(&[]) < 1e-12);
}
