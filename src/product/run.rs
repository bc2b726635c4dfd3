//! The product files of a run folder, as its receipts tell: what has no receipt is not done, whatever is on the disk.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Shard;
use super::merge::Part;
use crate::io::{digest, seal};
use crate::{Error, Result};

/// What is needed of a receipt here; it says more.
#[derive(Debug, Deserialize)]
struct Receipt {
    /// The product file, relative to the run folder.
    file: PathBuf,
    content_blake3: String,
    #[serde(default)]
    blake3: Option<String>,
    #[serde(default)]
    objects: u32,
    #[serde(default)]
    worker_seconds: f64,
}

/// A product file, with what is known of it from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    pub path: PathBuf,
    /// Its shard; `None` for a file that was named by itself.
    pub shard: Option<u32>,
    /// The content digest of the receipt; `None` for a file that was named by itself.
    pub content_blake3: Option<String>,
    /// The receipt, and the digest of the file and the number of its objects, if it tells them.
    receipt: Option<PathBuf>,
    blake3: Option<String>,
    objects: Option<u32>,
    /// Seconds of work an object, on average over the shard.
    pub seconds_per_object: Option<f64>,
}

impl Product {
    /// A file that was named by itself.
    fn alone(path: &Path) -> Product {
        Product {
            path: path.to_path_buf(),
            shard: None,
            content_blake3: None,
            receipt: None,
            blake3: None,
            objects: None,
            seconds_per_object: None,
        }
    }

    /// Opens the file, for what is small in it.
    ///
    /// # Errors
    /// A file that is not there, damaged or foreign, with the way out.
    pub fn open(&self) -> Result<Shard> {
        Shard::open(&self.path).map_err(|error| self.with_way_out(error))
    }

    /// An error if the file's bytes are not those of its receipt, before any library makes what it can of them. A file that was
    /// named by itself has its seal, if `merge` made it.
    pub fn check(&self) -> Result<()> {
        let fault = match &self.blake3 {
            Some(want) => digest::file(&self.path)
                .map(|found| (found != *want).then(|| format!("its digest is {found}, the receipt says {want}"))),
            None if self.receipt.is_none() && seal::has_block(&self.path) => seal::file_is_whole(&self.path)
                .map(|whole| (!whole).then(|| "is damaged, its seal does not fit".to_owned())),
            None => Ok(None),
        };
        match fault.map_err(|error| self.with_way_out(error))? {
            Some(what) => Err(self.with_way_out(Error::file(&self.path, what))),
            None => Ok(()),
        }
    }

    /// Checks and opens the file, and does something with it; errors of the file tell the way out.
    pub fn read<T>(&self, action: impl FnOnce(&Shard) -> Result<T>) -> Result<T> {
        self.check()?;
        action(&self.open()?).map_err(|error| self.with_way_out(error))
    }

    /// Adds what helps to an error of this file.
    pub fn with_way_out(&self, error: Error) -> Error {
        match error {
            Error::File { path, what } if path == self.path => {
                let way_out = match &self.receipt {
                    Some(receipt) => {
                        format!("remove its receipt {}, and `unseeing run` does the shard again", receipt.display())
                    }
                    None => {
                        "the shards of the run folder have it all: `unseeing merge` makes survey.h5 again, `unseeing \
                             verify` checks a file"
                            .into()
                    }
                };
                Error::file(path, format!("{what}: {way_out}"))
            }
            other => other,
        }
    }

    /// The file as a part of a merge; without a receipt, the digest that it claims itself.
    pub fn part(&self) -> Result<Part> {
        let content_blake3 = match &self.content_blake3 {
            Some(digest) => digest.clone(),
            None => self.open()?.claimed_digest().map_err(|error| self.with_way_out(error))?,
        };
        Ok(Part { path: self.path.clone(), content_blake3 })
    }
}

/// The products of `place`: a run folder (shards with receipts, in the order of their numbers), or one product file.
pub fn products(place: &Path) -> Result<Vec<Product>> {
    if place.is_file() {
        return Ok(vec![Product::alone(place)]);
    }
    let folder = place.join("receipts");
    let entries = std::fs::read_dir(&folder).map_err(|error| {
        Error::usage(format!(
            "{}: neither a product file (`unseeing merge` makes one of a run) nor a run folder: {}: {error}",
            place.display(),
            folder.display()
        ))
    })?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    let plan = place.join("plan.json");
    if paths.is_empty() && !plan.exists() {
        return Err(Error::usage(format!(
            "{}: there is no {}: the survey could not be planned, and nothing was done; `unseeing run CONFIG` tells why",
            place.display(),
            plan.display()
        )));
    }
    let mut products = Vec::with_capacity(paths.len());
    for path in paths {
        let text = std::fs::read(&path).map_err(|error| Error::file(&path, format!("cannot read: {error}")))?;
        let receipt: Receipt = serde_json::from_slice(&text).map_err(|error| {
            Error::file(&path, format!("is no receipt (remove it, and its shard is done again): {error}"))
        })?;
        if !seal::json_is_whole(&text) {
            return Err(Error::file(
                &path,
                "is damaged, its seal does not fit (remove it, and its shard is done again)",
            ));
        }
        let timed = receipt.objects > 0 && receipt.worker_seconds > 0.0;
        products.push(Product {
            path: place.join(&receipt.file),
            shard: path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()),
            content_blake3: Some(receipt.content_blake3),
            receipt: Some(path),
            blake3: receipt.blake3,
            objects: Some(receipt.objects).filter(|&objects| objects > 0),
            seconds_per_object: timed.then(|| receipt.worker_seconds / f64::from(receipt.objects)),
        });
    }
    Ok(products)
}

/// Missing shards that a message names.
const NAMED: usize = 10;

/// What of a plan is not done yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub shards: Vec<u32>,
    pub of_shards: usize,
    pub objects: u64,
    pub of_objects: u64,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Missing { shards, of_shards, objects, of_objects } = self;
        let some: Vec<String> = shards.iter().take(NAMED).map(u32::to_string).collect();
        let more = if shards.len() > NAMED { ", ..." } else { "" };
        write!(
            f,
            "not finished: {} of {of_shards} shards ({objects} of {of_objects} objects) have no receipt yet: {}{more}",
            shards.len(),
            some.join(", ")
        )
    }
}

/// What is needed of a plan here; it says more.
#[derive(Debug, Deserialize)]
struct Plan {
    objects: u64,
    shards: Vec<serde_json::Value>,
}

/// What a run folder's plan holds beyond its receipts; `None` when it is finished, has no plan, or is a product file.
pub fn missing(place: &Path) -> Result<Option<Missing>> {
    let path = place.join("plan.json");
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(&path).map_err(|error| Error::file(&path, format!("cannot read: {error}")))?;
    let plan: Plan = serde_json::from_slice(&text).map_err(|error| {
        Error::file(&path, format!("is no plan: {error}. Put the whole file back, or plan in another folder"))
    })?;
    if !seal::json_is_whole(&text) {
        return Err(Error::file(
            &path,
            "is damaged, its seal does not fit. Put the whole file back, or plan in another folder",
        ));
    }
    let mut objects = plan.objects;
    let products = products(place)?;
    for product in &products {
        let own = match product.objects {
            Some(told) => u64::from(told),
            None => product.open()?.len() as u64,
        };
        objects = objects.saturating_sub(own);
    }
    let done: Vec<u32> = products.iter().filter_map(|product| product.shard).collect();
    let shards: Vec<u32> = (0..plan.shards.len() as u32).filter(|shard| !done.contains(shard)).collect();
    let (of_shards, of_objects) = (plan.shards.len(), plan.objects);
    Ok((!shards.is_empty()).then_some(Missing { shards, of_shards, objects, of_objects }))
}
