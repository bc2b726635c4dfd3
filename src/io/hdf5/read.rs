//! Reading HDF5 files, ours and others'.

use std::path::{Path, PathBuf};

use hdf5::types::{FloatSize, IntSize, TypeDescriptor, VarLenUnicode};
use hdf5::{Container, File, Location};
use ndarray::IxDyn;

use super::{Attribute, Element, Kind, rows};
use crate::{Error, Result};

/// Bytes that a number, or the reference to a text, takes at most. In damaged files the library believes larger ones, and reads beyond its memory.
const LARGEST_ELEMENT: usize = 16;

/// Bytes of a dataset for each byte of the file, beyond which it is not believed: deflate makes 1,032 of one at most, and only
/// datasets that were hardly written have more. Small ones are believed in any case.
const LARGEST_RATIO: u64 = 10_000;
const SMALL: u64 = 1 << 26;

/// A file that is being read.
pub struct Reader {
    file: File,
    path: PathBuf,
}

impl Reader {
    /// Opens a file for reading.
    pub fn open(path: &Path) -> Result<Reader> {
        if !path.is_file() {
            return Err(Error::file(path, "no such file"));
        }
        let file = File::with_options()
            .with_fapl(|access| access.file_locking(false))
            .open(path)
            .map_err(|error| Error::file(path, format!("not a readable HDF5 file: {error}")))?;
        Ok(Reader { file, path: path.to_path_buf() })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The paths of all datasets, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut pending = vec![(String::new(), self.file.as_group().map_err(|error| self.error("", &error))?)];
        while let Some((prefix, group)) = pending.pop() {
            for dataset in group.datasets().map_err(|error| self.error(&prefix, &error))? {
                names.push(dataset.name().trim_start_matches('/').to_string());
            }
            for child in group.groups().map_err(|error| self.error(&prefix, &error))? {
                pending.push((child.name(), child));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether there is a dataset of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.file.dataset(name).is_ok()
    }

    /// Shape and element kind of a dataset.
    pub fn info(&self, name: &str) -> Result<(Vec<usize>, Kind)> {
        let dataset = self.dataset(name)?;
        let descriptor = dataset.dtype().and_then(|dtype| dtype.to_descriptor());
        let kind = match descriptor {
            Ok(TypeDescriptor::Float(FloatSize::U4)) => Kind::F32,
            Ok(TypeDescriptor::Float(FloatSize::U8)) => Kind::F64,
            Ok(TypeDescriptor::Unsigned(IntSize::U1)) => Kind::U8,
            Ok(TypeDescriptor::Unsigned(IntSize::U4)) => Kind::U32,
            Ok(TypeDescriptor::VarLenUnicode) => Kind::Text,
            _ => Kind::Other,
        };
        Ok((dataset.shape(), kind))
    }

    /// A whole dataset, converted to `T` (any integer or float can be read as a float).
    pub fn read<T: Element>(&self, name: &str) -> Result<(Vec<usize>, Vec<T>)> {
        let dataset = self.checked(name)?;
        let values = dataset.read_raw::<T>().map_err(|error| self.error(name, &error))?;
        Ok((dataset.shape(), values))
    }

    /// Rows `range` of the first axis, converted to `T`, in C order.
    pub fn read_rows<T: Element>(&self, name: &str, range: std::ops::Range<usize>) -> Result<Vec<T>> {
        let dataset = self.checked(name)?;
        let shape = dataset.shape();
        if shape.first().is_none_or(|&count| range.end > count) {
            let what = format!("rows {}..{} wanted, but the shape is {shape:?}", range.start, range.end);
            return Err(self.error(name, &what));
        }
        let values =
            dataset.read_slice::<T, _, IxDyn>(rows(&shape, range)).map_err(|error| self.error(name, &error))?;
        Ok(values.iter().copied().collect())
    }

    /// A dataset of strings.
    pub fn read_texts(&self, name: &str) -> Result<Vec<String>> {
        let texts = self.checked(name)?.read_raw::<VarLenUnicode>().map_err(|error| self.error(name, &error))?;
        Ok(texts.iter().map(text).collect())
    }

    /// An attribute of the file (`object` empty) or of a dataset, `None` when it is not there.
    pub fn attribute(&self, object: &str, name: &str) -> Result<Option<Attribute>> {
        let fail = |error: hdf5::Error| self.error(&format!("{object}@{name}"), &error);
        if object.is_empty() {
            read_attribute(&self.file, name).map_err(fail)
        } else {
            let dataset = self.dataset(object)?;
            read_attribute(&dataset, name).map_err(fail)
        }
    }

    /// The names of the file's attributes (`object` empty) or of a dataset's, sorted.
    pub fn attribute_names(&self, object: &str) -> Result<Vec<String>> {
        let names = if object.is_empty() { self.file.attr_names() } else { self.dataset(object)?.attr_names() };
        let mut names = names.map_err(|error| self.error(object, &error))?;
        names.sort();
        Ok(names)
    }

    /// A text attribute of the file that must be there.
    pub fn text_attribute(&self, name: &str) -> Result<String> {
        match self.attribute("", name)? {
            Some(Attribute::Text(text)) => Ok(text),
            _ => Err(Error::file(&self.path, format!("the file has no text attribute `{name}`"))),
        }
    }

    fn dataset(&self, name: &str) -> Result<hdf5::Dataset> {
        self.file.dataset(name).map_err(|_| {
            let names = self.names().unwrap_or_default();
            Error::file(&self.path, format!("there is no dataset `{name}`; the file holds: {}", names.join(", ")))
        })
    }

    /// A dataset of numbers or texts whose sizes can be true.
    fn checked(&self, name: &str) -> Result<hdf5::Dataset> {
        let dataset = self.dataset(name)?;
        let size = dataset.dtype().map_err(|error| self.error(name, &error))?.size();
        if size > LARGEST_ELEMENT {
            return Err(self.error(name, &format!("its elements take {size} bytes: no numbers, or a damaged file")));
        }
        let shape = dataset.shape();
        let bytes = shape.iter().fold(size as u64, |bytes, &length| bytes.saturating_mul(length as u64));
        if bytes > SMALL.max(self.file.size().saturating_mul(LARGEST_RATIO)) {
            return Err(
                self.error(name, &format!("its shape is {shape:?} in a file of {} bytes: damaged", self.file.size()))
            );
        }
        Ok(dataset)
    }

    fn error(&self, name: &str, error: &dyn std::fmt::Display) -> Error {
        Error::file(&self.path, format!("`{name}`: cannot read: {error}"))
    }
}

/// Other programs' strings may claim to be UTF-8 and not be.
fn text(value: &VarLenUnicode) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn read_attribute(place: &Location, name: &str) -> hdf5::Result<Option<Attribute>> {
    if !place.attr_names()?.iter().any(|known| known == name) {
        return Ok(None);
    }
    let attribute = place.attr(name)?;
    let container: &Container = &attribute;
    let scalar = container.is_scalar();
    Ok(Some(match attribute.dtype()?.to_descriptor()? {
        TypeDescriptor::VarLenUnicode | TypeDescriptor::VarLenAscii => {
            let values: Vec<String> = attribute.read_raw::<VarLenUnicode>()?.iter().map(text).collect();
            match (scalar, values.first()) {
                (true, Some(value)) => Attribute::Text(value.clone()),
                _ => Attribute::Texts(values),
            }
        }
        TypeDescriptor::Integer(_) | TypeDescriptor::Unsigned(_) if scalar => {
            Attribute::Integer(attribute.read_raw::<u64>()?.first().copied().unwrap_or_default())
        }
        TypeDescriptor::Integer(_) | TypeDescriptor::Unsigned(_) => Attribute::Integers(attribute.read_raw::<u64>()?),
        _ if scalar => Attribute::Number(attribute.read_raw::<f64>()?.first().copied().unwrap_or(f64::NAN)),
        _ => Attribute::Numbers(attribute.read_raw::<f64>()?),
    }))
}
