//! What a survey will take: time, bytes, files. Nothing is guessed: the rate is given, or was measured by an earlier run;
//! bytes follow from the schema and the inputs that were looked at, or were measured too.

use std::path::Path;

use serde::Serialize;

use super::folder::Folder;
use super::pack::Checked;
use super::plan::Plan;
use super::receipt::Receipt;
use crate::config::Config;
use crate::posterior::morphology;
use crate::prior::card::Normalisation;
use crate::prior::file;
use crate::product::stack::Lengths;
use crate::{Error, Result};

/// Bytes of a product file beside its rows: HDF5's own, the datasets' attributes, the config.
const FILE: u64 = 200_000;
/// Bytes of HDF5's own for each object of a bundle: its group, three datasets and their attributes.
const BUNDLED: u64 = 8_000;
/// Files of a run folder beside those of its shards: plan, targets, config; and its folders, but that of packed inputs.
const COMMON: u64 = 3 + 5;

/// Where the seconds an object come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "source")]
pub enum Rate {
    /// `--seconds-per-object`.
    Given { seconds_per_object: f64 },
    /// Receipts of shards that were done in one attempt.
    Measured { seconds_per_object: f64, folder: String, objects: u64, samples: u32, steps: u32 },
}

impl Rate {
    pub fn seconds_per_object(&self) -> f64 {
        match self {
            Rate::Given { seconds_per_object } | Rate::Measured { seconds_per_object, .. } => *seconds_per_object,
        }
    }
}

/// The estimate.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    pub shards: u64,
    pub rate: Option<Rate>,
    /// Hours of one worker: of a GPU, on GPUs.
    pub gpu_hours: Option<f64>,
    /// Bytes of all products; at most, or as an earlier run's were.
    pub product_bytes: Option<u64>,
    pub product_bytes_measured: bool,
    /// Bytes of the source files (one that several objects use is counted for each), and of bundles, at most.
    pub input_bytes: Option<u64>,
    pub bundle_bytes: Option<u64>,
    /// Files and folders when all is done, with and without bundles; `survey.h5` of `merge` and each job's event log are
    /// one more.
    pub files_at_rest: u64,
    pub files_at_rest_packed: u64,
    /// The most that there can be on the way, if every shard were begun at once: claim, journal and a temporary for each. A
    /// shard that was given up leaves two more until it is done.
    pub files_at_peak: u64,
}

/// What an earlier run has measured: its rate, and bytes of product an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub rate: Rate,
    bytes_per_object: f64,
}

/// Reads the receipts of the run in `folder`. `None` if none of its shards was done in one attempt (a later attempt's
/// receipt knows its own time only) with objects that did not fail. The time is scaled to the plan's samples and steps.
pub fn measured(folder: &Folder, plan: &Plan, config: &Config) -> Result<Option<Measured>> {
    let missing = || Error::usage(format!("{}: has no plan, so it is no earlier run", folder.root().display()));
    let theirs = Plan::read(folder)?.ok_or_else(missing)?;
    let number = |key: &str| theirs.config["sampler"][key].as_u64().unwrap_or(0) as u32;
    let (samples, steps) = (theirs.samples, number("steps"));
    let (mut seconds, mut objects, mut bytes) = (0.0, 0, 0);
    for shard in Receipt::list(folder)? {
        let Some(receipt) = Receipt::read(folder, shard)?.filter(|receipt| receipt.attempt == 1) else { continue };
        seconds += receipt.worker_seconds;
        objects += u64::from(receipt.objects - receipt.failed);
        bytes += folder.root().join(&receipt.file).metadata().map_or(0, |data| data.len());
    }
    let work = f64::from(samples) * f64::from(steps);
    if objects == 0 || work == 0.0 {
        return Ok(None);
    }
    let scale = f64::from(plan.samples) * f64::from(config.sampler.steps) / work;
    let seconds_per_object = seconds / objects as f64 * scale;
    let place = folder.root().display().to_string();
    let rate = Rate::Measured { seconds_per_object, folder: place, objects, samples, steps };
    Ok(Some(Measured { rate, bytes_per_object: bytes as f64 / objects as f64 }))
}

/// The estimate. `looked` is what inputs of some objects were like; `given` are seconds an object; `measured` an earlier run
/// of a survey like this one.
pub fn estimate(
    config: &Config,
    plan: &Plan,
    looked: Option<&Checked>,
    given: Option<f64>,
    measured: Option<&Measured>,
) -> Estimate {
    let given = given.map(|seconds_per_object| Rate::Given { seconds_per_object });
    let rate = given.or_else(|| measured.map(|measured| measured.rate.clone()));
    let (objects, shards) = (plan.objects as f64, plan.shards.len() as u64);
    let looked = looked.filter(|looked| looked.rows > looked.bad);
    let all = |bytes: u64, looked: &Checked| (bytes as f64 / (looked.rows - looked.bad) as f64 * objects) as u64;
    let product_bytes = match measured {
        Some(measured) => Some((measured.bytes_per_object * objects) as u64),
        None => looked.and_then(|looked| largest_product(config, plan, looked.observed)),
    };
    Estimate {
        shards,
        gpu_hours: rate.as_ref().map(|rate| rate.seconds_per_object() * objects / 3600.0),
        rate,
        product_bytes,
        product_bytes_measured: measured.is_some(),
        input_bytes: looked.map(|looked| all(looked.file_bytes, looked)),
        bundle_bytes: looked.map(|looked| all(looked.packed_bytes, looked) + BUNDLED * plan.objects),
        files_at_rest: 2 * shards + COMMON,
        files_at_rest_packed: 3 * shards + COMMON + 1,
        files_at_peak: 6 * shards + COMMON + 1,
    }
}

/// Bytes of the products before compression; `None` if the prior cannot tell the size of the images.
fn largest_product(config: &Config, plan: &Plan, observed: [usize; 2]) -> Option<u64> {
    let prior = std::fs::read(&config.prior.path).ok()?;
    let card = file::card(&prior).ok()?;
    let bands = card.bands.len();
    let draws = file::draw_samples(&prior, &morphology::names(bands)).ok()?;
    let lengths = Lengths {
        objects: plan.objects as usize,
        bands,
        size: card.size as usize,
        observed,
        samples: plan.samples as usize,
        draws: config.posterior.keep_draws as usize,
        amplitudes: if matches!(card.normalisation, Normalisation::ReferenceBand { .. }) { 1 } else { bands },
    };
    let of_prior: usize = draws.iter().map(|(_, values)| 4 * values.len()).sum();
    Some(lengths.bytes() + plan.shards.len() as u64 * (FILE + of_prior as u64))
}

/// An earlier run's folder, as `plan --like` names it: the folder or its config.
pub fn earlier(path: &Path, plan: &Plan, config: &Config) -> Result<Measured> {
    let folder = Folder::find(path)?;
    measured(&folder, plan, config)?.ok_or_else(|| {
        Error::usage(format!(
            "{}: no shard of this run was done in one attempt, so it has measured no rate; name another run (--like), \
             or give the rate (--seconds-per-object)",
            folder.root().display()
        ))
    })
}

/// The estimate in words, a line for each.
pub fn words(estimate: &Estimate) -> Vec<String> {
    let time = match (&estimate.rate, estimate.gpu_hours) {
        (Some(rate), Some(hours)) => {
            let seconds = rate.seconds_per_object();
            let source = match rate {
                Rate::Given { .. } => "as given".to_string(),
                Rate::Measured { folder, objects, samples, steps, .. } => format!(
                    "from the receipts of {objects} objects in {folder}, with {samples} samples of {steps} steps each"
                ),
            };
            format!("{hours:.2} GPU-hours (worker hours, on CPUs) at {seconds:.2} s an object, {source}")
        }
        _ => "no rate is known, so no GPU-hours: give --seconds-per-object, or --like an earlier run's folder (a \
              survey of some objects, run on the same machines)"
            .to_string(),
    };
    let bytes = |bytes: Option<u64>| bytes.map_or("unknown".to_string(), size);
    let kind = if estimate.product_bytes_measured { "as large as the earlier run's" } else { "at most" };
    let packed = estimate.bundle_bytes.map_or("unknown".into(), |bytes| format!("at most {}", size(bytes)));
    vec![
        time,
        format!(
            "products {} ({kind}); input files {}, packed {packed}",
            bytes(estimate.product_bytes),
            bytes(estimate.input_bytes)
        ),
        format!(
            "files {} at rest ({} with packed inputs), {} at the peak if all shards were begun at once; one more \
             for each job",
            estimate.files_at_rest, estimate.files_at_rest_packed, estimate.files_at_peak
        ),
    ]
}

fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e12 => format!("{:.2} TB", b / 1e12),
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b => format!("{:.1} MB", b / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::run::read_targets;
    use crate::survey::toy;

    #[test]
    fn hours_follow_from_the_rate_and_are_unknown_without_one() {
        let root = tempfile::tempdir().unwrap();
        let config = toy::config(root.path(), &toy::names(9), 2).unwrap();
        let folder = Folder::new(&config.survey.folder);
        let (plan, _) = Plan::ensure(&config, &folder, || read_targets(&config)).unwrap();
        let unknown = estimate(&config, &plan, None, None, None);
        assert!(unknown.gpu_hours.is_none() && words(&unknown)[0].contains("no rate is known"));
        assert!(unknown.product_bytes.is_none() && unknown.shards == 5);
        let given = estimate(&config, &plan, None, Some(400.0), None);
        assert_eq!(given.gpu_hours, Some(1.0));
        assert!(words(&given)[0].contains("as given"), "{:?}", words(&given));
        assert!(measured(&folder, &plan, &config).unwrap().is_none());
        assert!(earlier(folder.root(), &plan, &config).unwrap_err().to_string().contains("--seconds-per-object"));
    }
}
