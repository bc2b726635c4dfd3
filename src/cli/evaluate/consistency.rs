//! `unseeing evaluate consistency`: tests whether a prior and a sampler are consistent.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde::Serialize;
use tch::{Device, Tensor};

use crate::cli::{DONE, to_json};
use crate::config::{DeviceKind, SamplerConfig};
use crate::device::Compute;
use crate::evaluate::consistency::{self, DataAveraged, NoDataRow, Subject};
use crate::evaluate::mock::{Misspecified, Observing, Scene, Truths, chain_draws};
use crate::prior::card::Normalisation;
use crate::prior::{Prior, ancestral};
use crate::random::BlockNoise;
use crate::sampler;
use crate::{Error, Result};

/// Arguments of `unseeing evaluate consistency`.
#[derive(ClapArgs)]
pub struct Args {
    /// The prior's file
    #[arg(long, value_name = "FILE", default_value = "priors/default.safetensors")]
    prior: PathBuf,
    /// Draws of the no-data test (0: leave it out)
    #[arg(long, default_value_t = 256)]
    no_data: u32,
    /// Simulated observations of the data-averaged test (0: leave it out)
    #[arg(long, default_value_t = 100)]
    truths: u32,
    /// What their truths are drawn with: the sampler's own chain without data, or the denoiser's probability flow
    #[arg(long, value_enum, default_value = "chain")]
    truths_from: Truths,
    /// Posterior draws for each of them
    #[arg(long, default_value_t = 15)]
    draws: u32,
    /// Sampler: any method that a survey's config may name
    #[arg(long, default_value = "perturb-map")]
    method: String,
    /// Network evaluations per draw
    #[arg(long, default_value_t = SamplerConfig::STEPS)]
    steps: u32,
    /// Largest noise level of the sampler (from the prior when not given)
    #[arg(long)]
    t_max: Option<f64>,
    /// Smallest noise level of the sampler
    #[arg(long)]
    t_min: Option<f64>,
    /// Re-linearisations of the forward model in each step
    #[arg(long, default_value_t = SamplerConfig::default().relinearizations)]
    relinearizations: u32,
    /// Relative residual at which the conjugate gradients stop
    #[arg(long, default_value_t = SamplerConfig::default().cg_tolerance)]
    cg_tolerance: f64,
    /// Their largest number of iterations
    #[arg(long, default_value_t = SamplerConfig::default().cg_iterations)]
    cg_iterations: u32,
    /// Noise levels of the ancestral draws (two network evaluations each)
    #[arg(long, default_value_t = 64)]
    ancestral_steps: u32,
    /// Lowest and highest S/N of the simulated observations
    #[arg(long, num_args = 2, default_values_t = [5.0, 300.0])]
    signal_to_noise: Vec<f64>,
    /// Lowest and highest redshift of the simulated observations
    #[arg(long, num_args = 2, default_values_t = [0.15, 0.6])]
    redshift: Vec<f64>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draws in one batch
    #[arg(long, default_value_t = 16)]
    block: u32,
    /// CPU threads of the network
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// Uses the first GPU
    #[arg(long)]
    cuda: bool,
    /// Answers in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    prior: String,
    method: String,
    steps: u32,
    seed: u64,
    truths_from: Truths,
    no_data: Option<Vec<NoDataRow>>,
    data_averaged: Option<DataAveraged>,
}

/// Runs the command and returns the exit code.
pub fn run(args: &Args) -> Result<i32> {
    let kind = if args.cuda { DeviceKind::Cuda } else { DeviceKind::Cpu };
    let device = Compute::open(kind, 0, 1, args.threads)?.device;
    let prior = Prior::read(&args.prior, device)?;
    let config = SamplerConfig {
        method: args.method.clone(),
        steps: args.steps,
        t_max: args.t_max,
        t_min: args.t_min,
        relinearizations: args.relinearizations,
        cg_tolerance: args.cg_tolerance,
        cg_iterations: args.cg_iterations,
        ..SamplerConfig::default()
    };
    let sampler = sampler::build(&config, &prior)?;
    let reference = match prior.card.normalisation {
        Normalisation::ReferenceBand { band } => band,
        Normalisation::BandPeak => {
            return Err(Error::usage("evaluate consistency needs a prior with one amplitude (a reference band)"));
        }
    };
    let [channels, rows, columns] = prior.shape();
    let subject = Subject {
        denoiser: prior.denoiser.as_ref(),
        sampler: sampler.as_ref(),
        scene: Scene {
            stretch: prior.card.stretch,
            reference,
            pixel_kpc: prior.card.pixel_kpc,
            typical: prior.covariance.mean.f_view([1, channels, rows, columns])?,
            device,
            seed: args.seed,
        },
    };
    let mut report = Report {
        prior: args.prior.display().to_string(),
        method: args.method.clone(),
        steps: args.steps,
        seed: args.seed,
        truths_from: args.truths_from,
        no_data: None,
        data_averaged: None,
    };
    if args.no_data > 1 {
        let ancestral = ancestral_draws(args, &prior, "ancestral", args.no_data, device)?;
        report.no_data = Some(consistency::no_data(&subject, &ancestral, args.block)?);
        if !args.json {
            print_no_data(report.no_data.as_deref().unwrap_or_default());
        }
    }
    if args.truths > 1 {
        let truths = match args.truths_from {
            Truths::Ancestral => ancestral_draws(args, &prior, "truths", args.truths, device)?,
            Truths::Chain => blocks(args, "truths", args.truths, &|noise| {
                chain_draws(prior.denoiser.as_ref(), sampler.as_ref(), noise, device)
            })?,
        };
        let observing = Observing {
            draws: args.draws,
            redshift: [args.redshift[0], args.redshift[1]],
            signal_to_noise: [args.signal_to_noise[0], args.signal_to_noise[1]],
            ln_amplitude_sd: 0.3,
            sky_sd: 0.2,
            misspecified: Misspecified::NOTHING,
        };
        let total = args.truths as usize;
        let told = |done: usize| {
            if done.is_multiple_of(10) || done == total {
                eprintln!("data-averaged posterior: {done} of {total} truths");
            }
        };
        report.data_averaged = Some(consistency::data_averaged(&subject, &truths, &observing, &told)?);
        if let (false, Some(result)) = (args.json, &report.data_averaged) {
            print_data_averaged(result);
        }
    }
    if args.json {
        println!("{}", to_json(&report)?);
    }
    Ok(DONE)
}

/// Draws of the prior by its probability flow, in batches.
fn ancestral_draws(args: &Args, prior: &Prior, name: &str, count: u32, device: Device) -> Result<Tensor> {
    let range = [prior.card.sigma_max, prior.card.sigma_min];
    let draws = blocks(args, name, count, &|noise| {
        ancestral::draw(prior.denoiser.as_ref(), &prior.covariance, range, args.ancestral_steps, noise)
    })?;
    Ok(draws.f_to_device(device)?)
}

/// `count` draws in batches of the block's size.
fn blocks(args: &Args, name: &str, count: u32, draw: &dyn Fn(&BlockNoise) -> Result<Tensor>) -> Result<Tensor> {
    let mut parts = Vec::new();
    for first in (0..count).step_by(args.block as usize) {
        parts.push(draw(&BlockNoise::new(args.seed, name, first, args.block.min(count - first)))?);
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}

fn print_no_data(rows: &[NoDataRow]) {
    println!("No data: the sampler's chain against ancestral draws");
    println!("  {:<16}{:>12}{:>12}{:>20}{:>10}", "statistic", "chain", "ancestral", "shift (sd)", "sd ratio");
    for row in rows {
        println!(
            "  {:<16}{:>12.4}{:>12.4}{:>11.3} +- {:<5.3}{:>10.3}",
            row.statistic, row.chain_mean, row.ancestral_mean, row.shift, row.shift_error, row.spread
        );
    }
}

fn print_data_averaged(result: &DataAveraged) {
    println!("Data-averaged posterior over {} truths", result.truths);
    println!("  {:<16}{:>20}{:>10}{:>12}{:>10}", "statistic", "mean z", "var z", "rank KS", "p");
    for row in &result.rows {
        println!(
            "  {:<16}{:>11.3} +- {:<5.3}{:>10.3}{:>12.3}{:>10.3}",
            row.statistic, row.mean_z, row.mean_z_error, row.var_z, row.rank_distance, row.rank_p
        );
    }
    println!("  error^2 / variance {:.3}, chi^2 per pixel {:.4}", result.error_over_variance, result.chi_squared);
}
