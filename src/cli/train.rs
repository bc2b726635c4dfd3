//! `unseeing train`: trains a prior from images: alone, or as one of many ranks (mpirun, srun).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args as ClapArgs;

use crate::cluster::{self, Comm, signals};
use crate::device::{self, Compute};
use crate::train::config::TrainConfig;
use crate::train::session::{Check, Options, Outcome, check, run as train};
use crate::{Result, cli};

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
    if args.check {
        let config = TrainConfig::read(&args.config)?;
        device::set_threads(config.run.threads.max(1))?;
        return report(
            &check(&config, config.data.source(&config.optimizer)?.as_ref(), &args.out, REFERENCES)?,
            args.json,
        );
    }
    // First of all, so that a signal during start-up is not lost.
    let stop = signals::stop_flag()?;
    cluster::abort_on_panic();
    let comm = cluster::join()?;
    // The others hear of it with the gradients.
    if comm.rank() == 0 {
        signals::stop_before_the_end(&stop);
    }
    let outcome = work(args, comm.as_ref(), stop);
    if let Err(error) = &outcome
        && comm.size() > 1
    {
        // The other ranks may be waiting for this one's gradient.
        eprintln!("error: rank {}: {error}", comm.rank());
        comm.abort(error.exit_code());
    }
    let rank = comm.rank();
    // Before any return, because a rank that leaves without this makes the others wait.
    comm.finish()?;
    Ok(match (outcome?, rank) {
        (Outcome::Stopped, 0) => cli::RESUMABLE,
        _ => cli::DONE,
    })
}

/// This rank's part of the training.
fn work(args: Args, comm: &dyn Comm, stop: Arc<AtomicBool>) -> Result<Outcome> {
    let config = TrainConfig::read(&args.config)?;
    let (local, locals) = (comm.local_rank() as u32, comm.local_size() as u32);
    let device = Compute::open(config.run.device, local, locals, config.run.threads.max(1))?.device;
    let options = Options { folder: args.out, stop_at: args.steps, minutes: args.minutes, stop };
    train(&config, config.data.source(&config.optimizer)?, &options, comm, device)
}

fn report(check: &Check, json: bool) -> Result<i32> {
    if json {
        println!("{}", cli::to_json(check)?);
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
