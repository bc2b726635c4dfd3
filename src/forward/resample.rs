//! Flux-conserving resampling to another pitch about the middle of an image: each native pixel's flux is shared among the new
//! pixels by the area that they have in common. What the new frame does not hold is cut off; new pixels beyond the native
//! frame are dark.

/// The share of native pixel j (along one axis of `native` pixels) in each of `count` new ones that are `ratio` native
/// pixels wide and lie centred on the axis: for each new pixel its first native pixel and the shares from there on.
fn shares(native: usize, count: usize, ratio: f64) -> Vec<(usize, Vec<f64>)> {
    let edge = |index: usize| native as f64 / 2.0 + (index as f64 - count as f64 / 2.0) * ratio;
    let share = |index: usize| {
        let (low, high) = (edge(index).max(0.0), edge(index + 1).min(native as f64));
        let first = (low.floor() as usize).min(native.saturating_sub(1));
        let last = (high.ceil() as usize).clamp(first + 1, native);
        (first, (first..last).map(|j| (high.min(j as f64 + 1.0) - low.max(j as f64)).max(0.0)).collect())
    };
    (0..count).map(share).collect()
}

/// The middle `count` x `count` new pixels, each `ratio` native ones wide, of a native plane of flux per pixel
/// `[height, width]`.
pub fn resample(plane: &[f64], [height, width]: [usize; 2], count: usize, ratio: f64) -> Vec<f64> {
    let (columns, rows) = (shares(width, count, ratio), shares(height, count, ratio));
    let mut narrow = vec![0.0; height * count];
    for (line, out) in plane.chunks_exact(width).zip(narrow.chunks_exact_mut(count)) {
        for ((first, weights), value) in columns.iter().zip(out) {
            *value = weights.iter().zip(&line[*first..]).map(|(weight, flux)| weight * flux).sum();
        }
    }
    let mut image = vec![0.0; count * count];
    for ((first, weights), out) in rows.iter().zip(image.chunks_exact_mut(count)) {
        for (weight, line) in weights.iter().zip(narrow.chunks_exact(count).skip(*first)) {
            out.iter_mut().zip(line).for_each(|(value, flux)| *value += weight * flux);
        }
    }
    image
}

/// Whether the native frame covers `count` new pixels, but for rounding.
pub fn fits(shape: [usize; 2], count: usize, ratio: f64) -> bool {
    shape.iter().all(|&side| count as f64 * ratio <= side as f64 * (1.0 + 1e-9))
}

/// An image `[C, n, n]` of flux per pixel on a grid of the same size and middle, whose pixels are `ratio` of its own wide.
pub fn resample_image(image: &[f32], size: usize, ratio: f64) -> Vec<f32> {
    let planes = image.chunks_exact(size * size).map(|plane| {
        let plane: Vec<f64> = plane.iter().map(|&flux| f64::from(flux)).collect();
        resample(&plane, [size, size], size, ratio)
    });
    planes.flatten().map(|flux| flux as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of a few thousand f64 numbers.
    const ROUNDING: f64 = 1e-12;

    #[test]
    fn flux_and_place_are_kept_at_any_ratio() {
        let (height, width) = (90, 101);
        let at = |x: f64, y: f64| (-0.5 * ((x - 52.0).powi(2) + (y - 43.0).powi(2)) / 9.0).exp();
        let plane: Vec<f64> = (0..height * width).map(|p| at((p % width) as f64, (p / width) as f64)).collect();
        let whole: f64 = plane.iter().sum();
        for ratio in [0.7, 1.0, 2.0, 3.37] {
            let count = (90.0 / ratio) as usize;
            assert!(fits([height, width], count, ratio) && !fits([height, width], count + 1, ratio));
            let image = resample(&plane, [height, width], count, ratio);
            let sum: f64 = image.iter().sum();
            // The blob lies 12 standard deviations from the edges: all of it is in the cut.
            assert!((sum / whole - 1.0).abs() < ROUNDING, "{ratio}: {sum} of {whole}");
            let mean = |pick: &dyn Fn(usize) -> usize| {
                image.iter().enumerate().map(|(p, v)| pick(p) as f64 * v).sum::<f64>() / sum
            };
            let expected =
                |native: f64, side: usize| (native + 0.5 - side as f64 / 2.0) / ratio + count as f64 / 2.0 - 0.5;
            // A symmetric blob of three native pixels is sampled well: averaging over pixels moves its mean by little.
            assert!((mean(&|p| p % count) - expected(52.0, width)).abs() < 0.01, "{ratio}");
            assert!((mean(&|p| p / count) - expected(43.0, height)).abs() < 0.01, "{ratio}");
        }
    }

    /// A compact source keeps its flux, and its place in the sky, on grids of the same middle.
    #[test]
    fn a_compact_source_keeps_flux_and_place() {
        let size = 32;
        let (x, y) = (18usize, 13usize);
        let mut image = vec![0.0f32; 2 * size * size];
        image[y * size + x] = 3.0;
        image[size * size + y * size + x] = 5.0;
        let middle = (size as f64 - 1.0) / 2.0;
        for ratio in [0.8, 0.97, 1.0, 1.1, 1.6] {
            let out = resample_image(&image, size, ratio);
            for (plane, flux) in out.chunks(size * size).zip([3.0, 5.0]) {
                let sum: f64 = plane.iter().map(|&v| f64::from(v)).sum();
                assert!((sum / flux - 1.0).abs() < 1e-6, "{ratio}: {sum}"); // f32.
                let mean = |pick: &dyn Fn(usize) -> usize| {
                    plane.iter().enumerate().map(|(p, &v)| (pick(p) as f64 - middle) * f64::from(v)).sum::<f64>() / sum
                };
                // Pixels wider than the source place its light at their own middles, no further than half of one away.
                let off = |found: f64, native: usize| (found * ratio - (native as f64 - middle)).abs();
                let (dx, dy) = (off(mean(&|p| p % size), x), off(mean(&|p| p / size), y));
                assert!(dx.max(dy) < if ratio == 1.0 { 1e-6 } else { 0.5 * ratio }, "{ratio}: {dx} {dy}");
            }
        }
        assert_eq!(resample_image(&image, size, 1.0), image);
    }

    #[test]
    fn new_pixels_beyond_the_frame_are_dark_and_what_does_not_fit_is_cut() {
        let size = 16;
        let image = vec![1.0f32; size * size];
        let wide = resample_image(&image, size, 2.0);
        assert_eq!(wide.iter().filter(|&&flux| flux == 4.0).count(), 64);
        assert_eq!(wide.iter().filter(|&&flux| flux == 0.0).count(), 256 - 64);
        let narrow = resample_image(&image, size, 0.5);
        assert!(narrow.iter().all(|&flux| flux == 0.25));
    }
}
