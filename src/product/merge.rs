//! Joining the shards of a survey into one file. Streaming: a few rows of one dataset are in memory at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::digest::batch_rows;
use super::read::Shard;
use super::schema::{self, Axis, Dataset};
use super::shard::pad;
use super::stack::{Lengths, Stack};
use crate::io::hdf5::{Attribute, Element, Kind, Writer};
use crate::io::publish::publish_path;
use crate::{Error, Result};

/// A shard to be merged, and the content digest of its receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub path: PathBuf,
    pub content_blake3: String,
}

/// What a merge made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    pub objects: usize,
    pub failed: usize,
    pub content_blake3: String,
}

/// Joins `parts`, in their order, into the file `out`, published whole or not at all.
///
/// Errors: no parts; a part that is missing, or whose content is not that of its receipt; parts of different surveys; an
/// object that is in two parts.
pub fn merge(parts: &[Part], out: &Path) -> Result<Merged> {
    let mut shards = Vec::with_capacity(parts.len());
    for part in parts {
        let shard = Shard::open(&part.path)?;
        let found = shard.verify()?;
        if found != part.content_blake3 {
            let what = format!("content_blake3 is {found}, but the receipt says {}", part.content_blake3);
            return Err(Error::file(&part.path, what));
        }
        shards.push(shard);
    }
    let Some(first) = shards.first() else {
        return Err(Error::usage(format!("{}: there are no shards to merge", out.display())));
    };
    for shard in &shards[1..] {
        if !shard.meta.same_survey(&first.meta) {
            let what = format!("its attributes differ from those of {}: not one survey", first.reader.path().display());
            return Err(Error::file(shard.reader.path(), what));
        }
    }
    let mut owners = HashMap::new();
    for shard in &shards {
        for id in shard.ids() {
            if let Some(owner) = owners.insert(id.as_str(), shard.reader.path()) {
                let what = format!("object {id} is also in {}", owner.display());
                return Err(Error::file(shard.reader.path(), what));
            }
        }
    }
    let longest = |axis: usize| shards.iter().map(|shard| shard.lengths.observed[axis]).max().unwrap_or(1);
    let lengths = first.meta.lengths(owners.len(), [longest(0), longest(1)]);
    let content_blake3 = publish_path(out, |temporary| {
        // Sealed, since no receipt tells its bytes.
        let writer = Writer::create_sealed(temporary)?;
        first.meta.write(&writer)?;
        let digests: Vec<_> = parts.iter().map(|part| part.content_blake3.as_str()).collect();
        // One text, one digest a line: lists of many strings outgrow what an attribute may hold.
        writer.attribute("merged_from", &Attribute::Text(digests.join("\n")))?;
        let mut stack = Stack::new(&writer, lengths);
        for dataset in schema::DATASETS {
            match dataset.kind {
                Kind::Text => {
                    let texts = shards.iter().map(|shard| shard.reader.read_texts(&dataset.path()));
                    stack.texts(dataset, &texts.collect::<Result<Vec<_>>>()?.concat())?;
                }
                Kind::F64 => copy::<f64>(&mut stack, &shards, dataset, &lengths)?,
                Kind::U8 => copy::<u8>(&mut stack, &shards, dataset, &lengths)?,
                Kind::U32 => copy::<u32>(&mut stack, &shards, dataset, &lengths)?,
                _ => copy::<f32>(&mut stack, &shards, dataset, &lengths)?,
            }
        }
        stack.prior(&first.meta.prior_samples)?;
        let digest = stack.finish()?;
        writer.close()?;
        Ok(digest)
    })?;
    let failed = shards.iter().map(Shard::failed).sum();
    Ok(Merged { objects: lengths.objects, failed, content_blake3 })
}

/// Copies one dataset from all shards, padding observations to the largest of all.
fn copy<T: Element>(stack: &mut Stack, shards: &[Shard], dataset: &Dataset, lengths: &Lengths) -> Result<()> {
    let path = dataset.path();
    let to = lengths.row(dataset);
    let padded = dataset.axes.contains(&Axis::ObservedY);
    // The rows that were read last: of shard `current`, from `first` on.
    let (mut current, mut base, mut first, mut rows) = (0, 0, 0, Vec::<T>::new());
    stack.numbers::<T>(dataset, |index, out| {
        while index >= base + shards[current].len() {
            base += shards[current].len();
            current += 1;
            rows.clear();
        }
        let shard = &shards[current];
        let from = shard.lengths.row(dataset);
        let (local, length) = (index - base, from.iter().product::<usize>());
        if rows.is_empty() || (local - first + 1) * length > rows.len() {
            let mut shape = vec![shard.len()];
            shape.extend(&from);
            first = local;
            rows = shard.reader.read_rows::<T>(&path, local..(local + batch_rows::<T>(&shape)).min(shard.len()))?;
        }
        let values = &rows[(local - first) * length..(local - first + 1) * length];
        if padded {
            out.extend(pad(values, &from, &to, T::MISSING))
        } else {
            out.extend_from_slice(values)
        }
        Ok(())
    })
}
