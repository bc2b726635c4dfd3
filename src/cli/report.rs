//! `unseeing report`: draws pictures and tables of a survey.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::DONE;
use crate::evaluate::truths::Truths;
use crate::io::publish::publish_path;
use crate::product::export::Names;
use crate::product::run::{Product, missing, products};
use crate::product::{ObjectRecord, Shard, Status};
use crate::report::page;
use crate::report::table::{self, Line};
use crate::report::{object_picture, survey_stretch};
use crate::{Error, Result};

/// Arguments of `unseeing report`.
#[derive(ClapArgs)]
pub struct Args {
    /// The run folder, or one product file
    #[arg(required_unless_present = "schema")]
    run: Option<PathBuf>,
    /// Where pictures and tables go; the default is `report` in the run folder
    #[arg(long)]
    out: Option<PathBuf>,
    /// An HDF5 file with the truth: `id`, and `flux` [object, band, pixel, pixel] in nJy per product pixel
    #[arg(long)]
    truth: Option<PathBuf>,
    /// Only these objects
    #[arg(long, value_name = "ID", num_args = 1..)]
    only: Vec<String>,
    /// The tables alone, without pictures
    #[arg(long)]
    no_pictures: bool,
    /// Prints the table as JSON
    #[arg(long)]
    json: bool,
    /// Prints the schema of the product files as a table and does nothing else
    #[arg(long)]
    schema: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    if args.schema {
        print!("{}", crate::product::schema::markdown());
        return Ok(DONE);
    }
    let Some(place) = &args.run else {
        return Err(Error::usage("which run? Give a run folder or a product file"));
    };
    let products = products(place)?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None if place.is_dir() => place.join("report"),
        None => return Err(Error::usage("where to? Give a folder with `--out`")),
    };
    std::fs::create_dir_all(&out).map_err(|error| Error::file(&out, format!("cannot create the folder: {error}")))?;
    let truths = args.truth.as_deref().map(Truths::open).transpose()?;
    let stretch = if args.no_pictures { None } else { survey_stretch(sky_noise(&products)?) };
    let mut wanted: HashSet<&str> = args.only.iter().map(String::as_str).collect();
    let (mut lines, mut names) = (Vec::new(), Names::default());
    for product in &products {
        product.read(|shard| {
            for (index, record) in shard.all_numbers().enumerate() {
                let mut record = record?;
                if !args.only.is_empty() && !wanted.remove(record.id.as_str()) {
                    continue;
                }
                let mut picture = None;
                if record.status == Status::Done && !args.no_pictures {
                    record = shard.record(index)?;
                    let id = &record.id;
                    // On the products' grid: where the catalogue's redshift is not the true one, the truth's own is another.
                    let pitch = record.scalar("pixel_scale").unwrap_or(f64::NAN);
                    let truth = |truths: &Truths| truths.at_pitch(id, shard.meta.pixel_kpc, pitch);
                    let truth = truths.as_ref().map(truth).transpose()?.flatten();
                    let name = names.name(id, "png");
                    object_picture(&record, &shard.meta.bands, truth.as_ref(), stretch)?.save(&out.join(&name))?;
                    picture = Some(name);
                }
                lines.push(line(&record, shard, product.seconds_per_object, picture));
            }
            Ok(())
        })?;
    }
    if !wanted.is_empty() {
        let mut missing: Vec<_> = wanted.into_iter().collect();
        missing.sort_unstable();
        return Err(Error::usage(format!("{}: no such objects: {}", place.display(), missing.join(", "))));
    }
    let json = crate::cli::to_json(&lines)?;
    write(&out.join("table.csv"), &table::csv(&lines))?;
    write(&out.join("table.json"), &json)?;
    let missing = missing(place)?.map(|missing| missing.to_string());
    // Few pictures go into the page; many stay beside it, and are loaded as they are looked at.
    let embed = lines.len() <= page::EMBEDDED;
    let picture = |line: &Line| std::fs::read(out.join(line.picture.as_ref().filter(|_| embed)?)).ok();
    let figures = figures(place)?;
    let html = page::html(&place.display().to_string(), &lines, missing.as_deref(), &figures, &picture)?;
    write(&out.join("index.html"), &html)?;
    if args.json {
        println!("{json}");
    } else {
        print!("{}", table::text(&lines));
        let failed = lines.iter().filter(|line| line.status == "failed").count();
        println!("\n{} objects, {failed} failed; pictures and tables are in {}", lines.len(), out.display());
        if let Some(missing) = missing {
            println!("{missing}");
        }
    }
    Ok(DONE)
}

/// The sky noise of all objects in the middle band, nJy per square arcsec.
fn sky_noise(products: &[Product]) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for product in products {
        let shard = product.open()?;
        for record in shard.all_numbers() {
            let record = record.map_err(|error| product.with_way_out(error))?;
            let noise = record.vector("noise_sd").get(shard.meta.bands.len() / 2).copied();
            all.extend(
                noise.zip(record.scalar("observation_pixel_scale")).map(|(noise, pitch)| noise / (pitch * pitch)),
            );
        }
    }
    Ok(all)
}

/// The pictures in the run folder's `figures`, by name: what `evaluate` drew of the run is put there with `--plot`.
fn figures(place: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = place.join("figures");
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("png")));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).map_err(|error| Error::file(&path, format!("cannot read: {error}")))?;
        Ok((name, bytes))
    };
    paths.into_iter().map(read).collect()
}

fn line(record: &ObjectRecord, shard: &Shard, seconds: Option<f64>, picture: Option<String>) -> Line {
    Line::of(record, shard.meta.bands.len() / 2, seconds, picture)
}

fn write(path: &Path, text: &str) -> Result<()> {
    publish_path(path, |temporary| std::fs::write(temporary, text).map_err(|error| Error::file(path, error)))
}
