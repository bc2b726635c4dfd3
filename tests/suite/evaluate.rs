//! The experiments of `unseeing evaluate` on small simulated surveys, through the real binary; and where a galaxy is in the
//! exported images.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use unseeing::io::fits::{NewImage, Pixels, write_images};
use unseeing::sky::wcs::TanWcs;

use crate::bad_objects::split;
use crate::common::{python, unseeing};

const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");

/// A finished survey: what `simulate` is told, and the steps of the sampler.
fn survey(folder: &Path, name: &str, options: &[&str], steps: u32) -> PathBuf {
    let survey = folder.join(name);
    let mut simulate = unseeing();
    simulate.args(["simulate", "--neighbours", "0", "--depth", "wide", "--prior", PRIOR]).args(options).arg(&survey);
    let made = simulate.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = survey.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("\nsteps = 28"));
    std::fs::write(&config, text.replace("\nsteps = 28", &format!("\nsteps = {steps}"))).unwrap();
    let run = unseeing().arg("run").arg(&config).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    survey
}

fn json(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Few draws of few steps: that all parts fit together is tested here, not how good the posterior is.
#[test]
fn evaluate_recovery_and_compare_read_a_survey_and_its_truths() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        ["--galaxies", "prior", "--objects", "3", "--samples", "4", "--redshift", "0.4,0.5", "--magnitude", "19,20"];
    let survey = survey(folder.path(), "survey", &options, 8);
    let (run, truth) = (survey.join("run"), survey.join("truth.hdf5"));
    let plot = folder.path().join("recovery.png");
    let report =
        json(unseeing().args(["evaluate", "recovery"]).arg(&run).arg("--truth").arg(&truth).arg("--plot").arg(&plot));
    assert_eq!(report["objects"], 3);
    let rows = report["rows"].as_array().unwrap();
    let flux = rows.iter().find(|row| row["quantity"] == "flux_1" && row["binned_by"] == "observed S/N").unwrap();
    assert_eq!((&flux["low"], &flux["high"], &flux["objects"]), (&200.0.into(), &Value::Null, &3.into()), "{flux}");
    // Bright galaxies: even a few steps give the flux to some per cent.
    assert!(flux["bias"]["value"].as_f64().unwrap().abs() < 0.05, "{flux}");
    assert!(std::fs::read(&plot).unwrap().starts_with(b"\x89PNG"));
    let none = unseeing().args(["evaluate", "recovery", "nowhere", "--truth"]).arg(&truth).output().unwrap();
    assert_eq!(none.status.code(), Some(2));
    // Truths that are not there are the caller's error, with each command that reads them.
    for command in [&["evaluate", "recovery"][..], &["evaluate", "compare"], &["evaluate", "coverage"], &["report"]] {
        let none = unseeing().args(command).arg(&run).args(["--truth", "nowhere.hdf5"]).output().unwrap();
        let error = String::from_utf8_lossy(&none.stderr);
        assert!(none.status.code() == Some(2) && error.contains("nowhere.hdf5"), "{command:?}: {error}");
    }

    // Every pixel of every band is in one ring of one bin.
    let map = folder.path().join("coverage.png");
    let covered =
        json(unseeing().args(["evaluate", "coverage"]).arg(&run).arg("--truth").arg(&truth).arg("--plot").arg(&map));
    let cells = covered["cells"].as_array().unwrap();
    let pixels: u64 = cells.iter().map(|cell| cell["pixels"].as_u64().unwrap()).sum();
    assert_eq!((covered["objects"].as_u64(), pixels), (Some(3), 3 * 3 * 64 * 64));
    assert_eq!(covered["left_out"], 0);
    assert!(cells.iter().all(|cell| cell["signal"][0] == 200.0 && cell["objects"] == 3), "{cells:?}");
    assert!(std::fs::read(&map).unwrap().starts_with(b"\x89PNG"));

    let all = json(
        unseeing().args(["evaluate", "compare"]).arg(&run).arg("--truth").arg(&truth).args(["--only", "sim-0001"]),
    );
    // The PSFs are found from one shard too, which says no more of where the config was; from a copy elsewhere they are not.
    let shard = run.join("shards/00000.h5");
    let compare = |file: &Path| {
        let mut command = unseeing();
        command.args(["evaluate", "compare"]).arg(file).arg("--truth").arg(&truth).args(["--only", "sim-0001"]);
        command.output().unwrap()
    };
    assert!(compare(&shard).status.success());
    let copy = folder.path().join("copy.h5");
    std::fs::copy(&shard, &copy).unwrap();
    let error = compare(&copy);
    let told = String::from_utf8_lossy(&error.stderr);
    assert!(error.status.code() == Some(2) && told.contains("give --psf"), "{told}");
    // A sharp image of one object's sky: the others are told of and left out.
    let catalogue = std::fs::read_to_string(survey.join("catalog.csv")).unwrap();
    let row: Vec<&str> = catalogue.lines().find(|line| line.starts_with("sim-0001")).unwrap().split(',').collect();
    let sharp = folder.path().join("sharp.fits");
    let spot: Vec<f32> = (0..400 * 400)
        .map(|index| (-((index % 400 - 200) as f32 / 8.0).powi(2) - ((index / 400 - 200) as f32 / 8.0).powi(2)).exp())
        .collect();
    let scale = 0.05 / 3600.0;
    let crval = [1, 2].map(|column: usize| row[column].parse().unwrap());
    let wcs = TanWcs { crval, crpix: [200.0; 2], cd: [[-scale, 0.0], [0.0, scale]] };
    let image =
        NewImage { name: "", shape: &[400, 400], pixels: Pixels::Floats(&spot), wcs: Some(wcs), keywords: Vec::new() };
    write_images(&sharp, &[image]).unwrap();
    let some =
        unseeing().args(["evaluate", "compare"]).arg(&run).arg("--sharp").arg(&sharp).arg("--json").output().unwrap();
    let told = String::from_utf8_lossy(&some.stderr);
    assert_eq!(some.status.code(), Some(3), "{told}");
    assert!(
        told.contains("sim-0001: compared") && told.matches("left out: the sharp image covers").count() == 2,
        "{told}"
    );
    let some: Value = serde_json::from_slice(&some.stdout).unwrap();
    assert_eq!((&some["left_out"][0]["id"], &some["left_out"][1]["id"]), (&"sim-0000".into(), &"sim-0002".into()));
    // What is drawn into the run's figures is in its report.
    std::fs::create_dir(run.join("figures")).unwrap();
    std::fs::copy(&plot, run.join("figures/recovery & co.png")).unwrap();
    let made = unseeing().args(["report", "--no-pictures"]).arg(&run).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = std::fs::read_to_string(run.join("report/index.html")).unwrap();
    assert!(page.contains("<h2>recovery &amp; co</h2><img alt=\"recovery &amp; co\" src=\"data:image/png;base64,"));
    let entries = all["objects"][0]["entries"].as_array().unwrap();
    let methods: Vec<_> = entries.iter().map(|entry| entry["method"].as_str().unwrap()).collect();
    assert_eq!(
        (all["objects"].as_array().unwrap().len(), methods),
        (1, vec!["posterior mean", "Richardson-Lucy", "Wiener"])
    );
    let summary = all["summary"].as_array().unwrap();
    let rivals: Vec<_> = summary.iter().map(|row| (row["rival"].as_str().unwrap(), row["objects"].as_u64())).collect();
    assert_eq!(rivals, [("Richardson-Lucy", Some(1)), ("Wiener", Some(1))]);
    let gain = entries[0]["score"]["psnr"].as_f64().unwrap() - entries[1]["best_psnr"].as_f64().unwrap();
    assert!((summary[0]["psnr_gain"]["value"].as_f64().unwrap() - gain).abs() < 1e-9, "{summary:?}");
    for entry in entries {
        assert!((entry["score"]["flux_ratio"].as_f64().unwrap() - 1.0).abs() < 0.1, "{entry}");
        assert!(entry["score"]["psnr"].as_f64().unwrap() > 20.0, "{entry}");
    }
}

/// Features: where they are, how often posteriors claim them, and that a survey is otherwise the same.
#[test]
fn evaluate_recovery_counts_claims_of_injected_features() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--galaxies", "prior", "--objects", "4", "--samples", "4", "--redshift", "0.15,0.16"];
    let options = [&options[..], &["--magnitude", "18,18", "--psf", "gaussian", "--psf-fwhm", "0.5"]].concat();
    let survey = survey(folder.path(), "survey", &[&options[..], &["--inject", "0.1"]].concat(), 8);
    let (run, truth) = (survey.join("run"), survey.join("truth.hdf5"));
    let report = json(unseeing().args(["evaluate", "recovery"]).arg(&run).arg("--truth").arg(&truth));
    let claims = report["features"]["claims"].as_array().unwrap();
    let of = |index: usize, name: &str| claims[index][name].as_f64().unwrap();
    assert_eq!(
        claims.iter().map(|claim| claim["added"].as_bool().unwrap()).collect::<Vec<_>>(),
        [true, false, true, false]
    );
    // A tenth of the light in two pixels, near and bright: the truth has it, beside what is its own there, and the posterior
    // has what the truth has.
    for index in 0..4 {
        assert!((of(index, "truth") > 0.5) == (index % 2 == 0), "{claims:?}");
        assert!((of(index, "mean") - of(index, "truth")).abs() < 0.1, "{claims:?}");
    }
    assert!(of(0, "claiming") + of(2, "claiming") > of(1, "claiming") + of(3, "claiming"), "{claims:?}");
    let rows = report["features"]["rows"].as_array().unwrap();
    let objects = |name: &str| rows[0][name]["objects"].as_u64().unwrap_or(0);
    assert_eq!(objects("found") + objects("false_claims"), 4, "{rows:?}");
    // Without injection, the galaxies that had none are the same.
    let plain = folder.path().join("plain");
    let mut simulate = unseeing();
    simulate.args(["simulate", "--neighbours", "0", "--depth", "wide", "--prior", PRIOR]).args(&options).arg(&plain);
    assert!(simulate.output().unwrap().status.success());
    let read = |survey: &Path, id: &str| std::fs::read(survey.join(format!("cutouts/{id}-r.fits"))).unwrap();
    assert_eq!(read(&survey, "sim-0001"), read(&plain, "sim-0001"));
    assert_ne!(read(&survey, "sim-0000"), read(&plain, "sim-0000"));
}

/// Fluxes of an object in nJy, from the magnitudes in the catalogue of a simulated survey.
fn truth_of(survey: &Path, id: &str) -> [f64; 3] {
    let text = std::fs::read_to_string(survey.join("catalog.csv")).unwrap();
    let row = text.lines().find(|line| line.starts_with(&format!("{id},"))).unwrap();
    let magnitudes: Vec<f64> = row.split(',').skip(4).map(|cell| cell.parse().unwrap()).collect();
    [0, 1, 2].map(|band| 10f64.powf(0.4 * (31.4 - magnitudes[band])))
}

/// A point keeps its flux and comes out smaller than the PSF.
#[test]
fn evaluate_recovery_of_points() {
    /// Few draws of few steps give the flux of a bright point to some per cent, and its size to some tens.
    const FLUX: f64 = 0.03;
    const SIZE: f64 = 0.5;
    /// What is off beyond the noise: PSFs are images cut at 3.6 arcsec.
    const CMODEL: f64 = 0.01;
    let folder = tempfile::tempdir().unwrap();
    let options =
        ["--galaxies", "point", "--objects", "3", "--samples", "4", "--redshift", "0.3,0.5", "--magnitude", "19,20"];
    let options = [&options[..], &["--psf", "gaussian", "--psf-fwhm", "1.5,1.1,0.7"]].concat();
    let survey = survey(folder.path(), "survey", &options, 16);
    let (run, truth) = (survey.join("run"), survey.join("truth.hdf5"));
    let report = json(unseeing().args(["evaluate", "recovery"]).arg(&run).arg("--truth").arg(&truth));
    let rows = report["rows"].as_array().unwrap();
    let of = |quantity: &str| rows.iter().find(|row| row["quantity"] == quantity && row["binned_by"] == "size / PSF");
    for (quantity, most) in [("flux_0", FLUX), ("flux_1", FLUX), ("flux_2", FLUX), ("r50", SIZE)] {
        let row = of(quantity).unwrap_or_else(|| panic!("no {quantity}: {report}"));
        // The lowest bin: what is measured is smaller than the PSF.
        assert_eq!((&row["low"], &row["objects"]), (&0.0.into(), &3.into()), "{row}");
        let bias = row["bias"]["value"].as_f64().unwrap();
        println!("{quantity}: {bias:.4}");
        assert!(bias.abs() < most, "{row}");
    }
    // The points have one magnitude in all bands. Through PSFs of different widths the circle takes different parts of them;
    // with PSFs matched, the same.
    let csv = folder.path().join("c.csv");
    let made = unseeing().arg("catalogue").arg(&run).arg("--out").arg(&csv).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(csv).unwrap();
    let mut lines = text.lines().map(split);
    let names = lines.next().unwrap();
    for row in lines {
        let number = |name: String| -> f64 { row[names.iter().position(|own| *own == name).unwrap()].parse().unwrap() };
        let of = |name: &str| ["g", "r", "i"].map(|band| number(format!("{name}_{band}")));
        let spread =
            |flux: [f64; 3]| flux.iter().fold(0.0, |a, b| b.max(a)) / flux.iter().fold(f64::MAX, |a, b| b.min(a)) - 1.0;
        let (fixed, matched) = (spread(of("aperture_flux")), spread(of("matched_flux")));
        println!("spread over bands {fixed:.4}, matched {matched:.4}");
        assert!(matched < 0.2 * fixed && matched < 0.01, "{fixed} {matched}");
        for name in ["matched_flux", "cmodel_flux"] {
            for (data, model) in of(name).into_iter().zip(of(&format!("{name}_model"))) {
                assert!((model / data - 1.0).abs() < FLUX, "{name}: {data} {model}");
            }
        }
        // cModel fluxes are total ones, whatever the PSF: those of the catalogue.
        let (flux, error) = (of("cmodel_flux"), of("cmodel_flux_error"));
        let truth = truth_of(&survey, &row[0]);
        println!("cModel {flux:.0?} +- {error:.0?}, truth {truth:.0?}");
        for band in 0..3 {
            let off = (flux[band] - truth[band]).abs();
            assert!(off < 5.0 * error[band] + CMODEL * truth[band], "{flux:?} {error:?} {truth:?}");
        }
    }
}

/// Where there is nothing, the result says so: a flag, and a flux that is no more than the noise of an aperture allows.
#[test]
fn evaluate_blank_sky_is_flagged() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--galaxies", "blank", "--objects", "2", "--samples", "4", "--redshift", "0.4,0.5"];
    let survey = survey(folder.path(), "survey", &options, 8);
    let (run, truth) = (survey.join("run"), survey.join("truth.hdf5"));
    let report = json(unseeing().args(["evaluate", "recovery"]).arg(&run).arg("--truth").arg(&truth));
    let blank = &report["blank"];
    assert_eq!((&blank["objects"], &blank["not_detected"]), (&2.into(), &1.0.into()), "{report}");
    assert!(blank["flux_over_kron_error"]["value"].as_f64().unwrap().abs() < 3.0, "{blank}");
    assert_eq!(report["rows"].as_array().unwrap().len(), 0, "there is no truth to compare with");
    let csv = folder.path().join("c.csv");
    let made = unseeing().arg("catalogue").arg(&run).arg("--out").arg(&csv).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(csv).unwrap();
    assert_eq!(text.lines().skip(1).filter(|line| line.contains("not_detected")).count(), 2, "{text}");
}

#[test]
fn evaluate_dominance_follows_the_magnitude() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("dominance.png");
    let kept = folder.path().join("kept");
    let dominance = |magnitudes: &str| {
        let mut command = unseeing();
        command.args(["evaluate", "dominance", "--draws", "6", "--steps", "8", "--block", "3", "--redshift", "0.4"]);
        json(command.args(["--magnitudes", magnitudes, "--prior", PRIOR, "--keep"]).arg(&kept).arg("--plot").arg(&plot))
    };
    let files = || -> Vec<(PathBuf, std::time::SystemTime)> {
        let entries = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap());
        let mut found: Vec<_> =
            entries.map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap())).collect();
        found.sort();
        found
    };
    dominance("19");
    let first = files();
    assert_eq!(first.len(), 2, "two blocks of three draws");
    // One of them is lost, as when the first run had been stopped before it: it comes back, the other is not drawn again.
    std::fs::remove_file(&first[1].0).unwrap();
    let report = dominance("19,24");
    let then = files();
    assert!(then.len() == 4 && then[0] == first[0] && then[1].0 == first[1].0 && then[1].1 > first[1].1, "{then:?}");
    assert_eq!(dominance("19,24"), report);
    assert_eq!(files(), then);
    let rows = report["rows"].as_array().unwrap();
    let number = |row: usize, name: &str| rows[row][name].as_f64().unwrap();
    // Five magnitudes are a factor of 100 in flux.
    let ratio = number(0, "matched_signal_to_noise") / number(1, "matched_signal_to_noise");
    assert!((ratio - 100.0).abs() < 0.1, "{ratio}");
    let stretched = |row: usize| rows[row]["stretched"]["value"].as_f64().unwrap();
    assert!(stretched(1) > 2.0 * stretched(0) && report["rises"] == true, "{report}");
    assert!(std::fs::read(&plot).unwrap().starts_with(b"\x89PNG"));
}

const CENTROID: &str = r#"
import sys, numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.coordinates import SkyCoord
f = fits.open(sys.argv[1])
image = f["MEAN"].data[1].astype(float)
y, x = np.mgrid[: image.shape[0], : image.shape[1]]
at = np.array(np.unravel_index(image.argmax(), image.shape))[::-1].astype(float)
near = (x - at[0]) ** 2 + (y - at[1]) ** 2 < 5**2
at = [(image * near * axis).sum() / (image * near).sum() for axis in (x, y)]
found = WCS(f["MEAN"].header, naxis=2).pixel_to_world(*at)
print(found.separation(SkyCoord(float(sys.argv[2]), float(sys.argv[3]), unit="deg")).arcsec)
"#;

/// A point source ends where the catalogue says, to 0.05 arcsec.
#[test]
fn exported_galaxies_are_where_the_sky_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        ["--galaxies", "point", "--objects", "1", "--samples", "4", "--redshift", "0.4,0.4", "--magnitude", "19,19"];
    let survey = survey(folder.path(), "survey", &options, 16);
    let out = folder.path().join("fits");
    let exported = unseeing().arg("export").arg(survey.join("run")).arg("--out").arg(&out).output().unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let catalog = std::fs::read_to_string(survey.join("catalog.csv")).unwrap();
    let row: Vec<&str> = catalog.lines().last().unwrap().split(',').collect();
    let Some(python) = python("astropy") else { return };
    let image = out.join("sim-0000.fits");
    let output = Command::new(python).args(["-c", CENTROID]).arg(image).args([row[1], row[2]]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let away: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    println!("{away:.4} arcsec away");
    assert!(away < 0.05, "{away} arcsec from its place in the catalogue");
}
