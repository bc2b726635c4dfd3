//! HDF5 files: thin helpers with typed errors. Nothing else in the program names the HDF5 library.
//!
//! Files are written so that any reader opens them and a killed writer never makes one that cannot be read: the oldest
//! object formats (never `libver=latest`), no file locking (parallel file systems often have none), shuffle + deflate
//! only. `close` is explicit, since dropping a handle swallows the error of the last write.

use std::path::{Path, PathBuf};

use hdf5::types::{FloatSize, IntSize, TypeDescriptor, VarLenUnicode};
use hdf5::{Container, File, Hyperslab, Location, SliceOrIndex};
use ndarray::{ArrayView1, ArrayViewD, IxDyn};

use crate::{Error, Result};

/// Deflate level. Above 4 the files hardly shrink and writing takes several times longer.
const DEFLATE_LEVEL: u8 = 4;

/// What a dataset's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    F64,
    U8,
    U32,
    /// Variable-length UTF-8.
    Text,
    /// Anything else that can be read as numbers (other integers, half floats, booleans), or not at all.
    Other,
}

impl Kind {
    /// The name that numpy uses.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => "float32",
            Kind::F64 => "float64",
            Kind::U8 => "uint8",
            Kind::U32 => "uint32",
            Kind::Text => "string",
            Kind::Other => "other",
        }
    }
}

/// A number that datasets can hold.
pub trait Element: hdf5::H5Type + Copy {
    const KIND: Kind;
    /// The fill of what has no value: NaN, or 0 for integers.
    const MISSING: Self;
    /// Appends the values' little-endian bytes, for digests.
    fn append_bytes(values: &[Self], out: &mut Vec<u8>);
}

macro_rules! element {
    ($($number:ty => $kind:ident, $missing:expr);*) => {$(
        impl Element for $number {
            const KIND: Kind = Kind::$kind;
            const MISSING: Self = $missing;
            fn append_bytes(values: &[Self], out: &mut Vec<u8>) {
                for value in values {
                    out.extend_from_slice(&value.to_le_bytes());
                }
            }
        }
    )*};
}

element!(f32 => F32, f32::NAN; f64 => F64, f64::NAN; u8 => U8, 0; u32 => U32, 0);

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    Text(String),
    Texts(Vec<String>),
    Number(f64),
    Numbers(Vec<f64>),
    Integer(u64),
    Integers(Vec<u64>),
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Attribute::Text(text.to_string())
    }
}

/// A file that is being written.
pub struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    /// Creates (or empties) a file.
    pub fn create(path: &Path) -> Result<Writer> {
        let created = File::with_options()
            .with_fapl(|access| access.libver_earliest().file_locking(false))
            .create(path)
            .map_err(|error| Error::file(path, format!("cannot create the HDF5 file: {error}")))?;
        Ok(Writer { file: created, path: path.to_path_buf() })
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
        self.file.close().map_err(|error| Error::file(&self.path, format!("cannot close: {error}")))
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

    /// An attribute of the dataset.
    pub fn attribute(&self, name: &str, value: &Attribute) -> Result<()> {
        write_attribute(&self.dataset, name, value).map_err(|error| self.error(&error))
    }

    fn error(&self, error: &dyn std::fmt::Display) -> Error {
        Error::file(&self.writer.path, format!("dataset `{}`: cannot write: {error}", self.name))
    }
}

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
        let dataset = self.dataset(name)?;
        let values = dataset.read_raw::<T>().map_err(|error| self.error(name, &error))?;
        Ok((dataset.shape(), values))
    }

    /// Rows `range` of the first axis, converted to `T`, in C order.
    pub fn read_rows<T: Element>(&self, name: &str, range: std::ops::Range<usize>) -> Result<Vec<T>> {
        let dataset = self.dataset(name)?;
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
        let texts = self.dataset(name)?.read_raw::<VarLenUnicode>().map_err(|error| self.error(name, &error))?;
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

    fn error(&self, name: &str, error: &dyn std::fmt::Display) -> Error {
        Error::file(&self.path, format!("`{name}`: cannot read: {error}"))
    }
}

/// The selection of whole rows.
fn rows(shape: &[usize], range: std::ops::Range<usize>) -> Hyperslab {
    let first = std::iter::once(range);
    let rest = shape.iter().skip(1).map(|&length| 0..length);
    Hyperslab::from(first.chain(rest).map(SliceOrIndex::from).collect::<Vec<_>>())
}

fn unicode(value: &str) -> Result<VarLenUnicode> {
    value.parse().map_err(|_| Error::internal(format!("HDF5 strings cannot hold a zero byte: {value:?}")))
}

/// Other programs' strings may claim to be UTF-8 and not be.
fn text(value: &VarLenUnicode) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.h5");
        let writer = Writer::create(&path).unwrap();
        writer.attribute("title", &"a file".into()).unwrap();
        writer.attribute("empty", &"".into()).unwrap();
        // More than the 64 KiB that an attribute's own storage holds: a long config must fit.
        let long = "x".repeat(200_000);
        writer.attribute("config", &Attribute::Text(long.clone())).unwrap();
        writer.attribute("bands", &Attribute::Texts(vec!["g".into(), "r".into()])).unwrap();
        let rows = writer.rows::<f32>("group/images", &[3, 20, 20]).unwrap();
        let image: Vec<f32> = (0..400).map(|v| v as f32).collect();
        rows.write(1, 1, &image).unwrap();
        rows.attribute("units", &"nJy".into()).unwrap();
        rows.attribute("masks", &Attribute::Integers(vec![1, 2, 4])).unwrap();
        drop(rows);
        writer.numbers::<f64>("ra", &[3], &[1.0, 2.0, 3.0]).unwrap();
        writer.numbers::<u8>("mask", &[2, 2], &[1, 0, 0, 255]).unwrap();
        writer.texts("id", &["a".into(), String::new(), "Ångström".into()]).unwrap();
        writer.close().unwrap();

        let reader = Reader::open(&path).unwrap();
        assert_eq!(reader.names().unwrap(), ["group/images", "id", "mask", "ra"]);
        assert_eq!(reader.text_attribute("config").unwrap(), long);
        assert_eq!(reader.attribute("", "empty").unwrap(), Some("".into()));
        let bands = reader.attribute("", "bands").unwrap();
        assert_eq!(bands, Some(Attribute::Texts(vec!["g".into(), "r".into()])));
        assert_eq!(reader.attribute("group/images", "units").unwrap(), Some("nJy".into()));
        assert_eq!(reader.attribute("group/images", "masks").unwrap(), Some(Attribute::Integers(vec![1, 2, 4])));
        assert_eq!(reader.attribute("group/images", "nothing").unwrap(), None);
        assert_eq!(reader.info("group/images").unwrap(), (vec![3, 20, 20], Kind::F32));
        assert_eq!(reader.read_rows::<f32>("group/images", 1..2).unwrap(), image);
        assert!(reader.read_rows::<f32>("group/images", 0..1).unwrap().iter().all(|v| v.is_nan()));
        assert_eq!(reader.read_texts("id").unwrap(), ["a", "", "Ångström"]);
        // Integers and other widths read as floats.
        assert_eq!(reader.read::<f32>("mask").unwrap(), (vec![2, 2], vec![1.0, 0.0, 0.0, 255.0]));
        assert_eq!(reader.read::<f32>("ra").unwrap().1, [1.0, 2.0, 3.0]);
    }

    #[test]
    fn errors_name_the_file_and_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.h5");
        assert!(Reader::open(&path).err().unwrap().to_string().contains("no such file"));
        std::fs::write(&path, b"not hdf5").unwrap();
        assert!(Reader::open(&path).err().unwrap().to_string().contains("not a readable HDF5 file"));
        let writer = Writer::create(&path).unwrap();
        writer.numbers::<f32>("here", &[1], &[0.0]).unwrap();
        writer.close().unwrap();
        let reader = Reader::open(&path).unwrap();
        let message = reader.read::<f32>("there").unwrap_err().to_string();
        assert!(message.contains("b.h5") && message.contains("`there`") && message.contains("here"), "{message}");
        assert!(reader.read_rows::<f32>("here", 0..2).is_err());
    }
}
