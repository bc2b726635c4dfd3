//! `unseeing evaluate calibration`: samplers against exact posteriors and simulated truths.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args as ClapArgs;

use crate::cli::shared::{program, shared};
use crate::cli::{DONE, to_json};
use crate::cluster::Comm;
use crate::device::Compute;
use crate::evaluate::calibration::config::CalibrationConfig;
use crate::evaluate::calibration::figures;
use crate::evaluate::calibration::report::Report;
use crate::evaluate::calibration::run::{Outcome, Plan};
use crate::io::publish::publish_bytes;
use crate::{Error, Result};

/// Tasks between two lines about the progress.
const TOLD_EVERY: usize = 50;

/// Arguments of `unseeing evaluate calibration`.
#[derive(ClapArgs)]
pub struct Args {
    /// Calibration config (TOML)
    config: PathBuf,
    /// Answers in JSON
    #[arg(long)]
    json: bool,
    /// Draws no pictures
    #[arg(long)]
    no_figures: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: &Args) -> Result<i32> {
    shared(|comm, stop| work(args, comm, stop), |(plan, config)| report(args, &plan, &config))
}

/// This rank's share of the tasks.
fn work(args: &Args, comm: &dyn Comm, stop: &AtomicBool) -> Result<(Outcome, (Plan, CalibrationConfig))> {
    let config = CalibrationConfig::read(&args.config)?;
    let (local, locals) = (comm.local_rank() as u32, comm.local_size() as u32);
    let machine = &config.machine;
    let device = Compute::open_shared(machine.device, local, locals, machine.ranks_per_device, machine.threads)?.device;
    let plan = Plan::new(&config, device, &program()?)?;
    let total = plan.len();
    let told = |number: usize| {
        if comm.rank() == 0 && number % TOLD_EVERY < comm.size() {
            eprintln!("calibration: {} of {total} simulations", number + 1);
        }
    };
    let ended = plan.work((comm.rank(), comm.size()), stop, &told)?;
    Ok((ended, (plan, config)))
}

/// The report of a finished run: files in the output folder, and a table or JSON on the terminal.
fn report(args: &Args, plan: &Plan, config: &CalibrationConfig) -> Result<i32> {
    let report = Report::of(plan, config)?;
    let json = to_json(&report)?;
    let text = report.text();
    create(&config.out)?;
    publish_bytes(&config.out.join("report.json"), json.as_bytes())?;
    publish_bytes(&config.out.join("report.txt"), text.as_bytes())?;
    if !args.no_figures {
        let folder = config.out.join("figures");
        create(&folder)?;
        figures::draw(&report, &folder)?;
    }
    println!("{}", if args.json { json } else { text });
    Ok(DONE)
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::file(folder, format!("cannot create the folder: {error}")))
}
