//! The report: all summaries with their verdicts, as JSON and as text.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::compared;
use super::config::CalibrationConfig;
use super::probability::Estimate;
use super::problems::Problem;
use super::recovered;
use super::run::Plan;
use super::summary::{Context, Statistic, Subject, Summary};
use super::verdict::{Judged, Verdict, judge};
use crate::Result;

/// Rejected hypotheses that the text names for each sampler.
const NAMED: usize = 4;

/// Everything that a run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub seed: u64,
    pub significance: f64,
    pub results: Vec<Judged>,
    /// Negative controls that nothing was found wrong with, as "sampler on problem": a fault of the tests.
    pub controls_not_failed: Vec<String>,
    /// Whether every control fails on every problem, and no other sampler fails anywhere.
    pub as_expected: bool,
}

impl Report {
    /// From the records of a finished run.
    pub fn of(plan: &Plan, config: &CalibrationConfig) -> Result<Report> {
        let mut results = Vec::new();
        for (index, sampler) in plan.samplers.iter().enumerate() {
            let mut summaries = Vec::new();
            for (place, case) in plan.problems.iter().enumerate() {
                let problem: &dyn Problem = case.problem.as_ref();
                let subject = Subject {
                    problem: problem.name().into(),
                    sampler: sampler.name.clone(),
                    line: sampler.family.clone(),
                    control: sampler.control,
                };
                let family = problem.family();
                let context = Context { family, statistics: problem.statistics(), strata: problem.strata() };
                let summary = Summary::of(subject, &context, &plan.records(place, index)?);
                summaries.extend(summary.map(|summary| (family, summary)));
            }
            results.extend(judge(summaries, config.significance));
        }
        let problems: Vec<&str> = plan.problems.iter().map(|case| case.problem.name()).collect();
        results.sort_by_key(|one| problems.iter().position(|name| *name == one.summary.subject.problem));
        let fails = |one: &&Judged| one.verdict == Verdict::Fail;
        let blind = results.iter().filter(|one| one.summary.subject.control && !fails(one));
        let blind = blind.map(|one| format!("{} on {}", one.summary.subject.sampler, one.summary.subject.problem));
        let others = results.iter().filter(|one| !one.summary.subject.control);
        let controls_not_failed: Vec<String> = blind.collect();
        Ok(Report {
            seed: config.seed,
            significance: config.significance,
            as_expected: controls_not_failed.is_empty() && !others.clone().any(|one| fails(&one)),
            controls_not_failed,
            results,
        })
    }

    /// The problems, in the order of the config.
    pub fn problems(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.results.iter().map(|one| one.summary.subject.problem.as_str()).collect();
        names.dedup();
        names
    }

    /// The results on one problem.
    pub fn on<'a>(&'a self, problem: &'a str) -> impl Iterator<Item = &'a Judged> {
        self.results.iter().filter(move |one| one.summary.subject.problem == problem)
    }

    /// Tables for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for problem in self.problems() {
            // Writing to a string cannot fail.
            let _ = self.table(problem, &mut out);
        }
        for group in compared::groups(self) {
            group.table(&mut out);
        }
        if self.controls_not_failed.is_empty() {
            out.push_str("Every negative control fails, as it must.\n");
        } else {
            let names = self.controls_not_failed.join(", ");
            let _ = writeln!(out, "Negative controls that do not fail (more simulations are needed): {names}");
        }
        out
    }

    fn table(&self, problem: &str, out: &mut String) -> std::fmt::Result {
        let rows: Vec<&Judged> = self.on(problem).collect();
        let Some(first) = rows.first() else { return Ok(()) };
        let (simulations, draws) = (first.summary.simulations, first.summary.draws);
        writeln!(out, "{problem}: {simulations} simulations, {draws} draws each")?;
        writeln!(
            out,
            "  {:<24}{:<11}{:<26}{:<26}{:<14}{:>8}{:>8}{:>16}{:>16}{:>6}{:>6}{:>7}{:>9}{:>9}",
            "sampler",
            "verdict",
            "variance ratio",
            "error^2 / trace",
            "50/68/95 %",
            "SBC p",
            "TARP p",
            "SW / floor",
            "modes / floor",
            "fwd",
            "grad",
            "evals",
            "err/bar",
            "ms/draw"
        )?;
        for row in &rows {
            let summary = &row.summary;
            let verdict = match row.verdict {
                Verdict::Pass => "pass",
                Verdict::Fail => "FAIL",
                Verdict::Undecided => "undecided",
            };
            let three = |part: &dyn Fn(&super::summary::Bin) -> Option<Estimate>| {
                let cells =
                    summary.bins.iter().map(|bin| part(bin).map_or("-".into(), |one| format!("{:.3}", one.value)));
                cells.collect::<Vec<_>>().join(" / ")
            };
            let coverage: Vec<String> =
                summary.coverage.iter().map(|row| format!("{:.0}", 100.0 * row.found)).collect();
            let least = summary.statistics.iter().map(|row| row.ranks.p).fold(1.0, f64::min);
            let pair = |pair: &Option<super::summary::WithFloor>| {
                pair.map_or("-".into(), |pair| format!("{:.3} / {:.3}", pair.value, pair.floor))
            };
            writeln!(
                out,
                "  {:<24}{:<11}{:<26}{:<26}{:<14}{:>8.3}{:>8.3}{:>16}{:>16}{:>6.0}{:>6.0}{:>7.0}{:>9}{:>9.2}",
                summary.subject.sampler,
                verdict,
                three(&|bin| bin.variance_ratio),
                three(&|bin| bin.mean_error),
                coverage.join("/"),
                least,
                summary.tarp.p,
                pair(&summary.wasserstein),
                pair(&summary.modes),
                summary.cost.forwards,
                summary.cost.gradients,
                summary.cost.evaluations(),
                summary.calibration_error.map_or("-".into(), |error| format!("{error:.2}")),
                1e3 * summary.cost.seconds,
            )?;
        }
        for row in &rows {
            reasons(row, out)?;
        }
        if let Some(row) = cheapest(&rows) {
            let (name, evaluations) = (&row.summary.subject.sampler, row.summary.cost.evaluations());
            writeln!(
                out,
                "  cheapest whose estimates are all inside their bars: {name}, {evaluations:.0} network evaluations"
            )?;
        }
        writeln!(out)
    }
}

/// The sampler with the fewest network evaluations (forwards, and two more a gradient) whose calibration error is below its bar.
fn cheapest<'a>(rows: &[&'a Judged]) -> Option<&'a Judged> {
    let inside = |row: &&&Judged| {
        let summary = &row.summary;
        let samples = !summary.subject.control && summary.cost.forwards > 0.0 && summary.failures == 0;
        samples && summary.calibration_error.is_some_and(|error| error < 1.0)
    };
    let cost = |row: &&Judged| row.summary.cost.evaluations();
    rows.iter().filter(inside).copied().min_by(|left, right| cost(left).total_cmp(&cost(right)))
}

/// Why a sampler fails or is undecided, and its strata.
fn reasons(row: &Judged, out: &mut String) -> std::fmt::Result {
    let summary = &row.summary;
    let name = &summary.subject.sampler;
    if let Some(reason) = &summary.first_failure {
        writeln!(out, "  {name}: {} simulations without draws; the first: {reason}", summary.failures)?;
    }
    let chosen: Vec<_> = match row.verdict {
        Verdict::Fail => row.checks.iter().filter(|check| check.rejected).collect(),
        _ => row.checks.iter().filter(|check| check.met == Some(false)).collect(),
    };
    let shown: Vec<String> = chosen
        .iter()
        .take(NAMED)
        .map(|check| format!("{} {:.3} (p {:.1e})", check.name, check.value, check.p))
        .collect();
    if !shown.is_empty() {
        let what = if row.verdict == Verdict::Fail { "rejected" } else { "not yet inside its bar" };
        let more = chosen.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        writeln!(out, "  {name}: {what}: {}{more}", shown.join("; "))?;
    }
    if summary.references > 0 {
        let cell = |row: &Statistic| {
            let of =
                |one: &Option<Estimate>| one.map_or("-".into(), |one| format!("{:.2}+-{:.2}", one.value, one.error));
            format!("{} {} / {}", row.name, of(&row.shift), of(&row.spread))
        };
        let cells = summary.statistics.iter().map(cell).collect::<Vec<_>>().join("; ");
        let count = summary.references;
        writeln!(
            out,
            "  {name}, {count} simulations against weighted prior draws: shift in sd / variance ratio: {cells}"
        )?;
    }
    for stratum in &summary.strata {
        let cell = |estimate: &Option<Estimate>| {
            estimate.map_or("-".into(), |one| format!("{:.2}+-{:.2}", one.value, one.error))
        };
        let short = |estimate: &Option<Estimate>| estimate.map_or("-".into(), |one| format!("{:.2}", one.value));
        let cells = stratum
            .statistics
            .iter()
            .map(|row| {
                let z = [cell(&row.mean_z), cell(&row.var_z)].join(" / ");
                format!("{} {z} ({} / {})", row.name, short(&row.mean_score), short(&row.var_score))
            })
            .collect::<Vec<_>>();
        writeln!(
            out,
            "  {name}, {}: {} simulations; mean z / var z (mean / variance of scores): {}",
            stratum.name,
            stratum.simulations,
            cells.join("; ")
        )?;
    }
    recovered::text(name, &summary.recovery, out)
}
