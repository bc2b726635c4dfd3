//! `unseeing merge`: joins the shard files of a survey into one file.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::DONE;
use crate::product::merge::merge;
use crate::product::run::{Product, products};
use crate::survey::folder::Folder;
use crate::survey::plan::Plan;
use crate::survey::receipt::Receipt;
use crate::{Error, Result};

/// Missing shards that an error names.
const NAMED: usize = 10;

/// Arguments of `unseeing merge`.
#[derive(ClapArgs)]
pub struct Args {
    /// The run folder, or the survey's config: its shards are joined
    run: PathBuf,
    /// Join what there is, although shards are missing
    #[arg(long)]
    partial: bool,
    /// The file to write
    #[arg(long)]
    out: PathBuf,
    /// Prints what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let named_by_config = args.run.extension().is_some_and(|ending| ending == "toml");
    let run = if named_by_config { Folder::find(&args.run)?.root().to_path_buf() } else { args.run };
    let missing = missing(&run)?;
    if !missing.is_empty() && !args.partial {
        let some: Vec<String> = missing.iter().take(NAMED).map(u32::to_string).collect();
        let more = if missing.len() > NAMED { ", ..." } else { "" };
        return Err(Error::usage(format!(
            "{}: {} shards have no receipt yet ({}{more}): `unseeing run` goes on, --partial joins what there is",
            run.display(),
            missing.len(),
            some.join(", ")
        )));
    }
    let parts = products(&run)?.iter().map(Product::part).collect::<Result<Vec<_>>>()?;
    let merged = merge(&parts, &args.out)?;
    if args.json {
        let report = serde_json::json!({
            "file": args.out,
            "shards": parts.len(),
            "missing": missing,
            "objects": merged.objects,
            "failed": merged.failed,
            "content_blake3": merged.content_blake3,
        });
        println!("{report:#}");
    } else {
        let (objects, failed, shards) = (merged.objects, merged.failed, parts.len());
        println!("{objects} objects ({failed} failed) of {shards} shards are in {}", args.out.display());
        println!("content_blake3 {}", merged.content_blake3);
        if !missing.is_empty() {
            println!("{} shards are missing", missing.len());
        }
    }
    Ok(DONE)
}

/// Shards of the run folder's plan that have no receipt; none of a single file, or where there is no plan.
fn missing(run: &Path) -> Result<Vec<u32>> {
    let folder = Folder::new(run);
    let plan = if run.is_dir() { Plan::read(&folder)? } else { None };
    let Some(plan) = plan else { return Ok(Vec::new()) };
    let receipts = Receipt::list(&folder)?;
    Ok((0..plan.shards.len() as u32).filter(|shard| !receipts.contains(shard)).collect())
}
