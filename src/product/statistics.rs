//! Summaries of per-sample quantities.

/// Mean, standard deviation and percentiles of a posterior.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub mean: f64,
    pub sd: f64,
    pub p16: f64,
    pub p50: f64,
    pub p84: f64,
}

const UNKNOWN: Summary = Summary { mean: f64::NAN, sd: f64::NAN, p16: f64::NAN, p50: f64::NAN, p84: f64::NAN };

/// The finite values; none when they are fewer than two, or less than half: then a summary would be of a selection.
fn finite(samples: &[f32]) -> Vec<f64> {
    let values: Vec<f64> = samples.iter().map(|&value| f64::from(value)).filter(|value| value.is_finite()).collect();
    if values.len() < 2 || 2 * values.len() < samples.len() { Vec::new() } else { values }
}

fn mean_sd(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, variance.sqrt())
}

/// The summary of the finite values; NaN where less than half of the values, or fewer than two, are finite.
pub fn summary(samples: &[f32]) -> Summary {
    let mut values = finite(samples);
    if values.is_empty() {
        return UNKNOWN;
    }
    let (mean, sd) = mean_sd(&values);
    values.sort_by(f64::total_cmp);
    let [p16, p50, p84] = [0.16, 0.50, 0.84].map(|part| percentile(&values, part));
    Summary { mean, sd, p16, p50, p84 }
}

/// The value at `part` of the sorted values, interpolated linearly (as numpy does).
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let low = (place as usize).min(sorted.len().saturating_sub(2));
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

/// The same of position angles in degrees, which are the same after 180: the mean is that of the doubled angles as
/// directions, within -90 to 90, and all else is about it (so percentiles may leave that range).
pub fn summary_of_angles(samples: &[f32]) -> Summary {
    let values = finite(samples);
    if values.is_empty() {
        return UNKNOWN;
    }
    let (sine, cosine) = values.iter().fold((0.0, 0.0), |(sine, cosine), angle| {
        let (s, c) = (2.0 * angle).to_radians().sin_cos();
        (sine + s, cosine + c)
    });
    let mean = 0.5 * sine.atan2(cosine).to_degrees();
    let turned: Vec<f32> = values.iter().map(|angle| ((angle - mean + 90.0).rem_euclid(180.0) - 90.0) as f32).collect();
    let about = summary(&turned);
    Summary { mean, sd: about.sd, p16: mean + about.p16, p50: mean + about.p50, p84: mean + about.p84 }
}

/// Covariance over the samples in which both are finite; NaN where these are less than half, or fewer than two.
pub fn covariance(a: &[f32], b: &[f32]) -> f64 {
    let both: Vec<(f64, f64)> = (a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b))))
        .filter(|(a, b)| a.is_finite() && b.is_finite())
        .collect();
    if both.len() < 2 || 2 * both.len() < a.len() {
        return f64::NAN;
    }
    let count = both.len() as f64;
    let (mean_a, mean_b) =
        both.iter().fold((0.0, 0.0), |(sum_a, sum_b), (a, b)| (sum_a + a / count, sum_b + b / count));
    both.iter().map(|(a, b)| (a - mean_a) * (b - mean_b)).sum::<f64>() / (count - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_those_of_numpy() {
        let samples = [1.0, 2.0, 4.0, 8.0, f32::NAN];
        let found = summary(&samples);
        // numpy.percentile([1, 2, 4, 8], [16, 50, 84]) and std(ddof=1).
        let want = Summary { mean: 3.75, sd: 9.583333333333334f64.sqrt(), p16: 1.48, p50: 3.0, p84: 6.08 };
        let pairs = [(found.mean, want.mean), (found.sd, want.sd), (found.p16, want.p16), (found.p84, want.p84)];
        assert!(pairs.iter().all(|(found, want)| (found - want).abs() < 1e-12) && found.p50 == want.p50, "{found:?}");
        assert!(summary(&[1.0, f32::NAN, f32::NAN, 2.0, f32::NAN]).mean.is_nan(), "less than half is a selection");
        assert!(summary(&[]).mean.is_nan() && summary(&[1.0]).sd.is_nan());
        assert!((covariance(&[1.0, 2.0, 3.0], &[2.0, 4.0, 9.0]) - 3.5).abs() < 1e-12);
        assert!(covariance(&[1.0, 2.0], &[f32::NAN, 4.0]).is_nan());
    }

    #[test]
    fn angles_wrap() {
        let found = summary_of_angles(&[88.0, -88.0, 90.0, -86.0, 86.0]);
        assert!((found.mean.abs() - 90.0).abs() < 1e-6, "{found:?}");
        assert!((found.sd - 10f64.sqrt()).abs() < 1e-3, "{found:?}");
    }
}
