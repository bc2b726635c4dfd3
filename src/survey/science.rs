//! The engine of real surveys: from a target to the likelihood of its observation, and from blocks of draws to nodes.

use std::cell::RefCell;
use std::rc::Rc;

use tch::Device;

use super::engine::{Engine, OpenObject, Packed};
use super::fitness;
use super::object_record::{self, Geometry};
use crate::catalog::Target;
use crate::config::{Config, FlagsConfig};
use crate::forward::{Field, GalaxyLikelihood, Likelihood, PhotoZLikelihood};
use crate::observe::bundle::Bundle;
use crate::observe::{self, Observation};
use crate::posterior::Node;
use crate::posterior::flags::Flag;
use crate::prior::Prior;
use crate::product::ObjectRecord;
use crate::random::BlockNoise;
use crate::sampler::{self, Problem, Sampler, SavedState, State};
use crate::sky::TanWcs;
use crate::sky::cosmology;
use crate::{Error, Result};
use likelihood::likelihood;
use redshifts::Redshifts;
use reduce::{Draws, reduce};

mod likelihood;
mod redshifts;
mod reduce;

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
        fitness::check(&config, &prior)?;
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
        let redshifts = match Redshifts::new(&self.config, target)? {
            Some(redshifts) => (0..self.config.posterior.samples).map(|sample| redshifts.of(sample)).collect(),
            None => Ok(Vec::new()),
        }?;
        let all = || redshifts.iter().chain([&observation.redshift]);
        let outside = all().any(|z| !(card.redshift_range[0]..=card.redshift_range[1]).contains(z));
        geometry.flags = flags(&observation, &geometry, outside, &self.config.flags);
        let pitches = redshifts
            .iter()
            .map(|&z| cosmology::theta_arcsec(card.pixel_kpc, z).map_err(|error| Error::object(&target.id, error)))
            .collect::<Result<_>>()?;
        let (target, current) = (target.clone(), RefCell::default());
        Ok(Box::new(OpenGalaxy {
            engine: self,
            target,
            observation,
            geometry,
            likelihood,
            redshifts,
            pitches,
            current,
        }))
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

fn flags(observation: &Observation, geometry: &Geometry, outside: bool, thresholds: &FlagsConfig) -> u32 {
    let mut flags = Flag::EdgeDownWeighted.bit();
    let mut set = |flag: Flag, on: bool| flags |= if on { flag.bit() } else { 0 };
    let field = &geometry.field;
    set(Flag::UpsamplingBeyond3, field.detector_pitch / field.prior_pitch > thresholds.upsampling);
    set(Flag::CutoutIncomplete, !field.is_whole());
    set(Flag::RedshiftOutsidePrior, outside);
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
    /// At the catalogue's redshift.
    likelihood: GalaxyLikelihood,
    /// The redshift of each sample, and its prior pitch in arcsec; empty where the catalogue's redshift is exact.
    redshifts: Vec<f64>,
    pitches: Vec<f64>,
    /// The likelihood of the block that was worked on last, where samples have redshifts of their own.
    current: RefCell<Option<(u32, Rc<PhotoZLikelihood>)>>,
}

impl OpenGalaxy<'_> {
    /// The samples of a block.
    fn range(&self, block: u32) -> std::ops::Range<usize> {
        let first = (block * self.engine.config.posterior.block) as usize;
        first..first + self.samples(block) as usize
    }

    /// The likelihood of a block whose samples have redshifts of their own; `None` where they have the catalogue's.
    fn own(&self, block: u32) -> Result<Option<Rc<PhotoZLikelihood>>> {
        if self.pitches.is_empty() {
            return Ok(None);
        }
        let mut current = self.current.borrow_mut();
        let kept = current.take().filter(|(number, _)| *number == block);
        let own = match kept {
            Some((_, own)) => own,
            None => Rc::new(self.likelihood.for_pitches(&self.pitches[self.range(block)])?),
        };
        *current = Some((block, own.clone()));
        Ok(Some(own))
    }

    fn problem<'b>(&'b self, block: u32, own: &'b Option<Rc<PhotoZLikelihood>>) -> Problem<'b> {
        let first = block * self.engine.config.posterior.block;
        let likelihood: &dyn Likelihood = match own {
            Some(own) => own.as_ref(),
            None => &self.likelihood,
        };
        Problem {
            denoiser: self.engine.prior.denoiser.as_ref(),
            likelihood: Some(likelihood),
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
        self.engine.sampler.start(&self.problem(block, &self.own(block)?))
    }

    fn resume(&self, saved: &SavedState) -> Result<State> {
        State::load(saved, self.engine.device)
    }

    fn step(&self, block: u32, state: &mut State) -> Result<()> {
        self.engine.sampler.step(&self.problem(block, &self.own(block)?), state)
    }

    fn finish_block(&self, block: u32, state: State) -> Result<Node> {
        let own = self.own(block)?;
        let effective = self.engine.sampler.effective_draws(&state)?;
        let solve_residual = self.engine.sampler.solve_residual(&state)?;
        let latent = self.engine.sampler.finish(&self.problem(block, &own), state)?;
        let range = self.range(block);
        let kept = (self.engine.config.posterior.keep_draws as usize).saturating_sub(range.start).min(range.len());
        let pitch = self.geometry.field.prior_pitch;
        let mut node = reduce(&Draws {
            latent: &latent,
            likelihood: own.as_ref().map_or(&self.likelihood, |own| own.own()),
            redshifts: self
                .redshifts
                .get(range.clone())
                .map_or(vec![self.target.redshift; range.len()], <[f64]>::to_vec),
            ratios: self.pitches.get(range).map(|pitches| pitches.iter().map(|own| pitch / own).collect()),
            pixel_kpc: self.engine.prior.card.pixel_kpc,
            reference: self.engine.reference(),
            kept,
            lost: self.engine.config.flags.lost_draws,
            solve_residual,
        })?;
        if let (Some(effective), Some((_, column))) = (effective, node.samples.first()) {
            // Each draw of the block is worth the same.
            let worth = effective as f32 / self.samples(block) as f32;
            node.samples.push((object_record::EFFECTIVE_DRAWS.into(), vec![worth; column.len()]));
        }
        Ok(node)
    }

    fn finish(&self, node: Node) -> Result<ObjectRecord> {
        let made = object_record::column(&node, "reduced_chi2").len() + node.lost as usize;
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
        // What is said of all samples is said of pixels that the fields of all of them cover.
        let smallest = self.pitches.iter().copied().reduce(f64::min);
        let common = smallest.map(|pitch| self.likelihood.down_weighted_for(pitch)).transpose()?;
        object_record::assemble(&object_record::Parts {
            config: &self.engine.config,
            prior: &self.engine.prior,
            target: &self.target,
            observation: &self.observation,
            geometry: &self.geometry,
            likelihood: common.as_ref().unwrap_or(&self.likelihood),
            node,
            prior_draws: &self.engine.prior_draws,
        })
    }
}
