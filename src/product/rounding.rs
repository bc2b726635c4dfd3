//! Bit rounding. A posterior mean known to one standard deviation has no use for digits far below it, and those digits
//! are noise that does not compress. Values are rounded to a multiple of a power of two at or below 1/64 of their
//! uncertainty, so that the error is at most 1/128 of it; readers need nothing special.

/// Values are kept to this part of their uncertainty.
pub const PARTS: f64 = 64.0;

/// Rounds `value` to a multiple of the largest power of two at or below `scale / 64`; unchanged when `scale` is not a
/// positive number. Ties go to the even multiple.
pub fn round_to(value: f32, scale: f64) -> f32 {
    let step = power_of_two_below(scale / PARTS);
    match step {
        Some(step) if value.is_finite() => ((f64::from(value) / step).round_ties_even() * step) as f32,
        _ => value,
    }
}

/// The largest power of two at or below `x`, from its exponent bits (a logarithm would depend on the C library).
fn power_of_two_below(x: f64) -> Option<f64> {
    (x.is_normal() && x > 0.0).then(|| f64::from_bits(x.to_bits() & 0x7ff0_0000_0000_0000))
}

/// One bit pattern for all NaNs, so that digests do not depend on where a NaN came from.
pub fn canonical(value: f32) -> f32 {
    if value.is_nan() { f32::NAN } else { value }
}

/// The same for f64.
pub fn canonical64(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    #[test]
    fn the_error_is_within_half_a_step_and_rounding_twice_changes_nothing() {
        let values = Key::new(1, "rounding", 0, Purpose::Evaluation, 0).normal(2000);
        for (index, pair) in values.chunks(2).enumerate() {
            let value = pair[0] * 10f32.powi(index as i32 % 9 - 4);
            let sd = f64::from(pair[1].abs()) * 10f64.powi(index as i32 % 5 - 2);
            let rounded = round_to(value, sd);
            // Half a step, or what f32 can tell apart.
            let limit = (sd / 128.0).max(f64::from(value.abs()) * f64::from(f32::EPSILON));
            assert!((f64::from(rounded) - f64::from(value)).abs() <= limit, "{value} {sd} {rounded}");
            assert_eq!(round_to(rounded, sd), rounded);
        }
    }

    #[test]
    fn low_bits_become_zero_and_odd_scales_change_nothing() {
        // sd = 1: a step of 1/64, so 1.2345 keeps 6 bits of its fraction.
        assert_eq!(round_to(1.2345, 1.0), 79.0 / 64.0);
        for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(round_to(1.2345, scale), 1.2345);
        }
        assert!(round_to(f32::NAN, 1.0).is_nan());
        assert_eq!(round_to(f32::INFINITY, 1.0), f32::INFINITY);
    }
}
