//! The likelihood of a batch in which each sample has a redshift of its own, as when samples are drawn with redshifts from
//! their catalogue's error. Data, mask, noise of the sky, PSFs and the priors of amplitude and sky are those of one
//! observation; the prior's pixels have another size for each sample, and so the operator has other tables.
//!
//! The window of the data is that of one redshift. Where a sample's field is smaller, the pixels beyond it have no model:
//! their weight is the least that the field's edge gives (`edge.rs`). Where it is larger, its outer parts have no data.

use tch::Tensor;

use super::{GalaxyLikelihood, INNER};
use crate::Result;
use crate::forward::edge::edge_inflation;
use crate::forward::{Constraint, Field, Group, Latent, Likelihood, Linearized, NuisancePrior, SamplingOperator};

/// Largest over smallest pitch of samples that share a preconditioner. Wider groups take more iterations, narrower ones more
/// preparation: ARCHITECTURE.md has both.
const ALIKE: f64 = 1.1;

/// The likelihood of a batch of samples with redshifts of their own.
#[derive(Debug)]
pub struct PhotoZLikelihood {
    /// With tables for each sample: it takes batches of that size only.
    own: GalaxyLikelihood,
    /// The one that it was made from, for any batch.
    common: GalaxyLikelihood,
    alike: Vec<Alike>,
}

/// Samples of similar pitches.
#[derive(Debug)]
struct Alike {
    samples: Tensor,
    /// Of the middle of their pitches, for any batch.
    likelihood: GalaxyLikelihood,
    /// Edge weight of each over that of `likelihood`.
    weights: Tensor,
}

impl GalaxyLikelihood {
    /// The likelihood of a batch whose sample i has prior pixels of `pitches[i]` arcsec, for the same data. Edges are
    /// down-weighted, whether they are here or not. Tables that do not depend on the pitch are shared.
    pub fn for_pitches(&self, pitches: &[f64]) -> Result<PhotoZLikelihood> {
        let (kind, device) = (self.mask.kind(), self.mask.device());
        let fields: Vec<Field> = pitches.iter().map(|&pitch| self.field_of(pitch)).collect();
        let inflations = fields.iter().map(|field| edge_inflation(field, &self.psfs)).collect::<Result<Vec<_>>>()?;
        let inflation = Tensor::f_stack(&inflations, 0)?.f_to_kind(kind)?.f_to_device(device)?;
        let inside = fields.iter().map(inside).collect::<Result<Vec<_>>>()?;
        let inside = Tensor::f_stack(&inside, 0)?.f_unsqueeze(1)?.f_to_kind(kind)?.f_to_device(device)?;
        let own = GalaxyLikelihood {
            operator: SamplingOperator::with_pitches(self.operator.field(), pitches, &self.psfs, kind, device)?,
            covered: inside.f_mul(&self.mask)?,
            ..self.with_inflation(&inflation)?
        };
        let alike = |samples: Vec<usize>| -> Result<Alike> {
            let middle = (pitches[samples[0]] * pitches[samples[samples.len() - 1]]).sqrt();
            let likelihood = GalaxyLikelihood {
                operator: SamplingOperator::new(&self.field_of(middle), &self.psfs, kind, device)?,
                ..self.down_weighted_for(middle)?
            };
            let samples = Tensor::f_from_slice(&samples.iter().map(|&sample| sample as i64).collect::<Vec<_>>())?;
            let samples = samples.f_sort(0, false)?.0.f_to_device(device)?;
            let weights = likelihood.inflation.f_div(&inflation.f_index_select(0, &samples)?)?.f_sqrt()?;
            Ok(Alike { samples, likelihood, weights })
        };
        let alike = groups(pitches).into_iter().map(alike).collect::<Result<_>>()?;
        Ok(PhotoZLikelihood { own, common: self.share(), alike })
    }

    /// The same likelihood with the edges of a smaller field, of prior pixels of `pitch` arcsec, down-weighted: for what is
    /// said of all samples together, `pitch` being the smallest of theirs. The window and the operator remain.
    pub fn down_weighted_for(&self, pitch: f64) -> Result<GalaxyLikelihood> {
        let inflation = edge_inflation(&self.field_of(pitch), &self.psfs)?;
        self.with_inflation(&inflation.f_to_kind(self.mask.kind())?.f_to_device(self.mask.device())?)
    }

    fn field_of(&self, prior_pitch: f64) -> Field {
        Field { prior_pitch, ..*self.operator.field() }
    }

    fn with_inflation(&self, inflation: &Tensor) -> Result<GalaxyLikelihood> {
        Ok(GalaxyLikelihood {
            inner: self.mask.f_mul(&inflation.f_le(INNER)?.f_to_kind(self.mask.kind())?)?,
            noise: self.noise.inflated(inflation)?,
            inflation: inflation.shallow_clone(),
            ..self.share()
        })
    }

    /// Another handle on the same tables; nothing is copied.
    fn share(&self) -> GalaxyLikelihood {
        GalaxyLikelihood {
            data: self.data.shallow_clone(),
            mask: self.mask.shallow_clone(),
            inner: self.inner.shallow_clone(),
            covered: self.covered.shallow_clone(),
            inflation: self.inflation.shallow_clone(),
            nuisance: NuisancePrior {
                ln_amplitude_mean: self.nuisance.ln_amplitude_mean.shallow_clone(),
                ln_amplitude_sd: self.nuisance.ln_amplitude_sd.shallow_clone(),
                sky_sd: self.nuisance.sky_sd.shallow_clone(),
            },
            operator: self.operator.share(),
            sharpness: self.sharpness.shallow_clone(),
            noise: self.noise.share(),
            stretch: self.stretch,
            reference: self.reference,
            colours: self.colours.as_ref().map(Tensor::shallow_clone),
            psfs: self.psfs.clone(),
            psf_fwhm: self.psf_fwhm.clone(),
        }
    }
}

/// Which pitches are alike: groups by rising pitch, none wider than `ALIKE`.
fn groups(pitches: &[f64]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..pitches.len()).collect();
    order.sort_by(|&a, &b| pitches[a].total_cmp(&pitches[b]));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for sample in order {
        match groups.last_mut() {
            Some(group) if pitches[sample] <= ALIKE * pitches[group[0]] => group.push(sample),
            _ => groups.push(vec![sample]),
        }
    }
    groups
}

/// 1 where a pixel's centre lies in the field, `[my, mx]`.
fn inside(field: &Field) -> Result<Tensor> {
    let [columns, rows] = field.covers().map(|line| line.into_iter().map(f64::from).collect::<Vec<_>>());
    Ok(Tensor::f_from_slice(&rows)?.f_outer(&Tensor::f_from_slice(&columns)?)?)
}

impl PhotoZLikelihood {
    /// The model of each sample: for batches of their number.
    pub fn own(&self) -> &GalaxyLikelihood {
        &self.own
    }
}

impl Likelihood for PhotoZLikelihood {
    fn data(&self) -> &Tensor {
        self.own.data()
    }

    fn mask(&self) -> &Tensor {
        self.own.mask()
    }

    fn nuisance(&self) -> &NuisancePrior {
        self.own.nuisance()
    }

    fn predict(&self, latent: &Latent) -> Result<Tensor> {
        self.own.predict(latent)
    }

    fn constraint(&self, image: &Tensor) -> Result<Option<Constraint>> {
        self.own.constraint(image)
    }

    fn reach(&self) -> Option<f64> {
        self.own.reach()
    }

    fn bend(&self, image: &Tensor) -> Result<Option<Tensor>> {
        self.own.bend(image)
    }

    fn common(&self) -> Option<&dyn Likelihood> {
        Some(&self.common)
    }

    fn groups(&self) -> Vec<Group<'_>> {
        let groups = self.alike.iter();
        groups.map(|Alike { samples, likelihood, weights }| Group { samples, likelihood, weights }).collect()
    }

    fn linearize_within(&self, latent: &Latent, tangent_error: f64) -> Result<Box<dyn Linearized>> {
        self.own.linearize_within(latent, tangent_error)
    }
}

#[cfg(test)]
mod tests;
