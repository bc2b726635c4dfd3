//! `unseeing train`: trains a prior from images.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args as ClapArgs;

use crate::train::Dataset;
use crate::train::config::TrainConfig;
use crate::train::session::{Check, Options, Outcome, check, run as train};
use crate::train::source::ImageSource;
use crate::{Error, Result, cli};

/// Arguments of `unseeing train`.
#[derive(ClapArgs)]
pub struct Args {
    /// Training config (TOML)
    config: PathBuf,
    /// Folder of the run; a checkpoint in it is continued
    #[arg(long, default_value = "runs/train")]
    out: PathBuf,
    /// Stop at this step (the learning rate still follows the config's number of steps)
    #[arg(long)]
    steps: Option<u64>,
    /// Stop after so many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// Do not train: measure the checkpoint's held-out losses, and the distance of its draws to the training images
    #[arg(long)]
    check: bool,
    /// With --check: print JSON
    #[arg(long, requires = "check")]
    json: bool,
}

/// Training images among which `--check` looks for the nearest.
const REFERENCES: u64 = 8192;

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let config = TrainConfig::read(&args.config)?;
    let threads = i32::try_from(config.run.threads.max(1)).map_err(|_| Error::usage("run.threads is too large"))?;
    tch::set_num_threads(threads);
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGUSR1, libc::SIGTERM, libc::SIGINT] {
        signal_hook::flag::register(signal, stop.clone())
            .map_err(|error| Error::internal(format!("cannot catch signal {signal}: {error}")))?;
    }
    let source: Arc<dyn ImageSource> = Arc::new(Dataset::open(&config.data)?);
    if args.check {
        return report(&check(&config, source.as_ref(), &args.out, REFERENCES)?, args.json);
    }
    let options = Options { folder: args.out, stop_at: args.steps, minutes: args.minutes, stop };
    Ok(match train(&config, source, &options)? {
        Outcome::Finished => cli::DONE,
        Outcome::Stopped => cli::RESUMABLE,
    })
}

fn report(check: &Check, json: bool) -> Result<i32> {
    if json {
        let text = serde_json::to_string_pretty(check).map_err(|error| Error::internal(format!("JSON: {error}")))?;
        println!("{text}");
        return Ok(cli::DONE);
    }
    println!("step {}", check.step);
    println!("sigma      network    Wiener     ratio");
    for loss in &check.losses {
        println!("{:<10.3} {:<10.4} {:<10.4} {:.4}", loss.sigma, loss.network, loss.wiener, loss.ratio());
    }
    println!("distance to the nearest of {REFERENCES} training images: least, first quartile, median, largest");
    for (name, sorted) in [("draws", &check.nearest_to_draws), ("held out", &check.nearest_to_heldout)] {
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
        println!("{name:<10} {:.4} {:.4} {:.4} {:.4}", at(0.0), at(0.25), at(0.5), at(1.0));
    }
    Ok(cli::DONE)
}
