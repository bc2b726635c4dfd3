//! `unseeing status`: tells how far a survey has come.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::DONE;
use crate::Result;
use crate::survey::folder::Folder;
use crate::survey::status;

/// Objects of one reason that are named.
const NAMED: usize = 3;

/// Arguments of `unseeing status`.
#[derive(ClapArgs)]
pub struct Args {
    /// The survey's config, or its run folder
    survey: PathBuf,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let status = status::read(&Folder::find(&args.survey)?)?;
    if args.json {
        println!("{}", crate::cli::to_json(&status)?);
        return Ok(DONE);
    }
    println!("{} ({})", status.name, status.folder.display());
    println!("objects  {} done, {} failed, of {}", status.done, status.failed, status.objects);
    println!("shards   {} of {}", status.shards_done, status.shards);
    for working in &status.working {
        let host = working.host.as_deref().unwrap_or("nobody");
        println!(
            "  shard {:05}  {:8} {host}: {} done, {} failed (attempt {})",
            working.shard, working.state, working.done, working.failed, working.attempts
        );
    }
    if let Some(rate) = status.objects_per_hour {
        let left = status.hours_left.filter(|_| !status.complete).map(|hours| format!(", {hours:.1} h left"));
        println!(
            "rate     {rate:.0} objects an hour{}, {:.2} worker hours",
            left.unwrap_or_default(),
            status.worker_hours
        );
    }
    if status.packed > 0 {
        println!("inputs   of {} shards are packed", status.packed);
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    status.failures.iter().for_each(|(id, reason)| reasons.entry(reason).or_default().push(id));
    for (reason, ids) in reasons {
        let more = if ids.len() > NAMED { ", ..." } else { "" };
        println!("  {} failed: {reason} ({}{more})", ids.len(), ids[..ids.len().min(NAMED)].join(", "));
    }
    Ok(DONE)
}
