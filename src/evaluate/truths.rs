//! The truths of a simulated survey, as `unseeing simulate` writes them.

use std::collections::HashMap;
use std::path::Path;

use crate::io::hdf5::Reader;
use crate::product::RecordArray;
use crate::{Error, Result};

/// Truths of simulated objects.
pub struct Truths {
    reader: Reader,
    rows: HashMap<String, usize>,
    shape: Vec<usize>,
}

impl Truths {
    /// Opens a file with `id`, and `flux` `[object, band, pixel, pixel]` in nJy per product pixel.
    pub fn open(path: &Path) -> Result<Truths> {
        let reader = Reader::open(path)?;
        let rows = reader.read_texts("id")?.into_iter().enumerate().map(|(row, id)| (id, row)).collect();
        let shape = reader.info("flux")?.0;
        if shape.len() != 4 {
            return Err(Error::file(path, format!("`flux` has shape {shape:?}, not [object, band, pixel, pixel]")));
        }
        Ok(Truths { reader, rows, shape })
    }

    /// The truth of an object, `[C, n, n]`; `None` when the file has none of it.
    pub fn of(&self, id: &str) -> Result<Option<RecordArray>> {
        let Some(&row) = self.rows.get(id) else { return Ok(None) };
        let values = self.reader.read_rows::<f32>("flux", row..row + 1)?;
        Ok(Some(RecordArray { shape: self.shape[1..].to_vec(), values }))
    }
}
