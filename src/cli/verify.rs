//! `unseeing verify`: checks the products of a survey against their receipts, or one product file against its own digest.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde_json::json;

use super::DONE;
use super::run::writer_of;
use crate::product::run::products;
use crate::survey::folder::Folder;
use crate::survey::pack;
use crate::survey::plan::Plan;
use crate::survey::receipt::Receipt;
use crate::{Error, Result};

/// Arguments of `unseeing verify`.
#[derive(ClapArgs)]
pub struct Args {
    /// The survey's config, or its run folder; or a product file, as `merge` makes (.h5)
    survey: PathBuf,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code: 1 if a file is not what it should be, or not this survey's.
pub fn run(args: Args) -> Result<i32> {
    if args.survey.extension().is_some_and(|ending| ending == "h5") {
        return file(&args.survey, args.json);
    }
    let folder = Folder::find(&args.survey)?;
    let plan = Plan::read(&folder)?.ok_or_else(|| {
        Error::usage(format!("{}: has no plan, so there is nothing to verify", folder.root().display()))
    })?;
    let digest = plan.digest()?;
    let mut shards = Vec::new();
    let mut faults = 0;
    let mut damaged = Vec::new();
    let planned = |shard: &u32| (*shard as usize) < plan.shards.len();
    for shard in Receipt::list(&folder)?.into_iter().filter(planned) {
        let checked = Receipt::read(&folder, shard).and_then(|receipt| {
            let receipt = receipt.ok_or_else(|| Error::internal("the receipt has vanished"))?;
            receipt.check(&folder, &digest, writer_of(&receipt.file).as_ref()).map(|()| receipt.content_blake3)
        });
        match checked {
            Ok(content) => shards.push(json!({ "shard": shard, "ok": true, "content_blake3": content })),
            Err(error) => {
                faults += 1;
                shards.push(json!({ "shard": shard, "ok": false, "error": error.to_string() }));
                if !args.json {
                    println!("shard {shard:05}: {error}");
                }
            }
        }
    }
    for shard in 0..plan.shards.len() as u32 {
        damaged.extend(plan.targets(&folder, shard).err().map(|error| error.to_string()));
    }
    damaged.extend(folder.strangers(&plan)?.iter().map(Error::to_string));
    let mut bundles = 0;
    for shard in 0..plan.shards.len() as u32 {
        match pack::verify(&folder, &plan, shard) {
            Ok(there) => bundles += usize::from(there),
            Err(error) => damaged.push(error.to_string()),
        }
    }
    faults += damaged.len();
    if !args.json {
        damaged.iter().for_each(|fault| println!("{fault}"));
    }
    let complete = shards.len() == plan.shards.len();
    if args.json {
        let report = json!({ "plan": digest, "complete": complete, "faults": faults, "shards": shards, "bundles": bundles, "other_faults": damaged });
        println!("{}", crate::cli::to_json(&report)?);
    } else {
        println!("{} of {} shards have receipts, {bundles} have packed inputs", shards.len(), plan.shards.len());
        println!("{faults} files are not what they should be");
    }
    Ok(if faults > 0 { 1 } else { DONE })
}

/// Reads all of a product file against the digest that it holds.
fn file(path: &Path, json: bool) -> Result<i32> {
    let mut objects = 0;
    let mut content = None;
    for product in products(path)? {
        product.read(|shard| {
            content = Some(shard.verify()?);
            objects = shard.len();
            Ok(())
        })?;
    }
    if json {
        println!("{:#}", json!({ "file": path, "objects": objects, "content_blake3": content }));
    } else {
        let content = content.unwrap_or_default();
        println!("{}: {objects} objects, as they were written: content_blake3 {content}", path.display());
    }
    Ok(DONE)
}
