//! `unseeing catalogue`: the summary catalogue of a survey, as FITS or CSV.

use std::path::PathBuf;

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

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let products = products(&args.run)?;
    let Some(first) = products.first() else {
        return Err(Error::usage(format!("{}: nothing is finished yet, so there is no catalogue", args.run.display())));
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
    for out in &args.out {
        catalogue.write(out, &meta)?;
    }
    let missing = missing(&args.run)?;
    if args.json {
        let columns: Vec<_> = catalogue.columns().iter().map(|column| &column.name).collect();
        let missing =
            missing.map(|missing| serde_json::json!({ "shards": missing.shards.len(), "objects": missing.objects }));
        let report = serde_json::json!({
            "files": args.out, "objects": objects, "failed": failed, "columns": columns, "missing": missing,
        });
        println!("{report:#}");
    } else {
        let files: Vec<_> = args.out.iter().map(|out| out.display().to_string()).collect();
        let columns = catalogue.columns().len();
        println!("{objects} objects ({failed} failed), {columns} columns, are in {}", files.join(" and "));
        if let Some(missing) = missing {
            println!("{missing}");
        }
    }
    Ok(DONE)
}
