//! Images of profiles through a PSF, sampled at the detector's pixel centres: the product of both transforms, brought back on a
//! periodic grid that is larger than the stamp, so that next to no light comes around. The PSF is used as it is, as in the
//! forward model.

use std::f64::consts::TAU;

use tch::Tensor;

use super::profile::{Profile, Shape};
use crate::Result;
use crate::forward::{Psf, correlated_grid};

/// What renders stamps of one size through one PSF.
pub(super) struct Renderer {
    /// Rows and columns of a stamp.
    shape: [i64; 2],
    /// Rows and columns of the periodic grid.
    grid: [i64; 2],
    /// Frequencies of its rows and of half of its columns, cycles per pixel.
    frequencies: [Vec<f64>; 2],
    /// Transform of the PSF there, columns inside.
    psf: (Vec<f64>, Vec<f64>),
}

impl Renderer {
    /// For stamps of `shape` (rows, columns). The PSF's pitch must be 1: pixels are the unit.
    pub fn new(psf: &Psf, shape: [usize; 2]) -> Renderer {
        let reach = psf.shape().into_iter().max().unwrap_or(0);
        let grid = shape.map(|side| correlated_grid(side as i64, reach.max(side / 2) as i64));
        let frequency =
            |index: i64, count: i64| (if 2 * index > count { index - count } else { index }) as f64 / count as f64;
        let rows: Vec<f64> = (0..grid[0]).map(|index| frequency(index, grid[0])).collect();
        let columns: Vec<f64> = (0..=grid[1] / 2).map(|index| frequency(index, grid[1])).collect();
        let transform = psf.transform(&rows, &columns);
        Renderer { shape: shape.map(|side| side as i64), grid, frequencies: [rows, columns], psf: transform }
    }

    /// The profile with unit flux, row by row.
    pub fn image(&self, profile: Profile, shape: &Shape) -> Result<Vec<f64>> {
        let mut images = self.images(profile, shape, false)?;
        Ok(images.swap_remove(0))
    }

    /// The same, followed by its derivatives by the five parameters of the shape.
    pub fn with_derivatives(&self, profile: Profile, shape: &Shape) -> Result<Vec<Vec<f64>>> {
        self.images(profile, shape, true)
    }

    fn images(&self, profile: Profile, shape: &Shape, derivatives: bool) -> Result<Vec<Vec<f64>>> {
        let count = if derivatives { 6 } else { 1 };
        let [rows, columns] = &self.frequencies;
        let modes = rows.len() * columns.len();
        let form = shape.quadratic();
        let [x, y, ..] = shape.0;
        // Real and imaginary parts, side by side.
        let mut spectra = vec![0.0; count * modes * 2];
        for (row, &ky) in rows.iter().enumerate() {
            for (column, &kx) in columns.iter().enumerate() {
                let mode = row * columns.len() + column;
                let [u, by_radius, by_eta1, by_eta2] = form(kx, ky);
                let (value, slope) = profile.transform(u);
                // The shift to the centre.
                let (sine, cosine) = (-TAU * (kx * x + ky * y)).sin_cos();
                let (re, im) = (self.psf.0[mode], self.psf.1[mode]);
                let base = (re * cosine - im * sine, re * sine + im * cosine);
                let mut put = |image: usize, real: f64, imaginary: f64| {
                    let at = 2 * (image * modes + mode);
                    spectra[at] = real * base.0 - imaginary * base.1;
                    spectra[at + 1] = real * base.1 + imaginary * base.0;
                };
                put(0, value, 0.0);
                if derivatives {
                    put(1, 0.0, -TAU * kx * value);
                    put(2, 0.0, -TAU * ky * value);
                    put(3, slope * by_radius, 0.0);
                    put(4, slope * by_eta1, 0.0);
                    put(5, slope * by_eta2, 0.0);
                }
            }
        }
        let spectra = Tensor::f_from_slice(&spectra)?
            .f_view([count as i64, rows.len() as i64, columns.len() as i64, 2])?
            .f_view_as_complex()?;
        let images = spectra
            .f_fft_irfft2(self.grid.as_slice(), [-2, -1], "backward")?
            .f_narrow(1, 0, self.shape[0])?
            .f_narrow(2, 0, self.shape[1])?
            .f_contiguous()?;
        let values = Vec::<f64>::try_from(images.f_view(-1)?)?;
        Ok(values.chunks((self.shape[0] * self.shape[1]) as usize).map(<[f64]>::to_vec).collect())
    }
}
