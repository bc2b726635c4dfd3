//! The forward operator: flux per prior pixel to flux per detector pixel, y_ci = sum_j F_cj Phi_c(r_i - r_j), for an
//! effective PSF Phi point-sampled at pixel centres; and its adjoint.
//!
//! With zero-padded period L = N theta (N odd, so that no mode is its own conjugate but the mean), nu_k = k / L:
//!
//! ```text
//! y_i = (p / L)^2 sum_k  Phi^(nu_k) e^{2 pi i nu_k . r_i}  sum_j F_j e^{-2 pi i nu_k . r_j}
//! ```
//!
//! over the modes below both Nyquist frequencies, the prior's 1/(2 theta) and the detector's 1/(2 p): the prior's image
//! stands for a band-limited surface brightness. The sums are separable, so they are four matrix products, real ones:
//! along x the half k_x >= 0 as interleaved real and imaginary parts, along y cosines and sines for k_y >= 0. With
//! W_c, W_s the cosine and sine transforms along y of the complex transform along x, and P+- = Phi^(k_x, +-k_y), the
//! PSF acts as
//!
//! ```text
//! V_c = Q1 W_c + Q2 W_s,   V_s = Q1 W_s - Q2 W_c,   Q1 = P+ + P-,   Q2 = -i (P+ - P-)
//! ```
//!
//! (true convolution: nothing is flipped). Tables are computed in f64 and stored in the operator's kind.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

use super::field::Field;
use super::psf::Psf;
use crate::{Error, Result};

/// The linear map F `[B, C, n, n]` (flux per prior pixel) to y `[B, C, my, mx]` (flux per detector pixel).
#[derive(Debug)]
pub struct SamplingOperator {
    field: Field,
    bands: i64,
    modes_x: i64,
    modes_y: i64,
    /// `[n, 2 modes_x]`, and its transpose.
    analyse_x: [Tensor; 2],
    /// `[1, 2 modes_y, n]`, and its transpose.
    analyse_y: [Tensor; 2],
    /// `[1, my, 2 modes_y]`, and its transpose.
    synthesize_y: [Tensor; 2],
    /// `[2 modes_x, mx]`, and its transpose.
    synthesize_x: [Tensor; 2],
    /// Q1, Q2, -Q2 of the operator, then of the adjoint; each `[C, modes_y, modes_x]`, complex.
    psf: [[Tensor; 3]; 2],
}

impl SamplingOperator {
    /// The operator of a field with one PSF per band. `kind` is `Float` (production) or `Double` (tests).
    pub fn new(field: &Field, psfs: &[Psf], kind: Kind, device: Device) -> Result<Self> {
        check(field, psfs)?;
        let (theta, p) = (field.prior_pitch, field.detector_pitch);
        let reach = psfs.iter().map(Psf::reach).fold(0.0, f64::max);
        let grid = |positions: &[f64]| Grid::new(field.size, theta, p, reach, positions);
        let (columns, rows) = (field.columns(), field.rows());
        let (x, y) = (grid(&columns), grid(&rows));
        let (modes_x, modes_y) = (x.modes, y.modes);

        let mut analyse_x = vec![0.0; field.size as usize * 2 * modes_x];
        let mut analyse_y = vec![0.0; field.size as usize * 2 * modes_y];
        let n = field.size as usize;
        for j in 0..n {
            for k in 0..modes_x {
                let (sine, cosine) = x.angle(k, j as f64 * theta).sin_cos();
                analyse_x[(j * modes_x + k) * 2] = cosine;
                analyse_x[(j * modes_x + k) * 2 + 1] = -sine;
            }
            for k in 0..modes_y {
                let (sine, cosine) = y.angle(k, j as f64 * theta).sin_cos();
                analyse_y[k * n + j] = cosine;
                analyse_y[(modes_y + k) * n + j] = sine;
            }
        }
        let (mx, my) = (columns.len(), rows.len());
        let mut synthesize_x = vec![0.0; 2 * modes_x * mx];
        for k in 0..modes_x {
            // A mode k_x > 0 stands for its conjugate too.
            let weight = if k == 0 { 1.0 } else { 2.0 };
            for (i, position) in columns.iter().enumerate() {
                let (sine, cosine) = x.angle(k, *position).sin_cos();
                synthesize_x[2 * k * mx + i] = weight * cosine;
                synthesize_x[(2 * k + 1) * mx + i] = -weight * sine;
            }
        }
        let mut synthesize_y = vec![0.0; my * 2 * modes_y];
        for (i, position) in rows.iter().enumerate() {
            for k in 0..modes_y {
                // k_y = 0 is counted twice in P+ + P-.
                let weight = if k == 0 { 0.5 } else { 1.0 };
                let (sine, cosine) = y.angle(k, *position).sin_cos();
                synthesize_y[i * 2 * modes_y + k] = weight * cosine;
                synthesize_y[i * 2 * modes_y + modes_y + k] = weight * sine;
            }
        }
        let scale = p * p / (x.period * y.period);
        let psf = psf_tables(psfs, &x, &y, scale, kind, device)?;
        let table = |values: &[f64], shape: &[i64]| -> Result<[Tensor; 2]> {
            let tensor = Tensor::f_from_slice(values)?.f_view(shape)?.f_to_kind(kind)?.f_to_device(device)?;
            let transposed = tensor.f_transpose(-1, -2)?.f_contiguous()?;
            Ok([tensor, transposed])
        };
        let (n, kx, ky, mx, my) = (field.size, modes_x as i64, modes_y as i64, mx as i64, my as i64);
        Ok(SamplingOperator {
            field: *field,
            bands: psfs.len() as i64,
            modes_x: kx,
            modes_y: ky,
            analyse_x: table(&analyse_x, &[n, 2 * kx])?,
            analyse_y: table(&analyse_y, &[1, 2 * ky, n])?,
            synthesize_y: table(&synthesize_y, &[1, my, 2 * ky])?,
            synthesize_x: table(&synthesize_x, &[2 * kx, mx])?,
            psf,
        })
    }

    /// The geometry that the operator was made for.
    pub fn field(&self) -> &Field {
        &self.field
    }

    /// Number of bands, C.
    pub fn bands(&self) -> i64 {
        self.bands
    }

    /// y = A F: `[B, C, n, n]` to `[B, C, my, mx]`.
    pub fn apply(&self, flux: &Tensor) -> Result<Tensor> {
        let (n, [my, mx]) = (self.field.size, self.field.shape);
        let batch = self.batch(flux, [n, n])?;
        let images = batch * self.bands;
        let along_x = flux.f_reshape([images * n, n])?.f_matmul(&self.analyse_x[0])?;
        let along_x = along_x.f_view([images, n, 2 * self.modes_x])?;
        let modes = expand(&self.analyse_y[0], images)?.f_bmm(&along_x)?;
        let modes = self.multiply(&modes, batch, &self.psf[0])?;
        let along_y = expand(&self.synthesize_y[0], images)?.f_bmm(&modes)?;
        let out = along_y.f_view([images * my, 2 * self.modes_x])?.f_matmul(&self.synthesize_x[0])?;
        Ok(out.f_view([batch, self.bands, my, mx])?)
    }

    /// F = A^T y: `[B, C, my, mx]` to `[B, C, n, n]`.
    pub fn adjoint(&self, data: &Tensor) -> Result<Tensor> {
        let (n, [my, mx]) = (self.field.size, self.field.shape);
        let batch = self.batch(data, [my, mx])?;
        let images = batch * self.bands;
        let along_x = data.f_reshape([images * my, mx])?.f_matmul(&self.synthesize_x[1])?;
        let along_x = along_x.f_view([images, my, 2 * self.modes_x])?;
        let modes = expand(&self.synthesize_y[1], images)?.f_bmm(&along_x)?;
        let modes = self.multiply(&modes, batch, &self.psf[1])?;
        let along_y = expand(&self.analyse_y[1], images)?.f_bmm(&modes)?;
        let out = along_y.f_view([images * n, 2 * self.modes_x])?.f_matmul(&self.analyse_x[1])?;
        Ok(out.f_view([batch, self.bands, n, n])?)
    }

    /// Another handle on the same tables; nothing is copied.
    pub fn share(&self) -> Self {
        let pair = |tables: &[Tensor; 2]| [tables[0].shallow_clone(), tables[1].shallow_clone()];
        let triple = |tables: &[Tensor; 3]| tables.each_ref().map(Tensor::shallow_clone);
        SamplingOperator {
            field: self.field,
            bands: self.bands,
            modes_x: self.modes_x,
            modes_y: self.modes_y,
            analyse_x: pair(&self.analyse_x),
            analyse_y: pair(&self.analyse_y),
            synthesize_y: pair(&self.synthesize_y),
            synthesize_x: pair(&self.synthesize_x),
            psf: self.psf.each_ref().map(triple),
        }
    }

    /// The PSF on the modes `[B C, 2 modes_y, 2 modes_x]`.
    fn multiply(&self, modes: &Tensor, batch: i64, [q1, q2, minus_q2]: &[Tensor; 3]) -> Result<Tensor> {
        let complex = modes.f_view([batch, self.bands, 2, self.modes_y, self.modes_x, 2])?.f_view_as_complex()?;
        let (cosine, sine) = (complex.f_select(2, 0)?, complex.f_select(2, 1)?);
        let out = complex.f_mul(&q1.f_unsqueeze(1)?)?;
        let _ = out.f_select(2, 0)?.f_addcmul_(&sine, q2)?;
        let _ = out.f_select(2, 1)?.f_addcmul_(&cosine, minus_q2)?;
        Ok(out.f_view_as_real()?.f_view([batch * self.bands, 2 * self.modes_y, 2 * self.modes_x])?)
    }

    fn batch(&self, tensor: &Tensor, shape: [i64; 2]) -> Result<i64> {
        match tensor.size().as_slice() {
            &[batch, bands, height, width] if bands == self.bands && [height, width] == shape => Ok(batch),
            size => Err(Error::internal(format!(
                "forward operator: tensor of shape {size:?}, expected [B, {}, {}, {}]",
                self.bands, shape[0], shape[1]
            ))),
        }
    }
}

/// The Fourier grid along one axis.
struct Grid {
    /// L, arcsec.
    period: f64,
    /// Modes k = 0 .. modes.
    modes: usize,
}

impl Grid {
    /// The smallest odd number of prior pixels such that no light comes around the period, to any detector position.
    fn new(size: i64, theta: f64, p: f64, reach: f64, positions: &[f64]) -> Self {
        let last = (size - 1) as f64 * theta;
        let low = positions.first().copied().unwrap_or(0.0);
        let high = positions.last().copied().unwrap_or(0.0);
        // Distances r_i - r_j run from low - last to high; those beyond the kernel's reach must not meet its alias.
        let extent = high.max(last - low) + reach;
        let count = ((extent / theta).ceil() as usize + 1) | 1;
        let period = count as f64 * theta;
        // Strictly below the detector's Nyquist frequency, k / L < 1 / (2 p). The tolerance keeps theta = p whole.
        let detector = (period / (2.0 * p) * (1.0 - 1e-12)).ceil() as usize - 1;
        Grid { period, modes: detector.min((count - 1) / 2) + 1 }
    }

    fn angle(&self, mode: usize, position: f64) -> f64 {
        TAU * mode as f64 * position / self.period
    }

    fn frequencies(&self) -> Vec<f64> {
        (0..self.modes).map(|mode| mode as f64 / self.period).collect()
    }
}

/// Q1, Q2, -Q2 and their conjugates for the adjoint (where Q2 changes sign).
fn psf_tables(psfs: &[Psf], x: &Grid, y: &Grid, scale: f64, kind: Kind, device: Device) -> Result<[[Tensor; 3]; 2]> {
    let plus_y = y.frequencies();
    let minus_y: Vec<f64> = plus_y.iter().map(|nu| -nu).collect();
    let nu_x = x.frequencies();
    let (mut q1, mut q2) = (Vec::new(), Vec::new());
    for psf in psfs {
        let (plus_re, plus_im) = psf.transform(&plus_y, &nu_x);
        let (minus_re, minus_im) = psf.transform(&minus_y, &nu_x);
        for index in 0..plus_re.len() {
            q1.extend([scale * (plus_re[index] + minus_re[index]), scale * (plus_im[index] + minus_im[index])]);
            q2.extend([scale * (plus_im[index] - minus_im[index]), -scale * (plus_re[index] - minus_re[index])]);
        }
    }
    let shape = [psfs.len() as i64, y.modes as i64, x.modes as i64, 2];
    let table = |values: &[f64], sign: f64, conjugate: f64| -> Result<Tensor> {
        let values: Vec<f64> = values.chunks(2).flat_map(|z| [sign * z[0], sign * conjugate * z[1]]).collect();
        let tensor = Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_kind(kind)?.f_to_device(device)?;
        Ok(tensor.f_view_as_complex()?)
    };
    // V_c = Q1 W_c + Q2 W_s and V_s = Q1 W_s - Q2 W_c; transposed, W_c = Q1* V_c - Q2* V_s and W_s = Q1* V_s + Q2* V_c.
    Ok([
        [table(&q1, 1.0, 1.0)?, table(&q2, 1.0, 1.0)?, table(&q2, -1.0, 1.0)?],
        [table(&q1, 1.0, -1.0)?, table(&q2, -1.0, -1.0)?, table(&q2, 1.0, -1.0)?],
    ])
}

fn expand(matrix: &Tensor, images: i64) -> Result<Tensor> {
    Ok(matrix.f_expand([images, -1, -1], false)?)
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
