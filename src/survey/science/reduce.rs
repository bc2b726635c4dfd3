//! From a block of draws to a node: moments of images and quantities of each draw.

use tch::Kind;

use crate::Result;
use crate::forward::resample::resample_image;
use crate::forward::{GalaxyLikelihood, Latent, Likelihood as _};
use crate::posterior::flags::lost;
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
    /// A draw whose chi^2 is so many times the median of the block is no fit.
    pub lost: f64,
    /// `Sampler::solve_residual` of the draws.
    pub solve_residual: Option<Vec<f32>>,
}

/// Moments and per-sample quantities of a block of draws. Draws that are not finite are left out, and those that are no fit to
/// the data: some have all their light in one pixel, where the network is unstable, and one of them would be the variance there.
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
    let lost = lost(&chi_squared, block.lost);
    for (index, &chi_squared) in chi_squared.iter().enumerate().filter(|(index, _)| !lost[*index]) {
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
        row.extend(block.solve_residual.as_ref().map(|all| (object_record::SOLVE_RESIDUAL.into(), all[index])));
        row.extend(morphology(part(&flux, index, count), bands, block.pixel_kpc, block.reference)?);
        if samples.is_empty() {
            samples = row.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
        }
        samples.iter_mut().zip(row).for_each(|((_, column), (_, value))| column.push(value));
    }
    let moments = images.iter().zip(moments).map(|((name, _), moments)| (name.to_string(), moments)).collect();
    Ok(Node { moments, samples, draws: kept_draws, lost: lost.iter().filter(|lost| **lost).count() as u32 })
}

/// The values of sample `index` in an array over `count` samples.
fn part(values: &[f32], index: usize, count: usize) -> &[f32] {
    let length = values.len() / count;
    &values[index * length..(index + 1) * length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::galaxy::tests::{input, latent};
    use tch::{Kind, Tensor};

    fn node(latent: &Latent, likelihood: &GalaxyLikelihood) -> Node {
        reduce(&Draws {
            latent,
            likelihood,
            redshifts: vec![0.3; latent.image.size()[0] as usize],
            ratios: None,
            pixel_kpc: 0.8,
            reference: 1,
            kept: 4,
            lost: 10.0,
            solve_residual: None,
        })
        .unwrap()
    }

    /// A draw that is no fit, and one that is not finite, leave everything as it is without them.
    #[test]
    fn lost_draws_are_in_nothing() {
        let likelihood = GalaxyLikelihood::new(input(Kind::Float, 1, false)).unwrap();
        let all = latent(6, 1, 40, Kind::Float);
        let all = Latent { ln_amplitude: &all.ln_amplitude * 0.1, ..all };
        let _ = all.sky.get(2).fill_(1e4);
        let _ = all.sky.get(4).fill_(f64::NAN);
        let some = Tensor::from_slice(&[0i64, 1, 3, 5]);
        let pick = |tensor: &Tensor| tensor.index_select(0, &some);
        let good = Latent { image: pick(&all.image), ln_amplitude: pick(&all.ln_amplitude), sky: pick(&all.sky) };
        let (found, expected) = (node(&all, &likelihood), node(&good, &likelihood));
        assert_eq!((found.lost, expected.lost), (1, 0));
        assert!(found.moments.iter().all(|(_, moments)| moments.count == 4));
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
        for ((name, found), (_, expected)) in found.moments.iter().zip(&expected.moments) {
            let pairs = found.mean.iter().zip(&expected.mean).chain(found.m2.iter().zip(&expected.m2));
            assert!(pairs.into_iter().all(|(&a, &b)| close(a, b)), "{name}");
        }
        for ((name, found), (_, expected)) in found.samples.iter().zip(&expected.samples) {
            let same = |(a, b): (&f32, &f32)| close((*a).into(), (*b).into()) || (a.is_nan() && b.is_nan());
            assert!(found.len() == 4 && found.iter().zip(expected).all(same), "{name}: {found:?} {expected:?}");
        }
        // Those that were to be kept as images are 0, 1, 2 and 3.
        assert_eq!(found.draws.len(), 3 * found.moments[0].1.mean.len());
        // Both halves of an object remember theirs.
        assert_eq!((found.clone().merge(found).lost, expected.clone().merge(expected).lost), (2, 0));
    }
}
