//! The likelihood of one galaxy: prediction = mask (A(F) + b), with A the forward operator, S the prior's stretch, a the
//! amplitude and b the sky level. Where the prior's images have unit flux in a reference band, F is normalised by it,
//!
//! ```text
//! f = S^-1(x),   q = sum of f over the reference band,   F = a f / q
//! dF = (a / q) S^-1'(x) dx + F (dln a - dq / q)
//! ```
//!
//! which changes nothing for an image of the prior (q = 1), but leaves the data no say in the scale of x: amplitude and
//! brightness of the image would otherwise be exchanged for one another while the image is still noisy, for the Gaussian
//! that stands for the prior in a sampler's step does not know that q = 1. With one amplitude for each band, F = a f.
//! Factors on the bands, when given, multiply F.
//! A product with J costs one product with A, and its adjoint one with A^T.
//!
//! Pixels near the field's edge have less weight (`edge.rs`).

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::edge::edge_inflation;
use super::field::Field;
use super::noise::{Covariance, NoiseInput, NoiseModel, SkyNoise};
use super::psf::Psf;
use super::sampling::SamplingOperator;
use super::{Constraint, Latent, Likelihood, Linearized, NuisancePrior, PointSources, Stretch};
use crate::random::BlockNoise;
use crate::{Error, Result};

/// Pixels whose sky variance the edge makes larger than this factor are not among the `inner` ones.
const INNER: f64 = 1.2;

/// asinh is exponential where the galaxy is bright: over one unit the slope of its inverse changes by e, and a tangent
/// taken far below the solution overshoots it by many.
const ASINH_REACH: f64 = 1.5;

/// What a likelihood is made from. Fluxes are in nJy per detector pixel, with the extinction already removed.
#[derive(Debug)]
pub struct GalaxyLikelihoodInput {
    /// The object's id, for the messages.
    pub object: String,
    /// Geometry: prior grid, detector window, position of the target.
    pub field: Field,
    /// `[C, my, mx]`; anything where masked.
    pub data: Tensor,
    /// `[C, my, mx]`, non-zero where a pixel counts.
    pub mask: Tensor,
    pub sky_noise: SkyNoise,
    /// Electrons per nJy, one per band, when known: adds model / gain to the variance.
    pub gain: Option<Vec<f64>>,
    /// eps: relative error of PSF and flat field; adds (eps model)^2 to the variance.
    pub relative_error: f64,
    /// One per band, at the detector's pitch.
    pub psfs: Vec<Psf>,
    pub stretch: Stretch,
    /// The band whose total flux is one in the prior's images; `None` where each band has an amplitude of its own.
    pub reference: Option<i64>,
    /// Factors on the bands of the prior, one for each, that of the reference band 1: how the object's colours differ.
    pub colours: Option<Vec<f64>>,
    pub nuisance: NuisancePrior,
    /// Whether pixels near the field's edge are down-weighted (`edge.rs`).
    pub down_weight_edges: bool,
    pub device: Device,
    /// `Float`; `Double` in tests.
    pub kind: Kind,
}

/// p(y | galaxy, amplitude, sky), Gaussian around the forward model's prediction.
#[derive(Debug)]
pub struct GalaxyLikelihood {
    data: Tensor,
    mask: Tensor,
    inner: Tensor,
    /// 1 where a pixel counts and lies in the field: `[C, my, mx]`, or `[B, C, my, mx]` where fields differ.
    covered: Tensor,
    /// By how much the edge inflates the sky's variance, of the same shape; 1 without down-weighting.
    inflation: Tensor,
    nuisance: NuisancePrior,
    operator: SamplingOperator,
    /// Of each band, `[C, 1, 1]` (`point_sources.rs`).
    sharpness: Tensor,
    noise: NoiseModel,
    stretch: Stretch,
    reference: Option<i64>,
    /// `[C, 1, 1]`
    colours: Option<Tensor>,
    psfs: Arc<[Psf]>,
    psf_fwhm: Vec<f64>,
}

/// How exactly the prior's images have unit flux: training images do, a network's draws to a few per cent.
const UNIT_FLUX_SD: f64 = 0.02;
/// A total flux below this is not that of any galaxy of the prior: the image is then not normalised further.
const LEAST_TOTAL: f64 = 1e-2;

impl GalaxyLikelihood {
    /// Checks the input and prepares the operator's tables. An `Error::Object` where the object's data cannot be used.
    pub fn new(input: GalaxyLikelihoodInput) -> Result<Self> {
        let (kind, device) = (input.kind, input.device);
        let bands = input.psfs.len() as i64;
        let shape = [bands, input.field.shape[0], input.field.shape[1]];
        let put = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.f_to_device(device)?.f_to_kind(kind)?) };
        for (name, tensor) in [("data", &input.data), ("mask", &input.mask)] {
            if tensor.size() != shape {
                return Err(Error::object(
                    &input.object,
                    format!("{name} of shape {:?}, expected {shape:?} (bands, rows, columns)", tensor.size()),
                ));
            }
        }
        let used = put(&input.mask)?.f_ne(0.0)?;
        let mask = used.f_to_kind(kind)?;
        let counts = Vec::<f64>::try_from(mask.f_sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Double)?)?;
        if let Some(band) = counts.iter().position(|count| *count < 1.0) {
            return Err(Error::object(&input.object, format!("band {band}: no usable pixel in the field")));
        }
        let data = put(&input.data)?;
        let data = data.f_where_self(&used, &data.f_zeros_like()?)?;
        if data.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(Error::object(&input.object, "a pixel that is not masked is not a finite number"));
        }
        let inflation =
            if input.down_weight_edges { Some(put(&edge_inflation(&input.field, &input.psfs)?)?) } else { None };
        let inner = match &inflation {
            Some(inflation) => mask.f_mul(&inflation.f_le(INNER)?.f_to_kind(kind)?)?,
            None => mask.shallow_clone(),
        };
        let noise = NoiseModel::new(&NoiseInput {
            sky: &input.sky_noise,
            mask: &mask,
            inflation: inflation.as_ref(),
            gain: input.gain.as_deref(),
            relative_error: input.relative_error,
        })
        .map_err(|error| match error {
            Error::Internal(what) => Error::object(&input.object, what),
            other => other,
        })?;
        let nuisance = NuisancePrior {
            ln_amplitude_mean: put(&input.nuisance.ln_amplitude_mean)?,
            ln_amplitude_sd: put(&input.nuisance.ln_amplitude_sd)?,
            sky_sd: put(&input.nuisance.sky_sd)?,
        };
        check_nuisance(&nuisance, bands)?;
        let operator = SamplingOperator::new(&input.field, &input.psfs, kind, device)?;
        let sharpness = point_sources::sharpness(&operator, kind, device)?;
        let colours = match &input.colours {
            None => None,
            Some(factors) => Some(put(&Tensor::f_from_slice(factors)?.f_view([bands, 1, 1])?)?),
        };
        let psf_fwhm = input.psfs.iter().map(Psf::fwhm).collect();
        let inflation = inflation.map_or_else(|| mask.f_ones_like(), Ok)?;
        Ok(GalaxyLikelihood {
            data,
            covered: mask.shallow_clone(),
            mask,
            inner,
            inflation,
            nuisance,
            operator,
            sharpness,
            noise,
            stretch: input.stretch,
            reference: input.reference,
            colours,
            psfs: input.psfs.into(),
            psf_fwhm,
        })
    }

    /// 1 where a pixel counts and the field's edge hardly matters: there residuals are those of the model.
    pub fn inner(&self) -> &Tensor {
        &self.inner
    }

    /// 1 where a pixel counts and the model says something: it lies in the prior's field. `[C, my, mx]`, or, where each sample
    /// has a field of its own, `[B, C, my, mx]`.
    pub fn covered(&self) -> &Tensor {
        &self.covered
    }

    /// Full widths at half maximum of the PSFs, arcsec, one per band.
    pub fn psf_fwhm(&self) -> &[f64] {
        &self.psf_fwhm
    }

    /// The noise variance of each pixel when the galaxy's light on the detector is `light`, `[B, C, my, mx]`; one where
    /// masked.
    pub fn variance_of(&self, light: &Tensor) -> Result<Tensor> {
        Ok(self.noise.at(light, None)?.variance().shallow_clone())
    }

    /// The forward operator (flux per prior pixel to flux per detector pixel).
    pub fn operator(&self) -> &SamplingOperator {
        &self.operator
    }

    /// F = a S^-1(x) / q, flux per prior pixel in nJy, `[B, C, n, n]`.
    pub fn flux(&self, latent: &Latent) -> Result<Tensor> {
        let mut unit = self.stretch.inverse(&latent.image)?;
        let scale = self.scale(latent, &unit)?;
        Ok(unit.f_mul_(&scale)?)
    }

    /// The image of the prior itself, S^-1(x) / q, `[B, C, n, n]`: its reference band has unit flux.
    pub fn unit(&self, latent: &Latent) -> Result<Tensor> {
        let flux = self.flux(latent)?.f_div(&planes(&latent.ln_amplitude.f_exp()?)?)?;
        Ok(match &self.colours {
            Some(colours) => flux.f_div(colours)?,
            None => flux,
        })
    }

    /// a / q times the colours' factors, to be broadcast over pixels.
    fn scale(&self, latent: &Latent, unit: &Tensor) -> Result<Tensor> {
        let mut amplitude = planes(&latent.ln_amplitude.f_exp()?)?;
        if let Some(colours) = &self.colours {
            amplitude = amplitude.f_mul(colours)?;
        }
        let Some(band) = self.reference else { return Ok(amplitude) };
        let total = unit.f_narrow(1, band, 1)?.f_sum_dim_intlist([1i64, 2, 3].as_slice(), true, None)?;
        Ok(amplitude.f_div(&total.f_clamp_min(LEAST_TOTAL)?)?)
    }

    /// The noise covariance at a latent galaxy.
    pub fn covariance_at(&self, latent: &Latent) -> Result<Covariance> {
        self.noise.at(&self.operator.apply(&self.flux(latent)?)?, None)
    }
}

impl Likelihood for GalaxyLikelihood {
    fn data(&self) -> &Tensor {
        &self.data
    }

    fn mask(&self) -> &Tensor {
        &self.mask
    }

    fn nuisance(&self) -> &NuisancePrior {
        &self.nuisance
    }

    fn predict(&self, latent: &Latent) -> Result<Tensor> {
        let mut light = self.operator.apply(&self.flux(latent)?)?;
        Ok(light.f_add_(&planes(&latent.sky)?)?.f_mul_(&self.mask)?)
    }

    /// ln q = 0: the logarithm, because the stretch is exponential where the flux is.
    fn constraint(&self, image: &Tensor) -> Result<Option<Constraint>> {
        let Some(band) = self.reference else { return Ok(None) };
        let plane = |tensor: Tensor| tensor.f_narrow(1, band, 1);
        let total = plane(self.stretch.inverse(image)?)?.f_sum_dim_intlist([1i64, 2, 3].as_slice(), true, None)?;
        let total = total.f_clamp_min(LEAST_TOTAL)?;
        let gradient = image.f_zeros_like()?;
        let slope = plane(self.stretch.slope(image)?)?.f_div(&total)?;
        gradient.f_narrow(1, band, 1)?.f_copy_(&slope)?;
        Ok(Some(Constraint { value: total.f_log()?.f_view(-1)?, gradient, sd: UNIT_FLUX_SD }))
    }

    fn reach(&self) -> Option<f64> {
        match self.stretch {
            Stretch::Linear { .. } => None,
            Stretch::Asinh { .. } => Some(ASINH_REACH),
        }
    }

    fn bend(&self, image: &Tensor) -> Result<Option<Tensor>> {
        self.stretch.bend(image).map(Some)
    }

    fn linearize_within(&self, latent: &Latent, tangent_error: f64) -> Result<Box<dyn Linearized>> {
        let unit = self.stretch.inverse(&latent.image)?;
        let scale = self.scale(latent, &unit)?;
        let flux = unit.f_mul(&scale)?;
        let slope = self.stretch.slope(&latent.image)?.f_mul_(&scale)?;
        let amplitude = planes(&latent.ln_amplitude.f_exp()?)?;
        let mut light = self.operator.apply(&flux)?;
        // Counted against the brighter of model and data: a tangent taken where the model is too faint overshoots most.
        let extra = light.f_maximum(&self.data)?.f_mul_scalar_(tangent_error)?;
        let covariance = self.noise.at(&light, (tangent_error > 0.0).then_some(&extra))?;
        let prediction = light.f_add_(&planes(&latent.sky)?)?.f_mul_(&self.mask)?;
        Ok(Box::new(LinearizedGalaxy {
            operator: self.operator.share(),
            sharpness: self.sharpness.shallow_clone(),
            mask: self.mask.shallow_clone(),
            flux,
            slope,
            prediction,
            covariance,
            one_amplitude: latent.ln_amplitude.size()[1] == 1,
            normalised: self.reference.map(|band| (band, amplitude)),
        }))
    }
}

/// The likelihood linearised at one latent galaxy per sample.
struct LinearizedGalaxy {
    operator: SamplingOperator,
    sharpness: Tensor,
    mask: Tensor,
    /// F = a S^-1(x) and a dS^-1/dx, `[B, C, n, n]`.
    flux: Tensor,
    slope: Tensor,
    prediction: Tensor,
    covariance: Covariance,
    one_amplitude: bool,
    /// The reference band, and the amplitude (to be broadcast over pixels), where F is normalised.
    normalised: Option<(i64, Tensor)>,
}

impl Linearized for LinearizedGalaxy {
    fn prediction(&self) -> &Tensor {
        &self.prediction
    }

    fn apply(&self, direction: &Latent) -> Result<Tensor> {
        let mut change = self.slope.f_mul(&direction.image)?;
        let mut relative = planes(&direction.ln_amplitude)?;
        if let Some((band, amplitude)) = &self.normalised {
            let total = change.f_narrow(1, *band, 1)?.f_sum_dim_intlist([1i64, 2, 3].as_slice(), true, None)?;
            relative = relative.f_sub(&total.f_div(amplitude)?)?;
        }
        let _ = change.f_addcmul_(&self.flux, &relative)?;
        let mut out = self.operator.apply(&change)?;
        Ok(out.f_add_(&planes(&direction.sky)?)?.f_mul_(&self.mask)?)
    }

    fn adjoint(&self, residual: &Tensor) -> Result<Latent> {
        let masked = residual.f_mul(&self.mask)?;
        let sky = masked.f_sum_dim_intlist([2i64, 3].as_slice(), false, None)?;
        let mut back = self.operator.adjoint(&masked)?;
        let pixels: &[i64] = if self.one_amplitude { &[1, 2, 3] } else { &[2, 3] };
        let ln_amplitude = back.f_mul(&self.flux)?.f_sum_dim_intlist(pixels, false, None)?;
        let ln_amplitude = if self.one_amplitude { ln_amplitude.f_unsqueeze(1)? } else { ln_amplitude };
        if let Some((band, amplitude)) = &self.normalised {
            let share = planes(&ln_amplitude)?.f_div(amplitude)?;
            let _ = back.f_narrow(1, *band, 1)?.f_sub_(&share)?;
        }
        let image = back.f_mul_(&self.slope)?;
        Ok(Latent { image, ln_amplitude, sky })
    }

    fn covariance(&self, vector: &Tensor) -> Result<Tensor> {
        self.covariance.apply(vector)
    }

    fn variance(&self) -> &Tensor {
        self.covariance.variance()
    }

    fn precision(&self, vector: &Tensor) -> Result<Tensor> {
        self.covariance.precision(vector)
    }

    fn noise(&self, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        self.covariance.draw(noise, step)
    }

    fn point_sources(&self) -> Result<Option<PointSources<'_>>> {
        point_sources::of(&self.operator, &self.sharpness, &self.mask, self.covariance.variance()).map(Some)
    }
}

/// `[B, K]` as `[B, K, 1, 1]`, to be broadcast over pixels.
fn planes(values: &Tensor) -> Result<Tensor> {
    Ok(values.f_unsqueeze(-1)?.f_unsqueeze(-1)?)
}

fn check_nuisance(nuisance: &NuisancePrior, bands: i64) -> Result<()> {
    let amplitudes = nuisance.ln_amplitude_mean.size();
    let usable = (amplitudes == [1] || amplitudes == [bands])
        && nuisance.ln_amplitude_sd.size() == amplitudes
        && nuisance.sky_sd.size() == [bands];
    if usable {
        return Ok(());
    }
    Err(Error::internal(format!(
        "nuisance priors of shapes {:?}, {:?}, {:?}, expected [1] or [{bands}] twice, and [{bands}]",
        amplitudes,
        nuisance.ln_amplitude_sd.size(),
        nuisance.sky_sd.size()
    )))
}

mod photo_z;
mod point_sources;
pub use photo_z::PhotoZLikelihood;

#[cfg(test)]
pub(crate) mod tests;
