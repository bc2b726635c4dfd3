//! Self-consistency of a prior and a sampler: two tests that need no truth from outside.
//!
//! (i) *No data.* The sampler's chain without a likelihood and ancestral draws of the same denoiser should have the same
//! distribution: flux, size, outskirts, total variance.
//!
//! (ii) *Data-averaged posterior.* With x ~ prior, y | x ~ the forward model, x' ~ sampler(y): x' and x have the same
//! distribution, and the rank of x among its draws is uniform for every statistic, log p(y | x) too.

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::ranks::{rank, uniform_test};
use super::statistics;
use crate::forward::{
    Field, GalaxyLikelihood, GalaxyLikelihoodInput, Latent, Likelihood, NuisancePrior, Psf, SkyNoise, Stretch,
};
use crate::prior::Denoiser;
use crate::random::{BlockNoise, Key, Purpose};
use crate::sampler::{self, Problem, Sampler, to_vec};
use crate::sky::cosmology;
use crate::{Error, Result};

/// Mean amplitude of the simulated galaxies, nJy in the reference band. Only ratios to the noise matter.
const AMPLITUDE: f64 = 1000.0;
/// Pitch of the simulated detector, arcsec per pixel, and FWHM of its PSFs (HSC g, r, i).
const PITCH: f64 = 0.168;
const FWHM: [f64; 3] = [0.75, 0.70, 0.60];

/// What both tests look at.
pub struct Subject<'a> {
    pub denoiser: &'a dyn Denoiser,
    pub sampler: &'a dyn Sampler,
    pub stretch: Stretch,
    /// Index of the reference band.
    pub reference: usize,
    pub pixel_kpc: f64,
    pub device: Device,
    pub seed: u64,
}

/// How the data-averaged test observes its truths.
#[derive(Clone, Debug, Serialize)]
pub struct Observing {
    /// Draws for each truth.
    pub draws: u32,
    /// Redshifts, uniform.
    pub redshift: [f64; 2],
    /// S/N of the reference band in the galaxy's own profile (matched filter), log-uniform.
    pub signal_to_noise: [f64; 2],
    /// Standard deviation of ln(amplitude).
    pub ln_amplitude_sd: f64,
    /// Standard deviation of the sky level in units of the pixel noise.
    pub sky_sd: f64,
}

/// One statistic in the no-data test.
#[derive(Clone, Debug, Serialize)]
pub struct NoDataRow {
    pub statistic: String,
    pub chain_mean: f64,
    pub ancestral_mean: f64,
    /// (chain - ancestral) in units of the ancestral standard deviation, and its standard error.
    pub shift: f64,
    pub shift_error: f64,
    /// Ratio of the standard deviations, chain over ancestral.
    pub spread: f64,
}

/// One statistic in the data-averaged test.
#[derive(Clone, Debug, Serialize)]
pub struct DataAveragedRow {
    pub statistic: String,
    /// Mean of (truth - posterior mean) / posterior sd, and its standard error.
    pub mean_z: f64,
    pub mean_z_error: f64,
    /// Variance of the same; 1 + 1/draws when calibrated.
    pub var_z: f64,
    /// Kolmogorov-Smirnov distance of the ranks from uniform, and its p-value.
    pub rank_distance: f64,
    pub rank_p: f64,
}

/// The data-averaged test.
#[derive(Clone, Debug, Serialize)]
pub struct DataAveraged {
    pub truths: usize,
    pub rows: Vec<DataAveragedRow>,
    /// Squared error of the posterior mean over the posterior variance, pixels of all truths summed, in flux at the
    /// drawn amplitude, the Monte Carlo term of the mean taken off; 1 when calibrated.
    pub error_over_variance: f64,
    /// Mean over draws of chi^2 per pixel.
    pub chi_squared: f64,
}

/// Statistics of images in stretched space, `[B, C, n, n]`, one row each.
fn measure(images: &Tensor, subject: &Subject) -> Result<Vec<[f64; 6]>> {
    measure_flux(&subject.stretch.inverse(images)?, subject)
}

/// Statistics of images of flux, `[B, C, n, n]`, one row each.
fn measure_flux(images: &Tensor, subject: &Subject) -> Result<Vec<[f64; 6]>> {
    let (_, channels, size, _) = images.size4()?;
    let values = to_vec(images)?;
    let per_image = (channels * size * size) as usize;
    Ok(values
        .chunks(per_image)
        .map(|image| statistics::measure(image, channels as usize, size as usize, subject.reference))
        .collect())
}

/// Test (i): the chain's draws against `ancestral` draws, both `[N, C, n, n]` in stretched space.
pub fn no_data(subject: &Subject, ancestral: &Tensor, block: u32) -> Result<Vec<NoDataRow>> {
    let count = ancestral.size()[0] as u32;
    let mut chain = Vec::new();
    for first in (0..count).step_by(block as usize) {
        let problem = Problem {
            denoiser: subject.denoiser,
            likelihood: None,
            noise: BlockNoise::new(subject.seed, "no data", first, block.min(count - first)),
            device: subject.device,
        };
        chain.push(sampler::run(subject.sampler, &problem)?.image);
    }
    let chain = Tensor::f_cat(&chain, 0)?;
    let compare = |statistic: &str, chain: &[f64], ancestral: &[f64]| {
        let ((chain_mean, chain_sd), (mean, sd)) = (mean_sd(chain), mean_sd(ancestral));
        let count = chain.len() as f64;
        NoDataRow {
            statistic: statistic.to_string(),
            chain_mean,
            ancestral_mean: mean,
            shift: (chain_mean - mean) / sd,
            shift_error: ((1.0 + (chain_sd / sd).powi(2)) / count).sqrt(),
            spread: chain_sd / sd,
        }
    };
    let (chain_rows, ancestral_rows) = (measure(&chain, subject)?, measure(ancestral, subject)?);
    let column = |rows: &[[f64; 6]], index: usize| rows.iter().map(|row| row[index]).collect::<Vec<_>>();
    let mut rows: Vec<NoDataRow> = statistics::NAMES
        .iter()
        .enumerate()
        .map(|(index, name)| compare(name, &column(&chain_rows, index), &column(&ancestral_rows, index)))
        .collect();
    // Squared distance of each draw from the ancestral mean image: its average is the total variance.
    let centre = ancestral.f_mean_dim(0, true, Kind::Float)?;
    let energy = |images: &Tensor| -> Result<Vec<f64>> {
        let sum = images.f_sub(&centre)?.f_square()?.f_sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double)?;
        Ok(Vec::<f64>::try_from(sum)?)
    };
    rows.push(compare("total variance", &energy(&chain)?, &energy(ancestral)?));
    Ok(rows)
}

/// Test (ii) on `truths` `[N, C, n, n]` in stretched space. `progress` is told after each truth.
pub fn data_averaged(
    subject: &Subject,
    truths: &Tensor,
    observing: &Observing,
    progress: &dyn Fn(usize),
) -> Result<DataAveraged> {
    let count = truths.size()[0];
    let names: Vec<&str> = statistics::NAMES.iter().copied().chain(["ln amplitude", "log p(y|x)"]).collect();
    let (mut z, mut ranks) = (vec![Vec::new(); names.len()], vec![Vec::new(); names.len()]);
    let (mut error, mut variance, mut chi_squared) = (0.0, 0.0, Vec::new());
    for index in 0..count {
        let truth = truths.f_narrow(0, index, 1)?;
        let mock = mock_observation(subject, &truth, index as u32, observing)?;
        let problem = Problem {
            denoiser: subject.denoiser,
            likelihood: Some(&mock.likelihood),
            noise: BlockNoise::new(subject.seed, &format!("data averaged {index}"), 0, observing.draws),
            device: subject.device,
        };
        let draws = sampler::run(subject.sampler, &problem)?;
        let true_latent = Latent { image: truth, ..mock.nuisance };
        let mut true_values = measure_flux(&mock.likelihood.flux(&true_latent)?, subject)?.remove(0).to_vec();
        true_values.push(to_vec(&true_latent.ln_amplitude)?[0].into());
        true_values.extend(log_likelihood(&mock.likelihood, &true_latent, mock.sd)?.0);
        let drawn = measure_flux(&mock.likelihood.flux(&draws)?, subject)?;
        let amplitudes: Vec<f64> = to_vec(&draws.ln_amplitude)?.iter().map(|&v| f64::from(v)).collect();
        let (log_p, pixels) = log_likelihood(&mock.likelihood, &draws, mock.sd)?;
        chi_squared.push(-2.0 * log_p.iter().sum::<f64>() / log_p.len() as f64 / pixels);
        for (column, &truth) in true_values.iter().enumerate() {
            let values: Vec<f64> = match column {
                0..6 => drawn.iter().map(|row| row[column]).collect(),
                6 => amplitudes.clone(),
                _ => log_p.clone(),
            };
            let (mean, sd) = mean_sd(&values);
            z[column].push((truth - mean) / sd);
            ranks[column].push(rank(truth, &values));
        }
        let flux = mock.likelihood.flux(&draws)?;
        let spread = flux.f_var_dim([0i64].as_slice(), true, true)?;
        let miss = flux.f_mean_dim(0, true, Kind::Float)?.f_sub(&mock.likelihood.flux(&true_latent)?)?.f_square()?;
        let total = spread.f_sum(Kind::Double)?.f_double_value(&[])?;
        error += miss.f_sum(Kind::Double)?.f_double_value(&[])? - total / f64::from(observing.draws);
        variance += total;
        progress(index as usize + 1);
    }
    let rows = names
        .iter()
        .zip(z.iter().zip(&ranks))
        .map(|(name, (z, ranks))| {
            let (mean_z, sd_z) = mean_sd(z);
            let (rank_distance, rank_p) = uniform_test(ranks);
            DataAveragedRow {
                statistic: name.to_string(),
                mean_z,
                mean_z_error: sd_z / (z.len() as f64).sqrt(),
                var_z: sd_z * sd_z,
                rank_distance,
                rank_p,
            }
        })
        .collect();
    Ok(DataAveraged {
        truths: count as usize,
        rows,
        error_over_variance: error / variance,
        chi_squared: mean_sd(&chi_squared).0,
    })
}

/// A simulated observation of one truth.
pub(super) struct Mock {
    pub(super) likelihood: GalaxyLikelihood,
    /// Amplitude and sky of the truth; the image is empty.
    nuisance: Latent,
    /// Noise of a pixel, nJy.
    sd: f64,
}

pub(super) fn mock_observation(subject: &Subject, truth: &Tensor, index: u32, observing: &Observing) -> Result<Mock> {
    let (_, channels, size, _) = truth.size4()?;
    let key = |step| Key::new(subject.seed, "mock", index, Purpose::Evaluation, step);
    let uniform = key(0).uniform(4);
    let normal = key(1).normal(1 + channels as usize);
    let between = |range: [f64; 2], u: f64| range[0] + u * (range[1] - range[0]);
    let redshift = between(observing.redshift, uniform[0]);
    let pitch = cosmology::theta_arcsec(subject.pixel_kpc, redshift)
        .map_err(|error| Error::usage(format!("evaluate consistency: redshift {redshift}: {error}")))?;
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
            stretch: subject.stretch,
            reference: Some(subject.reference as i64),
            colours: None,
            nuisance: NuisancePrior {
                ln_amplitude_mean: Tensor::f_from_slice(&[AMPLITUDE.ln() as f32])?,
                ln_amplitude_sd: Tensor::f_from_slice(&[observing.ln_amplitude_sd as f32])?,
                sky_sd: Tensor::f_full([channels], observing.sky_sd * sd, on_cpu)?,
            },
            down_weight_edges: false,
            device: subject.device,
            kind: Kind::Float,
        })
    };
    // The noise follows from the S/N of the noise-free image.
    let ln_amplitude = AMPLITUDE.ln() + observing.ln_amplitude_sd * f64::from(normal[0]);
    let latent = |sky: &[f32]| -> Result<Latent> {
        Ok(Latent {
            image: truth.shallow_clone(),
            ln_amplitude: Tensor::f_from_slice(&[ln_amplitude as f32])?.f_view([1, 1])?.f_to_device(subject.device)?,
            sky: Tensor::f_from_slice(sky)?.f_view([1, channels])?.f_to_device(subject.device)?,
        })
    };
    let zero = vec![0.0; channels as usize];
    let clean = build(Tensor::f_zeros(shape, on_cpu)?, 1.0)?.predict(&latent(&zero)?)?;
    let signal = clean.f_get(0)?.f_get(subject.reference as i64)?.f_square()?.f_sum(Kind::Double)?;
    let [low, high] = observing.signal_to_noise.map(f64::ln);
    let sd = signal.f_double_value(&[])?.sqrt() / between([low, high], uniform[3]).exp();
    let sky: Vec<f32> = normal[1..].iter().map(|&white| white * (observing.sky_sd * sd) as f32).collect();
    let noise = Key::new(subject.seed, "mock", index, Purpose::ObservationNoise, 0)
        .normal((channels * pixels * pixels) as usize);
    let nuisance = latent(&sky)?;
    let model = build(Tensor::f_zeros(shape, on_cpu)?, sd)?.predict(&nuisance)?.f_get(0)?.f_to_device(Device::Cpu)?;
    let data = model.f_add(&Tensor::f_from_slice(&noise)?.f_view(shape)?.f_mul_scalar(sd)?)?;
    Ok(Mock { likelihood: build(data, sd)?, nuisance, sd })
}

/// -chi^2 / 2 of each latent galaxy under white noise, and the number of pixels.
fn log_likelihood(likelihood: &GalaxyLikelihood, latent: &Latent, sd: f64) -> Result<(Vec<f64>, f64)> {
    let residual = likelihood.predict(latent)?.f_sub(likelihood.data())?;
    let sum = residual.f_square()?.f_sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double)?;
    let values = Vec::<f64>::try_from(sum.f_mul_scalar(-0.5 / (sd * sd))?)?;
    Ok((values, likelihood.data().numel() as f64))
}

fn mean_sd(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, variance.sqrt())
}
