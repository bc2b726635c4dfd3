//! What is left over, against the noise: its power spectrum, 1 at all scales where the model describes the data, and the most
//! significant place, where one galaxy, companion or star is missing or too many.

use tch::{Kind, Tensor};

use crate::Result;

/// Bins of equal width in spatial frequency, from 0 to 1/2 cycle per pixel.
pub const BINS: usize = 8;

/// Power of `residual` (in standard deviations, row by row, `shape` rows and columns, 0 where `mask` is) in BINS rings of
/// spatial frequency, over what noise of the correlation `rho(dy, dx)` (1 at lag zero, nothing beyond `lag`) would have on
/// the same pixels. NaN where a ring is empty, or all is masked.
pub fn power(
    residual: &[f32],
    mask: &[bool],
    shape: [usize; 2],
    lag: usize,
    rho: impl Fn(isize, isize) -> f64,
) -> Result<Vec<f64>> {
    // Room for the longest lag, so that nothing wraps around.
    let [rows, columns] = shape.map(|side| (side + lag + 1) as i64);
    let padded = |value: &dyn Fn(usize) -> f64| -> Result<Tensor> {
        let mut values = vec![0.0; (rows * columns) as usize];
        for index in (0..shape[0] * shape[1]).filter(|&index| mask[index]) {
            values[index / shape[1] * columns as usize + index % shape[1]] = value(index);
        }
        Ok(Tensor::f_from_slice(&values)?.f_view([rows, columns])?)
    };
    let transform = |values: &Tensor| values.f_fft_fft2(None::<&[i64]>, [-2i64, -1].as_slice(), "backward");
    let power = |values: &Tensor| -> Result<Tensor> { Ok(transform(values)?.f_abs()?.f_square()?) };
    let found = numbers(&power(&padded(&|index| f64::from(residual[index]))?)?)?;
    // The expected power is the transform of (autocorrelation of the mask) x (correlation of the noise).
    let pairs = power(&padded(&|_| 1.0)?)?.f_fft_ifft2(None::<&[i64]>, [-2i64, -1].as_slice(), "backward")?.f_real()?;
    let mut weights = vec![0.0; (rows * columns) as usize];
    let reach = lag as isize;
    for dy in -reach..=reach {
        for dx in -reach..=reach {
            let (y, x) = (dy.rem_euclid(rows as isize) as usize, dx.rem_euclid(columns as isize) as usize);
            weights[y * columns as usize + x] = rho(dy, dx);
        }
    }
    let weights = Tensor::f_from_slice(&weights)?.f_view([rows, columns])?;
    let expected = numbers(&transform(&pairs.f_mul(&weights)?)?.f_real()?)?;
    let (mut sums, mut norms) = ([0.0; BINS], [0.0; BINS]);
    let frequency =
        |index: i64, count: i64| (if 2 * index > count { index - count } else { index }) as f64 / count as f64;
    for index in 0..rows * columns {
        let radius = frequency(index / columns, rows).hypot(frequency(index % columns, columns));
        let bin = (radius / 0.5 * BINS as f64) as usize;
        if bin < BINS {
            sums[bin] += found[index as usize];
            norms[bin] += expected[index as usize];
        }
    }
    Ok(sums.iter().zip(norms).map(|(sum, norm)| if norm > 0.0 { sum / norm } else { f64::NAN }).collect())
}

/// The most significant place of a residual as above at the scale of the seeing: the largest of its sums with a Gaussian of
/// standard deviation `sigma` pixels, in standard deviations of what noise of the correlation `rho` would give there; negative where
/// the model is too bright. Beside masked pixels and the edge it is an underestimate. NaN where all is masked.
pub fn peak(
    residual: &[f32],
    mask: &[bool],
    shape: [usize; 2],
    sigma: f64,
    lag: usize,
    rho: impl Fn(isize, isize) -> f64,
) -> f64 {
    let reach = (3.0 * sigma).ceil() as isize;
    let kernel: Vec<f64> = (-reach..=reach).map(|at| (-0.5 * (at as f64 / sigma).powi(2)).exp()).collect();
    let overlap = |shift: isize| -> f64 {
        let inside = |at: isize| usize::try_from(at).ok().and_then(|at| kernel.get(at)).copied().unwrap_or(0.0);
        (0..=2 * reach).map(|at| inside(at) * inside(at + shift)).sum()
    };
    let lags = -(lag as isize)..=lag as isize;
    let variance: f64 = lags
        .clone()
        .flat_map(|dy| lags.clone().map(move |dx| (dy, dx)))
        .map(|(dy, dx)| overlap(dy) * overlap(dx) * rho(dy, dx))
        .sum();
    let [rows, columns] = shape;
    let kept = |index: usize| if mask[index] { f64::from(residual[index]) } else { 0.0 };
    let near = |centre: usize, count: usize| {
        let first = centre as isize - reach;
        (first.max(0)..(first + kernel.len() as isize).min(count as isize))
            .map(move |at| (at as usize, (at - first) as usize))
    };
    let along: Vec<f64> = (0..rows * columns)
        .map(|index| {
            near(index % columns, columns).map(|(at, k)| kernel[k] * kept(index / columns * columns + at)).sum()
        })
        .collect();
    (0..rows * columns)
        .filter(|&index| mask[index])
        .map(|index| {
            let sum: f64 =
                near(index / columns, rows).map(|(at, k)| kernel[k] * along[at * columns + index % columns]).sum();
            sum / variance.max(f64::MIN_POSITIVE).sqrt()
        })
        .fold(f64::NAN, |most, value| if value.abs() > most.abs() || most.is_nan() { value } else { most })
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::try_from(tensor.f_to_kind(Kind::Double)?.f_contiguous()?.f_view(-1)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    const SIDE: usize = 64;

    fn ones() -> Vec<bool> {
        (0..SIDE * SIDE).map(|index| index % 7 != 0 && index / SIDE != 20).collect()
    }

    fn white(step: u32) -> Vec<f32> {
        Key::new(5, "residual", 0, Purpose::Evaluation, step).normal(SIDE * SIDE)
    }

    #[test]
    fn noise_of_its_own_correlation_has_power_one() {
        let found = power(&white(0), &ones(), [SIDE, SIDE], 0, |_, _| 1.0).unwrap();
        // The lowest ring has a few dozen modes: 20 %.
        assert!(found.iter().all(|value| (value - 1.0).abs() < 0.35), "{found:?}");
        // Neighbouring rows averaged: rho = 1/2 at a lag of one row.
        let noise = white(1);
        let below = |index: usize| noise[(index + SIDE) % (SIDE * SIDE)];
        let smooth: Vec<f32> = (0..SIDE * SIDE).map(|index| (noise[index] + below(index)) / 2f32.sqrt()).collect();
        let rho = |dy: isize, dx: isize| if dx != 0 { 0.0 } else { [1.0, 0.5][dy.unsigned_abs()] };
        let found = power(&smooth, &ones(), [SIDE, SIDE], 1, rho).unwrap();
        assert!(found.iter().all(|value| (value - 1.0).abs() < 0.35), "{found:?}");
        // Held against white noise, it has too much at large scales and too little at small ones.
        let found = power(&smooth, &ones(), [SIDE, SIDE], 0, |_, _| 1.0).unwrap();
        assert!(found[0] > 1.4 && found[BINS - 1] < 0.8, "{found:?}");
    }

    #[test]
    fn a_source_left_over_is_a_peak_and_noise_is_not() {
        let (side, sigma) = ([SIDE, SIDE], 2.0);
        let white_peak = |residual: &[f32], mask: &[bool]| peak(residual, mask, side, sigma, 0, |_, _| 1.0);
        let noise: Vec<f64> = (0..20).map(|step| white_peak(&white(step), &ones()).abs()).collect();
        // The largest of 4,096 numbers, some 160 of them independent: 2.5 to 4.
        assert!(noise.iter().all(|value| (2.0..4.7).contains(value)), "{noise:?}");
        // A source of the kernel's shape with a matched signal to noise of 8: amplitude 8 over the root of the sum of squares.
        let source = |index: usize, sign: f64| {
            let (y, x) = ((index / SIDE) as f64 - 40.0, (index % SIDE) as f64 - 15.0);
            sign * 8.0 / (std::f64::consts::PI.sqrt() * sigma) * (-(x * x + y * y) / (2.0 * sigma * sigma)).exp()
        };
        let all = vec![true; SIDE * SIDE];
        for sign in [1.0, -1.0] {
            let with: Vec<f32> = (0..SIDE * SIDE).map(|i| white(3)[i] + source(i, sign) as f32).collect();
            let found = white_peak(&with, &all);
            assert!((5.5..11.0).contains(&(sign * found)), "{found}");
            let hidden: Vec<bool> = (0..SIDE * SIDE).map(|i| source(i, 1.0) < 0.01).collect();
            assert!(white_peak(&with, &hidden).abs() < 4.7);
        }
        // Correlated noise is held against its own correlation: neighbouring rows averaged, rho = 1/2 at a lag of one row.
        let rho = |dy: isize, dx: isize| if dx != 0 { 0.0 } else { [1.0, 0.5][dy.unsigned_abs()] };
        let noise = white(1);
        let smooth: Vec<f32> =
            (0..SIDE * SIDE).map(|i| (noise[i] + noise[(i + SIDE) % (SIDE * SIDE)]) / 2f32.sqrt()).collect();
        let [own, white] = [peak(&smooth, &all, side, sigma, 1, rho), white_peak(&smooth, &all)];
        assert!((own / white - 0.5f64.sqrt()).abs() < 0.05, "{own} {white}");
        assert!(white_peak(&smooth, &vec![false; SIDE * SIDE]).is_nan());
    }

    #[test]
    fn light_left_over_is_power_at_large_scales() {
        let mut residual = white(0);
        for (index, value) in residual.iter_mut().enumerate() {
            let (y, x) = ((index / SIDE) as f32 - 32.0, (index % SIDE) as f32 - 32.0);
            *value += 2.0 * (-(x * x + y * y) / 128.0).exp();
        }
        let found = power(&residual, &ones(), [SIDE, SIDE], 0, |_, _| 1.0).unwrap();
        assert!(found[0] > 3.0 && found[3..].iter().all(|value| (value - 1.0).abs() < 0.35), "{found:?}");
        assert!(power(&white(0), &vec![false; SIDE * SIDE], [SIDE, SIDE], 0, |_, _| 1.0).unwrap()[0].is_nan());
    }
}
