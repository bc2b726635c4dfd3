//! The bars, and whether a sampler is held to have passed them.
//!
//! Each bar is checked twice. It is *met* when the whole 95 % interval of the estimate is inside it. It is *missed* when the
//! hypothesis that the truth is inside is rejected. Between the two, there are too few simulations to tell. Coverage,
//! ranks (simulation-based calibration, Talts et al. 2018, arXiv:1804.06788) and TARP are hypotheses without a bar. All
//! hypotheses about one sampler, over all problems, are one family for Holm's correction: what a sampler is told does not
//! depend on the company that it was tested in.

use serde::{Deserialize, Serialize};

use super::probability::{Estimate, holm};
use super::problems::Family;
use super::summary::{Statistic, Summary};

/// Gaussian problems: the sampler's own approximation is exact there, so that only its discretisation is left.
pub const GAUSSIAN_VARIANCE: f64 = 0.03;
pub const GAUSSIAN_MEAN: f64 = 0.01;
/// Mixtures, and curved fluxes: a step's Gaussian is an approximation. 12 % in variance is 6 % in an error bar, less than
/// what the noise level of a survey image is known to; 5 % of the trace is a fifth of a standard deviation.
pub const MIXTURE_VARIANCE: f64 = 0.12;
pub const MIXTURE_MEAN: f64 = 0.05;
/// Total variation of the mode weights beyond that of as many exact draws, in the median simulation. Ratios of summed
/// variances are heavy-tailed where modes are far apart, and a few dozen simulations reject little by them; this does.
pub const MIXTURE_MODES: f64 = 0.1;
/// Network priors: |mean z| and |var z - 1|, and those of normal scores, which are z where posteriors are Gaussian.
pub const NETWORK_MEAN_Z: f64 = 0.15;
pub const NETWORK_VAR_Z: f64 = 0.15;

/// What is known in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All bars are met and nothing is rejected.
    Pass,
    /// A hypothesis is rejected, or a simulation has no draws.
    Fail,
    /// Nothing is rejected, but not every interval is inside its bar: more simulations would tell.
    Undecided,
}

/// One hypothesis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub value: f64,
    /// The bar's interval; `None` for a hypothesis without a bar.
    pub bar: Option<[f64; 2]>,
    /// Whether the 95 % interval is inside the bar.
    pub met: Option<bool>,
    pub p: f64,
    /// By Holm, among all of the sampler's.
    pub rejected: bool,
}

/// A summary with its checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub verdict: Verdict,
    pub checks: Vec<Check>,
    pub summary: Summary,
}

/// Judges all summaries of one sampler together.
pub fn judge(summaries: Vec<(Family, Summary)>, significance: f64) -> Vec<Judged> {
    let mut judged: Vec<Judged> = summaries
        .into_iter()
        .map(|(family, summary)| Judged { verdict: Verdict::Undecided, checks: checks(family, &summary), summary })
        .collect();
    let p_values: Vec<f64> = judged.iter().flat_map(|one| &one.checks).map(|check| check.p).collect();
    let mut rejected = holm(&p_values, significance).into_iter();
    for one in &mut judged {
        for check in &mut one.checks {
            check.rejected = rejected.next().unwrap_or(false);
        }
        one.verdict = if one.summary.failures > 0 || one.checks.iter().any(|check| check.rejected) {
            Verdict::Fail
        } else if one.checks.iter().all(|check| check.met != Some(false)) {
            Verdict::Pass
        } else {
            Verdict::Undecided
        };
    }
    judged
}

fn checks(family: Family, summary: &Summary) -> Vec<Check> {
    let mut checks = Vec::new();
    let exact = match family {
        Family::Gaussian => Some((GAUSSIAN_VARIANCE, GAUSSIAN_MEAN)),
        Family::Mixture | Family::Curved => Some((MIXTURE_VARIANCE, MIXTURE_MEAN)),
        Family::Network => None,
    };
    if let Some((variance, mean)) = exact {
        for bin in &summary.bins {
            let name = |what: &str| format!("{what}, bin {}", bin.name);
            checks.extend(bar(name("variance ratio"), &bin.variance_ratio, [1.0 - variance, 1.0 + variance]));
            // The Monte Carlo term was taken off, so that a perfect mean may come out below zero.
            checks.extend(bar(name("error^2 / trace"), &bin.mean_error, [-mean, mean]));
        }
        if let Some(excess) = summary.mode_excess {
            let met = Some(excess.median.high <= MIXTURE_MODES);
            let (value, bar) = (excess.median.value, Some([-1.0, MIXTURE_MODES]));
            checks.push(Check { name: "mode weights".into(), value, bar, met, p: excess.p, rejected: false });
        }
    } else if summary.strata.is_empty() {
        checks.extend(z_checks("all", &summary.statistics));
    } else {
        summary.strata.iter().for_each(|stratum| checks.extend(z_checks(&stratum.name, &stratum.statistics)));
    }
    for row in &summary.statistics {
        let name = |what: &str| format!("{what} of {} against weighted prior draws", row.name);
        checks.extend(bar(name("shift"), &row.shift, [-NETWORK_MEAN_Z, NETWORK_MEAN_Z]));
        checks.extend(bar(name("variance ratio"), &row.spread, [1.0 - NETWORK_VAR_Z, 1.0 + NETWORK_VAR_Z]));
    }
    let hypothesis = |name: String, value: f64, p: f64| Check { name, value, bar: None, met: None, p, rejected: false };
    for row in &summary.coverage {
        checks.push(hypothesis(format!("coverage {}", row.level), row.found - row.expected, row.p));
    }
    for row in &summary.statistics {
        checks.push(hypothesis(format!("ranks of {}", row.name), row.ranks.distance, row.ranks.p));
    }
    checks.push(hypothesis("TARP".into(), summary.tarp.distance, summary.tarp.p));
    checks
}

/// Of z and of scores. z tells how far truths are off, scores have a known distribution whatever the posteriors' shape: where those
/// have a long tail, a fault in their width that z cannot be told by shows in scores.
fn z_checks(stratum: &str, statistics: &[Statistic]) -> Vec<Check> {
    let (means, variances) = ([-NETWORK_MEAN_Z, NETWORK_MEAN_Z], [1.0 - NETWORK_VAR_Z, 1.0 + NETWORK_VAR_Z]);
    let each = statistics.iter().flat_map(|row| {
        let name = |what: &str| format!("{what} of {}, {stratum}", row.name);
        let with = |check: Option<Check>, p: Option<f64>| check.zip(p).map(|(check, p)| Check { p, ..check });
        let spread = row.var_score.map(|found| found.variance_outside_p(variances[0], variances[1]));
        [
            with(bar(name("mean z"), &row.mean_z, means), row.mean_z_p),
            with(bar(name("var z"), &row.var_z, variances), row.var_z_p),
            bar(name("mean score"), &row.mean_score, means),
            with(bar(name("var score"), &row.var_score, variances), spread),
        ]
    });
    each.flatten().collect()
}

fn bar(name: String, estimate: &Option<Estimate>, [low, high]: [f64; 2]) -> Option<Check> {
    estimate.map(|estimate| Check {
        name,
        value: estimate.value,
        bar: Some([low, high]),
        met: Some(estimate.inside(low, high)),
        p: estimate.outside_p(low, high),
        rejected: false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::{BinSums, Cost, Numbers, Record, place};
    use super::super::summary::{Context, Subject};
    use super::*;
    use crate::random::{Key, Purpose};

    /// Independent standard normal truths, and draws with `spread` times their standard deviation, shifted by `shift`; of all the
    /// `shape`.
    fn judged_as(shape: fn(f64) -> f64, seed: u64, simulations: u32, [spread, shift]: [f64; 2]) -> Judged {
        let draws = 15usize;
        let record = |index: u32| {
            let places = (0..3).map(|row| {
                let normal = Key::new(seed, "judged", index, Purpose::Evaluation, row).normal(draws + 1);
                let values: Vec<f64> =
                    normal[1..].iter().map(|&value| shape(shift + spread * f64::from(value))).collect();
                let uniform = Key::new(seed, "ties", index, Purpose::Evaluation, row).uniform(2);
                let truth = shape(normal[0].into());
                (place(truth, &values, &uniform), [&[truth], values.as_slice()].concat())
            });
            let (mut statistics, mut values): (Vec<_>, Vec<_>) = places.unzip();
            let tarp = statistics.remove(2);
            values.truncate(2);
            let (wasserstein, modes, bins) = (None, None, [BinSums::default(); 3]);
            let observed_signal_to_noise = Some(f64::from(index % 2));
            let draws = draws as u32;
            let numbers = Numbers {
                draws,
                statistics,
                values,
                tarp,
                bins,
                wasserstein,
                modes,
                observed_signal_to_noise,
                reference: None,
            };
            let cost = Cost { forwards: 1.0, gradients: 0.0, seconds: 0.0 };
            Record { failure: None, numbers: Some(numbers), cost }
        };
        let records: Vec<Record> = (0..simulations).map(record).collect();
        let context = Context { family: Family::Network, statistics: vec!["one".into()], strata: &[0.5] };
        let subject = Subject { problem: "p".into(), sampler: "s".into(), line: "s".into(), control: false };
        let summary = Summary::of(subject, &context, &records).unwrap();
        judge(vec![(Family::Network, summary)], 0.05).remove(0)
    }

    fn judged(seed: u64, simulations: u32, fault: [f64; 2]) -> Judged {
        judged_as(|value| value, seed, simulations, fault)
    }

    /// Of bell-shaped posteriors, and of such with a long tail, log-normal with sigma 1.5.
    #[test]
    fn few_simulations_of_a_network_reject_no_more_than_they_should() {
        for (name, shape) in
            [("normal", (|value| value) as fn(f64) -> f64), ("long-tailed", |value| (1.5 * value).exp())]
        {
            let failed = |simulations| {
                let fails = |&seed: &u64| judged_as(shape, seed, simulations, [1.0, 0.0]).verdict == Verdict::Fail;
                (0..60).filter(fails).count()
            };
            // 5 % of 60 are 3; nine or more happen once in 500.
            for simulations in [18, 60] {
                let failed = failed(simulations);
                assert!(failed <= 8, "{name}, {simulations} simulations: {failed} of 60");
            }
        }
    }

    /// What scores are for: z of a perfect sampler's long-tailed posteriors is far from standard.
    #[test]
    fn scores_do_not_depend_on_the_shape_and_z_does() {
        let tail = judged_as(|value| (1.5 * value).exp(), 1, 4000, [1.0, 0.0]).summary;
        let row = &tail.strata[0].statistics[0];
        let bell = judged(1, 4000, [1.0, 0.0]).summary;
        assert_eq!(row.var_score, bell.strata[0].statistics[0].var_score);
        assert!((row.var_score.unwrap().value - 1.0).abs() < 0.1); // Three standard errors of 2,000.
        assert!(row.var_z.unwrap().value > 1.5, "{:?}", row.var_z);
    }

    /// A perfect sampler is not rejected for the tails of its posteriors, and one that is wrong is.
    #[test]
    fn a_tail_is_no_fault() {
        let tail = |value: f64| (2.0 * value).exp();
        // 5 % of 20; five or more happen once in 400.
        let failed = (0..20).filter(|&seed| judged_as(tail, seed, 200, [1.0, 0.0]).verdict == Verdict::Fail).count();
        assert!(failed <= 4, "{failed}");
        for fault in [[1.4f64.sqrt(), 0.0], [1.4f64.sqrt().recip(), 0.0], [1.0, 0.3]] {
            assert_eq!(judged_as(tail, 1, 400, fault).verdict, Verdict::Fail, "{fault:?}");
        }
    }

    #[test]
    fn enough_simulations_tell_right_from_wrong() {
        // 4,000 simulations in each stratum: the standard errors are 0.017 and 0.022.
        assert_eq!(judged(1, 8000, [1.0, 0.0]).verdict, Verdict::Pass);
        for fault in [[1.4f64.sqrt(), 0.0], [1.4f64.sqrt().recip(), 0.0], [1.0, 0.3]] {
            assert_eq!(judged(1, 400, fault).verdict, Verdict::Fail, "{fault:?}");
        }
        // Right, but with too few to say so.
        assert_eq!(judged(2, 40, [1.0, 0.0]).verdict, Verdict::Undecided);
    }
}
