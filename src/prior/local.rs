//! The covariance of one noise level as the samples of one batch see it: C scaled to the network's own uncertainty where they are
//! (see `spread.rs`), and, where a sampler has taken a gradient, corrected along one direction h of each sample.
//!
//! The covariance of x0 given x_t is V = t^2 (dD/dx)^T, of which one backward pass gives one product V h. Of all covariances that
//! have it, this is the one of the BFGS update (Nocedal & Wright, "Numerical Optimization", section 6.1):
//!
//! ```text
//! C' = C - q q^T + p p^T,    q = C h / (h^T C h)^(1/2),    p = V h / (h^T V h)^(1/2)             C' h = V h
//! u' = u + (p - q) h^T u / (h^T C h)^(1/2) ~ N(0, C')      of u ~ N(0, C), for an h that does not depend on u
//! ```
//!
//! C' is positive where C is, and is C where V h = C h. A learned denoiser's Jacobian is neither symmetric nor positive: where
//! V changes the variance along h by more than a factor, C h takes the place of a part of V h (Powell 1978's damping).

use tch::{Kind, Tensor};

use super::covariance::Level;
use crate::random::BlockNoise;
use crate::{Error, Result};

/// The variance along h becomes at most this times smaller or larger. On mixtures of galaxies, where it may fall to nearly nothing,
/// any bound from 2 on gave draws of the same quality: it is there for networks.
const LARGEST: f64 = 50.0;

/// C of one level for one batch: G C G, G = diag(g), or C' of it.
#[derive(Debug)]
pub struct Local<'a> {
    level: &'a Level,
    scales: Option<Scales>,
    correction: Option<Correction>,
}

/// The scales of a batch.
#[derive(Debug)]
struct Scales {
    /// g, `[B, C, n, n]` or `[B, 1, 1, 1]`.
    own: Tensor,
    /// What they make of C.
    parts: [Tensor; 2],
}

/// What makes C' of C.
#[derive(Debug)]
struct Correction {
    /// h / (h^T C h)^(1/2), q and p, `[B, C, n, n]`; zero where a sample is left as it is.
    along: Tensor,
    taken: Tensor,
    given: Tensor,
}

impl Level {
    /// This level with scales `[B, C, n, n]` of its covariance.
    pub fn scaled_by(&self, scales: Option<Tensor>) -> Result<Local<'_>> {
        let scales = scales.map(|own| Ok::<_, Error>(Scales { parts: self.scaled_parts(&own)?, own })).transpose()?;
        Ok(Local { level: self, scales, correction: None })
    }
}

impl<'a> Local<'a> {
    /// The noise level.
    pub fn t(&self) -> f64 {
        self.level.t
    }

    /// Diagonal of C, `[B, C, n, n]` or `[1, C, n, n]`. A correction is left out.
    pub fn variance(&self) -> Result<Tensor> {
        let plain = self.level.variance()?.f_unsqueeze(0)?;
        match &self.scales {
            Some(scales) => Ok(scales.own.f_square()?.f_mul(&plain)?),
            None => Ok(plain),
        }
    }

    /// The same with the covariance widened, to diag(root) C diag(root), root^2 the `factor`, `[B, 1, 1, 1]` or `[B, C, n, n]`.
    pub fn widened(&self, factor: &Tensor) -> Result<Self> {
        let root = factor.f_sqrt()?;
        let correction = match &self.correction {
            Some(Correction { along, taken, given }) => {
                Some(Correction { along: along.f_div(&root)?, taken: taken.f_mul(&root)?, given: given.f_mul(&root)? })
            }
            None => None,
        };
        let scales = match &self.scales {
            Some(scales) => scales.own.f_mul(&root)?,
            None => root,
        };
        Ok(Local { correction, ..self.level.scaled_by(Some(scales))? })
    }

    /// The same with `exact` = V h for the `direction` h, `[B, C, n, n]` both. Samples without a direction, or with numbers that are
    /// not finite, are left as they are. Corrects C, not a C' again.
    pub fn corrected(&self, direction: &Tensor, exact: &Tensor) -> Result<Self> {
        let plain = self.level.scaled_by(self.scales.as_ref().map(|scales| scales.own.shallow_clone()))?;
        let own = plain.covariance(direction)?;
        let [before, after] = [dot(direction, &own)?, dot(direction, exact)?];
        let usable = before.f_gt(0.0)?.f_logical_and(&before.f_isfinite()?)?.f_logical_and(&after.f_isfinite()?)?;
        let safe = before.f_where_self(&usable, &before.f_ones_like()?)?;
        // The part of V h that stays: what it makes of the variance along h lies within the bounds then.
        let ratio = after.f_div(&safe)?;
        let bounded = ratio.f_clamp(1.0 / LARGEST, LARGEST)?;
        let inside = ratio.f_eq_tensor(&bounded)?;
        let part = bounded.f_sub_scalar(1.0)?.f_div(&ratio.f_sub_scalar(1.0)?)?;
        let part = part.f_ones_like()?.f_where_self(&inside, &part)?;
        let mixed = own.f_lerp_tensor(exact, &part)?;
        let chosen = |vector: Tensor| -> Result<Tensor> { Ok(vector.f_where_self(&usable, &vector.f_zeros_like()?)?) };
        let root = safe.f_sqrt()?;
        let correction = Correction {
            along: chosen(direction.f_div(&root)?)?,
            taken: chosen(own.f_div(&root)?)?,
            given: chosen(mixed.f_div(&bounded.f_sqrt()?.f_mul(&root)?)?)?,
        };
        Ok(Local { correction: Some(correction), ..plain })
    }

    fn scale(&self, images: Tensor) -> Result<Tensor> {
        match &self.scales {
            Some(scales) => Ok(images.f_mul(&scales.own)?),
            None => Ok(images),
        }
    }

    /// C v (or C' v) for `v` of shape `[B, C, n, n]`.
    pub fn covariance(&self, v: &Tensor) -> Result<Tensor> {
        let plain = match &self.scales {
            Some(scales) => self.level.scaled_covariance(v, &scales.parts)?,
            None => self.level.covariance(v)?,
        };
        let Some(Correction { taken, given, .. }) = &self.correction else { return Ok(plain) };
        let less = taken.f_mul(&dot(taken, v)?)?;
        Ok(plain.f_sub(&less)?.f_add(&given.f_mul(&dot(given, v)?)?)?)
    }

    /// The low-rank part of C at the batch's mean scale, as modes `[K, C, n, n]`. A correction is left out: each sample has its own.
    pub fn modes(&self) -> Result<Tensor> {
        let modes = self.level.modes()?;
        match &self.scales {
            // A sample that has become NaN must not spoil the others.
            Some(scales) => Ok(modes.f_mul(&scales.own.f_nanmean([0i64].as_slice(), true, Kind::Float)?)?),
            None => Ok(modes),
        }
    }

    /// Draws of N(0, C) (or C'), `[B, C, n, n]`, by key.
    pub fn draw(&self, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        let plain = self.scale(self.level.draw(noise, step)?)?;
        let Some(Correction { along, taken, given }) = &self.correction else { return Ok(plain) };
        let amount = dot(along, &plain)?;
        Ok(plain.f_add(&given.f_sub(taken)?.f_mul(&amount)?)?)
    }
}

/// Inner product of each sample, `[B, 1, 1, 1]`.
pub fn dot(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    Ok(left.f_mul(right)?.f_sum_dim_intlist([1i64, 2, 3].as_slice(), true, Kind::Float)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::Covariance;
    use crate::random::{Key, Purpose};
    use tch::Device;

    /// f32 arithmetic on numbers of order one.
    const TOLERANCE: f64 = 1e-5;
    const PIXELS: i64 = 9;

    fn random(step: u32, shape: &[i64]) -> Tensor {
        let count = shape.iter().product::<i64>() as usize;
        Tensor::from_slice(&Key::new(3, "local", 0, Purpose::Evaluation, step).normal(count)).view(shape)
    }

    fn covariance() -> Covariance {
        let components = random(1, &[PIXELS, 2]).qr(true).0.tr().contiguous();
        let variances = Tensor::from_slice(&[2.0f32, 0.5]);
        let none = Tensor::zeros([PIXELS], (Kind::Float, Device::Cpu));
        Covariance::new([1, 3, 3], none, components, variances, random(2, &[PIXELS]).square() + 0.1).unwrap()
    }

    /// A positive matrix for V.
    fn exact() -> Tensor {
        let root = random(3, &[PIXELS, PIXELS]) * 0.3;
        root.matmul(&root.tr()) + Tensor::eye(PIXELS, (Kind::Float, Device::Cpu)) * 0.1
    }

    fn product(matrix: &Tensor, vector: &Tensor) -> Tensor {
        vector.view([-1, PIXELS]).matmul(matrix).view([-1, 1, 3, 3])
    }

    /// The covariance of one sample, dense.
    fn dense(local: &Local) -> Tensor {
        let eye = Tensor::eye(PIXELS, (Kind::Float, Device::Cpu)).view([PIXELS, 1, 3, 3]);
        local.covariance(&eye).unwrap().view([PIXELS, PIXELS])
    }

    fn largest(difference: Tensor) -> f64 {
        difference.abs().max().double_value(&[])
    }

    #[test]
    fn the_corrected_covariance_has_the_exact_product_and_stays_positive() {
        let covariance = covariance();
        let level = covariance.level(0.8).unwrap();
        let scales = random(4, &[1, 1, 3, 3]).abs() + 0.2;
        let direction = random(5, &[1, 1, 3, 3]);
        let vh = product(&exact(), &direction);
        let local = level.scaled_by(Some(scales)).unwrap().corrected(&direction, &vh).unwrap();
        assert!(largest(local.covariance(&direction).unwrap() - &vh) < TOLERANCE);
        let matrix = dense(&local);
        assert!(largest(&matrix - matrix.tr()) < TOLERANCE);
        assert!(matrix.linalg_eigvalsh("L").min().double_value(&[]) > 0.0);
        // Widened, all of it is.
        let wider = local.widened(&Tensor::full([1, 1, 1, 1], 3.0, (Kind::Float, Device::Cpu))).unwrap();
        assert!(largest(dense(&wider) - &matrix * 3.0) < 3.0 * TOLERANCE);
    }

    #[test]
    fn draws_have_the_corrected_covariance() {
        let covariance = covariance();
        let level = covariance.level(0.8).unwrap();
        let direction = random(5, &[1, 1, 3, 3]);
        let plain = level.scaled_by(None).unwrap();
        let local = plain.corrected(&direction, &product(&exact(), &direction)).unwrap();
        let wider = local.widened(&Tensor::full([1, 1, 1, 1], 3.0, (Kind::Float, Device::Cpu))).unwrap();
        let count = 40_000;
        for (local, factor) in [(local, 1.0), (wider, 3.0)] {
            let draws = local.draw(&BlockNoise::new(1, "local", 0, count), 0).unwrap().view([-1, PIXELS]);
            let found = draws.tr().matmul(&draws) / f64::from(count);
            let expected = dense(&local);
            let scale = expected.max().double_value(&[]);
            // Five standard errors, sqrt(2 / count) each, of the largest entry.
            assert!(largest(found - &expected) < 5.0 * scale * (2.0 / f64::from(count)).sqrt(), "{factor}");
            // It tells the corrected from the plain one.
            assert!(largest(dense(&plain) * factor - expected) > 0.1 * scale, "{factor}");
        }
    }

    #[test]
    fn jacobians_that_cannot_be_covariances_are_damped_and_samples_do_not_mix() {
        let covariance = covariance();
        let level = covariance.level(0.8).unwrap();
        let direction = random(5, &[1, 1, 3, 3]);
        let own = level.scaled_by(None).unwrap().covariance(&direction).unwrap();
        let variance = |local: &Local, h: &Tensor| dot(h, &local.covariance(h).unwrap()).unwrap();
        let before = variance(&level.scaled_by(None).unwrap(), &direction).double_value(&[]);
        for (times, expected) in [(-1.0, 1.0 / LARGEST), (0.0, 1.0 / LARGEST), (1e6, LARGEST), (2.0, 2.0)] {
            let local = level.scaled_by(None).unwrap().corrected(&direction, &(&own * times)).unwrap();
            let found = variance(&local, &direction).double_value(&[]) / before;
            assert!((found / expected - 1.0).abs() < 1e-3, "{times}: {found}");
            assert!(dense(&local).linalg_eigvalsh("L").min().double_value(&[]) > 0.0, "{times}");
        }
        // A sample without a direction, and one that has become NaN, beside a good one.
        let both = Tensor::cat(&[direction.copy(), direction.zeros_like(), &direction * f64::NAN], 0);
        let local = level.scaled_by(None).unwrap().corrected(&both, &(&both * 0.3)).unwrap();
        let alone = level.scaled_by(None).unwrap().corrected(&direction, &(&direction * 0.3)).unwrap();
        let probe = random(6, &[1, 1, 3, 3]).repeat([3, 1, 1, 1]);
        let found = local.covariance(&probe).unwrap();
        let plain = level.scaled_by(None).unwrap().covariance(&probe).unwrap();
        assert!(largest(found.get(0) - alone.covariance(&probe.narrow(0, 0, 1)).unwrap().get(0)) < TOLERANCE);
        assert_eq!(largest(found.narrow(0, 1, 2) - plain.narrow(0, 1, 2)), 0.0);
    }
}
