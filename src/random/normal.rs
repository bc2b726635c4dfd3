//! The standard normal distribution: its distribution function and the inverse of that.

/// P(N(0, 1) < x): a series near 0 and a continued fraction in the tails, good to 1e-9 of the value.
pub fn normal_cdf(x: f64) -> f64 {
    if x > 0.0 {
        return 1.0 - normal_cdf(-x);
    }
    let z = -x;
    let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    if z < 3.0 {
        // Marsaglia 2004, "Evaluating the normal distribution": a series that converges fast for small arguments.
        let (mut sum, mut term, mut n) = (z, z, 1.0);
        while term > 1e-17 * sum {
            n += 2.0;
            term *= z * z / n;
            sum += term;
        }
        return 0.5 - density * sum;
    }
    // Laplace's continued fraction for the tail.
    let mut fraction = 0.0;
    for k in (1..=60).rev() {
        fraction = f64::from(k) / (z + fraction);
    }
    density / (z + fraction)
}

/// The x with `normal_cdf(x)` = `p`, p in (0, 1): bisection, to 1e-12.
pub fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 {
        // 1 - p of a small p is not known as well as p.
        return -normal_quantile(1.0 - p);
    }
    let (mut low, mut high) = (-40.0, 0.0);
    while high - low > 1e-12 {
        let middle = 0.5 * (low + high);
        if normal_cdf(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_distribution_has_its_published_values() {
        for (x, p) in [(0.0, 0.5), (-1.0, 0.158_655_253_931), (-1.959_963_985, 0.025), (-6.0, 9.865_876_45e-10)] {
            assert!((normal_cdf(x) / p - 1.0).abs() < 1e-8, "{x}: {}", normal_cdf(x));
        }
        assert!((normal_cdf(2.0) + normal_cdf(-2.0) - 1.0).abs() < 1e-15);
        for p in [1e-9, 0.01, 0.3, 0.5, 0.975] {
            assert!((normal_cdf(normal_quantile(p)) / p - 1.0).abs() < 1e-8, "{p}");
        }
        assert!((normal_quantile(0.975) - 1.959_963_985).abs() < 1e-8 && normal_quantile(0.5).abs() < 1e-11);
        // The two forms meet.
        assert!((normal_cdf(-2.999_999_9) / normal_cdf(-3.000_000_1) - 1.0).abs() < 1e-6);
    }
}
