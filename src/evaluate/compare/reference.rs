//! A sharp image of the same sky, brought to the products' grid, position and flux.

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::Observed;
use crate::forward::{Field, SamplingOperator};
use crate::product::RecordArray;
use crate::sky::TanWcs;
use crate::{Error, Result};

/// Parts that a pixel of the sharp image is split into along each axis.
const PARTS: usize = 3;
/// The search for the shift starts with steps of this many arcsec and ends below `LEAST_STEP`.
const FIRST_STEP: f64 = 0.16;
const LEAST_STEP: f64 = 0.004;
/// Part of the field's half-width within which position and flux are matched: beyond, there are neighbours.
const MATCHED: f64 = 0.6;

/// How the sharp image was matched to the observation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Matched {
    /// Shift of the sharp image along the columns and rows of the products, arcsec.
    pub shift_arcsec: [f64; 2],
    /// Factor on its flux: zero points and bands differ.
    pub flux_factor: f64,
    /// Sky level of the observation under it, nJy per detector pixel.
    pub sky: f64,
    /// Reduced chi^2 of the observation against the sharp image through the observation's PSF.
    pub reduced_chi2: f64,
}

/// Flux of `image` (row by row, `shape`) on the product's grid of `size` pixels, shifted by `shift` product pixels: each
/// part of a pixel goes to the product pixel that its centre is in. Both WCS are linear over the field to 1e-6.
fn on_grid(image: &RecordArray, from: &TanWcs, to: &TanWcs, size: usize, shift: [f64; 2]) -> Result<Vec<f64>> {
    let failed = |error: crate::sky::wcs::WcsError| Error::internal(format!("WCS of the sharp image: {error}"));
    let [rows, columns] = image.shape[..] else { return Err(Error::internal("the sharp image is not [y, x]")) };
    let middle = (size as f64 - 1.0) / 2.0;
    let origin = from.sky_to_pixel(to.pixel_to_sky([middle; 2])).map_err(failed)?;
    let there = |x: f64, y: f64| to.sky_to_pixel(from.pixel_to_sky([x, y])).map_err(failed);
    let (base, right, up) =
        (there(origin[0], origin[1])?, there(origin[0] + 1.0, origin[1])?, there(origin[0], origin[1] + 1.0)?);
    let across = [right[0] - base[0], right[1] - base[1]];
    let along = [up[0] - base[0], up[1] - base[1]];
    let mut out = vec![0.0; size * size];
    let offset = |part: usize| (part as f64 + 0.5) / PARTS as f64 - 0.5;
    for (index, &value) in image.values.iter().enumerate().take(rows * columns).filter(|(_, value)| value.is_finite()) {
        let (x, y) = ((index % columns) as f64 - origin[0], (index / columns) as f64 - origin[1]);
        for part in 0..PARTS * PARTS {
            let (x, y) = (x + offset(part % PARTS), y + offset(part / PARTS));
            let column = (base[0] + shift[0] + across[0] * x + along[0] * y).round();
            let row = (base[1] + shift[1] + across[1] * x + along[1] * y).round();
            if column >= 0.0 && row >= 0.0 && column < size as f64 && row < size as f64 {
                out[row as usize * size + column as usize] += f64::from(value) / (PARTS * PARTS) as f64;
            }
        }
    }
    Ok(out)
}

/// The sharp image on the product's grid in the observation's position and flux scale. Position, flux factor and sky are
/// those with which the sharp image, through the observation's PSF, fits the observation best.
///
/// Errors: a sharp image that does not cover the field.
pub fn matched(image: &RecordArray, from: &TanWcs, to: &TanWcs, observed: &Observed) -> Result<(Vec<f64>, Matched)> {
    let size = observed.field.size as usize;
    let plain = on_grid(image, from, to, size, [0.0; 2])?;
    if plain.iter().filter(|value| **value != 0.0).count() < size * size / 2 {
        return Err(Error::usage("the sharp image covers less than half of the product's field"));
    }
    let tensor = Tensor::f_from_slice(&plain)?.f_view([1, 1, size as i64, size as i64])?;
    // Through the PSF a shift of the grid is a shift of the target in the observation.
    let fit = |shift: [f64; 2]| -> Result<(f64, f64, f64)> {
        let pixels = shift.map(|arcsec| arcsec / observed.field.detector_pitch);
        let target = [observed.field.target[0] + pixels[0], observed.field.target[1] + pixels[1]];
        let field = Field { target, ..observed.field };
        let psfs = std::slice::from_ref(&observed.psf);
        linear(&SamplingOperator::new(&field, psfs, Kind::Double, Device::Cpu)?.apply(&tensor)?, observed)
    };
    let (mut shift, mut best) = ([0.0; 2], fit([0.0; 2])?);
    let mut step = FIRST_STEP;
    while step > LEAST_STEP {
        let mut moved = false;
        for (dx, dy) in [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)] {
            let tried = [shift[0] + dx, shift[1] + dy];
            let found = fit(tried)?;
            if found.2 < best.2 {
                (shift, best, moved) = (tried, found, true);
            }
        }
        if !moved {
            step /= 2.0;
        }
    }
    let pixels = shift.map(|arcsec| arcsec / observed.field.prior_pitch);
    let (flux_factor, sky, reduced_chi2) = best;
    let reference = on_grid(image, from, to, size, pixels)?.into_iter().map(|value| value * flux_factor).collect();
    Ok((reference, Matched { shift_arcsec: shift, flux_factor, sky, reduced_chi2 }))
}

/// The factor and the level with which `model` fits the data best in the middle of the field, and the reduced chi^2.
fn linear(model: &Tensor, observed: &Observed) -> Result<(f64, f64, f64)> {
    let numbers = |tensor: &Tensor| -> Result<Vec<f64>> { Ok(Vec::try_from(tensor.f_contiguous()?.f_view(-1)?)?) };
    let (model, data, weight) = (numbers(model)?, numbers(&observed.data)?, numbers(&observed.weight)?);
    let field = &observed.field;
    let columns = field.shape[1] as usize;
    let reach = MATCHED * 0.5 * field.size as f64 * field.prior_pitch / field.detector_pitch;
    let [mut w, mut m, mut d, mut mm, mut md, mut dd, mut count] = [0.0; 7];
    for index in 0..data.len() {
        let (x, y) = ((index % columns) as f64 - field.target[0], (index / columns) as f64 - field.target[1]);
        if x.hypot(y) > reach || weight[index] == 0.0 {
            continue;
        }
        let (a, b, c) = (model[index], data[index], weight[index]);
        w += c;
        m += c * a;
        d += c * b;
        mm += c * a * a;
        md += c * a * b;
        dd += c * b * b;
        count += 1.0;
    }
    let factor = (md - m * d / w) / (mm - m * m / w);
    let level = (d - factor * m) / w;
    let chi2 = dd - factor * md - level * d;
    Ok((factor, level, chi2 / count))
}
