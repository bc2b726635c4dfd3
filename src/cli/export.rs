//! `unseeing export`: writes the products of chosen objects as FITS images.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{DONE, SOME_FAILED};
use crate::product::export::{Names, export_fits};
use crate::product::run::{missing, products};
use crate::{Error, Result};

/// Arguments of `unseeing export`.
#[derive(ClapArgs)]
pub struct Args {
    /// The run folder, or one product file
    run: PathBuf,
    /// The objects' ids; all objects when none is given
    ids: Vec<String>,
    /// The folder to write to, one file an object
    #[arg(long)]
    out: PathBuf,
    /// Prints what was done as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let products = products(&args.run)?;
    let out = &args.out;
    std::fs::create_dir_all(out).map_err(|error| Error::file(out, format!("cannot create the folder: {error}")))?;
    let mut wanted: HashSet<&str> = args.ids.iter().map(String::as_str).collect();
    let (mut names, mut written, mut failed) = (Names::default(), Vec::new(), Vec::new());
    for product in &products {
        let shard = product.open()?;
        let chosen = |id: &String| args.ids.is_empty() || wanted.contains(id.as_str());
        let chosen: Vec<usize> = (0..shard.len()).filter(|&index| chosen(&shard.ids()[index])).collect();
        if !chosen.is_empty() {
            product.check()?;
        }
        for index in chosen {
            let id = &shard.ids()[index];
            wanted.remove(id.as_str());
            let record = shard.record(index).map_err(|error| product.with_way_out(error))?;
            let path = out.join(names.name(id, "fits"));
            match export_fits(&path, &record, &shard.meta) {
                Ok(()) => written.push(path),
                // A failed object is reported and the others go on.
                Err(error @ Error::Object { .. }) => {
                    eprintln!("{error}");
                    failed.push(id.clone());
                }
                Err(error) => return Err(error),
            }
        }
    }
    if !wanted.is_empty() {
        let mut missing: Vec<_> = wanted.into_iter().collect();
        missing.sort_unstable();
        return Err(Error::usage(format!("{}: no such objects: {}", args.run.display(), missing.join(", "))));
    }
    let missing = missing(&args.run)?;
    if args.json {
        let unfinished = missing.map(|missing| missing.objects);
        println!("{:#}", serde_json::json!({ "written": written, "failed": failed, "unfinished": unfinished }));
    } else {
        println!("{} objects are in {}; {} have no images", written.len(), out.display(), failed.len());
        if let Some(missing) = missing {
            println!("{missing}");
        }
    }
    Ok(if failed.is_empty() { DONE } else { SOME_FAILED })
}
