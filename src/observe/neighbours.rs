//! Sources in the frame, told apart: which pixels belong to the target, and which to its neighbours.
//!
//! Detection is on the sum of the bands, each in units of its noise, smoothed. Segments grow from local maxima downhill
//! (a watershed); two that meet are one source unless the lower maximum stands out of the saddle between them (its
//! persistence: Edelsbrunner, Letscher & Zomorodian 2002). So a neighbour that touches the target's isophote is still
//! separated, and the target's own arms and clumps are not, unless they stand out as much as a neighbour would.

use super::frame::{Frame, grown, median_and_spread, neighbours};

/// A maximum stands out when it rises above the saddle by this many rms and by this fraction of its own height.
const RISE_RMS: f64 = 3.0;
const RISE_FRACTION: f64 = 0.3;
/// A source's maximum is at least this many rms above the sky, and at least the threshold and a half.
const LEAST_PEAK: f64 = 4.0;
/// The target's maximum is at least this many rms above the sky.
const TARGET_PEAK: f32 = 3.0;
/// A source has at least this many pixels.
const LEAST_PIXELS: usize = 5;
/// Maxima closer to the target's position than this many arcsec belong to the target.
const CORE: f64 = 0.6;

/// The segments of a frame: 0 is sky.
#[derive(Clone, Debug)]
pub(super) struct Segments {
    pub shape: [usize; 2],
    pub labels: Vec<u32>,
    /// The label of the target; `None` when nothing is detected at its position.
    pub target: Option<u32>,
}

/// Finds the sources. `bands` holds image, noise rms per pixel and sky level 0 (already removed) of each band; `good`
/// the pixels that are good in all of them.
pub(super) fn segment(
    bands: &[(&[f32], f64)],
    shape: [usize; 2],
    good: &[bool],
    target: [f64; 2],
    threshold: f64,
    pixel_scale: f64,
    smoothing: f64,
) -> Segments {
    let mut sum = Frame { shape, values: vec![0.0; good.len()] };
    for (image, rms) in bands {
        let scale = (1.0 / rms) as f32;
        sum.values.iter_mut().zip(*image).for_each(|(total, &value)| *total += value * scale);
    }
    let smoothed = sum.smoothed(good, smoothing);
    let rms = quiet_rms(&smoothed, good);
    let heights: Vec<f32> =
        smoothed.values.iter().zip(good).map(|(&v, &ok)| if ok { v / rms as f32 } else { 0.0 }).collect();
    let core = CORE / pixel_scale;
    let in_core = |index: usize| {
        let (x, y) = ((index % shape[1]) as f64 - target[0], (index / shape[1]) as f64 - target[1]);
        x.hypot(y) <= core
    };
    let labels = watershed(&heights, shape, threshold as f32, &in_core);
    let target = at_target(&labels, shape, target, core);
    let mut segments = Segments { shape, labels, target };
    segments.drop_noise(&heights, LEAST_PEAK.max(1.5 * threshold) as f32);
    segments
}

/// The rms of the smoothed sum where it is free of sources: the spread of its lower half about the mode, in rounds.
fn quiet_rms(smoothed: &Frame, good: &[bool]) -> f64 {
    let mut limit = f32::INFINITY;
    let mut rms = 1.0;
    for _ in 0..8 {
        let used = smoothed.values.iter().zip(good);
        let values: Vec<f32> = used.filter(|&(&v, &ok)| ok && v < limit).map(|(&v, _)| v).collect();
        if values.len() < 50 {
            break;
        }
        let (centre, spread) = median_and_spread(values);
        let next = (centre + 4.5 * spread) as f32;
        (limit, rms) = (next.min(limit), spread);
    }
    if rms > 0.0 { rms } else { 1.0 }
}

/// Labels (from 1) of the pixels above the threshold, each maximum that stands out with its slopes.
fn watershed(heights: &[f32], shape: [usize; 2], threshold: f32, in_core: &dyn Fn(usize) -> bool) -> Vec<u32> {
    let mut order: Vec<usize> = (0..heights.len()).filter(|&index| heights[index] > threshold).collect();
    // Equal heights are taken in the order of their index, so that the result is one.
    order.sort_by(|&a, &b| heights[b].total_cmp(&heights[a]).then(a.cmp(&b)));
    // Union of segments; each root keeps the index of its maximum.
    let mut parents: Vec<usize> = Vec::new();
    let mut peaks: Vec<usize> = Vec::new();
    let mut segment: Vec<usize> = vec![usize::MAX; heights.len()];
    let root = |parents: &[usize], mut label: usize| {
        while parents[label] != label {
            label = parents[label];
        }
        label
    };
    for index in order {
        let mut around: Vec<usize> = neighbours(index, shape)
            .filter(|&near| segment[near] != usize::MAX)
            .map(|near| root(&parents, segment[near]))
            .collect();
        around.sort_unstable();
        around.dedup();
        let steepest = neighbours(index, shape)
            .filter(|&near| segment[near] != usize::MAX)
            .max_by(|&a, &b| heights[a].total_cmp(&heights[b]).then(b.cmp(&a)));
        let Some(steepest) = steepest else {
            parents.push(parents.len());
            peaks.push(index);
            segment[index] = parents.len() - 1;
            continue;
        };
        segment[index] = segment[steepest];
        // The highest maximum first: the others are compared with it.
        around.sort_by(|&a, &b| heights[peaks[b]].total_cmp(&heights[peaks[a]]).then(a.cmp(&b)));
        for &lower in &around[1..] {
            let higher = root(&parents, around[0]);
            let peak = f64::from(heights[peaks[lower]]);
            let rise = peak - f64::from(heights[index]);
            let stands_out = rise > RISE_RMS && rise > RISE_FRACTION * peak;
            let both_target = in_core(peaks[lower]) && in_core(peaks[higher]);
            if !stands_out || both_target {
                parents[lower] = higher;
            }
        }
    }
    let label = |&found: &usize| if found == usize::MAX { 0 } else { root(&parents, found) as u32 + 1 };
    segment.iter().map(label).collect()
}

/// The label at the target's pixel, or the nearest one within the core.
fn at_target(labels: &[u32], [ny, nx]: [usize; 2], target: [f64; 2], core: f64) -> Option<u32> {
    let mut best: Option<(f64, u32)> = None;
    let reach = core.ceil() as isize;
    let (x0, y0) = (target[0].round() as isize, target[1].round() as isize);
    for y in (y0 - reach).max(0)..=(y0 + reach).min(ny as isize - 1) {
        for x in (x0 - reach).max(0)..=(x0 + reach).min(nx as isize - 1) {
            let label = labels[y as usize * nx + x as usize];
            let distance = (x as f64 - target[0]).hypot(y as f64 - target[1]);
            if label != 0 && distance <= core && best.is_none_or(|(nearest, _)| distance < nearest) {
                best = Some((distance, label));
            }
        }
    }
    best.map(|(_, label)| label)
}

impl Segments {
    /// What is too small or too faint for a source becomes sky. At the target's position, where a source is expected,
    /// less is asked for.
    fn drop_noise(&mut self, heights: &[f32], least_peak: f32) {
        let count = self.labels.iter().max().map_or(0, |&label| label as usize) + 1;
        let (mut pixels, mut peak) = (vec![0usize; count], vec![0f32; count]);
        for (&label, &height) in self.labels.iter().zip(heights) {
            pixels[label as usize] += 1;
            peak[label as usize] = peak[label as usize].max(height);
        }
        let target = self.target;
        let is_source = |label: u32| {
            let index = label as usize;
            let least_peak = if Some(label) == target { TARGET_PEAK } else { least_peak };
            pixels[index] >= LEAST_PIXELS && peak[index] >= least_peak
        };
        self.target = target.filter(|&label| is_source(label));
        self.labels.iter_mut().for_each(|label| *label = if is_source(*label) { *label } else { 0 });
    }

    /// True on the pixels of the target.
    pub fn of_target(&self) -> Vec<bool> {
        self.labels.iter().map(|&label| label != 0 && Some(label) == self.target).collect()
    }

    /// True on the neighbours, grown by `radius` pixels over their wings, but never into the target's core of
    /// `core` pixels around `position`.
    pub fn of_neighbours(&self, radius: f64, position: [f64; 2], core: f64) -> Vec<bool> {
        let own: Vec<bool> = self.labels.iter().map(|&label| label != 0 && Some(label) != self.target).collect();
        let mut mask = grown(&own, self.shape, radius);
        for (index, masked) in mask.iter_mut().enumerate() {
            let (x, y) = ((index % self.shape[1]) as f64, (index / self.shape[1]) as f64);
            if !own[index] && (x - position[0]).hypot(y - position[1]) <= core {
                *masked = false;
            }
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    const SIDE: usize = 121;

    /// Gaussians `(x, y, peak, sigma)` in white noise of rms 1.
    fn scene(sources: &[(f64, f64, f64, f64)]) -> Vec<f32> {
        let mut values = Key::new(9, "scene", 0, Purpose::ObservationNoise, 0).normal(SIDE * SIDE);
        for (index, value) in values.iter_mut().enumerate() {
            for &(x, y, peak, sigma) in sources {
                let r2 = ((index % SIDE) as f64 - x).powi(2) + ((index / SIDE) as f64 - y).powi(2);
                *value += (peak * (-0.5 * r2 / (sigma * sigma)).exp()) as f32;
            }
        }
        values
    }

    fn find(image: &[f32], target: [f64; 2]) -> Segments {
        segment(&[(image, 1.0)], [SIDE, SIDE], &[true; SIDE * SIDE], target, 2.0, 0.168, 2.0)
    }

    #[test]
    fn a_touching_neighbour_is_separated_and_the_rest_kept() {
        let image = scene(&[(60.0, 60.0, 100.0, 6.0), (80.0, 60.0, 60.0, 4.0), (20.0, 100.0, 30.0, 3.0)]);
        let segments = find(&image, [60.3, 59.8]);
        let (own, other) = (segments.of_target(), segments.of_neighbours(3.0, [60.3, 59.8], 5.0));
        let at = |x: usize, y: usize| y * SIDE + x;
        assert!(own[at(60, 60)] && !other[at(60, 60)]);
        assert!(!own[at(80, 60)] && other[at(80, 60)] && other[at(20, 100)]);
        // The isophotes touch: both segments meet somewhere between the two centres.
        assert!((61..80).all(|x| segments.labels[at(x, 60)] != 0), "the test is too easy");
        let masked = other.iter().filter(|&&m| m).count();
        assert!(masked < SIDE * SIDE / 5, "{masked} pixels masked");
    }

    #[test]
    fn clumps_of_the_target_stay_with_it() {
        let clumps = [(60.0, 60.0, 60.0, 8.0), (66.0, 60.0, 15.0, 2.0), (56.0, 66.0, 12.0, 2.0)];
        let segments = find(&scene(&clumps), [60.0, 60.0]);
        let own = segments.of_target();
        assert!(clumps.iter().all(|&(x, y, _, _)| own[y as usize * SIDE + x as usize]));
    }

    #[test]
    fn a_target_that_is_not_detected_has_no_segment_and_noise_is_not_masked() {
        let segments = find(&scene(&[(100.0, 100.0, 50.0, 3.0)]), [30.0, 30.0]);
        assert_eq!(segments.target, None);
        let masked = segments.of_neighbours(0.0, [30.0, 30.0], 5.0).iter().filter(|&&m| m).count();
        // Above 2 rms of the smoothed image the source has 250 pixels, and noise blobs that touch it.
        assert!(masked > 20 && masked < 600, "{masked}");
    }
}
