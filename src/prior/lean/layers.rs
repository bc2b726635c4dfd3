//! The layers of the lean network.

use tch::{Kind, Tensor};

use super::{Init, Source};
use crate::Result;

/// Width of the noise-level embedding.
pub const EMBEDDING: i64 = 128;
/// Channels in one normalisation group.
pub const GROUP: i64 = 8;
/// Added to the variance by the normalisation.
pub const EPSILON: f64 = 1e-5;

/// A convolution with a bias, padded to keep the size (divided by the stride).
#[derive(Debug)]
pub struct Convolution {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
}

impl Convolution {
    pub fn new(
        source: &mut Source,
        name: &str,
        from: i64,
        to: i64,
        size: i64,
        stride: i64,
        zero: bool,
    ) -> Result<Self> {
        let init = if zero { Init::Zero } else { Init::Normal((1.0 / (from * size * size) as f64).sqrt()) };
        Ok(Convolution {
            weight: source(&format!("{name}.weight"), &[to, from, size, size], init)?,
            bias: source(&format!("{name}.bias"), &[to], Init::Zero)?,
            stride,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pad = self.weight.size()[2] / 2;
        let stride = [self.stride, self.stride];
        Ok(x.f_conv2d(&self.weight, Some(&self.bias), stride, [pad, pad], [1, 1], 1)?)
    }

    /// Operations on an output of `side` x `side` pixels.
    pub fn flops(&self, side: i64) -> f64 {
        2.0 * self.weight.numel() as f64 * (side * side) as f64
    }
}

/// A matrix product with a bias.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub fn new(source: &mut Source, name: &str, from: i64, to: i64, init: Init) -> Result<Self> {
        Ok(Linear {
            weight: source(&format!("{name}.weight"), &[to, from], init)?,
            bias: source(&format!("{name}.bias"), &[to], Init::Zero)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}

/// GroupNorm with a weight and a bias for every sample and channel. Samples are folded into the channels, so that the
/// library's one fused normalisation does the conditioning too: two passes over memory fewer, each way.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = x.size4()?;
    let folded = x.f_reshape([1, batch * channels, height, width])?;
    let groups = batch * (channels / GROUP).max(1);
    let weight = weight.f_expand([batch, channels], true)?.f_reshape([-1])?;
    let bias = bias.f_expand([batch, channels], true)?.f_reshape([-1])?;
    Ok(folded
        .f_group_norm(groups, Some(&weight), Some(&bias), EPSILON, false)?
        .f_view([batch, channels, height, width])?)
}

/// GroupNorm.
#[derive(Debug)]
pub struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub fn new(source: &mut Source, name: &str, channels: i64) -> Result<Self> {
        Ok(Norm {
            weight: source(&format!("{name}.weight"), &[channels], Init::One)?,
            bias: source(&format!("{name}.bias"), &[channels], Init::Zero)?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let groups = (x.size()[1] / GROUP).max(1);
        Ok(x.f_group_norm(groups, Some(&self.weight), Some(&self.bias), EPSILON, false)?)
    }
}

/// Norm, SiLU, convolution, norm with scale and shift from the noise level, SiLU, convolution, plus the input.
#[derive(Debug)]
pub struct Block {
    norm: Norm,
    first: Convolution,
    condition: Linear,
    second: Convolution,
    channels: i64,
}

impl Block {
    pub fn new(source: &mut Source, name: &str, channels: i64) -> Result<Self> {
        Ok(Block {
            norm: Norm::new(source, &format!("{name}.norm"), channels)?,
            first: Convolution::new(source, &format!("{name}.first"), channels, channels, 3, 1, false)?,
            condition: Linear::new(source, &format!("{name}.condition"), EMBEDDING, 2 * channels, Init::Zero)?,
            second: Convolution::new(source, &format!("{name}.second"), channels, channels, 3, 1, true)?,
            channels,
        })
    }

    pub fn forward(&self, x: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        let h = self.first.forward(&self.norm.forward(x)?.f_silu()?)?;
        let condition = self.condition.forward(embedding)?;
        let scale = condition.f_narrow(1, 0, self.channels)?.f_add_scalar(1.0)?;
        let shift = condition.f_narrow(1, self.channels, self.channels)?;
        let h = group_norm(&h, &scale, &shift)?.f_silu()?;
        Ok(self.second.forward(&h)?.f_add(x)?)
    }

    pub fn flops(&self, side: i64) -> f64 {
        self.first.flops(side) + self.second.flops(side)
    }
}

/// Self-attention over the pixels of the coarsest level.
#[derive(Debug)]
pub struct Attention {
    norm: Norm,
    qkv: Convolution,
    out: Convolution,
    heads: i64,
}

impl Attention {
    pub fn new(source: &mut Source, name: &str, channels: i64, heads: i64) -> Result<Self> {
        Ok(Attention {
            norm: Norm::new(source, &format!("{name}.norm"), channels)?,
            qkv: Convolution::new(source, &format!("{name}.qkv"), channels, 3 * channels, 1, 1, false)?,
            out: Convolution::new(source, &format!("{name}.out"), channels, channels, 1, 1, true)?,
            heads,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = x.size4()?;
        let head = channels / self.heads;
        let qkv = self.qkv.forward(&self.norm.forward(x)?)?;
        let parts = qkv.f_reshape([batch, 3, self.heads, head, height * width])?.f_unbind(1)?;
        let scores = parts[0].f_mul_scalar((head as f64).powf(-0.5))?.f_transpose(-2, -1)?.f_matmul(&parts[1])?;
        let weights = scores.f_softmax(-1, Kind::Float)?;
        let mixed = parts[2].f_matmul(&weights.f_transpose(-2, -1)?)?;
        Ok(self.out.forward(&mixed.f_reshape([batch, channels, height, width])?)?.f_add(x)?)
    }

    pub fn flops(&self, side: i64) -> f64 {
        let pixels = (side * side) as f64;
        self.qkv.flops(side) + self.out.flops(side) + 4.0 * pixels * pixels * self.out.bias.numel() as f64
    }
}
