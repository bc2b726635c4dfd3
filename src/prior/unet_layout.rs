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
    /// Residual block, modulated by the time embedding.
    Residual { inputs: i64, outputs: i64 },
    /// Self-attention over all pixels.
    Attention { channels: i64 },
    /// 3 x 3 convolution of stride 2.
    Down { channels: i64 },
    /// Nearest-neighbour upsampling, then a 3 x 3 convolution.
    Up { channels: i64 },
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
    pub size: i64,
    pub outputs: i64,
    pub scale_shift: bool,
    pub encoder: Vec<Vec<Placed>>,
    pub middle: Vec<Placed>,
    pub decoder: Vec<Vec<Placed>>,
}

/// Channel multipliers by image size, as the published code has them.
pub fn multipliers(image_size: i64) -> Result<&'static [i64]> {
    match image_size {
        256 => Ok(&[1, 1, 2, 2, 4, 4]),
        64 => Ok(&[1, 2, 3, 4]),
        32 => Ok(&[1, 2, 2, 2]),
        other => Err(Error::usage(format!("U-Net: image_size is {other}, expected 256, 64 or 32"))),
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
        let multipliers = multipliers(config.image_size)?;
        let limits = [
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
        if base % GROUPS != 0 || base % config.num_heads != 0 {
            return Err(Error::usage(format!(
                "U-Net: num_channels is {base}, expected a multiple of {GROUPS} and of num_heads ({})",
                config.num_heads
            )));
        }
        let attention = attention_factors(config)?;
        let outputs = if config.learn_sigma { 2 * channels } else { channels };
        let mut layout = Layout {
            channels,
            base,
            size: config.image_size,
            outputs,
            scale_shift: config.use_scale_shift_norm,
            encoder: Vec::new(),
            middle: Vec::new(),
            decoder: Vec::new(),
        };

        layout.push_encoder(vec![Layer::Convolution { inputs: channels, outputs: base }], config.image_size);
        let (mut now, mut factor, mut kept) = (base, 1, vec![base]);
        for (level, multiplier) in multipliers.iter().enumerate() {
            let outputs = multiplier * base;
            for _ in 0..config.num_res_blocks {
                let mut block = vec![Layer::Residual { inputs: now, outputs }];
                if attention.contains(&factor) {
                    block.push(Layer::Attention { channels: outputs });
                }
                now = outputs;
                kept.push(now);
                layout.push_encoder(block, config.image_size / factor);
            }
            if level + 1 < multipliers.len() {
                kept.push(now);
                layout.push_encoder(vec![Layer::Down { channels: now }], config.image_size / factor);
                factor *= 2;
            }
        }
        let residual = Layer::Residual { inputs: now, outputs: now };
        let middle = [residual, Layer::Attention { channels: now }, residual];
        layout.middle = placed("middle_block", &middle, config.image_size / factor);
        for (level, multiplier) in multipliers.iter().enumerate().rev() {
            let outputs = multiplier * base;
            for index in 0..=config.num_res_blocks {
                let skip = kept.pop().ok_or_else(|| Error::internal("U-Net: unbalanced layout"))?;
                let mut block = vec![Layer::Residual { inputs: now + skip, outputs }];
                if attention.contains(&factor) {
                    block.push(Layer::Attention { channels: outputs });
                }
                now = outputs;
                let size = config.image_size / factor;
                if level > 0 && index == config.num_res_blocks {
                    block.push(Layer::Up { channels: now });
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
                Layer::Attention { channels } => {
                    list.pair(&format!("{name}.norm"), &[channels]);
                    list.pair(&format!("{name}.qkv"), &[3 * channels, channels, 1]);
                    list.pair(&format!("{name}.proj_out"), &[channels, channels, 1]);
                }
                Layer::Residual { inputs, outputs } => {
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
        list.pair("out.0", &[self.base]);
        list.pair("out.2", &[self.outputs, self.base, 3, 3]);
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
                Layer::Attention { channels } => {
                    let products = 4.0 * (size as f64).powi(4) * channels as f64;
                    convolution(size, channels, 4 * channels, 1) + products
                }
                Layer::Residual { inputs, outputs } => {
                    let skip = if inputs == outputs { 0.0 } else { convolution(size, inputs, outputs, 1) };
                    let modulation = if self.scale_shift { 2 * outputs } else { outputs };
                    convolution(size, inputs, outputs, 9)
                        + convolution(size, outputs, outputs, 9)
                        + 2.0 * (modulation * embedding) as f64
                        + skip
                }
            };
        }
        total + convolution(self.size, self.base, self.outputs, 9)
    }
}

fn placed(block: &str, layers: &[Layer], mut size: i64) -> Vec<Placed> {
    let mut list = Vec::with_capacity(layers.len());
    for (index, &layer) in layers.iter().enumerate() {
        list.push(Placed { name: format!("{block}.{index}"), layer, size });
        match layer {
            Layer::Down { .. } => size /= 2,
            Layer::Up { .. } => size *= 2,
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
mod tests {
    use super::*;

    #[test]
    fn the_published_network_has_its_published_size() {
        let layout = Layout::new(&UnetConfig::published(), 3).unwrap();
        assert_eq!(layout.parameters(), 369_547_779);
        // 1.495 TFLOP a forward; the published figure leaves out what is below its last digit.
        assert!((layout.flops() / 1.495e12 - 1.0).abs() < 0.002, "{:.4e}", layout.flops());
    }

    #[test]
    fn bad_hyperparameters_are_named() {
        type Change = fn(&mut UnetConfig);
        let cases: [(&str, Change); 6] = [
            ("image_size", |config| config.image_size = 100),
            ("num_channels", |config| config.num_channels = 100),
            ("num_channels", |config| config.num_channels = i64::MAX),
            ("num_res_blocks", |config| config.num_res_blocks = 0),
            ("num_heads", |config| config.num_heads = 0),
            ("attention_resolutions", |config| config.attention_resolutions = "16,x".into()),
        ];
        for (name, change) in cases {
            let mut config = UnetConfig::published();
            change(&mut config);
            let error = Layout::new(&config, 3).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
