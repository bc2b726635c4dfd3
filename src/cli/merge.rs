//! `unseeing merge`: joins the shard files of a survey into one file, and makes the summary catalogue of it.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::DONE;
use super::catalogue::summarise;
use crate::product::merge::merge;
use crate::product::run::{Product, missing, products};
use crate::survey::folder::Folder;
use crate::survey::plan::Plan;
use crate::survey::receipt::Receipt;
use crate::{Error, Result};

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
    /// The summary catalogue, .fits or .csv; without it, OUT with the ending .fits
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Prints what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let named_by_config = args.run.extension().is_some_and(|ending| ending == "toml");
    let run = if named_by_config { Folder::find(&args.run)?.root().to_path_buf() } else { args.run };
    let table = args.catalogue.unwrap_or_else(|| args.out.with_extension("fits"));
    if table == args.out {
        return Err(Error::usage(format!(
            "{}: is asked for as joined file and as catalogue (--catalogue)",
            table.display()
        )));
    }
    let folder = Folder::new(&run);
    if let Some(plan) = Plan::read(&folder)? {
        Receipt::all(&folder, &plan)?;
    }
    let missing = missing(&run)?;
    if let (Some(missing), false) = (&missing, args.partial) {
        let place = run.display();
        return Err(Error::usage(format!("{place}: {missing}; `unseeing run` goes on, --partial joins what there is")));
    }
    let products = products(&run)?;
    products.iter().try_for_each(Product::check)?;
    let parts = products.iter().map(Product::part).collect::<Result<Vec<_>>>()?;
    let merged = merge(&parts, &args.out)?;
    summarise(&args.out, std::slice::from_ref(&table))?;
    if args.json {
        let report = serde_json::json!({
            "file": args.out,
            "catalogue": table,
            "shards": parts.len(),
            "missing": missing.map_or(Vec::new(), |missing| missing.shards),
            "objects": merged.objects,
            "failed": merged.failed,
            "content_blake3": merged.content_blake3,
        });
        println!("{report:#}");
    } else {
        let (objects, failed, shards) = (merged.objects, merged.failed, parts.len());
        println!("{objects} objects ({failed} failed) of {shards} shards are in {}", args.out.display());
        println!("their summary catalogue is {}", table.display());
        println!("content_blake3 {}", merged.content_blake3);
        if let Some(missing) = missing {
            println!("{missing}");
        }
    }
    Ok(DONE)
}
