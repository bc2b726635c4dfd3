//! `unseeing train`: trains a prior from images.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args as ClapArgs;

use crate::train::Dataset;
use crate::train::config::TrainConfig;
use crate::train::session::{Options, Outcome, run as train};
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
}

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
    let options = Options { folder: args.out, stop_at: args.steps, minutes: args.minutes, stop };
    Ok(match train(&config, source, &options)? {
        Outcome::Finished => cli::DONE,
        Outcome::Stopped => cli::RESUMABLE,
    })
}
