//! The redshifts of an object's samples, where they are drawn from the catalogue's error or quantiles.

use crate::catalog::{Target, Z_MAX};
use crate::config::Config;
use crate::random::normal::normal_quantile;
use crate::random::{Key, Purpose, object_seed};
use crate::{Error, Result};

/// Each attempt at a draw succeeds with a probability of 0.3 or more (of quantiles: what is between the outermost): nobody comes
/// near this.
const ATTEMPTS: u32 = 10_000;

/// The catalogue's redshift, which the cutout and its window are made for, may be off its quantiles by so many standard deviations:
/// what is farther is of another object, or of other columns.
const FARTHEST: f64 = 5.0;
/// A standard deviation is taken as this at least, times 1 + z: quantiles may be equal, and are rounded.
const NARROWEST: f64 = 0.01;

/// The distribution of a redshift, truncated to those that a catalogue may have: above 0, and `Z_MAX` at most.
pub(super) struct Redshifts {
    object: String,
    object_seed: u64,
    distribution: Distribution,
}

enum Distribution {
    Normal {
        mean: f64,
        sd: f64,
    },
    /// A function of a standard normal number that is linear between the points of the quantiles, and goes on so beyond the
    /// outermost: normal for two of them, and for any number its quantiles are these. `[score, redshift]`, rising.
    Quantiles(Vec<[f64; 2]>),
}

impl Redshifts {
    /// `None` where the redshift is exact: by the config, or because the catalogue says so.
    pub fn new(config: &Config, target: &Target) -> Result<Option<Redshifts>> {
        if !config.photo_z.propagated() {
            return Ok(None);
        }
        let distribution = if let Some(quantiles) = &config.catalog.columns.redshift_quantiles {
            let (scores, names): (Vec<f64>, Vec<String>) =
                quantiles.iter().map(|(p, name)| (normal_quantile(*p), name.clone())).unzip();
            let values = target.redshift_quantiles(&names).map_err(|why| Error::object(&target.id, why))?;
            let points: Vec<[f64; 2]> = scores.into_iter().zip(values).map(|(score, z)| [score, z]).collect();
            if !possible(&points, target.redshift) {
                let values: Vec<f64> = points.iter().map(|point| point[1]).collect();
                let why = format!(
                    "the redshift {} is more than {FARTHEST} standard deviations off its quantiles {values:?}: are the \
                     columns of catalog.columns those of the same redshift?",
                    target.redshift
                );
                return Err(Error::object(&target.id, why));
            }
            Distribution::Quantiles(points)
        } else {
            let Some(sd) = target.redshift_error.filter(|&error| error > 0.0) else { return Ok(None) };
            Distribution::Normal { mean: target.redshift, sd }
        };
        let object_seed = object_seed(config.survey.seed, &target.id);
        Ok(Some(Redshifts { object: target.id.clone(), object_seed, distribution }))
    }

    /// The redshift of a sample: by key, whatever block it is in.
    pub fn of(&self, sample: u32) -> Result<f64> {
        let drawn = (0..ATTEMPTS).find_map(|attempt| self.attempt(sample, attempt));
        drawn.ok_or_else(|| {
            let from = match &self.distribution {
                Distribution::Normal { mean, sd } => format!("{mean} +- {sd}"),
                Distribution::Quantiles(points) => {
                    format!("quantiles {:?}", points.iter().map(|point| point[1]).collect::<Vec<_>>())
                }
            };
            Error::object(&self.object, format!("no redshift between 0 and {Z_MAX} is drawn from {from}"))
        })
    }

    /// By rejection: from the distribution itself, or, where a normal one is wider than the range, from uniform redshifts.
    fn attempt(&self, sample: u32, attempt: u32) -> Option<f64> {
        let key = Key::of_seed(self.object_seed, sample, Purpose::Redshift, attempt);
        let allowed = |z: f64| (z > 0.0 && z <= Z_MAX).then_some(z);
        match &self.distribution {
            Distribution::Quantiles(points) => allowed(along(points, f64::from(key.normal(1)[0]))),
            Distribution::Normal { mean, sd } if *sd <= Z_MAX => allowed(mean + sd * f64::from(key.normal(1)[0])),
            Distribution::Normal { mean, sd } => {
                let uniform = key.uniform(2);
                let z = Z_MAX * (1.0 - uniform[0]);
                let density = (-0.5 * ((z - mean) / sd).powi(2)).exp();
                (uniform[1] < density).then_some(z)
            }
        }
    }
}

/// The value at `score` of the line through the two points around it, or nearest to it.
fn along(points: &[[f64; 2]], score: f64) -> f64 {
    let after = points.partition_point(|point| point[0] < score).clamp(1, points.len() - 1);
    let ([x0, z0], [x1, z1]) = (points[after - 1], points[after]);
    z0 + (z1 - z0) * (score - x0) / (x1 - x0)
}

/// Whether a redshift could be drawn from quantiles, by the slopes between the outermost two on either side.
fn possible(points: &[[f64; 2]], z: f64) -> bool {
    let ([_, low], [_, high]) = (points[0], points[points.len() - 1]);
    let nearest = z.clamp(low, high);
    // Counted from the score of the outermost quantile that it is beyond.
    let (score, inner) =
        if z < low { (points[0], points[1]) } else { (points[points.len() - 1], points[points.len() - 2]) };
    let sd = ((inner[1] - score[1]) / (inner[0] - score[0])).max(NARROWEST * (1.0 + z));
    nearest == z || score[0].abs() + (z - nearest).abs() / sd <= FARTHEST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redshifts(mean: f64, sd: f64) -> Redshifts {
        of(Distribution::Normal { mean, sd })
    }

    fn of(distribution: Distribution) -> Redshifts {
        Redshifts { object: "a".into(), object_seed: object_seed(1, "a"), distribution }
    }

    fn quantiles(pairs: &[(f64, f64)]) -> Redshifts {
        of(Distribution::Quantiles(pairs.iter().map(|&(p, z)| [normal_quantile(p), z]).collect()))
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
    fn two_quantiles_are_a_normal_distribution() {
        // 0.5 +- 0.05: the quantiles at one standard deviation on either side.
        let two = quantiles(&[(0.158_655_253_931, 0.45), (0.841_344_746_069, 0.55)]);
        let normal = redshifts(0.5, 0.05);
        for sample in 0..1000 {
            let (found, expected) = (two.of(sample).unwrap(), normal.of(sample).unwrap());
            assert!((found - expected).abs() < 1e-9, "{sample}: {found} {expected}");
        }
    }

    /// Two peaks with little between them, of which the lower reaches down to zero.
    #[test]
    fn draws_have_the_quantiles() {
        let pairs = [(0.025, 0.02), (0.16, 0.2), (0.45, 0.25), (0.55, 1.1), (0.84, 1.15), (0.975, 1.3)];
        let source = quantiles(&pairs);
        let count = 20_000;
        let drawn: Vec<f64> = (0..count).map(|sample| source.of(sample).unwrap()).collect();
        assert!(drawn.iter().all(|&z| z > 0.0 && z <= Z_MAX));
        // What the truncation takes: below 0, some 1.6 %.
        let cut = crate::random::normal::normal_cdf({
            let [[x0, z0], [x1, z1]] = [0, 1].map(|i| [normal_quantile(pairs[i].0), pairs[i].1]);
            x0 - z0 * (x1 - x0) / (z1 - z0)
        });
        assert!((0.01..0.025).contains(&cut), "{cut}");
        for (p, z) in pairs {
            let found = drawn.iter().filter(|&&drawn| drawn < z).count() as f64 / f64::from(count);
            let expected = (p - cut) / (1.0 - cut);
            let error = (expected * (1.0 - expected) / f64::from(count)).sqrt();
            assert!((found - expected).abs() < 4.0 * error, "{p}: {found} {expected}");
        }
    }

    /// A table of redshifts has the same one in several quantiles.
    #[test]
    fn equal_quantiles_are_one_redshift() {
        let source = quantiles(&[(0.1, 0.3), (0.5, 0.3), (0.9, 0.4)]);
        let drawn: Vec<f64> = (0..2000).map(|sample| source.of(sample).unwrap()).collect();
        let exact = drawn.iter().filter(|&&z| z == 0.3).count() as f64 / 2000.0;
        assert!((exact - 0.5).abs() < 0.05 && drawn.iter().all(|&z| z >= 0.3), "{exact}");
    }

    #[test]
    fn a_redshift_must_be_possible_by_its_own_quantiles() {
        let points =
            |pairs: &[(f64, f64)]| -> Vec<[f64; 2]> { pairs.iter().map(|&(p, z)| [normal_quantile(p), z]).collect() };
        // 0.5 +- 0.05 below the median, +- 0.1 above it.
        let skewed = points(&[(0.158_655, 0.45), (0.5, 0.5), (0.841_345, 0.6)]);
        for (z, expected) in [(0.5, true), (0.26, true), (0.24, false), (0.99, true), (1.01, false), (3.0, false)] {
            assert_eq!(possible(&skewed, z), expected, "{z}");
        }
        // Equal ones, and a redshift with more digits.
        let equal = points(&[(0.158_655, 0.3), (0.5, 0.3), (0.841_345, 0.3)]);
        assert!(possible(&equal, 0.304) && possible(&equal, 0.296) && !possible(&equal, 0.4) && !possible(&equal, 0.2));
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
