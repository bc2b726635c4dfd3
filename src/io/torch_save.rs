//! Weights as PyTorch saves them (`torch.save(model.state_dict(), path)`, PyTorch 1.6 and later): a zip archive with a
//! pickle, which says which tensors there are, and one file for each storage. Read without Python, nothing is executed.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::path::Path;

use tch::{Kind, Tensor};
use zip::ZipArchive;
use zip::result::ZipError;

use super::pickle::{StorageRef, TensorRef, read_state_dict};
use crate::{Error, Result};

/// A pickle of a state dict has about 200 bytes for each tensor.
const MAX_PICKLE_BYTES: u64 = 64 << 20;
/// All tensors together may have this many times the elements of all storages (views that overlap).
const MAX_OVERLAP: i64 = 4;

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// The tensors of a saved state dict, f32 on the CPU, in the file's order. `path` is for the messages.
pub fn read(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let fail = |what: String| Error::file(path, what);
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| {
        fail(format!("not a complete zip archive ({error}): truncated, or not a `torch.save`d file"))
    })?;
    let root = root_folder(&archive).map_err(fail)?;
    if let Some(order) = optional_entry(&mut archive, &format!("{root}byteorder")).map_err(fail)?
        && order != b"little"
    {
        return Err(fail("was saved on a big-endian machine, which is not supported: save it again on another".into()));
    }
    let pickle = entry(&mut archive, &format!("{root}data.pkl"), MAX_PICKLE_BYTES).map_err(fail)?;
    let entries = read_state_dict(&pickle).map_err(fail)?;

    let mut storages = Storages { archive, root, found: HashMap::new(), bytes_left: bytes.len() as u64, elements: 0 };
    let mut tensors = Vec::with_capacity(entries.len());
    let mut elements = 0i64;
    for (name, view) in entries {
        let storage = storages.get(&view.storage).map_err(|what| fail(format!("tensor `{name}`: {what}")))?;
        let count = check_view(&view, storage.size()[0]).map_err(|what| fail(format!("tensor `{name}`: {what}")))?;
        // A view of few elements can still be expanded or overlapping, so the sum is limited as well.
        elements = elements.saturating_add(count);
        if elements > storages.elements.saturating_mul(MAX_OVERLAP) {
            return Err(fail(format!("tensor `{name}`: the tensors have absurdly more elements than the file holds")));
        }
        let tensor = storage.f_as_strided(view.shape.as_slice(), view.strides.as_slice(), view.offset)?;
        tensors.push((name, tensor.f_contiguous()?));
    }
    Ok(tensors)
}

/// The folder inside the archive, with its slash: the one that holds `data.pkl`.
fn root_folder(archive: &Archive) -> std::result::Result<String, String> {
    let mut roots = archive.file_names().filter_map(|name| name.strip_suffix("data.pkl"));
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root.to_string()),
        (None, _) => Err("a zip archive without data.pkl: not a `torch.save`d file".into()),
        (Some(_), Some(_)) => Err("a zip archive with several data.pkl: not a `torch.save`d file".into()),
    }
}

/// A file of the archive. `torch.save` never compresses, so no file can be longer than the archive.
fn entry(archive: &mut Archive, name: &str, limit: u64) -> std::result::Result<Vec<u8>, String> {
    let mut file = archive.by_name(name).map_err(|error| format!("its part {name}: {error}"))?;
    if file.compression() != zip::CompressionMethod::Stored {
        return Err(format!("its part {name} is compressed, which `torch.save` never does: save it again"));
    }
    let size = file.size();
    if size > limit {
        return Err(format!("its part {name} has {size} bytes, more than the {limit} that it can have"));
    }
    let mut out = Vec::new();
    // The archive's checksum is verified at the end of the part.
    file.by_ref().take(size).read_to_end(&mut out).map_err(|error| format!("its part {name}: {error}"))?;
    let mut beyond = [0];
    let more = file.read(&mut beyond).map_err(|error| format!("its part {name}: {error}"))?;
    if out.len() as u64 != size || more != 0 {
        return Err(format!("its part {name} is truncated: {} of {size} bytes", out.len()));
    }
    Ok(out)
}

fn optional_entry(archive: &mut Archive, name: &str) -> std::result::Result<Option<Vec<u8>>, String> {
    if let Err(ZipError::FileNotFound) = archive.by_name(name) {
        return Ok(None);
    }
    entry(archive, name, 64).map(Some)
}

/// The storages that have been read, as flat f32 tensors: each is read once, however many tensors share it.
struct Storages<'a> {
    archive: Archive<'a>,
    root: String,
    found: HashMap<String, (StorageRef, Tensor)>,
    /// Parts of an archive may overlap; together they may not be longer than the archive.
    bytes_left: u64,
    elements: i64,
}

impl Storages<'_> {
    fn get(&mut self, wanted: &StorageRef) -> std::result::Result<Tensor, String> {
        if let Some((known, tensor)) = self.found.get(&wanted.key) {
            if known != wanted {
                return Err(format!("storage {} is described in two different ways", wanted.key.escape_default()));
            }
            return Ok(tensor.shallow_clone());
        }
        let name = format!("{}data/{}", self.root, wanted.key);
        let bytes = entry(&mut self.archive, &name, self.bytes_left)?;
        self.bytes_left -= bytes.len() as u64;
        let size = i128::from(wanted.elements) * wanted.kind.elt_size_in_bytes() as i128;
        if bytes.len() as i128 != size {
            return Err(format!("its storage {name} has {} bytes, expected {size}", bytes.len()));
        }
        let flat = Tensor::f_from_data_size(&bytes, &[wanted.elements], wanted.kind)
            .and_then(|tensor| tensor.f_to_dtype(Kind::Float, false, false))
            .map_err(|error| error.to_string())?;
        self.elements += wanted.elements;
        self.found.insert(wanted.key.clone(), (wanted.clone(), flat.shallow_clone()));
        Ok(flat)
    }
}

/// Whether the view stays inside a storage of `elements`, in exact arithmetic; returns its number of elements.
fn check_view(view: &TensorRef, elements: i64) -> std::result::Result<i64, String> {
    let TensorRef { offset, shape, strides, .. } = view;
    let describe = || format!("shape {shape:?}, strides {strides:?}, offset {offset}");
    if shape.len() != strides.len() || shape.len() > 8 {
        return Err(format!("{} cannot be a tensor", describe()));
    }
    if *offset < 0 || shape.iter().chain(strides).any(|&value| value < 0) {
        return Err(format!("{} has a negative number", describe()));
    }
    let (mut count, mut last) = (1i128, i128::from(*offset));
    for (&size, &stride) in shape.iter().zip(strides) {
        count = count.saturating_mul(size.into());
        last = last.saturating_add((i128::from(size) - 1).saturating_mul(stride.into()));
    }
    if count == 0 {
        return Ok(0);
    }
    if last >= elements.into() || count > elements.into() {
        return Err(format!("{} reaches beyond its storage of {elements} elements", describe()));
    }
    Ok(count as i64)
}
