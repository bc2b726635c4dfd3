//! Coverage as a map: observed S/N downwards, radius to the right, one panel for each interval.

use super::canvas::{BLACK, Canvas, GREY, WHITE, text_width};
use super::colour::Map;
use crate::evaluate::coverage::{Cell, NOMINAL, RADII};
use crate::evaluate::recovery::SIGNAL_BINS;
use crate::{Error, Result};

const CELL: (i64, i64) = (84, 44);
const LEFT: i64 = 120;
const TOP: i64 = 60;
const GAP: i64 = 28;
/// Coverage that differs from the nominal one by as much has the full colour.
const FULL: f64 = 0.25;

/// The map. Blue: intervals are too narrow (fewer truths inside than should be); red: too wide.
///
/// Errors: no cells.
pub fn coverage_picture(cells: &[Cell]) -> Result<Canvas> {
    if cells.is_empty() {
        return Err(Error::internal("a coverage map of nothing"));
    }
    let (columns, rows) = (RADII.len() as i64, SIGNAL_BINS.len() as i64);
    let panel = columns * CELL.0 + GAP;
    let width = LEFT + NOMINAL.len() as i64 * panel;
    let mut canvas = Canvas::new(width as u32, (TOP + rows * CELL.1 + 40) as u32, WHITE);
    canvas.text(12, TOP - 24, "S/N", 2, BLACK);
    for (row, low) in SIGNAL_BINS.iter().enumerate() {
        let text = SIGNAL_BINS.get(row + 1).map_or(format!("> {low}"), |high| format!("{low}-{high}"));
        canvas.text(12, TOP + row as i64 * CELL.1 + 14, &text, 2, BLACK);
    }
    for (which, nominal) in NOMINAL.iter().enumerate() {
        let left = LEFT + which as i64 * panel;
        canvas.text(left, 12, &format!("% inside {:.0} % intervals", 100.0 * nominal), 2, BLACK);
        for (column, low) in RADII.iter().enumerate() {
            let text = RADII.get(column + 1).map_or(format!("> {low}"), |high| format!("{low}-{high}"));
            let at = left + column as i64 * CELL.0 + (CELL.0 - text_width(&text, 2)) / 2;
            canvas.text(at, TOP - 24, &text, 2, BLACK);
        }
        let under = "radius over half-light radius";
        canvas.text(left, TOP + rows * CELL.1 + 14, under, 2, BLACK);
        for cell in cells {
            let place = |edges: &[f64], low: f64| edges.iter().position(|&edge| edge == low).unwrap_or(0) as i64;
            let x = left + place(&RADII, cell.radius.0) * CELL.0;
            let y = TOP + place(&SIGNAL_BINS, cell.signal.0) * CELL.1;
            let found = cell.found[which].value;
            let colour = Map::Diverging.colour(0.5 + 0.5 * (found - nominal) / FULL);
            canvas.fill(x, y, CELL.0 - 2, CELL.1 - 2, colour);
            let text = format!("{:.0}", 100.0 * found);
            canvas.text(x + (CELL.0 - text_width(&text, 2)) / 2, y + 14, &text, 2, BLACK);
        }
        canvas.frame(left - 2, TOP - 2, columns * CELL.0 + 2, rows * CELL.1 + 2, GREY);
    }
    Ok(canvas)
}
