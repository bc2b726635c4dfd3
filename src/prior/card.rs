//! The prior card: everything a run must know about a prior, stored as the metadata of its safetensors file.

use serde::{Deserialize, Serialize};

use crate::forward::Stretch;

/// What a prior is and what it may be used for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    pub name: String,
    pub architecture: Architecture,
    /// Pitch of the prior's grid, kpc.
    pub pixel_kpc: f64,
    /// Pixels on a side.
    pub size: i64,
    pub bands: Vec<String>,
    pub stretch: Stretch,
    pub normalisation: Normalisation,
    /// Noise levels that the denoiser was trained for.
    pub sigma_min: f64,
    pub sigma_max: f64,
    /// Redshifts that the prior is meant for.
    pub redshift_range: [f64; 2],
    /// Effective resolution (FWHM) of its training images, kpc.
    pub resolution_kpc: f64,
    /// What it was trained on, in words, and the digest of those images.
    pub training_data: String,
    pub training_digest: String,
    /// How it was trained, in words.
    pub recipe: String,
    /// What a user must know before trusting it.
    pub caution: String,
}

/// What makes an image's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Normalisation {
    /// The total flux of this band is one; one amplitude for all bands.
    ReferenceBand { band: usize },
    /// Each band's peak is one (the published checkpoint); one amplitude and one offset for each band.
    BandPeak,
}

impl Normalisation {
    /// The band whose flux sizes and amplitudes refer to: the first where each band has its own amplitude.
    pub fn reference(&self) -> usize {
        match self {
            Normalisation::ReferenceBand { band } => *band,
            Normalisation::BandPeak => 0,
        }
    }
}

/// The denoiser behind the prior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Architecture {
    /// The lean network with the Gaussian skip (`prior/lean.rs`).
    Lean(LeanConfig),
    /// The U-Net of improved-diffusion and guided-diffusion (`prior/unet.rs`), epsilon prediction; hyperparameters as in its own JSON.
    Unet(UnetConfig),
    /// The Gaussian of the prior's own covariance: an exact denoiser.
    Gaussian,
    /// A mixture of images with small Gaussian scatter: an exact denoiser.
    Mixture { components: usize, scatter: f64 },
}

/// Hyperparameters of the lean network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeanConfig {
    /// Channels at each level, from the finest.
    pub channels: Vec<i64>,
    /// Pixel-unshuffle factor of the stem.
    pub unshuffle: i64,
    /// Residual blocks at each level.
    pub blocks: i64,
    /// Heads of the attention at the coarsest level; 0 for none.
    pub heads: i64,
}

/// Hyperparameters of the improved-diffusion U-Net and of its successor in guided-diffusion, by the names of their own scripts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnetConfig {
    pub image_size: i64,
    pub num_channels: i64,
    pub num_res_blocks: i64,
    pub num_heads: i64,
    /// Comma-separated image sizes at which attention acts.
    pub attention_resolutions: String,
    #[serde(default)]
    pub learn_sigma: bool,
    #[serde(default = "cosine")]
    pub noise_schedule: String,
    #[serde(default = "thousand")]
    pub diffusion_steps: i64,
    #[serde(default = "yes")]
    pub use_scale_shift_norm: bool,
    #[serde(default = "yes")]
    pub rescale_timesteps: bool,
    /// Channels of each level over `num_channels`, separated by commas; empty: those of the image size.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub channel_mult: String,
    /// Channels of one head of attention, which then says how many there are; -1: `num_heads` does.
    #[serde(default = "unset", skip_serializing_if = "is_unset")]
    pub num_head_channels: i64,
    /// Heads in the decoder; -1: as many as in the encoder.
    #[serde(default = "unset", skip_serializing_if = "is_unset")]
    pub num_heads_upsample: i64,
    /// Query, key and value are split before heads are (guided-diffusion), not after.
    #[serde(default, skip_serializing_if = "is_false")]
    pub use_new_attention_order: bool,
    /// Residual blocks change the resolution (guided-diffusion), not convolutions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub resblock_updown: bool,
    /// The network is given a class: not supported.
    #[serde(default, skip_serializing_if = "is_false")]
    pub class_cond: bool,
    /// The network predicts the image, not the noise: not supported.
    #[serde(default, skip_serializing_if = "is_false")]
    pub predict_xstart: bool,
}

impl UnetConfig {
    /// The network of the paper (arXiv:2411.19158): 256 px, base 192, attention at 16 and 8 px.
    pub fn published() -> Self {
        UnetConfig {
            image_size: 256,
            num_channels: 192,
            num_res_blocks: 3,
            num_heads: 4,
            attention_resolutions: "16,8".into(),
            learn_sigma: false,
            noise_schedule: cosine(),
            diffusion_steps: thousand(),
            use_scale_shift_norm: yes(),
            rescale_timesteps: yes(),
            channel_mult: String::new(),
            num_head_channels: unset(),
            num_heads_upsample: unset(),
            use_new_attention_order: false,
            resblock_updown: false,
            class_cond: false,
            predict_xstart: false,
        }
    }
}

/// The schedule of improved-diffusion unless told otherwise.
pub(crate) fn cosine() -> String {
    "cosine".into()
}

/// Its steps.
pub(crate) fn thousand() -> i64 {
    1000
}

fn yes() -> bool {
    true
}

fn unset() -> i64 {
    -1
}

fn is_unset(value: &i64) -> bool {
    *value == unset()
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
impl Card {
    /// A card for tests, in the bands g and r with r as the reference.
    pub(crate) fn example(architecture: Architecture, size: i64) -> Card {
        Card {
            name: "test".into(),
            architecture,
            pixel_kpc: 0.8,
            size,
            bands: vec!["g".into(), "r".into()],
            stretch: Stretch::Asinh { scale: 0.01 },
            normalisation: Normalisation::ReferenceBand { band: 1 },
            sigma_min: 0.01,
            sigma_max: 20.0,
            redshift_range: [0.1, 1.0],
            resolution_kpc: 1.0,
            training_data: String::new(),
            training_digest: String::new(),
            recipe: String::new(),
            caution: String::new(),
        }
    }
}
