//! One galaxy at many magnitudes: observation, posterior mean and variance ratio below each other.

use super::canvas::{BLACK, Canvas, GREY, WHITE, label};
use super::colour::{Asinh, Map, quantile};
use crate::evaluate::dominance::Row;
use crate::{Error, Result};

const PANEL: i64 = 192;
const GAP: i64 = 10;
const TOP: i64 = 34;

/// A column for each magnitude. Composites have a stretch of their own in each column; the ratio (middle band) is shown
/// from 0 to 1.
pub fn dominance_picture(rows: &[Row], bands: usize, size: usize) -> Result<Canvas> {
    if rows.is_empty() || bands == 0 {
        return Err(Error::internal("a picture of no magnitudes"));
    }
    let width = GAP + rows.len() as i64 * (PANEL + GAP);
    let mut canvas = Canvas::new(width as u32, (TOP + 3 * (PANEL + GAP)) as u32, WHITE);
    for (index, row) in rows.iter().enumerate() {
        let left = GAP + index as i64 * (PANEL + GAP);
        let place = |line: i64| (left, TOP + line * (PANEL + GAP));
        canvas.text(left, 10, &format!("{} mag", label(row.magnitude)), 2, BLACK);
        let [my, mx] = row.images.observed;
        for (line, values, height, columns) in [(0, &row.images.observation, my, mx), (1, &row.images.mean, size, size)]
        {
            let peak = quantile(values.iter().copied(), 0.998).unwrap_or(1.0).max(f32::MIN_POSITIVE);
            let stretch = Asinh { softening: peak / 30.0, white: peak };
            let plane = height * columns;
            canvas.paste(place(line), (PANEL, PANEL), (columns, height), |x, y| {
                let pixel: Vec<f32> = (0..bands).map(|band| values[band * plane + y * columns + x]).collect();
                stretch.colour(&pixel)
            });
        }
        let middle = bands / 2 * size * size;
        canvas.paste(place(2), (PANEL, PANEL), (size, size), |x, y| {
            Map::Sequential.colour(f64::from(row.images.ratio[middle + y * size + x]))
        });
        for line in 0..3 {
            let (x, y) = place(line);
            canvas.frame(x - 1, y - 1, PANEL + 2, PANEL + 2, GREY);
        }
    }
    Ok(canvas)
}
