//! `unseeing pack`: puts the inputs of a survey into one file for each shard.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::Args as ClapArgs;

use super::run::EngineKind;
use super::{DONE, RESUMABLE, SOME_FAILED};
use crate::Result;
use crate::cluster::signals;
use crate::config::Config;
use crate::survey::folder::Folder;
use crate::survey::pack;
use crate::survey::plan::Plan;
use crate::survey::run::read_targets;

/// Arguments of `unseeing pack`.
#[derive(ClapArgs)]
pub struct Args {
    /// The survey's config (TOML); it is planned if it has no plan yet
    config: PathBuf,
    /// Report as JSON
    #[arg(long)]
    json: bool,
    /// What will compute, as with `run`
    #[arg(long, hide = true, value_enum, default_value = "posterior")]
    engine: EngineKind,
}

/// Runs the command and returns the exit code: 3 if inputs of some objects cannot be used.
pub fn run(args: Args) -> Result<i32> {
    let stop = signals::stop_flag()?;
    let config = Config::read(&args.config)?;
    let folder = Folder::new(&config.survey.folder);
    let (plan, _) = Plan::ensure(&config, &folder, || {
        args.engine.check()(&config)?;
        read_targets(&config)
    })?;
    let report = pack::pack(&config, &folder, &plan, &|| stop.load(Ordering::SeqCst))?;
    let all = report.packed + report.skipped == plan.shards.len();
    if args.json {
        println!("{}", crate::cli::to_json(&report)?);
    } else {
        let megabytes = report.bytes as f64 / 1e6;
        println!("{} objects packed, {megabytes:.1} MB, into {}", report.objects, folder.inputs().display());
        println!("{} of {} shards are packed or done", report.packed + report.skipped, plan.shards.len());
        report.reasons.iter().for_each(|(id, reason)| println!("  cannot be used: {id}: {reason}"));
        if report.bad > report.reasons.len() as u64 {
            println!("  and {} more", report.bad - report.reasons.len() as u64);
        }
    }
    Ok(match (all, report.bad) {
        (false, _) => RESUMABLE,
        (true, 0) => DONE,
        (true, _) => SOME_FAILED,
    })
}
