//! The engine of real surveys: from a target to the likelihood of its observation, and from blocks of draws to nodes.

use tch::{Device, Kind};

use super::engine::{Engine, OpenObject, Packed};
use super::object_record::{self, Geometry};
use crate::catalog::Target;
use crate::config::{Config, FlagsConfig};
use crate::forward::{Field, GalaxyLikelihood, Latent};
use crate::observe::bundle::Bundle;
use crate::observe::{self, Observation};
use crate::posterior::flags::Flag;
use crate::posterior::morphology::morphology;
use crate::posterior::{Moments, Node};
use crate::prior::Prior;
use crate::product::ObjectRecord;
use crate::random::BlockNoise;
use crate::sampler::{self, Problem, Sampler, SavedState, State, to_vec};
use crate::sky::TanWcs;
use crate::sky::cosmology;
use crate::{Error, Result};
use likelihood::likelihood;

mod likelihood;

/// Pixels may differ from squares by this much: 1 % is 0.01 of a detector pixel at the edge of a 1-pixel feature, and a
/// tenth of it is below any PSF's own error.
const SQUARE: f64 = 1e-3;
/// An object is failed when more than this fraction of its draws is not finite.
const NON_FINITE_LIMIT: f64 = 0.1;

/// Samples galaxies of real images under a prior.
pub struct GalaxyEngine {
    config: Config,
    prior: Prior,
    sampler: Box<dyn Sampler>,
    device: Device,
    /// Per-draw quantities of the interim prior, where its file has them.
    prior_draws: Vec<(String, Vec<f32>)>,
    /// The bundle that was read from last.
    bundle: Option<Bundle>,
}

impl GalaxyEngine {
    /// Prepares the sampler; `prior` must live on `device`.
    pub fn new(config: Config, prior: Prior, device: Device) -> Result<Self> {
        let (bands, expected) = (config.data.bands.len(), prior.card.bands.len());
        if bands != expected {
            return Err(Error::usage(format!(
                "data.bands names {bands} bands, but the prior `{}` has {expected} ({}): give one band for each, in that order",
                prior.card.name,
                prior.card.bands.join(", ")
            )));
        }
        let sampler = sampler::build(&config.sampler, &prior)?;
        Ok(GalaxyEngine { config, prior, sampler, device, prior_draws: Vec::new(), bundle: None })
    }

    /// With per-draw quantities of the interim prior, which objects are compared with.
    pub fn with_prior_draws(self, prior_draws: Vec<(String, Vec<f32>)>) -> Self {
        GalaxyEngine { prior_draws, ..self }
    }

    /// Inputs from a bundle, which stays open for the next object.
    fn packed(&mut self, packed: &Packed, target: &Target) -> Result<observe::Inputs> {
        let open = match self.bundle.take() {
            Some(bundle) if bundle.path() == packed.bundle => bundle,
            _ => Bundle::open(&packed.bundle)?,
        };
        self.bundle.insert(open).inputs(packed.place, &target.id)
    }

    /// The band whose total flux the amplitude is; the first where each band has its own.
    fn reference(&self) -> usize {
        self.prior.card.normalisation.reference()
    }
}

impl Engine for GalaxyEngine {
    fn open(&mut self, target: &Target, packed: Option<&Packed>) -> Result<Box<dyn OpenObject + '_>> {
        if let Some(trouble) = &target.trouble {
            return Err(Error::object(&target.id, trouble));
        }
        let card = &self.prior.card;
        let pitch = cosmology::theta_arcsec(card.pixel_kpc, target.redshift)
            .map_err(|error| Error::object(&target.id, error))?;
        let field = card.size as f64 * pitch;
        let observation = match packed {
            None => observe::observe(target, &self.config, field)?,
            Some(packed) => {
                let inputs = self.packed(packed, target)?;
                observe::observe_inputs(target, &self.config, field, inputs)?
            }
        };
        let card = &self.prior.card;
        let mut geometry = geometry(&observation, card.size, pitch)?;
        let likelihood = likelihood(self, &observation, &geometry)?;
        geometry.flags = flags(&observation, &geometry, card.redshift_range, &self.config.flags);
        Ok(Box::new(OpenGalaxy { engine: self, target: target.clone(), observation, geometry, likelihood }))
    }
}

/// The window of the observation that the prior's field covers.
fn geometry(observation: &Observation, size: i64, pitch: f64) -> Result<Geometry> {
    let [rows, columns] = observation.shape;
    let local = observation.wcs.at(observation.target).map_err(|error| Error::object(&observation.id, error))?;
    let detector_pitch = local.pixel_scale();
    if local.distortion() > SQUARE {
        return Err(Error::object(&observation.id, "the image's pixels are not square; resample it to square pixels"));
    }
    let window = Field::window(observation.target, [rows as i64, columns as i64], size, pitch, detector_pitch)
        .ok_or_else(|| {
            Error::object(&observation.id, "no pixel of the image lies within the prior's field around the target")
        })?;
    let wcs = TanWcs {
        crpix: [observation.wcs.crpix[0] - window.x as f64, observation.wcs.crpix[1] - window.y as f64],
        ..observation.wcs
    };
    Ok(Geometry { field: window.field, x: window.x as usize, y: window.y as usize, wcs, flags: 0 })
}

fn flags(observation: &Observation, geometry: &Geometry, redshifts: [f64; 2], thresholds: &FlagsConfig) -> u32 {
    let mut flags = Flag::EdgeDownWeighted.bit();
    let mut set = |flag: Flag, on: bool| flags |= if on { flag.bit() } else { 0 };
    let field = &geometry.field;
    set(Flag::UpsamplingBeyond3, field.detector_pitch / field.prior_pitch > thresholds.upsampling);
    set(Flag::CutoutIncomplete, !field.is_whole());
    set(Flag::RedshiftOutsidePrior, !(redshifts[0]..=redshifts[1]).contains(&observation.redshift));
    let usable = observation.bands.iter().flat_map(|band| geometry.cut(&band.usable, observation.shape[1]));
    let (good, all) = usable.fold((0usize, 0usize), |(good, all), on| (good + usize::from(on), all + 1));
    set(Flag::FewGoodPixels, (good as f64) < thresholds.good_pixels * all as f64);
    set(Flag::NeighboursMasked, observation.neighbours_masked);
    set(Flag::BadPixels, observation.bad_pixels);
    flags
}

/// One galaxy with its likelihood.
struct OpenGalaxy<'a> {
    engine: &'a GalaxyEngine,
    target: Target,
    observation: Observation,
    geometry: Geometry,
    likelihood: GalaxyLikelihood,
}

impl OpenGalaxy<'_> {
    fn problem(&self, block: u32) -> Problem<'_> {
        let first = block * self.engine.config.posterior.block;
        Problem {
            denoiser: self.engine.prior.denoiser.as_ref(),
            likelihood: Some(&self.likelihood),
            noise: BlockNoise::new(self.engine.config.survey.seed, &self.target.id, first, self.samples(block)),
            device: self.engine.device,
        }
    }
}

impl OpenObject for OpenGalaxy<'_> {
    fn blocks(&self) -> u32 {
        self.engine.config.posterior.samples.div_ceil(self.engine.config.posterior.block)
    }

    fn steps(&self) -> u32 {
        self.engine.sampler.steps()
    }

    fn samples(&self, block: u32) -> u32 {
        let posterior = &self.engine.config.posterior;
        posterior.block.min(posterior.samples - block * posterior.block)
    }

    fn start(&self, block: u32) -> Result<State> {
        self.engine.sampler.start(&self.problem(block))
    }

    fn resume(&self, saved: &SavedState) -> Result<State> {
        State::load(saved, self.engine.device)
    }

    fn step(&self, block: u32, state: &mut State) -> Result<()> {
        self.engine.sampler.step(&self.problem(block), state)
    }

    fn finish_block(&self, block: u32, state: State) -> Result<Node> {
        let draws = self.engine.sampler.finish(&self.problem(block), state)?;
        let first = block * self.engine.config.posterior.block;
        let kept = self.engine.config.posterior.keep_draws.saturating_sub(first).min(self.samples(block));
        reduce(self.engine, &self.likelihood, &self.target, &draws, kept as usize)
    }

    fn finish(&self, node: Node) -> Result<ObjectRecord> {
        let made = object_record::column(&node, "reduced_chi2").len();
        let planned = self.engine.config.posterior.samples as usize;
        if (planned - made) as f64 > NON_FINITE_LIMIT * planned as f64 {
            return Err(Error::object(
                &self.target.id,
                format!(
                    "{} of {planned} draws are not finite: the likelihood or the prior is broken there",
                    planned - made
                ),
            ));
        }
        object_record::assemble(&object_record::Parts {
            config: &self.engine.config,
            prior: &self.engine.prior,
            target: &self.target,
            observation: &self.observation,
            geometry: &self.geometry,
            likelihood: &self.likelihood,
            node,
            prior_draws: &self.engine.prior_draws,
        })
    }
}

/// Moments and per-sample quantities of a block of draws. Draws that are not finite are left out.
fn reduce(
    engine: &GalaxyEngine,
    likelihood: &GalaxyLikelihood,
    target: &Target,
    draws: &Latent,
    kept: usize,
) -> Result<Node> {
    use crate::forward::Likelihood as _;

    let flux = likelihood.flux(draws)?;
    let unit = likelihood.unit(draws)?;
    let model = likelihood.predict(draws)?;
    let residual = likelihood.data().f_sub(&model)?;
    let chi_squared = residual
        .f_square()?
        .f_div(likelihood.linearize(draws)?.variance())?
        .f_sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double)?
        .f_div(&likelihood.mask().f_sum(Kind::Double)?)?
        .f_to_kind(Kind::Float)?;
    let images = [
        ("flux", to_vec(&flux)?),
        ("unit", to_vec(&unit)?),
        ("stretched", to_vec(&draws.image)?),
        ("model", to_vec(&model)?),
    ];
    let (chi_squared, ln_amplitude, sky) = (to_vec(&chi_squared)?, to_vec(&draws.ln_amplitude)?, to_vec(&draws.sky)?);
    let count = chi_squared.len();
    let (bands, reference) = (sky.len() / count.max(1), engine.reference());

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
        if index < kept {
            kept_draws.extend_from_slice(slices[0]);
        }
        let mut row: Vec<(String, f32)> = vec![("reduced_chi2".into(), chi_squared)];
        for (k, ln) in part(&ln_amplitude, index, count).iter().enumerate() {
            row.push((object_record::indexed("amplitude", k), ln.exp()));
        }
        for (k, &level) in part(&sky, index, count).iter().enumerate() {
            row.push((object_record::indexed("sky", k), level));
        }
        row.push(("redshift".into(), target.redshift as f32));
        row.extend(morphology(slices[0], bands, engine.prior.card.pixel_kpc, reference)?);
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
