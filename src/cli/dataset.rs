//! `unseeing dataset`: turns a collection of simulated images into one file to train on.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::train::collection::build::build;
use crate::train::collection::config::CollectionConfig;
use crate::{Result, cli};

/// Arguments of `unseeing dataset`.
#[derive(ClapArgs)]
pub struct Args {
    /// Dataset config (TOML); without one, the files are taken for TNG's idealised images in the bands of HSC
    #[arg(required_unless_present = "from")]
    config: Option<PathBuf>,
    /// Folders with images, instead of the config's
    #[arg(long, value_name = "DIR", num_args = 1..)]
    from: Vec<PathBuf>,
    /// The file to be written, instead of the config's
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Prints what was made as JSON
    #[arg(long)]
    json: bool,
}

/// Images between two lines about the progress.
const TOLD_EVERY: usize = 500;
/// Skipped files that are named on the terminal; all are in the file.
const NAMED: usize = 20;

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let mut config = match &args.config {
        Some(path) => CollectionConfig::read(path)?,
        None => CollectionConfig::default(),
    };
    if !args.from.is_empty() {
        config.from = args.from;
    }
    if let Some(out) = args.out {
        config.out = out;
    }
    let told = |done: usize, all: usize| {
        if done.is_multiple_of(TOLD_EVERY) {
            eprintln!("dataset: {done} of {all} images");
        }
    };
    let summary = build(&config, &told)?;
    if args.json {
        println!("{}", cli::to_json(&summary)?);
    } else {
        println!(
            "{}: {} images to train on, {} held out, of {} subhalos; digest {}",
            summary.file.display(),
            summary.training,
            summary.heldout,
            summary.subhalos,
            summary.digest
        );
        if !summary.skipped.is_empty() {
            println!(
                "{} files were skipped (all are listed in the file, `skipped/file` and `skipped/reason`):",
                summary.skipped.len()
            );
        }
        summary.skipped.iter().take(NAMED).for_each(|one| println!("  {}: {}", one.file, one.reason));
    }
    Ok(if summary.skipped.is_empty() { cli::DONE } else { cli::SOME_FAILED })
}
