//! `unseeing merge`: joins the shard files of a survey into one file.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::DONE;
use crate::Result;
use crate::product::merge::merge;
use crate::product::run::{Product, products};

/// Arguments of `unseeing merge`.
#[derive(ClapArgs)]
pub struct Args {
    /// The run folder: its shards with receipts are joined
    run: PathBuf,
    /// The file to write
    #[arg(long)]
    out: PathBuf,
    /// Prints what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let parts = products(&args.run)?.iter().map(Product::part).collect::<Result<Vec<_>>>()?;
    let merged = merge(&parts, &args.out)?;
    if args.json {
        let report = serde_json::json!({
            "file": args.out,
            "shards": parts.len(),
            "objects": merged.objects,
            "failed": merged.failed,
            "content_blake3": merged.content_blake3,
        });
        println!("{report:#}");
    } else {
        let (objects, failed, shards) = (merged.objects, merged.failed, parts.len());
        println!("{objects} objects ({failed} failed) of {shards} shards are in {}", args.out.display());
        println!("content_blake3 {}", merged.content_blake3);
    }
    Ok(DONE)
}
