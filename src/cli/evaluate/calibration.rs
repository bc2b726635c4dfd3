//! `unseeing evaluate calibration`: samplers against exact posteriors and simulated truths.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args as ClapArgs;

use crate::cli::{DONE, RESUMABLE};
use crate::cluster::{self, Comm, signals};
use crate::device::Compute;
use crate::evaluate::calibration::config::CalibrationConfig;
use crate::evaluate::calibration::figures;
use crate::evaluate::calibration::report::Report;
use crate::evaluate::calibration::run::{Outcome, Plan};
use crate::io::digest;
use crate::io::publish::publish_bytes;
use crate::{Error, Result};

/// Between two looks for news of other ranks.
const PAUSE: Duration = Duration::from_millis(20);
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
    let stop = signals::stop_flag()?;
    cluster::abort_on_panic();
    let comm = cluster::join()?;
    let outcome = work(args, comm.as_ref(), &stop);
    let told = tell(comm.as_ref(), &outcome);
    // Before any return, because a rank that leaves without this makes the others wait.
    let done = match (comm.rank(), told) {
        (0, Ok(true)) => outcome.and_then(|(_, plan, config)| report(args, &plan, &config)),
        (_, Ok(_)) => outcome.map(|(ended, ..)| if ended == Outcome::Finished { DONE } else { RESUMABLE }),
        (_, Err(error)) => outcome.and(Err(error)),
    };
    comm.finish()?;
    done
}

/// This rank's share of the tasks.
fn work(args: &Args, comm: &dyn Comm, stop: &AtomicBool) -> Result<(Outcome, Plan, CalibrationConfig)> {
    let config = CalibrationConfig::read(&args.config)?;
    let (local, locals) = (comm.local_rank() as u32, comm.local_size() as u32);
    let device = Compute::open(config.machine.device, local, locals, config.machine.threads)?.device;
    let program = std::env::current_exe()
        .map_err(|error| Error::internal(format!("cannot find the program's own file: {error}")))?;
    let plan = Plan::new(&config, device, &digest::file(&program)?)?;
    let total = plan.len();
    let told = |number: usize| {
        if comm.rank() == 0 && number % TOLD_EVERY < comm.size() {
            eprintln!("calibration: {} of {total} simulations", number + 1);
        }
    };
    let ended = plan.work((comm.rank(), comm.size()), stop, &told)?;
    Ok((ended, plan, config))
}

/// Ranks tell rank 0 how they ended: the first byte is the kind, the rest an error's text. Rank 0 answers whether all are
/// finished.
fn tell(comm: &dyn Comm, outcome: &Result<(Outcome, Plan, CalibrationConfig)>) -> Result<bool> {
    let message = match outcome {
        Ok((Outcome::Finished, ..)) => vec![0],
        Ok((Outcome::Stopped, ..)) => vec![1],
        Err(error) => [vec![2], error.to_string().into_bytes()].concat(),
    };
    if comm.rank() != 0 {
        comm.send(0, message)?;
        return Ok(false);
    }
    let mut finished = message == [0];
    let mut failed = None;
    for _ in 1..comm.size() {
        let (rank, message) = loop {
            match comm.receive()? {
                Some(news) => break news,
                None => std::thread::sleep(PAUSE),
            }
        };
        finished &= message == [0];
        if message.first() == Some(&2) {
            failed = Some(format!("rank {rank}: {}", String::from_utf8_lossy(&message[1..])));
        }
    }
    match failed {
        Some(why) => Err(Error::internal(why)),
        None => Ok(finished),
    }
}

/// The report of a finished run: files in the output folder, and a table or JSON on the terminal.
fn report(args: &Args, plan: &Plan, config: &CalibrationConfig) -> Result<i32> {
    let report = Report::of(plan, config)?;
    let json = serde_json::to_string_pretty(&report).map_err(|error| Error::internal(error.to_string()))?;
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
