//! How much wider than C the prior of a step must be in one place: where the data show a companion, or an arm, that the network's
//! estimate D lacks. There C is that of empty sky, N(D, C) excludes any light, and no later step brings it back. Data of the whole
//! galaxy (`inflation.rs`) hardly notice: of a companion with 2 % of the light, 30 draws had nothing, and ln p(y|x) of the truth was 8
//! of its standard deviations above theirs. Filters of the atmosphere have inflation that varies in space for this (Anderson 2009).
//!
//! A solve leaves w = K^-1 e, e = y - v - A(D) - J u, K = J C J^T + Sigma. If N(D, C) is right, cov[e] = 2 K (the data and their
//! perturbation), so that P^T w, a matched filter for point sources P, has at most the variance
//!
//! ```text
//! P^T K^-1 P <= F,    F = sum over pixels of P^2 / Sigma
//! ```
//!
//! twice. A mean over the samples of the block averages the perturbations out. With z = P^T w / F^(1/2), r = P^T Sigma^-1 J C J^T
//! Sigma^-1 P / F the prior's variance over that of the noise, and a source of f standard deviations of the noise, z = f / (1 + r); the
//! variance that makes this source likely is f^2 - 1 of the noise's:
//!
//! ```text
//! factor of C = (z^2 (1 + r)^2 - 1) / r
//! ```
//!
//! r is known from what J makes of the draws u. Nothing is made wider than x_t itself says, t^2, or than `inflation.rs` makes it.

use tch::{Kind, Tensor};

use super::inflation::LARGEST;
use crate::Result;
use crate::forward::{Latent, Linearized};
use crate::prior::local::Local;

/// What z^2, summed over bands, must exceed before it counts, as a standard normal deviation: 31 for three bands. Once in 4,000
/// steps of a field with 300 independent places, were P^T K^-1 P as large as F; it is less, and least in noise that is correlated
/// over the seeing.
const SIGNIFICANT: f64 = 4.6;

/// A sample that deviates by more is none to learn from alone: one of 16 then moves the mean z of a band by no more than 1.3.
const LARGEST_DEVIATION: f64 = 20.0;

/// Around a significant place, the part of `SIGNIFICANT`'s z^2 that is widened too: that of a source is as wide as the seeing.
const BESIDE: f64 = 0.5;
/// How far from a significant place, pixels of the prior.
const NEAR: i64 = 4;

/// r is not known better than this.
const LEAST_RATIO: f64 = 1e-4;

/// The factors of C, `[B, C, n, n]`, 1 or larger, of the `weights` w `[B, C, my, mx]` and the `perturbation` u of the image `[B, C, n, n]`;
/// `None` where nothing is to be widened.
pub fn local_inflation(
    linear: &dyn Linearized,
    weights: &Tensor,
    perturbation: &Tensor,
    level: &Local,
) -> Result<Option<Tensor>> {
    let Some(points) = linear.point_sources()? else { return Ok(None) };
    let [samples, bands] = [weights.size()[0], weights.size()[1]];
    let root = points.precision.f_sqrt()?;
    let deviation = (points.matched)(weights)?.f_div(&root)?;
    // A sample that has become NaN, or has lost its light, must not spoil the others.
    let mean =
        deviation.f_clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)?.f_nanmean([0i64].as_slice(), true, Kind::Float)?;
    let squared = mean.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?;
    let squared = squared.f_div_scalar(1.0 + 1.0 / samples as f64)?;
    let bar = significant(bands as f64);
    let significant = squared.f_gt(bar)?;
    if significant.f_any()?.f_int64_value(&[])? == 0 {
        return Ok(None);
    }
    let seen = linear.apply(&bare(perturbation, linear.adjoint(weights)?)?)?.f_div(linear.variance())?;
    let ratio = (points.matched)(&seen)?.f_div(&root)?.f_square()?;
    let ratio = ratio.f_nanmean([0i64].as_slice(), true, Kind::Float)?;
    let ratio = ratio.f_mean_dim([1i64].as_slice(), true, Kind::Float)?.f_clamp_min(LEAST_RATIO)?;
    let source = ratio.f_add_scalar(1.0)?.f_square()?.f_mul(&squared)?;
    let factor = source.f_sub_scalar(1.0)?.f_div(&ratio)?.f_clamp_min(1.0)?;
    let near = significant.f_to_kind(squared.kind())?.f_max_pool2d(
        [2 * NEAR + 1; 2].as_slice(),
        [1i64; 2].as_slice(),
        [NEAR; 2].as_slice(),
        [1i64; 2].as_slice(),
        false,
    )?;
    let wide = near.f_gt(0.0)?.f_logical_and(&squared.f_gt(bar * BESIDE)?)?;
    let factor = factor.f_where_self(&wide, &factor.f_ones_like()?)?;
    let most = level.variance()?.f_reciprocal()?.f_mul_scalar(level.t().powi(2))?.f_clamp_min(LARGEST)?;
    Ok(Some(most.f_minimum(&factor)?.f_expand_as(perturbation)?.f_nan_to_num(1.0, 1.0, 1.0)?))
}

/// The perturbation of the image alone, with the other parts of the shapes of `like`.
fn bare(image: &Tensor, like: Latent) -> Result<Latent> {
    let image = image.shallow_clone();
    Ok(Latent { image, ln_amplitude: like.ln_amplitude.f_zeros_like()?, sky: like.sky.f_zeros_like()? })
}

/// The chi^2 of so many degrees of freedom that is as rare as `SIGNIFICANT` (Wilson & Hilferty 1931).
fn significant(bands: f64) -> f64 {
    let width = 2.0 / (9.0 * bands);
    bands * (1.0 - width + SIGNIFICANT * width.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::PointSources;
    use crate::prior::{Covariance, Level};
    use crate::random::{BlockNoise, Key, Purpose};
    use tch::Device;

    const SIDE: i64 = 24;
    const BANDS: i64 = 3;
    const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);
    /// The noise's standard deviation, and t.
    const NOISE: f64 = 2.0;
    const T: f64 = 50.0;

    fn random(step: u32, samples: i64) -> Tensor {
        let count = (samples * BANDS * SIDE * SIDE) as usize;
        let values = Key::new(5, "local", 0, Purpose::Evaluation, step).normal(count);
        Tensor::from_slice(&values).view([samples, BANDS, SIDE, SIDE])
    }

    /// Every pixel of the prior is a pixel of the data.
    struct Direct {
        prediction: Tensor,
        variance: Tensor,
    }

    fn direct(samples: i64) -> Direct {
        let prediction = Tensor::zeros([samples, BANDS, SIDE, SIDE], OPTIONS);
        let variance = prediction.full_like(NOISE * NOISE);
        Direct { prediction, variance }
    }

    impl Linearized for Direct {
        fn prediction(&self) -> &Tensor {
            &self.prediction
        }
        fn apply(&self, direction: &Latent) -> Result<Tensor> {
            Ok(direction.image.shallow_clone())
        }
        fn adjoint(&self, residual: &Tensor) -> Result<Latent> {
            let none = |count: i64| Tensor::zeros([residual.size()[0], count], OPTIONS);
            Ok(Latent { image: residual.shallow_clone(), ln_amplitude: none(1), sky: none(BANDS) })
        }
        fn covariance(&self, vector: &Tensor) -> Result<Tensor> {
            Ok(vector * NOISE * NOISE)
        }
        fn variance(&self) -> &Tensor {
            &self.variance
        }
        fn noise(&self, _noise: &BlockNoise, _step: u32) -> Result<Tensor> {
            Err(crate::Error::internal("not needed here"))
        }
        fn point_sources(&self) -> Result<Option<PointSources<'_>>> {
            let matched = |vector: &Tensor| Ok(vector.shallow_clone());
            Ok(Some(PointSources { matched: Box::new(matched), precision: 1.0 / &self.variance }))
        }
    }

    /// C = `variance` in each pixel.
    fn level(variance: f64) -> Level {
        let own = variance * T * T / (T * T - variance);
        let pixels = BANDS * SIDE * SIDE;
        let none = |size: &[i64]| Tensor::zeros(size, OPTIONS);
        let diagonal = Tensor::full([pixels], own, OPTIONS);
        let covariance =
            Covariance::new([BANDS, SIDE, SIDE], none(&[pixels]), none(&[0, pixels]), none(&[0]), diagonal).unwrap();
        covariance.level(T).unwrap()
    }

    /// The factors for data that hold `light` beyond what the estimate has, for a prior of this variance in each pixel.
    fn factors(light: &Tensor, variance: f64, samples: i64, step: u32) -> Option<Tensor> {
        let u = random(step, samples) * variance.sqrt();
        let prior = random(step + 1, 1) * variance.sqrt();
        let e = light + prior + (random(step + 2, 1) - random(step + 3, samples)) * NOISE - &u;
        let weights = e / (variance + NOISE * NOISE);
        let level = level(variance);
        local_inflation(&direct(samples), &weights, &u, &level.scaled_by(None).unwrap()).unwrap()
    }

    /// Light of so many standard deviations of the noise in all bands together, in one pixel.
    fn companion(deviations: f64) -> Tensor {
        let light = Tensor::zeros([1, BANDS, SIDE, SIDE], OPTIONS);
        let _ = light.narrow(2, 5, 1).narrow(3, 17, 1).fill_(deviations * NOISE / (BANDS as f64).sqrt());
        light
    }

    #[test]
    fn what_the_prior_expects_is_left_alone() {
        for samples in [1, 2, 16] {
            for (trial, variance) in [1e-4, 0.01, 0.1].into_iter().cycle().take(60).enumerate() {
                let found = factors(&companion(0.0), variance, samples, 10 * trial as u32);
                let wide = found.map_or(0.0, |factor| factor.max().double_value(&[]));
                assert!(wide == 0.0, "{samples} {trial}: {wide}");
            }
        }
    }

    #[test]
    fn a_companion_is_given_room_and_nothing_else_is() {
        let (variance, deviations) = (4e-3, 9.0);
        let found = factors(&companion(deviations), variance, 16, 0).unwrap();
        let at = |y: i64, x: i64| found.double_value(&[3, 1, y, x]);
        // What the noise left of 81, and perturbations; the variance then is that of the light.
        let given = at(5, 17) * variance / (NOISE * NOISE);
        assert!((0.5..1.6).contains(&(given / (deviations * deviations - 1.0))), "{given}");
        let elsewhere = found.gt(1.0).to_kind(Kind::Float).sum(Kind::Double).double_value(&[]);
        // Around it a pixel of noise above half the bar may be among those widened.
        assert!(elsewhere <= (16 * BANDS * 3) as f64, "{elsewhere}");
        assert_eq!(at(20, 4), 1.0);
    }

    #[test]
    fn nothing_is_made_wider_than_t() {
        let variance = 1e-3;
        let found = factors(&companion(300.0), variance, 16, 0).unwrap();
        assert!((found.max().double_value(&[]) * variance / (T * T) - 1.0).abs() < 1e-4);
    }

    #[test]
    fn a_lost_sample_spoils_nothing_and_makes_nothing() {
        let variance = 0.01f64;
        let u = random(0, 16) * variance.sqrt();
        let weights = (random(1, 1) * NOISE - random(2, 16) * NOISE - &u) / (variance + NOISE * NOISE);
        let found = |value: f64, light: f64| {
            let weights = &weights + companion(light) / (variance + NOISE * NOISE);
            // Where the galaxy's core is.
            let _ = weights.narrow(0, 7, 1).narrow(2, 10, 4).narrow(3, 10, 4).fill_(value);
            let level = level(variance);
            local_inflation(&direct(16), &weights, &u, &level.scaled_by(None).unwrap()).unwrap()
        };
        assert!(found(f64::NAN, 0.0).is_none() && found(1e6, 0.0).is_none());
        let [without, with] = [f64::NAN, 1e6].map(|value| found(value, 12.0).unwrap());
        assert!(without.isfinite().all().int64_value(&[]) == 1 && with.isfinite().all().int64_value(&[]) == 1);
        let at = |factor: &Tensor| factor.double_value(&[3, 1, 5, 17]);
        assert!(at(&with) > 10.0 && at(&without) == at(&with), "{} {}", at(&with), at(&without));
        assert_eq!(with.double_value(&[3, 1, 11, 11]), 1.0);
    }

    #[test]
    fn the_bar_is_the_quantile_that_it_says() {
        // chi^2 with a tail of 2.1e-6 (one-sided normal deviation 4.6): 22.5 for 1 degree of freedom, 29.1 for 3, 34.3 for 5.
        for (bands, exact) in [(1.0, 22.5), (3.0, 29.1), (5.0, 34.3)] {
            let found = significant(bands);
            assert!(found > 0.98 * exact && found < 1.2 * exact, "{bands}: {found}");
        }
    }
}
