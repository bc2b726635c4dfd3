//! How far a survey has come, as its run folder tells: receipts, claims and journals. Nothing is written.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::claim::{self, State};
use super::folder::Folder;
use super::plan::Plan;
use super::receipt::Receipt;
use super::record::{self, Known};
use crate::config::Config;
use crate::product::Status as ObjectStatus;
use crate::{Error, Result};

/// How far back products count for the rate, seconds.
const RECENT: u64 = 6 * 3600;

/// The state of a survey.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub name: String,
    pub folder: std::path::PathBuf,
    pub objects: u64,
    pub shards: usize,
    pub shards_done: usize,
    /// Objects in products or in journals.
    pub done: u64,
    pub failed: u64,
    /// Ids and reasons of failed objects.
    pub failures: Vec<(String, String)>,
    pub working: Vec<Working>,
    /// Objects an hour, over the products of the last six hours of work; until there is one, over the shards in work.
    pub objects_per_hour: Option<f64>,
    /// Hours until the end at that rate.
    pub hours_left: Option<f64>,
    /// Worker hours (GPU hours, on GPUs) spent on products.
    pub worker_hours: f64,
    /// Shards whose inputs are packed.
    pub packed: usize,
    /// Whether every shard has its receipt.
    pub complete: bool,
}

/// A shard that has been begun and is not done.
#[derive(Clone, Debug, Serialize)]
pub struct Working {
    pub shard: u32,
    pub attempts: usize,
    /// `running`, `stale` (its job has died or fallen silent) or `stopped`.
    pub state: String,
    pub host: Option<String>,
    pub pid: Option<u32>,
    /// Seconds since the claim was touched.
    pub silent: Option<f64>,
    pub done: u64,
    pub failed: u64,
}

/// Reads the state of the survey in `folder`.
pub fn read(folder: &Folder) -> Result<Status> {
    let plan = Plan::read(folder)?.ok_or_else(|| {
        Error::usage(format!(
            "{}: has no plan yet (`unseeing plan` or `unseeing run` makes one)",
            folder.root().display()
        ))
    })?;
    let config: Config = serde_json::from_value(plan.config.clone())
        .map_err(|error| Error::usage(format!("{}: its config cannot be read: {error}", folder.plan().display())))?;
    let receipts = Receipt::all(folder, &plan)?;
    let published: BTreeSet<u32> = receipts.iter().map(|receipt| receipt.shard).collect();
    let mut status = Status {
        name: plan.name.clone(),
        folder: folder.root().to_path_buf(),
        objects: plan.objects,
        shards: plan.shards.len(),
        shards_done: receipts.len(),
        done: 0,
        failed: 0,
        failures: Vec::new(),
        working: Vec::new(),
        objects_per_hour: None,
        hours_left: None,
        worker_hours: 0.0,
        packed: (0..plan.shards.len() as u32).filter(|&shard| folder.bundle(shard).exists()).count(),
        complete: receipts.len() >= plan.shards.len(),
    };
    let digest = plan.digest()?;
    let mut times = Vec::new();
    for receipt in receipts {
        status.done += u64::from(receipt.objects - receipt.failed);
        status.failed += u64::from(receipt.failed);
        status.worker_hours += receipt.worker_seconds / 3600.0;
        times.push((receipt.started, receipt.finished, receipt.objects));
        status.failures.extend(receipt.failures);
    }
    let claims = Folder::attempts(&folder.claims(), "claim")?;
    let journals = Folder::attempts(&folder.journals(), "journal")?;
    // The local clock, because nothing is written here: it may be off by a little.
    let now = SystemTime::now();
    let measured = !times.is_empty();
    let timeout = Duration::from_secs_f64(config.run.claim_timeout);
    for shard in 0..plan.shards.len() as u32 {
        let claimed = claims.get(&shard).map_or(&[][..], Vec::as_slice);
        let written = journals.get(&shard).map_or(&[][..], Vec::as_slice);
        if published.contains(&shard) || (claimed.is_empty() && written.is_empty()) {
            continue;
        }
        let state = claim::look(folder, shard, claimed, now, timeout);
        let range = plan.range(shard)?;
        let mut known = vec![Known::nothing(plan.blocks); range.count as usize];
        record::recover(folder, &digest, shard, written, range.first, &mut known)?;
        if !measured
            && let (State::Held { holder: Some(holder), .. }, Some((_, earlier))) = (&state, written.split_last())
        {
            let mut before = vec![Known::nothing(plan.blocks); known.len()];
            record::recover(folder, &digest, shard, earlier, range.first, &mut before)?;
            let ended = |known: &[Known]| known.iter().filter(|object| object.record.is_some()).count() as u32;
            let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
            let new = ended(&known).saturating_sub(ended(&before));
            times.extend((holder.since > 0 && new > 0).then_some((holder.since, seconds, new)));
        }
        let records = known.iter().filter_map(|object| object.record.as_ref());
        let (done, failed): (Vec<_>, Vec<_>) = records.partition(|record| record.status == ObjectStatus::Done);
        status.done += done.len() as u64;
        status.failed += failed.len() as u64;
        status.failures.extend(failed.iter().map(|record| (record.id.clone(), record.reason.clone())));
        let (state, holder, touched) = match state {
            State::Free => ("stopped", None, None),
            State::Held { holder, touched } => ("running", holder, Some(touched)),
            State::Stale { holder } => ("stale", holder, None),
        };
        status.working.push(Working {
            shard,
            attempts: claimed.len().max(written.len()),
            state: state.into(),
            host: holder.as_ref().map(|holder| holder.host.clone()),
            pid: holder.map(|holder| holder.pid),
            silent: touched.and_then(|time| now.duration_since(time).ok()).map(|age| age.as_secs_f64()),
            done: done.len() as u64,
            failed: failed.len() as u64,
        });
    }
    status.objects_per_hour = rate(&times);
    let left = status.objects.saturating_sub(status.done + status.failed) as f64;
    status.hours_left = status.objects_per_hour.map(|rate| left / rate);
    Ok(status)
}

/// Objects an hour of the products (start, end in seconds, objects) that ended in the last hours of work.
fn rate(products: &[(u64, u64, u32)]) -> Option<f64> {
    let last = products.iter().map(|&(_, finished, _)| finished).max()?;
    let recent: Vec<_> = products.iter().filter(|&&(_, finished, _)| finished + RECENT >= last).collect();
    let first = recent.iter().map(|&&(started, ..)| started).min()?;
    let objects: u64 = recent.iter().map(|&&(_, _, objects)| u64::from(objects)).sum();
    // Receipts count whole seconds.
    Some(objects as f64 / last.saturating_sub(first).max(1) as f64 * 3600.0)
}
