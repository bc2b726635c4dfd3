//! Reading binary tables in chunks of rows.

use std::ffi::{c_char, c_int};
use std::path::Path;

use fitsio::sys;

use super::image::Fits;
use super::raw::to_c;
use crate::{Error, Result};

/// The first table of a FITS file.
pub struct Table {
    fits: Fits,
    columns: Vec<Column>,
    rows: usize,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    kind: Kind,
    /// Characters of a string, or numbers in a cell.
    width: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Integer,
    Float,
    Text,
    /// Logical, complex, bits, vectors: nothing that a catalogue's column could be.
    Other,
}

/// The cells of one column in a chunk of rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Cells {
    /// `None` where the cell holds the column's TNULL.
    Integers(Vec<Option<i64>>),
    /// NaN where the cell is null.
    Floats(Vec<f64>),
    /// Trailing blanks removed.
    Texts(Vec<String>),
}

impl Table {
    /// Opens the first table of the file.
    pub fn open(path: &Path) -> Result<Table> {
        let mut fits = Fits::open(path)?;
        let found = fits.hdus().iter().find(|hdu| hdu.is_table).map(|hdu| hdu.number);
        let Some(number) = found else {
            return Err(Error::file(path, format!("no HDU holds a table; it has {}", fits.listing())));
        };
        fits.select(number)?;
        let (mut count, mut rows) = (0, 0);
        // SAFETY (here and below): pointers to locals that outlive the call.
        fits.file.call("cannot count columns", |fits, status| unsafe { sys::ffgncl(fits, &mut count, status) })?;
        fits.file.call("cannot count rows", |fits, status| unsafe { sys::ffgnrwll(fits, &mut rows, status) })?;
        let mut columns = Vec::new();
        for index in 1..=count {
            let name = fits.header(number).text(&format!("TTYPE{index}"))?.unwrap_or_default();
            let (mut code, mut repeat, mut width) = (0, 0, 0);
            fits.file.call(&format!("cannot read the format of column `{name}`"), |fits, status| unsafe {
                sys::ffeqtyll(fits, index, &mut code, &mut repeat, &mut width, status)
            })?;
            let kind = match (code, repeat) {
                // Bytes, shorts, ints, longs, signed or not.
                (11 | 12 | 20 | 21 | 30 | 31 | 40 | 41 | 80 | 81, 1) => Kind::Integer,
                (42 | 82, 1) => Kind::Float,
                (16, 1..) => Kind::Text,
                _ => Kind::Other,
            };
            columns.push(Column { name, kind, width: usize::try_from(repeat).unwrap_or(0) });
        }
        Ok(Table { fits, columns, rows: usize::try_from(rows).unwrap_or(0) })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns' names, as written in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// The index of the column called `name` (upper and lower case are the same, as FITS has it).
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// The cells of `column` (an index) in rows `first .. first + count`, counted from 0.
    pub fn read(&mut self, column: usize, first: usize, count: usize) -> Result<Cells> {
        let Some(Column { name, kind, width }) = self.columns.get(column).cloned() else {
            return Err(Error::internal(format!("{}: no column {column}", self.fits.path().display())));
        };
        let what = format!("cannot read column `{name}`, rows {} to {}", first + 1, first + count);
        let (index, start, cells) = (column as c_int + 1, first as i64 + 1, count as i64);
        let mut any = 0;
        match kind {
            Kind::Integer => {
                let mut values = vec![0i64; count];
                let pointer = values.as_mut_ptr();
                self.fits.file.call(&what, |fits, status| unsafe {
                    sys::ffgcvjj(fits, index, start, 1, cells, i64::MIN, pointer, &mut any, status)
                })?;
                Ok(Cells::Integers(values.into_iter().map(|value| Some(value).filter(|&v| v != i64::MIN)).collect()))
            }
            Kind::Float => {
                let mut values = vec![0f64; count];
                let pointer = values.as_mut_ptr();
                self.fits.file.call(&what, |fits, status| unsafe {
                    sys::ffgcvd(fits, index, start, 1, cells, f64::NAN, pointer, &mut any, status)
                })?;
                Ok(Cells::Floats(values))
            }
            Kind::Text => {
                let mut buffer = vec![0 as c_char; count * (width + 1)];
                let mut pointers: Vec<*mut c_char> = buffer.chunks_mut(width + 1).map(|c| c.as_mut_ptr()).collect();
                let null = to_c("")?;
                let pointer = pointers.as_mut_ptr();
                self.fits.file.call(&what, |fits, status| unsafe {
                    sys::ffgcvs(fits, index, start, 1, cells, null.as_ptr().cast_mut(), pointer, &mut any, status)
                })?;
                Ok(Cells::Texts(buffer.chunks(width + 1).map(super::raw::from_c).collect()))
            }
            Kind::Other => {
                let what = format!("column `{name}` holds neither single numbers nor text");
                Err(Error::file(self.fits.path(), what))
            }
        }
    }
}
