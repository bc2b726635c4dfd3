//! The run folder: what lies where.
//!
//! ```text
//! plan.json             the plan: digests, counts, shard ranges           written once
//! targets.bin           the table of targets, one piece per shard         written once
//! config.toml           the config as planned, for people to read         written once
//! claims/00012.claim.1  who works on shard 12, first attempt
//! journals/00012.journal.1   what that attempt has done so far
//! inputs/00012.h5        packed inputs of shard 12, if they were packed
//! shards/00012.*        the product of shard 12
//! events/*.jsonl        what each job did, for people
//! receipts/00012.json   says that the product is whole, with its digests: the truth
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::plan::Plan;
use crate::config::Config;
use crate::io::seal;
use crate::{Error, Result};

/// No shard is tried so often: a file with a higher number is not ours, and there must always be a next one.
const MOST_ATTEMPTS: u32 = 1_000_000_000;
/// The way out where a folder of the run folder is missing.
pub(super) const LOST: &str =
    "is this a run folder? If it is, `unseeing run` makes what is missing, and does again what it held";

/// Paths inside a run folder.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    pub fn new(root: &Path) -> Folder {
        Folder { root: root.to_path_buf() }
    }

    /// The run folder that a command line means: the folder itself, or the config that names it.
    pub fn find(path: &Path) -> Result<Folder> {
        if path.is_dir() {
            return Ok(Folder::new(path));
        }
        Ok(Folder::new(&Config::read(path)?.survey.folder))
    }

    /// Makes the folder and the folders in it, where they are missing.
    pub fn create(&self) -> Result<()> {
        for folder in [self.claims(), self.journals(), self.shards(), self.receipts()] {
            fs::create_dir_all(&folder).map_err(|error| {
                Error::usage(format!(
                    "{}: cannot create (set `survey.folder` in the config): {error}",
                    folder.display()
                ))
            })?;
        }
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn plan(&self) -> PathBuf {
        self.root.join("plan.json")
    }

    pub fn targets(&self) -> PathBuf {
        self.root.join("targets.bin")
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    pub fn claims(&self) -> PathBuf {
        self.root.join("claims")
    }

    pub fn journals(&self) -> PathBuf {
        self.root.join("journals")
    }

    pub fn shards(&self) -> PathBuf {
        self.root.join("shards")
    }

    pub fn inputs(&self) -> PathBuf {
        self.root.join("inputs")
    }

    pub fn receipts(&self) -> PathBuf {
        self.root.join("receipts")
    }

    pub fn events(&self) -> PathBuf {
        self.root.join("events")
    }

    pub fn claim(&self, shard: u32, attempt: u32) -> PathBuf {
        self.claims().join(format!("{shard:05}.claim.{attempt}"))
    }

    pub fn journal(&self, shard: u32, attempt: u32) -> PathBuf {
        self.journals().join(format!("{shard:05}.journal.{attempt}"))
    }

    /// The product file; `extension` is the writer's.
    pub fn shard(&self, shard: u32, extension: &str) -> PathBuf {
        self.shards().join(format!("{shard:05}.{extension}"))
    }

    /// The shard's packed inputs.
    pub fn bundle(&self, shard: u32) -> PathBuf {
        self.inputs().join(format!("{shard:05}.h5"))
    }

    pub fn receipt(&self, shard: u32) -> PathBuf {
        self.receipts().join(format!("{shard:05}.json"))
    }

    /// What lies here and is damaged, or belongs to no shard of the plan: each as an error that names it. Products, bundles and
    /// the table of targets are checked elsewhere.
    pub fn strangers(&self, plan: &Plan) -> Result<Vec<Error>> {
        let mut found = Vec::new();
        for folder in [self.claims(), self.journals(), self.inputs(), self.shards(), self.receipts()] {
            // Inputs need not be packed.
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                let number = path.file_name().and_then(|name| name.to_str()?.split('.').next()?.parse().ok());
                found.extend(number.and_then(|shard| plan.has(shard, &path).err()));
            }
        }
        let copy = self.config();
        if fs::read(&copy).is_ok_and(|text| !seal::lines_are_whole(&text)) {
            let what = "is damaged, its seal does not fit. Remove it: it is a copy for people, which no command reads";
            found.push(Error::file(&copy, what));
        }
        Ok(found)
    }

    /// The attempts of every shard that has files `NNNNN.kind.attempt` in `claims` or `journals`, in rising order.
    pub fn attempts(folder: &Path, kind: &str) -> Result<BTreeMap<u32, Vec<u32>>> {
        let entries =
            fs::read_dir(folder).map_err(|error| Error::file(folder, format!("cannot list ({LOST}): {error}")))?;
        let mut found: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut parts = name.split('.');
            let numbers = (parts.next().map(str::parse), parts.next(), parts.next().map(str::parse), parts.next());
            if let (Some(Ok(shard)), Some(found_kind), Some(Ok(attempt)), None) = numbers
                && found_kind == kind
                && attempt <= MOST_ATTEMPTS
            {
                found.entry(shard).or_default().push(attempt);
            }
        }
        found.values_mut().for_each(|attempts| attempts.sort_unstable());
        Ok(found)
    }
}
