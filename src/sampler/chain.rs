//! What chains over noise levels share: the grid of levels, the beginning, the ancestral step, the galaxy in the state, and
//! how network evaluations are dealt out where a method needs several for one level.

use tch::Tensor;

use super::amplitude::draw_nuisance;
use super::conjugate_gradient::Stop;
use super::guidance::with_prior_nuisance;
use super::{Problem, State};
use crate::forward::{Latent, Likelihood};
use crate::prior::Covariance;
use crate::prior::ancestral::karras_grid;
use crate::random::Purpose;
use crate::{Error, Result};

/// Karras' grid of `count` levels from `t_max` down to `t_min`, and 0 after the last. `method` is for the message.
pub fn levels(method: &str, t_max: f64, t_min: f64, count: u32) -> Result<Vec<f64>> {
    if !(t_min > 0.0 && t_max > t_min && t_max.is_finite() && count >= 2) {
        return Err(Error::usage(format!(
            "{method}: {count} noise levels from t_max = {t_max} to t_min = {t_min}; expected at least 2 and \
             t_max > t_min > 0"
        )));
    }
    let mut levels = karras_grid(t_max, t_min, count);
    levels.push(0.0);
    Ok(levels)
}

/// The level of a step and the one after it.
pub fn pair(method: &str, levels: &[f64], step: u32) -> Result<[f64; 2]> {
    match levels.get(step as usize..step as usize + 2) {
        Some(&[t, b]) => Ok([t, b]),
        _ => Err(Error::internal(format!("{method}: no step {step} of {}", levels.len() - 1))),
    }
}

/// x ~ N(mu0, C0 + t^2 I), with amplitude and sky at their prior means.
pub fn start(problem: &Problem, covariance: &Covariance, t: f64) -> Result<State> {
    let latent = with_prior_nuisance(problem, covariance.draw(t, &problem.noise, 0)?)?;
    Ok(State { step: 0, tensors: tensors(latent) })
}

/// A galaxy as the tensors of a state.
fn tensors(latent: Latent) -> Vec<(String, Tensor)> {
    vec![("x".into(), latent.image), ("ln_amplitude".into(), latent.ln_amplitude), ("sky".into(), latent.sky)]
}

/// The galaxy that a state holds.
pub fn latent(state: &State) -> Result<Latent> {
    Ok(Latent {
        image: state.get("x")?.shallow_clone(),
        ln_amplitude: state.get("ln_amplitude")?.shallow_clone(),
        sky: state.get("sky")?.shallow_clone(),
    })
}

/// The largest residual of a draw's solves, `[B]`, in a state.
pub const SOLVE_RESIDUAL: &str = "solve_residual";

/// Puts the galaxy of the next step into the state; `residual` is that of the solve that found it, over what would have ended
/// the solve, `[B]`, where the method tells it.
pub fn advance(state: &mut State, latent: Latent, residual: Option<Tensor>) -> Result<()> {
    let largest = match (residual, state.get(SOLVE_RESIDUAL)) {
        (Some(residual), Ok(before)) => Some(residual.f_maximum(before)?),
        (residual, _) => residual,
    };
    state.tensors = tensors(latent);
    state.tensors.extend(largest.map(|largest| (SOLVE_RESIDUAL.into(), largest)));
    state.step += 1;
    Ok(())
}

/// Standard normal images, by key.
pub fn white(problem: &Problem, purpose: Purpose, step: u32) -> Result<Tensor> {
    problem.noise.normal(purpose, step, &problem.denoiser.shape(), problem.device)
}

/// The ancestral step from level t to b given an estimate of x0: p(x_b | x_t, x0) (Ho et al. 2020, arXiv:2006.11239, eq. 7,
/// in the variance-exploding convention): x0 + (b/t)^2 (x - x0) + b sqrt(1 - (b/t)^2) e.
pub fn ancestral(problem: &Problem, step: u32, x: &Tensor, estimate: &Tensor, [t, b]: [f64; 2]) -> Result<Tensor> {
    let kept = (b / t).powi(2);
    let next = estimate.f_add(&x.f_sub(estimate)?.f_mul_scalar(kept)?)?;
    if b == 0.0 {
        return Ok(next);
    }
    let noise = white(problem, Purpose::Renoise, step)?;
    Ok(next.f_add(&noise.f_mul_scalar(b * (1.0 - kept).max(0.0).sqrt())?)?)
}

/// A step of the guided ancestral methods: from level t to b by `estimate`, the method's E[x0 | x_t, y] with the amplitude and
/// sky that belong to it; those are drawn given the final image.
pub fn guided(
    problem: &Problem,
    state: &mut State,
    [t, b]: [f64; 2],
    stop: Stop,
    estimate: impl Fn(&dyn Likelihood, &Latent) -> Result<Latent>,
) -> Result<()> {
    let before = latent(state)?;
    let mut next = match problem.likelihood {
        Some(likelihood) => estimate(likelihood, &before)?,
        None => with_prior_nuisance(problem, problem.denoiser.denoise(&before.image, t)?)?,
    };
    next.image = ancestral(problem, state.step, &before.image, &next.image, [t, b])?;
    if let (true, Some(likelihood)) = (b == 0.0, problem.likelihood) {
        next = draw_nuisance(problem, likelihood, state.step, &next, stop)?;
    }
    advance(state, next, None)
}

/// `steps` network evaluations in rounds of `inner` each; what does not divide lengthens the first rounds by one or more.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    pub count: u32,
    steps: u32,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub round: u32,
    /// The step's place in its round.
    pub index: u32,
    /// Steps of its round.
    pub length: u32,
}

impl Rounds {
    /// At least two rounds.
    pub fn new(method: &str, steps: u32, inner: u32) -> Result<Rounds> {
        if inner == 0 || steps / inner < 2 {
            return Err(Error::usage(format!(
                "{method}: {steps} steps in rounds of {inner} network evaluations; expected at least 2 rounds of 1 or more"
            )));
        }
        Ok(Rounds { count: steps / inner, steps })
    }

    /// The place of a step.
    pub fn place(&self, step: u32) -> Place {
        let (base, longer) = (self.steps / self.count, self.steps % self.count);
        let before = longer * (base + 1);
        if step < before {
            Place { round: step / (base + 1), index: step % (base + 1), length: base + 1 }
        } else {
            Place { round: longer + (step - before) / base, index: (step - before) % base, length: base }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_its_place() {
        for (steps, inner) in [(12, 4), (14, 4), (15, 4), (7, 3), (2, 1), (33, 5)] {
            let rounds = Rounds::new("test", steps, inner).unwrap();
            let places: Vec<Place> = (0..steps).map(|step| rounds.place(step)).collect();
            assert_eq!((places[0].round, places[0].index), (0, 0));
            for pair in places.windows(2) {
                let next = if pair[0].index + 1 < pair[0].length {
                    (pair[0].round, pair[0].index + 1)
                } else {
                    (pair[0].round + 1, 0)
                };
                assert_eq!((pair[1].round, pair[1].index), next, "{steps} {inner}");
                assert!(pair[1].length <= pair[0].length && pair[1].length >= inner);
            }
            let last = places[places.len() - 1];
            assert_eq!((last.round + 1, last.index + 1), (rounds.count, last.length));
        }
        assert!(Rounds::new("test", 7, 4).is_err() && Rounds::new("test", 7, 0).is_err());
    }

    #[test]
    fn levels_end_at_zero_and_bad_ones_are_named() {
        let grid = levels("test", 30.0, 0.1, 5).unwrap();
        assert_eq!((grid.len(), grid[5]), (6, 0.0));
        assert_eq!(pair("test", &grid, 4).unwrap(), [grid[4], 0.0]);
        assert!(pair("test", &grid, 5).is_err());
        for (high, low, count) in [(1.0, 2.0, 5), (1.0, 0.0, 5), (f64::NAN, 0.1, 5), (2.0, 0.1, 1)] {
            let error = levels("test", high, low, count).unwrap_err().to_string();
            assert!(error.contains("test") && error.contains("t_max"), "{error}");
        }
    }
}
