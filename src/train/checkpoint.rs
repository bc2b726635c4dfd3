//! A training run's checkpoint: one safetensors file from which the run goes on to the same bits. It also carries what
//! was measured on the images at the start, so that a resumed run does not measure again.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::forward::Stretch;
use crate::prior::card::Card;
use crate::prior::file::{covariance, moment_tensors, prior_bytes};
use crate::prior::store::{Store, to_bytes};
use crate::train::config::{Decay, TrainConfig};
use crate::train::scale::LossScale;
use crate::train::setup::Setup;
use crate::train::source::ImageSource;
use crate::train::trainer::Trainer;
use crate::{Error, Result};

/// The metadata key of a checkpoint.
const KEY: &str = "training";

/// What a checkpoint says beside its tensors.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    step: u64,
    config: TrainConfig,
    data_digest: String,
    stretch: Stretch,
    sigma_max: f64,
    #[serde(default)]
    scale: LossScale,
}

/// The bytes of a checkpoint of `trainer`, which trains on the images of this digest.
pub fn checkpoint_bytes(trainer: &Trainer, data_digest: &str) -> Result<Vec<u8>> {
    let setup = &trainer.setup;
    let header = Header {
        step: trainer.step,
        config: trainer.config.clone(),
        data_digest: data_digest.into(),
        stretch: setup.stretch,
        sigma_max: setup.sigma_max,
        scale: trainer.scale,
    };
    let text = serde_json::to_string(&header).map_err(|error| Error::internal(format!("checkpoint: {error}")))?;
    let mut tensors = moment_tensors(&setup.covariance, &setup.flux_mean, &setup.flux_variance, 0)?;
    for (name, tensor) in trainer.optimizer.state() {
        tensors.push((format!("optimizer.{name}"), tensor.shallow_clone()));
    }
    to_bytes(KEY, &text, &tensors)
}

/// A trainer that goes on where the checkpoint was made. Another config (but for how the machine is used) or other images
/// are an error.
pub fn resume(
    path: &Path,
    config: &TrainConfig,
    data_digest: &str,
    shape: [i64; 3],
    device: Device,
) -> Result<Trainer> {
    let bytes = std::fs::read(path).map_err(|error| Error::file(path, format!("cannot read: {error}")))?;
    resume_bytes(&bytes, config, data_digest, shape, device)
        .map_err(|error| Error::usage(format!("{}: cannot resume: {error}", path.display())))
}

/// The same from bytes.
pub fn resume_bytes(
    bytes: &[u8],
    config: &TrainConfig,
    data_digest: &str,
    shape: [i64; 3],
    device: Device,
) -> Result<Trainer> {
    let store = Store::from_bytes(bytes, KEY)?;
    let header: Header = serde_json::from_str(&store.text)
        .map_err(|error| Error::usage(format!("its header is not that of this program's checkpoints: {error}")))?;
    let mut ours = config.clone();
    ours.run = header.config.run.clone();
    ours.run.seed = config.run.seed;
    // What the images are is said by their digest; where they lie may change.
    ours.data = header.config.data.clone();
    if (&ours.network, &ours.unet) != (&header.config.network, &header.config.unet) {
        return Err(Error::usage(format!(
            "the config has changed since: the checkpoint is of another architecture, {:?}; the config has {:?}: train into \
             another folder",
            header.config.architecture()?,
            ours.architecture()?
        )));
    }
    if ours.prior != header.config.prior {
        return Err(Error::usage(format!(
            "the config has changed since: the checkpoint is of the prior `{}` with another card ([prior]); the config's is \
             `{}`: train into another folder, or put the config back",
            header.config.prior.name, ours.prior.name
        )));
    }
    if ours != header.config {
        return Err(Error::usage("the config has changed since; train into another folder, or put the config back"));
    }
    if data_digest != header.data_digest {
        return Err(Error::usage("the training images have changed since; train into another folder"));
    }
    let setup = Setup {
        stretch: header.stretch,
        covariance: covariance(&store, shape)?,
        sigma_max: header.sigma_max,
        flux_mean: store.get("moments.flux_mean", &shape)?,
        flux_variance: store.get("moments.flux_variance", &shape)?,
    };
    let mut trainer = Trainer::on(config, setup, device)?;
    let length = trainer.layout.length();
    for name in ["weights", "first_moment", "second_moment", "average"] {
        trainer.optimizer.restore(name, &store.get(&format!("optimizer.{name}"), &[length])?)?;
    }
    (trainer.step, trainer.scale) = (header.step, header.scale);
    Ok(trainer)
}

/// The bytes of the prior that the averaged weights make.
pub fn shipped_bytes(trainer: &Trainer, source: &dyn ImageSource) -> Result<Vec<u8>> {
    let (config, setup) = (&trainer.config, &trainer.setup);
    let optimizer = &config.optimizer;
    let stages: String =
        optimizer.later.iter().map(|stage| format!(", {} from step {}", stage.batch, stage.from_step)).collect();
    let levels = match &config.unet {
        Some(unet) => format!(
            "noise prediction, {} schedule of {} steps, t uniform{}",
            unet.noise_schedule,
            unet.diffusion_steps,
            if unet.learn_sigma { ", learned variance" } else { "" }
        ),
        None => format!(
            "ln sigma normal({}, {}) with {} log-uniform, from {} to {:.1}",
            config.levels.ln_mean,
            config.levels.ln_sd,
            config.levels.uniform_share,
            config.levels.sigma_min,
            setup.sigma_max
        ),
    };
    let fall = match optimizer.decay {
        Decay::Cosine => " and a cosine",
        Decay::Constant => "",
    };
    let recipe = format!(
        "{} of {} steps of {} images{stages}, AdamW {} with {} steps of warm-up{fall}, average of weights {}; {levels}",
        trainer.step, optimizer.steps, optimizer.batch, optimizer.learning_rate, optimizer.warmup, optimizer.ema
    );
    let card = Card {
        name: config.prior.name.clone(),
        architecture: config.architecture()?,
        pixel_kpc: config.data.pixel_kpc,
        size: config.data.size as i64,
        bands: config.data.bands.clone(),
        stretch: setup.stretch,
        normalisation: config.normalisation()?,
        sigma_min: trainer.range()[1],
        sigma_max: trainer.range()[0],
        redshift_range: config.prior.redshift_range,
        resolution_kpc: source.resolution_kpc(),
        training_data: source.description(),
        training_digest: source.digest(),
        recipe,
        caution: config.prior.caution.clone(),
    };
    let weights: Vec<(String, Tensor)> = trainer.layout.views(&trainer.optimizer.average)?;
    let moments = moment_tensors(&setup.covariance, &setup.flux_mean, &setup.flux_variance, 0)?;
    prior_bytes(&card, &weights, moments)
}
