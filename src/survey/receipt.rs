//! Receipts: published after a shard's product, with its digests. A shard is done when it has a receipt, and not before.
//! What differs from run to run (hosts, times, ranks) is written here and never into a product.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::{Folder, LOST};
use super::plan::Plan;
use crate::config::Config;
use crate::io::{digest, publish, seal};
use crate::product::ObjectRecord;
use crate::{Error, Result};

/// The way out where a receipt is not what it should be.
const AGAIN: &str = "remove it, and its shard is done again";

/// What a shard writer may put beside the records: all of it is the same in every run of the plan.
pub struct ShardContext<'a> {
    pub plan: &'a Plan,
    pub config: &'a Config,
    /// The prior's file.
    pub prior: &'a [u8],
    pub shard: u32,
}

/// Writes product files. It runs on the leader's main thread.
pub trait ShardWriter: Send + Sync {
    /// The ending of the file's name, without the dot.
    fn extension(&self) -> &'static str;
    /// Creates `path` with these records, closes it, and returns the digest of its content.
    fn write(&self, path: &Path, records: &[ObjectRecord], context: &ShardContext) -> Result<String>;
    /// The digest of the content of a file that `write` made.
    fn content(&self, path: &Path) -> Result<String>;
}

/// The proof that a shard is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub shard: u32,
    /// The product file, relative to the run folder.
    pub file: PathBuf,
    /// Digest of the product file.
    pub blake3: String,
    /// Digest of what it contains: equal in every run of the plan.
    pub content_blake3: String,
    /// Digest of the plan that it belongs to.
    pub plan: String,
    pub objects: u32,
    pub failed: u32,
    /// Ids and reasons of the objects that failed.
    pub failures: Vec<(String, String)>,
    pub version: String,
    pub attempt: u32,
    pub hosts: BTreeSet<String>,
    pub ranks: u32,
    /// Seconds since 1970.
    pub started: u64,
    pub finished: u64,
    /// Worker seconds spent in this attempt.
    pub worker_seconds: f64,
    /// The same in hours (GPU-hours, on GPUs), and objects for each hour of a worker.
    #[serde(default)]
    pub gpu_hours: f64,
    #[serde(default)]
    pub objects_per_gpu_hour: f64,
}

impl Receipt {
    /// The receipt of a shard, if it has one.
    ///
    /// # Errors
    /// One that is damaged, or another shard's.
    pub fn read(folder: &Folder, shard: u32) -> Result<Option<Receipt>> {
        let path = folder.receipt(shard);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file(&path, format!("cannot read: {error}"))),
        };
        let receipt: Receipt = serde_json::from_slice(&bytes)
            .map_err(|error| Error::file(&path, format!("is no receipt ({AGAIN}): {error}")))?;
        if !seal::json_is_whole(&bytes) {
            return Err(Error::file(&path, format!("is damaged, its seal does not fit ({AGAIN})")));
        }
        if receipt.shard != shard {
            return Err(Error::file(&path, format!("is the receipt of shard {} ({AGAIN})", receipt.shard)));
        }
        Ok(Some(receipt))
    }

    /// All receipts of a plan, in the order of its shards.
    ///
    /// # Errors
    /// One that is damaged, or that does not belong to this plan.
    pub fn all(folder: &Folder, plan: &Plan) -> Result<Vec<Receipt>> {
        let digest = plan.digest()?;
        let mut receipts = Vec::new();
        for shard in Receipt::list(folder)? {
            plan.has(shard, &folder.receipt(shard))?;
            // Another job's `retry` may have removed it just now.
            let Some(receipt) = Receipt::read(folder, shard)? else { continue };
            receipt.check_plan(folder, &digest)?;
            receipts.push(receipt);
        }
        Ok(receipts)
    }

    /// An error unless the receipt belongs to the plan with this digest.
    fn check_plan(&self, folder: &Folder, digest: &str) -> Result<()> {
        if self.plan == digest {
            return Ok(());
        }
        let what = format!(
            "belongs to another plan. If the survey was planned anew here, plan it in another folder (`survey.folder`); \
             else {AGAIN}"
        );
        Err(Error::file(folder.receipt(self.shard), what))
    }

    /// Publishes the receipt: from here on the shard is done.
    pub fn publish(&self, folder: &Folder) -> Result<()> {
        publish::publish_bytes(&folder.receipt(self.shard), &seal::json(self)?)
    }

    /// The shards that have receipts.
    pub fn list(folder: &Folder) -> Result<BTreeSet<u32>> {
        let path = folder.receipts();
        let entries =
            std::fs::read_dir(&path).map_err(|error| Error::file(&path, format!("cannot list ({LOST}): {error}")))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
    }

    /// An error if the product is not there any more: it may have been purged, or moved. Its content is not looked at.
    pub fn check_there(&self, folder: &Folder) -> Result<()> {
        let path = folder.root().join(&self.file);
        match path.exists() {
            true => Ok(()),
            false => Err(self.fault(folder, "is not there any more, but has a receipt")),
        }
    }

    /// An error of the product, with the way out.
    fn fault(&self, folder: &Folder, what: impl std::fmt::Display) -> Error {
        let own = folder.receipt(self.shard);
        let way_out = format!("remove its receipt {}, and the shard is done again", own.display());
        Error::file(folder.root().join(&self.file), format!("{what}: {way_out}"))
    }

    /// Checks the product against the receipt; the error tells what differs.
    pub fn check(&self, folder: &Folder, plan_digest: &str, writer: &dyn ShardWriter) -> Result<()> {
        let path = folder.root().join(&self.file);
        let fault = |what: String| self.fault(folder, what);
        self.check_plan(folder, plan_digest)?;
        let found = digest::file(&path).map_err(|error| match error {
            Error::File { what, .. } => fault(what),
            other => other,
        })?;
        if found != self.blake3 {
            return Err(fault(format!("its digest is {found}, the receipt says {}", self.blake3)));
        }
        let content = writer.content(&path)?;
        if content != self.content_blake3 {
            return Err(fault(format!("its content's digest is {content}, the receipt says {}", self.content_blake3)));
        }
        Ok(())
    }
}

/// Plain records, one after the other, in a binary form: a writer without any product format, for tests of the system.
pub struct PlainWriter;

impl ShardWriter for PlainWriter {
    fn extension(&self) -> &'static str {
        "records"
    }

    fn write(&self, path: &Path, records: &[ObjectRecord], _context: &ShardContext) -> Result<String> {
        let bytes = postcard::to_stdvec(records).map_err(|error| Error::internal(error.to_string()))?;
        std::fs::write(path, &bytes).map_err(|error| Error::file(path, format!("cannot write: {error}")))?;
        Ok(digest::bytes(&bytes))
    }

    fn content(&self, path: &Path) -> Result<String> {
        digest::file(path)
    }
}
