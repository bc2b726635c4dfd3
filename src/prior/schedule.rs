//! Noise schedules of variance-preserving diffusions (Ho et al. 2020, arXiv:2006.11239; the cosine schedule of Nichol &
//! Dhariwal 2021, arXiv:2102.09672, eq. 17): x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.

use crate::{Error, Result};

/// The cosine schedule's offset, which keeps the first betas from being too small.
const COSINE_OFFSET: f64 = 0.008;
/// No step may destroy more than this part of the signal's variance.
const MAX_BETA: f64 = 0.999;
const MAX_STEPS: i64 = 100_000;

/// A discrete schedule of T steps; index 0 is the least noisy.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Variance added in each step.
    pub betas: Vec<f64>,
    /// Product of (1 - beta) up to and including each step.
    pub alpha_bar: Vec<f64>,
}

/// Coefficients of q(x_{t-1} | x_t, x_0): mean = x0 * `of_x0` + x_t * `of_xt`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    pub of_x0: f64,
    pub of_xt: f64,
    /// Its variance; 0 at index 0.
    pub variance: f64,
}

impl Schedule {
    /// The cosine schedule.
    pub fn cosine(steps: usize) -> Schedule {
        let level = |index: usize| {
            let time = index as f64 / steps as f64;
            ((time + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * std::f64::consts::FRAC_PI_2).cos().powi(2)
        };
        Schedule::of_betas((0..steps).map(|index| (1.0 - level(index + 1) / level(index)).min(MAX_BETA)).collect())
    }

    /// The linear schedule, scaled so that the whole noise does not depend on the number of steps.
    pub fn linear(steps: usize) -> Schedule {
        let scale = 1000.0 / steps as f64;
        let (first, last) = (scale * 1e-4, (scale * 0.02).min(MAX_BETA));
        let step = (last - first) / (steps.max(2) - 1) as f64;
        Schedule::of_betas((0..steps).map(|index| first + step * index as f64).collect())
    }

    /// The schedule called `name` in a network's hyperparameters.
    pub fn named(name: &str, steps: i64) -> Result<Schedule> {
        if !(2..=MAX_STEPS).contains(&steps) {
            return Err(Error::usage(format!("noise schedule: diffusion_steps is {steps}, expected 2 to {MAX_STEPS}")));
        }
        match name {
            "cosine" => Ok(Schedule::cosine(steps as usize)),
            "linear" => Ok(Schedule::linear(steps as usize)),
            _ => Err(Error::usage(format!("noise schedule: noise_schedule is `{name}`, expected cosine or linear"))),
        }
    }

    fn of_betas(betas: Vec<f64>) -> Schedule {
        let mut product = 1.0;
        let accumulate = |beta: &f64| {
            product *= 1.0 - beta;
            product
        };
        let alpha_bar = betas.iter().map(accumulate).collect();
        Schedule { betas, alpha_bar }
    }

    /// T.
    pub fn steps(&self) -> usize {
        self.betas.len()
    }

    /// Noise level of step `index` in the variance-exploding convention: sqrt((1 - alpha_bar) / alpha_bar).
    pub fn sigma(&self, index: usize) -> f64 {
        let alpha_bar = self.alpha_bar[index];
        ((1.0 - alpha_bar) / alpha_bar).sqrt()
    }

    /// The time, a float between 0 and T - 1, at which the noise level is `sigma`: interpolated in log S/N, that is in
    /// ln sigma. Below the first level the time is 0; `None` above the last.
    pub fn time(&self, sigma: f64) -> Option<f64> {
        let last = self.steps() - 1;
        if sigma <= self.sigma(0) {
            return Some(0.0);
        }
        // The last level itself may come with rounding.
        if sigma.is_nan() || sigma > self.sigma(last) * (1.0 + 1e-9) {
            return None;
        }
        let (mut low, mut high) = (0, last);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if self.sigma(middle) <= sigma { low = middle } else { high = middle }
        }
        let (below, above) = (self.sigma(low).ln(), self.sigma(high).ln());
        Some(low as f64 + ((sigma.ln() - below) / (above - below)).min(1.0))
    }

    /// The distribution of the next, less noisy, x given this one and x_0 (Ho et al. 2020, eq. 7).
    pub fn posterior(&self, index: usize) -> Posterior {
        let (beta, now) = (self.betas[index], self.alpha_bar[index]);
        let before = if index == 0 { 1.0 } else { self.alpha_bar[index - 1] };
        Posterior {
            of_x0: beta * before.sqrt() / (1.0 - now),
            of_xt: (1.0 - before) * (1.0 - beta).sqrt() / (1.0 - now),
            variance: beta * (1.0 - before) / (1.0 - now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_inverts_sigma() {
        for schedule in [Schedule::cosine(1000), Schedule::linear(1000), Schedule::cosine(25)] {
            for index in 0..schedule.steps() {
                let time = schedule.time(schedule.sigma(index)).unwrap();
                // f64 rounding of a ratio of logarithms' differences.
                assert!((time - index as f64).abs() < 1e-6, "{index}: {time}");
            }
            let middle = (schedule.sigma(7) * schedule.sigma(8)).sqrt();
            assert!((schedule.time(middle).unwrap() - 7.5).abs() < 1e-6);
            assert_eq!(schedule.time(0.0), Some(0.0));
            assert_eq!(schedule.time(1e9), None);
            assert_eq!(schedule.time(f64::NAN), None);
        }
    }

    #[test]
    fn the_cosine_schedule_follows_its_formula() {
        let schedule = Schedule::cosine(1000);
        let f = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
        for index in [0, 10, 500, 990] {
            let want = f((index + 1) as f64 / 1000.0) / f(0.0);
            // The clipped last betas are not reached here.
            assert!((schedule.alpha_bar[index] / want - 1.0).abs() < 1e-9);
        }
        assert!(Schedule::named("cosine", 1).is_err() && Schedule::named("sqrt", 1000).is_err());
    }
}
