//! `unseeing plan`: checks a config and its catalogue and writes the plan of a survey.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;

use super::run::EngineKind;
use super::{DONE, SOME_FAILED};
use crate::Result;
use crate::config::Config;
use crate::survey::estimate::{self, estimate};
use crate::survey::folder::Folder;
use crate::survey::pack::{check_indexes, check_inputs};
use crate::survey::plan::Plan;
use crate::survey::run::read_targets;

/// Objects whose inputs a new plan is tried with.
const LOOKED_AT: u64 = 1000;
/// Objects that a survey planned before is looked at with, for the sizes of its inputs.
const GLANCED_AT: u64 = 20;

/// Arguments of `unseeing plan`.
#[derive(ClapArgs)]
pub struct Args {
    /// The survey's config (TOML)
    config: PathBuf,
    /// Read the inputs of every object, and tell which cannot be used; without it, of 1000 objects at most
    #[arg(long)]
    check_inputs: bool,
    /// Seconds that one worker (GPU) takes for an object, for the estimate of the time
    #[arg(long, value_name = "SECONDS", value_parser = super::positive)]
    seconds_per_object: Option<f64>,
    /// Take the rate, and the size of the products, from the receipts of this earlier run (its folder or config)
    #[arg(long, value_name = "RUN")]
    like: Option<PathBuf>,
    /// Report as JSON
    #[arg(long)]
    json: bool,
    /// What will compute, as with `run`
    #[arg(long, hide = true, value_enum, default_value = "posterior")]
    engine: EngineKind,
}

/// Runs the command and returns the exit code: 3 if inputs that were to be checked cannot be used.
pub fn run(args: Args) -> Result<i32> {
    let config = Config::read(&args.config)?;
    let folder = Folder::new(&config.survey.folder);
    let (plan, new) = Plan::ensure(&config, &folder, || {
        args.engine.check()(&config)?;
        read_targets(&config)
    })?;
    let packed = check_indexes(&folder, &plan)?;
    let rows = if args.check_inputs { None } else { Some(if new { LOOKED_AT } else { GLANCED_AT }) };
    let looked = match check_inputs(&config, &folder, &plan, rows) {
        Ok(checked) => Some(checked),
        // Nobody has asked for the look: the plan stands without it.
        Err(error) if !args.check_inputs => {
            if new {
                eprintln!("the inputs could not be looked at: {error}");
            }
            None
        }
        Err(error) => return Err(error),
    };
    let measured = match &args.like {
        Some(run) => Some(estimate::earlier(run, &plan, &config)?),
        None => estimate::measured(&folder, &plan, &config)?,
    };
    let estimate = estimate(&config, &plan, looked.as_ref(), args.seconds_per_object, measured.as_ref());
    // What is planned already has been looked at, and may have been packed and removed since.
    let inputs = looked.filter(|_| new || args.check_inputs);
    let bad = inputs.as_ref().map_or(0, |inputs| inputs.bad);
    let code = if args.check_inputs && bad > 0 { SOME_FAILED } else { DONE };
    if args.json {
        let report = json!({
            "name": plan.name, "folder": folder.root(), "new": new, "digest": plan.digest()?, "objects": plan.objects,
            "shards": plan.shards.len(), "samples": plan.samples, "block": plan.block, "threads": plan.threads,
            "cpu_capability": plan.cpu_capability, "catalog": plan.catalog, "prior": plan.prior, "code": plan.code, "packed_shards": packed,
            "inputs": inputs, "estimate": estimate,
        });
        println!("{}", crate::cli::to_json(&report)?);
        return Ok(code);
    }
    println!("{} {}", if new { "planned" } else { "already planned:" }, folder.root().display());
    println!("{} objects in {} shards", plan.objects, plan.shards.len());
    println!("{} samples each, in blocks of {}", plan.samples, plan.block);
    estimate::words(&estimate).iter().for_each(|line| println!("{line}"));
    if packed > 0 {
        println!("inputs of {packed} shards are packed");
    }
    if let Some(inputs) = inputs {
        println!("inputs of {} objects were read, {} of them cannot be used", inputs.rows, inputs.bad);
        inputs.reasons.iter().for_each(|(id, reason)| println!("  {id}: {reason}"));
    }
    Ok(code)
}
