//! Removing what only served to make a product, once the product has its receipt.

use super::folder::Folder;
use super::receipt::Receipt;
use crate::{Result, failpoint};

/// Finishes the cleaning that a kill has cut short.
pub fn all(folder: &Folder) -> Result<()> {
    let receipts = Receipt::list(folder)?;
    let claims = Folder::attempts(&folder.claims(), "claim")?;
    let mut left = Folder::attempts(&folder.journals(), "journal")?;
    left.extend(claims.clone());
    for shard in left.into_keys().filter(|shard| receipts.contains(shard)) {
        // Another job's cleaning, or a retry, may have been quicker.
        let Some(receipt) = Receipt::read(folder, shard)? else { continue };
        if claims.contains_key(&shard) || receipt.failed == 0 {
            clean(folder, shard, receipt.failed > 0)?;
        }
    }
    Ok(())
}

/// Removes what only served to make the product. Journals are kept where objects failed, so that `retry` need not do the
/// others again.
pub fn clean(folder: &Folder, shard: u32, keep_journals: bool) -> Result<()> {
    failpoint::at("clean.claims")?;
    for attempt in Folder::attempts(&folder.claims(), "claim")?.remove(&shard).unwrap_or_default() {
        // Somebody else may be cleaning too.
        let _ = std::fs::remove_file(folder.claim(shard, attempt));
    }
    failpoint::at("clean.journals")?;
    if !keep_journals {
        for attempt in Folder::attempts(&folder.journals(), "journal")?.remove(&shard).unwrap_or_default() {
            let _ = std::fs::remove_file(folder.journal(shard, attempt));
        }
    }
    Ok(())
}
