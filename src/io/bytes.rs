//! Whole files as bytes.

use std::path::Path;

use crate::{Error, Result};

/// The bytes of the file at `path`.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::file(path, error))
}
