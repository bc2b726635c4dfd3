//! `perturb-map-smc`: the default sampler (`perturb_map.rs`) with its draws weighed against each other, and resampled, as the steps
//! go: sequential Monte Carlo with twisted proposals (Wu et al. 2023, arXiv:2306.17775; Naesseth et al. 2019, arXiv:1903.04797).
//! No gradient, and no more network evaluations.
//!
//! The default's step from level t to b is a draw of p(x_b | x_t, y) if p(x0 | x_t) is N(D(x_t), C_t). That Gaussian also says what
//! the network should say at x_b, were it right, and what the network does say tells how wrong it was:
//!
//! ```text
//! D'   = D(x_t) + C_b (1/b^2 - 1/t^2) (x^ - D(x_t)),     x^ = (x_b - k x_t) / (1 - k),   k = (b/t)^2
//! S    = J C_b J^T + Sigma
//! ln w = ln N(y; A(D(x_b)), S) - ln N(y; A(D'), S) = (J (D(x_b) - D'))^T S^-1 (r + r') / 2      r, r' the residuals at D(x_b) and D'
//! ```
//!
//! The products of these weights make the draws of a block those of the prior's chain given the data, for any p(x0 | x_t), in the
//! limit of large blocks, where the forward model is linear and C_b is the same for all draws; where p(x0 | x_t) is the Gaussian,
//! w is 1. When weights have become so uneven that they are worth fewer than 0.7 of the draws, and before the last step, draws are
//! taken anew by their weights, and go on with weight 1: some draws then have the same past, and part by the noise of the steps that
//! follow. How many draws they were worth at the worst is reported.
//!
//! What is wrong with the default where a prior has modes is their weight, and this is what mends it. On network priors a block of
//! some tens of draws is not large: they come to share one past, lie too close together, and calibration rejects them. Without
//! data there is nothing to weigh: the chain is the default's.

use std::rc::Rc;

use tch::{Kind, Tensor};

use super::condition::ConditionedPrior;
use super::gauss_newton;
use super::guidance::with_prior_nuisance;
use super::perturb_map::PerturbMap;
use super::preconditioner::Preconditioner;
use super::tangent::tangent_error_of;
use super::{Problem, Sampler, State, chain};
use crate::forward::{Latent, Likelihood, Linearized};
use crate::prior::local::Local;
use crate::random::Purpose;
use crate::{Error, Result};

/// Draws are taken anew when their weights are worth less than this part of them; those of the last step have no weights.
const UNEVEN: f64 = 0.7;
const UNEVEN_AT_LAST: f64 = 0.98;

/// What stands in the way of other redshifts: draws change places.
pub const ONE_REDSHIFT: &str = "method `perturb-map-smc` takes draws anew in the place of others, which must then have the same \
     redshift: it samples at exact redshifts only (photo_z.mode = \"point\"); any other method samples at a redshift for each draw";

/// Names of what a state has beside the chain's own. Logarithms of the weights, `[B]`.
const WEIGHTS: &str = "ln_weight";
/// D(x_t), and (1/b^2 - 1/t^2) (x^ - D(x_t)), `[B, C, n, n]`.
const ESTIMATE: &str = "estimate";
const AHEAD: &str = "ahead";
/// The least number of draws that the weights were worth, `[1]`.
const WORTH: &str = "effective_draws";

/// The sampler: the default one, and weights.
pub struct PerturbMapSmc {
    default: PerturbMap,
}

impl PerturbMapSmc {
    pub fn new(default: PerturbMap) -> Self {
        PerturbMapSmc { default: default.widening_all_or_none() }
    }

    /// ln w of each draw, `[B]`: of what the network says, `denoised`, against what the step before `expected`. -inf where it is
    /// no number.
    fn ln_weights(
        &self,
        problem: &Problem,
        likelihood: &dyn Likelihood,
        before: &Latent,
        denoised: &Tensor,
        expected: Tensor,
        level: &Local,
    ) -> Result<Tensor> {
        let point = Latent {
            image: denoised.shallow_clone(),
            ln_amplitude: before.ln_amplitude.shallow_clone(),
            sky: before.sky.shallow_clone(),
        };
        let error = tangent_error_of(likelihood.linearize(&point)?.as_ref(), level.t())?;
        let linear: Rc<dyn Linearized> = likelihood.linearize_within(&point, error)?.into();
        let prior = ConditionedPrior::new(likelihood, likelihood.nuisance(), level, denoised)?;
        let centre = |image: Tensor| prior.centre(&with_prior_nuisance(problem, image)?, denoised, None);
        let [found, expected] = [centre(denoised.shallow_clone())?, centre(expected)?];
        let change = found.minus(&expected)?;
        // r + r' is twice the residual in the middle of the two.
        let mut middle = found.plus(&expected)?;
        for part in [&mut middle.image, &mut middle.ln_amplitude, &mut middle.sky] {
            *part = part.f_mul_scalar(0.5)?;
        }
        let preconditioner = Preconditioner::new(likelihood, &point, Some(&level.modes()?), error)?;
        let apply = |direction: &Latent| prior.apply(direction);
        let data = likelihood.data().f_unsqueeze(0)?;
        let both = [linear.as_ref(), linear.as_ref()];
        let stop = self.default.stop();
        let solved = gauss_newton::weights(&middle, &point, &data, both, &apply, &preconditioner, stop)?.weights;
        let ln_weights =
            linear.apply(&change)?.f_mul(&solved)?.f_sum_dim_intlist(&[1i64, 2, 3][..], false, Kind::Double)?;
        Ok(ln_weights.f_nan_to_num(f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY)?)
    }
}

/// The draws by their weights, as indices `[B]` in increasing order: systematic resampling (Kitagawa 1996) with one `uniform`
/// number. Each draw is taken as often as its share of the weights says, rounded up or down.
fn resampled(shares: &[f64], uniform: f64) -> Vec<i64> {
    let count = shares.len();
    let (mut index, mut sum) = (0, shares[0]);
    let mut chosen = Vec::with_capacity(count);
    for slot in 0..count {
        while index + 1 < count && sum * (count as f64) <= slot as f64 + uniform {
            index += 1;
            sum += shares[index];
        }
        chosen.push(index as i64);
    }
    chosen
}

/// The number of draws of weight one that are worth as much: (sum w)^2 / sum w^2 (Kong 1992), of weights that sum to one.
fn worth(shares: &[f64]) -> f64 {
    1.0 / shares.iter().map(|share| share * share).sum::<f64>()
}

impl Sampler for PerturbMapSmc {
    fn name(&self) -> &'static str {
        "perturb-map-smc"
    }

    fn steps(&self) -> u32 {
        self.default.steps()
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        self.default.start(problem)
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let Some(likelihood) = problem.likelihood else { return self.default.step(problem, state) };
        if likelihood.common().is_some() {
            return Err(Error::usage(ONE_REDSHIFT));
        }
        let step = state.step;
        let [t, b] = self.default.pair(step)?;
        let mut before = chain::latent(state)?;
        let mut denoised = problem.denoiser.denoise(&before.image, t)?;
        let mut level = self.default.level(step, &denoised)?;
        let count = denoised.size()[0];
        let (mut sums, mut least) = match step {
            0 => (Tensor::f_zeros([count], (Kind::Double, problem.device))?, count as f64),
            _ => (state.get(WEIGHTS)?.f_to_kind(Kind::Double)?, f64::from(super::to_vec(state.get(WORTH)?)?[0])),
        };
        let expected = match (step, state.get(AHEAD)) {
            // All draws start with the same expectation, the prior's mean.
            (0, _) => Some(self.default.mean()?.f_expand_as(&denoised)?),
            (_, Ok(ahead)) => Some(state.get(ESTIMATE)?.f_add(&level.covariance(ahead)?)?),
            _ => None,
        };
        if let Some(expected) = expected {
            let ln_weights = self.ln_weights(problem, likelihood, &before, &denoised, expected, &level)?;
            sums = sums.f_add(&ln_weights)?;
            let shares = Vec::<f64>::try_from(sums.f_softmax(0, Kind::Double)?.f_to_device(tch::Device::Cpu)?)?;
            let effective = worth(&shares);
            tracing::trace!(t, effective, "weights");
            // Where all draws are lost there is nothing to choose from.
            if effective.is_finite() {
                least = least.min(effective);
            }
            let uneven = if b == 0.0 { UNEVEN_AT_LAST } else { UNEVEN };
            if effective < uneven * count as f64 {
                let normal = problem.noise.normal(Purpose::Resample, step, &[], problem.device)?;
                let uniform = normal.f_div_scalar(2f64.sqrt())?.f_erf()?.f_mul_scalar(0.5)?.f_add_scalar(0.5)?;
                let chosen = resampled(&shares, f64::from(super::to_vec(&uniform)?[0]));
                let chosen = Tensor::f_from_slice(&chosen)?.f_to_device(problem.device)?;
                let take = |tensor: &Tensor| tensor.f_index_select(0, &chosen);
                before = Latent {
                    image: take(&before.image)?,
                    ln_amplitude: take(&before.ln_amplitude)?,
                    sky: take(&before.sky)?,
                };
                denoised = take(&denoised)?;
                level = self.default.level(step, &denoised)?;
                sums = sums.f_zeros_like()?;
            }
        }
        let estimate = denoised.shallow_clone();
        let widened = self.default.renoise(problem, state, &before, denoised, level)?;
        state.tensors.push((WEIGHTS.into(), sums.f_to_kind(Kind::Float)?));
        state.tensors.push((WORTH.into(), Tensor::f_from_slice(&[least as f32])?.f_to_device(problem.device)?));
        // A Gaussian that had to be widened expects nothing that the network could be held to.
        if b > 0.0 && !widened {
            let kept = (b / t).powi(2);
            let x = state.get("x")?.f_sub(&before.image.f_mul_scalar(kept)?)?.f_div_scalar(1.0 - kept)?;
            let ahead = x.f_sub(&estimate)?.f_mul_scalar(1.0 / (b * b) - 1.0 / (t * t))?;
            state.tensors.push((ESTIMATE.into(), estimate));
            state.tensors.push((AHEAD.into(), ahead));
        }
        Ok(())
    }

    fn effective_draws(&self, state: &State) -> Result<Option<f64>> {
        match state.get(WORTH) {
            Ok(worth) => Ok(Some(f64::from(super::to_vec(worth)?[0]))),
            // Without data all draws count.
            Err(_) => Ok(None),
        }
    }

    fn finish(&self, problem: &Problem, state: State) -> Result<Latent> {
        self.default.finish(problem, state)
    }
}

#[cfg(test)]
mod tests;
