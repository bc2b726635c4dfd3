//! Checks a network against recorded numbers: its output, and a vector-Jacobian product (which sees every backward
//! pass that gradient-guided samplers use).

use tch::{Device, Tensor};

use super::card::UnetConfig;
use super::unet::Unet;
use super::unet_layout::multipliers;
use super::weights::Weights;
use crate::{Error, Result};

/// The largest difference between two tensors, and the largest value of the recorded one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    pub difference: f64,
    pub largest: f64,
}

impl Difference {
    /// Relative to the largest value.
    pub fn relative(&self) -> f64 {
        self.difference / self.largest
    }

    fn of(found: &Tensor, recorded: &Tensor) -> Result<Difference> {
        let difference = found.f_sub(recorded)?.f_abs()?.f_max()?.f_double_value(&[])?;
        let largest = recorded.f_abs()?.f_max()?.f_double_value(&[])?;
        Ok(Difference { difference, largest })
    }
}

/// What a check found; `None` where nothing was recorded.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    pub output: Difference,
    pub vjp: Option<Difference>,
}

/// Compares the network with `recorded`: tensors `x`, `t`, `out`, and optionally `cotangent` and `vjp`.
pub fn check(network: &Unet, recorded: &Weights, device: Device) -> Result<Check> {
    let find = |name: &str| -> Result<Tensor> {
        let Some(tensor) = recorded.find(name) else {
            let what = format!("has no tensor `{name}`: a check needs x, t and out, and may have cotangent and vjp");
            return Err(Error::file(recorded.path(), what));
        };
        Ok(tensor.f_to_device(device)?)
    };
    let (x, t, out) = (find("x")?, find("t")?, find("out")?);
    let x = x.f_detach()?.f_set_requires_grad(true)?;
    let shape_error = |error: Error| Error::file(recorded.path(), error);
    let found = network.forward(&x, &t).map_err(shape_error)?;
    let same = |name: &str, recorded_shape: Vec<i64>, shape: Vec<i64>| {
        if recorded_shape == shape {
            return Ok(());
        }
        let what = format!("tensor `{name}` has shape {recorded_shape:?}, the network gives {shape:?}");
        Err(Error::file(recorded.path(), what))
    };
    same("out", out.size(), found.size())?;
    let output = Difference::of(&found.f_detach()?, &out)?;
    let vjp = if recorded.find("cotangent").is_some() {
        let (cotangent, vjp) = (find("cotangent")?, find("vjp")?);
        same("cotangent", cotangent.size(), found.size())?;
        same("vjp", vjp.size(), x.size())?;
        let product = found.f_mul(&cotangent)?.f_sum(tch::Kind::Float)?;
        let gradient = Tensor::f_run_backward(&[product], &[&x], false, false)?;
        Some(Difference::of(&gradient[0], &vjp)?)
    } else {
        None
    };
    Ok(Check { output, vjp })
}

/// Hyperparameters read off the shapes of a state dict, and the number of bands. What shapes do not show is taken as
/// published: four heads, the cosine schedule of 1000 steps. Where residual blocks change the resolution it is a network of
/// guided-diffusion, whose heads, order of attention and schedule differ from one published network to the next: an error.
pub fn infer_config(weights: &Weights) -> Result<(UnetConfig, i64)> {
    let fail = |what: &str| {
        let hint = "is it a state dict of the improved-diffusion or guided-diffusion U-Net? If so, put its hyperparameters in a \
             .json beside it";
        Error::file(weights.path(), format!("cannot read the hyperparameters off the shapes: {what}; {hint}"))
    };
    let first = |name: &str| weights.find(name).map(|tensor| tensor.size());
    let leading = |name: &str| first(name).and_then(|shape| shape.first().copied());
    let stem = first("input_blocks.0.0.weight").ok_or_else(|| fail("no tensor `input_blocks.0.0.weight`"))?;
    let &[_, bands, 3, 3] = stem.as_slice() else {
        return Err(fail("the first convolution is not 3 x 3"));
    };
    refuse_classes(weights)?;
    let embedding = first("time_embed.0.weight").ok_or_else(|| fail("no tensor `time_embed.0.weight`"))?;
    let Some(&base) = embedding.get(1).filter(|&&base| base > 0) else {
        return Err(fail("the time embedding has no channels"));
    };

    // Walk the decoder: the last block of each level but the finest ends with what doubles the resolution.
    let (mut raised, mut by_residuals) = (Vec::new(), false);
    for index in 0.. {
        let name = |place: usize, rest: &str| format!("output_blocks.{index}.{place}.{rest}");
        if first(&name(0, "in_layers.2.weight")).is_none() {
            break;
        }
        let residual = [1, 2].iter().any(|&place| first(&name(place, "in_layers.2.weight")).is_some());
        by_residuals |= residual;
        if residual || [1, 2].iter().any(|&place| first(&name(place, "conv.weight")).is_some()) {
            raised.push(index);
        }
    }
    let blocks = raised.first().copied().ok_or_else(|| fail("there is one level only"))? as i64;
    if blocks < 1 {
        return Err(fail("there is no residual block in a level"));
    }
    // The encoder, with one further block between levels.
    let mut found = Vec::new();
    let mut attention = Vec::new();
    for level in 0..=raised.len() as i64 {
        let name = format!("input_blocks.{}", 1 + level * (blocks + 1));
        let channels = leading(&format!("{name}.0.out_layers.3.weight"));
        found.push(
            channels.ok_or_else(|| fail(&format!("no tensor `{name}.0.out_layers.3.weight`")))? as f64 / base as f64,
        );
        attention.push(first(&format!("{name}.1.qkv.weight")).is_some());
    }
    let size = [32, 64, 128, 256, 512].into_iter().find(|&size| multipliers(size) == Some(found.as_slice()));
    let size = size
        .ok_or_else(|| fail(&format!("channel multipliers {found:?} are not those of 32, 64, 128, 256 or 512 px")))?;
    if by_residuals {
        return Err(fail("residual blocks change the resolution, and heads and schedule of such networks differ"));
    }
    let resolutions: Vec<String> =
        (0..attention.len()).filter(|&level| attention[level]).map(|level| (size >> level).to_string()).collect();
    let modulation = leading("input_blocks.1.0.emb_layers.1.weight");
    let width = leading("input_blocks.1.0.out_layers.3.weight");
    let config = UnetConfig {
        image_size: size,
        num_channels: base,
        num_res_blocks: blocks,
        num_heads: 4,
        attention_resolutions: resolutions.join(","),
        learn_sigma: leading("out.2.weight") == Some(2 * bands),
        use_scale_shift_norm: modulation == width.map(|width| 2 * width),
        ..UnetConfig::published()
    };
    Ok((config, bands))
}

/// A network that is given a class says so by a tensor of its own.
pub fn refuse_classes(weights: &Weights) -> Result<()> {
    match weights.find("label_emb.weight") {
        Some(tensor) => Err(Error::file(
            weights.path(),
            format!(
                "tensor `label_emb.weight` embeds {} classes: a class-conditional network cannot be used, for galaxies have no \
                 such labels here",
                tensor.size().first().copied().unwrap_or(0)
            ),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use tch::Kind;

    use super::*;
    use crate::forward::Stretch;
    use crate::prior::card::{Architecture, Card, Normalisation};
    use crate::prior::file::{moment_tensors, prior_bytes};
    use crate::prior::vp::VpDenoiser;
    use crate::prior::{Covariance, Denoiser, Prior};

    /// Of the largest value: f32 rounding through the network, in another order of summation.
    const TOLERANCE: f64 = 1e-4;

    fn conformance() -> Option<PathBuf> {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/conformance"));
        if !folder.is_dir() {
            println!("SKIPPED: needs ../shared");
            return None;
        }
        Some(folder.to_path_buf())
    }

    #[test]
    fn the_published_network_is_reproduced() {
        let Some(folder) = conformance() else { return };
        tch::set_num_threads(1);
        let weights = Weights::read(&folder.join("unet-32.pt")).unwrap();
        let config: UnetConfig = serde_json::from_slice(&std::fs::read(folder.join("unet-32.json")).unwrap()).unwrap();
        let (inferred, bands) = infer_config(&weights).unwrap();
        assert_eq!((&inferred, bands), (&config, 3));
        let network = Unet::load(&config, 3, &weights, Device::Cpu).unwrap();
        let recorded = Weights::read(&folder.join("unet-32.io.safetensors")).unwrap();
        let check = check(&network, &recorded, Device::Cpu).unwrap();
        println!("output {:.1e}, vjp {:.1e}", check.output.relative(), check.vjp.unwrap().relative());
        assert!(check.output.relative() < TOLERANCE && check.vjp.unwrap().relative() < TOLERANCE, "{check:?}");
        // The test can fail: with other hyperparameters of equal shapes it does.
        let other = UnetConfig { num_heads: 2, ..config };
        let network = Unet::load(&other, 3, &weights, Device::Cpu).unwrap();
        assert!(super::check(&network, &recorded, Device::Cpu).unwrap().output.relative() > TOLERANCE);
    }

    #[test]
    fn weights_of_another_network_are_refused() {
        let Some(folder) = conformance() else { return };
        let weights = Weights::read(&folder.join("unet-32.pt")).unwrap();
        let (config, _) = infer_config(&weights).unwrap();
        let cases = [
            UnetConfig { num_channels: 64, ..config.clone() },
            UnetConfig { num_res_blocks: 2, ..config.clone() },
            UnetConfig { attention_resolutions: "8".into(), ..config.clone() },
            UnetConfig { use_scale_shift_norm: false, ..config.clone() },
        ];
        for case in cases {
            let error = Unet::load(&case, 3, &weights, Device::Cpu).err().expect("an error").to_string();
            assert!(error.contains("unet-32.pt") && error.contains('`'), "{error}");
        }
    }

    #[test]
    fn a_prior_file_can_hold_the_network() {
        let Some(folder) = conformance() else { return };
        let weights = Weights::read(&folder.join("unet-32.pt")).unwrap();
        let (config, _) = infer_config(&weights).unwrap();
        let mut card = Card {
            name: "test".into(),
            architecture: Architecture::Unet(config.clone()),
            pixel_kpc: 0.4,
            size: 32,
            bands: vec!["g".into(), "r".into(), "i".into()],
            stretch: Stretch::Linear { scale: 1.0 },
            normalisation: Normalisation::BandPeak,
            sigma_min: 0.01,
            sigma_max: 100.0,
            redshift_range: [0.0, 1.0],
            resolution_kpc: 0.4,
            training_data: String::new(),
            training_digest: String::new(),
            recipe: String::new(),
            caution: String::new(),
        };
        let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
        let (image, pixels) = ([3, 32, 32], 3 * 32 * 32);
        let covariance = || {
            Covariance::new(image, zeros(&[pixels]), zeros(&[0, pixels]), zeros(&[0]), zeros(&[pixels]) + 1.0).unwrap()
        };
        let moments = || moment_tensors(&covariance(), &zeros(&image), &zeros(&image), 0).unwrap();
        let bytes = prior_bytes(&card, weights.tensors(), moments()).unwrap();
        let prior = Prior::from_bytes(&bytes, Device::Cpu).unwrap();
        let direct = VpDenoiser::load_unet(&config, 3, &weights, Device::Cpu).unwrap();
        let recorded = Weights::read(&folder.join("unet-32.io.safetensors")).unwrap();
        let x = recorded.find("x").unwrap();
        let (found, want) = (prior.denoiser.denoise(x, 1.0).unwrap(), direct.denoise(x, 1.0).unwrap());
        assert_eq!(found, want, "the network is kept in f32");

        card.size = 64;
        let error = Prior::from_bytes(&prior_bytes(&card, weights.tensors(), moments()).unwrap(), Device::Cpu);
        assert!(error.is_err());
    }
}
