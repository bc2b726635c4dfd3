//! The power spectrum of what is left over, relative to that of the noise: 1 at all scales where the model describes the
//! data.

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
