//! From a block of draws to a node: moments of images and quantities of each draw.

use tch::Kind;

use crate::Result;
use crate::forward::resample::resample_image;
use crate::forward::{GalaxyLikelihood, Latent, Likelihood as _};
use crate::posterior::morphology::morphology;
use crate::posterior::{Moments, Node};
use crate::sampler::to_vec;
use crate::survey::object_record;

/// A block of draws, and what is known of its samples.
pub(super) struct Draws<'a> {
    pub latent: &'a Latent,
    /// That of the samples: with their own redshifts, where they have such.
    pub likelihood: &'a GalaxyLikelihood,
    pub redshifts: Vec<f64>,
    /// Pitch of the product images over that of each sample's grid, where samples have grids of their own.
    pub ratios: Option<Vec<f64>>,
    /// Pitch of the prior's grid, kpc: of every sample's own.
    pub pixel_kpc: f64,
    /// The band in which sizes and shapes are measured.
    pub reference: usize,
    /// Draws of this block that are kept as images.
    pub kept: usize,
}

/// Moments and per-sample quantities of a block of draws. Draws that are not finite are left out.
///
/// The moments of `flux`, and the draws that are kept, are on the grid of the product images. Those of `unit` and `stretched`
/// are on each sample's own grid, whose pixels are those of the prior's variances that they are compared with; so are the
/// measurements, in kpc. `model` is on the detector, where a pixel beyond a sample's field has the sky only, and does not
/// count in that sample's chi^2.
pub(super) fn reduce(block: &Draws) -> Result<Node> {
    let (likelihood, draws) = (block.likelihood, block.latent);
    let flux = to_vec(&likelihood.flux(draws)?)?;
    let unit = likelihood.unit(draws)?;
    let model = likelihood.predict(draws)?;
    let covered = likelihood.covered();
    let residual = likelihood.data().f_sub(&model)?;
    let chi_squared = residual
        .f_square()?
        .f_div(likelihood.linearize(draws)?.variance())?
        .f_mul(covered)?
        .f_sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double)?
        .f_div(&covered.f_sum_dim_intlist([-3i64, -2, -1].as_slice(), false, Kind::Double)?)?
        .f_to_kind(Kind::Float)?;
    let (unit, stretched, model) = (to_vec(&unit)?, to_vec(&draws.image)?, to_vec(&model)?);
    let (chi_squared, ln_amplitude, sky) = (to_vec(&chi_squared)?, to_vec(&draws.ln_amplitude)?, to_vec(&draws.sky)?);
    let count = chi_squared.len();
    let bands = sky.len() / count.max(1);
    let size = draws.image.size()[2] as usize;
    let on_grid: Option<Vec<f32>> = block.ratios.as_ref().map(|ratios| {
        let images = ratios.iter().enumerate().map(|(index, &ratio)| (part(&flux, index, count), ratio));
        images.flat_map(|(image, ratio)| resample_image(image, size, ratio)).collect()
    });
    let images: [(&str, &[f32]); 4] =
        [("flux", on_grid.as_ref().unwrap_or(&flux)), ("unit", &unit), ("stretched", &stretched), ("model", &model)];

    let mut moments: Vec<Moments> =
        images.iter().map(|(_, values)| Moments::new(values.len() / count.max(1))).collect();
    let mut samples: Vec<(String, Vec<f32>)> = Vec::new();
    let mut kept_draws = Vec::new();
    for (index, &chi_squared) in chi_squared.iter().enumerate() {
        let slices: Vec<&[f32]> = images.iter().map(|(_, values)| part(values, index, count)).collect();
        if slices.iter().any(|slice| slice.iter().any(|value| !value.is_finite())) || !chi_squared.is_finite() {
            continue;
        }
        moments.iter_mut().zip(&slices).for_each(|(moments, slice)| moments.push(slice));
        if index < block.kept {
            kept_draws.extend_from_slice(slices[0]);
        }
        let mut row: Vec<(String, f32)> = vec![("reduced_chi2".into(), chi_squared)];
        for (k, ln) in part(&ln_amplitude, index, count).iter().enumerate() {
            row.push((object_record::indexed("amplitude", k), ln.exp()));
        }
        for (k, &level) in part(&sky, index, count).iter().enumerate() {
            row.push((object_record::indexed("sky", k), level));
        }
        row.push(("redshift".into(), block.redshifts[index] as f32));
        row.extend(morphology(part(&flux, index, count), bands, block.pixel_kpc, block.reference)?);
        if samples.is_empty() {
            samples = row.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
        }
        samples.iter_mut().zip(row).for_each(|((_, column), (_, value))| column.push(value));
    }
    let moments = images.iter().zip(moments).map(|((name, _), moments)| (name.to_string(), moments)).collect();
    Ok(Node { moments, samples, draws: kept_draws })
}

/// The values of sample `index` in an array over `count` samples.
fn part(values: &[f32], index: usize, count: usize) -> &[f32] {
    let length = values.len() / count;
    &values[index * length..(index + 1) * length]
}
