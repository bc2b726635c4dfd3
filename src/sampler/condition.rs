//! The prior of one sampler step, with what its Gaussian does not know.

use tch::Tensor;

use super::Problem;
use super::conjugate_gradient::dot;
use crate::Result;
use crate::forward::{Constraint, Latent, Likelihood, NuisancePrior};
use crate::prior::local::Local;
use crate::random::Purpose;

/// The prior of a step, N(D, C) with amplitude and sky, conditioned on what images of the prior are known to fulfil
/// exactly (h^T x = c - value at the point of linearisation), which the Gaussian does not know: C becomes
/// C - C h h^T C / (h^T C h + sd^2).
pub struct ConditionedPrior<'a> {
    nuisance: &'a NuisancePrior,
    level: &'a Local<'a>,
    condition: Option<Condition>,
}

struct Condition {
    constraint: Constraint,
    /// C h, `[B, C, n, n]`.
    spread: Tensor,
    /// h^T C h + sd^2, `[B, 1, 1, 1]`.
    variance: Tensor,
}

impl<'a> ConditionedPrior<'a> {
    /// Linearises the constraint at `image`, `[B, C, n, n]`.
    pub fn new(
        likelihood: &dyn Likelihood,
        nuisance: &'a NuisancePrior,
        level: &'a Local<'a>,
        image: &Tensor,
    ) -> Result<Self> {
        let condition = match likelihood.constraint(image)? {
            None => None,
            Some(constraint) => {
                let spread = level.covariance(&constraint.gradient)?;
                let variance = dot(&constraint.gradient, &spread)?.f_add_scalar(constraint.sd.powi(2))?;
                Some(Condition { constraint, spread, variance })
            }
        };
        Ok(ConditionedPrior { nuisance, level, condition })
    }

    /// The centre, or a perturbed centre with `slack` (standard normal, `[B]`), given the constraint.
    pub fn centre(&self, centre: &Latent, point: &Tensor, slack: Option<&Tensor>) -> Result<Latent> {
        let copy = |image: Tensor| Latent {
            image,
            ln_amplitude: centre.ln_amplitude.shallow_clone(),
            sky: centre.sky.shallow_clone(),
        };
        let Some(condition) = &self.condition else { return Ok(copy(centre.image.shallow_clone())) };
        let Constraint { value, gradient, sd } = &condition.constraint;
        let mut miss = dot(gradient, &centre.image.f_sub(point)?)?.f_add(&value.f_view([-1, 1, 1, 1])?)?;
        if let Some(slack) = slack {
            miss = miss.f_add(&slack.f_view([-1, 1, 1, 1])?.f_mul_scalar(*sd)?)?;
        }
        let change = condition.spread.f_mul(&miss.f_div(&condition.variance)?)?;
        Ok(copy(centre.image.f_sub(&change)?))
    }

    /// The covariance applied to a direction.
    pub fn apply(&self, direction: &Latent) -> Result<Latent> {
        let mut out = scale_by_prior(direction, self.nuisance, Some(self.level))?;
        if let Some(condition) = &self.condition {
            let along = dot(&condition.spread, &direction.image)?.f_div(&condition.variance)?;
            out.image = out.image.f_addcmul_(&condition.spread, &along.f_neg()?)?;
        }
        Ok(out)
    }
}

/// Draws of the nuisance priors beside an image perturbation.
pub fn perturbation(problem: &Problem, nuisance: &NuisancePrior, step: u32, image: Tensor) -> Result<Latent> {
    let draw = |purpose, sd: &Tensor| -> Result<Tensor> {
        let white = problem.noise.normal(purpose, step, &sd.size(), problem.device)?;
        Ok(white.f_mul(sd)?)
    };
    Ok(Latent {
        image,
        ln_amplitude: draw(Purpose::PerturbAmplitude, &nuisance.ln_amplitude_sd)?,
        sky: draw(Purpose::PerturbSky, &nuisance.sky_sd)?,
    })
}

/// The prior covariance diag(C, s_a^2, sigma_b^2) applied to a direction; without a level the image is held fixed.
pub fn scale_by_prior(direction: &Latent, nuisance: &NuisancePrior, level: Option<&Local>) -> Result<Latent> {
    Ok(Latent {
        image: match level {
            Some(level) => level.covariance(&direction.image)?,
            None => direction.image.f_zeros_like()?,
        },
        ln_amplitude: direction.ln_amplitude.f_mul(&nuisance.ln_amplitude_sd.f_square()?)?,
        sky: direction.sky.f_mul(&nuisance.sky_sd.f_square()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::Linearized;
    use crate::prior::Covariance;
    use crate::random::Key;
    use tch::Kind;

    /// f32 arithmetic on numbers of order one.
    const TOLERANCE: f64 = 1e-5;

    fn random(step: u32, shape: &[i64]) -> Tensor {
        let count = shape.iter().product::<i64>() as usize;
        Tensor::from_slice(&Key::new(3, "condition", 0, Purpose::Evaluation, step).normal(count)).view(shape)
    }

    /// Only its constraint is used.
    struct Constrained {
        data: Tensor,
        nuisance: NuisancePrior,
    }

    impl Likelihood for Constrained {
        fn data(&self) -> &Tensor {
            &self.data
        }
        fn mask(&self) -> &Tensor {
            &self.data
        }
        fn nuisance(&self) -> &NuisancePrior {
            &self.nuisance
        }
        fn predict(&self, latent: &Latent) -> Result<Tensor> {
            Ok(latent.image.shallow_clone())
        }
        fn constraint(&self, image: &Tensor) -> Result<Option<Constraint>> {
            let gradient = random(0, &[1, 1, 3, 3]).f_expand_as(image)?;
            let value = dot(&gradient, image)?.f_view(-1)?.f_sub_scalar(0.7)?;
            Ok(Some(Constraint { value, gradient, sd: 0.1 }))
        }
        fn linearize_within(&self, _latent: &Latent, _tangent_error: f64) -> Result<Box<dyn Linearized>> {
            Err(crate::Error::internal("not needed here"))
        }
    }

    #[test]
    fn conditioning_is_that_of_the_dense_gaussian() {
        let covariance = Covariance::new(
            [1, 3, 3],
            Tensor::zeros([9], (Kind::Float, tch::Device::Cpu)),
            random(1, &[9, 2]).qr(true).0.tr().contiguous(),
            Tensor::from_slice(&[2.0f32, 0.5]),
            random(2, &[9]).square(),
        )
        .unwrap();
        let level = covariance.level(0.8).unwrap();
        let level = level.scaled_by(None).unwrap();
        let none = |count: i64| Tensor::zeros([count], (Kind::Float, tch::Device::Cpu));
        let nuisance = NuisancePrior { ln_amplitude_mean: none(1), ln_amplitude_sd: none(1), sky_sd: none(1) };
        let likelihood = Constrained { data: random(3, &[1, 3, 3]), nuisance };
        let point = random(4, &[2, 1, 3, 3]);
        let latent = |image: Tensor| Latent {
            image,
            ln_amplitude: Tensor::zeros([2, 1], (Kind::Float, tch::Device::Cpu)),
            sky: Tensor::zeros([2, 1], (Kind::Float, tch::Device::Cpu)),
        };
        let prior = ConditionedPrior::new(&likelihood, likelihood.nuisance(), &level, &point).unwrap();

        let eye = Tensor::eye(9, (Kind::Float, tch::Device::Cpu)).view([9, 1, 3, 3]);
        let c = level.covariance(&eye).unwrap().view([9, 9]);
        let h = random(0, &[9]);
        let ch = c.mv(&h);
        let variance = h.dot(&ch).double_value(&[]) + 0.01;
        let conditioned = &c - ch.outer(&ch) / variance;
        let v = random(5, &[2, 1, 3, 3]);
        let found = prior.apply(&latent(v.copy())).unwrap().image.view([2, 9]);
        assert!((found - v.view([2, 9]).matmul(&conditioned)).abs().max().double_value(&[]) < TOLERANCE);

        // The mean moves by C h (0.7 - h x) / variance, wherever the linear constraint was linearised.
        let centre = random(6, &[2, 1, 3, 3]);
        let found = prior.centre(&latent(centre.copy()), &point, None).unwrap().image.view([2, 9]);
        let miss = centre.view([2, 9]).mv(&h) - 0.7;
        let expected = centre.view([2, 9]) - miss.outer(&ch) / variance;
        assert!((found - expected).abs().max().double_value(&[]) < TOLERANCE);
    }
}
