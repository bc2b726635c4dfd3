//! What methods share that solve for a galaxy between a Gaussian and the data: the mode, or by perturb-and-MAP (Papandreou
//! & Yuille 2010) a draw, of N(c, P) p(y | .) over image, amplitude and sky, by Gauss-Newton rounds in the data space:
//!
//! ```text
//! x <- c + P J^T (J P J^T + Sigma)^-1 [y - A(x) - J (c - x)]             J, A, Sigma at the x of the round before
//! draw: c + N(0, P) in place of c, and y - N(0, Sigma) in place of y     Sigma stays that of the first round
//! ```
//!
//! A linear model needs one round, and the draw is then exact. As in the default sampler, Sigma holds the error of the
//! tangent itself while noise is large, and a round moves pixels and ln a no further than a tangent can be trusted.

use std::rc::Rc;

use tch::Tensor;

use super::Problem;
use super::condition::scale_by_prior;
use super::conjugate_gradient::{self, Solution, Stop};
use super::preconditioner::Preconditioner;
use super::tangent::within_reach;
use crate::Result;
use crate::forward::{Latent, Likelihood, Linearized, NuisancePrior};
use crate::prior::Covariance;

/// The Gaussian, the likelihood, and how well to solve.
pub struct GaussNewton<'a> {
    pub likelihood: &'a dyn Likelihood,
    /// P applied to a direction.
    pub prior: &'a dyn Fn(&Latent) -> Result<Latent>,
    /// Modes of the image's part of P that the preconditioner takes off, `[K, C, n, n]`; `None`: the image is held fixed.
    pub modes: Option<&'a Tensor>,
    /// Linearisations, 1 or more.
    pub rounds: u32,
    pub tangent_error: f64,
    pub stop: Stop,
}

impl GaussNewton<'_> {
    /// The mode, from a first `point` of linearisation.
    pub fn mode(&self, centre: &Latent, point: &Latent) -> Result<Latent> {
        let linear = self.linearize(point)?;
        self.rounds(centre, point, linear.into(), self.likelihood.data().f_unsqueeze(0)?)
    }

    /// A draw. `centre` is perturbed already, by N(0, P); the data are perturbed here.
    pub fn draw(&self, problem: &Problem, step: u32, centre: &Latent, point: &Latent) -> Result<Latent> {
        let linear = self.linearize(point)?;
        let noise = linear.noise(&problem.noise, step)?;
        self.rounds(centre, point, linear.into(), self.likelihood.data().f_unsqueeze(0)?.f_sub(&noise)?)
    }

    /// J^T (J P J^T + Sigma)^-1 [y - A(x) - J (c - x)] at the point x: the gradient of ln N(y; A(c), J P J^T + Sigma) with
    /// respect to the centre, of which P times is the change.
    pub fn pull(&self, centre: &Latent, point: &Latent) -> Result<Latent> {
        let linear = self.linearize(point)?;
        let data = self.likelihood.data().f_unsqueeze(0)?;
        linear.adjoint(&self.solve(centre, point, &data, linear.as_ref(), linear.as_ref())?)
    }

    fn linearize(&self, point: &Latent) -> Result<Box<dyn Linearized>> {
        self.likelihood.linearize_within(point, self.tangent_error)
    }

    fn rounds(&self, centre: &Latent, point: &Latent, noise: Rc<dyn Linearized>, data: Tensor) -> Result<Latent> {
        let mut linear = noise.clone();
        let mut found = point.plus(&zero(point)?)?;
        for round in 0..self.rounds.max(1) {
            if round > 0 {
                linear = self.linearize(&found)?.into();
            }
            let weights = self.solve(centre, &found, &data, linear.as_ref(), noise.as_ref())?;
            let change = (self.prior)(&linear.adjoint(&weights)?)?;
            found = within_reach(centre.plus(&change)?, &found, self.likelihood.reach())?;
        }
        Ok(found)
    }

    fn solve(
        &self,
        centre: &Latent,
        point: &Latent,
        data: &Tensor,
        linear: &dyn Linearized,
        noise: &dyn Linearized,
    ) -> Result<Tensor> {
        let preconditioner = Preconditioner::new(self.likelihood, point, self.modes, self.tangent_error)?;
        Ok(weights(centre, point, data, [linear, noise], self.prior, &preconditioner, self.stop)?.weights)
    }
}

/// w = (J P J^T + Sigma)^-1 [data - A(x) - J (c - x)] at the point x: P J^T w is the change of the centre c. J and A are of the
/// first linearisation, Sigma is of the second.
pub fn weights(
    centre: &Latent,
    point: &Latent,
    data: &Tensor,
    [linear, noise]: [&dyn Linearized; 2],
    prior: &dyn Fn(&Latent) -> Result<Latent>,
    preconditioner: &Preconditioner,
    stop: Stop,
) -> Result<Solution> {
    let shift = linear.apply(&centre.minus(point)?)?;
    let rhs = data.f_sub(linear.prediction())?.f_sub(&shift)?;
    let solution = conjugate_gradient::solve(
        &rhs,
        stop,
        |residual| preconditioner.apply(residual),
        |w| {
            let through = linear.apply(&prior(&linear.adjoint(w)?)?)?;
            Ok(through.f_add(&noise.covariance(w)?)?)
        },
    )?;
    tracing::trace!(iterations = solution.iterations, "conjugate gradients");
    Ok(solution)
}

fn zero(like: &Latent) -> Result<Latent> {
    Ok(Latent {
        image: like.image.f_zeros_like()?,
        ln_amplitude: like.ln_amplitude.f_zeros_like()?,
        sky: like.sky.f_zeros_like()?,
    })
}

/// diag(variance I, s_a^2, sigma_b^2) applied to a direction; `variance` is one number, or one for each pixel.
pub fn scale_image(direction: &Latent, nuisance: &NuisancePrior, variance: &Tensor) -> Result<Latent> {
    let mut out = scale_by_prior(direction, nuisance, None)?;
    out.image = direction.image.f_mul(variance)?;
    Ok(out)
}

/// For the preconditioner: `sd` (one number, or one for each pixel) times the principal components of the prior, along
/// which the data say most.
pub fn modes(covariance: &Covariance, sd: &Tensor) -> Result<Tensor> {
    let [channels, height, width] = covariance.shape;
    Ok(covariance.components.f_view([-1, channels, height, width])?.f_mul(sd)?)
}
