//! The table against denoisers whose errors are known.

use super::*;
use crate::prior::analytic::GaussianDenoiser;
use crate::random::Key;

const SIZE: i64 = 16;

/// A few smooth modes and a diagonal; all of it where `inside` is one.
fn gaussian(inside: &Tensor) -> Covariance {
    let pixels = SIZE * SIZE;
    let white = Key::new(4, "spread test", 0, Purpose::Evaluation, 0).normal((6 * pixels) as usize);
    let (q, _) = Tensor::linalg_qr(&Tensor::from_slice(&white).view([pixels, 6]), "reduced");
    let variances = Tensor::from_slice(&[9.0f32, 6.0, 4.0, 3.0, 2.0, 1.0]);
    let diagonal: Tensor = inside.view([pixels]) * 0.2 + 1e-3;
    let components = q.tr() * inside.view([1, pixels]);
    let zero = Tensor::zeros([pixels], (Kind::Float, Device::Cpu));
    Covariance::new([1, SIZE, SIZE], zero, components, variances, diagonal).unwrap()
}

#[test]
fn a_gaussian_prior_needs_no_scaling() {
    let everywhere = Tensor::ones([SIZE, SIZE], (Kind::Float, Device::Cpu));
    let covariance = gaussian(&everywhere);
    let draws = covariance.draw(1e-3, &BlockNoise::new(2, "draws", 0, 2000), 0).unwrap();
    let denoiser = GaussianDenoiser::new(gaussian(&everywhere));
    let spread = Spread::measure(&denoiser, &covariance, &draws, [0.1, 5.0], 3, 500).unwrap();
    let worst = spread.ln_factors.abs().max().double_value(&[]);
    // The least populated node has 0.2 % of 512,000 correlated pixels, and the reference has 512 draws.
    assert!(worst < 0.1, "{worst}");
}

/// The prior's galaxies fill half of the field only, on the left; its Gaussian is believed to fill it all.
#[test]
fn where_the_network_is_sure_the_covariance_shrinks() {
    let half = Tensor::cat(
        &[
            Tensor::ones([SIZE, SIZE / 2], (Kind::Float, Device::Cpu)),
            Tensor::zeros([SIZE, SIZE / 2], (Kind::Float, Device::Cpu)),
        ],
        1,
    );
    let everywhere = Tensor::ones([SIZE, SIZE], (Kind::Float, Device::Cpu));
    let draws = gaussian(&half).draw(1e-3, &BlockNoise::new(2, "draws", 0, 500), 0).unwrap() + &half * 10.0;
    struct Shifted(GaussianDenoiser, Tensor);
    impl Denoiser for Shifted {
        fn shape(&self) -> [i64; 3] {
            self.0.shape()
        }
        fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
            Ok(self.0.denoise(&(x - &self.1), sigma)? + &self.1)
        }
        fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
            self.denoise(x, sigma)
        }
        fn flops(&self) -> f64 {
            self.0.flops()
        }
    }
    let denoiser = Shifted(GaussianDenoiser::new(gaussian(&half)), &half * 10.0);
    let spread = Spread::measure(&denoiser, &gaussian(&everywhere), &draws, [0.1, 5.0], 3, 500).unwrap();
    let factor = spread.tell(0.7, &draws.narrow(0, 0, 4)).unwrap().factor;
    // Away from the border, which the blur smears.
    let mean = |first: i64| factor.narrow(3, first, 5).mean(Kind::Float).double_value(&[]);
    let (left, right) = (mean(1), mean(10));
    assert!((left - 1.0).abs() < 0.15, "{left}");
    assert!(right < 0.35, "{right}");
}

/// A denoiser D = 2 R where R is right: x0 is D / 2 on average.
#[test]
fn what_the_network_is_off_by_is_measured() {
    struct Off(GaussianDenoiser);
    impl Denoiser for Off {
        fn shape(&self) -> [i64; 3] {
            self.0.shape()
        }
        fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
            Ok(self.0.denoise(x, sigma)? * 2.0)
        }
        fn flops(&self) -> f64 {
            self.0.flops()
        }
    }
    let everywhere = Tensor::ones([SIZE, SIZE], (Kind::Float, Device::Cpu));
    let covariance = gaussian(&everywhere);
    let draws = covariance.draw(1e-3, &BlockNoise::new(2, "draws", 0, 1000), 0).unwrap();
    let denoiser = Off(GaussianDenoiser::new(gaussian(&everywhere)));
    let plain = Spread::measure(&denoiser, &covariance, &draws, [0.1, 5.0], 3, 500).unwrap();
    assert_eq!(plain.shifts.abs().max().double_value(&[]), 0.0);
    let factors = plain.ln_factors.copy();
    let spread = plain.with_shifts(&denoiser, &draws, 3, 500).unwrap();
    assert_eq!(spread.ln_factors, factors);
    let expected = &spread.nodes * -0.5;
    // But for the outermost nodes, which stand for all that is beyond. The least populated of the others has 0.3 % of 256,000 correlated
    // pixels, whose x0 scatter by about 0.5 at the upper levels.
    let inner = (&spread.shifts - expected).narrow(2, 2, 12).abs().max().double_value(&[]);
    assert!(inner < 0.04, "{inner}");
    assert!(spread.shifts.abs().max().double_value(&[]) > 0.3);
}

#[test]
fn the_table_is_interpolated_and_checked() {
    let nodes = Tensor::from_slice(&[0.0f32, 1.0, 0.0, 2.0]).view([2, 1, 2]);
    let ln_factors = Tensor::from_slice(&[0.0f32, 1.0, 2.0, 4.0]).view([2, 1, 2]);
    let spread = Spread::new(vec![0.0, 1.0], nodes.copy(), ln_factors.copy(), None).unwrap();
    // A constant image stays itself under the blur, but for the edge.
    let at = |t: f64, value: f64| {
        let image = Tensor::full([1, 1, 15, 15], value, (Kind::Float, Device::Cpu));
        spread.tell(t, &image).unwrap().factor.double_value(&[0, 0, 7, 7]).ln()
    };
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    close(at(1.0, 0.5), 0.5);
    close(at(1.0, -3.0), 0.0);
    close(at(1.0, 7.0), 1.0);
    close(at(std::f64::consts::E, 0.5), 2.5);
    close(at(100.0, 2.0), 4.0);
    close(at(0.5f64.exp(), 0.5), 1.5);
    let image = Tensor::full([1, 1, 15, 15], 0.5, (Kind::Float, Device::Cpu));
    let wide = spread.widened(1.5).unwrap().tell(1.0, &image).unwrap().factor.double_value(&[0, 0, 7, 7]);
    close(wide.ln(), 0.5 + 1.5f64.ln());
    // Of a file without shifts the network is right on average; with them, they are interpolated as the factors are.
    let shift = |spread: &Spread, t: f64| spread.tell(t, &image).unwrap().shift.double_value(&[0, 0, 7, 7]);
    assert_eq!(shift(&spread, 1.0), 0.0);
    let shifts = Some(&ln_factors * -0.1);
    let shifted = Spread::new(vec![0.0, 1.0], nodes.copy(), ln_factors.copy(), shifts).unwrap().widened(2.0).unwrap();
    close(shift(&shifted, 0.5f64.exp()), -0.15);
    assert!(Spread::new(vec![1.0, 0.0], nodes.copy(), ln_factors.copy(), None).is_err());
    let fewer = Some(ln_factors.narrow(0, 0, 1));
    assert!(Spread::new(vec![0.0, 1.0], nodes.copy(), ln_factors.copy(), fewer).is_err());
    assert!(Spread::new(vec![0.0], nodes, ln_factors, None).is_err());
}
