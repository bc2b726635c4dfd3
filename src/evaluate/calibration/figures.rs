//! Pictures of a report: rank histograms, coverage curves, calibration error against cost, and problems compared.

use std::path::{Path, PathBuf};

use super::compared;
use super::report::Report;
use super::verdict::Judged;
use crate::Result;
use crate::report::chart::{Chart, Series};

/// Draws all pictures into `folder`; returns their paths.
pub fn draw(report: &Report, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for problem in report.problems() {
        let rows: Vec<&Judged> = report.on(problem).collect();
        for row in &rows {
            let name = &row.summary.subject.sampler;
            let histogram = pooled(row);
            let total: u32 = histogram.iter().sum();
            if total > 0 {
                let chart = Chart::new(&format!("{problem}: {name}"), "rank of the truth among its draws", "count");
                let counts: Vec<f64> = histogram.iter().map(|&count| f64::from(count)).collect();
                let expected = f64::from(total) / counts.len() as f64;
                let path = folder.join(format!("ranks-{problem}-{name}.png"));
                chart.histogram(&counts, (0.0, 1.0), Some(expected))?.save(&path)?;
                paths.push(path);
            }
        }
        if let Some(path) = coverage(problem, &rows, folder)? {
            paths.push(path);
        }
        paths.extend(cost(problem, &points(&rows), floor(&rows), folder)?);
    }
    let rows: Vec<&Judged> = report.results.iter().collect();
    paths.extend(cost("all", &worst(report), floor(&rows), folder)?);
    for group in compared::groups(report) {
        let (first, sampler) = (group.problems[0], group.sampler);
        let path = folder.join(format!("problems-{first}-{sampler}.png"));
        group.picture()?.save(&path)?;
        paths.push(path);
    }
    Ok(paths)
}

/// Where the lines of floor and bar begin and end, in units of the fewest and the most network evaluations: to the right of the
/// points there is room for the names.
const MARGIN: [f64; 2] = [0.8, 8.0];

/// Line, network evaluations a draw and calibration error of a sampler. Samplers without network evaluations (exact draws, prior
/// draws) have no place among the points of the figure of cost.
type Point<'a> = (&'a str, f64, f64);

fn points<'a>(rows: &[&'a Judged]) -> Vec<Point<'a>> {
    let point = |row: &&'a Judged| {
        let summary = &row.summary;
        let evaluations = summary.cost.evaluations();
        summary
            .calibration_error
            .filter(|_| evaluations > 0.0)
            .map(|error| (summary.subject.line.as_str(), evaluations, error))
    };
    rows.iter().filter_map(point).collect()
}

/// The calibration error of exact draws, on their worst problem: what so few simulations leave of a perfect sampler.
fn floor(rows: &[&Judged]) -> Option<f64> {
    let exact = rows
        .iter()
        .map(|row| &row.summary)
        .filter(|summary| summary.cost.forwards == 0.0 && !summary.subject.control && summary.wasserstein.is_some());
    exact.filter_map(|summary| summary.calibration_error).reduce(f64::max)
}

/// For each sampler its worst problem.
fn worst(report: &Report) -> Vec<Point<'_>> {
    let mut found: Vec<(&str, Point)> = Vec::new();
    for row in &report.results {
        let name = row.summary.subject.sampler.as_str();
        for point in points(&[row]) {
            match found.iter_mut().find(|(sampler, _)| *sampler == name) {
                Some((_, old)) if old.2 >= point.2 => {}
                Some((_, old)) => *old = point,
                None => found.push((name, point)),
            }
        }
    }
    found.into_iter().map(|(_, point)| point).collect()
}

/// Ranks of all statistics together.
fn pooled(row: &Judged) -> Vec<u32> {
    let statistics = &row.summary.statistics;
    let bars = statistics.first().map_or(0, |first| first.ranks.histogram.len());
    (0..bars).map(|bar| statistics.iter().map(|row| row.ranks.histogram[bar]).sum()).collect()
}

/// Share of truths in the central interval against the share that should be.
fn coverage(problem: &str, rows: &[&Judged], folder: &Path) -> Result<Option<PathBuf>> {
    let mut series = vec![Series { name: "calibrated".into(), points: vec![(0.0, 0.0), (1.0, 1.0)] }];
    for row in rows.iter().filter(|row| !row.summary.coverage_curve.is_empty()) {
        let points = row.summary.coverage_curve.iter().map(|&[nominal, found]| (nominal, found)).collect();
        series.push(Series { name: row.summary.subject.sampler.clone(), points });
    }
    if series.len() == 1 {
        return Ok(None);
    }
    let path = folder.join(format!("coverage-{problem}.png"));
    Chart::new(&format!("{problem}: coverage"), "nominal", "found").draw(&series)?.save(&path)?;
    Ok(Some(path))
}

/// Calibration error (in units of the bar) against network evaluations a draw, one line for each sampler, with that of exact draws
/// and the bar across.
fn cost(problem: &str, points: &[Point], floor: Option<f64>, folder: &Path) -> Result<Option<PathBuf>> {
    let mut series: Vec<Series> = Vec::new();
    for &(name, evaluations, error) in points {
        match series.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push((evaluations, error)),
            None => series.push(Series { name: name.into(), points: vec![(evaluations, error)] }),
        }
    }
    for line in &mut series {
        line.points.sort_by(|left, right| left.0.total_cmp(&right.0));
    }
    if !series.iter().flat_map(|line| &line.points).any(|(_, error)| *error > 0.0) {
        return Ok(None);
    }
    let all = || points.iter().map(|point| point.1);
    let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    for (name, error) in [("exact draws", floor), ("the bar", Some(1.0))] {
        let across = |error| vec![(MARGIN[0] * least, error), (MARGIN[1] * most, error)];
        series.extend(error.map(|error| Series { name: name.into(), points: across(error) }));
    }
    let mut chart = Chart::new(&format!("{problem}: error against cost"), "network evaluations a draw", "error / bar");
    (chart.log_x, chart.log_y) = (true, true);
    (chart.width, chart.height) = (1000, 600);
    let path = folder.join(format!("cost-{problem}.png"));
    chart.draw(&series)?.save(&path)?;
    Ok(Some(path))
}
