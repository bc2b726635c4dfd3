//! Pictures of a report: rank histograms, coverage curves, and calibration error against cost.

use std::path::{Path, PathBuf};

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
        paths.extend(cost(problem, &points(&rows), folder)?);
    }
    paths.extend(cost("all", &worst(report), folder)?);
    Ok(paths)
}

/// Line, forwards a draw and calibration error of a sampler. Samplers without network evaluations (exact draws, prior
/// draws) have no place in the figure of cost.
type Point<'a> = (&'a str, f64, f64);

fn points<'a>(rows: &[&'a Judged]) -> Vec<Point<'a>> {
    let point = |row: &&'a Judged| {
        let summary = &row.summary;
        let forwards = summary.cost.forwards;
        summary
            .calibration_error
            .filter(|_| forwards > 0.0)
            .map(|error| (summary.subject.line.as_str(), forwards, error))
    };
    rows.iter().filter_map(point).collect()
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

/// Calibration error against network evaluations a draw, one line for each sampler.
fn cost(problem: &str, points: &[Point], folder: &Path) -> Result<Option<PathBuf>> {
    let mut series: Vec<Series> = Vec::new();
    for &(name, forwards, error) in points {
        match series.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push((forwards, error)),
            None => series.push(Series { name: name.into(), points: vec![(forwards, error)] }),
        }
    }
    for line in &mut series {
        line.points.sort_by(|left, right| left.0.total_cmp(&right.0));
    }
    if !series.iter().flat_map(|line| &line.points).any(|(_, error)| *error > 0.0) {
        return Ok(None);
    }
    let mut chart = Chart::new(&format!("{problem}: error against cost"), "forwards a draw", "calibration error");
    (chart.log_x, chart.log_y) = (true, true);
    let path = folder.join(format!("cost-{problem}.png"));
    chart.draw(&series)?.save(&path)?;
    Ok(Some(path))
}
