//! Self-consistency of a prior and a sampler: two tests that need no truth from outside.
//!
//! (i) *No data.* The sampler's chain without a likelihood and ancestral draws of the same denoiser should have the same
//! distribution: flux, size, outskirts, total variance.
//!
//! (ii) *Data-averaged posterior.* With x ~ prior (the sampler's own chain without data, or ancestral draws: `Truths`), y | x ~ the forward model, x' ~ sampler(y): x' and x have the same
//! distribution, and the rank of x among its draws is uniform for every statistic, log p(y | x) too.

use serde::Serialize;
use tch::{Kind, Tensor};

use super::mock::{Observing, Scene, chain_draws, observe};
use super::ranks::{rank, uniform_test};
use super::statistics;
use crate::Result;
use crate::forward::{GalaxyLikelihood, Latent, Likelihood};
use crate::prior::Denoiser;
use crate::random::BlockNoise;
use crate::sampler::{self, Problem, Sampler, to_vec};

/// What both tests look at.
pub struct Subject<'a> {
    pub denoiser: &'a dyn Denoiser,
    pub sampler: &'a dyn Sampler,
    pub scene: Scene,
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
    measure_flux(&subject.scene.stretch.inverse(images)?, subject)
}

/// Statistics of images of flux, `[B, C, n, n]`, one row each.
fn measure_flux(images: &Tensor, subject: &Subject) -> Result<Vec<[f64; 6]>> {
    let (_, channels, size, _) = images.size4()?;
    let values = to_vec(images)?;
    let per_image = (channels * size * size) as usize;
    Ok(values
        .chunks(per_image)
        .map(|image| statistics::measure(image, channels as usize, size as usize, subject.scene.reference))
        .collect())
}

/// Test (i): the chain's draws against `ancestral` draws, both `[N, C, n, n]` in stretched space.
pub fn no_data(subject: &Subject, ancestral: &Tensor, block: u32) -> Result<Vec<NoDataRow>> {
    let count = ancestral.size()[0] as u32;
    let mut chain = Vec::new();
    for first in (0..count).step_by(block as usize) {
        let noise = BlockNoise::new(subject.scene.seed, "no data", first, block.min(count - first));
        chain.push(chain_draws(subject.denoiser, subject.sampler, &noise, subject.scene.device)?);
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
        let mock = observe(&subject.scene, &truth, index as u32, observing)?;
        let problem = Problem {
            denoiser: subject.denoiser,
            likelihood: Some(&mock.likelihood),
            noise: BlockNoise::new(subject.scene.seed, &format!("data averaged {index}"), 0, observing.draws),
            device: subject.scene.device,
        };
        let draws = sampler::run(subject.sampler, &problem)?;
        let true_latent = mock.truth;
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
