//! Named tensors of a network: read from `torch.save`d state dicts or safetensors files, written as safetensors.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result, io};

/// The tensors of a weights file (f32, on the CPU), in the file's order, and its metadata.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    tensors: Vec<(String, Tensor)>,
    index: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

impl Weights {
    /// Reads a file; its format is told by its content.
    pub fn read(path: &Path) -> Result<Weights> {
        Weights::from_bytes(path, &io::bytes::read(path)?)
    }

    /// The same from a file's bytes; `path` is for the messages.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Weights> {
        // A safetensors file begins with the length of its header and then the header, which is JSON.
        let (tensors, metadata) = if bytes.starts_with(b"PK\x03\x04") {
            (io::torch_save::read(path, bytes)?, BTreeMap::new())
        } else if bytes.get(8) == Some(&b'{') {
            read_safetensors(path, bytes)?
        } else if bytes.first() == Some(&0x80) {
            return Err(Error::file(
                path,
                "a `torch.save`d file of before PyTorch 1.6, or a bare pickle: load and save it again with a newer PyTorch",
            ));
        } else {
            return Err(Error::file(path, "neither a `torch.save`d state dict nor a safetensors file (or truncated)"));
        };
        let mut index = HashMap::with_capacity(tensors.len());
        for (position, (name, _)) in tensors.iter().enumerate() {
            if index.insert(name.clone(), position).is_some() {
                return Err(Error::file(path, format!("holds tensor `{name}` twice")));
            }
        }
        Ok(Weights { path: path.to_path_buf(), tensors, index, metadata })
    }

    /// The tensor called `name`, which must have this shape. Shares memory with the file's copy.
    pub fn get(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let Some(tensor) = self.find(name) else {
            return Err(Error::file(&self.path, format!("has no tensor `{name}` (expected shape {shape:?})")));
        };
        let found = tensor.size();
        if found != shape {
            return Err(Error::file(&self.path, format!("tensor `{name}` has shape {found:?}, expected {shape:?}")));
        }
        Ok(tensor.shallow_clone())
    }

    /// The tensor called `name`, whatever its shape.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&position| &self.tensors[position].1)
    }

    /// Checks that the file holds the tensors in `shapes` and no others.
    pub fn check(&self, shapes: &[(String, Vec<i64>)]) -> Result<()> {
        for (name, shape) in shapes {
            drop(self.get(name, shape)?);
        }
        if self.tensors.len() != shapes.len() {
            let known: std::collections::HashSet<&str> = shapes.iter().map(|(name, _)| name.as_str()).collect();
            let extra: Vec<&str> = self.names().filter(|name| !known.contains(name)).collect();
            let first = extra.first().unwrap_or(&"?");
            return Err(Error::file(
                &self.path,
                format!(
                    "holds {} tensors that the network does not have, such as `{first}`: check the hyperparameters",
                    extra.len()
                ),
            ));
        }
        Ok(())
    }

    /// Names in the file's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// All tensors, in the file's order.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// The tensors whose names begin with `prefix`, without it.
    pub fn below(self, prefix: &str) -> Weights {
        let tensors: Vec<(String, Tensor)> = self
            .tensors
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_string(), tensor)))
            .collect();
        let index = tensors.iter().enumerate().map(|(position, (name, _))| (name.clone(), position)).collect();
        Weights { path: self.path, tensors, index, metadata: self.metadata }
    }

    /// Metadata of a safetensors file (a prior's card is in it); empty for a `.pt`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Where the weights came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Total number of elements.
    pub fn parameters(&self) -> i64 {
        self.tensors.iter().map(|(_, tensor)| tensor.numel() as i64).sum()
    }
}

type Parts = (Vec<(String, Tensor)>, BTreeMap<String, String>);

fn read_safetensors(path: &Path, bytes: &[u8]) -> Result<Parts> {
    let fail = |error: safetensors::SafeTensorError| {
        Error::file(path, format!("not a complete safetensors file ({error}): truncated or damaged"))
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(fail)?;
    let file = SafeTensors::deserialize(bytes).map_err(fail)?;
    let mut tensors = Vec::with_capacity(file.len());
    for name in header.offset_keys() {
        let view = file.tensor(&name).map_err(fail)?;
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
            Dtype::I64 => Kind::Int64,
            Dtype::I32 => Kind::Int,
            Dtype::I16 => Kind::Int16,
            Dtype::I8 => Kind::Int8,
            Dtype::U8 => Kind::Uint8,
            Dtype::BOOL => Kind::Bool,
            other => {
                let what = format!("tensor `{name}` has numbers of kind {other:?}: expected f32, f16, bf16 or f64");
                return Err(Error::file(path, what));
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)?.f_to_dtype(Kind::Float, false, false)?;
        tensors.push((name, tensor));
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok((tensors, metadata))
}

/// Writes tensors as a safetensors file: see [`safetensors_bytes`].
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: HashMap<String, String>,
    half: bool,
) -> Result<()> {
    io::publish::publish_bytes(path, &safetensors_bytes(tensors, metadata, half)?)
}

/// A safetensors file, f32 or (with `half`) f16. The bytes depend only on the arguments: tensors are written in the given
/// order and the metadata by key, so that equal weights have equal digests.
pub fn safetensors_bytes(
    tensors: &[(String, Tensor)],
    metadata: HashMap<String, String>,
    half: bool,
) -> Result<Vec<u8>> {
    let (dtype, kind, width) = if half { ("F16", Kind::Half, 2) } else { ("F32", Kind::Float, 4) };
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let sorted: BTreeMap<String, String> = metadata.into_iter().collect();
        header.insert("__metadata__".into(), serde_json::json!(sorted));
    }
    let mut offset = 0;
    for (name, tensor) in tensors {
        let end = offset + tensor.numel() * width;
        let entry = serde_json::json!({"dtype": dtype, "shape": tensor.size(), "data_offsets": [offset, end]});
        if name == "__metadata__" || header.insert(name.clone(), entry).is_some() {
            return Err(Error::internal(format!("safetensors: two tensors called `{name}`")));
        }
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    // The format wants the data to begin at a multiple of eight bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));

    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.reserve_exact(offset);
    for (_, tensor) in tensors {
        let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_dtype(kind, false, false)?.f_contiguous()?;
        let start = out.len();
        out.resize(start + tensor.numel() * width, 0);
        tensor.f_copy_data_u8(&mut out[start..], tensor.numel())?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
