//! The content digest of a product file: what promise 1 (same bytes) is about. It covers every dataset's name, type,
//! shape and values, and nothing of how the library lays the file out, when it was written, or by whom.

use std::collections::BTreeMap;

use crate::Result;
use crate::io::hdf5::{Element, Kind, Reader};

/// Rows that are read at a time: bounds the memory of a check.
const BATCH_BYTES: usize = 16 << 20;

/// The digest of one dataset's values, fed in C order.
#[derive(Default)]
pub struct Values {
    hasher: blake3::Hasher,
    bytes: Vec<u8>,
}

impl Values {
    /// Adds numbers, as little-endian bytes.
    pub fn numbers<T: Element>(&mut self, values: &[T]) {
        self.bytes.clear();
        T::append_bytes(values, &mut self.bytes);
        self.hasher.update(&self.bytes);
    }

    /// Adds strings: each its length in bytes (64 bits) and its bytes.
    pub fn texts(&mut self, values: &[String]) {
        for value in values {
            self.hasher.update(&(value.len() as u64).to_le_bytes());
            self.hasher.update(value.as_bytes());
        }
    }
}

/// The digest of a file, gathered dataset by dataset in any order.
#[derive(Default)]
pub struct Content {
    datasets: BTreeMap<String, (Kind, Vec<usize>, blake3::Hash)>,
}

impl Content {
    /// Adds a dataset.
    pub fn add(&mut self, path: &str, kind: Kind, shape: &[usize], values: Values) {
        self.datasets.insert(path.to_string(), (kind, shape.to_vec(), values.hasher.finalize()));
    }

    /// The digest, as hexadecimal text: blake3 over the datasets in the order of their names.
    pub fn finish(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (path, (kind, shape, values)) in &self.datasets {
            for text in [path.as_str(), kind.name()] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            hasher.update(&(shape.len() as u64).to_le_bytes());
            for &length in shape {
                hasher.update(&(length as u64).to_le_bytes());
            }
            hasher.update(values.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Reads a whole file and digests it, a few rows at a time.
    pub fn of_file(reader: &Reader) -> Result<String> {
        let mut content = Content::default();
        for path in reader.names()? {
            let (shape, kind) = reader.info(&path)?;
            let values = match kind {
                Kind::F32 | Kind::Other => digest_numbers::<f32>(reader, &path, &shape)?,
                Kind::F64 => digest_numbers::<f64>(reader, &path, &shape)?,
                Kind::U8 => digest_numbers::<u8>(reader, &path, &shape)?,
                Kind::U32 => digest_numbers::<u32>(reader, &path, &shape)?,
                Kind::Text => {
                    let mut values = Values::default();
                    values.texts(&reader.read_texts(&path)?);
                    values
                }
            };
            content.add(&path, kind, &shape, values);
        }
        Ok(content.finish())
    }
}

fn digest_numbers<T: Element>(reader: &Reader, path: &str, shape: &[usize]) -> Result<Values> {
    let mut values = Values::default();
    let count = shape.first().copied().unwrap_or_default();
    let batch = batch_rows::<T>(shape);
    for first in (0..count).step_by(batch) {
        values.numbers(&reader.read_rows::<T>(path, first..(first + batch).min(count))?);
    }
    Ok(values)
}

/// How many rows of a dataset to handle at a time.
pub fn batch_rows<T: Element>(shape: &[usize]) -> usize {
    let row = shape.iter().skip(1).product::<usize>() * size_of::<T>();
    (BATCH_BYTES / row.max(1)).max(1)
}
