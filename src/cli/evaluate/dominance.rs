//! `unseeing evaluate dominance`: one galaxy at many magnitudes, and how much of the prior's variance the data leave.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::cli::simulate::{GalaxyArgs, OpticsArgs};
use crate::cli::{DONE, to_json};
use crate::config::{DeviceKind, SamplerConfig};
use crate::device::Compute;
use crate::evaluate::dominance::kept::Kept;
use crate::evaluate::dominance::{Experiment, Ratio, Row, rises};
use crate::evaluate::simulate::{Depth, SimulateOptions, Source};
use crate::io::digest;
use crate::prior::Prior;
use crate::report::dominance_picture;
use crate::sampler;
use crate::train::procedural::Grid;
use crate::{Error, Result};

/// Arguments of `unseeing evaluate dominance`.
#[derive(ClapArgs)]
pub struct Args {
    /// The prior's file
    #[arg(long, value_name = "FILE", default_value = "priors/default.safetensors")]
    prior: PathBuf,
    /// AB magnitudes in i (or the last band)
    #[arg(long, value_delimiter = ',', default_value = "18,19,20,21,22,23")]
    magnitudes: Vec<f64>,
    #[command(flatten)]
    galaxies: GalaxyArgs,
    /// Which of the galaxies
    #[arg(long, default_value_t = 0)]
    index: u32,
    #[arg(long, default_value_t = 0.3)]
    redshift: f64,
    /// Sky noise
    #[arg(long, value_enum, default_value = "wide")]
    depth: Depth,
    #[command(flatten)]
    optics: OpticsArgs,
    /// Posterior draws at each magnitude
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(4..))]
    draws: u32,
    /// Network evaluations per draw
    #[arg(long, default_value_t = SamplerConfig::STEPS)]
    steps: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draws in one batch
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    block: u32,
    /// CPU threads of the network
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// Uses the first GPU
    #[arg(long)]
    cuda: bool,
    /// Keeps finished blocks of draws in this folder, and goes on from those that are there
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Draws observations, posterior means and variance ratios
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,
    /// Answers in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    prior: String,
    redshift: f64,
    draws: u32,
    bands: Vec<String>,
    rows: Vec<Row>,
    /// Whether the paper's ratio rises with magnitude within two standard errors.
    rises: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: &Args) -> Result<i32> {
    let kind = if args.cuda { DeviceKind::Cuda } else { DeviceKind::Cpu };
    let compute = Compute::open(kind, 0, 1, args.threads)?;
    let device = compute.device;
    let prior = Prior::read(&args.prior, device)?;
    let config = SamplerConfig { steps: args.steps, ..SamplerConfig::default() };
    let sampler = sampler::build(&config, &prior)?;
    let kept = args.keep.as_deref().map(|folder| Kept::new(folder, identity(args, &config, &compute)?)).transpose()?;
    let card = &prior.card;
    let (galaxies, images) = args.galaxies.galaxies()?;
    let options = SimulateOptions {
        folder: PathBuf::new(),
        objects: args.index + 1,
        seed: args.seed,
        grid: Grid {
            size: card.size as usize,
            pixel_kpc: card.pixel_kpc,
            bands: card.bands.clone(),
            reference: card.normalisation.reference(),
        },
        redshifts: [args.redshift; 2],
        redshift_error: None,
        magnitudes: [20.0; 2],
        optics: args.optics.optics(args.depth)?,
        correlated: false,
        neighbours: 0.0,
        empty_planes: false,
        prior: args.prior.clone(),
        samples: args.draws,
        galaxies,
        images,
        shear: [0.0; 2],
        inject: None,
    };
    options.grid.check()?;
    options.optics.check(options.grid.bands.len())?;
    let source = Source::open(&options)?;
    let experiment = Experiment {
        prior: &prior,
        sampler: sampler.as_ref(),
        options: &options,
        index: args.index,
        draws: args.draws,
        block: args.block,
        device,
        kept: kept.as_ref(),
    };
    let mut rows = Vec::new();
    for &magnitude in &args.magnitudes {
        rows.push(experiment.row(&source, magnitude)?);
        eprintln!("magnitude {magnitude}: {} draws", args.draws);
    }
    if let Some(path) = &args.plot {
        dominance_picture(&rows, card.bands.len(), card.size as usize)?.save(path)?;
    }
    let report = Report {
        prior: args.prior.display().to_string(),
        redshift: args.redshift,
        draws: args.draws,
        bands: card.bands.clone(),
        rises: rises(&rows),
        rows,
    };
    if args.json {
        println!("{}", to_json(&report)?);
    } else {
        print(&report);
    }
    Ok(DONE)
}

/// All that draws depend on besides the data. Another program's or another machine's draws are not taken for this one's.
fn identity(args: &Args, sampler: &SamplerConfig, compute: &Compute) -> Result<serde_json::Value> {
    let program = std::env::current_exe()
        .map_err(|error| Error::internal(format!("cannot find the program's own file: {error}")))?;
    Ok(serde_json::json!({
        "program": digest::file(&program)?,
        "prior": digest::file(&args.prior)?,
        "sampler": sampler,
        "seed": args.seed,
        "arithmetic": compute.fingerprint()?,
    }))
}

fn print(report: &Report) {
    println!("posterior / prior variance within 30 pixels, {} draws, redshift {}", report.draws, report.redshift);
    print!("{:>9}{:>13}{:>10}{:>20}", "magnitude", "matched S/N", "paper's", "stretched (paper)");
    report.bands.iter().for_each(|band| print!("{:>20}", format!("linear, {band}")));
    println!();
    let ratio = |ratio: &Ratio| format!("{:.4} +- {:.4}", ratio.value, ratio.error);
    for row in &report.rows {
        let (matched, mean) = (row.matched_signal_to_noise, row.paper_signal_to_noise);
        print!("{:>9}{matched:>13.1}{mean:>10.2}{:>20}", row.magnitude, ratio(&row.stretched));
        row.linear.iter().for_each(|value| print!("{:>20}", ratio(value)));
        println!();
    }
    println!(
        "the stretched ratio {} with magnitude within 2 standard errors",
        if report.rises { "rises" } else { "does not rise" }
    );
}
