//! Clearing what failed, so that the next run tries it again; and freeing claims whose jobs are known to be gone.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::claim::{Claim, State};
use super::folder::Folder;
use super::plan::Plan;
use super::receipt::Receipt;
use super::record::{self, Known, ShardJournal};
use crate::io::publish;
use crate::product::Status;
use crate::{Error, Result, failpoint};

/// What was cleared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cleared {
    /// Objects that will be tried again.
    pub objects: Vec<String>,
    /// Shards that had a receipt and are open again.
    pub shards: Vec<u32>,
    /// Shards that running jobs hold, and that were left alone.
    pub busy: Vec<u32>,
    /// Shards whose claims were freed.
    pub claims: Vec<u32>,
    /// Objects that were asked for and have not failed, or are not in the survey.
    pub not_failed: Vec<String>,
}

/// Clears failed objects: all of them, or those in `ids`. Objects that are done are kept, from the journals.
pub fn objects(folder: &Folder, plan: &Plan, ids: &BTreeSet<String>) -> Result<Cleared> {
    let (mut cleared, mut asked) = (Cleared::default(), ids.clone());
    let mut receipts: BTreeMap<u32, Receipt> =
        Receipt::all(folder, plan)?.into_iter().map(|receipt| (receipt.shard, receipt)).collect();
    let digest = plan.digest()?;
    for shard in 0..plan.shards.len() as u32 {
        let claims = Folder::attempts(&folder.claims(), "claim")?.remove(&shard).unwrap_or_default();
        let journals = Folder::attempts(&folder.journals(), "journal")?.remove(&shard).unwrap_or_default();
        let receipt = receipts.remove(&shard);
        let range = plan.range(shard)?;
        let mut known = vec![Known::nothing(plan.blocks); range.count as usize];
        record::recover(folder, &digest, shard, &journals, range.first, &mut known)?;
        let named = |reason_id: &String| ids.is_empty() || ids.contains(reason_id);
        let failed: Vec<(u64, String)> = match &receipt {
            Some(receipt) if receipt.failed == 0 => continue,
            Some(receipt) => {
                let failed: BTreeSet<&String> = receipt.failures.iter().map(|(id, _)| id).collect();
                let targets = plan.targets(folder, shard)?.into_iter().enumerate();
                targets
                    .filter(|(_, target)| failed.contains(&target.id) && named(&target.id))
                    .map(|(place, target)| (range.first + place as u64, target.id))
                    .collect()
            }
            None if journals.is_empty() => continue,
            None => {
                let targets = plan.targets(folder, shard)?.into_iter().zip(&known).enumerate();
                let troubled = |object: &Known| {
                    object.deaths > 0 || object.record.as_ref().is_some_and(|record| record.status == Status::Failed)
                };
                targets
                    .filter(|(_, (target, object))| troubled(object) && named(&target.id))
                    .map(|(place, (target, _))| (range.first + place as u64, target.id))
                    .collect()
            }
        };
        if failed.is_empty() {
            continue;
        }
        let attempt = claims.last().max(journals.last()).map_or(1, |last| last + 1);
        let held = matches!(super::claim::look_now(folder, shard, &claims, plan)?, State::Held { .. });
        let claim = if held { None } else { Claim::take(folder, shard, attempt)? };
        let Some(claim) = claim else {
            cleared.busy.push(shard);
            failed.into_iter().for_each(|(_, id)| _ = asked.remove(&id));
            continue;
        };
        let mut journal = ShardJournal::create(folder, &digest, shard, attempt)?;
        for (object, id) in failed {
            journal.retry(object)?;
            asked.remove(&id);
            cleared.objects.push(id);
        }
        journal.sync()?;
        publish::sync_folder(&folder.journals())?;
        failpoint::at("retry.journaled")?;
        if receipt.is_some() {
            // Only now: until the journal says what to do again, the product is the truth.
            let path = folder.receipt(shard);
            std::fs::remove_file(&path).map_err(|error| Error::file(&path, format!("cannot remove: {error}")))?;
            publish::sync_folder(&folder.receipts())?;
            failpoint::at("retry.removed")?;
            cleared.shards.push(shard);
        }
        claim.release()?;
    }
    cleared.not_failed = asked.into_iter().collect();
    Ok(cleared)
}

/// Frees the claims of all shards that are not done. Only for jobs that are known to be gone: one that still runs loses
/// its shards.
pub fn claims(folder: &Folder, plan: &Plan) -> Result<Cleared> {
    let mut cleared = Cleared::default();
    let receipts = Receipt::list(folder)?;
    let journals = Folder::attempts(&folder.journals(), "journal")?;
    for (shard, attempts) in Folder::attempts(&folder.claims(), "claim")? {
        let free = matches!(super::claim::look_now(folder, shard, &attempts, plan)?, State::Free);
        // Those of shards that the plan has not are nobody's: `verify` names them.
        if receipts.contains(&shard) || free || shard as usize >= plan.shards.len() {
            continue;
        }
        let last = attempts.last().max(journals.get(&shard).and_then(|attempts| attempts.last()));
        if let Some(claim) = Claim::take(folder, shard, last.map_or(1, |last| last + 1))? {
            claim.release()?;
            cleared.claims.push(shard);
        }
    }
    Ok(cleared)
}
