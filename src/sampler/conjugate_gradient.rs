//! Batched, preconditioned conjugate gradients (Hestenes & Stiefel 1952) in the data space. Each sample of the batch
//! stops by its own residual and is left untouched afterwards, so that its result does not depend on its neighbours.

use tch::Tensor;

pub use crate::prior::local::dot;
use crate::{Error, Result};

/// Residual that f32 can reach, relative to the right-hand side.
const ROUNDING: f64 = 1e-5;

/// When a sample stops.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// Norm of the residual in units of the noise, (r^T Sigma^-1 r)^(1/2). It bounds the error of the solution in units of
    /// posterior standard deviations, over all directions together: along a direction that the data see with signal to
    /// noise s, C J^T w is off by s r / (1 + s^2), of a posterior standard deviation 1 / (1 + s^2)^(1/2). A norm that weighs
    /// with the inverse of J C J^T + Sigma would let the residual of the best-seen directions grow with their s.
    pub tolerance: f64,
    pub iterations: u32,
}

impl Stop {
    /// The same with a tolerance that is larger by `factor`.
    pub fn loosened(self, factor: f64) -> Self {
        Stop { tolerance: self.tolerance * factor, ..self }
    }
}

/// What a solve found.
#[derive(Debug)]
pub struct Solution {
    /// w, of the shape of the right-hand side.
    pub weights: Tensor,
    /// Norm of each sample's residual over what would have ended its solve, `[B]`: above 1 where something else did, the limit of
    /// iterations or rounding.
    pub residual: Tensor,
    pub iterations: u32,
}

/// Solves K w = `rhs` for each sample, K symmetric and positive: `apply(w)` is K w, `precondition(r)` an approximation of
/// K^-1 r, symmetric and positive too, and the square of r in units of the noise, `[B, 1, 1, 1]`. All others are of shape
/// `[B, C, my, mx]`.
pub fn solve(
    rhs: &Tensor,
    stop: Stop,
    precondition: impl Fn(&Tensor) -> Result<(Tensor, Tensor)>,
    mut apply: impl FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Solution> {
    let mut w = rhs.f_zeros_like()?;
    let mut residual = rhs.f_add_scalar(0.0)?;
    let (mut z, mut size) = precondition(&residual)?;
    let mut direction = z.f_add_scalar(0.0)?;
    let mut rz = dot(&residual, &z)?;
    let target = size.f_mul_scalar(ROUNDING * ROUNDING)?.f_clamp_min(stop.tolerance * stop.tolerance)?;
    // What each sample was left with when it ended; `size` is zero from then on.
    let mut left = size.f_div(&target)?;
    for iteration in 0..stop.iterations {
        let active = size.f_gt_tensor(&target)?;
        if active.f_any()?.f_int64_value(&[])? == 0 {
            return finish(w, &size, &left, iteration);
        }
        let product = apply(&direction)?;
        let curvature = dot(&direction, &product)?;
        // Rounding can end a solve that is as good as it gets: that sample keeps what it has.
        // (Not "above zero": one that has become NaN must not keep what it had.)
        let active = active.f_logical_and(&curvature.f_le(0.0)?.f_logical_not()?)?;
        // A finished sample gets a step of exactly zero; the divisor is made harmless first.
        let safe = curvature.f_where_self(&active, &curvature.f_ones_like()?)?;
        let step = rz.f_div(&safe)?.f_where_self(&active, &rz.f_zeros_like()?)?;
        let _ = w.f_addcmul_(&direction, &step)?;
        let _ = residual.f_addcmul_(&product, &step.f_neg()?)?;
        let (preconditioned, squared) = precondition(&residual)?;
        left = squared.f_div(&target)?.f_where_self(&active, &left)?;
        z = preconditioned;
        let next = dot(&residual, &z)?;
        let old = rz.f_where_self(&active, &rz.f_ones_like()?)?;
        // Zero for a finished sample: its direction would grow at each iteration, past every number.
        let beta = next.f_div(&old)?.f_where_self(&active, &rz.f_zeros_like()?)?;
        direction = z.f_addcmul(&direction, &beta)?;
        rz = next.f_where_self(&active, &rz)?;
        // A sample whose rounding ended it above keeps its residual, and would be tried again. (Zero times NaN stays NaN.)
        size = squared.f_where_self(&active, &size.f_mul_scalar(0.0)?)?;
    }
    finish(w, &size, &left, stop.iterations)
}

/// A sample that has become NaN or infinite, as the size of its residual has, counts as finished above. It must not pass for
/// solved: its w is made NaN, so that the draw is counted as one that is not finite. When no sample is left, it is none's doing.
fn finish(w: Tensor, size: &Tensor, left: &Tensor, iterations: u32) -> Result<Solution> {
    let residual = left.f_sqrt()?.f_view(-1)?;
    let good = size.f_isfinite()?;
    if good.f_all()?.f_int64_value(&[])? != 0 {
        return Ok(Solution { weights: w, residual, iterations });
    }
    if good.f_any()?.f_int64_value(&[])? == 0 {
        return Err(Error::internal("conjugate gradients: not finite (is the noise variance positive everywhere?)"));
    }
    Ok(Solution { weights: w.f_add(&size.f_sub(size)?)?, residual, iterations })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use tch::{Device, Kind};

    #[test]
    fn solves_each_sample_and_stops_alone() {
        let normal = |step, count| Key::new(1, "cg", 0, Purpose::Evaluation, step).normal(count);
        let root = Tensor::from_slice(&normal(0, 100)).view([10, 10]);
        let matrix = root.tr().matmul(&root) + Tensor::eye(10, (Kind::Float, Device::Cpu));
        let apply = |w: &Tensor| Ok(w.view([-1, 10]).matmul(&matrix).view([-1, 1, 1, 10]));
        let rhs = Tensor::from_slice(&normal(1, 20)).view([2, 1, 1, 10]);
        let plain = |r: &Tensor| Ok((r.shallow_clone(), dot(r, r)?));
        let stop = Stop { tolerance: 1e-5, iterations: 60 };
        let Solution { weights: both, residual, iterations } = solve(&rhs, stop, plain, apply).unwrap();
        assert!(iterations < 60);
        assert!(Vec::<f32>::try_from(residual).unwrap().iter().all(|left| (0.0..=1.0).contains(left)));
        let error = (apply(&both).unwrap() - &rhs).abs().max().double_value(&[]);
        assert!(error < 1e-4, "{error}"); // The tolerance times the norm of the right-hand side.
        // A sample that is solved at once (zero right-hand side) stays at zero beside one that is not.
        let mixed = rhs.copy();
        let _ = mixed.narrow(0, 0, 1).zero_();
        let with_zero = solve(&mixed, stop, plain, apply).unwrap().weights;
        assert_eq!(with_zero.narrow(0, 0, 1).abs().max().double_value(&[]), 0.0);
        let same = (with_zero.narrow(0, 1, 1) - both.narrow(0, 1, 1)).abs().max().double_value(&[]);
        assert!(same < 1e-5);
    }

    /// The residual is what is promised, also along directions that the data see far above the noise.
    #[test]
    fn the_residual_is_bounded_in_units_of_the_noise() {
        let seen: Vec<f32> = (0..200).map(|i| 1.0 + 10f32.powf(i as f32 / 40.0)).collect();
        let diagonal = Tensor::from_slice(&seen).view([1, 1, 1, 200]);
        let apply = |w: &Tensor| Ok(w * &diagonal);
        // Right but for a factor that varies, as a preconditioner at the mean of a batch is.
        let factor: Tensor = 1.0 + 0.5 * Tensor::arange(200, (Kind::Float, Device::Cpu)).sin();
        let inverse = factor.view([1, 1, 1, 200]) / &diagonal;
        let precondition = |r: &Tensor| Ok((r * &inverse, dot(r, r)?));
        let normal = Tensor::from_slice(&Key::new(3, "cg", 0, Purpose::Evaluation, 0).normal(200));
        let rhs = normal.view([1, 1, 1, 200]) * diagonal.sqrt();
        let stop = Stop { tolerance: 0.3, iterations: 200 };
        let Solution { weights: w, iterations, .. } = solve(&rhs, stop, precondition, apply).unwrap();
        let residual = (apply(&w).unwrap() - &rhs).square().sum(Kind::Float).sqrt().double_value(&[]);
        assert!(iterations < 200 && residual < 1.1 * stop.tolerance, "{iterations} {residual}"); // f32 recurrences.
        // It was not at once: what is far above the noise needs more than what is at its level.
        assert!(iterations > 3, "{iterations}");
    }

    /// A sample that is lost stays lost, and takes no other along. All of them lost is an error.
    #[test]
    fn a_sample_that_becomes_nan_leaves_the_others_alone() {
        let diagonal = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 50.0]).view([1, 1, 1, 4]);
        let rhs = Tensor::from_slice(&Key::new(4, "cg", 0, Purpose::Evaluation, 0).normal(12)).view([3, 1, 1, 4]);
        let plain = |r: &Tensor| Ok((r.shallow_clone(), dot(r, r)?));
        let stop = Stop { tolerance: 1e-4, iterations: 50 };
        let ones = || Tensor::ones([3, 1, 1, 1], (Kind::Float, Device::Cpu));
        // Lost in the products, or before: the right-hand side is not finite.
        let solved =
            |products: &Tensor, before: &Tensor| solve(&(&rhs * before), stop, plain, |w| Ok(w * &diagonal * products));
        let Solution { weights: all, iterations, .. } = solved(&ones(), &ones()).unwrap();
        for value in [f64::NAN, f64::INFINITY] {
            let lost = ones();
            let _ = lost.narrow(0, 1, 1).fill_(value);
            for solution in [solved(&lost, &ones()), solved(&ones(), &lost)].map(Result::unwrap) {
                let Solution { weights: some, iterations: most, .. } = solution;
                for sample in [0, 2] {
                    assert!(all.narrow(0, sample, 1) == some.narrow(0, sample, 1), "sample {sample}, {value}");
                }
                assert_eq!(some.narrow(0, 1, 1).isfinite().any().int64_value(&[]), 0, "{value}: {some}");
                assert!(most <= iterations, "{value}: it is tried again and again, {most} times");
            }
            let lost = ones() * value;
            for result in [solved(&lost, &ones()), solved(&ones(), &lost)] {
                assert!(result.unwrap_err().to_string().contains("not finite"));
            }
        }
    }

    /// A sample that is done early, with a residual far above one, beside one that goes on for hundreds of iterations.
    #[test]
    fn a_finished_sample_stays_finite() {
        let spread: Vec<f32> = (0..400).map(|i| 10f32.powf(i as f32 / 80.0)).collect();
        let diagonal = Tensor::cat(
            &[Tensor::ones([1, 400], (Kind::Float, Device::Cpu)), Tensor::from_slice(&spread).view([1, 400])],
            0,
        );
        let diagonal = diagonal.view([2, 1, 1, 400]);
        // The first sample is solved to a hundredth at once, but for a little of what the preconditioner does not know.
        let apply = |w: &Tensor| Ok(w * &diagonal);
        let ramp: Tensor = 1.0 + 1e-3 * Tensor::arange(400, (Kind::Float, Device::Cpu)) / 400.0;
        let precondition = |r: &Tensor| Ok((r * ramp.view([1, 1, 1, 400]), dot(r, r)?));
        let normal = Key::new(2, "cg", 0, Purpose::Evaluation, 0).normal(800);
        let rhs = Tensor::from_slice(&normal).view([2, 1, 1, 400]) * 1e4;
        let solution = solve(&rhs, Stop { tolerance: 1e-2, iterations: 500 }, precondition, apply).unwrap();
        let Solution { weights: w, iterations, residual } = solution;
        assert!(iterations > 100, "{iterations}");
        // What the limit ends says by how much it missed, and the other sample that it did not.
        let cut = solve(&rhs, Stop { tolerance: 1e-2, iterations: 50 }, precondition, apply).unwrap();
        let both = |left: &Tensor| Vec::<f32>::try_from(left).unwrap();
        let missed =
            (apply(&cut.weights).unwrap() - &rhs).square().sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float);
        let missed = both(&missed.sqrt())[1]
            / 1e-5
            / both(&rhs.square().sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float).sqrt())[1];
        let (left, whole) = (both(&cut.residual), both(&residual));
        assert!(left[0] <= 1.0 && left[1] > 2.0 && (left[1] / missed - 1.0).abs() < 0.1, "{left:?} {missed}");
        assert_eq!(whole[0], left[0]);
        let error = (w.narrow(0, 0, 1) / rhs.narrow(0, 0, 1) - 1.0).abs().max().double_value(&[]);
        assert!(error < 1e-2, "{error}");
    }
}
