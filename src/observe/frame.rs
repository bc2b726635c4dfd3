//! Small operations on images and masks: smoothing, growing, cutting, medians. Images are stored row by row.

/// An image `[rows, columns]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame {
    pub shape: [usize; 2],
    pub values: Vec<f32>,
}

impl Frame {
    /// The image smoothed by a Gaussian of `sigma` pixels, over the pixels where `good`; 0 where there is none within
    /// reach.
    pub fn smoothed(&self, good: &[bool], sigma: f64) -> Frame {
        let weighted: Vec<f32> = self.values.iter().zip(good).map(|(&v, &ok)| if ok { v } else { 0.0 }).collect();
        let weights: Vec<f32> = good.iter().map(|&ok| if ok { 1.0 } else { 0.0 }).collect();
        let kernel = gaussian(sigma);
        let sum = separable(&weighted, self.shape, &kernel);
        let weight = separable(&weights, self.shape, &kernel);
        // Below a tenth of the kernel's weight there is too little to speak of.
        let values = sum.iter().zip(&weight).map(|(&s, &w)| if w > 0.1 { s / w } else { 0.0 }).collect();
        Frame { shape: self.shape, values }
    }
}

/// Rows `y0..y1` and columns `x0..x1` of a plane.
pub(crate) fn cut<T: Copy>(values: &[T], shape: [usize; 2], rows: (usize, usize), columns: (usize, usize)) -> Vec<T> {
    (rows.0..rows.1).flat_map(|y| values[y * shape[1] + columns.0..y * shape[1] + columns.1].iter().copied()).collect()
}

/// The mask grown by all pixels within `radius` pixels of it.
pub(crate) fn grown(mask: &[bool], [ny, nx]: [usize; 2], radius: f64) -> Vec<bool> {
    let reach = radius.floor() as isize;
    let mut out = mask.to_vec();
    // Half-widths of the disc's rows.
    let widths: Vec<isize> =
        (-reach..=reach).map(|dy| (radius * radius - (dy * dy) as f64).max(0.0).sqrt() as isize).collect();
    for y in 0..ny as isize {
        for x in 0..nx as isize {
            if !mask[y as usize * nx + x as usize] {
                continue;
            }
            for (dy, &width) in (-reach..=reach).zip(&widths) {
                let row = y + dy;
                if row < 0 || row >= ny as isize {
                    continue;
                }
                let first = (x - width).max(0) as usize;
                let last = (x + width).min(nx as isize - 1) as usize;
                out[row as usize * nx + first..=row as usize * nx + last].fill(true);
            }
        }
    }
    out
}

/// Removes the connected parts (8 neighbours) of a mask that have fewer than `least` pixels.
pub(crate) fn without_specks(mask: &[bool], [ny, nx]: [usize; 2], least: usize) -> Vec<bool> {
    let mut out = vec![false; mask.len()];
    let mut seen = vec![false; mask.len()];
    let mut part = Vec::new();
    for start in 0..mask.len() {
        if !mask[start] || seen[start] {
            continue;
        }
        part.clear();
        part.push(start);
        seen[start] = true;
        let mut next = 0;
        while next < part.len() {
            for near in neighbours(part[next], [ny, nx]) {
                if mask[near] && !seen[near] {
                    seen[near] = true;
                    part.push(near);
                }
            }
            next += 1;
        }
        if part.len() >= least {
            part.iter().for_each(|&index| out[index] = true);
        }
    }
    out
}

/// The up to eight pixels around `index`.
pub(crate) fn neighbours(index: usize, [ny, nx]: [usize; 2]) -> impl Iterator<Item = usize> {
    let (y, x) = (index / nx, index % nx);
    let rows = y.saturating_sub(1)..(y + 2).min(ny);
    rows.flat_map(move |row| (x.saturating_sub(1)..(x + 2).min(nx)).map(move |column| row * nx + column))
        .filter(move |&near| near != index)
}

/// The median; NaN of nothing.
pub(crate) fn median(mut values: Vec<f32>) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    let middle = values.len() / 2;
    let (_, &mut value, _) = values.select_nth_unstable_by(middle, f32::total_cmp);
    f64::from(value)
}

/// Median and robust standard deviation (1.4826 times the median absolute deviation).
pub(crate) fn median_and_spread(values: Vec<f32>) -> (f64, f64) {
    let centre = median(values.clone());
    let deviations = values.into_iter().map(|value| (value - centre as f32).abs()).collect();
    (centre, 1.4826 * median(deviations))
}

fn gaussian(sigma: f64) -> Vec<f32> {
    let reach = (4.0 * sigma).ceil() as isize;
    let kernel: Vec<f64> = (-reach..=reach).map(|d| (-0.5 * (d as f64 / sigma).powi(2)).exp()).collect();
    let sum: f64 = kernel.iter().sum();
    kernel.into_iter().map(|value| (value / sum) as f32).collect()
}

/// Convolution with the same symmetric kernel along rows and columns; nothing beyond the edge.
fn separable(values: &[f32], [ny, nx]: [usize; 2], kernel: &[f32]) -> Vec<f32> {
    let reach = kernel.len() / 2;
    let mut across = vec![0f32; values.len()];
    for y in 0..ny {
        let row = &values[y * nx..(y + 1) * nx];
        for x in 0..nx {
            let (first, last) = (x.saturating_sub(reach), (x + reach).min(nx - 1));
            let weights = &kernel[first + reach - x..=last + reach - x];
            across[y * nx + x] = row[first..=last].iter().zip(weights).map(|(v, k)| v * k).sum();
        }
    }
    let mut out = vec![0f32; values.len()];
    for y in 0..ny {
        for near in y.saturating_sub(reach)..=(y + reach).min(ny - 1) {
            let weight = kernel[near + reach - y];
            let source = &across[near * nx..(near + 1) * nx];
            for (target, value) in out[y * nx..(y + 1) * nx].iter_mut().zip(source) {
                *target += weight * value;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_a_constant_and_ignores_bad_pixels() {
        let mut frame = Frame { shape: [20, 30], values: vec![2.0; 600] };
        let mut good = vec![true; 600];
        (frame.values[310], good[310]) = (f32::NAN, false);
        let smoothed = frame.smoothed(&good, 2.0);
        assert!(smoothed.values.iter().all(|&value| (value - 2.0).abs() < 1e-5));
    }

    #[test]
    fn growing_makes_a_disc_and_specks_go() {
        let mut mask = vec![false; 441];
        mask[10 * 21 + 10] = true;
        // Pixels within 3.0 of a point: the Gauss circle number N(3) = 29.
        assert_eq!(grown(&mask, [21, 21], 3.0).iter().filter(|&&m| m).count(), 29);
        assert!(without_specks(&mask, [21, 21], 2).iter().all(|&m| !m));
        assert_eq!(without_specks(&mask, [21, 21], 1), mask);
    }

    #[test]
    fn cutting_takes_rows_and_columns() {
        let values: Vec<usize> = (0..12).collect();
        assert_eq!(cut(&values, [3, 4], (1, 3), (2, 4)), [6, 7, 10, 11]);
    }
}
