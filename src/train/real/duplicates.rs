//! Near-duplicate images: the same galaxy twice, from two mosaics or with two sky subtractions.

use super::RealGalaxy;

/// Side of the compared stamps, native pixels.
const SIDE: usize = 48;
/// Correlation of the square-rooted stamps above which two images are taken for the same galaxy.
const SAME: f64 = 0.985;

/// Gives near-duplicates a common group name (the first one's), transitively.
pub fn group(galaxies: &mut [RealGalaxy]) {
    let stamps: Vec<Vec<f32>> = galaxies.iter().map(stamp).collect();
    for index in 1..galaxies.len() {
        for other in 0..index {
            let correlation: f64 = stamps[index].iter().zip(&stamps[other]).map(|(a, b)| f64::from(a * b)).sum();
            if correlation > SAME && galaxies[index].group != galaxies[other].group {
                let (from, to) = (galaxies[index].group.clone(), galaxies[other].group.clone());
                galaxies.iter_mut().filter(|galaxy| galaxy.group == from).for_each(|galaxy| galaxy.group = to.clone());
            }
        }
    }
}

/// The central part, square-rooted (so that the core does not decide alone) and of unit norm.
fn stamp(galaxy: &RealGalaxy) -> Vec<f32> {
    let cleaned = &galaxy.cleaned;
    let height = cleaned.planes[0].len() / cleaned.width;
    let corner =
        |centre: f64, side: usize| (centre.round() as usize).saturating_sub(SIDE / 2).min(side.saturating_sub(SIDE));
    let (x0, y0) = (corner(cleaned.centre[0], cleaned.width), corner(cleaned.centre[1], height));
    let mut stamp = Vec::with_capacity(SIDE * SIDE);
    for y in y0..(y0 + SIDE).min(height) {
        for x in x0..(x0 + SIDE).min(cleaned.width) {
            stamp.push(cleaned.planes[0][y * cleaned.width + x].max(0.0).sqrt());
        }
    }
    let norm = stamp.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    stamp.iter_mut().for_each(|value| *value /= norm);
    stamp
}
