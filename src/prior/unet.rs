//! The improved-diffusion U-Net (Nichol & Dhariwal 2021, "Improved denoising diffusion probabilistic models",
//! arXiv:2102.09672): an encoder and a decoder of residual blocks joined by skip connections, each block modulated by an
//! embedding of the time step, with self-attention at the coarse levels. It predicts the noise: epsilon(x_t, t). Its
//! successor (Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233, guided-diffusion)
//! may change the resolution in residual blocks, count heads by their channels, and split query, key and value before heads.

use tch::{Device, Kind, Tensor};

use super::card::UnetConfig;
use super::unet_layout::{GROUPS, Layer, Layout, Placed, Resample};
use super::vp::EpsilonNetwork;
use super::weights::Weights;
use super::{HandOver, as_it_is};
use crate::{Error, Result};

/// Added to the variance in the group normalisation.
const NORM_EPSILON: f64 = 1e-5;
/// The slowest wave of the time embedding.
const MAX_PERIOD: f64 = 10_000.0;

/// The network with its weights on a device.
pub struct Unet {
    layout: Layout,
    time: [Affine; 2],
    encoder: Vec<Vec<Block>>,
    middle: Vec<Block>,
    decoder: Vec<Vec<Block>>,
    out_norm: Affine,
    out: Affine,
    /// Frequencies of the time embedding, `[1, base / 2]`.
    frequencies: Tensor,
}

/// A weight and its bias.
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

enum Block {
    Convolution(Affine),
    Residual(Residual),
    Attention(Attention),
    Down(Affine),
    Up(Affine),
}

struct Residual {
    in_norm: Affine,
    in_conv: Affine,
    modulation: Affine,
    scale_shift: bool,
    out_norm: Affine,
    out_conv: Affine,
    skip: Option<Affine>,
    resample: Resample,
}

struct Attention {
    norm: Affine,
    qkv: Affine,
    project: Affine,
    heads: i64,
    /// Whether query, key and value are split before the heads are.
    split_first: bool,
}

impl Unet {
    /// Builds the network from a state dict, for images of `channels` bands. Every name and shape must fit.
    pub fn load(config: &UnetConfig, channels: i64, weights: &Weights, device: Device) -> Result<Unet> {
        weights.check(&Layout::new(config, channels)?.shapes())?;
        Unet::from_source(config, channels, &|name, shape| weights.get(name, shape), device)
    }

    /// The same, asking `source` for each tensor by its name in the state dict and its shape.
    pub fn from_source(config: &UnetConfig, channels: i64, source: &Source, device: Device) -> Result<Unet> {
        let layout = Layout::new(config, channels)?;
        let loader = Loader { source, device };
        let block = |placed: &Placed| loader.block(placed, &layout, config.use_new_attention_order);
        let blocks = |list: &[Placed]| list.iter().map(block).collect::<Result<Vec<_>>>();
        let nested = |list: &[Vec<Placed>]| list.iter().map(|inner| blocks(inner)).collect::<Result<Vec<_>>>();

        let half = layout.base / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|i| (-MAX_PERIOD.ln() * i as f64 / half as f64).exp() as f32).collect();
        Ok(Unet {
            time: [
                loader.affine("time_embed.0", &[layout.embedding(), layout.base])?,
                loader.affine("time_embed.2", &[layout.embedding(), layout.embedding()])?,
            ],
            encoder: nested(&layout.encoder)?,
            middle: blocks(&layout.middle)?,
            decoder: nested(&layout.decoder)?,
            out_norm: loader.affine("out.0", &[layout.first])?,
            out: loader.affine("out.2", &[layout.outputs, layout.first, 3, 3])?,
            frequencies: Tensor::f_from_slice(&frequencies)?.f_view([1, half])?.f_to_device(device)?,
            layout,
        })
    }

    /// The network's whole output, `[B, C, n, n]` (with `learn_sigma`, `[B, 2 C, n, n]`), for `x` of shape
    /// `[B, C, n, n]` and times `t` of shape `[B]`, on the scale of 0 to 1000.
    pub fn forward(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        self.forward_handing_over(x, t, &mut as_it_is)
    }

    /// The same, with what the encoder hands over passing through `hand_over`.
    pub fn forward_handing_over(&self, x: &Tensor, t: &Tensor, hand_over: &mut HandOver) -> Result<Tensor> {
        let Layout { channels, size, .. } = self.layout;
        let found = x.size();
        if found.len() != 4 || found[1..] != [channels, size, size] || t.size() != [found[0]] {
            return Err(Error::internal(format!(
                "U-Net: x has shape {found:?} and t {:?}, expected [B, {channels}, {size}, {size}] and [B]",
                t.size()
            )));
        }
        let embedding = self.embedding(t)?;
        let (h, mut skips) = self.encode(x, &embedding)?;
        let (mut h, embedding) = (hand_over(&h)?, hand_over(&embedding)?);
        for blocks in &self.decoder {
            let skip = skips.pop().ok_or_else(|| Error::internal("U-Net: unbalanced skip connections"))?;
            h = run(blocks, Tensor::f_cat(&[h, hand_over(&skip)?], 1)?, &embedding)?;
        }
        self.out.convolve(&self.out_norm.normalize(&h)?.f_silu()?, 1)
    }

    fn embedding(&self, t: &Tensor) -> Result<Tensor> {
        let angles = t.f_to_kind(Kind::Float)?.f_view([-1, 1])?.f_mul(&self.frequencies)?;
        let waves = Tensor::f_cat(&[angles.f_cos()?, angles.f_sin()?], 1)?;
        let embedding = self.time[1].linear(&self.time[0].linear(&waves)?.f_silu()?)?;
        // Every residual block takes the activation of the embedding, which is therefore done once.
        Ok(embedding.f_silu()?)
    }

    /// What the middle blocks give, and the encoder's outputs that the decoder takes back.
    fn encode(&self, x: &Tensor, embedding: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
        let mut h = x.shallow_clone();
        let mut skips = Vec::with_capacity(self.encoder.len());
        for blocks in &self.encoder {
            h = run(blocks, h, embedding)?;
            skips.push(h.shallow_clone());
        }
        Ok((run(&self.middle, h, embedding)?, skips))
    }
}

impl EpsilonNetwork for Unet {
    fn shape(&self) -> [i64; 3] {
        [self.layout.channels, self.layout.size, self.layout.size]
    }

    fn epsilon(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        // A learned variance, if there is one, follows the noise.
        Ok(self.forward(x, t)?.f_narrow(1, 0, self.layout.channels)?)
    }

    fn features(&self, x: &Tensor, t: &Tensor) -> Result<Option<Tensor>> {
        let (h, _) = self.encode(x, &self.embedding(t)?)?;
        Ok(Some(h.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?))
    }

    fn flops(&self) -> f64 {
        self.layout.flops()
    }
}

fn run(blocks: &[Block], mut h: Tensor, embedding: &Tensor) -> Result<Tensor> {
    for block in blocks {
        h = match block {
            Block::Convolution(convolution) => convolution.convolve(&h, 1)?,
            Block::Residual(residual) => residual.forward(&h, embedding)?,
            Block::Attention(attention) => attention.forward(&h)?,
            Block::Down(convolution) => convolution.convolve(&h, 2)?,
            Block::Up(convolution) => convolution.convolve(&resampled(&h, Resample::Double)?, 1)?,
        };
    }
    Ok(h)
}

/// Images at another resolution.
fn resampled(x: &Tensor, how: Resample) -> Result<Tensor> {
    let (_, _, height, width) = x.size4()?;
    Ok(match how {
        Resample::Keep => x.shallow_clone(),
        Resample::Half => x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?,
        Resample::Double => x.f_upsample_nearest2d([2 * height, 2 * width], None, None)?,
    })
}

impl Affine {
    fn linear(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }

    /// Two-dimensional convolution that keeps the size (divided by `stride`).
    fn convolve(&self, x: &Tensor, stride: i64) -> Result<Tensor> {
        let padding = self.weight.size()[2] / 2;
        Ok(x.f_conv2d(&self.weight, Some(&self.bias), stride, padding, 1, 1)?)
    }

    /// Group normalisation, always in f32.
    fn normalize(&self, x: &Tensor) -> Result<Tensor> {
        let kind = x.kind();
        let wide = x.f_to_kind(Kind::Float)?;
        let out = wide.f_group_norm(GROUPS, Some(&self.weight), Some(&self.bias), NORM_EPSILON, true)?;
        Ok(out.f_to_kind(kind)?)
    }
}

impl Residual {
    fn forward(&self, x: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        let h = resampled(&self.in_norm.normalize(x)?.f_silu()?, self.resample)?;
        let x = &resampled(x, self.resample)?;
        let h = self.in_conv.convolve(&h, 1)?;
        let modulation = self.modulation.linear(embedding)?.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
        let h = if self.scale_shift {
            let parts = modulation.f_chunk(2, 1)?;
            self.out_norm.normalize(&h)?.f_mul(&parts[0].f_add_scalar(1.0)?)?.f_add(&parts[1])?
        } else {
            self.out_norm.normalize(&h.f_add(&modulation)?)?
        };
        let h = self.out_conv.convolve(&h.f_silu()?, 1)?;
        Ok(match &self.skip {
            Some(skip) => skip.convolve(x, 1)?.f_add(&h)?,
            None => x.f_add(&h)?,
        })
    }
}

impl Attention {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = x.size4()?;
        let (pixels, depth) = (height * width, channels / self.heads);
        let flat = x.f_view([batch, channels, pixels])?;
        let qkv = self.norm.normalize(&flat)?.f_conv1d(&self.qkv.weight, Some(&self.qkv.bias), 1, 0, 1, 1)?;
        // The order of its channels: head, then query, key and value, then depth; or the first two the other way round.
        let part = |index: i64| -> Result<Tensor> {
            let part = match self.split_first {
                true => qkv.f_narrow(1, index * channels, channels)?,
                false => qkv.f_view([batch * self.heads, 3 * depth, pixels])?.f_narrow(1, index * depth, depth)?,
            };
            Ok(part.f_reshape([batch * self.heads, depth, pixels])?)
        };
        // Query and key are both scaled by the fourth root, as published, which is safer in f16.
        let scale = (depth as f64).powf(-0.25);
        let (query, key) = (part(0)?.f_mul_scalar(scale)?, part(1)?.f_mul_scalar(scale)?);
        let logits = query.f_transpose(1, 2)?.f_bmm(&key)?;
        let attention = logits.f_softmax(-1, Kind::Float)?.f_to_kind(x.kind())?;
        let h = part(2)?.f_bmm(&attention.f_transpose(1, 2)?)?.f_view([batch, channels, pixels])?;
        let h = h.f_conv1d(&self.project.weight, Some(&self.project.bias), 1, 0, 1, 1)?;
        Ok(flat.f_add(&h)?.f_view([batch, channels, height, width])?)
    }
}

/// Gives the tensor of this name and shape.
pub type Source<'a> = dyn Fn(&str, &[i64]) -> Result<Tensor> + 'a;

struct Loader<'a> {
    source: &'a Source<'a>,
    device: Device,
}

impl Loader<'_> {
    fn affine(&self, name: &str, shape: &[i64]) -> Result<Affine> {
        let get = |suffix: &str, shape: &[i64]| -> Result<Tensor> {
            Ok((self.source)(&format!("{name}.{suffix}"), shape)?.f_to_device(self.device)?)
        };
        Ok(Affine { weight: get("weight", shape)?, bias: get("bias", &shape[..1])? })
    }

    fn block(&self, placed: &Placed, layout: &Layout, split_first: bool) -> Result<Block> {
        let name = &placed.name;
        let affine = |suffix: &str, shape: &[i64]| self.affine(&format!("{name}.{suffix}"), shape);
        Ok(match placed.layer {
            Layer::Convolution { inputs, outputs } => Block::Convolution(self.affine(name, &[outputs, inputs, 3, 3])?),
            Layer::Down { channels } => Block::Down(affine("op", &[channels, channels, 3, 3])?),
            Layer::Up { channels } => Block::Up(affine("conv", &[channels, channels, 3, 3])?),
            Layer::Attention { channels, heads } => Block::Attention(Attention {
                norm: affine("norm", &[channels])?,
                qkv: affine("qkv", &[3 * channels, channels, 1])?,
                project: affine("proj_out", &[channels, channels, 1])?,
                heads,
                split_first,
            }),
            Layer::Residual { inputs, outputs, resample } => {
                let modulation = if layout.scale_shift { 2 * outputs } else { outputs };
                let skip = (inputs != outputs).then(|| affine("skip_connection", &[outputs, inputs, 1, 1]));
                Block::Residual(Residual {
                    in_norm: affine("in_layers.0", &[inputs])?,
                    in_conv: affine("in_layers.2", &[outputs, inputs, 3, 3])?,
                    modulation: affine("emb_layers.1", &[modulation, layout.embedding()])?,
                    scale_shift: layout.scale_shift,
                    out_norm: affine("out_layers.0", &[outputs])?,
                    out_conv: affine("out_layers.3", &[outputs, outputs, 3, 3])?,
                    skip: skip.transpose()?,
                    resample,
                })
            }
        })
    }
}
