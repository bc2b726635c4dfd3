//! Posterior-predictive probabilities (Gelman, Meng & Stern 1996, Statistica Sinica 6, 733): how often data drawn anew from
//! the model would be further from it than the observed ones are, by chi^2.

/// P(chi^2 / N of fresh noise > `reduced`), for N pixels whose noise has `freedom` effective degrees of freedom: for
/// correlated noise the sum of squares scatters like a chi-squared of N^2 / sum_ij rho_ij^2 (Satterthwaite 1946).
/// By the cube root of Wilson & Hilferty (1931, PNAS 17, 684), good to 1e-3 above 10 degrees of freedom.
pub fn exceedance(reduced: f64, freedom: f64) -> f64 {
    if !(reduced.is_finite() && freedom > 0.0) {
        return f64::NAN;
    }
    let spread = 2.0 / (9.0 * freedom);
    upper_tail((reduced.max(0.0).cbrt() - (1.0 - spread)) / spread.sqrt())
}

/// Effective degrees of freedom of bands with (pixels, sum of the squared correlation over all lags) each.
pub fn freedom(bands: &[(f64, f64)]) -> f64 {
    let pixels: f64 = bands.iter().map(|(pixels, _)| pixels).sum();
    let pairs: f64 = bands.iter().map(|(pixels, correlation)| pixels * correlation).sum();
    if pixels > 0.0 { pixels * pixels / pairs } else { 0.0 }
}

/// P(N(0, 1) > x), by the rational approximation to erfc of Press et al. (Numerical Recipes, section 6.2): 1.2e-7 of the
/// value.
fn upper_tail(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let series = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let power = series.iter().rev().fold(0.0, |sum, term| term + t * sum);
    let tail = 0.5 * t * (power - z * z).exp();
    if x >= 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_tables() {
        // scipy.stats.chi2.sf(x, nu).
        for (nu, x, want) in
            [(20.0, 31.41043, 0.05), (100.0, 135.80672, 0.01), (1e4, 10441.0, 0.001_053), (50.0, 49.3349, 0.5)]
        {
            let found = exceedance(x / nu, nu);
            assert!((found - want).abs() < 0.02 * want, "{found} for {want}");
        }
        assert!(exceedance(f64::NAN, 10.0).is_nan() && exceedance(1.0, 0.0).is_nan());
    }

    #[test]
    fn correlation_leaves_fewer_degrees_of_freedom() {
        assert_eq!(freedom(&[(100.0, 1.0), (50.0, 1.0)]), 150.0);
        assert_eq!(freedom(&[(100.0, 4.0)]), 25.0);
        assert_eq!(freedom(&[]), 0.0);
    }
}
