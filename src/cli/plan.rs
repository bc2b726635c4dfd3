//! `unseeing plan`: checks a config and its catalogue and writes the plan of a survey.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;

use super::{DONE, SOME_FAILED};
use crate::config::Config;
use crate::survey::folder::Folder;
use crate::survey::pack::check_inputs;
use crate::survey::plan::Plan;
use crate::survey::run::read_targets;
use crate::{Error, Result};

/// Objects whose inputs a new plan is tried with.
const LOOKED_AT: u64 = 1000;

/// Arguments of `unseeing plan`.
#[derive(ClapArgs)]
pub struct Args {
    /// The survey's config (TOML)
    config: PathBuf,
    /// Read the inputs of every object, and tell which cannot be used; without it, of 1000 objects at most
    #[arg(long)]
    check_inputs: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code: 3 if inputs that were to be checked cannot be used.
pub fn run(args: Args) -> Result<i32> {
    let config = Config::read(&args.config)?;
    let folder = Folder::new(&config.survey.folder);
    let (plan, new) = Plan::ensure(&config, &folder, || read_targets(&config))?;
    // What is planned already has been looked at.
    let rows = if args.check_inputs { None } else { Some(if new { LOOKED_AT } else { 0 }) };
    let inputs = match rows {
        Some(0) => None,
        rows => match check_inputs(&config, &folder, &plan, rows) {
            Ok(checked) => Some(checked),
            // Nobody has asked for the look: the plan stands without it.
            Err(error) if !args.check_inputs => {
                eprintln!("the inputs could not be looked at: {error}");
                None
            }
            Err(error) => return Err(error),
        },
    };
    let bad = inputs.as_ref().map_or(0, |inputs| inputs.bad);
    let code = if args.check_inputs && bad > 0 { SOME_FAILED } else { DONE };
    if args.json {
        let report = json!({
            "name": plan.name, "folder": folder.root(), "new": new, "digest": plan.digest()?, "objects": plan.objects,
            "shards": plan.shards.len(), "samples": plan.samples, "block": plan.block, "threads": plan.threads,
            "cpu_capability": plan.cpu_capability, "catalog": plan.catalog, "prior": plan.prior, "inputs": inputs,
        });
        println!("{}", serde_json::to_string_pretty(&report).map_err(|error| Error::internal(error.to_string()))?);
        return Ok(code);
    }
    println!("{} {}", if new { "planned" } else { "already planned:" }, folder.root().display());
    println!("{} objects in {} shards", plan.objects, plan.shards.len());
    println!("{} samples each, in blocks of {}", plan.samples, plan.block);
    if let Some(inputs) = inputs {
        println!("inputs of {} objects were read, {} of them cannot be used", inputs.rows, inputs.bad);
        inputs.reasons.iter().for_each(|(id, reason)| println!("  {id}: {reason}"));
    }
    Ok(code)
}
