//! Digests (blake3, as hexadecimal text): of files, and of what a product file contains whatever its layout on the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use crate::{Error, Result};

/// The digest of a file's bytes.
pub fn file(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let handle = File::open(path).map_err(|error| Error::file(path, format!("cannot read: {error}")))?;
    hasher.update_reader(handle).map_err(|error| Error::file(path, format!("cannot read: {error}")))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The digest of bytes in memory.
pub fn bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The digest of a set of named datasets, in the order of their names: it does not depend on the order in which they
/// are added, nor on compression, chunks or anything else of the container.
#[derive(Default)]
pub struct ContentDigest {
    datasets: BTreeMap<String, [u8; 32]>,
}

impl ContentDigest {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dataset: its name, the kind of its values (for example `f32`), its shape and its values, little-endian,
    /// row by row. A name that is added again replaces the earlier dataset.
    pub fn add(&mut self, name: &str, kind: &str, shape: &[usize], values: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            // The length goes first, so that no two lists of parts give the same bytes.
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(name.as_bytes());
        part(kind.as_bytes());
        let shape: Vec<u8> = shape.iter().flat_map(|&side| (side as u64).to_le_bytes()).collect();
        part(&shape);
        part(values);
        self.datasets.insert(name.to_string(), *hasher.finalize().as_bytes());
    }

    /// The digest of all datasets.
    pub fn finish(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for digest in self.datasets.values() {
            hasher.update(digest);
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_depends_on_everything_but_the_order_of_adding() {
        let digest = |parts: &[(&str, &str, &[usize], &[u8])]| {
            let mut content = ContentDigest::new();
            for (name, kind, shape, values) in parts {
                content.add(name, kind, shape, values);
            }
            content.finish()
        };
        let one: (&str, &str, &[usize], &[u8]) = ("a", "u8", &[2], &[1, 2]);
        let two: (&str, &str, &[usize], &[u8]) = ("b", "u8", &[1], &[3]);
        let base = digest(&[one, two]);
        assert_eq!(base, digest(&[two, one]));
        assert_ne!(base, digest(&[one]));
        assert_ne!(base, digest(&[("a", "u8", &[1, 2], &[1, 2]), two]));
        assert_ne!(base, digest(&[("a", "i8", &[2], &[1, 2]), two]));
        assert_ne!(base, digest(&[("a", "u8", &[2], &[1, 3]), two]));
    }
}
