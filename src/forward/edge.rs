//! The weight of pixels near the edge of the prior's field.
//!
//! Light from outside the field is not in the model, but reaches pixels near its edge. There the sky's variance is inflated
//! by 1/w^2, where 1 - w is twice the part of their light that pixels would receive from outside if the sky were uniformly
//! bright: w = 1 far inside, about 0 on the edge itself and beyond it (floored at `WEIGHT_FLOOR`). Pixels further inside than
//! the PSF's 99 % encircled-energy radius keep w = 1.

use tch::Tensor;

use super::field::Field;
use super::psf::{Direction, Psf};
use crate::Result;

/// Smallest weight, on the field's edge and beyond: the sky's standard deviation grows at most 20 times.
pub(super) const WEIGHT_FLOOR: f64 = 0.05;

/// The factor by which the sky's variance grows towards the field's edge and stays large beyond it,
/// `[C, my, mx]`, f64.
pub fn edge_inflation(field: &Field, psfs: &[Psf]) -> Result<Tensor> {
    let [low, high] = field.span();
    let (columns, rows) = (field.columns(), field.rows());
    let mut factors = Vec::with_capacity(psfs.len() * columns.len() * rows.len());
    for psf in psfs {
        let radius = psf.encircled_energy_radius(0.99);
        // Light that comes in over the low edge travels towards +x: the part that goes further than the distance.
        let inside = |direction: Direction, distance: f64| {
            if distance >= radius { 1.0 } else { (1.0 - 2.0 * psf.beyond(direction, distance)).clamp(0.0, 1.0) }
        };
        let weight = |positions: &[f64], up: Direction, down: Direction| -> Vec<f64> {
            positions.iter().map(|at| inside(up, at - low) * inside(down, high - at)).collect()
        };
        let across = weight(&columns, Direction::Right, Direction::Left);
        let along = weight(&rows, Direction::Up, Direction::Down);
        for y in &along {
            factors.extend(across.iter().map(|x| (x * y).max(WEIGHT_FLOOR).powi(-2)));
        }
    }
    let shape = [psfs.len() as i64, rows.len() as i64, columns.len() as i64];
    Ok(Tensor::f_from_slice(&factors)?.f_view(shape)?)
}
