//! The oversampled canvas that galaxies are painted on, and its reduction to the prior's grid: a Gaussian blur followed
//! by exact averaging over the pixel.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Canvas cells along one side of a pixel.
pub const OVERSAMPLING: usize = 3;
/// Pixels around the grid that are painted as well, so that the blur brings in the light that it should.
const MARGIN: usize = 3;
/// Blur of the training images before pixel averaging, FWHM in pixels: a point source is then not one hot pixel.
pub const BLUR_FWHM_PIXELS: f64 = 1.4;
/// FWHM of a Gaussian over its standard deviation.
pub const FWHM_PER_SIGMA: f64 = 2.354_820_045;

/// The grid of the prior and the bands that it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Pixels on a side.
    pub size: usize,
    /// Pitch, kpc.
    pub pixel_kpc: f64,
    /// Any of `g`, `r`, `i`, `z`, `y`.
    pub bands: Vec<String>,
    /// The band whose total flux is one.
    pub reference: usize,
}

impl Grid {
    /// The default: 64 pixels of 0.8 kpc in g, r, i, normalised in r.
    pub fn demonstration() -> Self {
        Grid { size: 64, pixel_kpc: 0.8, bands: ["g", "r", "i"].map(String::from).to_vec(), reference: 1 }
    }

    /// Checks sizes and band names; an error says what is allowed.
    pub fn check(&self) -> Result<()> {
        let possible = (8..=1024).contains(&self.size) && self.pixel_kpc > 0.0 && self.pixel_kpc < 100.0;
        if !possible {
            return Err(Error::usage(format!(
                "training images of {} pixels of {} kpc: 8 to 1024 pixels of 0 to 100 kpc are possible",
                self.size, self.pixel_kpc
            )));
        }
        if self.bands.is_empty() || self.reference >= self.bands.len() {
            return Err(Error::usage("training bands: at least one is needed, and the reference must be one of them"));
        }
        for band in &self.bands {
            if !["g", "r", "i", "z", "y"].contains(&band.as_str()) {
                return Err(Error::usage(format!("training band `{band}` is unknown: use g, r, i, z, y")));
            }
        }
        Ok(())
    }

    /// Effective resolution of the images: blur and pixel together, FWHM in kpc.
    pub fn resolution_kpc(&self) -> f64 {
        let pixel = FWHM_PER_SIGMA / 12.0f64.sqrt();
        BLUR_FWHM_PIXELS.hypot(pixel) * self.pixel_kpc
    }
}

/// An image `[C, side, side]` on cells of a third of a pixel, with a margin around the grid.
pub struct Canvas {
    grid: Grid,
    side: usize,
    cell_kpc: f32,
    values: Vec<f32>,
}

/// One cell's worth of a component: surface brightness, the share of its second SED, and dust optical depth (in r).
#[derive(Clone, Copy, Debug, Default)]
pub struct Shade {
    pub light: f32,
    pub mix: f32,
    pub dust: f32,
}

impl Canvas {
    /// An empty canvas.
    pub fn new(grid: &Grid) -> Self {
        let side = (grid.size + 2 * MARGIN) * OVERSAMPLING;
        let cell_kpc = (grid.pixel_kpc / OVERSAMPLING as f64) as f32;
        Canvas { grid: grid.clone(), side, cell_kpc, values: vec![0.0; grid.bands.len() * side * side] }
    }

    /// Cells on a side.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Pitch of the cells, kpc.
    pub fn cell_kpc(&self) -> f32 {
        self.cell_kpc
    }

    /// Position of a cell's centre along either axis, kpc from the centre of the grid.
    pub fn position(&self, cell: usize) -> f32 {
        (cell as f32 + 0.5 - self.side as f32 / 2.0) * self.cell_kpc
    }

    /// All cells, `[C, side, side]`.
    pub fn cells_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Adds a component of total reference flux `flux` (as far as it falls on the canvas, before dust). `shade` gives
    /// it at a position (kpc); within `steep` (x, y, radius in kpc) it is averaged over 7 x 7 points per cell.
    pub fn add(
        &mut self,
        flux: f64,
        seds: [&[f32]; 2],
        extinction: &[f32],
        steep: Option<[f32; 3]>,
        shade: impl Fn(f32, f32) -> Shade,
    ) {
        let side = self.side;
        let area = side * side;
        let mut shades = vec![Shade::default(); area];
        let mut total = 0.0f64;
        for row in 0..side {
            let y = self.position(row);
            for column in 0..side {
                let x = self.position(column);
                let value = match steep {
                    Some([cx, cy, radius]) if (x - cx).hypot(y - cy) < radius => self.average(x, y, &shade),
                    _ => shade(x, y),
                };
                total += f64::from(value.light);
                shades[row * side + column] = value;
            }
        }
        if total <= 0.0 {
            return;
        }
        let scale = (flux / total) as f32;
        for (band, cells) in self.values.chunks_exact_mut(area).enumerate() {
            let (first, second, k) = (seds[0][band] * scale, seds[1][band] * scale, extinction[band]);
            for (cell, shade) in cells.iter_mut().zip(&shades) {
                let light = shade.light * (first + (second - first) * shade.mix);
                *cell += if shade.dust > 0.0 { light * (-k * shade.dust).exp() } else { light };
            }
        }
    }

    fn average(&self, x: f32, y: f32, shade: &impl Fn(f32, f32) -> Shade) -> Shade {
        const POINTS: usize = 7;
        let mut sum = Shade::default();
        for j in 0..POINTS {
            for i in 0..POINTS {
                let offset = |index: usize| ((index as f32 + 0.5) / POINTS as f32 - 0.5) * self.cell_kpc;
                let one = shade(x + offset(i), y + offset(j));
                sum.light += one.light;
                sum.mix += one.mix * one.light;
                sum.dust += one.dust * one.light;
            }
        }
        let light = sum.light.max(f32::MIN_POSITIVE);
        Shade { light: sum.light / (POINTS * POINTS) as f32, mix: sum.mix / light, dust: sum.dust / light }
    }

    /// Adds a round or elongated Gaussian knot of this reference flux, painted only where it matters. `sigma` is in kpc.
    pub fn add_knot(&mut self, flux: f64, sed: &[f32], [x, y]: [f32; 2], sigma: f32, axis_ratio: f32, angle: f32) {
        // Narrower than the cells cannot be painted; the blur that follows hides the difference.
        let major = sigma.max(0.6 * self.cell_kpc);
        let minor = (sigma * axis_ratio).max(0.6 * self.cell_kpc);
        let peak = flux as f32 * self.cell_kpc * self.cell_kpc / (std::f32::consts::TAU * major * minor);
        let (sine, cosine) = angle.sin_cos();
        let cells = |centre: f32| {
            let middle = centre / self.cell_kpc + self.side as f32 / 2.0;
            let reach = 4.0 * major / self.cell_kpc;
            let clamp = |value: f32| value.clamp(0.0, self.side as f32) as usize;
            clamp(middle - reach)..clamp(middle + reach + 1.0)
        };
        let area = self.side * self.side;
        for row in cells(y) {
            let dy = self.position(row) - y;
            for column in cells(x) {
                let dx = self.position(column) - x;
                let along = (dx * cosine + dy * sine) / major;
                let across = (dy * cosine - dx * sine) / minor;
                let light = peak * (-0.5 * (along * along + across * across)).exp();
                for (band, colour) in sed.iter().enumerate() {
                    self.values[band * area + row * self.side + column] += light * colour;
                }
            }
        }
    }

    /// Dims what is there: a share `covered` of the light lies behind optical depth `depth(x, y)` (in r).
    pub fn attenuate(&mut self, covered: f32, extinction: &[f32], depth: impl Fn(f32, f32) -> f32) {
        let area = self.side * self.side;
        for row in 0..self.side {
            let y = self.position(row);
            for column in 0..self.side {
                let tau = depth(self.position(column), y);
                if tau < 1e-3 {
                    continue;
                }
                for (band, k) in extinction.iter().enumerate() {
                    self.values[band * area + row * self.side + column] *= 1.0 - covered * (1.0 - (-k * tau).exp());
                }
            }
        }
    }

    /// Blurs by a Gaussian of FWHM `blur_fwhm` pixels, averages over pixels, and gives flux per pixel `[C, n, n]`.
    pub fn reduce(&self, blur_fwhm: f64) -> Vec<f32> {
        let (size, side) = (self.grid.size, self.side);
        let weights = reduction_weights(blur_fwhm);
        let reach = (weights.len() - OVERSAMPLING) / 2;
        let first = |pixel: usize| (pixel + MARGIN) * OVERSAMPLING - reach;
        let mut out = vec![0.0f32; self.grid.bands.len() * size * size];
        let mut rows = vec![0.0f32; size * side];
        for (cells, image) in self.values.chunks_exact(side * side).zip(out.chunks_exact_mut(size * size)) {
            rows.fill(0.0);
            for (pixel, row) in rows.chunks_exact_mut(side).enumerate() {
                for (k, weight) in weights.iter().enumerate() {
                    let source = &cells[(first(pixel) + k) * side..][..side];
                    row.iter_mut().zip(source).for_each(|(to, from)| *to += weight * from);
                }
            }
            for (row, line) in rows.chunks_exact(side).zip(image.chunks_exact_mut(size)) {
                for (pixel, value) in line.iter_mut().enumerate() {
                    *value = weights.iter().zip(&row[first(pixel)..]).map(|(weight, cell)| weight * cell).sum();
                }
            }
        }
        out
    }
}

/// Weights of the cells around one pixel: the Gaussian convolved with the pixel, sampled at cell centres, unit sum over
/// every pixel's share of a cell (so that flux is conserved).
fn reduction_weights(blur_fwhm: f64) -> Vec<f32> {
    let sigma = blur_fwhm / FWHM_PER_SIGMA * OVERSAMPLING as f64;
    // The margin bounds the reach; three pixels are five standard deviations at the usual blur.
    let reach = ((4.0 * sigma).ceil() as usize).min(MARGIN * OVERSAMPLING);
    let gaussian: Vec<f64> = (-(reach as i64)..=reach as i64)
        .map(|at| if sigma > 0.0 { (-0.5 * (at as f64 / sigma).powi(2)).exp() } else { f64::from(at == 0) })
        .collect();
    let sum: f64 = gaussian.iter().sum();
    let mut weights = vec![0.0f32; 2 * reach + OVERSAMPLING];
    for cell in 0..OVERSAMPLING {
        for (k, value) in gaussian.iter().enumerate() {
            weights[cell + k] += (value / sum) as f32;
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f32 sums over about 40,000 cells.
    const FLUX_TOLERANCE: f64 = 2e-5;

    #[test]
    fn a_knot_keeps_its_flux_and_place_through_the_reduction() {
        let grid = Grid::demonstration();
        let mut canvas = Canvas::new(&grid);
        canvas.add_knot(2.0, &[0.5, 1.0, 1.5], [3.1, -4.7], 0.3, 0.8, 0.4);
        let image = canvas.reduce(BLUR_FWHM_PIXELS);
        let area = grid.size * grid.size;
        for (band, expected) in [1.0, 2.0, 3.0].into_iter().enumerate() {
            let plane = &image[band * area..(band + 1) * area];
            let sum: f64 = plane.iter().map(|&v| f64::from(v)).sum();
            assert!((sum / expected - 1.0).abs() < 2e-3, "band {band}: {sum}");
            let centroid = |pick: &dyn Fn(usize) -> usize| -> f64 {
                plane.iter().enumerate().map(|(at, &v)| f64::from(v) * pick(at) as f64).sum::<f64>() / sum
            };
            let (x, y) = (centroid(&|at| at % grid.size), centroid(&|at| at / grid.size));
            // Gaussian sampling on cells of 0.27 kpc.
            assert!((x - (31.5 + 3.1 / 0.8)).abs() < 5e-3 && (y - (31.5 - 4.7 / 0.8)).abs() < 5e-3, "{x} {y}");
        }
    }

    #[test]
    fn reduction_conserves_flux_of_an_even_sky() {
        let grid = Grid { bands: vec!["r".into()], reference: 0, ..Grid::demonstration() };
        let mut canvas = Canvas::new(&grid);
        canvas.cells_mut().fill(1.0);
        for blur in [0.0, 0.7, BLUR_FWHM_PIXELS] {
            for value in canvas.reduce(blur) {
                assert!((f64::from(value) / (OVERSAMPLING * OVERSAMPLING) as f64 - 1.0).abs() < FLUX_TOLERANCE);
            }
        }
    }
}
