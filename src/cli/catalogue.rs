//! `unseeing catalogue`: the summary catalogue of a survey, as FITS or CSV.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::DONE;
use crate::product::catalog::Catalogue;
use crate::product::run::{missing, products};
use crate::{Error, Result};

/// Arguments of `unseeing catalogue`.
#[derive(ClapArgs)]
pub struct Args {
    /// The run folder, or one product file
    run: PathBuf,
    /// The file to write, .fits or .csv; may be given more than once
    #[arg(long, required = true)]
    out: Vec<PathBuf>,
    /// Prints what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What a catalogue holds.
pub(super) struct Summary {
    objects: usize,
    failed: usize,
    columns: Vec<String>,
}

/// Writes the catalogue of a run folder or product file into files, .fits or .csv.
pub(super) fn summarise(run: &Path, outs: &[PathBuf]) -> Result<Summary> {
    let products = products(run)?;
    let Some(first) = products.first() else {
        return Err(Error::usage(format!("{}: nothing is finished yet, so there is no catalogue", run.display())));
    };
    first.check()?;
    let meta = first.open()?.meta;
    let mut catalogue = Catalogue::new(&meta);
    let (mut objects, mut failed) = (0, 0);
    for product in &products {
        product.read(|shard| {
            if !shard.meta.same_survey(&meta) {
                let what = format!("its attributes differ from those of {}: not one survey", first.path.display());
                return Err(Error::file(&product.path, what));
            }
            for record in shard.all_numbers() {
                catalogue.push(&record?);
            }
            objects += shard.len();
            failed += shard.failed();
            Ok(())
        })?;
    }
    for out in outs {
        catalogue.write(out, &meta)?;
    }
    let columns = catalogue.columns().iter().map(|column| column.name.clone()).collect();
    Ok(Summary { objects, failed, columns })
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let Summary { objects, failed, columns } = summarise(&args.run, &args.out)?;
    let missing = missing(&args.run)?;
    if args.json {
        let missing =
            missing.map(|missing| serde_json::json!({ "shards": missing.shards.len(), "objects": missing.objects }));
        let report = serde_json::json!({
            "files": args.out, "objects": objects, "failed": failed, "columns": columns, "missing": missing,
        });
        println!("{report:#}");
    } else {
        let files: Vec<_> = args.out.iter().map(|out| out.display().to_string()).collect();
        let columns = columns.len();
        println!("{objects} objects ({failed} failed), {columns} columns, are in {}", files.join(" and "));
        if let Some(missing) = missing {
            println!("{missing}");
        }
    }
    Ok(DONE)
}
