//! Catalogues in FITS binary tables, read in chunks of rows.

use std::path::Path;

use super::Rows;
use super::row::Columns;
use crate::io::fits::{Cells, Table};
use crate::{Error, Result};

/// Rows read at once.
const CHUNK: usize = 4096;

/// Rows of the first table of a FITS file.
pub(super) struct TableRows {
    table: Table,
    places: Vec<usize>,
    chunk: Vec<Cells>,
    /// The first row of the chunk, and the row to be given next.
    first: usize,
    next: usize,
}

impl TableRows {
    pub(super) fn open(path: &Path, columns: &Columns) -> Result<TableRows> {
        let table = Table::open(path)?;
        let names: Vec<String> = table.names().map(str::to_string).collect();
        let places = columns.locate(&path.display().to_string(), &names)?;
        let mut rows = TableRows { table, places, chunk: Vec::new(), first: 0, next: 0 };
        // A column of a kind that cannot be read shows now, not after the work has begun.
        if rows.table.rows() > 0 {
            rows.load(0)?;
        }
        Ok(rows)
    }

    fn load(&mut self, first: usize) -> Result<()> {
        let count = CHUNK.min(self.table.rows() - first);
        self.first = first;
        self.chunk.clear();
        for &place in &self.places {
            self.chunk.push(self.table.read(place, first, count)?);
        }
        Ok(())
    }
}

impl Rows for TableRows {
    fn next_row(&mut self) -> Result<Option<(u64, Vec<String>)>> {
        if self.next >= self.table.rows() {
            return Ok(None);
        }
        if self.next >= self.first + CHUNK {
            self.load(self.next).map_err(|error| Error::usage(error.to_string()))?;
        }
        let row = self.next - self.first;
        self.next += 1;
        Ok(Some((self.next as u64, self.chunk.iter().map(|cells| text(cells, row)).collect())))
    }

    fn unit(&self) -> &'static str {
        "row"
    }
}

/// A cell as text: integers as integers, floats so that they read back exactly, nulls as nothing.
fn text(cells: &Cells, row: usize) -> String {
    match cells {
        Cells::Integers(values) => values[row].map(|value| value.to_string()).unwrap_or_default(),
        // Rust prints whole floats without an exponent, so an id kept as a float still reads as an integer.
        Cells::Floats(values) if values[row].is_nan() => String::new(),
        Cells::Floats(values) => values[row].to_string(),
        Cells::Texts(values) => values[row].clone(),
    }
}
