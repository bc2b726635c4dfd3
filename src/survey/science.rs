//! The engine of real surveys: from a target to the likelihood of its observation, and from blocks of draws to nodes.

use tch::{Device, Kind, Tensor};

use super::engine::{Engine, OpenObject, Packed};
use super::object_record::{self, Geometry};
use crate::catalog::Target;
use crate::config::{Colours, Config, FlagsConfig, NoiseModel};
use crate::forward::noise::correlated_grid;
use crate::forward::{Field, GalaxyLikelihood, GalaxyLikelihoodInput, Latent, NuisancePrior, Psf, SkyNoise};
use crate::observe::bundle::Bundle;
use crate::observe::{self, Autocovariance, Band, Observation};
use crate::posterior::flags::Flag;
use crate::posterior::morphology::morphology;
use crate::posterior::{Moments, Node};
use crate::prior::Prior;
use crate::prior::card::Normalisation;
use crate::product::ObjectRecord;
use crate::random::BlockNoise;
use crate::sampler::{self, Problem, Sampler, SavedState, State, to_vec};
use crate::sky::TanWcs;
use crate::sky::cosmology;
use crate::{Error, Result};

/// An amplitude's prior needs a positive flux: at least this many standard deviations of the aperture flux.
const FAINTEST_SIGMA: f64 = 1.0;
/// Pixels may differ from squares by this much: 1 % is 0.01 of a detector pixel at the edge of a 1-pixel feature, and a
/// tenth of it is below any PSF's own error.
const SQUARE: f64 = 1e-3;
/// Least power of correlated noise at any scale, relative to that of white noise of the same variance.
const POWER_FLOOR: f64 = 0.1;
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

fn likelihood(engine: &GalaxyEngine, observation: &Observation, geometry: &Geometry) -> Result<GalaxyLikelihood> {
    let config = &engine.config;
    let width = observation.shape[1];
    let [my, mx] = geometry.field.shape;
    let shape = [observation.bands.len() as i64, my, mx];
    let stack = |plane: &dyn Fn(&Band) -> Vec<f32>| -> Result<Tensor> {
        let values: Vec<f32> = observation.bands.iter().flat_map(plane).collect();
        Ok(Tensor::f_from_slice(&values)?.f_view(shape)?)
    };
    let data = stack(&|band| geometry.cut(&band.image, width).collect())?;
    let mask = stack(&|band| geometry.cut(&band.usable, width).map(|on| f32::from(u8::from(on))).collect())?;
    let variance = stack(&|band| geometry.cut(&band.variance, width).collect())?;
    let sky_noise = match config.noise.model {
        NoiseModel::White => SkyNoise::White { variance },
        NoiseModel::Correlated => {
            SkyNoise::Correlated { power: power_spectra(&observation.bands, [my as usize, mx as usize])? }
        }
    };
    let psfs = observation.bands.iter().map(|band| {
        let values: Vec<f64> = band.psf.values.iter().map(|&value| f64::from(value)).collect();
        let [rows, columns] = band.psf.shape;
        Psf::new(&values, rows, columns, geometry.field.detector_pitch, config.data.psf_includes_pixel)
            .map_err(|error| Error::object(&observation.id, format!("PSF of band {}: {error}", band.name)))
    });
    // A variance plane already holds the photon noise: adding it again from the gain would count it twice.
    let gains: Option<Vec<f64>> =
        observation.bands.iter().map(|band| if band.variance_holds_sources { None } else { band.gain }).collect();
    GalaxyLikelihood::new(GalaxyLikelihoodInput {
        object: observation.id.clone(),
        field: geometry.field,
        data,
        mask,
        sky_noise,
        gain: gains,
        relative_error: config.noise.relative_error,
        psfs: psfs.collect::<Result<Vec<_>>>()?,
        stretch: engine.prior.card.stretch,
        reference: match engine.prior.card.normalisation {
            Normalisation::ReferenceBand { band } => Some(band as i64),
            Normalisation::BandPeak => None,
        },
        colours: colours(engine, observation)?,
        nuisance: nuisance(engine, observation)?,
        down_weight_edges: true,
        device: engine.device,
        kind: Kind::Float,
    })
}

/// The object's aperture colours over the prior's mean colours, where the config asks for it.
fn colours(engine: &GalaxyEngine, observation: &Observation) -> Result<Option<Vec<f64>>> {
    let (Colours::Aperture, Normalisation::ReferenceBand { band }) =
        (engine.config.nuisance.colours, engine.prior.card.normalisation)
    else {
        return Ok(None);
    };
    let totals = engine.prior.flux_mean.f_sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Double)?;
    let totals = Vec::<f64>::try_from(totals.f_to_device(Device::Cpu)?)?;
    let reference = observation.bands[band].flux / totals[band];
    Ok(Some(observation.bands.iter().zip(&totals).map(|(own, total)| own.flux / total / reference).collect()))
}

fn nuisance(engine: &GalaxyEngine, observation: &Observation) -> Result<NuisancePrior> {
    let bands = match engine.prior.card.normalisation {
        Normalisation::ReferenceBand { band } => &observation.bands[band..=band],
        Normalisation::BandPeak => &observation.bands[..],
    };
    let means: Vec<f32> = bands
        .iter()
        .map(|band| band.flux.max(FAINTEST_SIGMA * band.flux_error).max(f64::MIN_POSITIVE).ln() as f32)
        .collect();
    let sds = vec![engine.config.nuisance.ln_amplitude_sd as f32; means.len()];
    let sky: Vec<f32> = observation
        .bands
        .iter()
        .map(|band| (engine.config.nuisance.sky_sd * object_record::noise_sd(band)) as f32)
        .collect();
    Ok(NuisancePrior {
        ln_amplitude_mean: Tensor::f_from_slice(&means)?,
        ln_amplitude_sd: Tensor::f_from_slice(&sds)?,
        sky_sd: Tensor::f_from_slice(&sky)?,
    })
}

/// Power spectra of the bands' noise, `[C, py, px]`, on a periodic grid that holds the data and the longest lag.
fn power_spectra(bands: &[Band], [rows, columns]: [usize; 2]) -> Result<Tensor> {
    let lag = bands.iter().map(|band| band.autocovariance.lag).max().unwrap_or(0);
    let grid = |pixels: usize| correlated_grid(pixels as i64, 2 * lag as i64) as usize;
    let (py, px) = (grid(rows), grid(columns));
    let mut spectra = Vec::with_capacity(bands.len());
    for band in bands {
        let covariance = wrapped(&band.autocovariance, py, px);
        let transform = Tensor::f_from_slice(&covariance)?.f_view([py as i64, px as i64])?.f_fft_fft2(
            None::<&[i64]>,
            [-2i64, -1].as_slice(),
            "backward",
        )?;
        // The autocovariance is even, so its transform is real. No pixel scale is free of noise: what an estimate puts
        // below the floor is its own error, and would make data of that scale count for more than they can.
        let power = transform.f_real()?;
        let floor = POWER_FLOOR * power.f_mean(Kind::Double)?.f_double_value(&[])?;
        spectra.push(power.f_clamp_min(floor)?);
    }
    Ok(Tensor::f_stack(&spectra, 0)?.f_to_kind(Kind::Float)?)
}

/// An autocovariance laid out on a periodic grid with lag zero at the origin.
fn wrapped(autocovariance: &Autocovariance, py: usize, px: usize) -> Vec<f64> {
    let mut values = vec![0.0; py * px];
    let lag = autocovariance.lag as isize;
    for dy in -lag..=lag {
        for dx in -lag..=lag {
            let (y, x) = (dy.rem_euclid(py as isize) as usize, dx.rem_euclid(px as isize) as usize);
            values[y * px + x] += autocovariance.at(dy, dx);
        }
    }
    values
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
