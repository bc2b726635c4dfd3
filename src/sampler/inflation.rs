//! How much wider than C the prior of a step must be for one galaxy. C is the error of the network's estimate D on galaxies of
//! the prior; of a galaxy that the prior hardly knows, D is further off, and N(D, C) would hold the draws away from data that
//! speak clearly. Filters of weather and satellites have the same trouble and the same remedy, adaptive inflation (Anderson
//! 2007; Desroziers et al. 2005): widen C until the innovations are what they should be.
//!
//! Over galaxies of the prior, a draw x0 = D + u + C p of p(x0 | x_t, y), p = J^T (J C J^T + Sigma)^-1 [...] and u ~ N(0, C), is
//! itself distributed as N(D, C). So with the inner product of C^-1
//!
//! ```text
//! g = |x0 - D|^2 - |u|^2 = p^T C p + 2 u^T p,    E[g] = 0,    sd[g] = 2 m^(1/2),    m = -E[u^T p] = tr[C J^T (J C J^T + Sigma)^-1 J]
//! ```
//!
//! with m the number of directions that the data see better than the prior. When the true spread is c C, E[g] = (c - 1) m
//! for directions that the data see well.

use tch::{Kind, Tensor};

use super::conjugate_gradient::dot;
use crate::Result;

/// What g must exceed before it counts, in standard deviations: on galaxies of the prior nearly nothing is widened, and the
/// sampler remains what it is. With 3 the mean of a Gaussian posterior of 18 quantities was off by 0.1 standard deviations.
const SIGNIFICANT: f64 = 5.0;

/// No wider than this: at ten times the standard deviation the data alone decide whatever they see.
pub const LARGEST: f64 = 100.0;

/// The factors c of C, one a sample, `[B, 1, 1, 1]` and 1 or larger: of the `pull` p, `change` C p and `perturbation` u of the
/// image, `[B, C, n, n]` each. `least` is a number of directions that m is known to have at least.
pub fn inflation(pull: &Tensor, change: &Tensor, perturbation: &Tensor, least: f64) -> Result<Tensor> {
    let along = dot(perturbation, pull)?;
    let excess = dot(pull, change)?.f_add(&along.f_mul_scalar(2.0)?)?;
    // A single draw tells m with an error of its own, which must not make it small.
    let directions = along.f_neg()?.f_clamp_min(least.max(1.0))?;
    let significant = excess.f_gt_tensor(&directions.f_sqrt()?.f_mul_scalar(2.0 * SIGNIFICANT)?)?;
    let factor = excess.f_div(&directions)?.f_add_scalar(1.0)?.f_clamp(1.0, LARGEST)?;
    let factor = factor.f_where_self(&significant, &factor.f_ones_like()?)?;
    // A sample that has become NaN stays as it is, and is counted where draws are.
    Ok(factor.f_nan_to_num(1.0, LARGEST, 1.0)?)
}

/// Of the `reach` of a tangent, the most that the standard deviation of a pixel is widened to. What is wider asks of the solver what no
/// tangent can tell, and much work: an HSC galaxy of S/N of thousands had pixels of sky widened to t = 4.5 e-folds, and nearly all of
/// the solves so widened at t = 2 to 6 were not at their end after 500 iterations. Means of its draws moved by 0.15 of their deviations at most (ARCHITECTURE.md, departure 7).
const OF_REACH: f64 = 0.5;

/// The `factor` of pixels with so much `variance`, `[B, C, n, n]`, no larger than makes sense where a tangent has that `reach`.
pub fn bounded(factor: &Tensor, variance: &Tensor, reach: f64) -> Result<Tensor> {
    let most = variance.f_reciprocal()?.f_mul_scalar((OF_REACH * reach).powi(2))?.f_clamp_min(1.0)?;
    Ok(factor.f_minimum(&most)?)
}

/// Whether any sample is to be widened.
pub fn any(factor: &Tensor) -> Result<bool> {
    Ok(factor.f_max()?.f_to_kind(Kind::Double)?.f_double_value(&[])? > 1.0)
}

/// Whether most samples are to be widened.
pub fn most(factor: &Tensor) -> Result<bool> {
    let wide = factor.f_gt(1.0)?.f_to_kind(Kind::Double)?.f_mean(Kind::Double)?;
    Ok(wide.f_double_value(&[])? > 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    const DIRECTIONS: i64 = 40;
    const SAMPLES: i64 = 2000;

    fn random(step: u32) -> Tensor {
        let count = (DIRECTIONS * SAMPLES) as usize;
        let values = Key::new(5, "inflation", 0, Purpose::Evaluation, step).normal(count);
        Tensor::from_slice(&values).view([SAMPLES, 1, 1, DIRECTIONS])
    }

    /// Innovations of a prior whose covariance is 1 and whose truths have `spread` times it, seen with noise 0.1.
    fn factors(spread: f64) -> Tensor {
        let noise = 0.1f64;
        let perturbation = random(0);
        let innovation = random(1) * spread.sqrt() + random(2) * noise - random(3) * noise - &perturbation;
        let pull = innovation / (1.0 + noise * noise);
        inflation(&pull, &pull, &perturbation, 1.0).unwrap()
    }

    #[test]
    fn what_the_prior_expects_is_left_alone() {
        let wider = factors(1.0).gt(1.0).to_kind(Kind::Double).mean(Kind::Float).double_value(&[]);
        assert!(wider < 0.001, "{wider}"); // Five standard deviations.
    }

    #[test]
    fn no_pixel_is_widened_beyond_the_reach_of_a_tangent() {
        let factor = Tensor::from_slice(&[4.0f32, 4.0, 4.0, 1.0]).view([1, 1, 2, 2]);
        // Standard deviations of 0.1, 0.5, 2 and 2, of which the reach of 1.5 allows 0.75.
        let variance = Tensor::from_slice(&[0.01f32, 0.25, 4.0, 4.0]).view([1, 1, 2, 2]);
        let found = Vec::<f32>::try_from(bounded(&factor, &variance, 1.5).unwrap().view(-1)).unwrap();
        assert_eq!(found, [4.0, 2.25, 1.0, 1.0]);
        // One factor for a whole galaxy becomes one for each pixel.
        let found = bounded(&Tensor::from_slice(&[4.0f32]).view([1, 1, 1, 1]), &variance, 1.5).unwrap();
        assert_eq!(Vec::<f32>::try_from(found.view(-1)).unwrap(), [4.0, 2.25, 1.0, 1.0]);
    }

    #[test]
    fn what_it_does_not_expect_is_found() {
        for spread in [9.0, 25.0] {
            let found = factors(spread).median().double_value(&[]);
            // Of a single draw, with 40 directions, each sample tells it to a third.
            assert!((found / spread - 1.0).abs() < 0.15, "{spread}: {found}");
        }
        assert_eq!(factors(1e6).max().double_value(&[]), LARGEST);
    }
}
