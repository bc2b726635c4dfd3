//! `unseeing evaluate coverage`: how often truths are within the intervals that products claim, by S/N and radius.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::cli::{DONE, to_json};
use crate::evaluate::coverage::{Cell, NOMINAL, Object, cells};
use crate::evaluate::truths::Truths;
use crate::product::run::products;
use crate::product::statistics::summary;
use crate::product::{ObjectRecord, ShardMeta, Status};
use crate::report::coverage_picture;
use crate::{Error, Result};

/// Arguments of `unseeing evaluate coverage`.
#[derive(ClapArgs)]
pub struct Args {
    /// The run folder of a survey that `unseeing simulate` made and `unseeing run` worked on, or one product file
    run: PathBuf,
    /// Its truths
    #[arg(long, value_name = "FILE")]
    truth: PathBuf,
    /// Draws the map: S/N downwards, radius to the right
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,
    /// Answers in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    objects: usize,
    /// Those with too few draws for a variance, or without a half-light radius.
    left_out: usize,
    nominal: [f64; 3],
    cells: Vec<Cell>,
}

/// Runs the command and returns the exit code.
pub fn run(args: &Args) -> Result<i32> {
    let truths = Truths::open(&args.truth)?;
    let (mut objects, mut left_out) = (Vec::new(), 0);
    for product in products(&args.run)? {
        product.read(|shard| {
            for index in 0..shard.ids().len() {
                let record = shard.record(index)?;
                if record.status == Status::Done {
                    match one(&record, &shard.meta, &truths)? {
                        Some(object) => objects.push(object),
                        None => left_out += 1,
                    }
                }
            }
            Ok(())
        })?;
    }
    if objects.is_empty() {
        let what = format!("no object is finished and has a half-light radius and draws enough ({left_out} left out)");
        return Err(Error::usage(format!("{}: {what}", args.run.display())));
    }
    let report = Report { objects: objects.len(), left_out, nominal: NOMINAL, cells: cells(&objects) };
    if let Some(path) = &args.plot {
        coverage_picture(&report.cells)?.save(path)?;
    }
    if args.json {
        println!("{}", to_json(&report)?);
    } else {
        print(&report);
    }
    Ok(DONE)
}

fn one(record: &ObjectRecord, meta: &ShardMeta, truths: &Truths) -> Result<Option<Object>> {
    let trouble = |what: &str| Error::object(&record.id, what);
    let pitch = record.scalar("pixel_scale").ok_or_else(|| trouble("its products have no pixel scale"))?;
    let truth =
        truths.at_pitch(&record.id, meta.pixel_kpc, pitch)?.ok_or_else(|| trouble("there is no truth of it"))?;
    let array = |name: &str| {
        record.array(name).map(|array| array.values.as_slice()).ok_or_else(|| trouble("its products have no images"))
    };
    let r50 = summary(record.sample("r50").unwrap_or_default()).mean / meta.pixel_kpc;
    let draws = record.scalar("sample_count").unwrap_or(0.0) as u32;
    let kron = |name: &str| record.vector(name).get(meta.reference).copied().unwrap_or(f64::NAN);
    let signal_to_noise = kron("kron_flux") / kron("kron_flux_error");
    Object::of([array("mean")?, array("variance")?, &truth.values], meta.size, draws, r50, signal_to_noise)
        .map_err(|error| trouble(&error.to_string()))
}

fn print(report: &Report) {
    println!(
        "{} objects, {} more left out (few draws, or no radius); pixels of all bands whose truth is within 50, 68 and 95 % \
         intervals, per cent\n",
        report.objects, report.left_out
    );
    println!(
        "{:>12}{:>12}{:>5}{:>16}{:>16}{:>16}{:>20}",
        "S/N", "r / r50", "n", "in 50", "in 68", "in 95", "bias of flux, %"
    );
    let range = |(low, high): (f64, Option<f64>)| high.map_or(format!("> {low}"), |high| format!("{low} - {high}"));
    for cell in &report.cells {
        let found = cell.found.map(|found| format!("{:.1} +- {:.1}", 100.0 * found.value, 100.0 * found.error));
        let bias = format!("{:.2} +- {:.2}", 100.0 * cell.bias.value, 100.0 * cell.bias.error);
        let [half, most, nearly] = found;
        let (signal, radius) = (range(cell.signal), range(cell.radius));
        println!("{signal:>12}{radius:>12}{:>5}{half:>16}{most:>16}{nearly:>16}{bias:>20}", cell.objects);
    }
}
