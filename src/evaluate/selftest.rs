//! A short self-test of the arithmetic: is it right, how fast is it, and does the GPU agree with the CPU.

use std::time::Instant;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::device::synchronize;
use crate::prior::Denoiser;
use crate::random::{BlockNoise, Key, Purpose};
use crate::sampler::to_vec;
use crate::{Error, Result};

/// f32 sums of a few hundred terms against f64: rounding is below 1e-6 of the terms; a wrong algorithm or TF32 is not.
const SUM_TOLERANCE: f64 = 2e-6;
/// Random numbers of a GPU against those of the CPU, of the largest: a logarithm, a root and a sine in f32.
pub const NUMBERS_TOLERANCE: f64 = 1e-6;
/// GPU against CPU, of the largest value: both round in f32 through some ten layers. TF32 would give about 1e-3.
pub const DEVICE_TOLERANCE: f64 = 1e-4;
/// Seconds that a speed is measured for.
const MEASURE: f64 = 0.5;

/// What the self-test found.
#[derive(Clone, Debug, Serialize)]
pub struct SelfTest {
    /// Largest error of a convolution, a matrix product and a Fourier transform, of the largest value.
    pub error: f64,
    pub good: bool,
    /// The network: GFLOP a sample, milliseconds a sample in a batch, and their ratio.
    pub network_gflop: f64,
    pub network_ms: f64,
    pub network_gflops: f64,
    /// A matrix product of 1024 x 1024 numbers: the speed to compare with.
    pub matrix_gflops: f64,
}

/// Runs the self-test on `device` for `denoiser`, with batches of `batch`.
pub fn run(denoiser: &dyn Denoiser, device: Device, batch: u32) -> Result<SelfTest> {
    let error = convolution_error(device)?.max(matrix_error(device)?).max(fourier_error(device)?);
    let noise = BlockNoise::new(0, "selftest", 0, batch);
    let x = noise.normal(Purpose::Evaluation, 0, &denoiser.shape(), device)?;
    let seconds = time(device, || denoiser.denoise(&x, 1.0).map(drop))? / f64::from(batch);
    let square = numbers(&[1024, 1024], device)?;
    let product = time(device, || {
        let _ = square.f_matmul(&square)?;
        Ok(())
    })?;
    let gflop = denoiser.flops() / 1e9;
    Ok(SelfTest {
        error,
        good: error < SUM_TOLERANCE,
        network_gflop: gflop,
        network_ms: seconds * 1e3,
        network_gflops: gflop / seconds,
        matrix_gflops: 2.0 * 1024f64.powi(3) / 1e9 / product,
    })
}

/// Largest difference between the random numbers of two devices, which are to be the same but for rounding.
pub fn compare_numbers(one: Device, other: Device) -> Result<f64> {
    let noise = BlockNoise::new(0, "devices", 7, 3);
    let numbers = |device| to_vec(&noise.normal(Purpose::Renoise, 1, &[3, 33, 35], device)?);
    Ok(difference(&numbers(one)?, &numbers(other)?))
}

/// Largest difference between two denoisers' outputs on two devices, of the largest value.
pub fn compare(one: (&dyn Denoiser, Device), other: (&dyn Denoiser, Device)) -> Result<f64> {
    let mut worst: f64 = 0.0;
    for sigma in [0.05, 1.0, 20.0] {
        let noise = BlockNoise::new(0, "devices", 0, 2);
        let output = |(denoiser, device): (&dyn Denoiser, Device)| {
            let x = noise.normal(Purpose::Evaluation, 0, &denoiser.shape(), device)?;
            to_vec(&denoiser.denoise(&x.f_mul_scalar(sigma)?, sigma)?)
        };
        worst = worst.max(difference(&output(one)?, &output(other)?));
    }
    Ok(worst)
}

/// Seconds of one call, over calls for `MEASURE` seconds after a first one.
fn time(device: Device, call: impl Fn() -> Result<()>) -> Result<f64> {
    call()?;
    synchronize(device);
    let (start, mut calls) = (Instant::now(), 0.0);
    while start.elapsed().as_secs_f64() < MEASURE {
        call()?;
        synchronize(device);
        calls += 1.0;
    }
    Ok(start.elapsed().as_secs_f64() / calls)
}

fn numbers(shape: &[i64], device: Device) -> Result<Tensor> {
    let values = Key::new(0, "selftest", 0, Purpose::Evaluation, 1).normal(shape.iter().product::<i64>() as usize);
    Ok(Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_device(device)?)
}

fn difference(found: &[f32], want: &[f32]) -> f64 {
    let scale = want.iter().fold(0.0f64, |scale, &value| scale.max(f64::from(value).abs()));
    let pairs = found.iter().zip(want).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs());
    // A NaN must not pass for a small error.
    pairs.fold(0.0, |worst: f64, error| if error.is_nan() || error > worst { error } else { worst }) / scale
}

/// A 3 x 3 convolution against our own f64 sum.
fn convolution_error(device: Device) -> Result<f64> {
    let (channels, size) = (16usize, 12usize);
    let x = numbers(&[1, channels as i64, size as i64, size as i64], device)?;
    let kernel = numbers(&[channels as i64, channels as i64, 3, 3], device)?;
    let found = to_vec(&x.f_conv2d(&kernel, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)?)?;
    let (x, kernel) = (to_vec(&x)?, to_vec(&kernel)?);
    let side = size - 2;
    let mut want = vec![0.0f32; channels * side * side];
    for (index, value) in want.iter_mut().enumerate() {
        let (out, row, column) = (index / (side * side), index / side % side, index % side);
        let mut sum = 0.0f64;
        for tap in 0..channels * 9 {
            let (input, i, j) = (tap / 9, tap / 3 % 3, tap % 3);
            let pixel = x[(input * size + row + i) * size + column + j];
            sum += f64::from(pixel) * f64::from(kernel[out * channels * 9 + tap]);
        }
        *value = sum as f32;
    }
    Ok(difference(&found, &want))
}

/// A matrix product against our own f64 sum.
fn matrix_error(device: Device) -> Result<f64> {
    let size = 96usize;
    let a = numbers(&[size as i64, size as i64], device)?;
    let found = to_vec(&a.f_matmul(&a)?)?;
    let a = to_vec(&a)?;
    let term = |i: usize, j: usize, k: usize| f64::from(a[i * size + k]) * f64::from(a[k * size + j]);
    let want: Vec<f32> =
        (0..size * size).map(|at| (0..size).map(|k| term(at / size, at % size, k)).sum::<f64>() as f32).collect();
    Ok(difference(&found, &want))
}

/// There and back through Fourier space.
fn fourier_error(device: Device) -> Result<f64> {
    let x = numbers(&[3, 64, 60], device)?;
    let there = x.f_fft_rfft2(None::<&[i64]>, [-2, -1], "backward")?;
    if there.f_kind()? != Kind::ComplexFloat {
        return Err(Error::internal("a Fourier transform of f32 numbers is not complex f32"));
    }
    let back = there.f_fft_irfft2([64, 60].as_slice(), [-2, -1], "backward")?;
    Ok(difference(&to_vec(&back)?, &to_vec(&x)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::standin::Network;

    #[test]
    fn the_arithmetic_is_right_and_has_a_speed() {
        let network = Network::new(Device::Cpu).unwrap();
        let found = run(&network, Device::Cpu, 2).unwrap();
        assert!(found.good && found.error > 0.0, "{found:?}");
        assert!(found.network_gflops > 0.01 && found.matrix_gflops > 0.01, "{found:?}");
        assert_eq!(compare((&network, Device::Cpu), (&network, Device::Cpu)).unwrap(), 0.0);
        assert_eq!(compare_numbers(Device::Cpu, Device::Cpu).unwrap(), 0.0);
    }

    #[test]
    fn nan_is_not_a_small_error() {
        assert!(difference(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert!(difference(&[2.0, 1.0], &[1.0, 1.0]) == 1.0);
    }

    #[test]
    fn gpu_network_agrees_with_cpu() {
        let Ok(compute) = crate::device::Compute::open(crate::config::DeviceKind::Cuda, 0, 1, 1) else {
            println!("SKIPPED: needs a CUDA device");
            return;
        };
        let (cpu, gpu) = (Network::new(Device::Cpu).unwrap(), Network::new(compute.device).unwrap());
        let found = compare((&gpu, compute.device), (&cpu, Device::Cpu)).unwrap();
        assert!(found > 0.0 && found < DEVICE_TOLERANCE, "{found}");
        let found = compare_numbers(compute.device, Device::Cpu).unwrap();
        assert!(found < NUMBERS_TOLERANCE, "{found}");
    }
}
