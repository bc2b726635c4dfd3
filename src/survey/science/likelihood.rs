//! From an observation to its likelihood: data, mask, PSFs, noise, colours, and the priors of amplitude and sky.

use tch::{Device, Kind, Tensor};

use super::GalaxyEngine;
use crate::config::{Colours, NoiseModel};
use crate::forward::noise::correlated_grid;
use crate::forward::{GalaxyLikelihood, GalaxyLikelihoodInput, NuisancePrior, Psf, SkyNoise};
use crate::observe::{Autocovariance, Band, Observation};
use crate::prior::card::Normalisation;
use crate::survey::object_record::{self, Geometry};
use crate::{Error, Result};

/// An amplitude's prior needs a positive flux: at least this many standard deviations of the aperture flux.
const FAINTEST_SIGMA: f64 = 1.0;
/// Least power of correlated noise at any scale, relative to that of white noise of the same variance.
const POWER_FLOOR: f64 = 0.1;

/// The likelihood of a galaxy given its observation, under the engine's config and prior.
pub(super) fn likelihood(
    engine: &GalaxyEngine,
    observation: &Observation,
    geometry: &Geometry,
) -> Result<GalaxyLikelihood> {
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
    let grid = |pixels: usize| correlated_grid(pixels as i64, lag as i64) as usize;
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
