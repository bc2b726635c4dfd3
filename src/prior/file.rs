//! A prior's file: safetensors, with the card as the metadata `card`, and tensors
//!
//! ```text
//! network.*               weights of the denoising network, f16 (lean) or f32 (U-Net)
//! mixture.images          [M, C, n, n] component images (mixture)
//! moments.mean            [C, n, n]    mean in the stretched space
//! moments.components      [K, C n n]   principal components          moments.variances [K]
//!                         [K, C, m, m] the same on a coarser grid, f16 (coarse.rs)
//! moments.diagonal        [C, n, n]    variance left to each pixel
//! moments.flux_mean       [C, n, n]    mean and variance of prior draws in linear flux at unit amplitude
//! moments.flux_variance   [C, n, n]
//! moments.spread_levels   [L]          ln t of the table of the network's uncertainty (spread.rs), where it was measured
//! moments.spread_nodes    [L, C, K]    moments.spread_ln_factors [L, C, K]
//! moments.flux_draws      [1]          number of draws behind them; 0: they are those of the training images
//! ```

use std::path::Path;

use safetensors::SafeTensors;
use tch::{Device, Kind, Tensor};

use crate::prior::analytic::{GaussianDenoiser, MixtureDenoiser};
use crate::prior::card::{Architecture, Card};
use crate::prior::lean::LeanNetwork;
use crate::prior::lean_denoiser::LeanDenoiser;
use crate::prior::skip::Skip;
use crate::prior::store::{Store, to_bytes};
use crate::prior::unet::Unet;
use crate::prior::vp::VpDenoiser;
use crate::prior::{Covariance, Denoiser, Spread};
use crate::{Error, Result};

/// The metadata key of the card.
pub const KEY: &str = "card";
/// What the names of per-draw quantities begin with.
const SAMPLES: &str = "moments.samples.";
/// What the names of the table of the network's uncertainty begin with.
const SPREAD: &str = "moments.spread_";

/// A prior, ready to be used on one device.
pub struct Prior {
    pub card: Card,
    pub covariance: Covariance,
    /// Mean of prior draws in linear flux at unit amplitude, `[C, n, n]`.
    pub flux_mean: Tensor,
    /// Their variance, `[C, n, n]`.
    pub flux_variance: Tensor,
    /// Draws behind `flux_mean` and `flux_variance`; 0 where they are those of the training images.
    pub flux_draws: u64,
    /// How its uncertainty differs from place to place, where that was measured.
    pub spread: Option<Spread>,
    pub denoiser: Box<dyn Denoiser>,
    /// blake3 of the file.
    pub digest: String,
}

/// The card of a prior's file, without its tensors.
pub fn card(bytes: &[u8]) -> Result<Card> {
    let (_, header) = SafeTensors::read_metadata(bytes)
        .map_err(|error| Error::usage(format!("the prior is not a safetensors file: {error}")))?;
    let text = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
    let text = text.ok_or_else(|| Error::usage(format!("the prior's metadata has no key `{KEY}`")))?;
    serde_json::from_str(text).map_err(|error| Error::usage(format!("the prior's card: {error}")))
}

impl Prior {
    /// Reads the prior at `path`. It is an input: what cannot be read or used is a usage error that names the file.
    pub fn read(path: &Path, device: Device) -> Result<Self> {
        let bytes = crate::io::bytes::read(path).map_err(|error| Error::usage(error.to_string()))?;
        Self::from_bytes(&bytes, device).map_err(|error| match error {
            Error::Usage(what) => Error::usage(format!("{}: {what}", path.display())),
            other => other,
        })
    }

    /// From a file's bytes. Errors name the tensor, what was expected and what was found.
    pub fn from_bytes(bytes: &[u8], device: Device) -> Result<Self> {
        let store = Store::from_bytes(bytes, KEY)?;
        let card: Card =
            serde_json::from_str(&store.text).map_err(|error| Error::usage(format!("the prior's card: {error}")))?;
        let shape = [card.bands.len() as i64, card.size, card.size];
        let pixels = shape.iter().product::<i64>();
        let covariance = covariance(&store, shape)?.to_device(device)?;
        let denoiser: Box<dyn Denoiser> = match &card.architecture {
            Architecture::Lean(config) => {
                let mut source = |name: &str, shape: &[i64], _| {
                    Ok(store.get(&format!("network.{name}"), shape)?.f_to_device(device)?)
                };
                let network = LeanNetwork::new(config, Skip::inputs(shape[0]), shape[0], shape[1], &mut source)?;
                Box::new(LeanDenoiser::new(network, covariance.to_device(device)?))
            }
            Architecture::Gaussian => Box::new(GaussianDenoiser::new(covariance.to_device(device)?)),
            Architecture::Mixture { components, scatter } => {
                let size = [*components as i64, shape[0], shape[1], shape[2]];
                Box::new(MixtureDenoiser::new(store.get("mixture.images", &size)?.f_to_device(device)?, *scatter)?)
            }
            Architecture::Unet(config) => {
                if config.image_size != card.size {
                    return Err(Error::usage(format!(
                        "the prior's card: size is {}, but its U-Net has image_size {}",
                        card.size, config.image_size
                    )));
                }
                let source = |name: &str, shape: &[i64]| store.get(&format!("network.{name}"), shape);
                Box::new(VpDenoiser::of_unet(Unet::from_source(config, shape[0], &source, device)?, config)?)
            }
        };
        let image = |name: &str| -> Result<Tensor> { Ok(store.get(name, &shape)?.f_to_device(device)?) };
        let spread = spread(&store, shape[0], device)?;
        debug_assert_eq!(pixels, covariance.mean.numel() as i64);
        Ok(Prior {
            flux_mean: image("moments.flux_mean")?,
            flux_variance: image("moments.flux_variance")?,
            flux_draws: store.get("moments.flux_draws", &[1])?.f_double_value(&[0])? as u64,
            spread,
            denoiser,
            covariance,
            card,
            digest: blake3::hash(bytes).to_hex().to_string(),
        })
    }

    /// `[C, n, n]`
    pub fn shape(&self) -> [i64; 3] {
        self.covariance.shape
    }
}

/// The covariance in a file.
pub fn covariance(store: &Store, shape: [i64; 3]) -> Result<Covariance> {
    let pixels = shape.iter().product::<i64>();
    let rank = store.any("moments.variances")?.numel() as i64;
    let variances = store.get("moments.variances", &[rank])?;
    let mean = store.get("moments.mean", &shape)?.f_view([pixels])?;
    let diagonal = store.get("moments.diagonal", &shape)?.f_view([pixels])?;
    for (name, tensor) in [("moments.variances", &variances), ("moments.diagonal", &diagonal)] {
        if tensor.numel() > 0 && tensor.f_min()?.f_double_value(&[])? < 0.0 {
            return Err(Error::usage(format!("tensor `{name}` holds negative variances")));
        }
    }
    match store.find("moments.components").map(Tensor::size).as_deref() {
        Some(&[_, _, side, _]) if side > 0 && shape[1] % side == 0 => {
            let coarse = store.get("moments.components", &[rank, shape[0], side, side])?.f_to_kind(Kind::Half)?;
            Covariance::of_coarse(shape, mean, coarse, variances, diagonal)
        }
        _ => {
            let components = store.get("moments.components", &[rank, pixels])?;
            Covariance::new(shape, mean, components, variances, diagonal)
        }
    }
}

/// The table of the network's uncertainty in a file; `None` where it was not measured.
fn spread(store: &Store, bands: i64, device: Device) -> Result<Option<Spread>> {
    let Some(levels) = store.find("moments.spread_levels") else { return Ok(None) };
    let levels = Vec::<f64>::try_from(levels.f_to_kind(Kind::Double)?.f_view(-1)?)?;
    let nodes = store.any("moments.spread_nodes")?;
    let shape = [levels.len() as i64, bands, nodes.size().last().copied().unwrap_or(0)];
    let nodes = store.get("moments.spread_nodes", &shape)?;
    let ln_factors = store.get("moments.spread_ln_factors", &shape)?;
    Ok(Some(Spread::new(levels, nodes, ln_factors)?.to_device(device)?))
}

/// The tensors of a covariance and of flux moments, by their names in a file.
pub fn moment_tensors(
    covariance: &Covariance,
    flux_mean: &Tensor,
    flux_variance: &Tensor,
    flux_draws: u64,
) -> Result<Vec<(String, Tensor)>> {
    let shape = covariance.shape;
    let draws = Tensor::f_from_slice(&[flux_draws as f64])?;
    let parts = [
        ("mean", covariance.mean.f_view(shape)?),
        ("components", covariance.coarse.as_ref().unwrap_or(&covariance.components).shallow_clone()),
        ("variances", covariance.variances.shallow_clone()),
        ("diagonal", covariance.diagonal.f_view(shape)?),
        ("flux_mean", flux_mean.shallow_clone()),
        ("flux_variance", flux_variance.shallow_clone()),
        ("flux_draws", draws),
    ];
    Ok(parts.into_iter().map(|(name, tensor)| (format!("moments.{name}"), tensor)).collect())
}

/// The bytes of a prior's file. `weights` are the network's parameters by name (stored as `network.*`, those of lean networks in f16), or the
/// `mixture.images` of a mixture (stored as they are).
pub fn prior_bytes(card: &Card, weights: &[(String, Tensor)], moments: Vec<(String, Tensor)>) -> Result<Vec<u8>> {
    let mut tensors = moments;
    for (name, tensor) in weights {
        match card.architecture {
            // A network trained elsewhere must give the same numbers.
            Architecture::Unet(_) => tensors.push((format!("network.{name}"), tensor.shallow_clone())),
            Architecture::Mixture { .. } => tensors.push((name.clone(), tensor.shallow_clone())),
            _ => tensors.push((format!("network.{name}"), tensor.f_to_kind(Kind::Half)?)),
        }
    }
    to_bytes(KEY, &card_text(card)?, &tensors)
}

/// What was measured on draws of a prior.
#[derive(Debug)]
pub struct DrawMoments {
    /// Mean and variance of the flux, `[C, n, n]`.
    pub mean: Tensor,
    pub variance: Tensor,
    pub draws: u64,
    /// The Gaussian part, where it is not part of the network; `None` leaves the file's as it is.
    pub covariance: Option<Covariance>,
    /// How the network's uncertainty differs from place to place; `None` leaves the file's as it is.
    pub spread: Option<Spread>,
    /// Per-draw quantities (`posterior::morphology`), each `[draws]`, for reweighting populations.
    pub samples: Vec<(String, Vec<f32>)>,
}

/// The same file with moments measured on draws; everything else keeps its bits.
pub fn with_flux_moments(bytes: &[u8], moments: &DrawMoments) -> Result<Vec<u8>> {
    let store = Store::from_bytes(bytes, KEY)?;
    let text = store.text.clone();
    let mut tensors: Vec<(String, Tensor)> = store.into_tensors().into_iter().collect();
    tensors.retain(|(name, _)| !name.starts_with(SAMPLES));
    if let Some(spread) = &moments.spread {
        tensors.retain(|(name, _)| !name.starts_with(SPREAD));
        let (levels, nodes, ln_factors) = spread.parts();
        tensors.push((format!("{SPREAD}levels"), Tensor::f_from_slice(levels)?));
        tensors.push((format!("{SPREAD}nodes"), nodes.shallow_clone()));
        tensors.push((format!("{SPREAD}ln_factors"), ln_factors.shallow_clone()));
    }
    if let Some(covariance) = &moments.covariance {
        let measured = moment_tensors(covariance, &moments.mean, &moments.variance, moments.draws)?;
        tensors.retain(|(name, _)| measured.iter().all(|(other, _)| other != name));
        tensors.extend(measured);
    }
    for (name, values) in &moments.samples {
        tensors.push((format!("{SAMPLES}{name}"), Tensor::f_from_slice(values)?));
    }
    let DrawMoments { mean, variance, draws, .. } = moments;
    for (name, tensor) in &mut tensors {
        match name.as_str() {
            "moments.flux_mean" => *tensor = mean.shallow_clone(),
            "moments.flux_variance" => *tensor = variance.shallow_clone(),
            "moments.flux_draws" => *tensor = Tensor::f_from_slice(&[*draws as f64])?,
            _ => {}
        }
    }
    to_bytes(KEY, &text, &tensors)
}

/// The per-draw quantities in a file, of those called `names`; none where its moments are not those of draws.
pub fn draw_samples(bytes: &[u8], names: &[String]) -> Result<Vec<(String, Vec<f32>)>> {
    let store = Store::from_bytes(bytes, KEY)?;
    let mut samples = Vec::new();
    for name in names {
        if let Some(values) = store.find(&format!("{SAMPLES}{name}")) {
            samples.push((name.clone(), Vec::<f32>::try_from(values.f_view(-1)?)?));
        }
    }
    Ok(samples)
}

fn card_text(card: &Card) -> Result<String> {
    serde_json::to_string_pretty(card).map_err(|error| Error::internal(format!("the prior's card: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn card(architecture: Architecture) -> Card {
        Card::example(architecture, 8)
    }

    fn moments() -> Vec<(String, Tensor)> {
        let normal = |count| Tensor::from_slice(&Key::new(1, "file", 0, Purpose::Evaluation, 0).normal(count));
        let (q, _) = Tensor::linalg_qr(&normal(128 * 2).view([128, 2]), "reduced");
        let diagonal = Tensor::full([128], 0.1, (Kind::Float, Device::Cpu));
        let shape = [2, 8, 8];
        let covariance =
            Covariance::new(shape, normal(128), q.tr().contiguous(), Tensor::from_slice(&[4.0f32, 1.0]), diagonal)
                .unwrap();
        moment_tensors(&covariance, &normal(128).view(shape), &normal(128).square().view(shape), 0).unwrap()
    }

    #[test]
    fn analytic_priors_are_written_and_read() {
        let gaussian = prior_bytes(&card(Architecture::Gaussian), &[], moments()).unwrap();
        let prior = Prior::from_bytes(&gaussian, Device::Cpu).unwrap();
        assert_eq!((prior.shape(), prior.flux_draws), ([2, 8, 8], 0));
        let x = Tensor::ones([1, 2, 8, 8], (Kind::Float, Device::Cpu));
        let expected = prior.covariance.level(0.5).unwrap().wiener(&x).unwrap();
        assert_eq!(prior.denoiser.denoise(&x, 0.5).unwrap(), expected);

        let mixture = card(Architecture::Mixture { components: 3, scatter: 0.1 });
        let images =
            Tensor::from_slice(&Key::new(1, "m", 0, Purpose::Evaluation, 0).normal(3 * 128)).view([3, 2, 8, 8]);
        let weights = [("mixture.images".to_owned(), images)];
        let bytes = prior_bytes(&mixture, &weights, moments()).unwrap();
        assert_eq!(Prior::from_bytes(&bytes, Device::Cpu).unwrap().denoiser.shape(), [2, 8, 8]);
        let wrong = card(Architecture::Mixture { components: 4, scatter: 0.1 });
        let message = Prior::from_bytes(&prior_bytes(&wrong, &weights, moments()).unwrap(), Device::Cpu).err().unwrap();
        let message = message.to_string();
        assert!(message.contains("mixture.images") && message.contains("[3, 2, 8, 8]"), "{message}");
        assert!(message.contains("[4, 2, 8, 8]"), "{message}");
    }

    #[test]
    fn new_flux_moments_leave_the_rest_alone() {
        let bytes = prior_bytes(&card(Architecture::Gaussian), &[], moments()).unwrap();
        let ones = Tensor::ones([2, 8, 8], (Kind::Float, Device::Cpu));
        let samples = vec![("r50".to_string(), vec![1.0f32, 2.5]), ("gini".to_string(), vec![0.5, f32::NAN])];
        let measured = |samples| DrawMoments {
            mean: ones.copy(),
            variance: &ones * 2.0,
            draws: 77,
            covariance: None,
            spread: None,
            samples,
        };
        let changed = with_flux_moments(&bytes, &measured(samples.clone())).unwrap();
        let names = ["r20", "r50"].map(String::from);
        assert_eq!(draw_samples(&changed, &names).unwrap(), samples[..1]);
        assert_eq!(draw_samples(&bytes, &names).unwrap(), []);
        // What was measured before is replaced as a whole.
        let again = with_flux_moments(&changed, &measured(samples[1..].to_vec())).unwrap();
        assert_eq!(draw_samples(&again, &names).unwrap(), []);
        let (old, new) =
            (Prior::from_bytes(&bytes, Device::Cpu).unwrap(), Prior::from_bytes(&changed, Device::Cpu).unwrap());
        assert_eq!((new.flux_mean, new.flux_draws), (ones, 77));
        assert_eq!((new.covariance.components, new.card), (old.covariance.components, old.card));
        assert_ne!(new.digest, old.digest);
    }

    #[test]
    fn broken_files_are_usage_errors_that_name_the_trouble() {
        let message = |bytes: &[u8]| Prior::from_bytes(bytes, Device::Cpu).err().unwrap().to_string();
        assert!(message(b"no such thing").contains("safetensors"));
        let mut without = moments();
        without.retain(|(name, _)| name != "moments.diagonal");
        let bytes = prior_bytes(&card(Architecture::Gaussian), &[], without).unwrap();
        assert!(message(&bytes).contains("moments.diagonal"));
        let lean = crate::prior::card::LeanConfig { channels: vec![16], unshuffle: 2, blocks: 1, heads: 0 };
        let bytes = prior_bytes(&card(Architecture::Lean(lean)), &[], moments()).unwrap();
        assert!(message(&bytes).contains("network.embed.0.weight"));
    }
}
