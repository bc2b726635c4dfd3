//! The trained numbers in one piece of memory. The network's tensors are views into it, so that the optimizer, the moving
//! average and the checkpoint each work on one long vector.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use crate::prior::card::Architecture;
use crate::prior::lean::{Init, LeanNetwork};
use crate::prior::skip::Skip;
use crate::prior::unet::Unet;
use crate::prior::unet_layout;
use crate::random::{Key, Purpose};
use crate::train::backward::Part;
use crate::{Error, Result};

/// Name, shape and place of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    pub shape: Vec<i64>,
    pub init: Init,
    pub offset: i64,
    pub length: i64,
}

/// A network that can be trained.
pub enum Network {
    Lean(LeanNetwork),
    Unet(Unet),
}

/// The parameters of a network for images `[C, n, n]`, in the network's own order.
#[derive(Clone, Debug)]
pub struct Layout {
    architecture: Architecture,
    shape: [i64; 3],
    pub entries: Vec<Entry>,
}

impl Layout {
    /// Asks the network what it needs.
    pub fn new(architecture: &Architecture, shape: [i64; 3]) -> Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut offset = 0;
        match architecture {
            Architecture::Lean(config) => {
                let mut record = |name: &str, shape: &[i64], init: Init| {
                    let length = shape.iter().product();
                    entries.push(Entry { name: name.into(), shape: shape.to_vec(), init, offset, length });
                    offset += length;
                    Ok(Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))?)
                };
                LeanNetwork::new(config, Skip::inputs(shape[0]), shape[0], shape[1], &mut record)?;
            }
            Architecture::Unet(config) => {
                for (name, shape) in unet_layout::Layout::new(config, shape[0])?.shapes() {
                    let init = unet_init(&name, &shape);
                    let length = shape.iter().product();
                    entries.push(Entry { name, shape, init, offset, length });
                    offset += length;
                }
            }
            other => return Err(Error::usage(format!("{other:?} has nothing to train"))),
        }
        Ok(Layout { architecture: architecture.clone(), shape, entries })
    }

    /// The number of parameters.
    pub fn length(&self) -> i64 {
        self.entries.last().map_or(0, |entry| entry.offset + entry.length)
    }

    /// Initial values, by key.
    pub fn initial(&self, seed: u64) -> Result<Tensor> {
        let mut values = vec![0.0f32; self.length() as usize];
        for entry in &self.entries {
            let part = &mut values[entry.offset as usize..][..entry.length as usize];
            match entry.init {
                Init::Zero => {}
                Init::One => part.fill(1.0),
                Init::Normal(sd) => {
                    Key::new(seed, &entry.name, 0, Purpose::Weights, 0).fill_normal(part);
                    part.iter_mut().for_each(|value| *value *= sd as f32);
                }
            }
        }
        Ok(Tensor::f_from_slice(&values)?)
    }

    /// One where weights decay (matrices and kernels), zero elsewhere (biases, norms).
    pub fn decay_mask(&self) -> Result<Tensor> {
        let mut values = vec![0.0f32; self.length() as usize];
        for entry in self.entries.iter().filter(|entry| entry.shape.len() > 1) {
            values[entry.offset as usize..][..entry.length as usize].fill(1.0);
        }
        Ok(Tensor::f_from_slice(&values)?)
    }

    /// The gradients of parts that have all parameters between them, in the layout's order, on `device`.
    pub fn join(&self, parts: &[Part], device: Device) -> Result<Tensor> {
        let mut slices: Vec<Option<Tensor>> = self.entries.iter().map(|_| None).collect();
        for part in parts {
            let gradient = part.gradient.f_to_device(device)?;
            let mut offset = 0;
            for &index in &part.parameters {
                let length = self.entries[index].length;
                slices[index] = Some(gradient.f_narrow(0, offset, length)?);
                offset += length;
            }
        }
        if let Some(missing) = slices.iter().position(Option::is_none) {
            return Err(Error::internal(format!("no gradient for parameter `{}`", self.entries[missing].name)));
        }
        Ok(Tensor::f_cat(&slices.into_iter().flatten().collect::<Vec<_>>(), 0)?)
    }

    /// The parameters as views into `flat`, by name.
    pub fn views(&self, flat: &Tensor) -> Result<Vec<(String, Tensor)>> {
        let view = |entry: &Entry| -> Result<(String, Tensor)> {
            let part = flat.f_narrow(0, entry.offset, entry.length)?.f_view(entry.shape.as_slice())?;
            Ok((entry.name.clone(), part))
        };
        self.entries.iter().map(view).collect()
    }

    /// A network on views into `flat`, and those views (the leaves of its gradient, if `trained`).
    pub fn network(&self, flat: &Tensor, trained: bool) -> Result<(Network, Vec<Tensor>)> {
        let mut leaves = Vec::with_capacity(self.entries.len());
        for (_, view) in self.views(flat)? {
            leaves.push(view.f_detach()?.f_requires_grad_(trained)?);
        }
        let network = match &self.architecture {
            Architecture::Unet(config) => {
                let names = self.entries.iter().map(|entry| entry.name.as_str());
                let known: HashMap<&str, &Tensor> = names.zip(&leaves).collect();
                let source = |name: &str, _: &[i64]| {
                    let leaf = known.get(name).ok_or_else(|| Error::internal(format!("no parameter `{name}`")))?;
                    Ok(leaf.shallow_clone())
                };
                Network::Unet(Unet::from_source(config, self.shape[0], &source, flat.device())?)
            }
            Architecture::Lean(config) => {
                let mut next = leaves.iter();
                let mut source = |_: &str, _: &[i64], _: Init| {
                    let leaf = next.next().ok_or_else(|| Error::internal("the network asks for more parameters"))?;
                    Ok(leaf.shallow_clone())
                };
                let inputs = Skip::inputs(self.shape[0]);
                Network::Lean(LeanNetwork::new(config, inputs, self.shape[0], self.shape[1], &mut source)?)
            }
            other => return Err(Error::usage(format!("{other:?} has nothing to train"))),
        };
        Ok((network, leaves))
    }
}

/// How the published code starts: the last layers of blocks and of the network at zero, all else with the variance of its
/// library's default, 1 / (3 inputs) (here normal numbers for weights, zeros for biases).
fn unet_init(name: &str, shape: &[i64]) -> Init {
    let zero = ["out_layers.3.weight", "proj_out.weight", "out.2.weight"].iter().any(|ending| name.ends_with(ending));
    match (zero || name.ends_with(".bias"), shape.len()) {
        (true, _) => Init::Zero,
        (false, 1) => Init::One,
        (false, _) => Init::Normal((1.0 / (3.0 * shape[1..].iter().product::<i64>() as f64)).sqrt()),
    }
}
