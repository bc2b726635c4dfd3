//! Seconds of a sampler step inside and outside the network, for the shipped prior and for the published 256 x 256
//! network (random weights; its cost does not depend on them). One thread; simulated observations with white noise.
//! Prints outside / whole step for both. Takes a minute or two.

use std::cell::Cell;
use std::path::Path;
use std::time::Instant;

use tch::{Device, Kind, Tensor};
use unseeing::Result;
use unseeing::config::SamplerConfig;
use unseeing::evaluate::consistency::{Subject, data_averaged};
use unseeing::evaluate::mock::{Misspecified, Observing, Scene};
use unseeing::forward::Stretch;
use unseeing::prior::card::{Card, Normalisation, UnetConfig};
use unseeing::prior::unet::Unet;
use unseeing::prior::vp::VpDenoiser;
use unseeing::prior::{Covariance, Denoiser, Prior, Spread, analytic::GaussianDenoiser, ancestral};
use unseeing::random::{BlockNoise, Key, Purpose};
use unseeing::sampler;

const PRIOR: &str = "priors/default.safetensors";
/// The S/N of the observations (of the galaxy as a whole, in the reference band).
const SIGNAL_TO_NOISE: f64 = 100.0;
const REDSHIFT: f64 = 0.4;
/// The paper's pixels.
const PUBLISHED_PIXEL_KPC: f64 = 0.4;

/// A denoiser that adds up the time it takes.
struct Timed {
    inner: Box<dyn Denoiser>,
    seconds: Cell<f64>,
    calls: Cell<u32>,
}

impl Denoiser for Timed {
    fn shape(&self) -> [i64; 3] {
        self.inner.shape()
    }

    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let start = Instant::now();
        let out = self.inner.denoise(x, sigma);
        self.seconds.set(self.seconds.get() + start.elapsed().as_secs_f64());
        self.calls.set(self.calls.get() + 1);
        out
    }

    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.inner.denoise_with_grad(x, sigma)
    }

    fn flops(&self) -> f64 {
        self.inner.flops()
    }
}

fn main() {
    unseeing::device::prepare_environment();
    if let Err(error) = bench() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn bench() -> Result<()> {
    unseeing::device::set_threads(1)?;
    let Prior { denoiser, covariance, card, spread, .. } = Prior::read(Path::new(PRIOR), Device::Cpu)?;
    let Normalisation::ReferenceBand { band: reference } = card.normalisation else {
        return Err(unseeing::Error::usage(format!("{PRIOR}: no reference band")));
    };
    let levels = [card.sigma_max, card.sigma_min];
    let noise = BlockNoise::new(2, "truth", 0, 1);
    let truth = ancestral::draw(denoiser.as_ref(), &covariance, levels, 32, &noise)?;
    let small =
        measure(denoiser, &card, &covariance, card.stretch, reference, &truth, card.pixel_kpc, 16, spread.as_ref())?;
    println!(
        "shipped prior, 16 samples: network {:.4} s a step, outside {:.4} s, outside / step {:.3}",
        small.0,
        small.1,
        small.1 / (small.0 + small.1)
    );

    // The same galaxy on four times as many pixels a side, seen on the grid of the paper.
    let large = enlarged(&covariance, 4)?;
    let factor = 4.0;
    let Stretch::Asinh { scale } = card.stretch else {
        return Err(unseeing::Error::usage(format!("{PRIOR}: not an asinh stretch")));
    };
    let stretch = Stretch::Asinh { scale: scale / (factor * factor) };
    let truth = truth.f_upsample_bilinear2d([256, 256], false, None, None)?;
    let gaussian = GaussianDenoiser::new(enlarged(&covariance, 4)?);
    const SAMPLES: u32 = 4;
    let (_, outside) =
        measure(Box::new(gaussian), &card, &large, stretch, reference, &truth, PUBLISHED_PIXEL_KPC, SAMPLES, None)?;
    let config = UnetConfig::published();
    let source = |name: &str, shape: &[i64]| {
        let count = shape.iter().product::<i64>();
        let few = Key::new(1, name, 0, Purpose::Weights, 0).normal(count.min(4096) as usize);
        let repeats = (count + 4095) / 4096;
        Ok(Tensor::f_from_slice(&few)?.f_repeat([repeats])?.f_narrow(0, 0, count)?.f_view(shape)?.f_mul_scalar(0.02)?)
    };
    let network = VpDenoiser::of_unet(Unet::from_source(&config, 3, &source, Device::Cpu)?, &config)?;
    let x = truth.f_add(&truth.f_randn_like()?)?;
    let start = Instant::now();
    let _ = network.denoise(&x, 1.0)?;
    let forward = start.elapsed().as_secs_f64();
    let outside = outside / f64::from(SAMPLES);
    println!(
        "256 px network, a sample: network {forward:.2} s a step, outside {outside:.3} s, outside / step {:.4}",
        outside / (forward + outside)
    );
    Ok(())
}

/// Seconds of a step in the denoiser and outside it.
#[allow(clippy::too_many_arguments)] // What a subject is made of.
fn measure(
    denoiser: Box<dyn Denoiser>,
    card: &Card,
    covariance: &Covariance,
    stretch: Stretch,
    reference: usize,
    truth: &Tensor,
    pixel_kpc: f64,
    draws: u32,
    spread: Option<&Spread>,
) -> Result<(f64, f64)> {
    let timed = Timed { inner: denoiser, seconds: Cell::new(0.0), calls: Cell::new(0) };
    let subject = Subject {
        denoiser: &timed,
        sampler: &*sampler::build_for(&SamplerConfig::default(), card, covariance.to_device(Device::Cpu)?, spread)?,
        // The noise is that of the truth itself: the S/N is then the galaxy's.
        scene: Scene { stretch, reference, pixel_kpc, typical: truth.shallow_clone(), device: Device::Cpu, seed: 1 },
    };
    let observing = Observing {
        draws,
        redshift: [REDSHIFT, REDSHIFT],
        signal_to_noise: [SIGNAL_TO_NOISE, SIGNAL_TO_NOISE],
        ln_amplitude_sd: 0.3,
        sky_sd: 0.2,
        misspecified: Misspecified::NOTHING,
    };
    let start = Instant::now();
    data_averaged(&subject, truth, &observing, &|_| {})?;
    let steps = f64::from(timed.calls.get());
    let inside = timed.seconds.get() / steps;
    Ok((inside, start.elapsed().as_secs_f64() / steps - inside))
}

/// The covariance on `factor` times as many pixels a side.
fn enlarged(covariance: &Covariance, factor: i64) -> Result<Covariance> {
    let [channels, size, _] = covariance.shape;
    let large = size * factor;
    let images = |flat: &Tensor| -> Result<Tensor> {
        let images =
            flat.f_view([-1, channels, size, size])?.f_upsample_bilinear2d([large, large], false, None, None)?;
        Ok(images.f_view([-1, channels * large * large])?)
    };
    let components = images(&covariance.components)?;
    let length = components.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?;
    Covariance::new(
        [channels, large, large],
        images(&covariance.mean)?.f_view(-1)?,
        components.f_div(&length.f_sqrt()?)?,
        covariance.variances.f_mul(&length.f_view(-1)?)?,
        images(&covariance.diagonal)?.f_view(-1)?,
    )
}
