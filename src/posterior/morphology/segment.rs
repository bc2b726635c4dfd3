//! The pixels that Gini and M20 are measured on, as statmorph chooses them (Lotz et al. 2004, section 3.1).

use super::light::{Ellipse, Plane};

/// The image is smoothed by a Gaussian of this part of the Petrosian half-axis.
const SMOOTHING: f64 = 0.2;
/// Gaussian kernels end at this many standard deviations.
const TRUNCATE: f64 = 4.0;

/// A pixel: value, column, row.
pub(super) type Pixel = (f64, f64, f64);

/// The pixels of the galaxy, with their values in the image itself: where the smoothed image is at least as bright as in
/// the elliptical ring, one pixel wide, at the Petrosian half-axis `petrosian` about `centre`; of several such regions (8
/// neighbours), the one with the brightest smoothed pixel.
pub(super) fn segment(plane: &Plane, centre: (f64, f64), ellipse: Ellipse, petrosian: f64) -> Vec<Pixel> {
    let size = plane.size;
    let smooth = gaussian(plane, SMOOTHING * petrosian);
    let place = |index: usize| ((index % size) as f64, (index / size) as f64);
    let (mut sum, mut count) = (0.0, 0.0);
    for (index, value) in smooth.iter().enumerate() {
        let (x, y) = place(index);
        if (ellipse.radius(x - centre.0, y - centre.1) - petrosian).abs() <= 0.5 {
            sum += value;
            count += 1.0;
        }
    }
    // A ring outside of the field has no light: all that is positive is the galaxy.
    let threshold = if count > 0.0 { sum / count } else { 0.0 }.max(f64::MIN_POSITIVE);
    let Some(brightest) = (0..smooth.len()).max_by(|&a, &b| smooth[a].total_cmp(&smooth[b])) else { return Vec::new() };
    let mut taken = vec![false; smooth.len()];
    let mut queue = if smooth[brightest] >= threshold { vec![brightest] } else { Vec::new() };
    queue.iter().for_each(|&index| taken[index] = true);
    while let Some(index) = queue.pop() {
        let (column, row) = (index % size, index / size);
        for y in row.saturating_sub(1)..(row + 2).min(size) {
            for x in column.saturating_sub(1)..(column + 2).min(size) {
                let neighbour = y * size + x;
                if !taken[neighbour] && smooth[neighbour] >= threshold {
                    taken[neighbour] = true;
                    queue.push(neighbour);
                }
            }
        }
    }
    let inside = (0..smooth.len()).filter(|&index| taken[index]);
    inside.map(|index| (plane.values[index], place(index).0, place(index).1)).collect()
}

/// The image convolved with a Gaussian, nothing outside of the field.
fn gaussian(plane: &Plane, sigma: f64) -> Vec<f64> {
    let size = plane.size;
    let reach = (TRUNCATE * sigma + 0.5) as usize;
    let mut kernel: Vec<f64> = (0..=reach).map(|d| (-0.5 * (d as f64 / sigma.max(1e-6)).powi(2)).exp()).collect();
    let sum = kernel[0] + 2.0 * kernel[1..].iter().sum::<f64>();
    kernel.iter_mut().for_each(|weight| *weight /= sum);
    let line = |values: &[f64], first: usize, step: usize, out: &mut [f64]| {
        for (at, out) in out.iter_mut().enumerate() {
            let low = at.saturating_sub(reach);
            let high = (at + reach).min(size - 1);
            *out = (low..=high).map(|from| kernel[from.abs_diff(at)] * values[first + from * step]).sum();
        }
    };
    let (mut rows, mut out, mut column) = (vec![0.0; size * size], vec![0.0; size * size], vec![0.0; size]);
    for row in 0..size {
        line(&plane.values, row * size, 1, &mut rows[row * size..(row + 1) * size]);
    }
    for x in 0..size {
        line(&rows, x, size, &mut column);
        (0..size).for_each(|y| out[y * size + x] = column[y]);
    }
    out
}
