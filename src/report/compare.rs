//! Images of one band side by side, in one stretch.

use super::canvas::{BLACK, Canvas, GREY, WHITE};
use super::colour::{Asinh, quantile};
use crate::{Error, Result};

const PANEL: i64 = 256;
const GAP: i64 = 12;
const TOP: i64 = 34;

/// Panels `[size, size]` with their titles; the stretch is that of the first: softened at a hundredth of its peak.
///
/// Errors: no panels, or one of another size.
pub fn compare_picture(panels: &[(&str, &[f64])], size: usize) -> Result<Canvas> {
    let Some((_, first)) = panels.first().filter(|_| panels.iter().all(|(_, image)| image.len() == size * size)) else {
        return Err(Error::internal(format!("a comparison of {} images of {size} pixels", panels.len())));
    };
    let peak = quantile(first.iter().map(|&value| value as f32), 0.999).unwrap_or(1.0).max(f32::MIN_POSITIVE);
    let stretch = Asinh { softening: peak / 100.0, white: peak };
    let width = GAP + panels.len() as i64 * (PANEL + GAP);
    let mut canvas = Canvas::new(width as u32, (TOP + PANEL + GAP) as u32, WHITE);
    for (index, (title, image)) in panels.iter().enumerate() {
        let left = GAP + index as i64 * (PANEL + GAP);
        canvas.text(left, 10, title, 2, BLACK);
        canvas.paste((left, TOP), (PANEL, PANEL), (size, size), |x, y| stretch.colour(&[image[y * size + x] as f32]));
        canvas.frame(left - 1, TOP - 1, PANEL + 2, PANEL + 2, GREY);
    }
    Ok(canvas)
}
