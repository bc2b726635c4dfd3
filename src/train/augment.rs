//! Keyed augmentation: orientation, rotation by any angle, zoom and shift as one resampling, and colour jitter.

use serde::{Deserialize, Serialize};

use super::procedural::canvas::{BLUR_FWHM_PIXELS, Canvas, Grid};
use super::procedural::normalise;
use super::stream::Stream;
use crate::{Error, Result};

/// How far augmentation goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentationConfig {
    /// Smallest and largest zoom (uniform in its logarithm).
    pub zoom: [f64; 2],
    /// Largest shift along either axis, pixels.
    pub shift: f64,
    /// Standard deviation of the colour of each band against the reference, magnitudes.
    pub colour: f64,
}

impl Default for AugmentationConfig {
    fn default() -> Self {
        AugmentationConfig { zoom: [0.8, 1.25], shift: 0.5, colour: 0.05 }
    }
}

impl AugmentationConfig {
    /// An error names the value that makes no sense.
    pub fn check(&self) -> Result<()> {
        let [low, high] = self.zoom;
        if !(0.2..=1.0).contains(&low) || !(1.0..=5.0).contains(&high) {
            return Err(Error::usage(format!("augmentation.zoom = [{low}, {high}]: expected 0.2..1 and 1..5")));
        }
        if !(0.0..=8.0).contains(&self.shift) || !(0.0..=1.0).contains(&self.colour) {
            return Err(Error::usage("augmentation: shift must be in 0..8 pixels and colour in 0..1 magnitudes"));
        }
        Ok(())
    }
}

/// One of the eight orientations of a square image `[C, n, n]`.
pub fn orient(image: &[f32], grid: &Grid, orientation: usize) -> Vec<f32> {
    let n = grid.size;
    let mut out = vec![0.0; image.len()];
    for (plane, target) in image.chunks_exact(n * n).zip(out.chunks_exact_mut(n * n)) {
        for y in 0..n {
            for x in 0..n {
                let (mut u, mut v) = (x, y);
                if orientation & 1 != 0 {
                    u = n - 1 - u;
                }
                if orientation & 2 != 0 {
                    v = n - 1 - v;
                }
                if orientation & 4 != 0 {
                    std::mem::swap(&mut u, &mut v);
                }
                target[y * n + x] = plane[v * n + u];
            }
        }
    }
    out
}

/// Multiplies each band but the reference by its own factor, and normalises again.
pub fn jitter(mut image: Vec<f32>, grid: &Grid, magnitudes: f64, stream: &mut Stream) -> Vec<f32> {
    let area = grid.size * grid.size;
    for (band, plane) in image.chunks_exact_mut(area).enumerate() {
        let factor = 10f64.powf(-0.4 * magnitudes * stream.normal()) as f32;
        if band != grid.reference {
            plane.iter_mut().for_each(|value| *value *= factor);
        }
    }
    normalise(&mut image, grid);
    image
}

/// An affine view of a native image: which way it lies on the prior's grid.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Rotation, radians.
    pub angle: f64,
    /// Mirrored before the rotation.
    pub mirrored: bool,
    /// Size of a native pixel, kpc, after zoom.
    pub native_kpc: f64,
    /// Where the native centre goes, kpc from the centre of the grid.
    pub shift: [f64; 2],
    /// Resolution of the native image, FWHM in kpc, after zoom: so much blur is there already.
    pub fwhm_kpc: f64,
}

/// Resamples native planes (each `height` x `width`, surface brightness per native pixel, centred on `centre`) to the
/// prior's grid: bicubic interpolation on cells of a third of a pixel, the blur that is still missing, exact averaging.
pub fn resample(planes: &[Vec<f32>], width: usize, centre: [f64; 2], grid: &Grid, view: &View) -> Vec<f32> {
    let mut canvas = Canvas::new(&Grid { bands: grid.bands[..planes.len()].to_vec(), ..grid.clone() });
    let side = canvas.side();
    let (sine, cosine) = view.angle.sin_cos();
    let mirror = if view.mirrored { -1.0 } else { 1.0 };
    let positions: Vec<f64> = (0..side).map(|cell| f64::from(canvas.position(cell))).collect();
    let height = planes[0].len() / width;
    let area = side * side;
    let cells = canvas.cells_mut();
    for (row, y) in positions.iter().enumerate() {
        for (column, x) in positions.iter().enumerate() {
            let (dx, dy) = (x - view.shift[0], y - view.shift[1]);
            let u = mirror * (dx * cosine + dy * sine) / view.native_kpc + centre[0];
            let v = (dy * cosine - dx * sine) / view.native_kpc + centre[1];
            let Some(stencil) = Stencil::at(u, v, width, height) else { continue };
            for (band, plane) in planes.iter().enumerate() {
                cells[band * area + row * side + column] = stencil.apply(plane);
            }
        }
    }
    let missing = (BLUR_FWHM_PIXELS.powi(2) - (view.fwhm_kpc / grid.pixel_kpc).powi(2)).max(0.0).sqrt();
    canvas.reduce(missing)
}

/// Bicubic (Catmull-Rom) interpolation at one place, for any number of planes; never below the smallest of the four
/// nearest pixels (no ringing around bright centres).
struct Stencil {
    corner: usize,
    width: usize,
    along: [f32; 4],
    across: [f32; 4],
}

impl Stencil {
    /// None where the plane does not reach: its light is zero there.
    fn at(u: f64, v: f64, width: usize, height: usize) -> Option<Stencil> {
        let (fu, fv) = (u.floor(), v.floor());
        if fu < 1.0 || fv < 1.0 || fu + 2.0 >= width as f64 || fv + 2.0 >= height as f64 {
            return None;
        }
        let corner = (fv as usize - 1) * width + fu as usize - 1;
        Some(Stencil { corner, width, along: catmull_rom((u - fu) as f32), across: catmull_rom((v - fv) as f32) })
    }

    fn apply(&self, plane: &[f32]) -> f32 {
        let lines: [&[f32]; 4] = std::array::from_fn(|k| &plane[self.corner + k * self.width..][..4]);
        let mut sum = 0.0;
        for (line, weight) in lines.iter().zip(self.across) {
            let [a, b, c, d] = self.along;
            sum += weight * (a * line[0] + b * line[1] + c * line[2] + d * line[3]);
        }
        sum.max(lines[1][1].min(lines[1][2]).min(lines[2][1]).min(lines[2][2]))
    }
}

fn catmull_rom(t: f32) -> [f32; 4] {
    let (t2, t3) = (t * t, t * t * t);
    [0.5 * (-t3 + 2.0 * t2 - t), 0.5 * (3.0 * t3 - 5.0 * t2 + 2.0), 0.5 * (-3.0 * t3 + 4.0 * t2 + t), 0.5 * (t3 - t2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orientations_are_eight_different_rearrangements() {
        let grid = Grid { size: 8, bands: vec!["r".into()], reference: 0, ..Grid::demonstration() };
        let image: Vec<f32> = (0..64).map(|value| value as f32).collect();
        let all: Vec<Vec<f32>> = (0..8).map(|orientation| orient(&image, &grid, orientation)).collect();
        assert_eq!(all[0], image);
        for (index, one) in all.iter().enumerate() {
            let mut sorted = one.clone();
            sorted.sort_by(f32::total_cmp);
            assert_eq!(sorted, image);
            assert!(all[..index].iter().all(|other| other != one));
        }
    }

    /// A Gaussian blob comes out with its flux, where the view puts it, and with the resolution that is promised.
    #[test]
    fn resampling_keeps_flux_place_and_resolution() {
        let grid = Grid { bands: vec!["r".into()], reference: 0, ..Grid::demonstration() };
        let (width, native_kpc) = (161, 0.3);
        let sigma = 0.5 / crate::train::procedural::canvas::FWHM_PER_SIGMA / native_kpc;
        let at = |x: f64, y: f64| (-0.5 * ((x - 90.0).powi(2) + (y - 80.0).powi(2)) / (sigma * sigma)).exp() as f32;
        let plane: Vec<f32> = (0..width * width).map(|i| at((i % width) as f64, (i / width) as f64)).collect();
        let angle = 0.7;
        let view = View { angle, mirrored: false, native_kpc, shift: [0.2, -0.1], fwhm_kpc: 0.5 };
        let image = resample(std::slice::from_ref(&plane), width, [80.0, 80.0], &grid, &view);
        let sum: f64 = image.iter().map(|&v| f64::from(v)).sum();
        // Surface brightness per native pixel is sampled per cell: flux scales with the ratio of their areas.
        let native: f64 = plane.iter().map(|&v| f64::from(v)).sum();
        let cell = 0.8 / 3.0;
        assert!((sum / native * (cell / native_kpc).powi(2) - 1.0).abs() < 0.03);
        let moment = |pick: &dyn Fn(usize) -> f64| {
            image.iter().enumerate().map(|(i, &v)| f64::from(v) * pick(i)).sum::<f64>() / sum
        };
        let (x, y) = (moment(&|i| (i % 64) as f64), moment(&|i| (i / 64) as f64));
        let expected = [31.5 + (3.0 * f64::cos(angle) + 0.2) / 0.8, 31.5 + (3.0 * f64::sin(angle) - 0.1) / 0.8];
        assert!((x - expected[0]).abs() < 0.02 && (y - expected[1]).abs() < 0.02, "{x} {y} {expected:?}");
        let spread = moment(&|i| (((i % 64) as f64 - x).powi(2) + ((i / 64) as f64 - y).powi(2)) / 2.0).sqrt();
        let fwhm = spread * crate::train::procedural::canvas::FWHM_PER_SIGMA * grid.pixel_kpc;
        // Interpolation of a blob sampled at 1.7 pixels FWHM.
        assert!((fwhm / grid.resolution_kpc() - 1.0).abs() < 0.05, "{fwhm}");
    }
}
