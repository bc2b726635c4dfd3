//! `unseeing evaluate compare`: posteriors against sharp images or simulated truths, beside Richardson-Lucy and Wiener.

use std::path::{Component, Path, PathBuf};

use clap::{ArgGroup, Args as ClapArgs};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{DONE, SOME_FAILED, to_json};
use crate::evaluate::compare::reference::{Matched, matched};
use crate::evaluate::compare::summary::{self, Row};
use crate::evaluate::compare::{Entry, Observed, Scoring, compare};
use crate::evaluate::truths::Truths;
use crate::forward::Psf;
use crate::io::fits::{Fits, read_image};
use crate::product::run::products;
use crate::product::{ObjectRecord, RecordArray, ShardMeta, Status};
use crate::report::compare_picture;
use crate::{Error, Result};

/// The softening of the stretch is the surface brightness of this many standard deviations of a detector pixel's noise.
const SOFTENING: f64 = 3.0;

/// Arguments of `unseeing evaluate compare`.
#[derive(ClapArgs)]
#[command(group = ArgGroup::new("reference").required(true).args(["sharp", "truth"]))]
pub struct Args {
    /// The run folder, or one product file
    run: PathBuf,
    /// Objects to compare; all when none is given
    #[arg(long, value_name = "ID", num_args = 1..)]
    only: Vec<String>,
    /// A sharp image of the same sky (FITS, with a WCS); position and flux are matched
    #[arg(long, value_name = "FILE")]
    sharp: Option<PathBuf>,
    /// Resolution of the sharp image, FWHM in arcsec (HST ACS F814W: 0.09): all methods are blurred by as much
    #[arg(long, default_value_t = 0.09)]
    sharp_fwhm: f64,
    /// Truths of a simulated survey
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// The band to compare in; the last one when not given
    #[arg(long)]
    band: Option<String>,
    /// The observation's PSF in that band; else the config's pattern is used, if it has no placeholders but {id} and {band}
    #[arg(long, value_name = "FILE")]
    psf: Option<PathBuf>,
    /// Radius about the target within which images are compared, arcsec; else 0.6 of the field's half-width
    #[arg(long)]
    radius: Option<f64>,
    /// Draws the images of the first object
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,
    /// Answers in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    objects: Vec<Compared>,
    /// The posterior mean against its rivals, by observed S/N.
    summary: Vec<Row>,
    /// What cannot be compared, and why.
    left_out: Vec<LeftOut>,
}

#[derive(Serialize)]
struct LeftOut {
    id: String,
    reason: String,
}

#[derive(Serialize)]
struct Compared {
    id: String,
    band: String,
    /// Kron flux of the observation over its error.
    signal_to_noise: f64,
    radius_arcsec: f64,
    matched: Option<Matched>,
    entries: Vec<Entry>,
    #[serde(skip)]
    reference: Vec<f64>,
    #[serde(skip)]
    size: usize,
}

/// Runs the command and returns the exit code.
pub fn run(args: &Args) -> Result<i32> {
    if let Some(path) = [&args.sharp, &args.psf].into_iter().flatten().find(|path| !path.is_file()) {
        return Err(Error::usage(format!("{}: there is no such file", path.display())));
    }
    let truths = args.truth.as_deref().map(Truths::open).transpose()?;
    let (mut all, mut left_out) = (Vec::new(), Vec::new());
    for product in products(&args.run)? {
        product.read(|shard| {
            for (index, id) in shard.ids().iter().enumerate() {
                if !args.only.is_empty() && !args.only.contains(id) {
                    continue;
                }
                let record = shard.record(index)?;
                if record.status != Status::Done {
                    continue;
                }
                match one(args, &record, &shard.meta, truths.as_ref()) {
                    Ok(compared) => {
                        all.push(compared);
                        eprintln!("{id}: compared");
                    }
                    Err(Error::Object { what, .. }) => {
                        eprintln!("{id}: left out: {what}");
                        left_out.push(LeftOut { id: id.clone(), reason: what });
                    }
                    Err(other) => return Err(other),
                }
            }
            Ok(())
        })?;
    }
    let Some(first) = all.first() else {
        return Err(Error::usage(format!("{}: no finished object that can be compared", args.run.display())));
    };
    if let Some(path) = &args.plot {
        // One draw is enough to see what a draw is.
        let shown = |entry: &&Entry| !entry.method.starts_with("draw") || entry.method == "draw 1";
        let images = first.entries.iter().filter(shown);
        let mut panels = vec![("reference", first.reference.as_slice())];
        panels.extend(images.map(|entry| (entry.method.as_str(), entry.image.as_slice())));
        compare_picture(&panels, first.size)?.save(path)?;
    }
    let pairs: Vec<_> = all.iter().map(|object| (object.signal_to_noise, object.entries.as_slice())).collect();
    let summary = summary::rows(&pairs);
    let report = Report { objects: all, summary, left_out };
    if args.json {
        println!("{}", to_json(&report)?);
    } else {
        print(&report);
    }
    Ok(if report.left_out.is_empty() { DONE } else { SOME_FAILED })
}

fn one(args: &Args, record: &ObjectRecord, meta: &ShardMeta, truths: Option<&Truths>) -> Result<Compared> {
    let bands = &meta.bands;
    let name = args.band.as_ref().or(bands.last()).cloned().unwrap_or_default();
    let Some(band) = bands.iter().position(|known| *known == name) else {
        return Err(Error::usage(format!("--band {name}: the products have {}", bands.join(", "))));
    };
    let pitch = record.scalar("observation_pixel_scale").unwrap_or(f64::NAN);
    let observed = Observed::of(record, band, psf(args, record, meta, &name, pitch)?)?;
    let size = meta.size;
    let area = size * size;
    let plane = |values: &[f32], index: usize| -> Vec<f64> {
        values[index * area..(index + 1) * area].iter().map(|&value| f64::from(value)).collect()
    };
    let mean = plane(record.array("mean").map_or(&[][..], |array| &array.values), band);
    let draws: Vec<Vec<f64>> = record.array("draws").map_or(Vec::new(), |array| {
        (0..array.shape[0]).map(|draw| plane(&array.values, draw * bands.len() + band)).collect()
    });
    let scale = observed.field.prior_pitch;
    let (reference, found, blur) = match (truths, &args.sharp) {
        (Some(truths), _) => {
            let missing = || Error::object(&record.id, "there is no truth of it");
            let truth = truths.at_pitch(&record.id, meta.pixel_kpc, scale)?.ok_or_else(missing)?;
            if truth.shape[1..] != [size, size] {
                let what = format!("its truth has shape {:?}, its products {size} pixels a side", truth.shape);
                return Err(Error::object(&record.id, what));
            }
            (plane(&truth.values, band), None, 0.0)
        }
        (None, Some(path)) => {
            let mut fits = Fits::open(path)?;
            let number = fits.first_image()?.number;
            let wcs = fits.header(number).wcs()?;
            let image = read_image(path)?;
            let image = RecordArray { shape: image.shape.to_vec(), values: image.values };
            let to = record.wcs("wcs").ok_or_else(|| Error::object(&record.id, "its products have no WCS"))?;
            let (reference, found) = matched(&image, &wcs, &to, &observed).map_err(|error| match error {
                Error::Usage(what) => Error::object(&record.id, what),
                other => other,
            })?;
            (reference, Some(found), args.sharp_fwhm / 2.3548 / scale)
        }
        (None, None) => return Err(Error::usage("compare with what? Give --sharp or --truth")),
    };
    let half = 0.5 * size as f64 * scale;
    let radius = args.radius.unwrap_or(0.6 * half).min(half);
    let softening = SOFTENING * observed.noise * (scale / pitch).powi(2);
    let scoring = Scoring { size, radius: radius / scale, softening };
    let smooth = |image: &[f64]| blurred(image, size, blur);
    let entries = compare(&observed, &mean, &draws, &reference, &scoring, &smooth)?;
    let kron = |name: &str| record.vector(name).get(band).copied().unwrap_or(f64::NAN);
    Ok(Compared {
        id: record.id.clone(),
        band: name,
        signal_to_noise: kron("kron_flux") / kron("kron_flux_error"),
        radius_arcsec: radius,
        matched: found,
        entries,
        reference,
        size,
    })
}

/// The PSF of an object: the file that was named, or that of the config's pattern.
fn psf(args: &Args, record: &ObjectRecord, meta: &ShardMeta, band: &str, pitch: f64) -> Result<Psf> {
    let config: Value = serde_json::from_str(&meta.config).unwrap_or_default();
    let path = match &args.psf {
        Some(path) => path.clone(),
        None => {
            let pattern = config["data"]["psf"].as_str().unwrap_or_default();
            let path = pattern.replace("{id}", &record.id).replace("{band}", band);
            if path.is_empty() || path.contains('{') || record.id.contains(['/', '\\']) {
                return Err(Error::usage(format!("the pattern `{pattern}` does not tell the PSF's file: give --psf")));
            }
            let relative = Path::new(&path).is_relative();
            config_folder(&args.run, &config).filter(|_| relative).unwrap_or_default().join(path)
        }
    };
    if !path.is_file() {
        let what = "there is no such file: give --psf, or call from the folder of the survey's config";
        return Err(Error::usage(format!("{}: {what}", path.display())));
    }
    let image = read_image(Path::new(&path))?;
    let values: Vec<f64> = image.values.iter().map(|&value| f64::from(value)).collect();
    let includes_pixel = config["data"]["psf_includes_pixel"].as_bool().unwrap_or(true);
    Psf::new(&values, image.shape[0], image.shape[1], pitch, includes_pixel).map_err(|error| Error::file(&path, error))
}

/// The folder that the config's paths are relative to, if that of the run tells: it is as many folders up as `survey.folder`
/// has, and a product file lies in the run folder's `shards`.
fn config_folder(run: &Path, config: &Value) -> Option<PathBuf> {
    let inside: PathBuf = Path::new(config["survey"]["folder"].as_str()?)
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    let run = run.canonicalize().ok()?;
    let folder = if run.is_dir() { run.as_path() } else { run.parent()?.parent()? };
    let up = inside.components().count();
    let known = inside.is_relative() && inside.components().all(|part| matches!(part, Component::Normal(_)));
    folder.ancestors().nth(up).filter(|_| known && folder.ends_with(&inside)).map(Path::to_path_buf)
}

/// Convolution with a Gaussian of `sigma` pixels; nothing outside of the field.
fn blurred(image: &[f64], size: usize, sigma: f64) -> Vec<f64> {
    if sigma <= 0.0 {
        return image.to_vec();
    }
    let reach = (4.0 * sigma).ceil() as i64;
    let kernel: Vec<f64> = (-reach..=reach).map(|d| (-0.5 * (d as f64 / sigma).powi(2)).exp()).collect();
    let sum: f64 = kernel.iter().sum();
    let pass = |values: &[f64], step: i64, place: fn(usize, usize) -> i64| -> Vec<f64> {
        (0..size * size)
            .map(|index| {
                let along = place(index, size);
                let near = (-reach..=reach).filter(|d| (0..size as i64).contains(&(along + d)));
                near.map(|d| kernel[(d + reach) as usize] * values[(index as i64 + d * step) as usize]).sum::<f64>()
                    / sum
            })
            .collect()
    };
    let rows = pass(image, 1, |index, size| (index % size) as i64);
    pass(&rows, size as i64, |index, size| (index / size) as i64)
}

fn print(report: &Report) {
    let all = &report.objects;
    println!(
        "Richardson-Lucy: the best of 1 to 200 iterations, Wiener: the best strength, both chosen with the reference"
    );
    for object in all {
        println!(
            "\n{} in {}, S/N {:.0}, within {:.2} arcsec",
            object.id, object.band, object.signal_to_noise, object.radius_arcsec
        );
        if let Some(Matched { shift_arcsec: [x, y], flux_factor, sky, reduced_chi2 }) = object.matched {
            println!(
                "  sharp image: shift {x:.3}, {y:.3} arcsec, flux factor {flux_factor:.4}, sky {sky:.3} nJy, reduced chi^2 {reduced_chi2:.2}"
            );
        }
        println!(
            "  {:<18}{:>10}{:>16}{:>8}{:>12}{:>10}",
            "method", "PSNR", "PSNR stretched", "SSIM", "flux ratio", "chosen"
        );
        for entry in &object.entries {
            let chosen = entry.chosen.map_or(String::new(), |chosen| format!("{chosen:.3e}"));
            let score = entry.score;
            println!(
                "  {:<18}{:>10.2}{:>16.2}{:>8.4}{:>12.4}{:>10}",
                entry.method, score.psnr, score.psnr_stretched, score.ssim, score.flux_ratio, chosen
            );
        }
    }
    if all.len() < 2 {
        return;
    }
    println!(
        "\nposterior mean against a rival, which has in each number the setting that is best for that object and number"
    );
    println!(
        "{:<18}{:>12}{:>9}{:>12}{:>18}{:>12}{:>20}",
        "rival", "S/N", "objects", "PSNR wins", "gain, dB", "SSIM wins", "gain"
    );
    for row in &report.summary {
        let Row { rival, low, high, objects, psnr_wins, ssim_wins, psnr_gain, ssim_gain } = row;
        let bin = high.map_or(format!("> {low}"), |high| format!("{low} - {high}"));
        println!(
            "{rival:<18}{bin:>12}{objects:>9}{psnr_wins:>12}{:>10.2} +- {:<4.2}{ssim_wins:>12}{:>11.3} +- {:<5.3}",
            psnr_gain.value, psnr_gain.error, ssim_gain.value, ssim_gain.error
        );
    }
}
