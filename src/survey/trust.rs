//! How far an object's result can be trusted: variance ratios, posterior-predictive p, power of the residuals, likeness to
//! the prior, photometry of the input against that of the model; and the flags that follow from them.

use super::object_record::{Geometry, indexed};
use crate::config::{FlagsConfig, NoiseModel};
use crate::forward::Psf;
use crate::observe::{Autocovariance, Band, Observation};
use crate::posterior::cmodel::{self, Photometry};
use crate::posterior::flags::Flag;
use crate::posterior::photometry::{Aperture, Detector, weights};
use crate::posterior::{Node, predictive, residual, unlike, variance_ratio};
use crate::{Error, Result};

/// Radius of the aperture in which the input's photometry is compared with the model's, arcsec.
const APERTURE: f64 = 1.5;
/// Full width at half maximum of a Gaussian over its standard deviation.
const FWHM_OF_SIGMA: f64 = 2.3548;

/// What trust is judged by, besides the record's own parts. Planes are of the window, `[C, my, mx]`.
pub struct Evidence<'a> {
    pub observation: &'a Observation,
    pub geometry: &'a Geometry,
    pub node: &'a Node,
    pub noise: NoiseModel,
    pub psf_includes_pixel: bool,
    /// The band in which the shapes of cModel photometry are fitted.
    pub reference: usize,
    pub thresholds: &'a FlagsConfig,
    /// Per-draw quantities of the interim prior; may be empty.
    pub prior_draws: &'a [(String, Vec<f32>)],
    /// The data, what the posterior mean predicts (sky and all), and the sky level of each band.
    pub data: &'a [f32],
    pub model: &'a [f32],
    pub sky: &'a [f32],
    /// Variance of the noise, and of the predicted observation over draws.
    pub variance: &'a [f32],
    pub model_variance: &'a [f64],
    /// Whether a pixel counts and the field's edge hardly matters there, and whether the galaxy outshines the noise besides.
    pub counts: &'a [bool],
    pub bright: &'a [bool],
    /// Whether a pixel counts at all.
    pub used: &'a [bool],
    /// Posterior and prior variance in linear flux at amplitude one, `[C, n, n]`.
    pub unit_variance: &'a [f64],
    pub prior_variance: &'a [f64],
    pub size: usize,
}

/// Scalars of the product schema, and bits of flags.
pub fn judge(evidence: &Evidence) -> Result<(Vec<(String, f64)>, u32)> {
    let bands = &evidence.observation.bands;
    let (mut scalars, mut flags) = (Vec::new(), 0);
    let mut flag = |which: Flag, on: bool| flags |= if on { which.bit() } else { 0 };
    let thresholds = evidence.thresholds;

    let (own, prior, size) = (evidence.unit_variance, evidence.prior_variance, evidence.size);
    put(&mut scalars, "variance_ratio_linear", variance_ratio::by_band(own, prior, bands.len(), size)?);
    put(&mut scalars, "variance_ratio_profile", variance_ratio::profile(own, prior, bands.len(), size)?.concat());

    let correlation = |band: &Band| match evidence.noise {
        NoiseModel::White => 1.0,
        NoiseModel::Correlated => squared_correlation(&band.autocovariance),
    };
    let plane = evidence.counts.len() / bands.len();
    let freedom = |pixels: &[bool]| {
        let counts = pixels.chunks(plane).map(|plane| plane.iter().filter(|on| **on).count() as f64);
        predictive::freedom(&counts.zip(bands.iter().map(correlation)).collect::<Vec<_>>())
    };
    // The mean over draws of the squared residual is that of the mean plus the draws' variance.
    let p = |pixels: &[bool]| {
        let squares = (0..pixels.len()).filter(|&index| pixels[index]).map(|index| {
            let residual = f64::from(evidence.data[index]) - f64::from(evidence.model[index]);
            (residual * residual + evidence.model_variance[index]) / f64::from(evidence.variance[index])
        });
        let count = pixels.iter().filter(|on| **on).count() as f64;
        predictive::exceedance(squares.sum::<f64>() / count, freedom(pixels))
    };
    let in_galaxy = p(evidence.bright);
    put(&mut scalars, "predictive_p", [p(evidence.counts)]);
    put(&mut scalars, "predictive_p_galaxy", [in_galaxy]);
    flag(Flag::PoorPrediction, in_galaxy < thresholds.predictive_p);

    let (mut power, mut peaks) = (Vec::new(), Vec::new());
    for (index, band) in bands.iter().enumerate() {
        let of = index * plane..(index + 1) * plane;
        let scaled: Vec<f32> = of
            .clone()
            .map(|pixel| (evidence.data[pixel] - evidence.model[pixel]) / evidence.variance[pixel].sqrt())
            .collect();
        let shape = evidence.geometry.field.shape.map(|side| side as usize);
        let own = &band.autocovariance;
        let lag = if evidence.noise == NoiseModel::White { 0 } else { own.lag };
        let rho = |dy: isize, dx: isize| own.at(dy, dx) / own.at(0, 0);
        power.extend(residual::power(&scaled, &evidence.counts[of.clone()], shape, lag, rho)?);
        // At the field's edge, the variance says what the pixels are worth; in the galaxy, draws differ.
        let uncertain: Vec<f32> = of
            .clone()
            .map(|pixel| {
                let variance = f64::from(evidence.variance[pixel]) + evidence.model_variance[pixel];
                (f64::from(evidence.data[pixel] - evidence.model[pixel]) / variance.sqrt()) as f32
            })
            .collect();
        let sigma = band.psf.fwhm() / FWHM_OF_SIGMA / evidence.geometry.field.detector_pitch;
        peaks.push(residual::peak(&uncertain, &evidence.used[of], shape, sigma, lag, rho));
    }
    flag(Flag::ResidualPeak, peaks.iter().any(|peak| peak.abs() > thresholds.residual_peak));
    put(&mut scalars, "residual_peak", peaks);
    flag(Flag::ResidualStructure, power.iter().step_by(residual::BINS).any(|&low| low > thresholds.residual_power));
    put(&mut scalars, "residual_power", power);

    let tail = unlike::prior_tail(&evidence.node.samples, evidence.prior_draws);
    flag(Flag::UnlikePrior, tail < thresholds.unlike_prior);
    put(&mut scalars, "prior_tail", [tail]);

    put(&mut scalars, "kron_flux", bands.iter().map(|band| band.flux));
    put(&mut scalars, "kron_flux_error", bands.iter().map(|band| band.flux_error));
    flag(Flag::NotDetected, bands.iter().all(|band| band.flux < thresholds.detection * band.flux_error));
    let (fixed, matched) = photometry(evidence, plane)?;
    let differs = fixed.iter().chain(&matched).any(|aperture| aperture.mismatch(thresholds.aperture));
    flag(Flag::ApertureMismatch, differs);
    let composite = composite(evidence, plane)?;
    flag(Flag::CmodelMismatch, composite.iter().any(|fluxes| fluxes.mismatch(thresholds.cmodel)));
    for (name, apertures) in [("aperture_flux", &fixed), ("matched_flux", &matched), ("cmodel_flux", &composite)] {
        put(&mut scalars, name, apertures.iter().map(|aperture| aperture.observed));
        put(&mut scalars, &format!("{name}_error"), apertures.iter().map(|aperture| aperture.error));
        put(&mut scalars, &format!("{name}_model"), apertures.iter().map(|aperture| aperture.model));
    }
    Ok((scalars, flags))
}

/// A scalar, or the elements of a vector under the schema's names.
fn put(scalars: &mut Vec<(String, f64)>, name: &str, values: impl IntoIterator<Item = f64>) {
    let single = ["predictive_p", "predictive_p_galaxy", "prior_tail"].contains(&name);
    let named = |(index, value)| (if single { name.to_string() } else { indexed(name, index) }, value);
    scalars.extend(values.into_iter().enumerate().map(named));
}

/// Sum over all lags of the squared correlation.
fn squared_correlation(own: &Autocovariance) -> f64 {
    own.values.iter().map(|value| (value / own.at(0, 0)).powi(2)).sum()
}

/// Data and model within the aperture, band by band: as they are, and with the bands brought to the broadest PSF.
fn photometry(evidence: &Evidence, plane: usize) -> Result<(Vec<Aperture>, Vec<Aperture>)> {
    let (field, bands) = (&evidence.geometry.field, &evidence.observation.bands);
    let shape = field.shape.map(|side| side as usize);
    let width = |band: &Band| band.psf.fwhm() / FWHM_OF_SIGMA;
    let broadest = bands.iter().map(width).fold(0.0, f64::max);
    let one = |(index, band): (usize, &Band), sigma: f64| {
        let own = &band.autocovariance;
        let excess = match evidence.noise {
            NoiseModel::White => 1.0,
            NoiseModel::Correlated => own.values.iter().sum::<f64>() / own.at(0, 0),
        };
        let of = index * plane..(index + 1) * plane;
        let detector = Detector {
            data: &evidence.data[of.clone()],
            model: &evidence.model[of.clone()],
            sky: f64::from(evidence.sky[index]),
            variance: &evidence.variance[of.clone()],
            counts: &evidence.counts[of],
            excess,
        };
        Aperture::of(&detector, &weights(shape, field.target, APERTURE / field.detector_pitch, sigma))
    };
    let fixed = bands.iter().enumerate().map(|band| one(band, 0.0)).collect::<Result<_>>()?;
    let sigma = |band: &Band| (broadest.powi(2) - width(band).powi(2)).max(0.0).sqrt();
    let matched = bands.iter().enumerate().map(|band| one(band, sigma(band.1))).collect::<Result<_>>()?;
    Ok((fixed, matched))
}

/// cModel fluxes of data and model, band by band, each by fits of its own; NaN where these do not converge. Those of the model
/// start from those of the data, so that of several minima both are in the same.
fn composite(evidence: &Evidence, plane: usize) -> Result<Vec<Aperture>> {
    let (field, bands) = (&evidence.geometry.field, &evidence.observation.bands);
    let psfs: Vec<Psf> = bands.iter().map(|band| kernel(evidence, band)).collect::<Result<_>>()?;
    let measure = |values: &[f32], start: Option<&Photometry>| {
        let one = |index: usize| {
            let of = index * plane..(index + 1) * plane;
            let own = &bands[index].autocovariance;
            cmodel::Band {
                values: &values[of.clone()],
                sky: f64::from(evidence.sky[index]),
                variance: &evidence.variance[of.clone()],
                counts: &evidence.counts[of],
                psf: &psfs[index],
                correlated: (evidence.noise == NoiseModel::Correlated).then_some((own.lag, own.values.as_slice())),
            }
        };
        let bands: Vec<cmodel::Band> = (0..bands.len()).map(one).collect();
        let shape = field.shape.map(|side| side as usize);
        cmodel::measure(&bands, evidence.reference, shape, field.target, start.map(|found| found.shapes))
    };
    let observed = measure(evidence.data, None)?;
    let model = measure(evidence.model, observed.as_ref())?;
    let number = |found: &Option<Photometry>, of: fn(&Photometry) -> &[f64], index: usize| {
        found.as_ref().map_or(f64::NAN, |found| of(found)[index])
    };
    let one = |index: usize| Aperture {
        observed: number(&observed, |found| &found.flux, index),
        error: number(&observed, |found| &found.error, index),
        model: number(&model, |found| &found.flux, index),
    };
    Ok((0..bands.len()).map(one).collect())
}

/// A band's PSF with the detector's pixels as the unit.
fn kernel(evidence: &Evidence, band: &Band) -> Result<Psf> {
    let values: Vec<f64> = band.psf.values.iter().map(|&value| f64::from(value)).collect();
    let [rows, columns] = band.psf.shape;
    Psf::new(&values, rows, columns, 1.0, evidence.psf_includes_pixel)
        .map_err(|error| Error::object(&evidence.observation.id, format!("PSF of band {}: {error}", band.name)))
}
