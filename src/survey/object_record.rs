//! From an object's merged node to its record: the quantities of the product schema.

use tch::{Kind, Tensor};

use super::trust::{Evidence, judge};
use crate::catalog::Target;
use crate::config::Config;
use crate::forward::{Field, GalaxyLikelihood, Likelihood as _};
use crate::observe::{Band, Observation};
use crate::posterior::flags::Flag;
use crate::posterior::variance_ratio::{variance_ratio, variance_ratio_paper};
use crate::posterior::{Moments, Node};
use crate::prior::Prior;
use crate::product::{ObjectRecord, RecordArray, Status};
use crate::sampler::to_vec;
use crate::sky::TanWcs;
use crate::{Error, Result};

/// Where the field lies in the observation.
pub struct Geometry {
    pub field: Field,
    /// First column and row of the window in the observation.
    pub x: usize,
    pub y: usize,
    /// World coordinates of the window.
    pub wcs: TanWcs,
    pub flags: u32,
}

impl Geometry {
    /// The window's part of a plane of the observation, `width` pixels wide.
    pub fn cut<'a, T: Copy>(&self, plane: &'a [T], width: usize) -> impl Iterator<Item = T> + use<'a, T> {
        let [my, mx] = self.field.shape.map(|side| side as usize);
        let (x, y) = (self.x, self.y);
        (y..y + my).flat_map(move |row| plane[row * width + x..row * width + x + mx].iter().copied())
    }
}

/// What a record is made from.
pub struct Parts<'a> {
    pub config: &'a Config,
    pub prior: &'a Prior,
    pub target: &'a Target,
    pub observation: &'a Observation,
    pub geometry: &'a Geometry,
    pub likelihood: &'a GalaxyLikelihood,
    pub node: Node,
    /// Per-draw quantities of the interim prior; may be empty.
    pub prior_draws: &'a [(String, Vec<f32>)],
}

/// `name_0`, `name_1`, ...: the product schema's names of the elements of a vector.
pub fn indexed(name: &str, index: usize) -> String {
    format!("{name}_{index}")
}

/// A per-sample column of a node; empty when it has none.
pub fn column<'a>(node: &'a Node, name: &str) -> &'a [f32] {
    node.samples.iter().find(|(key, _)| key == name).map_or(&[], |(_, values)| values)
}

/// What each draw is worth, between blocks and record, and in the record their sum.
pub const EFFECTIVE_DRAWS: &str = "effective_draws";

/// What the worst solve of a draw was left with, between blocks and record, and in the record the largest.
pub const SOLVE_RESIDUAL: &str = "solve_residual";

/// Draws that are worth less than this part of the samples are few.
const LEAST_WORTH: f64 = 0.5;

/// Standard deviation of the sky noise in a pixel, nJy.
pub fn noise_sd(band: &Band) -> f64 {
    let usable = || band.variance.iter().zip(&band.usable).filter(|(_, on)| **on).map(|(value, _)| f64::from(*value));
    let count = usable().count().max(1) as f64;
    (usable().sum::<f64>() / count).sqrt()
}

fn moments<'a>(node: &'a Node, name: &str) -> Result<&'a Moments> {
    let found = node.moments.iter().find(|(key, _)| key == name);
    found.map(|(_, moments)| moments).ok_or_else(|| Error::internal(format!("node without moments of `{name}`")))
}

/// Puts the record together.
pub fn assemble(parts: &Parts) -> Result<ObjectRecord> {
    let Parts { prior, target, observation, geometry, likelihood, node, .. } = parts;
    let (bands, size) = (observation.bands.len(), prior.card.size as usize);
    let field = &geometry.field;
    let [my, mx] = field.shape.map(|side| side as usize);
    let mut scalars: Vec<(String, f64)> = Vec::new();
    let mut put = |name: &str, value: f64| scalars.push((name.to_string(), value));

    put("ra", target.ra);
    put("dec", target.dec);
    put("redshift", target.redshift);
    if let Some(error) = target.redshift_error {
        put("redshift_error", error);
    }
    let flux = moments(node, "flux")?;
    put("sample_count", flux.count as f64);
    let planned = u64::from(parts.config.posterior.samples);
    let worth = column(node, EFFECTIVE_DRAWS);
    let mut few = flux.count < planned;
    if !worth.is_empty() {
        let effective = worth.iter().map(|worth| f64::from(*worth)).sum();
        put(EFFECTIVE_DRAWS, effective);
        few |= effective < LEAST_WORTH * planned as f64;
    }
    put("pixel_scale", field.prior_pitch);
    put("observation_pixel_scale", field.detector_pitch);
    put("observation_shape_0", my as f64);
    put("observation_shape_1", mx as f64);
    let product = geometry.wcs.product(field.target, prior.card.size, field.prior_pitch);
    put_wcs(&mut put, "wcs", &product.map_err(|error| Error::object(&target.id, error))?);
    put_wcs(&mut put, "observation_wcs", &geometry.wcs);
    for (index, band) in observation.bands.iter().enumerate() {
        put(&indexed("noise_sd", index), noise_sd(band));
        put(&indexed("psf_fwhm", index), likelihood.psf_fwhm()[index]);
    }

    let thresholds = &parts.config.flags;
    let mut flags = geometry.flags;
    let mut flag = |which: Flag, on: bool| flags |= if on { which.bit() } else { 0 };
    let nuisance = likelihood.nuisance();
    let (ln_means, ln_sds, sky_sds) =
        (to_vec(&nuisance.ln_amplitude_mean)?, to_vec(&nuisance.ln_amplitude_sd)?, to_vec(&nuisance.sky_sd)?);
    for (index, (ln_mean, ln_sd)) in ln_means.iter().zip(&ln_sds).enumerate() {
        let name = indexed("amplitude", index);
        let (mean, sd) = mean_sd(column(node, &name));
        put(&name, mean);
        put(&indexed("amplitude_sd", index), sd);
        flag(Flag::AmplitudeAtEdge, (mean.ln() - f64::from(*ln_mean)).abs() > thresholds.at_edge * f64::from(*ln_sd));
    }
    let mut sky = Vec::new();
    for (index, sky_sd) in sky_sds.iter().enumerate() {
        let name = indexed("sky", index);
        let (mean, sd) = mean_sd(column(node, &name));
        put(&name, mean);
        put(&indexed("sky_sd", index), sd);
        flag(Flag::SkyAtEdge, *sky_sd > 0.0 && mean.abs() > thresholds.at_edge * f64::from(*sky_sd));
        sky.push(mean as f32);
    }

    // Residuals under the noise model at the posterior mean.
    let shape = [1, bands as i64, my as i64, mx as i64];
    let model_mean: Vec<f32> = moments(node, "model")?.mean.iter().map(|&value| value as f32).collect();
    let model = Tensor::f_from_slice(&model_mean)?.f_view(shape)?.f_to_device(likelihood.data().device())?;
    let sky_levels = sky;
    let sky = Tensor::f_from_slice(&sky_levels)?.f_view([1, bands as i64, 1, 1])?.f_to_device(model.device())?;
    let light = model.f_sub(&sky)?.f_mul(likelihood.mask())?;
    let variance = likelihood.variance_of(&light)?;
    let data = likelihood.data().f_unsqueeze(0)?;
    let residual = data.f_sub(&model)?.f_mul(likelihood.mask())?.f_div(&variance.f_sqrt()?)?;
    let squared = residual.f_square()?;
    let mean_over = |weight: &Tensor| -> Result<f64> {
        let total = squared.f_mul(weight)?.f_sum(Kind::Double)?.f_double_value(&[])?;
        let count = weight.f_sum(Kind::Double)?.f_double_value(&[])?;
        Ok(if count > 0.0 { total / count } else { f64::NAN })
    };
    let mask = likelihood.mask().f_unsqueeze(0)?;
    let reduced = mean_over(&mask)?;
    put("good_pixels", mask.f_sum(Kind::Double)?.f_double_value(&[])?);
    put("reduced_chi2", reduced);
    // The galaxy: where the model is brighter than the noise of a pixel.
    let bright = light.f_gt_tensor(&variance.f_sqrt()?)?.f_to_kind(Kind::Float)?.f_mul(&mask)?;
    let galaxy = if bright.f_sum(Kind::Double)?.f_double_value(&[])? > 0.0 { mean_over(&bright)? } else { reduced };
    put("reduced_chi2_galaxy", galaxy);
    put("reduced_chi2_draws", mean_sd(column(node, "reduced_chi2")).0);
    if let Some(residual) = column(node, SOLVE_RESIDUAL).iter().copied().reduce(f32::max) {
        put(SOLVE_RESIDUAL, residual.into());
        flag(Flag::UnfinishedSolves, f64::from(residual) > thresholds.solve_residual);
    }
    flag(Flag::LostDraws, node.lost > 0);
    flag(Flag::HighChi2, reduced.max(galaxy) > thresholds.high_chi2);
    flag(Flag::FewSamples, few);
    flag(Flag::NonFiniteDraws, flux.count + u64::from(node.lost) < planned);

    let prior_flux = to_f64(&prior.flux_variance)?;
    let unit_variance = moments(node, "unit")?.variance();
    let ratio = variance_ratio(&unit_variance, &prior_flux)?;
    let stretched_prior = to_f64(&prior.covariance.variance()?)?;
    let stretched = moments(node, "stretched")?.variance();
    put("variance_ratio_paper", variance_ratio_paper(&stretched, &stretched_prior, bands, size)?);

    let on = |mask: &Tensor| -> Result<Vec<bool>> { Ok(to_vec(mask)?.into_iter().map(|value| value > 0.5).collect()) };
    let (trust, more) = judge(&Evidence {
        observation,
        geometry,
        node,
        noise: parts.config.noise.model,
        psf_includes_pixel: parts.config.data.psf_includes_pixel,
        reference: prior.card.normalisation.reference(),
        thresholds,
        prior_draws: parts.prior_draws,
        data: &to_vec(&data)?,
        model: &model_mean,
        sky: &sky_levels,
        variance: &to_vec(&variance)?,
        model_variance: &moments(node, "model")?.variance(),
        counts: &on(likelihood.inner())?,
        bright: &on(&bright.f_mul(likelihood.inner())?)?,
        used: &on(&mask)?,
        unit_variance: &unit_variance,
        prior_variance: &prior_flux,
        size,
    })?;
    scalars.extend(trust);
    flags |= more;

    let product = vec![bands, size, size];
    let observed = vec![bands, my, mx];
    let width = observation.shape[1];
    let usable = || observation.bands.iter().flat_map(|band| geometry.cut(&band.usable, width));
    let image: Vec<f32> = observation.bands.iter().flat_map(|band| geometry.cut(&band.image, width)).collect();
    let hide = |values: Vec<f32>| -> Vec<f32> {
        values.into_iter().zip(usable()).map(|(value, on)| if on { value } else { f32::NAN }).collect()
    };
    let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
    let mut arrays = vec![
        ("mean", product.clone(), narrow(&flux.mean)),
        ("variance", product.clone(), narrow(&flux.variance())),
        ("variance_ratio", product, ratio),
        ("observation", observed.clone(), image),
        ("observation_variance", observed.clone(), to_vec(&variance)?),
        ("mask", observed.clone(), usable().map(|on| f32::from(u8::from(on))).collect()),
        ("model", observed.clone(), to_vec(&light.f_add(&sky)?)?),
        ("residual", observed, hide(to_vec(&residual)?)),
    ];
    if !node.draws.is_empty() {
        let draws = node.draws.len() / (bands * size * size);
        arrays.push(("draws", vec![draws, bands, size, size], node.draws.clone()));
    }
    let arrays =
        arrays.into_iter().map(|(name, shape, values)| (name.to_string(), RecordArray { shape, values })).collect();
    Ok(ObjectRecord {
        id: target.id.clone(),
        status: Status::Done,
        reason: String::new(),
        flags,
        scalars,
        arrays,
        samples: node
            .samples
            .iter()
            .filter(|(name, _)| ![EFFECTIVE_DRAWS, SOLVE_RESIDUAL].contains(&name.as_str()))
            .cloned()
            .collect(),
    })
}

/// A WCS as scalars; the reference pixel counts from 1, as in FITS.
fn put_wcs(put: &mut impl FnMut(&str, f64), name: &str, wcs: &TanWcs) {
    for index in 0..2 {
        put(&format!("{name}_crval_{index}"), wcs.crval[index]);
        put(&format!("{name}_crpix_{index}"), wcs.crpix[index] + 1.0);
        for other in 0..2 {
            put(&format!("{name}_cd_{}", 2 * index + other), wcs.cd[index][other]);
        }
    }
}

fn to_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(to_vec(tensor)?.into_iter().map(f64::from).collect())
}

fn mean_sd(values: &[f32]) -> (f64, f64) {
    let mut moments = Moments::new(1);
    values.iter().for_each(|value| moments.push(std::slice::from_ref(value)));
    (moments.mean[0], moments.variance()[0].sqrt())
}
