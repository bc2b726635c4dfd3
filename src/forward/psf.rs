//! The point spread function: from an image of it, sampled on the detector's grid, to its Fourier transform at any
//! frequency, which is all that the forward operator needs.
//!
//! The kernel is taken as the samples of a band-limited function (Whittaker-Shannon): K(r) = sum_k K_k sinc((r - r_k)/p),
//! so its transform is the kernel's discrete-time transform up to the detector's Nyquist frequency 1/(2p), and zero
//! beyond. An effective PSF (detector pixel inside) is used as it is, because an image is then the convolution
//! point-sampled at pixel centres; a PSF without the pixel gets the pixel's response sinc(nu p) along each axis.

use std::f64::consts::{PI, TAU};

/// What makes an image unusable as a PSF.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PsfError {
    #[error("the PSF has {found} values, expected {height} x {width}")]
    Shape { found: usize, height: usize, width: usize },
    #[error("the PSF is {height} x {width} pixels, expected at least 3 x 3")]
    TooSmall { height: usize, width: usize },
    #[error("pixel (x = {x}, y = {y}) of the PSF is not a finite number; give a PSF without holes")]
    NotFinite { x: usize, y: usize },
    #[error("the PSF sums to {sum:e}, expected a positive flux; is it the right file and band?")]
    NoFlux { sum: f64 },
    #[error("the PSF's brightest pixel is (x = {x}, y = {y}), far from its centre ({cx}, {cy}); is it a PSF?")]
    OffCentre { x: usize, y: usize, cx: usize, cy: usize },
    #[error("pixel pitch {0} arcsec of the PSF, expected a positive number")]
    Pitch(f64),
}

/// A PSF kernel of unit sum on the detector's grid.
///
/// Its nominal centre is pixel k/2 (integer division) along each axis: 21 for 43 pixels, 16 for 32. A source at that
/// pixel's centre is what the kernel shows; the kernel's own centroid relative to it is kept, not removed.
#[derive(Clone, Debug, PartialEq)]
pub struct Psf {
    height: usize,
    width: usize,
    values: Vec<f64>,
    pitch: f64,
    includes_pixel: bool,
}

/// Radius of the search for the brightest pixel, as a part of the kernel's size.
const CENTRE_FRACTION: f64 = 0.25;
/// Oversampling of the kernel in the width estimate.
const FWHM_OVERSAMPLING: usize = 8;

impl Psf {
    /// A kernel from its image: `values` row by row (y outside, x inside), `pitch` in arcsec per pixel, and whether the
    /// detector's pixel response is inside. The whole kernel is kept and scaled to unit sum.
    pub fn new(
        values: &[f64],
        height: usize,
        width: usize,
        pitch: f64,
        includes_pixel: bool,
    ) -> Result<Self, PsfError> {
        if values.len() != height * width {
            return Err(PsfError::Shape { found: values.len(), height, width });
        }
        if height < 3 || width < 3 {
            return Err(PsfError::TooSmall { height, width });
        }
        if !(pitch.is_finite() && pitch > 0.0) {
            return Err(PsfError::Pitch(pitch));
        }
        if let Some(bad) = values.iter().position(|value| !value.is_finite()) {
            return Err(PsfError::NotFinite { x: bad % width, y: bad / width });
        }
        let sum: f64 = values.iter().sum();
        let size: f64 = values.iter().map(|value| value.abs()).sum();
        // A kernel whose negative part is as large as its positive part is no PSF, and dividing by its sum would blow up.
        let has_flux = sum > 1e-3 * size;
        if !has_flux {
            return Err(PsfError::NoFlux { sum });
        }
        let (cx, cy) = (width / 2, height / 2);
        let brightest =
            (0..values.len()).fold(0, |best, index| if values[index] > values[best] { index } else { best });
        let (x, y) = (brightest % width, brightest / width);
        if x.abs_diff(cx) as f64 > 1.0 + CENTRE_FRACTION * width as f64
            || y.abs_diff(cy) as f64 > 1.0 + CENTRE_FRACTION * height as f64
        {
            return Err(PsfError::OffCentre { x, y, cx, cy });
        }
        let values = values.iter().map(|value| value / sum).collect();
        Ok(Psf { height, width, values, pitch, includes_pixel })
    }

    /// A circular Gaussian of the given full width at half maximum (arcsec): the kernel of simulations.
    pub fn gaussian(size: usize, fwhm: f64, pitch: f64) -> Result<Self, PsfError> {
        let sigma = fwhm / pitch / (8.0 * 2.0f64.ln()).sqrt();
        let centre = (size / 2) as f64;
        let profile: Vec<f64> =
            (0..size).map(|index| (-0.5 * ((index as f64 - centre) / sigma).powi(2)).exp()).collect();
        let values: Vec<f64> = profile.iter().flat_map(|y| profile.iter().map(move |x| x * y)).collect();
        Psf::new(&values, size, size, pitch, true)
    }

    /// Kernel values of unit sum, row by row.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Height and width in pixels.
    pub fn shape(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Arcsec per kernel pixel.
    pub fn pitch(&self) -> f64 {
        self.pitch
    }

    /// Whether the detector's pixel response is inside.
    pub fn includes_pixel(&self) -> bool {
        self.includes_pixel
    }

    /// The largest distance along an axis from the nominal centre at which the kernel (and the detector pixel, if it is
    /// not inside) has light, in arcsec.
    pub fn reach(&self) -> f64 {
        let size = self.height.max(self.width);
        let half = (size / 2).max(size - size / 2) as f64;
        self.pitch * (half + if self.includes_pixel { 0.0 } else { 0.5 })
    }

    /// The transform sum_k K_k exp(-2 pi i nu . r_k), with r_k relative to the nominal centre, on the grid of
    /// frequencies `nu_y` x `nu_x` (cycles per arcsec, all below 1/(2 pitch)): real and imaginary parts, y outside. It is
    /// one at zero frequency.
    pub fn transform(&self, nu_y: &[f64], nu_x: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let count = nu_x.len();
        // Along x first: rows[y][kx]; then along y.
        let phases_x = phases(self.width, self.pitch, nu_x);
        let phases_y = phases(self.height, self.pitch, nu_y);
        let mut rows = vec![(0.0, 0.0); self.height * count];
        for (y, row) in rows.chunks_mut(count).enumerate() {
            for (x, phase) in phases_x.chunks(count).enumerate() {
                let value = self.values[y * self.width + x];
                for (sum, (cosine, sine)) in row.iter_mut().zip(phase) {
                    sum.0 += value * cosine;
                    sum.1 -= value * sine;
                }
            }
        }
        let (mut real, mut imaginary) = (vec![0.0; nu_y.len() * count], vec![0.0; nu_y.len() * count]);
        for (y, row) in rows.chunks(count).enumerate() {
            for (ky, &(cosine, sine)) in phases_y[y * nu_y.len()..(y + 1) * nu_y.len()].iter().enumerate() {
                let line = ky * count..(ky + 1) * count;
                for ((re, im), (a, b)) in real[line.clone()].iter_mut().zip(&mut imaginary[line]).zip(row) {
                    *re += a * cosine + b * sine;
                    *im += b * cosine - a * sine;
                }
            }
        }
        if !self.includes_pixel {
            for (ky, y) in nu_y.iter().enumerate() {
                for (kx, x) in nu_x.iter().enumerate() {
                    let response = sinc(x * self.pitch) * sinc(y * self.pitch);
                    real[ky * count + kx] *= response;
                    imaginary[ky * count + kx] *= response;
                }
            }
        }
        (real, imaginary)
    }

    /// Full width at half maximum in arcsec: the diameter of the circle with the area that is brighter than half the
    /// maximum, on the band-limited interpolation of the kernel.
    pub fn fwhm(&self) -> f64 {
        let fine_x = interpolation(self.width);
        let fine_y = interpolation(self.height);
        let (fine_width, fine_height) = (fine_x.len() / self.width, fine_y.len() / self.height);
        let mut rows = vec![0.0; self.height * fine_width];
        for y in 0..self.height {
            for x in 0..fine_width {
                let weights = &fine_x[x * self.width..(x + 1) * self.width];
                let line = &self.values[y * self.width..(y + 1) * self.width];
                rows[y * fine_width + x] = weights.iter().zip(line).map(|(w, v)| w * v).sum();
            }
        }
        let mut fine = vec![0.0; fine_height * fine_width];
        for (y, line) in fine.chunks_mut(fine_width).enumerate() {
            for (row, weight) in fine_y[y * self.height..(y + 1) * self.height].iter().enumerate() {
                for (value, from) in line.iter_mut().zip(&rows[row * fine_width..]) {
                    *value += weight * from;
                }
            }
        }
        let peak = fine.iter().copied().fold(f64::MIN, f64::max);
        let area = fine.iter().filter(|value| **value > 0.5 * peak).count() as f64;
        let step = self.pitch / FWHM_OVERSAMPLING as f64;
        2.0 * (area / PI).sqrt() * step
    }

    /// The radius around the nominal centre, in arcsec, that holds `fraction` of the kernel's flux.
    pub fn encircled_energy_radius(&self, fraction: f64) -> f64 {
        let mut pixels: Vec<(f64, f64)> = (0..self.values.len())
            .map(|index| {
                let x = (index % self.width) as f64 - (self.width / 2) as f64;
                let y = (index / self.width) as f64 - (self.height / 2) as f64;
                (x.hypot(y), self.values[index])
            })
            .collect();
        pixels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut inside = 0.0;
        for (radius, value) in &pixels {
            inside += value;
            if inside >= fraction {
                return radius * self.pitch;
            }
        }
        pixels.last().map_or(0.0, |last| last.0 * self.pitch)
    }

    /// The part of a source's light that lands beyond a line at `distance` (arcsec, may be negative) from it, in
    /// direction +x, -x, +y, -y. For light from outside a field that a pixel at this distance inside it receives.
    pub fn beyond(&self, direction: Direction, distance: f64) -> f64 {
        let (count, centre) = match direction {
            Direction::Right | Direction::Left => (self.width, self.width / 2),
            Direction::Up | Direction::Down => (self.height, self.height / 2),
        };
        let mut total = 0.0;
        for index in 0..count {
            let offset = index as f64 - centre as f64;
            let along = if matches!(direction, Direction::Right | Direction::Up) { offset } else { -offset };
            // A kernel pixel across the line counts by the part of it that is beyond.
            let part = (along + 0.5 - distance / self.pitch).clamp(0.0, 1.0);
            if part > 0.0 {
                total += part * self.line(direction, index);
            }
        }
        total
    }

    /// Sum of the kernel's column (for x directions) or row (for y directions) `index`.
    fn line(&self, direction: Direction, index: usize) -> f64 {
        match direction {
            Direction::Right | Direction::Left => (0..self.height).map(|y| self.values[y * self.width + index]).sum(),
            Direction::Up | Direction::Down => self.values[index * self.width..(index + 1) * self.width].iter().sum(),
        }
    }
}

/// A direction on the detector: +x, -x, +y, -y.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Right,
    Left,
    Up,
    Down,
}

/// Cosine and sine of 2 pi nu r_k for each pixel (outside) and frequency (inside).
fn phases(size: usize, pitch: f64, frequencies: &[f64]) -> Vec<(f64, f64)> {
    let centre = (size / 2) as f64;
    (0..size)
        .flat_map(|index| {
            let position = (index as f64 - centre) * pitch;
            frequencies.iter().map(move |nu| {
                let (sine, cosine) = (TAU * nu * position).sin_cos();
                (cosine, sine)
            })
        })
        .collect()
}

/// sin(pi x) / (pi x)
fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}

/// Sinc weights of each fine position (outside) on each pixel (inside).
fn interpolation(size: usize) -> Vec<f64> {
    let mut weights = Vec::with_capacity(size * size * FWHM_OVERSAMPLING);
    for fine in 0..size * FWHM_OVERSAMPLING {
        let position = fine as f64 / FWHM_OVERSAMPLING as f64;
        weights.extend((0..size).map(|pixel| sinc(position - pixel as f64)));
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn width_of_a_gaussian() {
        for (size, fwhm) in [(43, 0.6), (32, 0.8)] {
            let psf = Psf::gaussian(size, fwhm, 0.168).unwrap();
            // Counting cells of an eighth of a pixel: half a cell of 0.021 arcsec.
            assert!((psf.fwhm() - fwhm).abs() < 0.01, "{}", psf.fwhm());
            // A Gaussian holds 99 % within sigma sqrt(2 ln 100); pixels have discrete radii, about 0.5 pixel apart.
            let want = fwhm / (8.0 * 2.0f64.ln()).sqrt() * (2.0 * 100.0f64.ln()).sqrt();
            assert!((psf.encircled_energy_radius(0.99) - want).abs() < 0.5 * 0.168);
        }
    }

    #[test]
    fn transform_of_a_gaussian() {
        let psf = Psf::gaussian(43, 0.7, 0.168).unwrap();
        let sigma = 0.7 / (8.0 * 2.0f64.ln()).sqrt();
        let (nu_x, nu_y) = ([0.0, 0.31, 1.2, 2.5], [-0.8, 0.0, 1.7]);
        let (real, imaginary) = psf.transform(&nu_y, &nu_x);
        for (ky, y) in nu_y.iter().enumerate() {
            for (kx, x) in nu_x.iter().enumerate() {
                let want = (-2.0 * (PI * sigma).powi(2) * (x * x + y * y)).exp();
                // The aliases of a Gaussian of 4.2 pixels FWHM are below 1e-7 at these frequencies.
                assert!((real[ky * 4 + kx] - want).abs() < 1e-7);
                assert!(imaginary[ky * 4 + kx].abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_displaced_kernel_keeps_its_displacement() {
        let mut values = vec![0.0; 7 * 8];
        values[2 * 8 + 5] = 2.0;
        let psf = Psf::new(&values, 7, 8, 0.2, true).unwrap();
        // Nominal centre (x 4, y 3): the light is at (+1, -1) pixels.
        let (nu_x, nu_y) = ([0.7], [1.1]);
        let (real, imaginary) = psf.transform(&nu_y, &nu_x);
        let phase = TAU * (0.7 * 0.2 - 1.1 * 0.2);
        assert!((real[0] - phase.cos()).abs() < 1e-14 && (imaginary[0] + phase.sin()).abs() < 1e-14);
        assert_eq!(psf.beyond(Direction::Right, 0.1), 1.0);
        assert_eq!(psf.beyond(Direction::Right, 0.2), 0.5);
        assert_eq!(psf.beyond(Direction::Up, 0.0), 0.0);
        assert_eq!(psf.beyond(Direction::Down, 0.0), 1.0);
    }

    #[test]
    fn the_pixel_is_added_only_when_it_is_not_inside() {
        let gaussian = Psf::gaussian(43, 0.6, 0.168).unwrap();
        let bare = Psf::new(gaussian.values(), 43, 43, 0.168, false).unwrap();
        let (with, _) = gaussian.transform(&[0.0], &[0.0, 1.5]);
        let (without, _) = bare.transform(&[0.0], &[0.0, 1.5]);
        assert!((without[0] - 1.0).abs() < 1e-14 && (with[0] - 1.0).abs() < 1e-14);
        assert!((without[1] / with[1] - sinc(1.5 * 0.168)).abs() < 1e-14);
    }

    #[test]
    fn what_is_no_psf_is_refused() {
        assert!(matches!(Psf::new(&[0.0; 25], 5, 5, 0.1, true), Err(PsfError::NoFlux { .. })));
        assert!(matches!(Psf::new(&[0.0; 24], 5, 5, 0.1, true), Err(PsfError::Shape { .. })));
        let mut values = [1.0; 25];
        values[7] = f64::NAN;
        assert_eq!(Psf::new(&values, 5, 5, 0.1, true), Err(PsfError::NotFinite { x: 2, y: 1 }));
        let mut corner = vec![0.0; 21 * 21];
        corner[0] = 1.0;
        assert!(matches!(Psf::new(&corner, 21, 21, 0.1, true), Err(PsfError::OffCentre { .. })));
    }
}
