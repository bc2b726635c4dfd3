//! From the records of one sampler on one problem to estimates with errors and p-values.

use serde::{Deserialize, Serialize};

use super::exchange::{Moment, outside_p};
use super::probability::{Estimate, bootstrap, central_ranks, mean_sd, median, sign_test, two_sided, var_z_expected};
use super::problems::Family;
use super::record::{BIN_BOUNDS, Cost, LOG_P, Numbers, Place, Record};
use super::recovered;
use super::verdict::{
    GAUSSIAN_MEAN, GAUSSIAN_VARIANCE, MIXTURE_MEAN, MIXTURE_MODES, MIXTURE_VARIANCE, NETWORK_MEAN_Z, NETWORK_VAR_Z,
};
use crate::evaluate::ranks::uniform_test;
use crate::evaluate::recovery::Row;

/// Coverage levels that are tested.
const LEVELS: [f64; 3] = [0.5, 0.68, 0.95];
/// Levels of the coverage curve.
const CURVE: usize = 20;
/// Bars of a rank histogram.
const BARS: usize = 10;
/// Variance ratios below this are no further off: the logarithm of zero is not a number.
const LEAST_RATIO: f64 = 1e-6;
/// A stratum with fewer simulations has no estimates.
const FEWEST: usize = 8;

/// What the summary is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    pub problem: String,
    pub sampler: String,
    /// The sampler's name without its number of steps.
    pub line: String,
    pub control: bool,
}

/// Everything that is known of one sampler on one problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub subject: Subject,
    pub draws: u32,
    pub simulations: usize,
    /// Those of which weighted draws of the prior tell the posterior.
    pub references: usize,
    /// Simulations without numbers, and the first one's reason.
    pub failures: usize,
    pub first_failure: Option<String>,
    pub bins: Vec<Bin>,
    pub coverage: Vec<Coverage>,
    /// (nominal, found) over all statistics.
    pub coverage_curve: Vec<[f64; 2]>,
    pub statistics: Vec<Statistic>,
    pub tarp: Uniformity,
    pub strata: Vec<Stratum>,
    /// Of network priors: how well truths are recovered, as `evaluate recovery` tells of surveys.
    pub recovery: Vec<Row>,
    pub wasserstein: Option<WithFloor>,
    pub modes: Option<WithFloor>,
    pub mode_excess: Option<ModeExcess>,
    pub cost: Cost,
    /// One number for the figure of cost: see `error_of`.
    pub calibration_error: Option<f64>,
}

/// One bin of posterior over prior variance, where it has entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    pub name: String,
    /// Share of the basis vectors (pixels) that are in it.
    pub share: f64,
    /// Without an exact posterior this is `None`, and the error is the truth's: 1 when calibrated.
    pub variance_ratio: Option<Estimate>,
    pub mean_error: Option<Estimate>,
}

/// Rank-based coverage of one level over all statistics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    pub level: f64,
    /// The exact share of n + 1 ranks that the interval holds.
    pub expected: f64,
    pub found: f64,
    /// From resampling the objects; never below that of independent statistics.
    pub error: f64,
    pub p: f64,
}

/// One statistic over all simulations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistic {
    pub name: String,
    /// Of the normal scores: 0 and 1 when calibrated, whatever the shape of the posterior.
    pub mean_score: Option<Estimate>,
    pub var_score: Option<Estimate>,
    /// Of (truth - mean) / sd: how far truths are off, in posterior standard deviations.
    pub mean_z: Option<Estimate>,
    /// In units of its expectation for n draws of a Gaussian posterior.
    pub var_z: Option<Estimate>,
    /// Probabilities of a mean and a variance of z so far outside the bars of network priors, whatever the posteriors' shape
    /// (`exchange.rs`); `None` where other bars hold.
    pub mean_z_p: Option<f64>,
    pub var_z_p: Option<f64>,
    /// Against the posterior by weighted draws of the prior, where there is one: mean of the draws less its mean, in its standard
    /// deviations, and their variance over its.
    pub shift: Option<Estimate>,
    pub spread: Option<Estimate>,
    pub ranks: Uniformity,
}

/// Whether fractions are uniform.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Uniformity {
    /// Kolmogorov-Smirnov distance, and the probability of a larger one.
    pub distance: f64,
    pub p: f64,
    pub histogram: Vec<u32>,
}

/// Simulations of similar observed S/N.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stratum {
    pub name: String,
    pub simulations: usize,
    /// Empty where there are too few simulations.
    pub statistics: Vec<Statistic>,
}

/// A mean over simulations, and that of exact draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WithFloor {
    pub value: f64,
    pub floor: f64,
}

/// How much further than those of exact draws the mode weights are from the right ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeExcess {
    /// The median over simulations of the difference of the total variations.
    pub median: Estimate,
    /// Sign test of the hypothesis that half of the simulations, or fewer, are beyond the bar.
    pub p: f64,
}

/// What a problem says about its records.
pub struct Context<'a> {
    pub family: Family,
    /// Without log p(y|x).
    pub statistics: Vec<String>,
    pub strata: &'a [f64],
}

impl Summary {
    /// `None` without records.
    pub fn of(subject: Subject, context: &Context, records: &[Record]) -> Option<Summary> {
        if records.is_empty() {
            return None;
        }
        let numbers: Vec<&Numbers> = records.iter().filter_map(|record| record.numbers.as_ref()).collect();
        let names: Vec<String> = context.statistics.iter().cloned().chain([LOG_P.to_string()]).collect();
        let draws = numbers.first().map_or(0, |first| first.draws);
        let bins = bins(context.family, &numbers);
        let statistics =
            if numbers.is_empty() { Vec::new() } else { statistics(context.family, &names, &numbers, draws) };
        let average = |value: &dyn Fn(&Numbers) -> Option<[f64; 2]>| -> Option<WithFloor> {
            let values: Vec<[f64; 2]> = numbers.iter().filter_map(|numbers| value(numbers)).collect();
            let mean = |side: usize| mean_sd(&values.iter().map(|pair| pair[side]).collect::<Vec<_>>()).0;
            (!values.is_empty()).then(|| WithFloor { value: mean(0), floor: mean(1) })
        };
        let cost = |part: &dyn Fn(&Cost) -> f64| {
            mean_sd(&records.iter().map(|record| part(&record.cost)).collect::<Vec<_>>()).0
        };
        Some(Summary {
            subject,
            draws,
            simulations: records.len(),
            references: numbers.iter().filter(|numbers| numbers.reference().is_some()).count(),
            failures: records.len() - numbers.len(),
            first_failure: records.iter().find_map(|record| record.failure.clone()),
            calibration_error: error_of(context.family, &bins, &statistics),
            bins,
            coverage: LEVELS.iter().filter_map(|&level| coverage(level, &numbers)).collect(),
            coverage_curve: curve(&numbers),
            tarp: uniformity(numbers.iter().map(|numbers| &numbers.tarp)),
            strata: strata(context, &names, &numbers, draws),
            recovery: recovered::rows(context, &numbers),
            statistics,
            wasserstein: average(&|numbers| numbers.wasserstein),
            modes: average(&|numbers| numbers.modes),
            mode_excess: mode_excess(&numbers),
            cost: Cost {
                forwards: cost(&|cost| cost.forwards),
                gradients: cost(&|cost| cost.gradients),
                seconds: cost(&|cost| cost.seconds),
            },
        })
    }
}

fn bins(family: Family, numbers: &[&Numbers]) -> Vec<Bin> {
    let total: u32 = numbers.iter().flat_map(|numbers| &numbers.bins).map(|bin| bin.entries).sum();
    let names =
        [format!("<{}", BIN_BOUNDS[0]), format!("{}-{}", BIN_BOUNDS[0], BIN_BOUNDS[1]), format!(">{}", BIN_BOUNDS[1])];
    let mut rows = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let entries: u32 = numbers.iter().map(|numbers| numbers.bins[index].entries).sum();
        if entries == 0 {
            continue;
        }
        let ratio = |what: &str, part: &dyn Fn(&super::record::BinSums) -> f64| {
            bootstrap(&format!("{what} {index}"), numbers.len(), |chosen| {
                let sum = |part: &dyn Fn(&super::record::BinSums) -> f64| {
                    chosen.iter().map(|&at| part(&numbers[at].bins[index])).sum::<f64>()
                };
                sum(part) / sum(&|bin| bin.trace)
            })
        };
        rows.push(Bin {
            name,
            share: f64::from(entries) / f64::from(total),
            variance_ratio: if family == Family::Network { None } else { ratio("variance", &|bin| bin.found) },
            mean_error: ratio("error", &|bin| bin.error),
        });
    }
    rows
}

fn statistics(family: Family, names: &[String], numbers: &[&Numbers], draws: u32) -> Vec<Statistic> {
    let rows = names.iter().enumerate().map(|(index, name)| {
        let places = || numbers.iter().map(|numbers| &numbers.statistics[index]);
        let [mean_score, var_score] = mean_and_variance(&places().map(Place::score).collect::<Vec<_>>(), 1.0);
        let [mean_z, var_z] =
            mean_and_variance(&places().filter_map(|place| place.z).collect::<Vec<_>>(), var_z_expected(draws));
        let groups: Vec<Vec<f64>> = numbers.iter().map(|numbers| numbers.values[index].clone()).collect();
        let p = |moment, estimate: &Option<Estimate>, bar| {
            let tested = estimate.filter(|_| family == Family::Network);
            tested.map(|estimate| outside_p(&groups, moment, estimate.value, bar))
        };
        Statistic {
            name: name.clone(),
            mean_score,
            var_score,
            mean_z_p: p(Moment::Mean, &mean_z, [-NETWORK_MEAN_Z, NETWORK_MEAN_Z]),
            var_z_p: p(Moment::Variance, &var_z, [1.0 - NETWORK_VAR_Z, 1.0 + NETWORK_VAR_Z]),
            mean_z,
            var_z,
            shift: against("shift", numbers, index, |[mean, variance], own| (own[0] - mean) / variance.sqrt()),
            spread: against("spread", numbers, index, |[_, variance], own| own[1] / variance),
            ranks: uniformity(places()),
        }
    });
    rows.collect()
}

/// The mean over simulations of what `of` says of the moments (mean, variance) of a statistic's reference and of its draws.
fn against(what: &str, numbers: &[&Numbers], index: usize, of: impl Fn([f64; 2], [f64; 2]) -> f64) -> Option<Estimate> {
    let each = |numbers: &&Numbers| {
        let reference = numbers.reference()?;
        let (mean, sd) = mean_sd(numbers.values[index].get(1..)?);
        let value = of(*reference.moments.get(index)?, [mean, sd * sd]);
        value.is_finite().then_some(value)
    };
    let values: Vec<f64> = numbers.iter().filter_map(each).collect();
    if values.len() < FEWEST {
        return None;
    }
    bootstrap(what, values.len(), |chosen| chosen.iter().map(|&at| values[at]).sum::<f64>() / chosen.len() as f64)
}

/// Mean, and variance in units of what it is `expected` to be. Neither is held to be more certain than of normal values.
fn mean_and_variance(values: &[f64], expected: f64) -> [Option<Estimate>; 2] {
    let moments = |chosen: &[usize]| mean_sd(&chosen.iter().map(|&at| values[at]).collect::<Vec<_>>());
    let count = values.len();
    let mean = bootstrap("mean z", count, |chosen| moments(chosen).0);
    let variance = bootstrap("var z", count, |chosen| moments(chosen).1.powi(2) / expected);
    [
        mean.map(|mean| mean.at_least((expected / count as f64).sqrt())),
        variance.map(|variance| variance.of_variance(count)),
    ]
}

fn uniformity<'a>(places: impl Iterator<Item = &'a Place>) -> Uniformity {
    let fractions: Vec<f64> = places.map(|place| place.fraction).collect();
    if fractions.is_empty() {
        return Uniformity { p: 1.0, ..Uniformity::default() };
    }
    let (distance, p) = uniform_test(&fractions);
    let mut histogram = vec![0; BARS];
    for fraction in fractions {
        histogram[((fraction * BARS as f64) as usize).min(BARS - 1)] += 1;
    }
    Uniformity { distance, p, histogram }
}

/// The share of an object's statistics whose truth is in the central interval of this level.
fn covered(level: f64, numbers: &Numbers) -> (f64, f64) {
    let (low, expected) = central_ranks(level, numbers.draws);
    let inside = |place: &&Place| (low..=numbers.draws - low).contains(&place.rank);
    let share = numbers.statistics.iter().filter(inside).count() as f64 / numbers.statistics.len() as f64;
    (share, expected)
}

fn coverage(level: f64, numbers: &[&Numbers]) -> Option<Coverage> {
    let first = numbers.first()?;
    let expected = covered(level, first).1;
    let shares: Vec<f64> = numbers.iter().map(|numbers| covered(level, numbers).0).collect();
    let mean = |chosen: &[usize]| chosen.iter().map(|&at| shares[at]).sum::<f64>() / chosen.len() as f64;
    let estimate = bootstrap(&format!("coverage {level}"), shares.len(), mean)?;
    // Where (almost) all truths are covered, resampling sees no spread; independent statistics have at least this one.
    let independent = (expected * (1.0 - expected) / (shares.len() * first.statistics.len()) as f64).sqrt();
    let error = estimate.error.max(independent);
    let p = if expected < 1.0 { two_sided((estimate.value - expected) / error) } else { 1.0 };
    Some(Coverage { level, expected, found: estimate.value, error, p })
}

fn curve(numbers: &[&Numbers]) -> Vec<[f64; 2]> {
    let levels = (1..CURVE).map(|step| step as f64 / CURVE as f64);
    let points = levels.filter_map(|level| {
        let expected = covered(level, numbers.first()?).1;
        let found = numbers.iter().map(|numbers| covered(level, numbers).0).sum::<f64>() / numbers.len() as f64;
        Some([expected, found])
    });
    points.collect()
}

fn strata(context: &Context, names: &[String], numbers: &[&Numbers], draws: u32) -> Vec<Stratum> {
    let bounds = context.strata;
    if bounds.is_empty() {
        return Vec::new();
    }
    let rows = (0..=bounds.len()).map(|index| {
        let of = |value: f64| bounds.iter().filter(|&&bound| value >= bound).count();
        let inside = |numbers: &&&Numbers| numbers.observed_signal_to_noise.is_some_and(|value| of(value) == index);
        let chosen: Vec<&Numbers> = numbers.iter().filter(inside).copied().collect();
        let name = match index {
            0 => format!("S/N < {}", bounds[0]),
            last if last == bounds.len() => format!("S/N > {}", bounds[last - 1]),
            between => format!("S/N {}-{}", bounds[between - 1], bounds[between]),
        };
        let enough = chosen.len() >= FEWEST;
        let statistics = if enough { statistics(context.family, names, &chosen, draws) } else { Vec::new() };
        Stratum { name, simulations: chosen.len(), statistics }
    });
    rows.collect()
}

fn mode_excess(numbers: &[&Numbers]) -> Option<ModeExcess> {
    let excess: Vec<f64> =
        numbers.iter().filter_map(|numbers| numbers.modes).map(|[mine, floor]| mine - floor).collect();
    let above = excess.iter().filter(|&&value| value > MIXTURE_MODES).count();
    let chosen = |indices: &[usize]| median(&indices.iter().map(|&at| excess[at]).collect::<Vec<_>>());
    let median = bootstrap("modes", excess.len(), chosen)?;
    Some(ModeExcess { median, p: sign_test(above, excess.len()) })
}

/// The calibration error of the figure of cost, in units of the bars: with an exact posterior the largest over the bins of
/// |ln variance ratio| / ln(1 + bar) and of |error^2 / trace| / bar, else the largest over the statistics of |mean z| / bar and of
/// |var z - 1| / bar. An estimate alone: at 1 it is at the bar, and what a number of simulations can tell is told by exact draws.
fn error_of(family: Family, bins: &[Bin], statistics: &[Statistic]) -> Option<f64> {
    let off =
        |estimate: &Option<Estimate>, from: f64, bar: f64| estimate.map(|estimate| (estimate.value - from).abs() / bar);
    let exact = |variance: f64, mean: f64| -> Vec<f64> {
        let spread =
            |bin: &Bin| bin.variance_ratio.map(|ratio| ratio.value.max(LEAST_RATIO).ln().abs() / variance.ln_1p());
        bins.iter().flat_map(|bin| [spread(bin), off(&bin.mean_error, 0.0, mean)]).flatten().collect()
    };
    let values: Vec<f64> = match family {
        Family::Gaussian => exact(GAUSSIAN_VARIANCE, GAUSSIAN_MEAN),
        Family::Mixture | Family::Curved => exact(MIXTURE_VARIANCE, MIXTURE_MEAN),
        Family::Network => {
            let each = statistics
                .iter()
                .flat_map(|row| [off(&row.mean_z, 0.0, NETWORK_MEAN_Z), off(&row.var_z, 1.0, NETWORK_VAR_Z)]);
            each.flatten().collect()
        }
    };
    values.into_iter().reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(variance: f64, mean: f64) -> Bin {
        let estimate = |value| Some(Estimate { value, error: 0.0, low: value, high: value });
        Bin { name: "b".into(), share: 1.0, variance_ratio: estimate(variance), mean_error: estimate(mean) }
    }

    #[test]
    fn the_error_is_the_worst_one_in_units_of_its_bar() {
        let error = |bins: &[Bin]| error_of(Family::Mixture, bins, &[]).unwrap();
        assert!((error(&[bin(1.12, 0.0), bin(1.0, 0.01)]) - 1.0).abs() < 1e-9);
        // Too narrow counts as too wide does, and the mean by its own bar.
        assert!((error(&[bin(1.0 / 1.12f64.powi(3), 0.0)]) - 3.0).abs() < 1e-9);
        assert!((error(&[bin(1.05, 0.1), bin(0.95, -0.02)]) - 2.0).abs() < 1e-9);
        assert!((error_of(Family::Gaussian, &[bin(1.0, 0.02)], &[]).unwrap() - 2.0).abs() < 1e-9);
        // Draws that do not differ have a finite error, too.
        assert!(error(&[bin(0.0, 0.0)]).is_finite());
        assert_eq!(error_of(Family::Mixture, &[], &[]), None);
    }
}
