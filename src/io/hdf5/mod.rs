//! HDF5 files: thin helpers with typed errors. Nothing else in the program names the HDF5 library.
//!
//! Files are written so that any reader opens them and a killed writer never makes one that cannot be read: the oldest
//! object formats (never `libver=latest`), no file locking (parallel file systems often have none), shuffle + deflate
//! only. `close` is explicit, since dropping a handle swallows the error of the last write.

use hdf5::{Hyperslab, SliceOrIndex};

mod read;
mod write;

pub use read::Reader;
pub use write::{Rows, Writer};

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

/// The selection of whole rows.
fn rows(shape: &[usize], range: std::ops::Range<usize>) -> Hyperslab {
    let first = std::iter::once(range);
    let rest = shape.iter().skip(1).map(|&length| 0..length);
    Hyperslab::from(first.chain(rest).map(SliceOrIndex::from).collect::<Vec<_>>())
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
        drop(reader);

        // What the library would believe: elements of 4 MiB, and 2^56 of them.
        let whole = std::fs::read(&path).unwrap();
        let place = |of: &[u8]| whole.windows(of.len()).position(|window| window == of).unwrap();
        let float = place(&[0x11, 0x20, 0x1f, 0, 4, 0, 0, 0]);
        let shape = place(&[1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        for (place, words) in [(float + 6, "its elements take"), (shape + 15, "its shape is")] {
            let mut damaged = whole.clone();
            damaged[place] = 64;
            std::fs::write(&path, &damaged).unwrap();
            let message = Reader::open(&path).unwrap().read::<f32>("here").unwrap_err().to_string();
            assert!(message.contains(words) && message.contains("b.h5"), "{message}");
        }
    }
}
