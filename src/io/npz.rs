//! Reads NumPy archives (`.npz`: a zip of `.npy` arrays; format: NEP 1). Numbers, booleans and text; nothing is executed.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use crate::{Error, Result};

/// The largest array that is read, bytes: a damaged header must not ask for all memory.
const LARGEST: u64 = 16 << 30;

/// An open archive.
pub struct Npz {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
}

/// An array of the archive, in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Values,
}

/// The values of an array, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    Float(Vec<f32>),
    Double(Vec<f64>),
    Integer(Vec<i64>),
    Bool(Vec<bool>),
    Text(Vec<String>),
}

impl Npz {
    /// Opens an archive.
    pub fn open(path: &Path) -> Result<Npz> {
        let file = File::open(path).map_err(|error| Error::file(path, format!("cannot open: {error}")))?;
        let archive = ZipArchive::new(BufReader::new(file))
            .map_err(|error| Error::file(path, format!("expected a NumPy .npz archive (a zip file): {error}")))?;
        Ok(Npz { path: path.to_path_buf(), archive })
    }

    /// The names of its arrays.
    pub fn keys(&self) -> Vec<String> {
        self.archive.file_names().map(|name| name.trim_end_matches(".npy").to_string()).collect()
    }

    /// Reads the array `key`.
    pub fn array(&mut self, key: &str) -> Result<Array> {
        let (path, keys) = (self.path.clone(), self.keys());
        let fail = |what: String| Error::file(&path, format!("array `{key}`: {what}"));
        let mut entry = match self.archive.by_name(&format!("{key}.npy")) {
            Ok(entry) => entry,
            Err(_) => return Err(fail(format!("not there; the archive has {}", keys.join(", ")))),
        };
        if entry.size() > LARGEST {
            return Err(fail(format!("{} bytes are more than can be read", entry.size())));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|error| fail(format!("damaged: {error}")))?;
        parse(&bytes).map_err(fail)
    }
}

impl Array {
    /// The values as f32; an error (which names `key` and `path`) if they are text.
    pub fn to_f32(&self, path: &Path, key: &str) -> Result<Vec<f32>> {
        match &self.values {
            Values::Float(values) => Ok(values.clone()),
            _ => Ok(self.to_f64(path, key)?.into_iter().map(|value| value as f32).collect()),
        }
    }

    /// The values as f64; an error (which names `key` and `path`) if they are text.
    pub fn to_f64(&self, path: &Path, key: &str) -> Result<Vec<f64>> {
        Ok(match &self.values {
            Values::Float(values) => values.iter().map(|&value| f64::from(value)).collect(),
            Values::Double(values) => values.clone(),
            Values::Integer(values) => values.iter().map(|&value| value as f64).collect(),
            Values::Bool(values) => values.iter().map(|&value| f64::from(u8::from(value))).collect(),
            Values::Text(_) => return Err(Error::file(path, format!("array `{key}`: expected numbers, found text"))),
        })
    }

    /// The values as text, one string each.
    pub fn to_text(&self) -> Vec<String> {
        match &self.values {
            Values::Float(values) => values.iter().map(f32::to_string).collect(),
            Values::Double(values) => values.iter().map(f64::to_string).collect(),
            Values::Integer(values) => values.iter().map(i64::to_string).collect(),
            Values::Bool(values) => values.iter().map(bool::to_string).collect(),
            Values::Text(values) => values.clone(),
        }
    }
}

/// Parses one `.npy` file.
fn parse(bytes: &[u8]) -> std::result::Result<Array, String> {
    let magic = bytes.get(..8).ok_or("shorter than a .npy header")?;
    if &magic[..6] != b"\x93NUMPY" {
        return Err("is no .npy array (wrong magic)".into());
    }
    let (length, start) = match magic[6] {
        1 => (bytes.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))), 10),
        2 | 3 => (bytes.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize), 12),
        version => return Err(format!(".npy version {version} is not known (1, 2 and 3 are)")),
    };
    let length = length.ok_or("shorter than its header")?;
    let header = bytes.get(start..start + length).ok_or("shorter than its header")?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text")?;
    let data = &bytes[start + length..];
    if field(header, "fortran_order")?.starts_with("True") {
        return Err("Fortran order is not supported: save it with np.ascontiguousarray".into());
    }
    let shape = shape(field(header, "shape")?)?;
    let count = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side)).ok_or("shape overflows")?;
    let kind = field(header, "descr")?;
    let kind = kind.strip_prefix('\'').and_then(|rest| rest.split('\'').next()).ok_or("its type is not a plain one")?;
    Ok(Array { shape, values: values(kind, data, count)? })
}

/// The text of a header's dict that follows `'name':`.
fn field<'a>(header: &'a str, name: &str) -> std::result::Result<&'a str, String> {
    let quoted = format!("'{name}':");
    let at = header.find(&quoted).ok_or_else(|| format!("its header has no {name}"))?;
    Ok(header[at + quoted.len()..].trim_start())
}

fn shape(text: &str) -> std::result::Result<Vec<usize>, String> {
    let inside = text.strip_prefix('(').and_then(|rest| rest.split(')').next()).ok_or("its shape is not a tuple")?;
    let sides = inside.split(',').map(str::trim).filter(|side| !side.is_empty());
    sides.map(|side| side.parse().map_err(|_| format!("bad side `{side}` in its shape"))).collect()
}

fn values(kind: &str, data: &[u8], count: usize) -> std::result::Result<Values, String> {
    let size = match kind {
        "|b1" | "|i1" | "|u1" => 1,
        "<i2" | "<u2" | "<f2" => 2,
        "<i4" | "<u4" | "<f4" => 4,
        "<i8" | "<u8" | "<f8" => 8,
        _ if kind.starts_with("<U") => 4 * kind[2..].parse::<usize>().map_err(|_| format!("bad type {kind}"))?,
        _ => {
            return Err(format!("type {kind} is not supported (little-endian numbers, booleans and <U text are)"));
        }
    };
    if count.checked_mul(size) != Some(data.len()) {
        return Err(format!(
            "holds {} bytes where {count} values of {size} bytes are expected: truncated?",
            data.len()
        ));
    }
    macro_rules! numbers {
        ($type:ty) => {
            data.chunks_exact(size).map(|b| <$type>::from_le_bytes(std::array::from_fn(|k| b[k])))
        };
    }
    Ok(match kind {
        "<f4" => Values::Float(numbers!(f32).collect()),
        "<f2" => Values::Float(numbers!(half::f16).map(f32::from).collect()),
        "<f8" => Values::Double(numbers!(f64).collect()),
        "<i8" => Values::Integer(numbers!(i64).collect()),
        "<i4" => Values::Integer(numbers!(i32).map(i64::from).collect()),
        "<i2" => Values::Integer(numbers!(i16).map(i64::from).collect()),
        "|i1" => Values::Integer(numbers!(i8).map(i64::from).collect()),
        "<u8" => Values::Integer(numbers!(u64).map(|value| value as i64).collect()),
        "<u4" => Values::Integer(numbers!(u32).map(i64::from).collect()),
        "<u2" => Values::Integer(numbers!(u16).map(i64::from).collect()),
        "|u1" => Values::Integer(data.iter().map(|&value| i64::from(value)).collect()),
        "|b1" => Values::Bool(data.iter().map(|&value| value != 0).collect()),
        _ if size == 0 => Values::Text(vec![String::new(); count]),
        _ => Values::Text(
            data.chunks_exact(size)
                .map(|text| {
                    let codes = text.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                    codes.take_while(|&code| code != 0).filter_map(char::from_u32).collect()
                })
                .collect(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A .npy file as NumPy writes it: header padded to 64 bytes.
    fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn arrays_of_every_kind_are_read() {
        let floats: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(parse(&npy("<f4", "(2,)", &floats)).unwrap().values, Values::Float(vec![1.5, -2.0]));
        let doubles: Vec<u8> = [0.25f64].iter().flat_map(|v| v.to_le_bytes()).collect();
        let scalar = parse(&npy("<f8", "()", &doubles)).unwrap();
        assert_eq!((scalar.shape, scalar.values), (vec![], Values::Double(vec![0.25])));
        let text: Vec<u8> = "ab\0é\0\0".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        let text = parse(&npy("<U3", "(2, 1)", &text)).unwrap();
        assert_eq!((text.shape, text.values), (vec![2, 1], Values::Text(vec!["ab".into(), "é".into()])));
        assert_eq!(parse(&npy("|b1", "(2,)", &[1, 0])).unwrap().values, Values::Bool(vec![true, false]));
    }

    #[test]
    fn bad_arrays_are_refused_with_the_reason() {
        for (bytes, reason) in [
            (npy("<f4", "(3,)", &[0; 8]), "truncated"),
            (npy("|O", "(1,)", &[0; 8]), "not supported"),
            (npy(">f4", "(2,)", &[0; 8]), "not supported"),
            (b"hello world".to_vec(), "magic"),
            (b"\x93NUM".to_vec(), "shorter"),
        ] {
            let error = parse(&bytes).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_archive_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        std::fs::write(&path, b"not a zip").unwrap();
        let error = Npz::open(&path).err().unwrap().to_string();
        assert!(error.contains("x.npz") && error.contains("npz archive"), "{error}");
    }
}
