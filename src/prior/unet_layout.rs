//! The layout of the improved-diffusion U-Net: which layers there are, what their weights are called and what shape they
//! have, worked out from the hyperparameters without allocating anything. Names are those of the published state dict.

use crate::prior::card::UnetConfig;
use crate::{Error, Result};

/// Groups of the group normalisation.
pub const GROUPS: i64 = 32;

/// One layer, with the channels that it takes and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// 3 x 3 convolution.
    Convolution { inputs: i64, outputs: i64 },
    /// Residual block, modulated by the time embedding, which may change the resolution.
    Residual { inputs: i64, outputs: i64, resample: Resample },
    /// Self-attention over all pixels.
    Attention { channels: i64, heads: i64 },
    /// 3 x 3 convolution of stride 2.
    Down { channels: i64 },
    /// Nearest-neighbour upsampling, then a 3 x 3 convolution.
    Up { channels: i64 },
}

/// What a residual block does to the resolution, before its first convolution: nothing, half of it (means of two by two
/// pixels), or twice (each pixel four times).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    Keep,
    Half,
    Double,
}

impl Resample {
    /// Pixels on a side of what comes out for `size` that go in.
    pub fn after(self, size: i64) -> i64 {
        match self {
            Resample::Keep => size,
            Resample::Half => size / 2,
            Resample::Double => size * 2,
        }
    }
}

/// A layer in its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The prefix of its weights' names, without the final dot.
    pub name: String,
    pub layer: Layer,
    /// Pixels on a side of what it takes in.
    pub size: i64,
}

/// All layers of a network. Each inner list is one block: the encoder's blocks leave their output on a stack, from which
/// the decoder's blocks take it back.
#[derive(Clone, Debug)]
pub struct Layout {
    pub channels: i64,
    pub base: i64,
    /// Channels of the finest level.
    pub first: i64,
    pub size: i64,
    pub outputs: i64,
    pub scale_shift: bool,
    pub encoder: Vec<Vec<Placed>>,
    pub middle: Vec<Placed>,
    pub decoder: Vec<Vec<Placed>>,
}

/// Channel multipliers by image size, as the published codes have them.
pub fn multipliers(image_size: i64) -> Option<&'static [f64]> {
    match image_size {
        512 => Some(&[0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]),
        256 => Some(&[1.0, 1.0, 2.0, 2.0, 4.0, 4.0]),
        128 => Some(&[1.0, 1.0, 2.0, 3.0, 4.0]),
        64 => Some(&[1.0, 2.0, 3.0, 4.0]),
        32 => Some(&[1.0, 2.0, 2.0, 2.0]),
        _ => None,
    }
}

/// Channels of each level, from the finest.
fn widths(config: &UnetConfig) -> Result<Vec<i64>> {
    let factors: Vec<f64> = if config.channel_mult.trim().is_empty() {
        let known = multipliers(config.image_size).ok_or_else(|| {
            Error::usage(format!(
                "U-Net: image_size is {}, whose channels are only known for 512, 256, 128, 64 and 32: give channel_mult",
                config.image_size
            ))
        })?;
        known.to_vec()
    } else {
        let parts = config.channel_mult.split(',').map(|part| part.trim().parse::<f64>().ok());
        parts.collect::<Option<_>>().filter(|found: &Vec<f64>| found.len() <= 16).ok_or_else(|| {
            Error::usage(format!("U-Net: channel_mult is `{}`, expected numbers with commas", config.channel_mult))
        })?
    };
    let widths: Vec<i64> = factors.iter().map(|factor| (factor * config.num_channels as f64) as i64).collect();
    match widths.iter().find(|&&width| width < 1 || width % GROUPS != 0 || width > 1 << 16) {
        Some(width) => Err(Error::usage(format!(
            "U-Net: num_channels {} and channel_mult {factors:?} give a level {width} channels, expected a multiple of {GROUPS}",
            config.num_channels
        ))),
        None if config.image_size % (1 << (widths.len() - 1)) != 0 => Err(Error::usage(format!(
            "U-Net: image_size {} is not divisible by 2 for each of its {} levels",
            config.image_size,
            widths.len()
        ))),
        None => Ok(widths),
    }
}

/// Heads of attention over `channels`, in the encoder or in the decoder.
fn heads(config: &UnetConfig, channels: i64, decoder: bool) -> Result<i64> {
    let (each, name) = match (config.num_head_channels, config.num_heads_upsample) {
        (depth, _) if depth != -1 => (if depth > 0 { channels / depth } else { 0 }, "num_head_channels"),
        (_, upsample) if upsample != -1 && decoder => (upsample, "num_heads_upsample"),
        _ => (config.num_heads, "num_heads"),
    };
    let fits = each > 0
        && channels % each == 0
        && (config.num_head_channels == -1 || channels % config.num_head_channels == 0);
    match fits {
        true => Ok(each),
        false => Err(Error::usage(format!("U-Net: {name} does not divide the {channels} channels of an attention"))),
    }
}

/// The downsampling factors at which attention acts.
fn attention_factors(config: &UnetConfig) -> Result<Vec<i64>> {
    let mut factors = Vec::new();
    for text in config.attention_resolutions.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let size = text.parse::<i64>().ok().filter(|size| *size > 0 && config.image_size % size == 0);
        let Some(size) = size else {
            return Err(Error::usage(format!(
                "U-Net: attention_resolutions has `{text}`, expected sizes that divide image_size ({})",
                config.image_size
            )));
        };
        factors.push(config.image_size / size);
    }
    Ok(factors)
}

impl Layout {
    /// The layers of the network with these hyperparameters, for images of `channels` bands.
    pub fn new(config: &UnetConfig, channels: i64) -> Result<Layout> {
        let base = config.num_channels;
        let limits = [
            ("image_size", config.image_size, 4096),
            ("num_channels", base, 4096),
            ("num_res_blocks", config.num_res_blocks, 64),
            ("num_heads", config.num_heads, 64),
            ("number of bands", channels, 64),
        ];
        for (name, value, most) in limits {
            if !(1..=most).contains(&value) {
                return Err(Error::usage(format!("U-Net: {name} is {value}, expected 1 to {most}")));
            }
        }
        for (name, given) in [("class_cond", config.class_cond), ("predict_xstart", config.predict_xstart)] {
            if given {
                return Err(Error::usage(format!(
                    "U-Net: {name} is true: only networks without classes that predict the noise can be used"
                )));
            }
        }
        if base % 2 != 0 {
            return Err(Error::usage(format!("U-Net: num_channels is {base}, expected an even number")));
        }
        let widths = widths(config)?;
        let attention = attention_factors(config)?;
        let outputs = if config.learn_sigma { 2 * channels } else { channels };
        let first = widths[0];
        let mut layout = Layout {
            channels,
            base,
            first,
            size: config.image_size,
            outputs,
            scale_shift: config.use_scale_shift_norm,
            encoder: Vec::new(),
            middle: Vec::new(),
            decoder: Vec::new(),
        };
        let keep = |inputs: i64, outputs: i64| Layer::Residual { inputs, outputs, resample: Resample::Keep };

        layout.push_encoder(vec![Layer::Convolution { inputs: channels, outputs: first }], config.image_size);
        let (mut now, mut factor, mut kept) = (first, 1, vec![first]);
        for (level, &outputs) in widths.iter().enumerate() {
            for _ in 0..config.num_res_blocks {
                let mut block = vec![keep(now, outputs)];
                if attention.contains(&factor) {
                    block.push(Layer::Attention { channels: outputs, heads: heads(config, outputs, false)? });
                }
                now = outputs;
                kept.push(now);
                layout.push_encoder(block, config.image_size / factor);
            }
            if level + 1 < widths.len() {
                kept.push(now);
                let down = match config.resblock_updown {
                    true => Layer::Residual { inputs: now, outputs: now, resample: Resample::Half },
                    false => Layer::Down { channels: now },
                };
                layout.push_encoder(vec![down], config.image_size / factor);
                factor *= 2;
            }
        }
        let attend = Layer::Attention { channels: now, heads: heads(config, now, false)? };
        layout.middle = placed("middle_block", &[keep(now, now), attend, keep(now, now)], config.image_size / factor);
        for (level, &outputs) in widths.iter().enumerate().rev() {
            for index in 0..=config.num_res_blocks {
                let skip = kept.pop().ok_or_else(|| Error::internal("U-Net: unbalanced layout"))?;
                let mut block = vec![keep(now + skip, outputs)];
                if attention.contains(&factor) {
                    block.push(Layer::Attention { channels: outputs, heads: heads(config, outputs, true)? });
                }
                now = outputs;
                let size = config.image_size / factor;
                if level > 0 && index == config.num_res_blocks {
                    block.push(match config.resblock_updown {
                        true => Layer::Residual { inputs: now, outputs: now, resample: Resample::Double },
                        false => Layer::Up { channels: now },
                    });
                    factor /= 2;
                }
                let name = format!("output_blocks.{}", layout.decoder.len());
                layout.decoder.push(placed(&name, &block, size));
            }
        }
        Ok(layout)
    }

    fn push_encoder(&mut self, block: Vec<Layer>, size: i64) {
        let name = format!("input_blocks.{}", self.encoder.len());
        self.encoder.push(placed(&name, &block, size));
    }

    /// Length of the time embedding.
    pub fn embedding(&self) -> i64 {
        4 * self.base
    }

    /// All layers, in the order of the state dict.
    pub fn layers(&self) -> impl Iterator<Item = &Placed> {
        self.encoder.iter().flatten().chain(&self.middle).chain(self.decoder.iter().flatten())
    }

    /// Name and shape of every tensor of the state dict, in its order.
    pub fn shapes(&self) -> Vec<(String, Vec<i64>)> {
        let embedding = self.embedding();
        let mut list = Shapes(Vec::new());
        list.pair("time_embed.0", &[embedding, self.base]);
        list.pair("time_embed.2", &[embedding, embedding]);
        for Placed { name, layer, .. } in self.layers() {
            match *layer {
                Layer::Convolution { inputs, outputs } => list.pair(name, &[outputs, inputs, 3, 3]),
                Layer::Down { channels } => list.pair(&format!("{name}.op"), &[channels, channels, 3, 3]),
                Layer::Up { channels } => list.pair(&format!("{name}.conv"), &[channels, channels, 3, 3]),
                Layer::Attention { channels, .. } => {
                    list.pair(&format!("{name}.norm"), &[channels]);
                    list.pair(&format!("{name}.qkv"), &[3 * channels, channels, 1]);
                    list.pair(&format!("{name}.proj_out"), &[channels, channels, 1]);
                }
                Layer::Residual { inputs, outputs, .. } => {
                    let modulation = if self.scale_shift { 2 * outputs } else { outputs };
                    list.pair(&format!("{name}.in_layers.0"), &[inputs]);
                    list.pair(&format!("{name}.in_layers.2"), &[outputs, inputs, 3, 3]);
                    list.pair(&format!("{name}.emb_layers.1"), &[modulation, embedding]);
                    list.pair(&format!("{name}.out_layers.0"), &[outputs]);
                    list.pair(&format!("{name}.out_layers.3"), &[outputs, outputs, 3, 3]);
                    if inputs != outputs {
                        list.pair(&format!("{name}.skip_connection"), &[outputs, inputs, 1, 1]);
                    }
                }
            }
        }
        list.pair("out.0", &[self.first]);
        list.pair("out.2", &[self.outputs, self.first, 3, 3]);
        list.0
    }

    /// Number of parameters.
    pub fn parameters(&self) -> i64 {
        self.shapes().iter().map(|(_, shape)| shape.iter().product::<i64>()).sum()
    }

    /// Floating-point operations of one forward of one image (convolutions, linear maps and attention; a multiply and an
    /// add are two).
    pub fn flops(&self) -> f64 {
        let convolution = |size: i64, inputs: i64, outputs: i64, kernel: i64| {
            2.0 * (size * size) as f64 * (inputs * outputs * kernel) as f64
        };
        let embedding = self.embedding();
        let mut total = 2.0 * (embedding * (self.base + embedding)) as f64;
        for &Placed { layer, size, .. } in self.layers() {
            total += match layer {
                Layer::Convolution { inputs, outputs } => convolution(size, inputs, outputs, 9),
                Layer::Down { channels } => convolution(size / 2, channels, channels, 9),
                Layer::Up { channels } => convolution(size * 2, channels, channels, 9),
                Layer::Attention { channels, .. } => {
                    let products = 4.0 * (size as f64).powi(4) * channels as f64;
                    convolution(size, channels, 4 * channels, 1) + products
                }
                Layer::Residual { inputs, outputs, resample } => {
                    let size = resample.after(size);
                    let skip = if inputs == outputs { 0.0 } else { convolution(size, inputs, outputs, 1) };
                    let modulation = if self.scale_shift { 2 * outputs } else { outputs };
                    convolution(size, inputs, outputs, 9)
                        + convolution(size, outputs, outputs, 9)
                        + 2.0 * (modulation * embedding) as f64
                        + skip
                }
            };
        }
        total + convolution(self.size, self.first, self.outputs, 9)
    }
}

fn placed(block: &str, layers: &[Layer], mut size: i64) -> Vec<Placed> {
    let mut list = Vec::with_capacity(layers.len());
    for (index, &layer) in layers.iter().enumerate() {
        list.push(Placed { name: format!("{block}.{index}"), layer, size });
        match layer {
            Layer::Down { .. } => size /= 2,
            Layer::Up { .. } => size *= 2,
            Layer::Residual { resample, .. } => size = resample.after(size),
            _ => {}
        }
    }
    list
}

struct Shapes(Vec<(String, Vec<i64>)>);

impl Shapes {
    /// A weight and its bias, which has one number for each output.
    fn pair(&mut self, name: &str, shape: &[i64]) {
        self.0.push((format!("{name}.weight"), shape.to_vec()));
        self.0.push((format!("{name}.bias"), vec![shape[0]]));
    }
}

#[cfg(test)]
mod tests;
