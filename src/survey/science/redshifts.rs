//! The redshifts of an object's samples, where they are drawn from the catalogue's error.

use crate::catalog::{Target, Z_MAX};
use crate::config::Config;
use crate::random::{Key, Purpose, object_seed};
use crate::{Error, Result};

/// Each attempt at a draw succeeds with a probability of 0.3 or more: nobody comes near this.
const ATTEMPTS: u32 = 10_000;

/// The normal distribution of a redshift, truncated to those that a catalogue may have: above 0, and `Z_MAX` at most.
pub(super) struct Redshifts {
    object: String,
    object_seed: u64,
    mean: f64,
    sd: f64,
}

impl Redshifts {
    /// `None` where the redshift is exact: by the config, or because the catalogue says so.
    pub fn new(config: &Config, target: &Target) -> Option<Redshifts> {
        let sd = target.redshift_error.filter(|&error| config.photo_z.propagated() && error > 0.0)?;
        let object_seed = object_seed(config.survey.seed, &target.id);
        Some(Redshifts { object: target.id.clone(), object_seed, mean: target.redshift, sd })
    }

    /// The redshift of a sample: by key, whatever block it is in.
    pub fn of(&self, sample: u32) -> Result<f64> {
        let drawn = (0..ATTEMPTS).find_map(|attempt| self.attempt(sample, attempt));
        drawn.ok_or_else(|| {
            let what = format!("no redshift between 0 and {Z_MAX} is drawn from {} +- {}", self.mean, self.sd);
            Error::object(&self.object, what)
        })
    }

    /// By rejection: from the normal distribution itself, or, where that is wider than the range, from uniform redshifts.
    fn attempt(&self, sample: u32, attempt: u32) -> Option<f64> {
        let key = Key::of_seed(self.object_seed, sample, Purpose::Redshift, attempt);
        if self.sd <= Z_MAX {
            let z = self.mean + self.sd * f64::from(key.normal(1)[0]);
            return (z > 0.0 && z <= Z_MAX).then_some(z);
        }
        let uniform = key.uniform(2);
        let z = Z_MAX * (1.0 - uniform[0]);
        let density = (-0.5 * ((z - self.mean) / self.sd).powi(2)).exp();
        (uniform[1] < density).then_some(z)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redshifts(mean: f64, sd: f64) -> Redshifts {
        Redshifts { object: "a".into(), object_seed: object_seed(1, "a"), mean, sd }
    }

    fn mean_sd(drawn: &[f64]) -> (f64, f64) {
        let count = drawn.len() as f64;
        let mean = drawn.iter().sum::<f64>() / count;
        (mean, (drawn.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / count).sqrt())
    }

    /// Against the truncated distribution's moments, by sums over a grid.
    #[test]
    fn draws_have_the_truncated_distributions_moments() {
        for (mean, sd) in [(0.5, 0.05), (0.1, 0.2), (5.9, 1.0), (1.0, 4.0), (2.0, 7.0), (1.0, 1e9)] {
            let source = redshifts(mean, sd);
            let drawn: Vec<f64> = (0..20_000).map(|sample| source.of(sample).unwrap()).collect();
            assert!(drawn.iter().all(|&z| z > 0.0 && z <= Z_MAX), "{mean} {sd}");
            let grid: Vec<f64> = (0..60_000).map(|i| (i as f64 + 0.5) * 1e-4).collect();
            let weight = |z: f64| (-0.5 * ((z - mean) / sd).powi(2)).exp();
            let total: f64 = grid.iter().map(|&z| weight(z)).sum();
            let want = grid.iter().map(|&z| z * weight(z)).sum::<f64>() / total;
            let spread = (grid.iter().map(|&z| (z - want).powi(2) * weight(z)).sum::<f64>() / total).sqrt();
            let (found, found_sd) = mean_sd(&drawn);
            // Four standard errors of 20,000 draws; those of the standard deviation are below 1/sqrt(2 n) (1 + a little).
            assert!((found - want).abs() < 4.0 * spread / 141.4, "{mean} {sd}: {found} {want}");
            assert!((found_sd / spread - 1.0).abs() < 4.0 / 141.4, "{mean} {sd}: {found_sd} {spread}");
        }
    }

    #[test]
    fn draws_depend_on_seed_object_and_sample() {
        let source = redshifts(0.5, 0.1);
        let first = source.of(0).unwrap();
        assert_eq!(first, redshifts(0.5, 0.1).of(0).unwrap());
        let of_seed = |object_seed| Redshifts { object_seed, ..redshifts(0.5, 0.1) }.of(0).unwrap();
        let others = [source.of(1).unwrap(), of_seed(object_seed(2, "a")), of_seed(object_seed(1, "b"))];
        assert!(others.iter().all(|&other| other != first));
    }
}
