//! One sampler on several problems with the same statistics, side by side: what another noise does, or an analysis that is wrong
//! about the redshift, against one that is not.

use std::fmt::Write;

use super::probability::Estimate;
use super::report::Report;
use super::summary::{Statistic, Summary};
use crate::Result;
use crate::report::{Canvas, Chart, Series, small_multiples};

/// Widths of the table's columns.
const FIRST: usize = 16;
const COLUMN: usize = 27;
/// Size of the panels, in pixels: nine names of statistics are beside each other.
const WIDTH: u32 = 1480;
const HEIGHT: u32 = 380;

/// Problems with the same statistics, and what one sampler found there.
pub struct Group<'a> {
    pub sampler: &'a str,
    /// In the order of the config.
    pub problems: Vec<&'a str>,
    summaries: Vec<&'a Summary>,
}

/// All groups of two problems or more.
pub fn groups(report: &Report) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for summary in report.results.iter().map(|one| &one.summary).filter(|summary| !summary.statistics.is_empty()) {
        let subject = &summary.subject;
        let same =
            |group: &&mut Group| group.sampler == subject.sampler && names(group.summaries[0]).eq(names(summary));
        match groups.iter_mut().find(same) {
            Some(group) => {
                group.problems.push(&subject.problem);
                group.summaries.push(summary);
            }
            None => groups.push(Group {
                sampler: &subject.sampler,
                problems: vec![&subject.problem],
                summaries: vec![summary],
            }),
        }
    }
    groups.retain(|group| group.problems.len() > 1);
    groups
}

fn names(summary: &Summary) -> impl Iterator<Item = &str> {
    summary.statistics.iter().map(|row| row.name.as_str())
}

impl Group<'_> {
    /// Coverage, mean z and var z of each statistic, one column for each problem.
    pub fn table(&self, out: &mut String) {
        // Writing to a string cannot fail.
        let _ = self.write(out);
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{}: coverage, and mean z, var z of each statistic, on problems with the same ones",
            self.sampler
        )?;
        let mut line = |first: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!("{cell:<COLUMN$}")).collect();
            writeln!(out, "  {first:<FIRST$}{}", cells.trim_end())
        };
        line("", self.problems.iter().map(|problem| problem.to_string()).collect())?;
        let coverage = |summary: &&Summary| {
            let levels = summary.coverage.iter();
            levels
                .map(|row| format!("{:.0} ({:.0})", 100.0 * row.found, 100.0 * row.expected))
                .collect::<Vec<_>>()
                .join(" ")
        };
        line("% found (due)", self.summaries.iter().map(coverage).collect())?;
        for (index, name) in names(self.summaries[0]).enumerate() {
            let cell = |summary: &&Summary| {
                let row = &summary.statistics[index];
                format!("{}, {}", number(&row.mean_z), number(&row.var_z))
            };
            line(name, self.summaries.iter().map(cell).collect())?;
        }
        writeln!(out)
    }

    /// Coverage curves, mean z and var z, one line for each problem.
    pub fn picture(&self) -> Result<Canvas> {
        let series = |points: &dyn Fn(&Summary) -> Vec<(f64, f64)>| -> Vec<Series> {
            let lines = self.problems.iter().zip(&self.summaries);
            lines.map(|(name, summary)| Series { name: name.to_string(), points: points(summary) }).collect()
        };
        let over = |value: fn(&Statistic) -> &Option<Estimate>, calibrated: f64| {
            let mut lines = series(&|summary| {
                let rows = summary.statistics.iter().enumerate();
                rows.map(|(place, row)| (place as f64, value(row).map_or(f64::NAN, |one| one.value))).collect()
            });
            // One place more than there are statistics: the last name would be cut off at the frame.
            let end = names(self.summaries[0]).count() as f64;
            lines.push(Series { name: "calibrated".into(), points: vec![(0.0, calibrated), (end, calibrated)] });
            lines
        };
        let sized = |chart: Chart| Chart { width: WIDTH, height: HEIGHT, ..chart };
        let named =
            |chart: Chart| Chart { names: names(self.summaries[0]).map(String::from).collect(), ..sized(chart) };
        let mut curves = series(&|summary| summary.coverage_curve.iter().map(|&[due, found]| (due, found)).collect());
        curves.push(Series { name: "calibrated".into(), points: vec![(0.0, 0.0), (1.0, 1.0)] });
        let mut spread = named(Chart::new("", "", "var z"));
        spread.log_y = true;
        small_multiples(
            &[
                (sized(Chart::new(&format!("{}: coverage", self.sampler), "nominal", "found")), curves),
                (named(Chart { asinh_y: true, ..Chart::new("", "", "mean z") }), over(|row| &row.mean_z, 0.0)),
                (spread, over(|row| &row.var_z, 1.0)),
            ],
            1,
        )
    }
}

fn number(estimate: &Option<Estimate>) -> String {
    estimate.map_or("-".into(), |one| format!("{:.2}+-{:.2}", one.value, one.error))
}
