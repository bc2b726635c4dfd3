//! Ranks of truths among their draws, and whether they are uniform (simulation-based calibration, Talts et al. 2018,
//! arXiv:1804.06788).

/// The place of `truth` among `draws`, as a fraction in (0, 1): (number below + 0.5) / (draws + 1).
pub fn rank(truth: f64, draws: &[f64]) -> f64 {
    let below = draws.iter().filter(|&&draw| draw < truth).count();
    (below as f64 + 0.5) / (draws.len() as f64 + 1.0)
}

/// Kolmogorov-Smirnov distance between fractions in (0, 1) and the uniform distribution, and the probability of a larger
/// one by chance (asymptotic, with Stephens' correction for small numbers).
pub fn uniform_test(fractions: &[f64]) -> (f64, f64) {
    let mut sorted = fractions.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let distance = sorted
        .iter()
        .enumerate()
        .map(|(index, &value)| (value - index as f64 / count).abs().max(((index + 1) as f64 / count - value).abs()))
        .fold(0.0, f64::max);
    let root = count.sqrt();
    (distance, kolmogorov((root + 0.12 + 0.11 / root) * distance))
}

/// Kolmogorov-Smirnov distance between two sets of values, and the probability of a larger one by chance if both have the same
/// distribution (asymptotic, as above).
pub fn two_sample_test(left: &[f64], right: &[f64]) -> (f64, f64) {
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (left, right) = (sorted(left), sorted(right));
    let share = |values: &[f64], at: f64| values.partition_point(|&value| value <= at) as f64 / values.len() as f64;
    let places = left.iter().chain(&right);
    let distance = places.map(|&at| (share(&left, at) - share(&right, at)).abs()).fold(0.0, f64::max);
    let (many, others) = (left.len() as f64, right.len() as f64);
    let root = (many * others / (many + others)).sqrt();
    (distance, kolmogorov((root + 0.12 + 0.11 / root) * distance))
}

/// P(K > x) of the Kolmogorov distribution.
fn kolmogorov(x: f64) -> f64 {
    if x < 0.2 {
        return 1.0;
    }
    let sum: f64 = (1..=100)
        .map(|k| {
            let k = f64::from(k);
            let sign = if k as i64 % 2 == 1 { 1.0 } else { -1.0 };
            sign * (-2.0 * k * k * x * x).exp()
        })
        .sum();
    (2.0 * sum).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    #[test]
    fn kolmogorov_has_its_published_quantiles() {
        // 5 % and 1 % points: 1.3581 and 1.6276.
        assert!((kolmogorov(1.3581) - 0.05).abs() < 1e-4);
        assert!((kolmogorov(1.6276) - 0.01).abs() < 1e-4);
    }

    #[test]
    fn uniform_numbers_pass_and_others_fail() {
        let uniform = Key::new(1, "ranks", 0, Purpose::Evaluation, 0).uniform(500);
        assert!(uniform_test(&uniform).1 > 0.01);
        let narrow: Vec<f64> = uniform.iter().map(|u| 0.5 + (u - 0.5) * 0.7).collect();
        assert!(uniform_test(&narrow).1 < 1e-3);
        assert_eq!(rank(0.5, &[0.0, 1.0, 0.2]), 2.5 / 4.0);
    }

    #[test]
    fn two_samples_of_one_distribution_pass_and_others_fail() {
        let uniform = |name| Key::new(1, name, 0, Purpose::Evaluation, 0).uniform(400);
        assert!(two_sample_test(&uniform("a"), &uniform("b")).1 > 0.01);
        let moved: Vec<f64> = uniform("b").iter().map(|u| u + 0.2).collect();
        assert!(two_sample_test(&uniform("a"), &moved).1 < 1e-3);
        // By hand: after 2 the shares are 2/2 and 1/3.
        assert_eq!(two_sample_test(&[1.0, 2.0], &[1.5, 3.0, 4.0]).0, 1.0 - 1.0 / 3.0);
    }
}
