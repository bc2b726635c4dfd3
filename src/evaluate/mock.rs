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

/// What the analysis has wrong about an observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Misspecified {
    /// It takes the redshift for this much higher, and cuts the image to the field that the prior has there, if that is smaller.
    pub redshift: f64,
    /// It takes PSFs for wider by this part of their width.
    pub psf_width: f64,
    /// The noise is correlated over this FWHM, in detector pixels, and is taken for white; its variance is known.
    pub noise_fwhm: f64,
}

impl Misspecified {
    /// The analysis has all right.
    pub const NOTHING: Misspecified = Misspecified { redshift: 0.0, psf_width: 0.0, noise_fwhm: 0.0 };
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
    pub misspecified: Misspecified,
}

/// A simulated observation of one truth, as the analysis sees it.
pub struct Mock {
    pub likelihood: GalaxyLikelihood,
    /// Image, amplitude and sky of the truth.
    pub truth: Latent,
    /// The true redshift, and the analysis' own.
    pub redshift: [f64; 2],
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
    let pitch = |redshift: f64| {
        cosmology::theta_arcsec(scene.pixel_kpc, redshift)
            .map_err(|error| Error::usage(format!("simulated observation at redshift {redshift}: {error}")))
    };
    let wrong = observing.misspecified;
    let seen = pitch(redshift)?;
    let pixels = (size as f64 * seen / PITCH).floor() as i64;
    let middle = (pixels - 1) as f64 / 2.0;
    let field = Field {
        size,
        prior_pitch: seen,
        detector_pitch: PITCH,
        target: [middle + uniform[1] - 0.5, middle + uniform[2] - 0.5],
        shape: [pixels, pixels],
    };
    // The analysis has its own idea of the redshift: another pitch of the prior, and no more than its own field of the data.
    let believed = pitch(redshift + wrong.redshift)?;
    let kept = ((size as f64 * believed / PITCH).floor() as i64).min(pixels);
    let cut = (pixels - kept) / 2;
    let target = field.target.map(|place| place - cut as f64);
    let believed = Field { prior_pitch: believed, target, shape: [kept, kept], ..field };
    let psfs = |wider: f64| {
        let psf = |band: usize| Psf::gaussian(43, wider * FWHM[band.min(2)], PITCH);
        let all = (0..channels as usize).map(|band| psf(band).map_err(|error| Error::internal(error.to_string())));
        all.collect::<Result<Vec<_>>>()
    };
    let shape = [channels, pixels, pixels];
    let on_cpu = (Kind::Float, Device::Cpu);
    let likelihood = |field: Field, psfs: Vec<Psf>, data: Tensor, sd: f64| {
        let shape = [channels, field.shape[0], field.shape[1]];
        GalaxyLikelihood::new(GalaxyLikelihoodInput {
            object: format!("mock {index}"),
            field,
            data,
            mask: Tensor::f_ones(shape, on_cpu)?,
            sky_noise: SkyNoise::White { variance: Tensor::f_full(shape, sd * sd, on_cpu)? },
            gain: None,
            relative_error: 0.0,
            psfs,
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
    let right = |sd: f64| likelihood(field, psfs(1.0)?, Tensor::f_zeros(shape, on_cpu)?, sd);
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
    let clean = right(1.0)?.predict(&typical)?;
    let signal = clean.f_get(0)?.f_get(scene.reference as i64)?.f_square()?.f_sum(Kind::Double)?;
    let [low, high] = observing.signal_to_noise.map(f64::ln);
    let sd = signal.f_double_value(&[])?.sqrt() / between([low, high], uniform[3]).exp();
    let levels: Vec<f32> = normal[1..].iter().map(|&white| white * (observing.sky_sd * sd) as f32).collect();
    let noise =
        Key::new(scene.seed, "mock", index, Purpose::ObservationNoise, 0).normal((channels * pixels * pixels) as usize);
    let truth = latent(truth, AMPLITUDE.ln() + observing.ln_amplitude_sd * f64::from(normal[0]), &levels)?;
    let model = right(sd)?.predict(&truth)?.f_get(0)?.f_to_device(Device::Cpu)?;
    let mut noise = Tensor::f_from_slice(&noise)?.f_view(shape)?;
    if wrong.noise_fwhm > 0.0 {
        noise = correlated(&noise, wrong.noise_fwhm)?;
    }
    let data = model.f_add(&noise.f_mul_scalar(sd)?)?;
    let power = data.f_get(scene.reference as i64)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let excess = power / (sd * sd) - (pixels * pixels) as f64;
    let data = data.f_narrow(1, cut, kept)?.f_narrow(2, cut, kept)?.f_contiguous()?;
    Ok(Mock {
        likelihood: likelihood(believed, psfs(1.0 + wrong.psf_width)?, data, sd)?,
        truth,
        redshift: [redshift, redshift + wrong.redshift],
        sd,
        observed_signal_to_noise: excess.max(0.0).sqrt(),
    })
}

/// White noise `[C, m, m]` smoothed by a Gaussian of this FWHM (periodically), with the variance of before.
fn correlated(white: &Tensor, fwhm: f64) -> Result<Tensor> {
    let size = white.size()[1];
    let sd = fwhm / (8.0 * std::f64::consts::LN_2).sqrt();
    let frequency = Tensor::f_fft_fftfreq(size, 1.0, (Kind::Float, Device::Cpu))?;
    let line = frequency.f_mul_scalar(std::f64::consts::PI * sd)?.f_square()?.f_mul_scalar(-2.0)?.f_exp()?;
    let transfer = line.f_outer(&line)?;
    let rms = transfer.f_square()?.f_mean(Kind::Double)?.f_double_value(&[])?.sqrt();
    let spectrum = white.f_fft_fft2(None::<&[i64]>, [-2, -1], "backward")?.f_mul(&transfer)?;
    Ok(spectrum.f_fft_ifft2(None::<&[i64]>, [-2, -1], "backward")?.f_real()?.f_div_scalar(rms)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: i64 = 48;

    fn scene() -> Scene {
        // A round galaxy, stretched.
        let line: Tensor = (Tensor::arange(SIZE, (Kind::Float, Device::Cpu)) - 23.5).square();
        let radius = (line.view([-1, 1]) + line.view([1, -1])).sqrt();
        let typical = ((radius * -0.25f64).exp() * 0.02).view([1, 1, SIZE, SIZE]).repeat([1, 3, 1, 1]);
        let stretch = Stretch::Linear { scale: 1.0 };
        Scene { stretch, reference: 2, pixel_kpc: 1.0, typical, device: Device::Cpu, seed: 3 }
    }

    fn observing(misspecified: Misspecified) -> Observing {
        let (redshift, signal_to_noise) = ([0.3, 0.4], [200.0, 300.0]);
        Observing { draws: 1, redshift, signal_to_noise, ln_amplitude_sd: 0.3, sky_sd: 0.2, misspecified }
    }

    /// (data - model of the truth) / noise.
    fn residual(misspecified: Misspecified) -> Tensor {
        let scene = scene();
        let mock = observe(&scene, &scene.typical, 1, &observing(misspecified)).unwrap();
        let linear = mock.likelihood.linearize(&mock.truth).unwrap();
        (mock.likelihood.data() - linear.prediction().get(0)) / mock.sd
    }

    fn square(residual: &Tensor) -> f64 {
        residual.square().mean(Kind::Double).double_value(&[])
    }

    #[test]
    fn the_analysis_is_wrong_in_what_it_is_told_to_be_alone() {
        let right = residual(Misspecified::default());
        // Five standard errors of 3 * 40 * 40 values.
        assert!((square(&right) - 1.0).abs() < 0.11, "{}", square(&right));
        // Another scale, and a smaller field.
        let redshift = residual(Misspecified { redshift: 0.3, ..Default::default() });
        assert!(redshift.size()[1] < right.size()[1] && square(&redshift) > 1.2, "{}", square(&redshift));
        // Another width, and the same noise: what differs is the model alone.
        let psf = residual(Misspecified { psf_width: 0.3, ..Default::default() });
        let difference = square(&(&psf - &right)).sqrt();
        assert!(difference > 0.05 && difference < 1.0, "{difference}");
        let noise = residual(Misspecified { noise_fwhm: 2.0, ..Default::default() });
        let neighbours = |residual: &Tensor| {
            let count = residual.size()[2] - 1;
            let product = residual.narrow(2, 0, count) * residual.narrow(2, 1, count);
            product.mean(Kind::Double).double_value(&[]) / square(residual)
        };
        // exp(-2 ln 2 / FWHM^2) of a pixel's noise is its neighbour's.
        assert!((neighbours(&noise) - (-0.5f64 * 2f64.ln()).exp()).abs() < 0.06, "{}", neighbours(&noise));
        assert!(neighbours(&right).abs() < 0.07 && (square(&noise) - 1.0).abs() < 0.3, "{}", square(&noise));
    }

    /// The galaxy stays where it is when the field is cut.
    #[test]
    fn a_cut_field_keeps_its_target() {
        let scene = scene();
        let mock = |redshift| {
            let wrong = Misspecified { redshift, ..Default::default() };
            observe(&scene, &scene.typical, 1, &observing(wrong)).unwrap()
        };
        let centre = |data: &Tensor| {
            let light = data.get(2).clamp_min(0.0).square();
            let places = Tensor::arange(light.size()[0], (Kind::Float, Device::Cpu)).view([-1, 1]);
            ((&light * places).sum(Kind::Double) / light.sum(Kind::Double)).double_value(&[])
        };
        let shift = |redshift| {
            let mock = mock(redshift);
            let model = mock.likelihood.predict(&mock.truth).unwrap().get(0);
            centre(mock.likelihood.data()) - centre(&model)
        };
        // Cut at a corner, the data would be off by pixels.
        assert!(shift(0.0).abs() < 0.05 && shift(0.1).abs() < 0.05, "{} {}", shift(0.0), shift(0.1));
    }
}
