use super::*;
use crate::random::{Key, Purpose};

/// Adjoint dot products, relative to the norms of both sides: rounding of the kind.
const ADJOINT_FLOAT: f64 = 1e-6;
const ADJOINT_DOUBLE: f64 = 1e-12;
/// The project's promise: simulated compact sources land where the WCS says.
const CENTROID: f64 = 0.01;
/// The project's promise on flux.
const FLUX: f64 = 1e-5;
/// HSC coadds.
const PITCH: f64 = 0.168;

fn random(shape: &[i64], seed: u64, kind: Kind) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values = Key::new(seed, "operator", 0, Purpose::Evaluation, 0).normal(count);
    Tensor::from_slice(&values).view(shape).to_kind(kind)
}

/// Two displaced Gaussians: no symmetry is left, x and y differ.
fn lopsided(height: usize, width: usize) -> Psf {
    let values: Vec<f64> = (0..height * width)
        .map(|index| {
            let x = (index % width) as f64 - (width / 2) as f64;
            let y = (index / width) as f64 - (height / 2) as f64;
            let gaussian = |cx: f64, cy: f64, s: f64| (-0.5 * ((x - cx).powi(2) + (y - cy).powi(2)) / (s * s)).exp();
            gaussian(0.0, 0.0, 1.8) + 0.5 * gaussian(1.7, 0.6, 1.9) + 0.2 * gaussian(-0.5, 2.1, 1.8)
        })
        .collect();
    Psf::new(&values, height, width, PITCH, true).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.contiguous().view(-1).to_kind(Kind::Double)).unwrap()
}

fn sinc(x: f64) -> f64 {
    if x.abs() < 1e-12 { 1.0 } else { (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x) }
}

/// The definition, term by term: sum_j F_j K(r_i - r_j), K the sinc interpolation of the kernel.
fn by_definition(field: &Field, psf: &Psf, flux: &[f64]) -> Vec<f64> {
    let n = field.size as usize;
    let [height, width] = psf.shape();
    let mut out = Vec::new();
    let weights = |distance: f64, size: usize| -> Vec<f64> {
        (0..size).map(|k| sinc(distance / psf.pitch() - (k as f64 - (size / 2) as f64))).collect()
    };
    for row in field.rows() {
        for column in field.columns() {
            let mut sum = 0.0;
            let across: Vec<Vec<f64>> = (0..n).map(|j| weights(column - j as f64 * field.prior_pitch, width)).collect();
            for jy in 0..n {
                let along = weights(row - jy as f64 * field.prior_pitch, height);
                for jx in (0..n).filter(|jx| flux[jy * n + jx] != 0.0) {
                    for (ky, y) in along.iter().enumerate() {
                        let line = &psf.values()[ky * width..(ky + 1) * width];
                        let value: f64 = line.iter().zip(&across[jx]).map(|(k, x)| k * x).sum();
                        sum += flux[jy * n + jx] * y * value;
                    }
                }
            }
            out.push(sum);
        }
    }
    out
}

#[test]
fn on_the_detectors_own_grid_it_is_the_plain_convolution() {
    let n = 16;
    for (height, width) in [(9, 11), (8, 10)] {
        let psf = lopsided(height, width);
        let target = [(n - 1) as f64 / 2.0; 2];
        let field = Field { size: n, prior_pitch: PITCH, detector_pitch: PITCH, target, shape: [n, n] };
        let flux = random(&[1, 1, n, n], 1, Kind::Double).abs();
        let f = values(&flux);
        let mut want = Vec::new();
        for iy in 0..n {
            for ix in 0..n {
                let mut sum = 0.0;
                for ky in 0..height as i64 {
                    for kx in 0..width as i64 {
                        let (jy, jx) = (iy - (ky - height as i64 / 2), ix - (kx - width as i64 / 2));
                        if (0..n).contains(&jy) && (0..n).contains(&jx) {
                            sum += psf.values()[(ky * width as i64 + kx) as usize] * f[(jy * n + jx) as usize];
                        }
                    }
                }
                want.push(sum);
            }
        }
        let peak = want.iter().copied().fold(0.0, f64::max);
        // f64 is exact but for rounding; f32 tables hold seven digits.
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
            let operator = SamplingOperator::new(&field, std::slice::from_ref(&psf), kind, Device::Cpu).unwrap();
            let got = values(&operator.apply(&flux.to_kind(kind)).unwrap());
            let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / peak;
            assert!(error < tolerance, "{kind:?} {height} x {width}: {error:e}");
        }
    }
}

#[test]
fn off_the_grid_it_is_the_definition() {
    // A few bright pixels on a finer grid, rectangular window, uneven position, kernel without any symmetry.
    let field = Field { size: 24, prior_pitch: 0.1, detector_pitch: PITCH, target: [6.3, 7.8], shape: [15, 13] };
    for (height, width) in [(27, 27), (26, 28)] {
        let psf = lopsided(height, width);
        let mut flux = vec![0.0; 24 * 24];
        flux[5 * 24 + 7] = 1.0;
        flux[15 * 24 + 11] = 2.0;
        flux[12 * 24 + 20] = 0.5;
        let want = by_definition(&field, &psf, &flux);
        let peak = want.iter().copied().fold(0.0, f64::max);
        let operator = SamplingOperator::new(&field, std::slice::from_ref(&psf), Kind::Double, Device::Cpu).unwrap();
        let got = values(&operator.apply(&Tensor::from_slice(&flux).view([1, 1, 24, 24])).unwrap());
        let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / peak;
        // The wings of the sinc beyond the period, as large as the kernel's power at the Nyquist frequency (1e-7)
        // and its cut at the border (1e-6).
        assert!(error < 1e-5, "{height} x {width}: {error:e}");
    }
}

/// A Gaussian of `sigma` prior pixels at (x, y) on the prior's grid, with unit flux.
fn compact(n: i64, x: f64, y: f64, sigma: f64) -> Tensor {
    let mut flux = Vec::new();
    for jy in 0..n {
        for jx in 0..n {
            flux.push((-0.5 * ((jx as f64 - x).powi(2) + (jy as f64 - y).powi(2)) / (sigma * sigma)).exp());
        }
    }
    let flux = Tensor::from_slice(&flux).view([1, 1, n, n]);
    &flux / flux.sum(Kind::Double)
}

/// From the sky to the detector and back: the source is put on the prior's grid, its sky position is what the product's WCS
/// says, and the image's WCS must have it where the simulated light is.
#[test]
fn compact_sources_keep_their_flux_and_land_where_they_should() {
    use crate::sky::{TanWcs, cosmology::theta_arcsec};
    let n = 64;
    let (sine, cosine) = 0.4f64.sin_cos();
    let degrees = PITCH / 3600.0;
    // An HSC tract, half a degree from its reference point; and a rotated, mirrored image.
    let tract = TanWcs { crval: [150.1, 2.2], crpix: [11_000.0, -9_000.0], cd: [[-degrees, 0.0], [0.0, degrees]] };
    let rotated = TanWcs {
        crval: [10.0, -40.0],
        crpix: [200.0, 190.0],
        cd: [[degrees * cosine, degrees * sine], [-degrees * sine, degrees * cosine]],
    };
    for (z, pixel_kpc) in [(0.05, 0.8), (0.22, 0.8), (0.85, 0.8), (0.22, 0.4)] {
        let theta = theta_arcsec(pixel_kpc, z).unwrap();
        for (wcs, size) in [(tract, 43), (rotated, 32)] {
            for (target, source) in
                [([200.0, 198.0], [31.5, 31.5]), ([200.37, 197.79], [32.8, 30.9]), ([200.5, 198.5], [31.0, 32.0])]
            {
                let pitch = wcs.at(target).unwrap().pixel_scale();
                let window = Field::window(target, [397, 401], n, theta, pitch).unwrap();
                assert!(window.field.is_whole());
                let psf = Psf::gaussian(size, 0.55, pitch).unwrap();
                let operator = SamplingOperator::new(&window.field, &[psf], Kind::Float, Device::Cpu).unwrap();
                let flux = compact(n, source[0], source[1], 1.3).to_kind(Kind::Float);
                let image = values(&operator.apply(&flux).unwrap());
                let width = window.field.shape[1] as usize;
                let total: f64 = image.iter().sum();
                assert!((total - 1.0).abs() < FLUX, "theta {theta}: flux {total}");
                let mean = |along: &dyn Fn(usize) -> f64| -> f64 {
                    image.iter().enumerate().map(|(index, value)| value * along(index)).sum::<f64>() / total
                };
                let x = mean(&|index| (index % width) as f64) + window.x as f64;
                let y = mean(&|index| (index / width) as f64) + window.y as f64;
                let product = wcs.product(target, n, theta).unwrap();
                let want = wcs.sky_to_pixel(product.pixel_to_sky(source)).unwrap();
                assert!((x - want[0]).abs() < CENTROID && (y - want[1]).abs() < CENTROID, "{z}: {x} {y} {want:?}");
            }
        }
    }
}

#[test]
fn adjoint_dot_products() {
    let psfs = [lopsided(21, 21), lopsided(20, 24), Psf::gaussian(43, 0.8, PITCH).unwrap()];
    for (theta, target, shape) in [(0.1, [18.3, 20.1], [39, 38]), (0.223, [41.2, 42.0], [85, 84])] {
        let field = Field { size: 64, prior_pitch: theta, detector_pitch: PITCH, target, shape };
        for (kind, tolerance) in [(Kind::Float, ADJOINT_FLOAT), (Kind::Double, ADJOINT_DOUBLE)] {
            let operator = SamplingOperator::new(&field, &psfs, kind, Device::Cpu).unwrap();
            let flux = random(&[2, 3, 64, 64], 2, kind);
            let data = random(&[2, 3, shape[0], shape[1]], 3, kind);
            let (forward, back) = (operator.apply(&flux).unwrap(), operator.adjoint(&data).unwrap());
            let dot = |a: &Tensor, b: &Tensor| (a.to_kind(Kind::Double) * b.to_kind(Kind::Double)).sum(Kind::Double);
            let (left, right) = (dot(&data, &forward).double_value(&[]), dot(&back, &flux).double_value(&[]));
            let norm = (dot(&data, &data) * dot(&forward, &forward)).sqrt().double_value(&[]);
            assert!((left - right).abs() < tolerance * norm, "{kind:?} {theta}: {:e}", (left - right).abs() / norm);
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_neighbours_in_the_batch() {
    let field = Field { size: 32, prior_pitch: 0.1, detector_pitch: PITCH, target: [9.0, 9.2], shape: [19, 19] };
    let operator = SamplingOperator::new(&field, &[lopsided(21, 21)], Kind::Float, Device::Cpu).unwrap();
    let flux = random(&[4, 1, 32, 32], 4, Kind::Float);
    let other = flux.copy();
    let _ = other.narrow(0, 1, 3).fill_(7.0);
    let first = operator.apply(&flux).unwrap().narrow(0, 0, 1);
    assert_eq!(first, operator.apply(&other).unwrap().narrow(0, 0, 1));
}

#[test]
fn wrong_shapes_and_pitches_are_errors() {
    let field = Field { size: 32, prior_pitch: 0.1, detector_pitch: PITCH, target: [9.0, 9.2], shape: [19, 19] };
    let operator = SamplingOperator::new(&field, &[lopsided(21, 21)], Kind::Float, Device::Cpu).unwrap();
    assert!(operator.apply(&random(&[1, 2, 32, 32], 5, Kind::Float)).is_err());
    assert!(operator.adjoint(&random(&[1, 1, 32, 32], 5, Kind::Float)).is_err());
    let other = Field { detector_pitch: 0.2, ..field };
    assert!(SamplingOperator::new(&other, &[lopsided(21, 21)], Kind::Float, Device::Cpu).is_err());
}

/// Not a test of correctness: prints the time of one product pair (`cargo test --release -- --ignored --nocapture`).
#[test]
#[ignore = "a measurement"]
fn time_of_a_pair() {
    tch::set_num_threads(1);
    let psfs = [lopsided(43, 43), lopsided(43, 43), lopsided(43, 43)];
    for (theta, m) in [(0.223, 85), (0.1, 39)] {
        let target = [(m - 1) as f64 / 2.0; 2];
        let field = Field { size: 64, prior_pitch: theta, detector_pitch: PITCH, target, shape: [m, m] };
        let start = std::time::Instant::now();
        let operator = SamplingOperator::new(&field, &psfs, Kind::Float, Device::Cpu).unwrap();
        println!("theta {theta}: tables {:?}", start.elapsed());
        let flux = random(&[16, 3, 64, 64], 6, Kind::Float);
        let mut times = Vec::new();
        for _ in 0..60 {
            let start = std::time::Instant::now();
            let data = operator.apply(&flux).unwrap();
            let middle = start.elapsed().as_secs_f64() * 1e3;
            let _back = operator.adjoint(&data).unwrap();
            times.push((start.elapsed().as_secs_f64() * 1e3, middle));
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        println!(
            "theta {theta}, m {m}: pair {:.2} ms (apply {:.2}) median, {:.2} best",
            times[30].0, times[30].1, times[0].0
        );
    }
}
