//! The lean network: a small U-Net on pixel-unshuffled images, with attention at its coarsest level and scale-shift
//! conditioning on the noise level (as in Dhariwal & Nichol 2021, arXiv:2105.05233, and Karras et al. 2022,
//! arXiv:2206.00364, but thirty times smaller). It is the F of the Gaussian-skip preconditioning in `prior/skip.rs`.

use tch::Tensor;

use crate::prior::card::LeanConfig;
use crate::prior::{HandOver, as_it_is};
use crate::{Error, Result};

mod layers;

use layers::{Attention, Block, Convolution, EMBEDDING, GROUP, Linear, Norm};

/// Frequencies of the noise-level embedding.
const FREQUENCIES: i64 = 16;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal numbers of this standard deviation.
    Normal(f64),
    Zero,
    One,
}

/// Gives the tensor of a parameter: fresh numbers, those of a file, or a view into a trainer's memory.
pub type Source<'a> = dyn FnMut(&str, &[i64], Init) -> Result<Tensor> + 'a;

/// One level of the U-Net.
#[derive(Debug)]
struct Level {
    /// From the level above; the coarser levels only.
    down: Option<Convolution>,
    encoder: Vec<Block>,
    /// From the level below, and the join with the encoder's output; all but the coarsest.
    up: Option<(Convolution, Convolution)>,
    decoder: Vec<Block>,
}

/// The network: images `[B, I, n, n]` and noise levels `[B]` to `[B, O, n, n]`.
#[derive(Debug)]
pub struct LeanNetwork {
    config: LeanConfig,
    size: i64,
    embed: [Linear; 2],
    stem: Convolution,
    levels: Vec<Level>,
    attention: Option<Attention>,
    norm: Norm,
    head: Convolution,
}

impl LeanNetwork {
    /// A network for images of `inputs` channels and `size` pixels on a side, with `outputs` channels out. `source` is
    /// asked for each parameter in turn. A size that the levels do not divide is a usage error.
    pub fn new(config: &LeanConfig, inputs: i64, outputs: i64, size: i64, source: &mut Source) -> Result<Self> {
        check(config, size)?;
        let unshuffle = config.unshuffle * config.unshuffle;
        let embed = [
            Linear::new(source, "embed.0", 2 * FREQUENCIES, EMBEDDING, Init::Normal((2 * FREQUENCIES) as f64).root())?,
            Linear::new(source, "embed.1", EMBEDDING, EMBEDDING, Init::Normal(EMBEDDING as f64).root())?,
        ];
        let first = config.channels[0];
        let stem = Convolution::new(source, "stem", inputs * unshuffle, first, 3, 1, false)?;
        let last = config.channels.len() - 1;
        let mut levels = Vec::with_capacity(config.channels.len());
        for (index, &channels) in config.channels.iter().enumerate() {
            let name = |part: &str| format!("level{index}.{part}");
            let down = match index.checked_sub(1) {
                Some(above) => {
                    Some(Convolution::new(source, &name("down"), config.channels[above], channels, 3, 2, false)?)
                }
                None => None,
            };
            let encoder = (0..config.blocks)
                .map(|block| Block::new(source, &name(&format!("encoder{block}")), channels))
                .collect::<Result<Vec<_>>>()?;
            let up = match config.channels.get(index + 1) {
                Some(&below) => Some((
                    Convolution::new(source, &name("up"), below, channels, 1, 1, false)?,
                    Convolution::new(source, &name("join"), 2 * channels, channels, 1, 1, false)?,
                )),
                None => None,
            };
            let decoder = (0..config.blocks)
                .map(|block| Block::new(source, &name(&format!("decoder{block}")), channels))
                .collect::<Result<Vec<_>>>()?;
            levels.push(Level { down, encoder, up, decoder });
        }
        let attention = match config.heads {
            0 => None,
            heads => Some(Attention::new(source, "attention", config.channels[last], heads)?),
        };
        let norm = Norm::new(source, "norm", first)?;
        let head = Convolution::new(source, "head", first, outputs * unshuffle, 3, 1, true)?;
        Ok(LeanNetwork { config: config.clone(), size, embed, stem, levels, attention, norm, head })
    }

    /// F(inputs; ln sigma): `inputs` `[B, I, n, n]`, `ln_sigma` `[B]`.
    pub fn forward(&self, inputs: &Tensor, ln_sigma: &Tensor) -> Result<Tensor> {
        self.forward_handing_over(inputs, ln_sigma, &mut as_it_is)
    }

    /// The same, with what the encoder hands over passing through `hand_over`.
    pub fn forward_handing_over(&self, inputs: &Tensor, ln_sigma: &Tensor, hand_over: &mut HandOver) -> Result<Tensor> {
        let embedding = self.embedding(ln_sigma)?;
        let (h, skips) = self.encode(inputs, &embedding)?;
        let (mut h, embedding) = (hand_over(&h)?, hand_over(&embedding)?);
        for (level, skip) in self.levels.iter().zip(&skips).rev() {
            if let Some((up, join)) = &level.up {
                let side = skip.size()[2];
                let raised = up.forward(&h)?.f_upsample_nearest2d([side, side], None, None)?;
                h = join.forward(&Tensor::f_cat(&[raised, hand_over(skip)?], 1)?)?;
            }
            for block in &level.decoder {
                h = block.forward(&h, &embedding)?;
            }
        }
        let h = self.norm.forward(&h)?.f_silu()?;
        Ok(self.head.forward(&h)?.f_pixel_shuffle(self.config.unshuffle)?)
    }

    /// What the encoder gives the decoder at the coarsest level, averaged over places, `[B, channels]`.
    pub fn features(&self, inputs: &Tensor, ln_sigma: &Tensor) -> Result<Tensor> {
        let (h, _) = self.encode(inputs, &self.embedding(ln_sigma)?)?;
        Ok(h.f_mean_dim([2i64, 3].as_slice(), false, tch::Kind::Float)?)
    }

    /// The encoder's output at the coarsest level, and what the decoder takes back at each level.
    fn encode(&self, inputs: &Tensor, embedding: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
        let mut h = self.stem.forward(&inputs.f_pixel_unshuffle(self.config.unshuffle)?)?;
        let mut skips = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            if let Some(down) = &level.down {
                h = down.forward(&h)?;
            }
            for block in &level.encoder {
                h = block.forward(&h, embedding)?;
            }
            skips.push(h.shallow_clone());
        }
        if let Some(attention) = &self.attention {
            h = attention.forward(&h)?;
        }
        Ok((h, skips))
    }

    /// Cost of one forward of one sample; convolutions and attention, multiply and add counted as two.
    pub fn flops(&self) -> f64 {
        let finest = self.size / self.config.unshuffle;
        let mut total = self.stem.flops(finest) + self.head.flops(finest);
        for (index, level) in self.levels.iter().enumerate() {
            let side = finest >> index;
            total += level.down.as_ref().map_or(0.0, |down| down.flops(side));
            total += level.encoder.iter().chain(&level.decoder).map(|block| block.flops(side)).sum::<f64>();
            total += level.up.as_ref().map_or(0.0, |(up, join)| up.flops(side / 2) + join.flops(side));
        }
        let coarsest = finest >> (self.levels.len() - 1);
        total + self.attention.as_ref().map_or(0.0, |attention| attention.flops(coarsest))
    }

    /// Sines and cosines of ln sigma at wavelengths from 1/2 to 32 e-folds, then two layers.
    fn embedding(&self, ln_sigma: &Tensor) -> Result<Tensor> {
        let frequencies: Vec<f32> = (0..FREQUENCIES)
            .map(|index| {
                let wavelength = 0.5 * 64f64.powf(index as f64 / (FREQUENCIES - 1) as f64);
                (std::f64::consts::TAU / wavelength) as f32
            })
            .collect();
        let frequencies = Tensor::f_from_slice(&frequencies)?.f_to_device(ln_sigma.device())?;
        let angles = ln_sigma.f_unsqueeze(1)?.f_mul(&frequencies)?;
        let features = Tensor::f_cat(&[angles.f_sin()?, angles.f_cos()?], 1)?;
        let hidden = self.embed[0].forward(&features)?.f_silu()?;
        Ok(self.embed[1].forward(&hidden)?.f_silu()?)
    }
}

impl Init {
    /// Turns a number of inputs into the deviation that keeps the variance.
    fn root(self) -> Self {
        match self {
            Init::Normal(inputs) => Init::Normal(inputs.powf(-0.5)),
            other => other,
        }
    }
}

fn check(config: &LeanConfig, size: i64) -> Result<()> {
    if config.channels.is_empty() || config.unshuffle < 1 || config.blocks < 1 {
        return Err(Error::usage("lean network: `channels`, `unshuffle` and `blocks` must be given and positive"));
    }
    let divisor = config.unshuffle << (config.channels.len() - 1);
    if size % divisor != 0 {
        return Err(Error::usage(format!(
            "lean network: size {size} is not a multiple of {divisor} (unshuffle {} and {} levels)",
            config.unshuffle,
            config.channels.len()
        )));
    }
    if let Some(channels) = config.channels.iter().find(|&&channels| channels < 1 || channels % GROUP != 0) {
        return Err(Error::usage(format!("lean network: {channels} channels, expected multiples of {GROUP}")));
    }
    let coarsest = config.channels[config.channels.len() - 1];
    if config.heads != 0 && coarsest % config.heads != 0 {
        return Err(Error::usage(format!(
            "lean network: {coarsest} channels do not divide into {} heads",
            config.heads
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::layers::{EPSILON, group_norm};
    use super::*;
    use crate::random::{Key, Purpose};
    use tch::{Device, Kind};

    /// f32 rounding through a dozen convolutions.
    const F32_TOLERANCE: f64 = 2e-5;

    fn config() -> LeanConfig {
        LeanConfig { channels: vec![16, 32], unshuffle: 2, blocks: 1, heads: 2 }
    }

    /// Random values everywhere, also where a fresh network has zeros.
    fn network(config: &LeanConfig, inputs: i64, size: i64) -> LeanNetwork {
        let mut source = |name: &str, shape: &[i64], init: Init| {
            let count = shape.iter().product::<i64>() as usize;
            let values = Tensor::from_slice(&Key::new(1, name, 0, Purpose::Weights, 0).normal(count)).view(shape);
            Ok(match init {
                Init::Normal(sd) => values * sd,
                Init::Zero => values * 0.05,
                Init::One => values * 0.1 + 1.0,
            })
        };
        LeanNetwork::new(config, inputs, 3, size, &mut source).unwrap()
    }

    fn images(count: i64, channels: i64, size: i64) -> Tensor {
        let length = (count * channels * size * size) as usize;
        let values = Key::new(2, "images", 0, Purpose::Evaluation, 0).normal(length);
        Tensor::from_slice(&values).view([count, channels, size, size])
    }

    #[test]
    fn a_sample_does_not_depend_on_its_batch_but_on_its_noise_level() {
        let network = network(&config(), 7, 16);
        let x = images(3, 7, 16);
        let levels = Tensor::from_slice(&[0.0f32, -1.0, 2.0]);
        let together = network.forward(&x, &levels).unwrap();
        assert_eq!(together.size(), [3, 3, 16, 16]);
        let scale = together.abs().max().double_value(&[]);
        for index in 0..3 {
            let alone = network.forward(&x.narrow(0, index, 1), &levels.narrow(0, index, 1)).unwrap();
            let error = (alone - together.narrow(0, index, 1)).abs().max().double_value(&[]);
            assert!(error < F32_TOLERANCE * scale, "{error}");
        }
        let other = network.forward(&x, &(&levels + 1.0)).unwrap();
        assert!((other - together).abs().max().double_value(&[]) > 0.01 * scale);
    }

    #[test]
    fn folded_normalisation_is_group_norm_with_scale_and_shift() {
        let x = images(2, 16, 8);
        let weight = images(1, 2, 4).view([2, 16]);
        let bias = images(1, 8, 2).view([2, 16]);
        let found = group_norm(&x, &weight, &bias).unwrap();
        let grouped = x.view([2, 2, 8 * 64]).to_kind(Kind::Double);
        let mean = grouped.mean_dim([2i64].as_slice(), true, Kind::Double);
        let centred = grouped - mean;
        let variance = centred.square().mean_dim([2i64].as_slice(), true, Kind::Double);
        let normal = (centred / (variance + EPSILON).sqrt()).view([2, 16, 8, 8]);
        let expected = normal * weight.view([2, 16, 1, 1]) + bias.view([2, 16, 1, 1]);
        assert!((found - expected).abs().max().double_value(&[]) < F32_TOLERANCE);
    }

    #[test]
    fn flops_are_those_of_its_convolutions_and_attention() {
        let network = network(&config(), 7, 16);
        let block = |channels: f64, side: f64| 2.0 * 2.0 * 9.0 * channels * channels * side * side;
        let stem = 2.0 * 9.0 * 28.0 * 16.0 * 64.0;
        let head = 2.0 * 9.0 * 16.0 * 12.0 * 64.0;
        let down = 2.0 * 9.0 * 16.0 * 32.0 * 16.0;
        let up = 2.0 * 32.0 * 16.0 * 16.0 + 2.0 * 32.0 * 16.0 * 64.0;
        let attention = 2.0 * 32.0 * 128.0 * 16.0 + 4.0 * 16.0 * 16.0 * 32.0;
        let expected = stem + head + down + up + attention + 2.0 * block(16.0, 8.0) + 2.0 * block(32.0, 4.0);
        assert_eq!(network.flops(), expected);
    }

    /// The shipped configuration stays below what the design allows.
    #[test]
    fn the_default_configuration_costs_less_than_0_3_gflop() {
        let config = LeanConfig { channels: vec![32, 64, 128], unshuffle: 2, blocks: 1, heads: 4 };
        let mut source = |_: &str, shape: &[i64], _: Init| Ok(Tensor::zeros(shape, (Kind::Float, Device::Cpu)));
        let network = LeanNetwork::new(&config, 7, 3, 64, &mut source).unwrap();
        assert!(network.flops() < 0.3e9, "{}", network.flops());
    }

    #[test]
    fn impossible_configurations_are_usage_errors() {
        let mut source = |_: &str, shape: &[i64], _: Init| Ok(Tensor::zeros(shape, (Kind::Float, Device::Cpu)));
        let mut message = |config: LeanConfig, size: i64| {
            LeanNetwork::new(&config, 7, 3, size, &mut source).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(message(config(), 18).contains("multiple of 4"));
        assert!(message(LeanConfig { channels: vec![12], ..config() }, 16).contains("12 channels"));
        assert!(message(LeanConfig { heads: 3, ..config() }, 16).contains("3 heads"));
    }
}
