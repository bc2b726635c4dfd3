//! From the state dict of a network trained elsewhere to a prior's file, and back. What a prior must say of itself and no
//! state dict says (its grid, bands and stretch) comes from a description that the user writes.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::Covariance;
use super::card::{Architecture, Card, Normalisation, UnetConfig};
use super::file::{KEY, moment_tensors, prior_bytes};
use super::schedule::Schedule;
use super::weights::{Weights, safetensors_bytes};
use crate::forward::Stretch;
use crate::{Error, Result};

/// The metadata key of the hyperparameters in an exported network.
pub const HYPERPARAMETERS: &str = "hyperparameters";
/// What the names of a network's tensors begin with in a prior's file.
const NETWORK: &str = "network.";

/// The part of a prior's card that its network does not know (TOML).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    pub name: String,
    /// Pitch of the images, kpc.
    pub pixel_kpc: f64,
    /// As many as the network has, in its order.
    pub bands: Vec<String>,
    pub stretch: Stretch,
    pub normalisation: Normalisation,
    pub redshift_range: [f64; 2],
    /// Effective resolution (FWHM) of the training images, kpc.
    pub resolution_kpc: f64,
    #[serde(default)]
    pub training_data: String,
    pub caution: String,
}

impl Description {
    /// Parses and checks the text of a description; `path` is for the messages.
    pub fn parse(path: &Path, text: &str) -> Result<Description> {
        let wrong = |what: String| Error::usage(format!("{}: {what}", path.display()));
        let found: Description = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let (Stretch::Linear { scale } | Stretch::Asinh { scale }) = found.stretch;
        for (key, value) in
            [("pixel_kpc", found.pixel_kpc), ("resolution_kpc", found.resolution_kpc), ("stretch.scale", scale)]
        {
            if !positive(value) {
                return Err(wrong(format!("{key} = {value}: expected a number above 0")));
            }
        }
        let [near, far] = found.redshift_range;
        if !(near >= 0.0 && far > near && far.is_finite()) {
            return Err(wrong(format!("redshift_range = [{near}, {far}]: expected two numbers, the second larger")));
        }
        if let Normalisation::ReferenceBand { band } = found.normalisation
            && band >= found.bands.len()
        {
            return Err(wrong(format!("normalisation.band = {band}: there are {} bands, from 0", found.bands.len())));
        }
        Ok(found)
    }
}

/// The network of a weights file, and its card where the file is a prior of ours. An error where its card is of a prior without
/// a U-Net.
pub fn network_of(weights: Weights) -> Result<(Weights, Option<Card>)> {
    let Some(text) = weights.metadata().get(KEY) else { return Ok((weights, None)) };
    let wrong = |what: String| Error::file(weights.path(), what);
    let card: Card = serde_json::from_str(text).map_err(|error| wrong(format!("the prior's card in it: {error}")))?;
    match card.architecture {
        Architecture::Unet(_) => Ok((weights.below(NETWORK), Some(card))),
        other => Err(wrong(format!(
            "is a prior whose card says {:?}: only the U-Net of improved-diffusion and guided-diffusion is imported; \
             commands take this file as it is",
            other
        ))),
    }
}

/// The bytes of a prior's file: the network in f32, the card, and moments that say nothing yet (mean 0, variance 1 in every pixel),
/// until `unseeing moments` has measured them on draws.
pub fn prior_file(weights: &Weights, config: &UnetConfig, channels: i64, about: &Description) -> Result<Vec<u8>> {
    if about.bands.len() as i64 != channels {
        return Err(Error::usage(format!(
            "the description has {} bands ({}), but the network in {} has {channels}",
            about.bands.len(),
            about.bands.join(", "),
            weights.path().display()
        )));
    }
    let schedule = Schedule::named(&config.noise_schedule, config.diffusion_steps)?;
    let name = weights.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let card = Card {
        name: about.name.clone(),
        architecture: Architecture::Unet(config.clone()),
        pixel_kpc: about.pixel_kpc,
        size: config.image_size,
        bands: about.bands.clone(),
        stretch: about.stretch,
        normalisation: about.normalisation,
        sigma_min: schedule.sigma(0),
        sigma_max: schedule.sigma(schedule.steps() - 1),
        redshift_range: about.redshift_range,
        resolution_kpc: about.resolution_kpc,
        training_data: about.training_data.clone(),
        training_digest: String::new(),
        recipe: format!("imported from {name}"),
        caution: about.caution.clone(),
    };
    let shape = [channels, config.image_size, config.image_size];
    let pixels = shape.iter().product::<i64>();
    let zeros = |size: &[i64]| Tensor::f_zeros(size, (Kind::Float, Device::Cpu));
    let white = zeros(&[pixels])?.f_add_scalar(1.0)?;
    let covariance = Covariance::new(shape, zeros(&[pixels])?, zeros(&[0, pixels])?, zeros(&[0])?, white)?;
    prior_bytes(&card, weights.tensors(), moment_tensors(&covariance, &zeros(&shape)?, &zeros(&shape)?, 0)?)
}

/// The bytes of a safetensors file with the network alone, f32, under the names of the published state dict, its hyperparameters
/// in the metadata.
pub fn network_file(weights: &Weights, config: &UnetConfig) -> Result<Vec<u8>> {
    let text = serde_json::to_string(config).map_err(|error| Error::internal(error.to_string()))?;
    safetensors_bytes(weights.tensors(), HashMap::from([(HYPERPARAMETERS.to_string(), text)]), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "published"
pixel_kpc = 0.4
bands = ["g", "r", "i"]
stretch = { kind = "asinh", scale = 0.01 }
normalisation = { kind = "band-peak" }
redshift_range = [0.1, 1.0]
resolution_kpc = 0.8
caution = "a test"
"#;

    #[test]
    fn descriptions_are_strict_and_name_what_is_wrong() {
        let path = Path::new("about.toml");
        assert_eq!(Description::parse(path, GOOD).unwrap().bands.len(), 3);
        for (from, to, words) in [
            ("pixel_kpc = 0.4", "pixel_kpc = 0.0", "pixel_kpc"),
            ("[0.1, 1.0]", "[1.0, 0.1]", "redshift_range"),
            ("scale = 0.01", "scale = -1.0", "stretch.scale"),
            ("caution", "cautious", "cautious"),
            (r#"kind = "band-peak""#, r#"kind = "reference-band", band = 3"#, "normalisation.band"),
        ] {
            let error = Description::parse(path, &GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains("about.toml") && error.contains(words), "{error}");
        }
    }
}
