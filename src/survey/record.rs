//! What the leader writes into a shard's journal, and what a later attempt makes of all journals of the shard.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::claim;
use super::engine::SavedBlock;
use super::folder::Folder;
use super::lease::Parts;
use crate::io::journal::{self, Key, Writer};
use crate::posterior::Node;
use crate::posterior::tree::TreeNode;
use crate::product::{ObjectRecord, Status};
use crate::{Error, Result};

/// Kinds of frames. The values are part of the format: never reorder, only append.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    /// An object's record, done or failed.
    Record = 1,
    /// A part of an object.
    Node = 2,
    /// A sampler state of one block.
    State = 3,
    /// Some worker works on the object from here on ...
    Begin = 4,
    /// ... and no worker does from here on.
    End = 5,
    /// The object has been given up because the process died twice while it was worked on.
    Crashed = 6,
    /// What earlier attempts said of the object's failure is void.
    Retry = 7,
    /// The digest of the plan that all of the journal is about; first of all.
    Plan = 8,
}

/// Reason of objects in flight at two process deaths.
const CRASHED: &str = "crashed: the process died twice while working on it (`unseeing retry` tries again)";
/// What is said of the journal of another plan, with the way out.
const FOREIGN: &str = "was written for another plan. If the survey was planned anew here, plan it in another folder \
                       (`survey.folder`); else remove it, and what it holds is done again";
/// Deaths after which an object is given up.
pub const DEATHS: u32 = 2;

/// The journal of this attempt.
pub struct ShardJournal {
    writer: Writer,
}

impl ShardJournal {
    /// Starts the journal of an attempt at a shard of the plan with this digest.
    pub fn create(folder: &Folder, plan: &str, shard: u32, attempt: u32) -> Result<ShardJournal> {
        let mut journal = ShardJournal { writer: Writer::create(&folder.journal(shard, attempt))? };
        journal.append(Kind::Plan, key(0, 0, 0), &plan)?;
        Ok(journal)
    }

    pub fn record(&mut self, object: u64, record: &ObjectRecord) -> Result<()> {
        self.append(Kind::Record, key(object, 0, 0), record)
    }

    pub fn node(&mut self, object: u64, place: TreeNode, node: &Node) -> Result<()> {
        self.append(Kind::Node, key(object, place.level, place.index), node)
    }

    pub fn state(&mut self, object: u64, saved: &SavedBlock) -> Result<()> {
        self.append(Kind::State, key(object, saved.block, saved.state.step), saved)
    }

    pub fn begin(&mut self, object: u64) -> Result<()> {
        self.append(Kind::Begin, key(object, 0, 0), &())
    }

    pub fn end(&mut self, object: u64) -> Result<()> {
        self.append(Kind::End, key(object, 0, 0), &())
    }

    pub fn crashed(&mut self, object: u64) -> Result<()> {
        self.append(Kind::Crashed, key(object, 0, 0), &())
    }

    pub fn retry(&mut self, object: u64) -> Result<()> {
        self.append(Kind::Retry, key(object, 0, 0), &())
    }

    /// Forces everything to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.writer.sync()
    }

    fn append<T: Serialize>(&mut self, kind: Kind, key: Key, value: &T) -> Result<()> {
        let payload = postcard::to_stdvec(value).map_err(|error| Error::internal(error.to_string()))?;
        self.writer.append(kind as u32, key, &payload)
    }
}

/// What the journals know of one object.
#[derive(Clone, Debug)]
pub struct Known {
    pub record: Option<ObjectRecord>,
    pub parts: Parts,
    pub states: BTreeMap<u32, SavedBlock>,
    /// Process deaths while the object was worked on.
    pub deaths: u32,
    crashed: bool,
}

impl Known {
    pub fn nothing(blocks: u32) -> Known {
        Known { record: None, parts: Parts::new(blocks), states: BTreeMap::new(), deaths: 0, crashed: false }
    }

    /// Adds a state; the furthest of each block counts.
    pub fn add_state(&mut self, saved: SavedBlock) {
        let old = self.states.get(&saved.block).map_or(0, |old| old.state.step);
        if saved.state.step >= old && !self.parts.has_block(saved.block) {
            self.states.insert(saved.block, saved);
        }
    }

    /// Adds a part, and forgets the states that it makes useless.
    pub fn add_node(&mut self, place: TreeNode, node: Node) {
        self.parts.insert(place, node);
        let parts = &self.parts;
        self.states.retain(|block, _| !parts.has_block(*block));
    }

    /// The record of an object that was given up, and the frame that says so, where it died too often.
    pub fn give_up(&mut self, id: &str) -> Option<ObjectRecord> {
        if self.record.is_some() || !(self.crashed || self.deaths >= DEATHS) {
            return None;
        }
        Some(ObjectRecord::failed(id, CRASHED))
    }
}

/// Reads the journals of a shard of the plan with this digest; `first` is the first of the objects that are `known`. Damaged
/// frames are skipped and reported to the log.
///
/// # Errors
/// A journal of another plan or shard; journals that contradict each other.
pub fn recover(
    folder: &Folder,
    plan: &str,
    shard: u32,
    attempts: &[u32],
    first: u64,
    known: &mut [Known],
) -> Result<()> {
    // Frames of the same key must say the same, whichever attempt wrote them.
    let mut seen: HashMap<(u32, Key), [u8; 32]> = HashMap::new();
    for &attempt in attempts {
        let path = folder.journal(shard, attempt);
        let mut in_flight: BTreeSet<usize> = BTreeSet::new();
        let skipped = journal::read(&path, |frame| {
            if frame.kind == Kind::Plan as u32 {
                let own: String = value(&path, frame.payload)?;
                return if own == plan { Ok(()) } else { Err(Error::file(&path, FOREIGN)) };
            }
            let (object, a, b) = parse(&frame.key);
            let place = object.checked_sub(first).map(|place| place as usize).filter(|&place| place < known.len());
            let Some(place) = place else {
                let what = format!("speaks of object {object}, which is not in shard {shard}: remove it");
                return Err(Error::file(&path, what));
            };
            let object = &mut known[place];
            if [Kind::Record, Kind::Node, Kind::State].iter().any(|kind| *kind as u32 == frame.kind) {
                let earlier = seen.insert((frame.kind, frame.key), frame.digest);
                if earlier.is_some_and(|digest| digest != frame.digest) {
                    return Err(Error::file(
                        &path,
                        format!(
                            "differs from an earlier journal of the shard in what it says of object {} (kind {}, {a}, \
                             {b}): the machine or the libraries do not give the same bits; keep the one to be trusted \
                             and remove the other journal",
                            place as u64 + first,
                            frame.kind
                        ),
                    ));
                }
            }
            match frame.kind {
                kind if kind == Kind::Record as u32 => {
                    object.record = Some(value(&path, frame.payload)?);
                    in_flight.remove(&place);
                }
                kind if kind == Kind::Node as u32 => {
                    object.add_node(TreeNode { level: a, index: b }, value(&path, frame.payload)?);
                }
                kind if kind == Kind::State as u32 => object.add_state(value(&path, frame.payload)?),
                kind if kind == Kind::Begin as u32 => {
                    in_flight.insert(place);
                }
                kind if kind == Kind::End as u32 => {
                    in_flight.remove(&place);
                }
                kind if kind == Kind::Crashed as u32 => object.crashed = true,
                kind if kind == Kind::Retry as u32 => {
                    object.crashed = false;
                    object.deaths = 0;
                    if object.record.as_ref().is_some_and(|record| record.status == Status::Failed) {
                        object.record = None;
                        seen.remove(&(Kind::Record as u32, frame.key));
                    }
                }
                other => tracing::warn!("{}: a frame of unknown kind {other} was left out", path.display()),
            }
            Ok(())
        })?;
        if skipped > 0 {
            tracing::warn!("{}: {skipped} damaged bytes were skipped; what they held is done again", path.display());
        }
        if !claim::was_released(folder, shard, attempt) {
            in_flight.into_iter().for_each(|place| known[place].deaths += 1);
        }
    }
    Ok(())
}

fn value<T: DeserializeOwned>(path: &std::path::Path, payload: &[u8]) -> Result<T> {
    postcard::from_bytes(payload).map_err(|error| {
        Error::file(path, format!("a frame cannot be read, although it is whole (another version wrote it?): {error}"))
    })
}

fn key(object: u64, a: u32, b: u32) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&object.to_le_bytes());
    key[8..12].copy_from_slice(&a.to_le_bytes());
    key[12..].copy_from_slice(&b.to_le_bytes());
    key
}

fn parse(key: &Key) -> (u64, u32, u32) {
    let number = |from: usize| u32::from_le_bytes([key[from], key[from + 1], key[from + 2], key[from + 3]]);
    (u64::from(number(0)) | u64::from(number(4)) << 32, number(8), number(12))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = "the digest of a plan";

    fn folder() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        folder.create().unwrap();
        (root, folder)
    }

    fn recovered(folder: &Folder) -> Result<Vec<Known>> {
        let attempts = Folder::attempts(&folder.journals(), "journal").unwrap();
        let mut known = vec![Known::nothing(2); 3];
        recover(folder, PLAN, 0, attempts.get(&0).map_or(&[], Vec::as_slice), 10, &mut known)?;
        Ok(known)
    }

    #[test]
    fn deaths_are_counted_for_objects_in_flight_only() {
        let (_root, folder) = folder();
        for attempt in 1..=2 {
            let mut journal = ShardJournal::create(&folder, PLAN, 0, attempt).unwrap();
            journal.begin(10).unwrap();
            journal.begin(11).unwrap();
            journal.begin(12).unwrap();
            journal.end(12).unwrap();
            if attempt == 2 {
                journal.record(11, &ObjectRecord::failed("b", "no")).unwrap();
            }
        }
        let mut known = recovered(&folder).unwrap();
        assert_eq!(known.iter().map(|object| object.deaths).collect::<Vec<_>>(), [2, 1, 0]);
        assert!(known[0].give_up("a").unwrap().reason.starts_with("crashed"));
        assert!(known[1].give_up("b").is_none() && known[2].give_up("c").is_none());

        let mut journal = ShardJournal::create(&folder, PLAN, 0, 3).unwrap();
        journal.crashed(10).unwrap();
        assert!(recovered(&folder).unwrap()[0].give_up("a").is_some());
        let mut journal = ShardJournal::create(&folder, PLAN, 0, 4).unwrap();
        journal.retry(10).unwrap();
        journal.retry(11).unwrap();
        let mut known = recovered(&folder).unwrap();
        assert!(known[0].give_up("a").is_none() && known[1].record.is_none());
    }

    #[test]
    fn deaths_are_not_counted_where_the_claim_was_given_back() {
        let (_root, folder) = folder();
        for attempt in 1..=2 {
            let claim = claim::Claim::take(&folder, 0, attempt).unwrap().unwrap();
            // A full disk: the journal cannot say how it ends.
            ShardJournal::create(&folder, PLAN, 0, attempt).unwrap().begin(10).unwrap();
            claim.release().unwrap();
        }
        assert_eq!(recovered(&folder).unwrap()[0].deaths, 0);
    }

    #[test]
    fn any_damage_to_a_journal_loses_at_most_what_the_frame_held() {
        let (_root, folder) = folder();
        let saved = |step| {
            let state = crate::sampler::SavedState { step, tensors: Vec::new() };
            SavedBlock { block: 1, state }
        };
        let node = Node { moments: Vec::new(), samples: vec![("s".into(), vec![1.0])], draws: Vec::new(), lost: 0 };
        let mut journal = ShardJournal::create(&folder, PLAN, 0, 1).unwrap();
        journal.begin(10).unwrap();
        journal.state(10, &saved(3)).unwrap();
        journal.node(10, TreeNode::leaf(0), &node).unwrap();
        journal.record(11, &ObjectRecord::failed("b", "x")).unwrap();
        journal.end(10).unwrap();
        let path = folder.journal(0, 1);
        let bytes = std::fs::read(&path).unwrap();
        let mut whole = 0;
        let damaged = (0..bytes.len()).flat_map(|position| {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x10;
            [flipped, bytes[..position].to_vec()]
        });
        for content in damaged.chain([bytes.clone()]) {
            std::fs::write(&path, content).unwrap();
            let known = recovered(&folder).unwrap();
            let (state, part) = (known[0].states.get(&1), known[0].parts.has_block(0));
            assert!(state.is_none_or(|state| *state == saved(3)) && known[0].deaths <= 1);
            assert!(known[1].record.as_ref().is_none_or(|record| record.reason == "x"));
            assert!(known[0].record.is_none() && known[2].record.is_none());
            whole += usize::from(state.is_some() && part && known[1].record.is_some());
        }
        // Each flip and each cut within the frames of begin and end leaves all else: the test would see lost frames.
        assert!(whole > 1 && whole < bytes.len(), "{whole}");
    }

    #[test]
    fn journals_that_contradict_each_other_are_an_error() {
        let (_root, folder) = folder();
        ShardJournal::create(&folder, PLAN, 0, 1).unwrap().record(10, &ObjectRecord::failed("a", "x")).unwrap();
        ShardJournal::create(&folder, PLAN, 0, 2).unwrap().record(10, &ObjectRecord::failed("a", "x")).unwrap();
        assert!(recovered(&folder).unwrap()[0].record.is_some());
        ShardJournal::create(&folder, PLAN, 0, 3).unwrap().record(10, &ObjectRecord::failed("a", "y")).unwrap();
        let message = recovered(&folder).unwrap_err().to_string();
        assert!(message.contains("00000.journal.3") && message.contains("object 10"), "{message}");
    }

    #[test]
    fn a_journal_of_another_plan_or_shard_is_named_and_a_damaged_name_costs_nothing_else() {
        let (_root, folder) = folder();
        let record = ObjectRecord::failed("a", "x");
        ShardJournal::create(&folder, "another plan", 0, 1).unwrap().record(10, &record).unwrap();
        let message = recovered(&folder).unwrap_err().to_string();
        assert!(message.contains("00000.journal.1: was written for another plan"), "{message}");
        // Nothing tells whose it is: its frames count.
        let path = folder.journal(0, 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[50] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(recovered(&folder).unwrap()[0].record.is_some());
        ShardJournal::create(&folder, PLAN, 0, 2).unwrap().record(99, &record).unwrap();
        let message = recovered(&folder).unwrap_err().to_string();
        assert!(message.contains("00000.journal.2: speaks of object 99") && message.contains("remove it"), "{message}");
    }
}
