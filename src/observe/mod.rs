//! From a catalogue's target to an observation: cutout, PSF, noise and mask in every band, calibrated to nJy.

use crate::catalog::Target;
use crate::config::Config;
use crate::sky::wcs::TanWcs;
use crate::{Error, Result};

mod amplitude;
pub mod bundle;
mod cutout;
mod extinction;
mod frame;
mod inputs;
mod neighbours;
mod noise;
pub mod pattern;
mod psf;

pub use cutout::Section;
use frame::{Frame, cut, grown};
use inputs::range;
pub use inputs::{BandInputs, Inputs};

/// Pixels this many rms below the sky are artefacts: no source is negative.
const ARTEFACT: f64 = 8.0;
/// A sky level is removed when it is this many standard errors from zero.
const SKY_SIGNIFICANCE: f64 = 3.0;
/// Neighbours' grown masks stay out of the target's inner part, of this radius in arcsec.
const CORE: f64 = 1.0;
/// A cut with fewer pixels than this on a side cannot be used.
const LEAST_SIDE: usize = 8;

/// Everything that was observed of one target: the bands share one pixel grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The target's id.
    pub id: String,
    pub redshift: f64,
    pub redshift_error: Option<f64>,
    /// Rows and columns `[my, mx]` of the cut: all planes below have `my * mx` values, row by row.
    pub shape: [usize; 2],
    /// World coordinates of the cut (`crpix` counts from its own first pixel, from 0).
    pub wcs: TanWcs,
    /// Pixel position `[x, y]` of the target in the cut, 0-based; pixel centres are whole numbers.
    pub target: [f64; 2],
    /// Bands in the order of the config (and of the prior's channels).
    pub bands: Vec<Band>,
    /// Whether pixels of the cut are masked because they belong to neighbours.
    pub neighbours_masked: bool,
    /// Whether a pixel of the cut is unusable in itself: saturated, bad in the mask plane, or not a number.
    pub bad_pixels: bool,
    /// What was done that a user should know of (a sky level removed, ...), in words.
    pub notes: Vec<String>,
}

/// One band of an observation. Image, variance, autocovariance and flux are in nJy, with the Milky Way's extinction
/// already corrected.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    pub name: String,
    /// nJy per detector pixel, residual sky level removed. Finite everywhere: 0 where the pixel is bad. Neighbours are
    /// left in (they are not `usable`).
    pub image: Vec<f32>,
    /// Variance of the sky noise (nJy^2), positive everywhere.
    pub variance: Vec<f32>,
    /// Whether `variance` already holds the photon noise of the sources (it comes from a variance plane).
    pub variance_holds_sources: bool,
    /// True where a pixel counts: it is good, and belongs to the target or to the sky.
    pub usable: Vec<bool>,
    /// Autocovariance of the sky noise.
    pub autocovariance: Autocovariance,
    /// The PSF as it was read, on the detector's pixel grid. Not normalised.
    pub psf: Psf,
    /// Flux of the target in an aperture and its standard deviation, nJy: where the amplitude's prior comes from. Never
    /// below one standard deviation, so that it has a logarithm.
    pub flux: f64,
    pub flux_error: f64,
    /// Electrons per nJy of `image`, when the config tells the gain.
    pub gain: Option<f64>,
    /// 10^(0.4 A): what image, noise and flux have been multiplied by.
    pub extinction_factor: f64,
    /// Sky level that was taken off, nJy per pixel (before the extinction's correction).
    pub sky: f64,
}

/// Stationary autocovariance of the noise at lags `-lag..=lag` in rows and columns, nJy^2.
#[derive(Clone, Debug, PartialEq)]
pub struct Autocovariance {
    /// Largest lag L in pixels.
    pub lag: usize,
    /// `(2 L + 1)^2` values, row by row: the lag (dy, dx) is at `(dy + L) (2 L + 1) + dx + L`. Even in (dy, dx).
    pub values: Vec<f64>,
}

/// A PSF image. Its centre is the pixel `(size - 1) / 2` of an odd size, and `size / 2` of an even one.
#[derive(Clone, Debug, PartialEq)]
pub struct Psf {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Row by row.
    pub values: Vec<f32>,
}

impl Autocovariance {
    /// The value at lag `(dy, dx)`; 0 beyond the largest lag.
    pub fn at(&self, dy: isize, dx: isize) -> f64 {
        let (lag, width) = (self.lag as isize, 2 * self.lag as isize + 1);
        if dy.abs() > lag || dx.abs() > lag {
            return 0.0;
        }
        self.values[((dy + lag) * width + dx + lag) as usize]
    }
}

/// Reads, calibrates, cuts and measures one target in all bands.
///
/// `field_arcsec` is the side of the field that is cut out, centred on the target (at the image's edge less is left).
///
/// # Errors
/// `Error::Object` for whatever is wrong with this target's row or files; `Error::Usage` for a pattern that cannot be
/// filled for any target.
pub fn observe(target: &Target, config: &Config, field_arcsec: f64) -> Result<Observation> {
    observe_inputs(target, config, field_arcsec, Inputs::read(target, config, field_arcsec)?)
}

/// The same from inputs that were read before.
pub fn observe_inputs(target: &Target, config: &Config, field_arcsec: f64, inputs: Inputs) -> Result<Observation> {
    measure(target, config, field_arcsec, inputs)
}

/// One band on the way: the surroundings of the target.
struct Stage {
    section: Section,
    psf: Psf,
    sky: noise::Sky,
    rms_map: Option<Vec<f32>>,
    removed: f64,
}

fn measure(target: &Target, config: &Config, field_arcsec: f64, inputs: Inputs) -> Result<Observation> {
    let data = &config.data;
    let trouble = |what: String| Error::object(&target.id, what);
    let Inputs { wcs, rows, columns, bands: inputs } = inputs;
    let position = wcs.sky_to_pixel([target.ra, target.dec]).map_err(|error| trouble(error.to_string()))?;
    let pixel_scale = wcs.pixel_scale();
    let half = 0.5 * field_arcsec / pixel_scale;
    let mut notes = Vec::new();
    let mut stages = Vec::new();
    for (BandInputs { section, psf, .. }, band) in inputs.into_iter().zip(&data.bands) {
        stages.push(stage(section, psf, band, &mut notes).map_err(trouble)?);
    }
    let in_frame = [position[0] - columns.0 as f64, position[1] - rows.0 as f64];
    let (own, others) = sources(&stages, in_frame, pixel_scale, config);
    if !own.contains(&true) {
        notes.push("nothing is detected at the target's position".to_string());
    }

    // From here on in the cut.
    let frame = stages[0].section.shape;
    let (cut_rows, cut_columns) = (range(in_frame[1], half, frame[0]), range(in_frame[0], half, frame[1]));
    let cut_shape = [cut_rows.1 - cut_rows.0, cut_columns.1 - cut_columns.0];
    if cut_shape.iter().any(|&side| side < LEAST_SIDE) {
        return Err(trouble(format!("only {cut_shape:?} pixels of its field are on the image")));
    }
    let here = [in_frame[0] - cut_columns.0 as f64, in_frame[1] - cut_rows.0 as f64];
    let own = cut(&own, frame, cut_rows, cut_columns);
    let others = cut(&others, frame, cut_rows, cut_columns);
    let factors = extinction::factors(target, data);
    let neighbours_masked = others.contains(&true);
    let mut bad_pixels = false;
    let mut bands = Vec::new();
    for (index, stage) in stages.into_iter().enumerate() {
        let name = data.bands[index].clone();
        let planes = Planes {
            image: cut(&stage.section.image, frame, cut_rows, cut_columns),
            variance: stage.rms_map.as_ref().map(|map| cut(map, frame, cut_rows, cut_columns)),
            good: cut(&stage.section.good, frame, cut_rows, cut_columns),
        };
        bad_pixels |= planes.good.contains(&false);
        check_core(&planes.good, cut_shape, here, pixel_scale).map_err(|why| trouble(format!("band {name}: {why}")))?;
        let gain = config.noise.gain.as_ref().and_then(|gain| gain.get(index)).copied();
        bands.push(planes.finish(name, stage, &others, factors[index], gain));
    }
    measure_fluxes(&mut bands, cut_shape, here, &own, &mut notes);
    let mut cut_wcs = wcs;
    cut_wcs.crpix = [wcs.crpix[0] - (columns.0 + cut_columns.0) as f64, wcs.crpix[1] - (rows.0 + cut_rows.0) as f64];
    Ok(Observation {
        id: target.id.clone(),
        redshift: target.redshift,
        redshift_error: target.redshift_error,
        shape: cut_shape,
        wcs: cut_wcs,
        target: here,
        bands,
        neighbours_masked,
        bad_pixels,
        notes,
    })
}

/// Measures the sky of a band, removes its level, and finds artefacts.
fn stage(mut section: Section, psf: Psf, band: &str, notes: &mut Vec<String>) -> std::result::Result<Stage, String> {
    let mut frame = Frame { shape: section.shape, values: std::mem::take(&mut section.image) };
    let mut sky = noise::measure(&frame, &section.good);
    if let Some(first) = &sky {
        let limit = (first.level - ARTEFACT * first.rms) as f32;
        let low: Vec<bool> = frame.values.iter().zip(&section.good).map(|(&v, &ok)| ok && v < limit).collect();
        let count = low.iter().filter(|&&artefact| artefact).count();
        if count > 0 {
            notes.push(format!("{band}: {count} pixels far below the sky are taken for artefacts and masked"));
            let around = grown(&low, section.shape, 1.5);
            section.good.iter_mut().zip(around).for_each(|(ok, artefact)| *ok &= !artefact);
            sky = noise::measure(&frame, &section.good);
        }
    }
    let plane_rms = section.variance.as_ref().map(|plane| {
        let used = plane.iter().zip(&section.good).filter(|&(_, &ok)| ok).map(|(&v, _)| v).collect();
        frame::median(used).sqrt()
    });
    let sky = match (sky, plane_rms) {
        (Some(sky), _) => sky,
        (None, Some(rms)) if rms > 0.0 => {
            notes.push(format!("{band}: too little sky to measure the noise's correlation: taken as white"));
            let autocovariance = Autocovariance::white(rms * rms);
            noise::Sky { level: 0.0, level_error: f64::INFINITY, rms, autocovariance, pixels: 0 }
        }
        _ => {
            let good = section.good.iter().filter(|&&ok| ok).count();
            let what =
                format!("band {band}: fewer than {} of {good} good pixels are free of sources", noise::LEAST_SKY);
            return Err(format!("{what}: the noise cannot be measured; give a variance plane or a larger cutout"));
        }
    };
    let mut removed = 0.0;
    if sky.level.abs() > SKY_SIGNIFICANCE * sky.level_error {
        removed = sky.level;
        notes.push(format!("{band}: sky level {removed:.4} nJy ({:.2} of the noise) removed", removed / sky.rms));
    }
    for (value, &ok) in frame.values.iter_mut().zip(&section.good) {
        *value = if ok { *value - removed as f32 } else { 0.0 };
    }
    section.image = frame.values;
    let rms_map = section.variance.take();
    Ok(Stage { section, psf, sky, rms_map, removed })
}

/// The target's pixels, and the pixels of its neighbours with their wings.
fn sources(stages: &[Stage], position: [f64; 2], pixel_scale: f64, config: &Config) -> (Vec<bool>, Vec<bool>) {
    let shape = stages[0].section.shape;
    let good: Vec<bool> =
        (0..shape[0] * shape[1]).map(|index| stages.iter().any(|stage| stage.section.good[index])).collect();
    let bands: Vec<(&[f32], f64)> =
        stages.iter().map(|stage| (stage.section.image.as_slice(), stage.sky.rms)).collect();
    // The matched filter of a point source is the PSF itself.
    let width = stages.iter().map(|stage| stage.psf.fwhm()).sum::<f64>() / stages.len() as f64;
    let smoothing = (width / 2.3548).clamp(1.0, 4.0);
    let threshold = config.neighbours.threshold;
    let segments = neighbours::segment(&bands, shape, &good, position, threshold, pixel_scale, smoothing);
    let others = if config.neighbours.mask {
        segments.of_neighbours(config.neighbours.grow / pixel_scale, position, CORE / pixel_scale)
    } else {
        vec![false; good.len()]
    };
    (segments.of_target(), others)
}

/// More than half of the target's inner pixels must be good.
fn check_core(good: &[bool], shape: [usize; 2], target: [f64; 2], scale: f64) -> std::result::Result<(), String> {
    let radius = (0.5 * CORE / scale).max(1.0);
    let distance = |index: usize| ((index % shape[1]) as f64 - target[0]).hypot((index / shape[1]) as f64 - target[1]);
    let core: Vec<bool> = (0..good.len()).filter(|&index| distance(index) <= radius).map(|index| good[index]).collect();
    let bad = core.iter().filter(|&&ok| !ok).count();
    if 2 * bad > core.len() {
        let what = "pixels at the target's position are saturated, masked or not numbers";
        return Err(format!("{bad} of {} {what}", core.len()));
    }
    Ok(())
}

/// The planes of a band in the cut.
struct Planes {
    image: Vec<f32>,
    variance: Option<Vec<f32>>,
    good: Vec<bool>,
}

impl Planes {
    /// The band, corrected for extinction; its flux is measured later.
    fn finish(self, name: String, stage: Stage, others: &[bool], factor: f64, gain: Option<f64>) -> Band {
        let square = factor * factor;
        let white = (stage.sky.rms * stage.sky.rms * square) as f32;
        let variance_holds_sources = self.variance.is_some();
        let variance = match self.variance {
            None => vec![white; self.image.len()],
            Some(plane) => {
                let scaled = plane.iter().zip(&self.good);
                scaled.map(|(&value, &ok)| if ok { value * square as f32 } else { white }).collect()
            }
        };
        let mut autocovariance = stage.sky.autocovariance;
        autocovariance.values.iter_mut().for_each(|value| *value *= square);
        Band {
            name,
            image: self.image.into_iter().map(|value| value * factor as f32).collect(),
            variance,
            variance_holds_sources,
            usable: self.good.iter().zip(others).map(|(&ok, &other)| ok && !other).collect(),
            autocovariance,
            psf: stage.psf,
            flux: f64::NAN,
            flux_error: f64::NAN,
            // A gain is for the light that arrived; the corrected image counts more light for the same electrons.
            gain: gain.map(|gain| gain / factor),
            extinction_factor: factor,
            sky: stage.removed,
        }
    }
}

/// Aperture fluxes, in one aperture for all bands.
fn measure_fluxes(bands: &mut [Band], shape: [usize; 2], target: [f64; 2], own: &[bool], notes: &mut Vec<String>) {
    let mut sum = vec![0f32; own.len()];
    for band in bands.iter() {
        sum.iter_mut().zip(&band.image).for_each(|(total, &value)| *total += value);
    }
    let width = bands.iter().map(|band| band.psf.fwhm()).fold(0.0, f64::max);
    let largest = 0.5 * shape[0].min(shape[1]) as f64;
    let radius = amplitude::radius(&sum, own, shape[1], target, 1.5 * width, largest);
    for band in bands {
        let excess = band.autocovariance.block_excess(noise::LAG);
        let planes = (&band.image, &band.variance, &band.usable);
        let (flux, error) = amplitude::aperture(planes.0, planes.1, planes.2, shape, target, radius, excess);
        (band.flux, band.flux_error) = (flux.max(error), error);
        if flux < error {
            notes.push(format!("{}: the aperture flux {flux:.3} nJy is below its error {error:.3} nJy", band.name));
        }
    }
}

#[cfg(test)]
mod tests;
