//! The config of a training run: a TOML file. Unknown keys are errors; every error names the file, the key and the line.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::DeviceKind;
use crate::device::Half;
use crate::prior::card::{self, Architecture, LeanConfig, Normalisation, UnetConfig};
use crate::train::dataset::DatasetConfig;
use crate::{Error, Result};

/// A whole training config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    pub prior: PriorSection,
    pub data: DatasetConfig,
    /// The lean network, trained by denoising with the Gaussian skip (EDM); or else
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<LeanConfig>,
    /// the improved-diffusion U-Net, trained to predict the noise (VP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unet: Option<UnetSection>,
    #[serde(default)]
    pub covariance: CovarianceSection,
    #[serde(default)]
    pub levels: LevelsSection,
    pub optimizer: OptimizerSection,
    #[serde(default)]
    pub run: RunSection,
}

/// The improved-diffusion U-Net and its diffusion; its size is that of the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetSection {
    pub num_channels: i64,
    pub num_res_blocks: i64,
    pub num_heads: i64,
    /// Comma-separated image sizes at which attention acts.
    pub attention_resolutions: String,
    /// The variance is learned too, with the hybrid loss.
    #[serde(default)]
    pub learn_sigma: bool,
    /// `cosine` or `linear`.
    #[serde(default = "card::cosine")]
    pub noise_schedule: String,
    #[serde(default = "card::thousand")]
    pub diffusion_steps: i64,
}

/// What the prior's card will say that the training cannot know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorSection {
    pub name: String,
    pub redshift_range: [f64; 2],
    pub caution: String,
    /// Scale of the asinh stretch, in units of the flux; measured on the images if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asinh_scale: Option<f64>,
}

/// How the Gaussian part of the prior is fitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CovarianceSection {
    /// Training images that are used.
    pub images: u64,
    /// Principal components.
    pub rank: i64,
    /// Components are kept on a grid so many times coarser, in f16: smaller files.
    pub coarse: i64,
    /// Least variance of a pixel beside the components, stretched units squared.
    pub floor: f64,
}

impl Default for CovarianceSection {
    fn default() -> Self {
        CovarianceSection { images: 4096, rank: 64, coarse: 1, floor: 1e-4 }
    }
}

/// Noise levels of the training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelsSection {
    /// Smallest level, stretched units.
    pub sigma_min: f64,
    /// Largest level, in units of the standard deviation of the covariance's strongest component.
    pub t_max_factor: f64,
    /// Levels of the logarithmic grid for which the tables of the Gaussian skip are made.
    pub count: usize,
    /// Mean and standard deviation of ln sigma.
    pub ln_mean: f64,
    pub ln_sd: f64,
    /// Share of the images whose level is log-uniform over the whole grid instead.
    pub uniform_share: f64,
}

impl Default for LevelsSection {
    fn default() -> Self {
        LevelsSection {
            sigma_min: 0.005,
            t_max_factor: 4.0,
            count: 256,
            ln_mean: -1.0,
            ln_sd: 1.4,
            uniform_share: 0.35,
        }
    }
}

/// AdamW with a warm-up and a cosine, and a moving average of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSection {
    /// Steps from first to last: the cosine's length.
    pub steps: u64,
    #[serde(default = "batch")]
    pub batch: usize,
    /// Images whose gradient is taken at once, a divisor of `batch`; all of them if it is not given. The micro-batches are
    /// spread over the ranks and their gradients added in a fixed order: this number moves bits, that of ranks does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Later stages: from their step on with another batch, and other shifts of `[data.images]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub later: Vec<Stage>,
    #[serde(default = "learning_rate")]
    pub learning_rate: f64,
    /// What becomes of the learning rate after the warm-up.
    #[serde(default)]
    pub decay: Decay,
    /// Memory of the gradient's square.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// Steps in which the learning rate rises.
    #[serde(default = "warmup")]
    pub warmup: u64,
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 for none.
    #[serde(default = "clip")]
    pub clip: f64,
    /// Decay of the moving average per step, once warm.
    #[serde(default = "ema")]
    pub ema: f64,
}

/// A part of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Its first step.
    pub from_step: u64,
    pub batch: usize,
    #[serde(default)]
    pub shift: usize,
}

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Half a cosine down to a hundredth.
    #[default]
    Cosine,
    /// Not at all.
    Constant,
}

fn beta2() -> f64 {
    0.99
}

fn batch() -> usize {
    32
}

fn learning_rate() -> f64 {
    1e-3
}

fn warmup() -> u64 {
    300
}

fn weight_decay() -> f64 {
    0.01
}

fn clip() -> f64 {
    1.0
}

fn ema() -> f64 {
    0.9993
}

/// How the run uses the machine. Nothing here changes what is learned, except by rounding (threads).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSection {
    pub seed: u64,
    /// `cpu`, or `cuda`: each rank then takes the device of its number on the node.
    pub device: DeviceKind,
    pub threads: u32,
    /// Threads that make batches ahead of the step; a GPU may need many.
    pub makers: usize,
    /// In what the network computes; weights and losses are in f32 always.
    pub precision: Precision,
    /// Seconds between checkpoints.
    pub checkpoint_interval: f64,
    /// Steps between two measurements of the held-out loss.
    pub evaluate_every: u64,
    /// Held-out images that are used.
    pub heldout: usize,
    /// Steps between two sheets of draws that are kept (`draws-STEP.png`); 0 for none but the last (`draws.png`).
    pub draw_every: u64,
    /// The training has diverged when the mean loss of some 50 steps is so many times the least one before.
    pub divergence: f64,
    /// Seconds that ranks wait for each other; rank 0 measures and saves meanwhile.
    pub hang_timeout: f64,
}

/// The numbers that products and convolutions of a training step are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// f32 with factors rounded to 10 bits (GPUs from A100 on).
    Tf32,
    /// 8 bits and the range of f32 (GPUs from A100 on, CPUs slowly).
    Bf16,
    /// 11 bits of a small range (all GPUs since V100); the loss is scaled for it.
    F16,
}

impl Precision {
    /// The 16-bit numbers that the network computes with, if it does.
    pub fn half(self) -> Option<Half> {
        match self {
            Precision::F32 | Precision::Tf32 => None,
            Precision::Bf16 => Some(Half::Bf16),
            Precision::F16 => Some(Half::F16),
        }
    }
}

impl Default for RunSection {
    fn default() -> Self {
        RunSection {
            seed: 1,
            device: DeviceKind::Cpu,
            threads: 2,
            makers: 1,
            precision: Precision::F32,
            checkpoint_interval: 300.0,
            evaluate_every: 1000,
            heldout: 192,
            draw_every: 0,
            divergence: 10.0,
            hang_timeout: 1800.0,
        }
    }
}

impl OptimizerSection {
    /// Images whose gradient is taken at once.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch.unwrap_or(self.batch)
    }

    /// The batch of step `step`, and the number of its first draw.
    pub fn batch_at(&self, step: u64) -> (usize, u64) {
        let (mut first, mut batch, mut draw) = (0, self.batch, 0);
        for stage in self.later.iter().take_while(|stage| stage.from_step <= step) {
            draw += (stage.from_step - first) * batch as u64;
            (first, batch) = (stage.from_step, stage.batch);
        }
        (batch, draw + (step - first) * batch as u64)
    }

    /// Least number of micro-batches in a batch.
    pub fn least_micro_batches(&self) -> usize {
        let batches = self.later.iter().map(|stage| stage.batch);
        batches.fold(self.batch, usize::min) / self.micro_batch().max(1)
    }

    /// The largest shifts, each with the draw from which on it holds: `shift`, then those of the later stages.
    pub fn shifts(&self, shift: usize) -> Vec<(u64, usize)> {
        let later = self.later.iter().map(|stage| (self.batch_at(stage.from_step).1, stage.shift));
        std::iter::once((0, shift)).chain(later).collect()
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::usage(format!("optimizer: {what}")));
        let batches: Vec<usize> =
            std::iter::once(self.batch).chain(self.later.iter().map(|stage| stage.batch)).collect();
        if self.steps == 0 || batches.contains(&0) {
            return wrong("`batch` and `steps` must be positive");
        }
        let micro = self.micro_batch();
        if micro == 0 || batches.iter().any(|batch| batch % micro != 0) {
            return wrong("`micro_batch` must divide every `batch` (and be given where there are `later` stages)");
        }
        if self.later.iter().zip(&self.later[1.min(self.later.len())..]).any(|(a, b)| a.from_step >= b.from_step)
            || self.later.first().is_some_and(|stage| stage.from_step == 0)
        {
            return wrong("the `from_step` of `later` stages must rise, from 1 on");
        }
        if !(0.0..1.0).contains(&self.beta2) || self.clip.is_nan() || self.clip < 0.0 {
            return wrong("`beta2` must be in [0, 1) and `clip` not negative");
        }
        Ok(())
    }
}

impl TrainConfig {
    /// The network that is trained; its kind also says by which loss.
    pub fn architecture(&self) -> Result<Architecture> {
        match (&self.network, &self.unet) {
            (Some(lean), None) => Ok(Architecture::Lean(lean.clone())),
            (None, Some(unet)) => Ok(Architecture::Unet(UnetConfig {
                image_size: self.data.size as i64,
                num_channels: unet.num_channels,
                num_res_blocks: unet.num_res_blocks,
                num_heads: unet.num_heads,
                attention_resolutions: unet.attention_resolutions.clone(),
                learn_sigma: unet.learn_sigma,
                noise_schedule: unet.noise_schedule.clone(),
                diffusion_steps: unet.diffusion_steps,
                ..UnetConfig::published()
            })),
            _ => Err(Error::usage("one of [network] (lean, EDM) and [unet] (improved-diffusion, VP) must be there")),
        }
    }

    /// What makes an image's scale.
    pub fn normalisation(&self) -> Result<Normalisation> {
        let kind = self.data.images.as_ref().map(|images| images.normalisation).unwrap_or_default();
        Ok(kind.of_card(self.reference_band()?))
    }

    /// Index of the band whose total flux is one.
    pub fn reference_band(&self) -> Result<usize> {
        Ok(self.data.grid()?.reference)
    }

    /// Reads and checks a config.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::usage(format!("{}: cannot read the config: {error}", path.display())))?;
        let config: TrainConfig =
            toml::from_str(&text).map_err(|error| Error::usage(format!("{}: {error}", path.display())))?;
        config.check().map_err(|error| Error::usage(format!("{}: {error}", path.display())))?;
        Ok(config)
    }

    /// Checks what the types cannot say.
    pub fn check(&self) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let wrong = |key: &str, what: &str| Err(Error::usage(format!("{key}: {what}")));
        self.reference_band()?;
        self.optimizer.check()?;
        if self.prior.asinh_scale.is_some_and(|scale| !positive(scale)) {
            return wrong("prior.asinh_scale", "expected a positive number");
        }
        self.architecture()?;
        if self.run.divergence.is_nan() || self.run.divergence <= 1.0 || !positive(self.run.hang_timeout) {
            return wrong("run", "`divergence` must be above 1 and `hang_timeout` positive");
        }
        if self.run.makers == 0 {
            return wrong("run.makers", "expected at least 1, found 0");
        }
        if !positive(self.levels.sigma_min) || self.levels.count < 2 || !positive(self.levels.t_max_factor) {
            return wrong("levels", "`sigma_min` and `t_max_factor` must be positive, `count` at least 2");
        }
        if self.covariance.images < 2 || self.covariance.rank < 0 || !positive(self.covariance.floor) {
            return wrong("covariance", "`images` must be at least 2, `rank` at least 0 and `floor` positive");
        }
        if self.covariance.coarse < 1 || self.data.size as i64 % self.covariance.coarse != 0 {
            return wrong("covariance.coarse", "expected a divisor of data.size; 1 keeps the components at full size");
        }
        if !(0.0..1.0).contains(&self.optimizer.ema) {
            return wrong("optimizer.ema", "expected a number in [0, 1)");
        }
        Ok(())
    }
}
