//! What images are compared by: measured quantities, the prior's own network, and a user's network (Inception).

use std::path::Path;

use tch::{CModule, Device, Kind, Tensor};

use crate::posterior::morphology;
use crate::prior::Prior;
use crate::sampler::to_vec;
use crate::{Error, Result};

/// Images that go through a network at a time.
const BLOCK: i64 = 32;
/// The noise level at which the prior's own network looks at images without noise, stretched units: there the shipped one
/// knows most beyond the Gaussian part of the prior.
const ENCODER_LEVEL: f64 = 0.2;
/// Pixels on a side of what Inception was made for.
const INCEPTION_SIZE: i64 = 299;
/// Stretched value that is shown to it as 1, as on contact sheets.
const WHITE: f64 = 5.0;
/// Quantities that features are made of, each on a scale on which its distribution is not far from a bell. The flux in the
/// reference band is one by normalisation, and the position angle goes round in a circle.
const LOGARITHMIC: [&str; 3] = ["r20", "r50", "r80"];
const LINEAR: [&str; 7] = ["concentration", "asymmetry", "gini", "m20", "e1", "e2", "colour_gradient"];

/// Features of draws, training and held-out images, `[N, F]` each, f64.
#[derive(Debug)]
pub struct Features {
    /// What they are, for people.
    pub name: String,
    pub draws: Tensor,
    pub train: Tensor,
    pub heldout: Tensor,
}

impl Features {
    /// The three sets, in units of the training images' standard deviation and from their mean. What does not vary there is
    /// left out.
    pub fn standardised(name: &str, draws: &Tensor, train: &Tensor, heldout: &Tensor) -> Result<Features> {
        let wide = train.f_to_kind(Kind::Double)?;
        let mean = wide.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
        let sd = wide.f_std_dim([0i64].as_slice(), true, true)?;
        let varies = sd.f_gt_tensor(&mean.f_abs()?.f_mul_scalar(1e-6)?)?.f_view(-1)?;
        let kept = varies.f_nonzero()?.f_view(-1)?;
        if kept.numel() == 0 {
            return Err(Error::internal(format!("{name}: no feature varies among the training images")));
        }
        let scaled = |set: &Tensor| -> Result<Tensor> {
            Ok(set.f_to_kind(Kind::Double)?.f_sub(&mean)?.f_div(&sd)?.f_index_select(1, &kept)?)
        };
        Ok(Features { name: name.into(), draws: scaled(draws)?, train: scaled(train)?, heldout: scaled(heldout)? })
    }

    /// The sets without the scaling.
    pub fn plain(name: &str, draws: Tensor, train: Tensor, heldout: Tensor) -> Features {
        Features { name: name.into(), draws, train, heldout }
    }
}

/// Measured quantities of a set of images.
#[derive(Debug)]
pub struct Morphology {
    pub names: Vec<String>,
    /// A row for each image; NaN where something could not be measured.
    pub rows: Vec<Vec<f32>>,
}

impl Morphology {
    /// Measures stretched images `[N, C, n, n]` of a prior.
    pub fn of(prior: &Prior, images: &Tensor) -> Result<Morphology> {
        let [bands, height, width] = prior.shape();
        let pixels = (bands * height * width) as usize;
        let area = (height * width) as usize;
        let reference = prior.card.normalisation.reference();
        let flux = to_vec(&prior.card.stretch.inverse(images)?)?;
        let mut rows = Vec::new();
        for image in flux.chunks(pixels) {
            let total: f32 = image[reference * area..][..area].iter().sum();
            let scaled: Vec<f32> = image.iter().map(|value| value / total).collect();
            let measured = morphology::morphology(&scaled, bands as usize, prior.card.pixel_kpc, reference)?;
            rows.push(measured.into_iter().map(|(_, value)| value).collect());
        }
        Ok(Morphology { names: morphology::names(bands as usize), rows })
    }

    /// The finite values of one quantity.
    pub fn column(&self, index: usize) -> Vec<f64> {
        let values = self.rows.iter().map(|row| f64::from(row[index]));
        values.filter(|value| value.is_finite()).collect()
    }

    /// Colours, radii, structure and shape as features, `[N, F]`. What could not be measured stands at the mean of `like`, which
    /// makes an image neither near nor far.
    pub fn features(&self, like: &Morphology) -> Result<Tensor> {
        let mut columns = Vec::new();
        for (index, name) in self.names.iter().enumerate() {
            let logarithmic = LOGARITHMIC.contains(&name.as_str());
            if !(logarithmic || LINEAR.contains(&name.as_str()) || name.starts_with("colour_")) {
                continue;
            }
            let scale = |value: f64| if logarithmic { value.ln() } else { value };
            let known: Vec<f64> = like.column(index).into_iter().map(scale).filter(|value| value.is_finite()).collect();
            let usual = known.iter().sum::<f64>() / known.len().max(1) as f64;
            let values = self.rows.iter().map(|row| Some(scale(f64::from(row[index]))).filter(|v| v.is_finite()));
            let values: Vec<f64> = values.map(|value| value.unwrap_or(usual)).collect();
            columns.push(Tensor::f_from_slice(&values)?);
        }
        Ok(Tensor::f_stack(&columns, 1)?)
    }
}

/// What the prior's own network makes of images at its coarsest level, averaged over places, `[N, F]`; `None` where the
/// prior has no network.
pub fn encoder(prior: &Prior, images: &Tensor) -> Result<Option<Tensor>> {
    let device = prior.covariance.mean.device();
    let mut parts = Vec::new();
    for block in images.f_split(BLOCK, 0)? {
        match prior.denoiser.features(&block.f_to_device(device)?, ENCODER_LEVEL)? {
            Some(found) => parts.push(found.f_to_device(Device::Cpu)?),
            None => return Ok(None),
        }
    }
    Ok(Some(Tensor::f_cat(&parts, 0)?))
}

/// A TorchScript network of the user's. It is given `[B, 3, 299, 299]`, f32 from 0 to 1 (last, middle and first band, black at
/// zero, white at 5 in the stretched space, interpolated bilinearly), and gives `[B, F]` or `[B, F, 1, 1]`.
pub struct Inception {
    module: CModule,
    path: String,
}

impl Inception {
    /// Loads the network. An error names the file.
    pub fn load(path: &Path) -> Result<Inception> {
        let wrong = |error: &dyn std::fmt::Display| {
            Error::usage(format!("--inception {}: not a TorchScript network that can be used: {error}", path.display()))
        };
        if !path.is_file() {
            return Err(wrong(&"there is no such file"));
        }
        let mut module = CModule::load(path).map_err(|error| wrong(&error))?;
        module.f_set_eval().map_err(|error| wrong(&error))?;
        Ok(Inception { module, path: path.display().to_string() })
    }

    /// Features of stretched images `[N, C, n, n]`, `[N, F]`.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let bands = images.size()[1];
        let order = Tensor::f_from_slice(&[bands - 1, bands / 2, 0])?;
        let mut parts = Vec::new();
        for block in images.f_split(BLOCK, 0)? {
            let shown = block.f_index_select(1, &order)?.f_div_scalar(WHITE)?.f_clamp(0.0, 1.0)?;
            let shown = shown.f_upsample_bilinear2d([INCEPTION_SIZE; 2], false, None, None)?;
            let found = self.module.forward_ts(&[shown]).map_err(|error| self.wrong(&error))?;
            let size = found.size();
            if size.len() < 2 || size[0] != block.size()[0] || size[2..].iter().any(|&side| side != 1) {
                return Err(self.wrong(&format!("it gives {size:?}, expected [{}, features]", block.size()[0])));
            }
            parts.push(found.f_reshape([size[0], -1])?.f_to_kind(Kind::Double)?);
        }
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    fn wrong(&self, error: &dyn std::fmt::Display) -> Error {
        Error::usage(format!("--inception {}: {error}", self.path))
    }
}
