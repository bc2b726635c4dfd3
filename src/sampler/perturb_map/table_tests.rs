//! What the default sampler does with the table of the network's errors.

use super::tests::{independent, nuisance};
use super::*;
use crate::forward::linear::LinearLikelihood;
use crate::prior::Denoiser;
use crate::prior::analytic::GaussianDenoiser;
use crate::random::{BlockNoise, Key};
use crate::sampler::run;
use tch::{Device, Kind};

fn random(step: u32, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    Tensor::from_slice(&Key::new(12, "table", 0, Purpose::Evaluation, step).normal(count)).view(shape)
}

/// A denoiser that is off, with a table that says by how much: given data its draws are those of the right one, without data they are its
/// own.
#[test]
fn what_the_network_is_off_by_is_taken_off_given_data_only() {
    struct Off(GaussianDenoiser, f64);
    impl Denoiser for Off {
        fn shape(&self) -> [i64; 3] {
            self.0.shape()
        }
        fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
            Ok(self.0.denoise(x, sigma)? + self.1)
        }
        fn flops(&self) -> f64 {
            self.0.flops()
        }
    }
    let options = (Kind::Float, Device::Cpu);
    let settings = Settings {
        steps: 12,
        t_max: 5.0,
        t_min: 0.01,
        relinearizations: 0,
        sweeps: 0,
        stop: Stop { tolerance: 1e-5, iterations: 60 },
    };
    let matrix = Tensor::eye(16, options);
    let likelihood =
        LinearLikelihood::new(random(5, &[1, 1, 16]), matrix, random(4, &[16, 1]), 0.3, nuisance(0.0, 0.1, 0.1))
            .unwrap();
    let draws = |off: f64, with_data: bool| {
        let table = |value: f64| Tensor::full([1, 1, 2], value, options);
        let nodes = Tensor::from_slice(&[-1.0f32, 1.0]).view([1, 1, 2]);
        let spread = Spread::new(vec![0.0], nodes, table(0.0), Some(table(-off))).unwrap();
        let sampler = PerturbMap::new(independent(4, 1.0), Some(spread), settings).unwrap();
        let denoiser = Off(GaussianDenoiser::new(independent(4, 1.0)), off);
        let likelihood: Option<&dyn Likelihood> = if with_data { Some(&likelihood) } else { None };
        let noise = BlockNoise::new(1, "off", 0, 8);
        run(&sampler, &Problem { denoiser: &denoiser, likelihood, noise, device: Device::Cpu }).unwrap().image
    };
    let change = |with_data: bool| (draws(0.2, with_data) - draws(0.0, with_data)).abs();
    let given_data = change(true).max().double_value(&[]);
    assert!(given_data < 1e-4, "{given_data}");
    let without = change(false).min().double_value(&[]);
    assert!(without > 0.2, "{without}");
}
