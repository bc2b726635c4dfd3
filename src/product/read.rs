//! Reading product files: a shard, or a merged survey, which is the same with more objects.

use std::ops::Range;
use std::path::Path;

use super::digest::Content;
use super::meta::ShardMeta;
use super::schema::{self, Axis, Dataset, Source};
use super::shard::pad;
use super::stack::Lengths;
use super::{ObjectRecord, Status};
use crate::io::hdf5::Reader;
use crate::{Error, Result};

/// Objects whose numbers are read at a time.
const BLOCK: usize = 256;

/// Recomputes the content digest of a product file; an error when the file claims another.
pub fn content_digest(path: &Path) -> Result<String> {
    Shard::open(path)?.verify()
}

/// A product file that is being read.
pub struct Shard {
    pub(super) reader: Reader,
    pub meta: ShardMeta,
    ids: Vec<String>,
    status: Vec<String>,
    reasons: Vec<String>,
    flags: Vec<u32>,
    pub(super) lengths: Lengths,
}

impl Shard {
    /// Opens a file and reads what is small. An error when it is not a product file of this format version.
    pub fn open(path: &Path) -> Result<Shard> {
        let reader = Reader::open(path)?;
        let meta = ShardMeta::read(&reader)?;
        let ids = reader.read_texts("id")?;
        let observed = match reader.info("observation")?.0.as_slice() {
            [_, _, rows, columns] => [*rows, *columns],
            other => return Err(Error::file(path, format!("`observation` has shape {other:?}, 4 axes expected"))),
        };
        let lengths = meta.lengths(ids.len(), observed);
        let (status, reasons) = (reader.read_texts("status")?, reader.read_texts("reason")?);
        let flags = reader.read::<u32>("flags")?.1;
        if [status.len(), reasons.len(), flags.len()] != [ids.len(); 3] {
            return Err(Error::file(path, "`id`, `status`, `reason` and `flags` differ in length"));
        }
        Ok(Shard { reader, meta, ids, status, reasons, flags, lengths })
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The objects' ids, in order.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// How many objects failed.
    pub fn failed(&self) -> usize {
        self.status.iter().filter(|status| *status != "done").count()
    }

    /// The position of an object.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.ids.iter().position(|known| known == id)
    }

    /// The content digest that the file claims.
    pub fn claimed_digest(&self) -> Result<String> {
        self.reader.text_attribute("content_blake3")
    }

    /// Recomputes the content digest; an error when the file claims another.
    pub fn verify(&self) -> Result<String> {
        let (claimed, found) = (self.claimed_digest()?, Content::of_file(&self.reader)?);
        if claimed != found {
            let what = format!("content_blake3 is {found}, but the file claims {claimed}: it was changed or damaged");
            return Err(Error::file(self.reader.path(), what));
        }
        Ok(found)
    }

    /// The record of object `index`. What is NaN throughout is left out, padding is removed.
    pub fn record(&self, index: usize) -> Result<ObjectRecord> {
        let mut record = self.numbers(index..index + 1)?.remove(0);
        for dataset in self.datasets().filter(|dataset| dataset.source == Source::Array) {
            self.read_array(dataset, index, &mut record)?;
        }
        Ok(record)
    }

    /// The same of many objects without their images: quickly, for tables. An error when `objects` are not in the file.
    pub fn numbers(&self, objects: Range<usize>) -> Result<Vec<ObjectRecord>> {
        if objects.end > self.len() {
            let what = format!("there is no object number {}: the file holds {}", objects.end - 1, self.len());
            return Err(Error::file(self.reader.path(), what));
        }
        let mut records: Vec<ObjectRecord> = objects
            .clone()
            .map(|index| {
                let mut record = ObjectRecord::failed(&self.ids[index], &self.reasons[index]);
                record.flags = self.flags[index];
                if self.status[index] == "done" {
                    record.status = Status::Done;
                }
                record
            })
            .collect();
        for dataset in self.datasets() {
            let path = dataset.path();
            match dataset.source {
                Source::Field | Source::Array => {}
                Source::Scalar => {
                    let values = self.reader.read_rows::<f64>(&path, objects.clone())?;
                    let length = values.len() / records.len().max(1);
                    for (record, values) in records.iter_mut().zip(values.chunks(length.max(1))) {
                        match (dataset.axes.is_empty(), values) {
                            (_, values) if values.iter().all(|value| value.is_nan()) => {}
                            (true, &[value]) => record.set_scalar(dataset.name, value),
                            _ => record.set_vector(dataset.name, values),
                        }
                    }
                }
                Source::Sample => {
                    let values = self.reader.read_rows::<f32>(&path, objects.clone())?;
                    let length = values.len() / records.len().max(1);
                    for (record, values) in records.iter_mut().zip(values.chunks(length.max(1))) {
                        self.put_samples(dataset, values, record);
                    }
                }
            }
        }
        Ok(records)
    }

    /// The datasets that the file has.
    fn datasets(&self) -> impl Iterator<Item = &'static Dataset> {
        schema::DATASETS.iter().filter(|dataset| self.reader.contains(&dataset.path()))
    }

    fn put_samples(&self, dataset: &Dataset, values: &[f32], record: &mut ObjectRecord) {
        let count = record.scalar("sample_count").map_or(self.lengths.samples, |count| count as usize);
        let parts = values.len() / self.lengths.samples.max(1);
        for part in 0..parts {
            let samples: Vec<f32> = values.iter().skip(part).step_by(parts).take(count).copied().collect();
            if !samples.iter().all(|value| value.is_nan()) {
                let (name, plain) = (dataset.name, dataset.axes.len() == 1);
                let name = if plain { name.to_string() } else { format!("{name}_{part}") };
                record.samples.push((name, samples));
            }
        }
    }

    fn read_array(&self, dataset: &Dataset, index: usize, record: &mut ObjectRecord) -> Result<()> {
        let values = self.reader.read_rows::<f32>(&dataset.path(), index..index + 1)?;
        let row = self.lengths.row(dataset);
        let mut shape = row.clone();
        if dataset.axes.contains(&Axis::ObservedY) {
            let [rows, columns] = record.vector("observation_shape")[..] else { return Ok(()) };
            let count = shape.len();
            shape[count - 2] = (rows as usize).min(row[count - 2]);
            shape[count - 1] = (columns as usize).min(row[count - 1]);
        }
        if !values.iter().all(|value| value.is_nan()) {
            let cropped = crop(&values, &row, &shape);
            record.set_array(dataset.name, &shape, cropped);
        }
        Ok(())
    }

    /// All objects without their images, some at a time.
    pub fn all_numbers(&self) -> impl Iterator<Item = Result<ObjectRecord>> + '_ {
        let blocks = (0..self.len()).step_by(BLOCK);
        blocks.flat_map(|first| match self.numbers(first..(first + BLOCK).min(self.len())) {
            Ok(records) => records.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    /// The records of all objects. For files that fit into memory.
    pub fn records(&self) -> Result<Vec<ObjectRecord>> {
        (0..self.len()).map(|index| self.record(index)).collect()
    }
}

/// The corner of shape `to` of an array of shape `from`.
fn crop(values: &[f32], from: &[usize], to: &[usize]) -> Vec<f32> {
    let marks: Vec<usize> = (0..to.iter().product()).collect();
    let mut out = vec![f32::NAN; marks.len()];
    for (&value, mark) in values.iter().zip(pad(&marks, to, from, usize::MAX)) {
        if let Some(slot) = out.get_mut(mark) {
            *slot = value;
        }
    }
    out
}
