//! The plan of a survey: everything that fixes the bits of its products, written once into the run folder. Ranks never
//! parse the catalogue: they get targets from the plan's table.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::folder::Folder;
use super::pins::{self, Code};
use crate::catalog::Target;
use crate::config::{Config, DeviceKind};
use crate::io::{digest, publish, seal};
use crate::{Error, Result};

/// The format of the plan files. A program refuses plans of another format.
const FORMAT: u32 = 4;

/// The way out where the table of targets is not what it should be.
const TARGETS: &str = "put the whole file back, or plan in another folder, `survey.folder`";

/// Config keys that name files.
const CATALOG: &str = "catalog.paths";
const PRIOR: &str = "prior.path";

/// Config keys that do not touch the products and may be changed after planning.
const FREE_KEYS: [&str; 6] = [
    "survey.folder",
    "run.ranks_per_device",
    "run.journal_interval",
    "run.hang_timeout",
    "run.claim_timeout",
    "run.time_limit",
];

/// A file that the products depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// As the config has it: relative to the config's folder, or absolute.
    pub path: PathBuf,
    pub blake3: String,
}

impl FileDigest {
    /// The digest of the file at `path` as it is now; `written` is what the config calls it, under `key`.
    pub fn of(path: &Path, written: &Path, key: &str) -> Result<FileDigest> {
        let blake3 = digest::file(path)
            .map_err(|error| Error::usage(format!("{error}: put the file there, or mend `{key}` in the config")))?;
        Ok(FileDigest { path: written.to_path_buf(), blake3 })
    }
}

/// A shard: consecutive targets, and where they lie in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRange {
    /// Number of the first object.
    pub first: u64,
    pub count: u32,
    pub offset: u64,
    pub length: u64,
    pub blake3: String,
}

/// The immutable plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub format: u32,
    /// Version of the program that made the plan.
    pub version: String,
    /// What of that program moves bits.
    pub code: Code,
    pub name: String,
    pub seed: u64,
    pub objects: u64,
    /// Draws per object, draws per block, blocks per object.
    pub samples: u32,
    pub block: u32,
    pub blocks: u32,
    /// Threads of the network on each rank.
    pub threads: u32,
    /// The CPU instructions that libtorch may use (CPU runs), as in `ATEN_CPU_CAPABILITY`.
    pub cpu_capability: Option<String>,
    pub catalog: Vec<FileDigest>,
    pub prior: FileDigest,
    /// The config, with its paths as they were written.
    pub config: Value,
    pub shards: Vec<ShardRange>,
}

impl Plan {
    /// Makes the plan of a survey and writes it into its run folder; `targets` streams the catalogue.
    fn create(config: &Config, folder: &Folder, targets: &mut dyn Iterator<Item = Result<Target>>) -> Result<Plan> {
        let written = config.as_written();
        let catalog = config.catalog.paths.iter().zip(&written.catalog.paths);
        let catalog = catalog.map(|(path, written)| FileDigest::of(path, written, CATALOG)).collect::<Result<_>>()?;
        let prior = FileDigest::of(&config.prior.path, &written.prior.path, PRIOR)?;
        folder.create()?;
        let shards = publish::publish(&folder.targets(), |file| {
            let mut table = std::io::BufWriter::new(file);
            let shards = write_table(&mut table, config.survey.shard_objects, targets)?;
            table.flush().map_err(|error| Error::file(folder.targets(), format!("cannot write: {error}")))?;
            Ok(shards)
        })?;
        let plan = Plan {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            code: Code::this(config.run.device)?,
            name: config.survey.name.clone(),
            seed: config.survey.seed,
            objects: shards.iter().map(|shard| u64::from(shard.count)).sum(),
            samples: config.posterior.samples,
            block: config.posterior.block,
            blocks: config.posterior.samples.div_ceil(config.posterior.block),
            threads: config.run.threads,
            cpu_capability: (config.run.device == DeviceKind::Cpu).then(pins::capability),
            catalog,
            prior,
            config: to_value(&written)?,
            shards,
        };
        let text =
            toml::to_string(config).map_err(|error| Error::internal(format!("cannot write the config: {error}")))?;
        publish::publish_bytes(&folder.config(), seal::lines(&text).as_bytes())?;
        // Last, because a folder with a plan is a planned survey.
        publish::publish_bytes(&folder.plan(), &seal::json(&plan)?)?;
        Ok(plan)
    }

    /// The plan in the folder, or `None` if there is none.
    pub fn read(folder: &Folder) -> Result<Option<Plan>> {
        let path = folder.plan();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::usage(format!(
                    "{}: cannot read the plan (`survey.folder`): {error}",
                    path.display()
                )));
            }
        };
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            version: String,
        }
        let broken = |what: &dyn std::fmt::Display| {
            Error::usage(format!(
                "{}: is no plan: {what}. Put the whole file back, or plan in another folder (`survey.folder`): without \
                 it, what lies here cannot be used",
                path.display()
            ))
        };
        let head: Head = serde_json::from_slice(&bytes).map_err(|error| broken(&error))?;
        if head.format != FORMAT {
            return Err(Error::usage(format!(
                "{}: the plan has format {}, this program knows format {FORMAT}: finish it with unseeing {}, or plan \
                 in another folder (`survey.folder`)",
                path.display(),
                head.format,
                head.version
            )));
        }
        if !seal::json_is_whole(&bytes) {
            return Err(broken(&"it is damaged, its seal does not fit"));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|error| broken(&error))
    }

    /// The survey's plan: made if there is none yet, checked against the config and its files if there is. The flag says
    /// whether it was made just now.
    pub fn ensure(
        config: &Config,
        folder: &Folder,
        targets: impl FnOnce() -> Result<Box<dyn Iterator<Item = Result<Target>>>>,
    ) -> Result<(Plan, bool)> {
        if let Some(plan) = Plan::read(folder)? {
            plan.check_drift(config, folder)?;
            return Ok((plan, false));
        }
        let plan = Plan::create(config, folder, targets()?.as_mut())?;
        Ok((plan, true))
    }

    /// An error that names everything that is not as it was when the plan was made.
    pub fn check_drift(&self, config: &Config, folder: &Folder) -> Result<()> {
        let mut drifts = Vec::new();
        let written = config.as_written();
        compare("", &self.config, &to_value(&written)?, &mut drifts);
        type Paths<'a> = (&'a [PathBuf], &'a [PathBuf]);
        let moved =
            |what: &str, key: &str, planned: &[FileDigest], now: Paths, drifts: &mut Vec<String>| -> Result<()> {
                for (path, written) in now.0.iter().zip(now.1) {
                    let found = FileDigest::of(path, written, key)?;
                    // A path that the plan does not know is a drift of the config, which has been reported.
                    let Some(old) = planned.iter().find(|old| old.path == *written) else { continue };
                    if old.blake3 != found.blake3 {
                        drifts.push(format!("the {what} {} has other content", path.display()));
                    }
                }
                Ok(())
            };
        let one = std::slice::from_ref::<PathBuf>;
        moved("catalogue", CATALOG, &self.catalog, (&config.catalog.paths, &written.catalog.paths), &mut drifts)?;
        let prior = (one(&config.prior.path), one(&written.prior.path));
        moved("prior", PRIOR, std::slice::from_ref(&self.prior), prior, &mut drifts)?;
        drifts.extend(Code::this(config.run.device)?.drifts(&self.code, &self.version));
        if drifts.is_empty() {
            return Ok(());
        }
        Err(Error::usage(format!(
            "{}: the survey has been planned otherwise: {}. Undo the change, or plan a new survey in another \
             folder (`survey.folder`)",
            folder.plan().display(),
            drifts.join("; ")
        )))
    }

    /// Digest of the plan itself.
    pub fn digest(&self) -> Result<String> {
        let text = serde_json::to_vec(self).map_err(|error| Error::internal(error.to_string()))?;
        Ok(digest::bytes(&text))
    }

    /// The targets of one shard, from the plan's table.
    pub fn targets(&self, folder: &Folder, shard: u32) -> Result<Vec<Target>> {
        let path = folder.targets();
        let range = self.range(shard)?;
        let mut bytes = vec![0; range.length as usize];
        std::fs::File::open(&path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(range.offset))?;
                file.read_exact(&mut bytes)
            })
            .map_err(|error| {
                Error::file(&path, format!("cannot read the targets of shard {shard} ({TARGETS}): {error}"))
            })?;
        if digest::bytes(&bytes) != range.blake3 {
            return Err(Error::file(
                &path,
                format!("the targets of shard {shard} are damaged, the plan has their digest ({TARGETS})"),
            ));
        }
        postcard::from_bytes(&bytes)
            .map_err(|error| Error::file(&path, format!("the targets of shard {shard} cannot be read: {error}")))
    }

    /// An error of the file at `path`, which is one of a shard that this plan has not.
    pub fn has(&self, shard: u32, path: &Path) -> Result<()> {
        match (shard as usize) < self.shards.len() {
            true => Ok(()),
            false => Err(Error::file(
                path,
                format!(
                    "belongs to another survey: this one has no shard {shard}, but {}. Remove it",
                    self.shards.len()
                ),
            )),
        }
    }

    /// The range of a shard.
    pub fn range(&self, shard: u32) -> Result<&ShardRange> {
        let found = self.shards.get(shard as usize);
        found.ok_or_else(|| Error::internal(format!("shard {shard} of {}", self.shards.len())))
    }
}

/// Writes the table shard by shard, so that a catalogue of any length fits in memory.
fn write_table(
    table: &mut dyn Write,
    shard_objects: u32,
    targets: &mut dyn Iterator<Item = Result<Target>>,
) -> Result<Vec<ShardRange>> {
    let mut shards: Vec<ShardRange> = Vec::new();
    let mut waiting: Vec<Target> = Vec::new();
    let mut offset = 0;
    loop {
        let next = targets.next().transpose()?;
        let last = next.is_none();
        if let Some(target) = next {
            waiting.push(target);
        }
        if waiting.len() == shard_objects as usize || (last && !waiting.is_empty()) {
            let bytes = postcard::to_stdvec(&waiting).map_err(|error| Error::internal(error.to_string()))?;
            table.write_all(&bytes).map_err(|error| Error::internal(format!("cannot write the targets: {error}")))?;
            let first = shards.last().map_or(0, |shard| shard.first + u64::from(shard.count));
            let (count, length) = (waiting.len() as u32, bytes.len() as u64);
            shards.push(ShardRange { first, count, offset, length, blake3: digest::bytes(&bytes) });
            offset += length;
            waiting.clear();
        }
        if last {
            break;
        }
    }
    if shards.is_empty() {
        return Err(Error::usage("the catalogue has no objects"));
    }
    Ok(shards)
}

fn to_value(config: &Config) -> Result<Value> {
    serde_json::to_value(config).map_err(|error| Error::internal(error.to_string()))
}

/// Lists the keys whose values differ.
fn compare(key: &str, planned: &Value, now: &Value, drifts: &mut Vec<String>) {
    if let (Value::Object(old), Value::Object(new)) = (planned, now) {
        let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for name in names {
            let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            let value = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or(Value::Null);
            compare(&inner, &value(old), &value(new), drifts);
        }
    } else if planned != now && !FREE_KEYS.contains(&key) {
        drifts.push(format!("config key `{key}` was {planned} and is {now}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::run::read_targets as targets;
    use crate::survey::toy;

    fn planned(objects: u32) -> (tempfile::TempDir, Config, Folder, Plan) {
        let root = tempfile::tempdir().unwrap();
        let config = toy::config(root.path(), &toy::names(objects), 4).unwrap();
        let folder = Folder::new(&config.survey.folder);
        let (plan, new) = Plan::ensure(&config, &folder, || targets(&config)).unwrap();
        assert!(new);
        (root, config, folder, plan)
    }

    #[test]
    fn shards_hold_every_target_in_order() {
        let (_root, config, folder, plan) = planned(10);
        assert_eq!(plan.shards.iter().map(|shard| shard.count).collect::<Vec<_>>(), [4, 4, 2]);
        let found: Vec<Target> = (0..3).flat_map(|shard| plan.targets(&folder, shard).unwrap()).collect();
        let want: Vec<Target> = targets(&config).unwrap().map(|target| target.unwrap()).collect();
        assert_eq!(found, want);
    }

    #[test]
    fn planning_again_changes_nothing_and_drift_is_named() {
        let (_root, config, folder, plan) = planned(3);
        let bytes = std::fs::read(folder.plan()).unwrap();
        let (again, new) = Plan::ensure(&config, &folder, || targets(&config)).unwrap();
        assert!(!new && again == plan && std::fs::read(folder.plan()).unwrap() == bytes);

        let drift = |config: &Config| {
            let error = Plan::ensure(config, &folder, || targets(config)).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        let mut changed = config.clone();
        changed.sampler.steps += 1;
        assert!(drift(&changed).contains("`sampler.steps` was 6 and is 7"), "{}", drift(&changed));
        let mut timeouts = config.clone();
        timeouts.run.hang_timeout += 1.0;
        assert!(Plan::ensure(&timeouts, &folder, || targets(&timeouts)).is_ok());
        // A plan of other code: not that of another build of the same code, which is the plan of above.
        let mut other = plan.clone();
        other.code.arithmetic += 1;
        std::fs::write(folder.plan(), seal::json(&other).unwrap()).unwrap();
        assert!(drift(&config).contains("arithmetic was version"), "{}", drift(&config));
        std::fs::write(folder.plan(), bytes).unwrap();
        std::fs::write(&config.prior.path, b"other weights").unwrap();
        assert!(drift(&config).contains("prior"), "{}", drift(&config));
        std::fs::write(&config.catalog.paths[0], b"object_id\nx\n").unwrap();
        assert!(drift(&config).contains("catalogue"), "{}", drift(&config));
    }

    #[test]
    fn a_catalogue_with_an_error_leaves_no_plan() {
        let root = tempfile::tempdir().unwrap();
        let names: Vec<(String, String)> = ["a", "b", "a"].iter().map(|id| (id.to_string(), String::new())).collect();
        let config = toy::config(root.path(), &names, 2).unwrap();
        let folder = Folder::new(&config.survey.folder);
        let error = Plan::ensure(&config, &folder, || targets(&config)).unwrap_err();
        assert!(error.to_string().contains("duplicate id"), "{error}");
        assert!(!folder.plan().exists() && !folder.targets().exists());
    }

    #[test]
    fn a_damaged_table_is_noticed() {
        let (_root, _config, folder, plan) = planned(3);
        let mut bytes = std::fs::read(folder.targets()).unwrap();
        bytes[2] ^= 1;
        std::fs::write(folder.targets(), bytes).unwrap();
        assert!(plan.targets(&folder, 0).unwrap_err().to_string().contains("damaged"));
    }
}
