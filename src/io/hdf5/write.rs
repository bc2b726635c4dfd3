//! Writing HDF5 files.

use std::path::{Path, PathBuf};

use hdf5::types::VarLenUnicode;
use hdf5::{Extent, File, Location};
use ndarray::{ArrayView1, ArrayViewD, IxDyn};

use super::{Attribute, Element, Kind, rows};
use crate::io::seal;
use crate::{Error, Result};

/// Deflate level. Above 4 the files hardly shrink and writing takes several times longer.
const DEFLATE_LEVEL: u8 = 4;

/// A file that is being written.
pub struct Writer {
    file: File,
    path: PathBuf,
    sealed: bool,
}

impl Writer {
    /// Creates (or empties) a file.
    pub fn create(path: &Path) -> Result<Writer> {
        Writer::open(path, false)
    }

    /// The same of a file that is sealed when it is closed: for those whose digest is kept nowhere else.
    pub fn create_sealed(path: &Path) -> Result<Writer> {
        Writer::open(path, true)
    }

    fn open(path: &Path, sealed: bool) -> Result<Writer> {
        let file = File::with_options()
            .with_fapl(|access| access.libver_earliest().file_locking(false))
            .with_fcpl(|creation| creation.userblock(if sealed { seal::BLOCK } else { 0 }))
            .create(path)
            .map_err(|error| Error::file(path, format!("cannot create the HDF5 file: {error}")))?;
        Ok(Writer { file, path: path.to_path_buf(), sealed })
    }

    /// An attribute of the file.
    pub fn attribute(&self, name: &str, value: &Attribute) -> Result<()> {
        write_attribute(&self.file, name, value)
            .map_err(|error| Error::file(&self.path, format!("attribute `{name}`: {error}")))
    }

    /// Creates a dataset of `shape` to be filled row by row (a row is one index of the first axis), one row to a
    /// chunk (short rows share chunks). Groups in `name` are made as needed. Unwritten rows read as NaN, or 0 for integers.
    pub fn rows<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Rows<'_>> {
        // Small rows would make a chunk (and its overhead) for each number: those share chunks of this many elements,
        // which stay below the library's chunk cache of 1 MiB.
        const CHUNK: usize = 16_384;
        const SMALL_ROW: usize = 256;
        let row = shape.iter().skip(1).product::<usize>().max(1);
        let mut chunk = shape.to_vec();
        if let Some(first) = chunk.first_mut() {
            *first = if row < SMALL_ROW { (*first).min(CHUNK / row) } else { 1 };
        }
        self.dataset::<T>(name, shape, &chunk)
    }

    /// The same for at most `shape[0]` rows: what turns out not to be needed is cut off with `Rows::truncate`.
    pub fn rows_up_to<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Rows<'_>> {
        let mut chunk = shape.to_vec();
        chunk.iter_mut().take(1).for_each(|first| *first = 1);
        let fail = |error: hdf5::Error| Error::file(&self.path, format!("dataset `{name}`: cannot create: {error}"));
        let extents: Vec<Extent> =
            shape.iter().enumerate().map(|(axis, &size)| Extent::new(size, (axis > 0).then_some(size))).collect();
        let builder = self.file.new_dataset::<T>().shape(extents).chunk(chunk).shuffle().deflate(DEFLATE_LEVEL);
        let dataset = builder.create(name).map_err(fail)?;
        Ok(Rows { writer: self, dataset, name: name.to_string(), shape: shape.to_vec() })
    }

    fn dataset<T: Element>(&self, name: &str, shape: &[usize], chunk: &[usize]) -> Result<Rows<'_>> {
        let fail = |error: hdf5::Error| Error::file(&self.path, format!("dataset `{name}`: cannot create: {error}"));
        let builder = self.file.new_dataset::<T>().shape(shape);
        let empty = shape.iter().product::<usize>() == 0;
        let builder = if empty { builder } else { builder.chunk(chunk.to_vec()).shuffle().deflate(DEFLATE_LEVEL) };
        let builder = match T::KIND {
            Kind::F32 => builder.fill_value(f32::NAN),
            Kind::F64 => builder.fill_value(f64::NAN),
            _ => builder,
        };
        let dataset = builder.create(name).map_err(fail)?;
        Ok(Rows { writer: self, dataset, name: name.to_string(), shape: shape.to_vec() })
    }

    /// Writes a whole numeric dataset in one chunk.
    pub fn numbers<T: Element>(&self, name: &str, shape: &[usize], values: &[T]) -> Result<Rows<'_>> {
        let rows = self.dataset::<T>(name, shape, shape)?;
        let view = ArrayViewD::from_shape(IxDyn(shape), values)
            .map_err(|error| Error::internal(format!("dataset `{name}`: {error}")))?;
        if !values.is_empty() {
            rows.dataset.write(view).map_err(|error| rows.error(&error))?;
        }
        Ok(rows)
    }

    /// Writes a dataset of strings.
    pub fn texts(&self, name: &str, values: &[String]) -> Result<Rows<'_>> {
        let texts = values.iter().map(|value| unicode(value)).collect::<Result<Vec<_>>>()?;
        let fail = |error: hdf5::Error| Error::file(&self.path, format!("dataset `{name}`: cannot write: {error}"));
        let dataset = self.file.new_dataset::<VarLenUnicode>().shape([texts.len()]).create(name).map_err(fail)?;
        if !texts.is_empty() {
            dataset.write(ArrayView1::from(&texts)).map_err(fail)?;
        }
        Ok(Rows { writer: self, dataset, name: name.to_string(), shape: vec![values.len()] })
    }

    /// Closes the file; everything is with the operating system once this returns.
    pub fn close(self) -> Result<()> {
        self.file.flush().map_err(|error| Error::file(&self.path, format!("cannot write: {error}")))?;
        self.file.close().map_err(|error| Error::file(&self.path, format!("cannot close: {error}")))?;
        if self.sealed { seal::file(&self.path) } else { Ok(()) }
    }
}

/// A dataset that is being written.
pub struct Rows<'a> {
    writer: &'a Writer,
    dataset: hdf5::Dataset,
    name: String,
    shape: Vec<usize>,
}

impl Rows<'_> {
    /// Writes `count` rows from row `first` on; `values` are in C order.
    pub fn write<T: Element>(&self, first: usize, count: usize, values: &[T]) -> Result<()> {
        let mut shape = self.shape.clone();
        shape[0] = count;
        let view = ArrayViewD::from_shape(IxDyn(&shape), values)
            .map_err(|error| Error::internal(format!("dataset `{}`, row {first}: {error}", self.name)))?;
        if values.is_empty() {
            return Ok(());
        }
        self.dataset.write_slice(view, rows(&self.shape, first..first + count)).map_err(|error| self.error(&error))
    }

    /// Cuts a dataset of `rows_up_to` to its first `count` rows.
    pub fn truncate(&mut self, count: usize) -> Result<()> {
        self.shape[0] = count;
        self.dataset.resize(self.shape.clone()).map_err(|error| self.error(&error))
    }

    /// An attribute of the dataset.
    pub fn attribute(&self, name: &str, value: &Attribute) -> Result<()> {
        write_attribute(&self.dataset, name, value).map_err(|error| self.error(&error))
    }

    fn error(&self, error: &dyn std::fmt::Display) -> Error {
        Error::file(&self.writer.path, format!("dataset `{}`: cannot write: {error}", self.name))
    }
}

fn unicode(value: &str) -> Result<VarLenUnicode> {
    value.parse().map_err(|_| Error::internal(format!("HDF5 strings cannot hold a zero byte: {value:?}")))
}

fn write_attribute(place: &Location, name: &str, value: &Attribute) -> std::result::Result<(), String> {
    let builder = place.new_attr_builder();
    let strings = |values: &[String]| values.iter().map(|value| unicode(value)).collect::<Result<Vec<_>>>();
    let outcome = match value {
        Attribute::Text(value) => {
            let value = unicode(value).map_err(|error| error.to_string())?;
            place.new_attr::<VarLenUnicode>().create(name).and_then(|attribute| attribute.write_scalar(&value))
        }
        Attribute::Texts(values) => {
            let values = strings(values).map_err(|error| error.to_string())?;
            builder.with_data(ArrayView1::from(&values)).create(name).map(|_| ())
        }
        Attribute::Number(value) => {
            place.new_attr::<f64>().create(name).and_then(|attribute| attribute.write_scalar(value))
        }
        Attribute::Numbers(values) => builder.with_data(ArrayView1::from(values)).create(name).map(|_| ()),
        Attribute::Integer(value) => {
            place.new_attr::<u64>().create(name).and_then(|attribute| attribute.write_scalar(value))
        }
        Attribute::Integers(values) => builder.with_data(ArrayView1::from(values)).create(name).map(|_| ()),
    };
    outcome.map_err(|error| error.to_string())
}
