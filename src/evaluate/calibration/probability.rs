//! Probabilities that the tests need: finite-sample expectations, the bootstrap, Holm's correction.

use serde::{Deserialize, Serialize};

pub use crate::random::normal::{normal_cdf, normal_quantile};
use crate::random::{Key, Purpose};

/// Resamples of a bootstrap: the error of a standard error is then 2 %.
const RESAMPLES: u32 = 1000;
/// Half-width of a 95 % interval in standard errors.
const NORMAL_95: f64 = 1.959_963_985;

/// The probability of a standard normal number at least this far from 0.
pub fn two_sided(x: f64) -> f64 {
    (2.0 * normal_cdf(-x.abs())).min(1.0)
}

/// An estimate with its standard error and 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub error: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// The same with an error of at least `least`: resampling few objects that happen to lie close together sees too
    /// little.
    pub fn at_least(self, least: f64) -> Estimate {
        let error = self.error.max(least);
        Estimate { error, low: self.value - NORMAL_95 * error, high: self.value + NORMAL_95 * error, ..self }
    }

    /// A variance of `count` values, as that of a chi-squared with `freedom` degrees over them (Satterthwaite 1946): those
    /// of normal values, or fewer where the bootstrap finds it less certain.
    pub fn of_variance(self, count: usize) -> Estimate {
        let freedom = self.freedom(count);
        let bound = |z: f64| self.value / chi_squared_quantile(z, freedom);
        Estimate { error: self.value * (2.0 / freedom).sqrt(), low: bound(NORMAL_95), high: bound(-NORMAL_95), ..self }
    }

    fn freedom(&self, count: usize) -> f64 {
        let normal = (count as f64 - 1.0).max(1.0);
        if self.value > 0.0 && self.error > 0.0 { normal.min(2.0 * (self.value / self.error).powi(2)) } else { normal }
    }

    /// `outside_p` for what `of_variance` gave, by the chi-squared distribution.
    pub fn variance_outside_p(&self, low: f64, high: f64) -> f64 {
        let freedom = self.freedom(usize::MAX);
        if self.value < low {
            normal_cdf(chi_squared_normal(self.value / low, freedom))
        } else if self.value > high {
            normal_cdf(-chi_squared_normal(self.value / high, freedom))
        } else {
            1.0
        }
    }

    /// Whether the 95 % interval is inside [low, high].
    pub fn inside(&self, low: f64, high: f64) -> bool {
        self.low >= low && self.high <= high
    }

    /// The probability of a value at least so far outside [low, high] when the truth is on the nearer bound (normal
    /// approximation); 1 inside.
    pub fn outside_p(&self, low: f64, high: f64) -> f64 {
        let beyond = (low - self.value).max(self.value - high);
        if beyond <= 0.0 {
            1.0
        } else if self.error > 0.0 {
            normal_cdf(-beyond / self.error)
        } else {
            0.0
        }
    }
}

/// `statistic` of objects 0..count, with an error from resampling the objects (Efron 1979), by key. `None` when the
/// statistic is not a finite number.
pub fn bootstrap(name: &str, count: usize, statistic: impl Fn(&[usize]) -> f64) -> Option<Estimate> {
    let all: Vec<usize> = (0..count).collect();
    let value = statistic(&all);
    if count < 2 || !value.is_finite() {
        return None;
    }
    let mut values = Vec::with_capacity(RESAMPLES as usize);
    for resample in 0..RESAMPLES {
        let uniform = Key::new(0, name, resample, Purpose::Evaluation, 0).uniform(count);
        let chosen: Vec<usize> = uniform.iter().map(|u| ((u * count as f64) as usize).min(count - 1)).collect();
        let value = statistic(&chosen);
        if value.is_finite() {
            values.push(value);
        }
    }
    if values.len() < 2 {
        return None;
    }
    // The resamples' spread misses the freedom that went into the mean.
    let error = mean_sd(&values).1 * (count as f64 / (count as f64 - 1.0)).sqrt();
    Some(Estimate { value, error, low: value - NORMAL_95 * error, high: value + NORMAL_95 * error })
}

/// Mean and standard deviation (with n - 1).
pub fn mean_sd(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, variance.sqrt())
}

/// Variance of z = (truth - mean of n draws) / sd of n draws for a calibrated Gaussian posterior:
/// z / (1 + 1/n)^(1/2) is Student's t with n - 1 degrees of freedom. Needs n > 3.
pub fn var_z_expected(draws: u32) -> f64 {
    let n = f64::from(draws);
    (1.0 + 1.0 / n) * (n - 1.0) / (n - 3.0)
}

/// The central ranks that cover about `level` of n + 1: [low, n - low], and the share that they are, exactly.
pub fn central_ranks(level: f64, draws: u32) -> (u32, f64) {
    let places = f64::from(draws) + 1.0;
    let low = (0.5 * (1.0 - level) * places).round().max(0.0).min(f64::from(draws / 2)) as u32;
    (low, (places - 2.0 * f64::from(low)) / places)
}

/// The standard normal number at the same place as `x` in the distribution of chi-squared over its degrees of freedom
/// (Wilson & Hilferty 1931: its cube root is about normal).
fn chi_squared_normal(x: f64, freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    (x.max(0.0).cbrt() - 1.0 + spread) / spread.sqrt()
}

/// The inverse of `chi_squared_normal`, kept above zero.
fn chi_squared_quantile(z: f64, freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    (1.0 - spread + z * spread.sqrt()).max(0.05).powi(3)
}

/// The probability of at least `above` heads in `count` tosses of a fair coin: the sign test.
pub fn sign_test(above: usize, count: usize) -> f64 {
    // Terms by their logarithms: powers of a half underflow for thousands of tosses.
    let ln_choose = |k: usize| (1..=k).map(|i| ((count - k + i) as f64 / i as f64).ln()).sum::<f64>();
    let terms = (above..=count).map(|k| (ln_choose(k) - count as f64 * std::f64::consts::LN_2).exp());
    terms.sum::<f64>().min(1.0)
}

/// The middle value; the mean of both middle ones of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]),
    }
}

/// Holm 1979: which of these p-values are rejected with a family-wise error of at most `level`.
pub fn holm(p_values: &[f64], level: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&left, &right| p_values[left].total_cmp(&p_values[right]));
    let mut rejected = vec![false; p_values.len()];
    for (place, &index) in order.iter().enumerate() {
        if p_values[index] > level / (p_values.len() - place) as f64 {
            break;
        }
        rejected[index] = true;
    }
    rejected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holm_steps_down() {
        assert_eq!(holm(&[0.01, 0.04, 0.03, 0.005], 0.05), [true, false, false, true]);
        assert_eq!(holm(&[], 0.05), [false; 0]);
        assert_eq!(holm(&[0.2, 0.3], 0.05), [false, false]);
    }

    #[test]
    fn the_sign_test_counts_tosses() {
        assert_eq!((sign_test(0, 5), sign_test(5, 5)), (1.0, 1.0 / 32.0));
        assert!((sign_test(3, 5) - 0.5).abs() < 1e-12);
        assert!((sign_test(20, 20) * 2f64.powi(20) - 1.0).abs() < 1e-9);
        assert!(sign_test(3000, 3000).is_finite());
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0])), (2.0, 2.5));
    }

    #[test]
    fn variances_of_few_values_have_the_interval_of_chi_squared() {
        // Nine degrees of freedom: the 2.5 % and 97.5 % points of chi-squared are 2.700 and 19.023.
        let found = Estimate { value: 1.0, error: 0.1, low: 0.9, high: 1.1 }.of_variance(10);
        assert!(
            (found.low * 19.023 / 9.0 - 1.0).abs() < 0.01 && (found.high * 2.700 / 9.0 - 1.0).abs() < 0.02,
            "{found:?}"
        );
        // P(chi-squared < 2.088) = 1 %.
        let low = Estimate { value: 2.088 / 9.0, error: 0.0, low: 0.0, high: 0.0 }.of_variance(10);
        assert!((low.variance_outside_p(1.0, 2.0) / 0.01 - 1.0).abs() < 0.1, "{}", low.variance_outside_p(1.0, 2.0));
        assert_eq!(found.variance_outside_p(0.5, 1.5), 1.0);
    }

    #[test]
    fn variance_of_z_for_few_draws_is_that_of_simulated_posteriors() {
        let draws = 7u32;
        let mut values = Vec::new();
        for object in 0..40_000 {
            let white = Key::new(3, "z", object, Purpose::Evaluation, 0).normal(draws as usize + 1);
            let white: Vec<f64> = white.iter().map(|&value| f64::from(value)).collect();
            let (mean, sd) = mean_sd(&white[1..]);
            values.push((white[0] - mean) / sd);
        }
        let found = mean_sd(&values).1.powi(2);
        // (1 + 1/7) 6/4 = 1.714; Student's t with 6 degrees of freedom has heavy tails, 5 standard errors are 8 %.
        assert!((found / var_z_expected(draws) - 1.0).abs() < 0.08, "{found}");
    }

    #[test]
    fn central_ranks_cover_what_they_say() {
        assert_eq!(central_ranks(0.5, 31), (8, 0.5));
        let (low, share) = central_ranks(0.95, 31);
        assert_eq!((low, share), (1, 30.0 / 32.0));
        // All ranks are equally likely: counting them gives the share.
        for (level, draws) in [(0.5, 15), (0.68, 31), (0.95, 63), (0.95, 10)] {
            let (low, share) = central_ranks(level, draws);
            let inside = (0..=draws).filter(|rank| (low..=draws - low).contains(rank)).count();
            assert!((inside as f64 / f64::from(draws + 1) - share).abs() < 1e-12);
        }
    }

    #[test]
    fn the_bootstrap_of_a_mean_has_its_textbook_error() {
        let values: Vec<f64> =
            Key::new(5, "b", 0, Purpose::Evaluation, 0).normal(400).iter().map(|&v| v.into()).collect();
        let mean = |chosen: &[usize]| chosen.iter().map(|&index| values[index]).sum::<f64>() / chosen.len() as f64;
        let found = bootstrap("mean", values.len(), mean).unwrap();
        let expected = mean_sd(&values).1 / 20.0;
        assert!((found.error / expected - 1.0).abs() < 0.1, "{found:?}"); // 2 % of 1000 resamples, five times.
        assert!(bootstrap("nothing", 400, |_| f64::NAN).is_none());
        assert!(found.inside(-1.0, 1.0) && found.outside_p(-1.0, 1.0) == 1.0 && found.outside_p(5.0, 6.0) < 1e-12);
    }
}
