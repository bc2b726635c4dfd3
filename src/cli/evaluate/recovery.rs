//! `unseeing evaluate recovery`: the products of a simulated survey against its truths.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::cli::{DONE, to_json};
use crate::evaluate::features::{self, Claim};
use crate::evaluate::recovery::{self, Blank, Object, Response, Row, Unbinned};
use crate::evaluate::truths::Truths;
use crate::posterior::Flag;
use crate::product::ShardMeta;
use crate::product::run::products;
use crate::report::{Canvas, Chart, Series, small_multiples};
use crate::{Error, Result};

/// Panels of the figure in a line.
const PANEL_COLUMNS: usize = 3;

/// Arguments of `unseeing evaluate recovery`.
#[derive(ClapArgs)]
pub struct Args {
    /// The run folder of a survey that `unseeing simulate` made and `unseeing run` worked on, or one product file
    run: PathBuf,
    /// Its truths
    #[arg(long, value_name = "FILE")]
    truth: PathBuf,
    /// The same galaxies and noise with the opposite shear: run folder (or product file) and truths
    #[arg(long, num_args = 2, value_names = ["RUN", "TRUTH"], requires = "shear")]
    minus: Vec<PathBuf>,
    /// The reduced shear of the first, G1,G2
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    shear: Vec<f64>,
    /// Only these quantities, by their names in the products
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "flux_0,flux_1,flux_2,colour_0,colour_1,r50,concentration,e1,e2"
    )]
    quantities: Vec<String>,
    /// Leaves objects with any of these flags out. A companion that was masked as a neighbour is part of the truth, but not
    /// of the galaxy that a survey measures
    #[arg(long, value_delimiter = ',', default_value = "non_finite_draws,neighbours_masked")]
    without: Vec<String>,
    /// Draws pull and bias over observed S/N
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,
    /// Answers in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    objects: usize,
    left_out: usize,
    unbinned: Vec<Unbinned>,
    rows: Vec<Row>,
    responses: Vec<Response>,
    blank: Option<Blank>,
    /// Of surveys with injected features.
    features: Option<Features>,
}

#[derive(Serialize)]
struct Features {
    rows: Vec<features::Row>,
    claims: Vec<Claim>,
}

/// Runs the command and returns the exit code.
pub fn run(args: &Args) -> Result<i32> {
    let Compared { mut objects, errors, claims, meta } = compare(&args.run, &args.truth)?;
    let mut flagged = 0;
    for name in &args.without {
        let Some(flag) = Flag::ALL.into_iter().find(|flag| flag.name() == name) else {
            return Err(Error::usage(format!("--without {name}: there is no such flag")));
        };
        flagged |= flag.bit();
    }
    let blank = {
        let pairs: Vec<(&Object, f64)> = objects.iter().zip(errors).collect();
        recovery::blank(&pairs, meta.reference, Flag::NotDetected.bit())
    };
    let responses = match (&args.minus[..], &args.shear[..]) {
        ([], _) => Vec::new(),
        ([run, truth], &[g1, g2]) => recovery::responses(&objects, &compare(run, truth)?.objects, [g1, g2]),
        _ => return Err(Error::usage("--shear: expected G1,G2")),
    };
    for object in &mut objects {
        object.quantities.retain(|name, _| args.quantities.contains(name));
    }
    let left_out = objects.iter().filter(|object| object.flags & flagged != 0).count();
    let features = (!claims.is_empty()).then(|| Features { rows: features::rows(&claims), claims });
    let rows = recovery::rows(&objects, flagged);
    let unbinned = recovery::unbinned(&objects, flagged);
    let report = Report { objects: objects.len(), left_out, unbinned, rows, responses, blank, features };
    if let Some(path) = &args.plot {
        plot(&report.rows)?.save(path)?;
    }
    if args.json {
        println!("{}", to_json(&report)?);
    } else {
        print(&report, &meta);
    }
    Ok(DONE)
}

/// All finished objects of a run against their truths.
struct Compared {
    objects: Vec<Object>,
    /// Errors of their Kron fluxes, reference band.
    errors: Vec<f64>,
    /// Where features were injected.
    claims: Vec<Claim>,
    /// What the run's files say.
    meta: ShardMeta,
}

fn compare(run: &Path, truth_file: &Path) -> Result<Compared> {
    let truths = Truths::open(truth_file)?;
    let (mut objects, mut errors, mut claims, mut last) = (Vec::new(), Vec::new(), Vec::new(), None);
    for product in products(run)? {
        product.check()?;
        let shard = product.open()?;
        let meta = &shard.meta;
        for (index, record) in shard.all_numbers().enumerate() {
            let record = record?;
            let Some(truth) = truths.of(&record.id)? else {
                return Err(Error::file(truth_file, format!("there is no truth of object {}", record.id)));
            };
            if let Some(object) = Object::of(&record, &truth, meta)? {
                objects.push(object);
                errors.push(record.vector("kron_flux_error").get(meta.reference).copied().unwrap_or(f64::NAN));
            }
            if let Some(feature) = truths.feature(&record.id, meta.reference) {
                claims.extend(Claim::of(&shard.record(index)?, &truth, &feature, meta)?);
            }
        }
        last = Some(shard.meta);
    }
    match last {
        Some(meta) if !objects.is_empty() => Ok(Compared { objects, errors, claims, meta }),
        _ => Err(Error::usage(format!("{}: no object is finished yet", run.display()))),
    }
}

/// A panel for each quantity: pulls with their errors, over what was observed, and the line of no bias.
fn plot(rows: &[Row]) -> Result<Canvas> {
    let mut panels: Vec<(Chart, Vec<Series>)> = Vec::new();
    for row in rows.iter().filter(|row| row.binned_by == "observed S/N") {
        // The last bin has no upper edge, the first none on a logarithmic axis.
        let low = if row.low > 0.0 { row.low } else { 5.0 };
        let middle = (low * row.high.unwrap_or(4.0 * low)).sqrt();
        let known = panels.iter().position(|(chart, _)| chart.title == row.quantity);
        let index = known.unwrap_or_else(|| {
            let mut chart = Chart::new(&row.quantity, "observed S/N", "pull");
            (chart.log_x, chart.width, chart.height) = (true, 400, 280);
            let none = Series { name: String::new(), points: vec![(5.0, 0.0), (400.0, 0.0)] };
            panels.push((chart, vec![none, Series { name: String::new(), points: Vec::new() }]));
            panels.len() - 1
        });
        // Each with its error bar: up, down and back.
        let bar = [0.0, 1.0, -1.0, 0.0].map(|errors| (middle, row.pull.value + errors * row.pull.error));
        panels[index].1[1].points.extend(bar);
    }
    small_multiples(&panels, PANEL_COLUMNS)
}

fn print(report: &Report, meta: &ShardMeta) {
    println!("{} objects, {} of them left out for their flags", report.objects, report.left_out);
    let bands: Vec<String> = meta.bands.iter().enumerate().map(|(index, band)| format!("{index} = {band}")).collect();
    println!("bands: {}; bias is relative for fluxes and radii\n", bands.join(", "));
    println!(
        "{:<14}{:<14}{:>12}{:>5}{:>20}{:>17}{:>15}{:>8}{:>12}",
        "quantity", "binned by", "bin", "n", "bias", "pull", "sd of pull", "in 1 sd", "(expected)"
    );
    for row in &report.rows {
        let bin = row.high.map_or(format!("> {}", row.low), |high| format!("{} - {high}", row.low));
        println!(
            "{:<14}{:<14}{bin:>12}{:>5}{:>10.4} +- {:<6.4}{:>8.2} +- {:<5.2}{:>6.2} +- {:<5.2}{:>8.2}{:>12.2}",
            row.quantity,
            row.binned_by,
            row.objects,
            row.bias.value,
            row.bias.error,
            row.pull.value,
            row.pull.error,
            row.pull_sd.value,
            row.pull_sd.error,
            row.within_1_sd,
            row.within_1_sd_expected
        );
    }
    for Unbinned { binned_by, too_few, no_bin } in report.unbinned.iter().filter(|row| row.too_few + row.no_bin > 0) {
        println!("in no row by {binned_by}: {too_few} in bins of fewer than three, {no_bin} outside all bins");
    }
    for response in &report.responses {
        let Response { component, shear, objects, posterior, truth, difference } = response;
        println!(
            "\nshear response of {component} at {shear} ({objects} objects): {:.3} +- {:.3}, of the truth {:.3} +- {:.3}, difference {:.3} +- {:.3}",
            posterior.value, posterior.error, truth.value, truth.error, difference.value, difference.error
        );
    }
    if let Some(features) = &report.features {
        println!(
            "\ninjected features: mean part of the draws that claim one (part of the objects of which most draws do)"
        );
        println!("{:<12}{:>8}{:>28}{:>8}{:>28}", "S/N", "with", "found", "without", "false");
        for (index, row) in features.rows.iter().enumerate() {
            let bin = match (index, row.high) {
                (0, _) => "all".into(),
                (_, None) => format!("> {}", row.low),
                (_, Some(high)) => format!("{} - {high}", row.low),
            };
            let rate = |rate: &Option<features::Rate>| match rate {
                Some(features::Rate { objects, claiming, claimed }) => {
                    // A single object has no scatter.
                    let error =
                        if claiming.error.is_finite() { format!("+- {:.3}", claiming.error) } else { String::new() };
                    format!("{objects:>8}{:>14.3} {error:<8} ({claimed:.2})", claiming.value)
                }
                None => format!("{:>8}{:>28}", 0, ""),
            };
            println!("{bin:<12}{}{}", rate(&row.found), rate(&row.false_claims));
        }
    }
    if let Some(blank) = &report.blank {
        println!(
            "\nblank sky ({} objects): flux / sd {:.2} +- {:.2}, flux / error of the Kron flux {:.2} +- {:.2}, flagged not_detected {:.0} %",
            blank.objects,
            blank.flux_over_sd.value,
            blank.flux_over_sd.error,
            blank.flux_over_kron_error.value,
            blank.flux_over_kron_error.error,
            100.0 * blank.not_detected
        );
    }
}
