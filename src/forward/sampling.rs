//! The forward operator: flux per prior pixel to flux per detector pixel, y_ci = sum_j F_cj Phi_c(r_i - r_j), for an
//! effective PSF Phi point-sampled at pixel centres; and its adjoint.
//!
//! With zero-padded period L = N theta (N odd, so that no mode but the mean is its own conjugate), nu_k = k / L:
//!
//! ```text
//! y_i = (p / L)^2 sum_k  Phi^(nu_k) e^{2 pi i nu_k . r_i}  sum_j F_j e^{-2 pi i nu_k . r_j}
//! ```
//!
//! over the modes below both Nyquist frequencies, the prior's 1/(2 theta) and the detector's 1/(2 p): the prior's image
//! stands for a band-limited surface brightness. It is a true convolution: nothing is flipped.

use tch::{Device, Kind, Tensor};

use super::field::Field;
use super::psf::Psf;
use super::spectral::{Axis, SpectralMap, Transfer};
use crate::{Error, Result};

/// The linear map F `[B, C, n, n]` (flux per prior pixel) to y `[B, C, my, mx]` (flux per detector pixel).
#[derive(Debug)]
pub struct SamplingOperator {
    field: Field,
    map: SpectralMap,
}

impl SamplingOperator {
    /// The operator of a field with one PSF per band. `kind` is `Float` (production) or `Double` (tests).
    pub fn new(field: &Field, psfs: &[Psf], kind: Kind, device: Device) -> Result<Self> {
        check(field, psfs)?;
        Ok(SamplingOperator { field: *field, map: map(field, psfs, [0; 2], kind, device)? })
    }

    /// The operator of a batch whose sample i has prior pixels of `pitches[i]` arcsec, and else the geometry of `field`: one
    /// observation, with a redshift for each sample.
    pub fn with_pitches(field: &Field, pitches: &[f64], psfs: &[Psf], kind: Kind, device: Device) -> Result<Self> {
        let fields: Vec<Field> = pitches.iter().map(|&prior_pitch| Field { prior_pitch, ..*field }).collect();
        let mut modes = [0; 2];
        for own in &fields {
            check(own, psfs)?;
            let reach = reach(psfs);
            let counts =
                [axis(own, own.rows(), reach), axis(own, own.columns(), reach)].map(|(axis, _)| axis.frequencies);
            modes = [modes[0].max(counts[0].len()), modes[1].max(counts[1].len())];
        }
        let maps = fields.iter().map(|own| map(own, psfs, modes, kind, device)).collect::<Result<Vec<_>>>()?;
        Ok(SamplingOperator { field: *field, map: SpectralMap::stack(&maps)? })
    }

    /// The geometry that the operator was made for.
    pub fn field(&self) -> &Field {
        &self.field
    }

    /// Number of bands, C.
    pub fn bands(&self) -> i64 {
        self.map.bands()
    }

    /// y = A F: `[B, C, n, n]` to `[B, C, my, mx]`.
    pub fn apply(&self, flux: &Tensor) -> Result<Tensor> {
        self.map.apply(flux)
    }

    /// F = A^T y: `[B, C, my, mx]` to `[B, C, n, n]`.
    pub fn adjoint(&self, data: &Tensor) -> Result<Tensor> {
        self.map.adjoint(data)
    }

    /// Another handle on the same tables; nothing is copied.
    pub fn share(&self) -> Self {
        SamplingOperator { field: self.field, map: self.map.share() }
    }
}

/// The tables of one geometry, with `least` modes at least along y and x. Those above its own are there to make tables of
/// different geometries equally large: nothing goes through them.
fn map(field: &Field, psfs: &[Psf], least: [usize; 2], kind: Kind, device: Device) -> Result<SpectralMap> {
    let reach = reach(psfs);
    let (mut x, period_x) = axis(field, field.columns(), reach);
    let (mut y, period_y) = axis(field, field.rows(), reach);
    let own = [y.frequencies.len(), x.frequencies.len()];
    y.frequencies.extend((own[0]..least[0]).map(|mode| mode as f64 / period_y));
    x.frequencies.extend((own[1]..least[1]).map(|mode| mode as f64 / period_x));
    let width = x.frequencies.len();
    let opposite: Vec<f64> = y.frequencies.iter().map(|nu| -nu).collect();
    let transform = |psf: &Psf, along_y: &[f64]| {
        let mut parts = psf.transform(along_y, &x.frequencies);
        for values in [&mut parts.0, &mut parts.1] {
            for (mode, value) in values.iter_mut().enumerate() {
                if mode / width >= own[0] || mode % width >= own[1] {
                    *value = 0.0;
                }
            }
        }
        parts
    };
    let bands: Vec<Transfer> = psfs
        .iter()
        .map(|psf| Transfer { plus: transform(psf, &y.frequencies), minus: transform(psf, &opposite) })
        .collect();
    let scale = field.detector_pitch * field.detector_pitch / (period_x * period_y);
    SpectralMap::new(&y, &x, &bands, scale, kind, device)
}

/// The largest reach of the kernels, arcsec.
fn reach(psfs: &[Psf]) -> f64 {
    psfs.iter().map(Psf::reach).fold(0.0, f64::max)
}

/// One axis: the prior's pixels, the detector's pixel centres at `positions`, and the modes between them. Also the period
/// L: the smallest odd number of prior pixels such that no light comes around to any of the positions.
fn axis(field: &Field, positions: Vec<f64>, reach: f64) -> (Axis, f64) {
    let (theta, p) = (field.prior_pitch, field.detector_pitch);
    let input: Vec<f64> = (0..field.size).map(|j| j as f64 * theta).collect();
    let last = (field.size - 1) as f64 * theta;
    let low = positions.first().copied().unwrap_or(0.0);
    let high = positions.last().copied().unwrap_or(0.0);
    // Distances r_i - r_j run from low - last to high; within the kernel's reach of them there must be no alias.
    let extent = high.max(last - low) + reach;
    let count = ((extent / theta).ceil() as usize + 1) | 1;
    let period = count as f64 * theta;
    // Strictly below the detector's Nyquist frequency, k / L < 1 / (2 p). The tolerance keeps theta = p whole.
    let detector = (period / (2.0 * p) * (1.0 - 1e-12)).ceil() as usize;
    let modes = detector.min(count.div_ceil(2)).max(1);
    let frequencies = (0..modes).map(|mode| mode as f64 / period).collect();
    (Axis { frequencies, input, output: positions }, period)
}

fn check(field: &Field, psfs: &[Psf]) -> Result<()> {
    let usable = field.size > 0
        && field.shape[0] > 0
        && field.shape[1] > 0
        && [field.prior_pitch, field.detector_pitch].iter().all(|pitch| pitch.is_finite() && *pitch > 0.0)
        && field.target.iter().all(|position| position.is_finite());
    if !usable || psfs.is_empty() {
        return Err(Error::internal(format!("forward operator: unusable geometry {field:?}, {} PSFs", psfs.len())));
    }
    for psf in psfs {
        // The kernel is used as samples at the detector's pitch, so a kernel on another grid would change its width.
        if (psf.pitch() / field.detector_pitch - 1.0).abs() > 1e-3 {
            return Err(Error::internal(format!(
                "forward operator: PSF sampled at {} arcsec, expected the detector's {} arcsec",
                psf.pitch(),
                field.detector_pitch
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
