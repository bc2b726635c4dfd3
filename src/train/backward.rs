//! The backward pass in two parts: through the decoder, and then, from the gradient of what the encoder handed over, through
//! the encoder. Between them the decoder's gradient is complete, and can be on its way to the other ranks
//! (`train/reduce.rs`) while the second part is made.

use tch::Tensor;

use crate::{Error, Result};

/// The gradient of some of the parameters.
pub struct Part {
    /// Which they are, among all parameters of the network, rising.
    pub parameters: Vec<usize>,
    /// Their gradients, one after the other, `[P]`.
    pub gradient: Tensor,
}

/// A network's forward pass that is followed by a backward pass in two parts.
pub struct Backward {
    parameters: Vec<Tensor>,
    /// What the encoder gave, and the copies, cut off from it, which the decoder took.
    handed_over: Vec<(Tensor, Tensor)>,
}

impl Backward {
    /// For a network of these parameters, which require gradients.
    pub fn new(parameters: &[Tensor]) -> Self {
        Backward { parameters: parameters.iter().map(Tensor::shallow_clone).collect(), handed_over: Vec::new() }
    }

    /// To be called with each tensor that the encoder hands to the decoder; the decoder takes what this gives
    /// (`prior::HandOver`).
    pub fn hand_over(&mut self, given: &Tensor) -> Result<Tensor> {
        let taken = given.f_detach()?.f_requires_grad_(true)?;
        self.handed_over.push((given.shallow_clone(), taken.shallow_clone()));
        Ok(taken)
    }

    /// The gradient of `loss` for the decoder's parameters, and what the encoder's takes.
    pub fn decoder(self, loss: &Tensor) -> Result<(Part, Encoder)> {
        let asked: Vec<&Tensor> =
            self.parameters.iter().chain(self.handed_over.iter().map(|(_, taken)| taken)).collect();
        let mut gradients = Tensor::f_run_backward(&[loss], &asked, false, false)?;
        let at_boundary = gradients.split_off(self.parameters.len());
        let mut roots = Vec::with_capacity(at_boundary.len());
        for ((given, _), gradient) in self.handed_over.iter().zip(&at_boundary) {
            if gradient.defined() {
                // Its gradient with ones, which libtorch's interface starts from, is that of the loss, to the last bit.
                roots.push(given.f_mul(gradient)?);
            }
        }
        // A parameter that the loss does not reach before the boundary is one of the encoder's.
        let (decoder, encoder): (Vec<usize>, Vec<usize>) =
            (0..self.parameters.len()).partition(|&index| gradients[index].defined());
        let rest = encoder.iter().map(|&index| self.parameters[index].shallow_clone()).collect();
        let found: Vec<&Tensor> = decoder.iter().map(|&index| &gradients[index]).collect();
        let gradient = flat(&found)?;
        Ok((Part { parameters: decoder, gradient }, Encoder { roots, indices: encoder, parameters: rest }))
    }
}

/// The second part of a backward pass. It owns what it needs, so that it can be made on another thread.
pub struct Encoder {
    roots: Vec<Tensor>,
    indices: Vec<usize>,
    parameters: Vec<Tensor>,
}

impl Encoder {
    /// The gradient of the loss for the encoder's parameters.
    pub fn gradient(self) -> Result<Part> {
        let gradients = Tensor::f_run_backward(&self.roots, &self.parameters, false, false)?;
        if let Some(place) = gradients.iter().position(|gradient| !gradient.defined()) {
            return Err(Error::internal(format!("the loss does not depend on parameter {}", self.indices[place])));
        }
        Ok(Part { gradient: flat(&gradients.iter().collect::<Vec<_>>())?, parameters: self.indices })
    }
}

fn flat(gradients: &[&Tensor]) -> Result<Tensor> {
    let flat = gradients.iter().map(|gradient| gradient.f_reshape([-1])).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Tensor::f_cat(&flat, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::card::Architecture;
    use crate::random::{Key, Purpose};
    use crate::train::parameters::{Layout, Network};
    use tch::{Device, Kind};

    /// f32 sums in another order.
    const F32_TOLERANCE: f64 = 1e-5;

    /// The gradient of a loss in two parts, in the order of all parameters, is that in one; and most of it is in the first part
    /// where most of the work is done.
    #[test]
    fn the_two_parts_are_the_whole_gradient() {
        let lean = r#"kind = "lean"
            channels = [16, 32]
            unshuffle = 2
            blocks = 1
            heads = 2"#;
        let without_attention = lean.replace("heads = 2", "heads = 0");
        let unet = r#"kind = "unet"
            image_size = 32
            num_channels = 32
            num_res_blocks = 1
            num_heads = 2
            attention_resolutions = "8""#;
        for text in [lean, &without_attention, unet] {
            let architecture: Architecture = toml::from_str(text).unwrap();
            let layout = Layout::new(&architecture, [3, 32, 32]).unwrap();
            let normal = |name, count: i64| {
                Tensor::from_slice(&Key::new(1, name, 0, Purpose::Weights, 0).normal(count as usize))
            };
            // Also where a fresh network has zeros, behind which all gradients would vanish.
            let weights = layout.initial(1).unwrap() + normal("extra", layout.length()) * 0.03;
            let (network, parameters) = layout.network(&weights, true).unwrap();
            let levels = Tensor::from_slice(&[0.3f32, -1.0]);
            let forward = |hand_over: &mut dyn FnMut(&Tensor) -> Result<Tensor>| {
                let output = match &network {
                    Network::Lean(network) => {
                        let channels = crate::prior::skip::Skip::inputs(3);
                        let x = normal("x", 2 * channels * 1024).view([2, channels, 32, 32]);
                        network.forward_handing_over(&x, &levels, hand_over)
                    }
                    Network::Unet(network) => {
                        let x = normal("x", 2 * 3 * 1024).view([2, 3, 32, 32]);
                        network.forward_handing_over(&x, &(&levels + 2.0), hand_over)
                    }
                };
                output.unwrap().square().mean(Kind::Float)
            };
            let whole =
                Tensor::run_backward(&[forward(&mut |given| Ok(given.shallow_clone()))], &parameters, false, false);
            let mut backward = Backward::new(&parameters);
            let loss = forward(&mut |given| backward.hand_over(given));
            let (decoder, rest) = backward.decoder(&loss).unwrap();
            let encoder = std::thread::spawn(move || rest.gradient().unwrap()).join().unwrap();
            let parts = [decoder.gradient.numel(), encoder.gradient.numel()];
            assert_eq!((parts[0] + parts[1]) as i64, layout.length());
            assert!(parts[0] > parts[1] / 2, "{parts:?}: the decoder is a large part");
            for (part, expected) in [(&decoder, true), (&encoder, false)] {
                for &index in &part.parameters {
                    let name = &layout.entries[index].name;
                    let of_decoder =
                        ["output_blocks.", "out.", "norm.", "head."].iter().any(|start| name.starts_with(start))
                            || [".decoder", ".up.", ".join."].iter().any(|middle| name.contains(middle));
                    assert_eq!(of_decoder, expected, "{name}");
                }
            }
            let together = layout.join(&[decoder, encoder], Device::Cpu).unwrap();
            let expected = Tensor::cat(&whole.iter().map(|gradient| gradient.reshape([-1])).collect::<Vec<_>>(), 0);
            let scale = expected.abs().max().double_value(&[]);
            let error = (together - expected).abs().max().double_value(&[]);
            assert!(error < F32_TOLERANCE * scale, "{text}: {error} of {scale}");
        }
    }
}
