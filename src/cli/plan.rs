//! `unseeing plan`: checks a config and its catalogue and writes the plan of a survey.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;

use super::DONE;
use crate::config::Config;
use crate::survey::folder::Folder;
use crate::survey::plan::Plan;
use crate::survey::run::read_targets;
use crate::{Error, Result};

/// Arguments of `unseeing plan`.
#[derive(ClapArgs)]
pub struct Args {
    /// The survey's config (TOML)
    config: PathBuf,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let config = Config::read(&args.config)?;
    let folder = Folder::new(&config.survey.folder);
    let (plan, new) = Plan::ensure(&config, &folder, || read_targets(&config))?;
    if args.json {
        let report = json!({
            "name": plan.name, "folder": folder.root(), "new": new, "digest": plan.digest()?, "objects": plan.objects,
            "shards": plan.shards.len(), "samples": plan.samples, "block": plan.block, "threads": plan.threads,
            "cpu_capability": plan.cpu_capability, "catalog": plan.catalog, "prior": plan.prior,
        });
        println!("{}", serde_json::to_string_pretty(&report).map_err(|error| Error::internal(error.to_string()))?);
        return Ok(DONE);
    }
    println!("{} {}", if new { "planned" } else { "already planned:" }, folder.root().display());
    println!("{} objects in {} shards", plan.objects, plan.shards.len());
    println!("{} samples each, in blocks of {}", plan.samples, plan.block);
    Ok(DONE)
}
