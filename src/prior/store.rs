//! Named tensors and one JSON text, as the bytes of a safetensors file: what a prior and a checkpoint are made of.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// The content of a file.
#[derive(Debug)]
pub struct Store {
    /// The text under the metadata key that the file was opened with.
    pub text: String,
    tensors: BTreeMap<String, Tensor>,
}

/// The bytes of a file with `text` under the metadata key `key`. Kinds f32, f64, f16 and i64 are kept.
pub fn to_bytes(key: &str, text: &str, tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut parts = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let kind = tensor.kind();
        let dtype = match kind {
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            Kind::Half => Dtype::F16,
            Kind::Int64 => Dtype::I64,
            other => return Err(Error::internal(format!("tensor `{name}`: {other:?} cannot be stored"))),
        };
        let shape: Vec<usize> = tensor.size().iter().map(|&side| side as usize).collect();
        let mut bytes = vec![0u8; tensor.numel() * kind.elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        parts.push((name.clone(), shape, dtype, bytes));
    }
    let mut views = Vec::with_capacity(parts.len());
    for (name, shape, dtype, bytes) in &parts {
        let view = TensorView::new(*dtype, shape.clone(), bytes)
            .map_err(|error| Error::internal(format!("tensor `{name}`: {error}")))?;
        views.push((name.as_str(), view));
    }
    let metadata = HashMap::from([(key.to_owned(), text.to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(|error| Error::internal(format!("safetensors: {error}")))
}

impl Store {
    /// Reads a file's bytes; the text under `key` must be there. The errors do not name the file: the caller knows it.
    pub fn from_bytes(bytes: &[u8], key: &str) -> Result<Self> {
        let broken = |what: String| Error::usage(format!("not a usable safetensors file: {what}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| broken(error.to_string()))?;
        let text = header.metadata().as_ref().and_then(|metadata| metadata.get(key)).cloned();
        let text = text.ok_or_else(|| broken(format!("its metadata has no key `{key}`")))?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| broken(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::F64 => Kind::Double,
                Dtype::F16 => Kind::Half,
                Dtype::I64 => Kind::Int64,
                other => return Err(broken(format!("tensor `{name}` is of type {other:?}"))),
            };
            let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
            tensors.insert(name, Tensor::f_from_data_size(view.data(), &shape, kind)?);
        }
        Ok(Store { text, tensors })
    }

    /// The tensor `name` if it is there.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor `name`, in f32, which must have this shape and finite values.
    pub fn get(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let tensor = self.any(name)?;
        if tensor.size() != shape {
            let found = tensor.size();
            return Err(Error::usage(format!("tensor `{name}` has shape {found:?}, expected {shape:?}")));
        }
        Ok(tensor)
    }

    /// The tensor `name`, in f32, of any shape.
    pub fn any(&self, name: &str) -> Result<Tensor> {
        let found = self.find(name).ok_or_else(|| Error::usage(format!("there is no tensor `{name}`")))?;
        let tensor = found.f_to_kind(Kind::Float)?;
        if tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(Error::usage(format!("tensor `{name}` holds values that are not finite")));
        }
        Ok(tensor)
    }

    /// All tensors, in the order of their names, as they are in the file.
    pub fn into_tensors(self) -> BTreeMap<String, Tensor> {
        self.tensors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_wrong_shapes_are_named() {
        let values = Tensor::from_slice(&[1.5f32, -2.0, 0.25, 8.0]).view([2, 2]);
        let parts = vec![("a".to_owned(), values.to_kind(Kind::Half)), ("b".to_owned(), values.to_kind(Kind::Double))];
        let bytes = to_bytes("card", "text", &parts).unwrap();
        let store = Store::from_bytes(&bytes, "card").unwrap();
        assert_eq!(store.text, "text");
        // These numbers are exact in half precision.
        assert_eq!(store.get("a", &[2, 2]).unwrap(), values);
        assert_eq!(store.find("b").unwrap().kind(), Kind::Double);
        let message = store.get("a", &[4]).unwrap_err().to_string();
        assert!(message.contains("`a`") && message.contains("[2, 2]") && message.contains("[4]"), "{message}");
        assert!(store.get("c", &[4]).unwrap_err().to_string().contains("`c`"));
        assert!(Store::from_bytes(&bytes, "other").unwrap_err().to_string().contains("`other`"));
        assert!(Store::from_bytes(&bytes[..bytes.len() - 3], "card").is_err());
        let bad = to_bytes("card", "", &[("n".into(), values * f64::NAN)]).unwrap();
        assert!(Store::from_bytes(&bad, "card").unwrap().any("n").unwrap_err().to_string().contains("finite"));
    }
}
