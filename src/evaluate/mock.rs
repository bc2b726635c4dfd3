//! Simulated observations of a network prior's own galaxies, through the full forward model: redshift, sub-pixel
//! position, PSF, stretch, amplitude, sky, noise. The noise does not depend on the truth.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::forward::{
    Field, GalaxyLikelihood, GalaxyLikelihoodInput, Latent, Likelihood, NuisancePrior, Psf, SkyNoise, Stretch,
};
use crate::prior::Denoiser;
use crate::random::{BlockNoise, Key, Purpose};
use crate::sampler::{self, Problem, Sampler};
use crate::sky::cosmology;
use crate::{Error, Result};

/// Mean amplitude of the simulated galaxies, nJy in the reference band. Only ratios to the noise matter.
const AMPLITUDE: f64 = 1000.0;
/// Pitch of the simulated detector, arcsec per pixel, and FWHM of its PSFs (HSC g, r, i).
const PITCH: f64 = 0.168;
const FWHM: [f64; 3] = [0.75, 0.70, 0.60];

/// What is drawn as truths. A learned denoiser belongs to no unique prior, so that "the prior" is the distribution that
/// some way of drawing gives: a sampler can only be held to its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Truths {
    /// The sampler's own chain, without data.
    Chain,
    /// The probability flow of the denoiser.
    Ancestral,
}

/// What is observed, and with what.
pub struct Scene {
    pub stretch: Stretch,
    /// Index of the reference band.
    pub reference: usize,
    pub pixel_kpc: f64,
    /// A typical image in stretched space, `[1, C, n, n]` (the prior's mean): noise levels refer to it.
    pub typical: Tensor,
    pub device: Device,
    pub seed: u64,
}

/// How truths are observed.
#[derive(Clone, Debug, Serialize)]
pub struct Observing {
    /// Draws for each truth.
    pub draws: u32,
    /// Redshifts, uniform.
    pub redshift: [f64; 2],
    /// S/N that the prior's mean image would have in its own profile (matched filter, reference band) at the mean
    /// amplitude, log-uniform.
    pub signal_to_noise: [f64; 2],
    /// Standard deviation of ln(amplitude).
    pub ln_amplitude_sd: f64,
    /// Standard deviation of the sky level in units of the pixel noise.
    pub sky_sd: f64,
}

/// A simulated observation of one truth.
pub struct Mock {
    pub likelihood: GalaxyLikelihood,
    /// Image, amplitude and sky of the truth.
    pub truth: Latent,
    /// Noise of a pixel, nJy.
    pub sd: f64,
    /// S/N of the reference band's data, (sum y^2 / sd^2 - pixels)^(1/2), or 0 where that is negative: of the data alone,
    /// and so a quantity by which simulations may be sorted.
    pub observed_signal_to_noise: f64,
}

/// Draws of the sampler's chain without data, `[B, C, n, n]` in stretched space, by key.
pub fn chain_draws(
    denoiser: &dyn Denoiser,
    sampler: &dyn Sampler,
    noise: &BlockNoise,
    device: Device,
) -> Result<Tensor> {
    let problem = Problem { denoiser, likelihood: None, noise: noise.clone(), device };
    Ok(sampler::run(sampler, &problem)?.image)
}

/// Observes `truth` (`[1, C, n, n]`, stretched); everything else of the observation is keyed by `index`.
pub fn observe(scene: &Scene, truth: &Tensor, index: u32, observing: &Observing) -> Result<Mock> {
    let (_, channels, size, _) = truth.size4()?;
    let key = |step| Key::new(scene.seed, "mock", index, Purpose::Evaluation, step);
    let uniform = key(0).uniform(4);
    let normal = key(1).normal(1 + channels as usize);
    let between = |range: [f64; 2], u: f64| range[0] + u * (range[1] - range[0]);
    let redshift = between(observing.redshift, uniform[0]);
    let pitch = cosmology::theta_arcsec(scene.pixel_kpc, redshift)
        .map_err(|error| Error::usage(format!("simulated observation at redshift {redshift}: {error}")))?;
    let pixels = (size as f64 * pitch / PITCH).floor() as i64;
    let middle = (pixels - 1) as f64 / 2.0;
    let field = Field {
        size,
        prior_pitch: pitch,
        detector_pitch: PITCH,
        target: [middle + uniform[1] - 0.5, middle + uniform[2] - 0.5],
        shape: [pixels, pixels],
    };
    let psfs = (0..channels as usize)
        .map(|band| Psf::gaussian(43, FWHM[band.min(2)], PITCH).map_err(|error| Error::internal(error.to_string())))
        .collect::<Result<Vec<_>>>()?;
    let shape = [channels, pixels, pixels];
    let on_cpu = (Kind::Float, Device::Cpu);
    let build = |data: Tensor, sd: f64| {
        GalaxyLikelihood::new(GalaxyLikelihoodInput {
            object: format!("mock {index}"),
            field,
            data,
            mask: Tensor::f_ones(shape, on_cpu)?,
            sky_noise: SkyNoise::White { variance: Tensor::f_full(shape, sd * sd, on_cpu)? },
            gain: None,
            relative_error: 0.0,
            psfs: psfs.clone(),
            stretch: scene.stretch,
            reference: Some(scene.reference as i64),
            colours: None,
            nuisance: NuisancePrior {
                ln_amplitude_mean: Tensor::f_from_slice(&[AMPLITUDE.ln() as f32])?,
                ln_amplitude_sd: Tensor::f_from_slice(&[observing.ln_amplitude_sd as f32])?,
                sky_sd: Tensor::f_full([channels], observing.sky_sd * sd, on_cpu)?,
            },
            down_weight_edges: false,
            device: scene.device,
            kind: Kind::Float,
        })
    };
    let latent = |image: &Tensor, ln_amplitude: f64, sky: &[f32]| -> Result<Latent> {
        let on_device = |values: &[f32]| Tensor::f_from_slice(values)?.f_view([1, -1])?.f_to_device(scene.device);
        Ok(Latent {
            image: image.shallow_clone(),
            ln_amplitude: on_device(&[ln_amplitude as f32])?,
            sky: on_device(sky)?,
        })
    };
    // The noise follows from the S/N of a typical galaxy: a sampler that is told the noise must not learn the truth's
    // brightness or size from it.
    let zero = vec![0.0; channels as usize];
    let typical = latent(&scene.typical, AMPLITUDE.ln(), &zero)?;
    let clean = build(Tensor::f_zeros(shape, on_cpu)?, 1.0)?.predict(&typical)?;
    let signal = clean.f_get(0)?.f_get(scene.reference as i64)?.f_square()?.f_sum(Kind::Double)?;
    let [low, high] = observing.signal_to_noise.map(f64::ln);
    let sd = signal.f_double_value(&[])?.sqrt() / between([low, high], uniform[3]).exp();
    let sky: Vec<f32> = normal[1..].iter().map(|&white| white * (observing.sky_sd * sd) as f32).collect();
    let noise =
        Key::new(scene.seed, "mock", index, Purpose::ObservationNoise, 0).normal((channels * pixels * pixels) as usize);
    let truth = latent(truth, AMPLITUDE.ln() + observing.ln_amplitude_sd * f64::from(normal[0]), &sky)?;
    let model = build(Tensor::f_zeros(shape, on_cpu)?, sd)?.predict(&truth)?.f_get(0)?.f_to_device(Device::Cpu)?;
    let data = model.f_add(&Tensor::f_from_slice(&noise)?.f_view(shape)?.f_mul_scalar(sd)?)?;
    let power = data.f_get(scene.reference as i64)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let excess = power / (sd * sd) - (pixels * pixels) as f64;
    Ok(Mock { likelihood: build(data, sd)?, truth, sd, observed_signal_to_noise: excess.max(0.0).sqrt() })
}
