//! Digests of files and of bytes: blake3, as hexadecimal text.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(file(&path).unwrap(), bytes(b"abc"));
        // The published test value of blake3 for "abc".
        assert_eq!(bytes(b"abc"), "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
    }
}
