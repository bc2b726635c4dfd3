//! One file per command: arguments in, library calls, human or JSON out.

use clap::{Parser, Subcommand};

use crate::{Error, Result};

mod catalogue;
mod dataset;
mod doctor;
mod draw;
mod evaluate;
mod export;
mod import;
mod merge;
mod moments;
mod pack;
mod plan;
mod report;
mod retry;
mod run;
mod shared;
mod simulate;
mod status;
mod train;
mod verify;

pub use crate::error::exit::{DONE, RESUMABLE, SOME_FAILED};

/// What `--json` prints.
fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|error| Error::internal(format!("JSON: {error}")))
}

/// A number above zero, as clap reads it.
fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("is no number above zero".into()),
    }
}

#[derive(Parser)]
#[command(name = "unseeing", version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a config and its catalogue and writes the plan of a survey
    Plan(plan::Args),
    /// Puts the inputs of a survey into one file for each shard, for surveys of many objects
    Pack(pack::Args),
    /// Works on a survey: alone, or as one of many ranks (mpirun, srun)
    Run(run::Args),
    /// Tells how far a survey has come
    Status(status::Args),
    /// Clears failed objects or stale claims, so that the next run tries them again
    Retry(retry::Args),
    /// Checks the products of a survey against their receipts
    Verify(verify::Args),
    /// Joins the shard files of a survey into one file
    Merge(merge::Args),
    /// Writes the summary catalogue of a survey: FITS for TOPCAT, or CSV
    Catalogue(catalogue::Args),
    /// Writes the products of chosen objects as FITS images
    Export(export::Args),
    /// Draws pictures and tables of a survey
    Report(report::Args),
    /// Makes one file to train on of a collection of simulated images
    Dataset(dataset::Args),
    /// Trains a prior from images: alone, or as one of many ranks (mpirun, srun)
    Train(train::Args),
    /// Draws galaxies from a prior: alone, or as one of many ranks; the same command goes on
    Draw(draw::Args),
    /// Measures the moments of a prior from its draws
    Moments(moments::Args),
    /// Reads a network trained elsewhere and checks it against recorded outputs
    Import(import::Args),
    /// Makes a small survey with known truth
    Simulate(simulate::Args),
    /// Tests whether a prior and a sampler are consistent
    Evaluate(evaluate::Args),
    /// Tells what this machine has and whether the program works on it
    Doctor(doctor::Args),
}

/// Parses the command line, runs the command and returns the exit code.
pub fn main() -> i32 {
    crate::device::prepare_environment();
    let arguments = Arguments::parse();
    if let Err(error) = crate::failpoint::prepare() {
        eprintln!("error: {error}");
        return error.exit_code();
    }
    let long = match &arguments.command {
        Command::Run(_) | Command::Dataset(_) | Command::Train(_) | Command::Pack(_) | Command::Draw(_) => true,
        Command::Evaluate(args) => args.is_long(),
        _ => false,
    };
    if !long {
        end_with_the_reader();
    }
    let outcome: Result<i32> = match arguments.command {
        Command::Plan(args) => plan::run(args),
        Command::Pack(args) => pack::run(args),
        Command::Run(args) => run::run(args),
        Command::Status(args) => status::run(args),
        Command::Retry(args) => retry::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Catalogue(args) => catalogue::run(args),
        Command::Export(args) => export::run(args),
        Command::Report(args) => report::run(args),
        Command::Dataset(args) => dataset::run(args),
        Command::Train(args) => train::run(args),
        Command::Draw(args) => draw::run(args),
        Command::Moments(args) => moments::run(args),
        Command::Import(args) => import::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Doctor(args) => doctor::run(args),
    };
    outcome.unwrap_or_else(|error: Error| {
        eprintln!("error: {error}");
        error.exit_code()
    })
}

/// A command whose output goes to `head` ends quietly when `head` has enough. Long runs go on without a reader.
fn end_with_the_reader() {
    // SAFETY: restores a default that the standard library changed, before other threads run.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
