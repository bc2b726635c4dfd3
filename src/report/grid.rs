//! Many small images on one picture: draws of a prior, training images.

use super::canvas::{Canvas, WHITE};
use super::colour::{Asinh, quantile};
use crate::{Error, Result};

/// Sides of a shown image, and the gap between two, in picture pixels.
const SIDE: usize = 128;
const GAP: usize = 4;

/// A grid of `columns` columns of the images `[N, C, n, n]` (linear flux, C order), each with its own asinh stretch:
/// softened at a hundredth of its peak, so that outskirts show.
///
/// Errors: a shape that is not that of `values`, or without images.
pub fn grid_picture(values: &[f32], shape: [usize; 4], columns: usize) -> Result<Canvas> {
    let [count, bands, height, width] = shape;
    let image = bands * height * width;
    if image == 0 || count == 0 || columns == 0 || values.len() != count * image {
        let length = values.len();
        return Err(Error::internal(format!("a picture of {length} values as {shape:?} in {columns} columns")));
    }
    // Whole multiples keep pixels square.
    let side = width.max(height) * (SIDE / width.max(height)).max(1);
    let cell = side + GAP;
    let rows = count.div_ceil(columns);
    let columns_used = columns.min(count);
    let mut canvas = Canvas::new((columns_used * cell + GAP) as u32, (rows * cell + GAP) as u32, WHITE);
    for (index, values) in values.chunks(image).enumerate() {
        let peak = quantile(values.iter().copied(), 0.998).unwrap_or(1.0).max(f32::MIN_POSITIVE);
        let stretch = Asinh { softening: peak / 100.0, white: peak };
        let place = ((GAP + index % columns * cell) as i64, (GAP + index / columns * cell) as i64);
        let plane = height * width;
        canvas.paste(place, (side as i64, side as i64), (width, height), |x, y| {
            let pixel: Vec<f32> = (0..bands).map(|band| values[band * plane + y * width + x]).collect();
            stretch.colour(&pixel)
        });
    }
    Ok(canvas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_has_its_size_and_its_images_in_order() {
        let (n, count) = (16, 5);
        let mut values = vec![0.0; count * 3 * n * n];
        // Only the last image has light.
        values[4 * 3 * n * n..].fill(1.0);
        let canvas = grid_picture(&values, [count, 3, n, n], 3).unwrap();
        assert_eq!((canvas.width(), canvas.height()), (3 * 132 + 4, 2 * 132 + 4));
        let centre = |column: u32, row: u32| canvas.get(4 + column * 132 + 64, 4 + row * 132 + 64).unwrap();
        assert!(centre(1, 1)[2] == 255 && centre(0, 0)[2] < 150);
        assert_eq!(centre(2, 1), WHITE);
        assert!(grid_picture(&values, [4, 3, n, n], 3).is_err());
    }
}
