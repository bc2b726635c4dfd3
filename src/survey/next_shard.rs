//! Finding a shard to work on.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::claim::{self, Claim, State};
use super::folder::Folder;
use super::plan::Plan;
use super::receipt::Receipt;
use super::shard::OpenShard;
use crate::Result;
use crate::config::Config;

/// What came of an attempt to get a shard.
pub enum Opened {
    Shard(Box<OpenShard>),
    /// No shard is left that is not done, claimed or excluded; these are claimed by other jobs.
    NoneLeft {
        held: Vec<(u32, SystemTime)>,
    },
}

/// Claims the first shard that is free or stale, and reads what its journals know.
pub fn open_next(folder: &Folder, plan: &Plan, config: &Config, exclude: &BTreeSet<u32>) -> Result<Opened> {
    let receipts = Receipt::list(folder)?;
    let mut held = Vec::new();
    let mut now = None;
    let claims = Folder::attempts(&folder.claims(), "claim")?;
    let journals = Folder::attempts(&folder.journals(), "journal")?;
    let timeout = std::time::Duration::from_secs_f64(config.run.claim_timeout);
    for shard in 0..plan.shards.len() as u32 {
        if receipts.contains(&shard) || exclude.contains(&shard) {
            continue;
        }
        let claimed = claims.get(&shard).map_or(&[][..], Vec::as_slice);
        let now = match now {
            Some(time) => time,
            None => *now.insert(claim::file_system_now(&folder.claims())?),
        };
        match claim::look(folder, shard, claimed, now, timeout) {
            State::Held { touched, .. } => {
                held.push((shard, touched));
                continue;
            }
            State::Stale { holder } => {
                let holder = holder.map_or("unknown".into(), |holder| format!("{} (pid {})", holder.host, holder.pid));
                tracing::warn!("shard {shard}: taken over from {holder}, which died or fell silent");
            }
            State::Free => {}
        }
        let written = journals.get(&shard).map_or(&[][..], Vec::as_slice);
        let attempt = claimed.last().max(written.last()).map_or(1, |last| last + 1);
        let Some(claim) = Claim::take(folder, shard, attempt)? else {
            held.push((shard, now));
            continue;
        };
        if folder.receipt(shard).exists() {
            // It was finished between the listing and the claim. The claim would look like work in progress.
            let _ = std::fs::remove_file(folder.claim(shard, attempt));
            continue;
        }
        return Ok(Opened::Shard(Box::new(OpenShard::start(folder, plan, shard, claim)?)));
    }
    Ok(Opened::NoneLeft { held })
}
