//! Contact sheets and statistics of training images, for tests that a person looks at.

use std::path::Path;

use super::procedural::{Grid, half_light_radius};
use crate::Result;
use crate::report::{BLACK, Canvas};

/// Writes a sheet of colour pictures (red, green, blue = the last, middle and first band; asinh stretch as in Lupton
/// et al. 2004), `columns` wide, each pixel doubled.
pub fn write(path: &Path, images: &[Vec<f32>], grid: &Grid, columns: usize) -> Result<()> {
    let (size, area, bands) = (grid.size, grid.size * grid.size, grid.bands.len());
    let cell = 2 * size + 2;
    let rows = images.len().div_ceil(columns);
    let mut sheet = Canvas::new((columns * cell) as u32, (rows * cell) as u32, BLACK);
    for (index, picture) in images.iter().enumerate() {
        let (left, top) = ((index % columns) * cell, (index / columns) * cell);
        for (x, y, pixel) in (0..4 * area)
            .map(|at| (at % (2 * size), at / (2 * size), (at / (2 * size) / 2) * size + at % (2 * size) / 2))
        {
            let band = |index: usize| f64::from(picture[index * area + pixel]);
            let rgb = [0.85 * band(bands - 1), band(bands / 2), 1.5 * band(0)];
            let intensity = rgb.iter().sum::<f64>() / 3.0;
            let stretched = (intensity / 2e-5).asinh() / 7.0;
            let colour = rgb.map(|v| (255.0 * (v / intensity.max(1e-12) * stretched)).clamp(0.0, 255.0) as u8);
            sheet.set((left + x) as i64, (top + y) as i64, colour);
        }
    }
    sheet.save(path)
}

/// Prints what sets the stretch and what the population looks like.
pub fn print_statistics(images: &[Vec<f32>], grid: &Grid) {
    let area = grid.size * grid.size;
    let (mut at_r50, mut sizes, mut asymmetry, mut edge) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for image in images {
        let plane = &image[grid.reference * area..][..area];
        let radius = half_light_radius(plane, grid.size, [0.0; 2]);
        sizes.push(radius * grid.pixel_kpc);
        let middle = (grid.size as f64 - 1.0) / 2.0;
        let ring: Vec<f64> = (0..area)
            .filter(|at| {
                (((at % grid.size) as f64 - middle).hypot((at / grid.size) as f64 - middle) - radius).abs() < 0.7
            })
            .map(|at| f64::from(plane[at]))
            .collect();
        at_r50.push(ring.iter().sum::<f64>() / ring.len().max(1) as f64);
        asymmetry.push(0.5 * (0..area).map(|at| f64::from((plane[at] - plane[area - 1 - at]).abs())).sum::<f64>());
        let border = |at: &usize| at.is_multiple_of(grid.size) || *at < grid.size;
        edge.push((0..area).filter(border).map(|at| f64::from(plane[at])).sum::<f64>() / (2 * grid.size - 1) as f64);
    }
    for (name, values) in [
        ("surface brightness at r50 (total flux per pixel)", &mut at_r50),
        ("r50 (kpc)", &mut sizes),
        ("asymmetry about the centre", &mut asymmetry),
        ("flux per pixel at the edge", &mut edge),
    ] {
        values.sort_by(f64::total_cmp);
        let at = |q: f64| values[((values.len() - 1) as f64 * q) as usize];
        println!(
            "{name}: 5 % {:.3e}, 25 % {:.3e}, median {:.3e}, 75 % {:.3e}, 95 % {:.3e}",
            at(0.05),
            at(0.25),
            at(0.5),
            at(0.75),
            at(0.95)
        );
    }
}
