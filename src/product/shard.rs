//! Writing a shard file: the records of some objects, stacked, in HDF5. Published whole or not at all, and never changed
//! after.

use std::collections::HashSet;
use std::path::Path;

use super::meta::ShardMeta;
use super::rounding::{canonical, canonical64, round_to};
use super::schema::{self, Axis, Dataset, Rounding, Source};
use super::stack::{Lengths, Stack};
use super::{ObjectRecord, RecordArray, Status};
use crate::io::hdf5::{Kind, Writer};
use crate::io::publish::publish_path;
use crate::{Error, Result};

/// Writes the records, in their order, and publishes the file. Returns its content digest.
///
/// Errors: two records of one object; a name that the schema does not know; an array of another shape than the schema
/// says (these are faults of the program); a file that cannot be written.
pub fn write_shard(path: &Path, records: &[ObjectRecord], meta: &ShardMeta) -> Result<String> {
    publish_path(path, |temporary| write_file(temporary, records, meta))
}

/// The same at `path` itself, for callers that publish it themselves.
pub fn write_file(path: &Path, records: &[ObjectRecord], meta: &ShardMeta) -> Result<String> {
    check(records)?;
    let mut observed = [1, 1];
    for record in records {
        for (name, array) in &record.arrays {
            let known = schema::find(Source::Array, name);
            if let (Some(_), [_, rows, columns]) =
                (known.filter(|dataset| dataset.axes.contains(&Axis::ObservedY)), array.shape.as_slice())
            {
                observed = [observed[0].max(*rows), observed[1].max(*columns)];
            }
        }
    }
    let lengths = meta.lengths(records.len(), observed);
    let writer = Writer::create(path)?;
    meta.write(&writer)?;
    let mut stack = Stack::new(&writer, lengths);
    for dataset in schema::DATASETS {
        match (dataset.source, dataset.name) {
            (Source::Field, "flags") => stack.numbers::<u32>(dataset, |index, out| {
                out.push(records[index].flags);
                Ok(())
            })?,
            (Source::Field, name) => {
                stack.texts(dataset, &records.iter().map(|record| field(record, name)).collect::<Vec<_>>())?;
            }
            (Source::Scalar, _) => stack.numbers::<f64>(dataset, |index, out| {
                out.extend(scalar_row(&records[index], dataset, &lengths).into_iter().map(canonical64));
                Ok(())
            })?,
            (Source::Sample, _) => stack.numbers::<f32>(dataset, |index, out| {
                out.extend(sample_row(&records[index], dataset, &lengths)?.into_iter().map(canonical));
                Ok(())
            })?,
            (Source::Array, _) if dataset.kind == Kind::U8 => stack.numbers::<u8>(dataset, |index, out| {
                out.extend(array_row(&records[index], dataset, &lengths)?.into_iter().map(|value| value as u8));
                Ok(())
            })?,
            (Source::Array, _) => stack.numbers::<f32>(dataset, |index, out| {
                out.extend(array_row(&records[index], dataset, &lengths)?.into_iter().map(canonical));
                Ok(())
            })?,
        }
    }
    stack.prior(&meta.prior_samples)?;
    let digest = stack.finish()?;
    writer.close()?;
    Ok(digest)
}

/// Records must have different ids and only names that the schema knows: what has no dataset would be lost silently.
fn check(records: &[ObjectRecord]) -> Result<()> {
    let mut ids = HashSet::new();
    for record in records {
        if !ids.insert(record.id.as_str()) {
            return Err(Error::internal(format!("two records of object {}", record.id)));
        }
        let unknown = |source: Source, name: &str| {
            // `flux_2` is a part of `flux`.
            let stem = name.rsplit_once('_').filter(|(_, last)| last.bytes().all(|b| b.is_ascii_digit()));
            schema::find(source, name).is_none() && stem.is_none_or(|(stem, _)| schema::find(source, stem).is_none())
        };
        let scalars = record.scalars.iter().map(|(name, _)| (Source::Scalar, name));
        let arrays = record.arrays.iter().map(|(name, _)| (Source::Array, name));
        let samples = record.samples.iter().map(|(name, _)| (Source::Sample, name));
        if let Some((source, name)) = scalars.chain(arrays).chain(samples).find(|(source, name)| unknown(*source, name))
        {
            let id = &record.id;
            return Err(Error::internal(format!("object {id}: the schema has no {source:?} called `{name}`")));
        }
    }
    Ok(())
}

fn field(record: &ObjectRecord, name: &str) -> String {
    match (name, record.status) {
        ("id", _) => record.id.clone(),
        ("status", Status::Done) => "done".into(),
        ("status", Status::Failed) => "failed".into(),
        // HDF5 strings end at a zero byte.
        _ => record.reason.replace('\0', " "),
    }
}

fn scalar_row(record: &ObjectRecord, dataset: &Dataset, lengths: &Lengths) -> Vec<f64> {
    if dataset.axes.is_empty() {
        return vec![record.scalar(dataset.name).unwrap_or(f64::NAN)];
    }
    if let ("observation_shape", Some(observation)) = (dataset.name, record.array("observation")) {
        return observation.shape.iter().skip(1).map(|&length| length as f64).collect();
    }
    let count = lengths.row(dataset).iter().product();
    (0..count).map(|index| record.scalar(&format!("{}_{index}", dataset.name)).unwrap_or(f64::NAN)).collect()
}

/// One object's samples, `[samples]` or `[samples, parts]`, with NaN for samples that are not there.
fn sample_row(record: &ObjectRecord, dataset: &Dataset, lengths: &Lengths) -> Result<Vec<f32>> {
    let row = lengths.row(dataset);
    let parts: usize = row[1..].iter().product();
    let mut values = vec![f32::NAN; row[0] * parts];
    for part in 0..parts {
        let name = if row.len() == 1 { dataset.name.to_string() } else { format!("{}_{part}", dataset.name) };
        let samples = record.sample(&name).unwrap_or_default();
        if samples.len() > row[0] {
            let what = format!("{} samples of `{name}`, but the file is made for {}", samples.len(), row[0]);
            return Err(Error::internal(format!("object {}: {what}", record.id)));
        }
        for (index, &sample) in samples.iter().enumerate() {
            values[index * parts + part] = sample;
        }
    }
    Ok(values)
}

/// One object's array, padded and rounded.
fn array_row(record: &ObjectRecord, dataset: &Dataset, lengths: &Lengths) -> Result<Vec<f32>> {
    let row = lengths.row(dataset);
    let missing = if dataset.kind == Kind::U8 { 0.0 } else { f32::NAN };
    let Some(array) = record.array(dataset.name) else {
        return Ok(vec![missing; row.iter().product()]);
    };
    let may_be_smaller = |axis: &Axis| matches!(axis, Axis::ObservedY | Axis::ObservedX | Axis::Draw);
    let fits = array.shape.len() == row.len()
        && array.values.len() == array.shape.iter().product::<usize>()
        && (array.shape.iter().zip(&row).zip(dataset.axes))
            .all(|((have, want), axis)| have == want || (may_be_smaller(axis) && have < want));
    if !fits {
        let (name, shape, count) = (dataset.name, &array.shape, array.values.len());
        let what = format!("`{name}` has shape {shape:?} ({count} values), but the file is made for {row:?}");
        return Err(Error::internal(format!("object {}: {what}", record.id)));
    }
    let scale = |name: &str| record.array(name).filter(|array| !array.values.is_empty());
    let rounded: Vec<f32> = match dataset.rounding {
        Rounding::Exact => array.values.clone(),
        Rounding::Absolute => array.values.iter().map(|&value| round_to(value, 1.0)).collect(),
        Rounding::Relative => array.values.iter().map(|&value| round_to(value, f64::from(value.abs()))).collect(),
        Rounding::PosteriorSd => round_to_sd(array, scale("variance")),
        Rounding::NoiseSd => round_to_sd(array, scale("observation_variance")),
    };
    Ok(pad(&rounded, &array.shape, &row, missing))
}

/// Rounds to 1/64 of the standard deviation; `variance` is repeated over leading axes (draws).
fn round_to_sd(array: &RecordArray, variance: Option<&RecordArray>) -> Vec<f32> {
    match variance {
        Some(variance) => {
            let sds = variance.values.iter().cycle().map(|&variance| f64::from(variance).sqrt());
            array.values.iter().zip(sds).map(|(&value, sd)| round_to(value, sd)).collect()
        }
        None => array.values.clone(),
    }
}

/// Puts an array of shape `from` into the corner of one of shape `to`, filled with `missing`.
pub(super) fn pad<T: Copy>(values: &[T], from: &[usize], to: &[usize], missing: T) -> Vec<T> {
    if from == to {
        return values.to_vec();
    }
    let mut out = vec![missing; to.iter().product()];
    let width = from.last().copied().unwrap_or(1);
    if width == 0 {
        return out;
    }
    for (line, chunk) in values.chunks(width).enumerate() {
        // The line's indices along all but the last axis, from the last to the first.
        let (mut rest, mut stride, mut offset) = (line, to[to.len() - 1], 0);
        for (&have, &want) in from.iter().zip(to).rev().skip(1) {
            offset += rest % have * stride;
            rest /= have;
            stride *= want;
        }
        out[offset..offset + width].copy_from_slice(chunk);
    }
    out
}
