//! `unseeing retry`: clears failed objects or stale claims, so that the next run tries them again.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::DONE;
use crate::survey::folder::Folder;
use crate::survey::plan::Plan;
use crate::survey::retry;
use crate::{Error, Result};

/// Arguments of `unseeing retry`.
#[derive(ClapArgs)]
pub struct Args {
    /// The survey's config, or its run folder
    survey: PathBuf,
    /// Clear only this object (may be given several times); all failed objects without it
    #[arg(long = "object", value_name = "ID")]
    objects: Vec<String>,
    /// Free the claims of all unfinished shards instead: only when their jobs are known to be gone
    #[arg(long, conflicts_with = "objects")]
    claims: bool,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let folder = Folder::find(&args.survey)?;
    let plan = Plan::read(&folder)?
        .ok_or_else(|| Error::usage(format!("{}: has no plan, so nothing can have failed", folder.root().display())))?;
    let cleared = if args.claims {
        retry::claims(&folder, &plan)?
    } else {
        retry::objects(&folder, &plan, &args.objects.into_iter().collect())?
    };
    if args.json {
        println!("{}", crate::cli::to_json(&cleared)?);
        return Ok(DONE);
    }
    println!("{} objects will be tried again by the next `unseeing run`", cleared.objects.len());
    cleared.objects.iter().for_each(|id| println!("  {id}"));
    cleared.not_failed.iter().for_each(|id| println!("{id} has not failed, or is not in this survey"));
    if !cleared.busy.is_empty() {
        println!("shards {:?} are being worked on and were left alone", cleared.busy);
    }
    if !cleared.claims.is_empty() {
        println!("claims of shards {:?} were freed", cleared.claims);
    }
    Ok(DONE)
}
