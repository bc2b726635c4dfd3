//! Redshifts that are drawn from their errors, with the real engine and the shipped prior, on simulated surveys.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unseeing::product::read::Shard;
use unseeing::sky::cosmology::angular_diameter_distance;

use crate::common::{Run, kill, mpirun, unseeing};

const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");

/// A simulated survey, whose runs differ by edits of its config.
struct Survey {
    folder: tempfile::TempDir,
    text: String,
}

impl Survey {
    fn new(options: &[&str]) -> Survey {
        let folder = tempfile::tempdir().unwrap();
        let simulate = ["simulate", "--depth", "wide", "--neighbours", "0", "--prior", PRIOR];
        let out = folder.path().join("survey");
        let made = unseeing().args(simulate).args(options).arg("--out").arg(&out).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = std::fs::read_to_string(out.join("config.toml")).unwrap();
        assert!(text.contains("[photo_z]\nmode = \"propagated\"\n"), "{text}");
        Survey { folder, text }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("survey").join(name)
    }

    /// A config that runs in the folder `name`.
    fn config(&self, name: &str, edits: &[(&str, &str)]) -> PathBuf {
        let mut text = self.text.clone();
        let folder = format!("folder = \"{name}\"");
        for (from, to) in edits.iter().chain(&[("folder = \"run\"", folder.as_str())]) {
            assert!(text.contains(from), "the config has no {from}");
            text = text.replace(from, to);
        }
        let path = self.path(&format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs alone to the end.
    fn run(&self, name: &str, edits: &[(&str, &str)]) -> i32 {
        let run = unseeing().arg("run").arg(self.config(name, edits)).output().unwrap();
        run.status.code().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&run.stderr)))
    }

    fn start(&self, ranks: usize, config: &Path) -> Run {
        let mut command = mpirun(ranks);
        command.arg("run").arg(config);
        Run::start(command, self.path("log"))
    }

    fn receipt(&self, name: &str) -> Value {
        let receipt = std::fs::read_to_string(self.path(name).join("receipts/00000.json")).unwrap();
        serde_json::from_str(&receipt).unwrap()
    }

    fn content(&self, name: &str) -> String {
        let receipt = self.receipt(name);
        assert_eq!(receipt["failed"], 0, "{receipt}");
        receipt["content_blake3"].as_str().unwrap().to_string()
    }

    /// A per-sample quantity of the first object.
    fn samples(&self, name: &str, quantity: &str) -> Vec<f64> {
        let shard = Shard::open(&self.path(name).join("shards/00000.h5")).unwrap();
        let record = shard.record(0).unwrap();
        record.sample(quantity).unwrap().iter().map(|&value| f64::from(value)).collect()
    }
}

const SHORT: [(&str, &str); 3] = [
    ("block = 16", "block = 2"),
    ("\nsteps = 28", "\nsteps = 6"),
    ("journal_interval = 60.0", "journal_interval = 1.0"),
];

#[test]
fn mpi_propagated_redshifts_give_the_same_bytes_on_any_ranks_and_after_a_kill() {
    let survey = Survey::new(&["--objects", "2", "--samples", "6", "--redshift-error", "0.03"]);
    let mut digests = Vec::new();
    for ranks in [1, 2, 3] {
        let name = format!("ranks-{ranks}");
        let run = mpirun(ranks).arg("run").arg(survey.config(&name, &SHORT)).output().unwrap();
        assert!(run.status.success(), "{ranks} ranks: {}", String::from_utf8_lossy(&run.stderr));
        assert_eq!(survey.receipt(&name)["ranks"], ranks, "the ranks did not find each other");
        digests.push(survey.content(&name));
    }
    let killed = survey.config("killed", &SHORT);
    let mut run = survey.start(2, &killed);
    let journaled = || {
        let Ok(journals) = std::fs::read_dir(survey.path("killed/journals")) else { return 0 };
        journals.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum::<u64>()
    };
    run.until("work in the journal", || journaled() > 10_000);
    kill(run.ranks()[1], libc::SIGKILL);
    assert_ne!(run.code(), 0);
    assert!(!survey.path("killed/receipts/00000.json").exists(), "the run was done before its rank was killed");
    assert_eq!(survey.start(3, &killed).code(), 0);
    digests.push(survey.content("killed"));
    digests.dedup();
    assert_eq!(digests.len(), 1, "different content: {digests:?}");
    let shard = Shard::open(&survey.path("killed/shards/00000.h5")).unwrap();
    assert!(shard.meta.photo_z.contains("cut posterior"), "{}", shard.meta.photo_z);
}

/// An error of zero is an exact redshift: the product is, to the bit, that of the mode `point`.
#[test]
fn redshifts_without_an_error_are_points() {
    let survey = Survey::new(&["--objects", "2", "--samples", "4", "--redshift-error", "0"]);
    let point = [("mode = \"propagated\"", "mode = \"point\"")];
    assert_eq!(survey.run("point", &[&SHORT[..], &point].concat()), 0);
    assert_eq!(survey.run("exact", &SHORT), 0);
    assert_eq!(survey.content("exact"), survey.content("point"));
    // With errors it is another product.
    let catalog = std::fs::read_to_string(survey.path("catalog.csv")).unwrap();
    std::fs::write(survey.path("some.csv"), catalog.replace(",0,", ",0.02,")).unwrap();
    assert_eq!(survey.run("some", &[&SHORT[..], &[("catalog.csv", "some.csv")]].concat()), 0);
    assert_ne!(survey.content("some"), survey.content("exact"));
}

/// Quantiles of the redshift, as tables of photometric redshifts have them, are drawn from; those that do not rise, or do not allow the
/// object's own redshift, fail alone.
#[test]
fn quantiles_of_redshifts_are_drawn_from() {
    let survey =
        Survey::new(&["--objects", "3", "--samples", "24", "--redshift-error", "0.02", "--redshift", "0.31,0.31"]);
    let catalog = std::fs::read_to_string(survey.path("catalog.csv")).unwrap();
    let rows: Vec<String> = catalog
        .lines()
        .map(|line| match line.split(',').next() {
            Some("object_id") => format!("{line},z16,z50,z84"),
            Some("sim-0000") => format!("{line},0.3,0.305,0.35"),
            Some("sim-0001") => format!("{line},0.3,0.2,0.35"),
            Some("sim-0002") => format!("{line},0.9,0.91,0.92"),
            _ => line.to_string(),
        })
        .collect();
    std::fs::write(survey.path("quantiles.csv"), rows.join("\n")).unwrap();
    let columns = "[catalog.columns]\nredshift_quantiles = [[0.16, \"z16\"], [0.5, \"z50\"], [0.84, \"z84\"]]\n";
    let edits = [("catalog.csv", "quantiles.csv"), ("[catalog.columns]\n", columns), ("block = 16", "block = 12")];
    assert_eq!(survey.run("quantiles", &[&SHORT[1..], &edits].concat()), 3);
    let redshifts = survey.samples("quantiles", "redshift");
    let above = redshifts.iter().filter(|&&z| z > 0.305).count();
    // A skewed distribution: half of it above 0.305, reaching far up, and nothing far below.
    assert!((5..=19).contains(&above) && redshifts.iter().all(|&z| z > 0.285), "{redshifts:?}");
    assert!(redshifts.iter().any(|&z| z > 0.33), "{redshifts:?}");
    let shard = Shard::open(&survey.path("quantiles/shards/00000.h5")).unwrap();
    let reason = shard.record(1).unwrap().reason;
    assert!(reason.starts_with("quantiles.csv, line 4: the quantiles of the redshift are 0.3, 0.2, 0.35;"), "{reason}");
    let reason = shard.record(2).unwrap().reason;
    assert!(
        reason.contains("off its quantiles [0.9, 0.91, 0.92]: are the columns of catalog.columns those"),
        "{reason}"
    );
}

#[test]
fn objects_without_a_usable_redshift_error_fail_alone() {
    let survey = Survey::new(&["--objects", "3", "--samples", "2", "--redshift-error", "0.02"]);
    let catalog = std::fs::read_to_string(survey.path("catalog.csv")).unwrap();
    let rows: Vec<String> = catalog
        .lines()
        .map(|line| match line.split(',').next() {
            Some("sim-0000") => line.replace(",0.02,", ",,"),
            Some("sim-0002") => line.replace(",0.02,", ",-0.02,"),
            _ => line.to_string(),
        })
        .collect();
    std::fs::write(survey.path("holes.csv"), rows.join("\n")).unwrap();
    assert_eq!(survey.run("holes", &[&SHORT[..], &[("catalog.csv", "holes.csv")]].concat()), 3);
    let shard = Shard::open(&survey.path("holes/shards/00000.h5")).unwrap();
    let reasons: Vec<String> = (0..3).map(|index| shard.record(index).unwrap().reason).collect();
    // A comment and the header come first.
    assert!(reasons[0].starts_with("holes.csv, line 3, column `redshift_err`: "), "{reasons:?}");
    assert!(reasons[0].contains("is missing") && reasons[2].contains("line 5") && reasons[2].contains("negative"));
    assert_eq!(reasons[1], "");
}

fn sd(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// What the data tell of a bright galaxy is its angular size. With a redshift that is known to 0.03 its size in kpc is as
/// uncertain as its distance is; the images on the sky are hardly more uncertain than before.
#[test]
fn sizes_in_kpc_are_as_uncertain_as_the_distance() {
    let options = ["--objects", "1", "--samples", "24", "--redshift-error", "0.03", "--seed", "5"];
    let survey = Survey::new(&[&options[..], &["--redshift", "0.3,0.3", "--magnitude", "19,19"]].concat());
    let steps = ("\nsteps = 28", "\nsteps = 16");
    assert_eq!(survey.run("propagated", &[steps, ("block = 16", "block = 12")]), 0);
    assert_eq!(survey.run("point", &[steps, ("mode = \"propagated\"", "mode = \"point\"")]), 0);
    assert_eq!(survey.run("blocks", &[("\nsteps = 28", "\nsteps = 2"), ("block = 16", "block = 5")]), 0);
    let redshifts = survey.samples("propagated", "redshift");
    // A sample's redshift is its own, whatever the blocks.
    assert_eq!(redshifts, survey.samples("blocks", "redshift"));
    assert!((0.018..0.045).contains(&sd(&redshifts)), "{redshifts:?}");
    assert_eq!(sd(&survey.samples("point", "redshift")), 0.0);

    let ln_distance: Vec<f64> = redshifts.iter().map(|&z| angular_diameter_distance(z).unwrap().ln()).collect();
    let ln_sizes = |name: &str| survey.samples(name, "r50").iter().map(|r50| r50.ln()).collect::<Vec<f64>>();
    let (kpc, point) = (sd(&ln_sizes("propagated")), sd(&ln_sizes("point")));
    let angles: Vec<f64> =
        ln_sizes("propagated").iter().zip(&ln_distance).map(|(size, distance)| size - distance).collect();
    let (arcsec, distance) = (sd(&angles), sd(&ln_distance));
    println!("sd of ln r50: {kpc} in kpc, {arcsec} in arcsec, {point} at one redshift; of ln D_A {distance}");
    assert!(point < 0.5 * distance && arcsec < 0.5 * distance, "{point} {arcsec} {distance}");
    // A quarter: the rest of the posterior, and 24 draws.
    assert!((kpc / distance - 1.0).abs() < 0.25, "{kpc} {distance}");

    // Fluxes are of the data: moments of the images on the sky have the flux that the draws have.
    let record = |name: &str| Shard::open(&survey.path(name).join("shards/00000.h5")).unwrap().record(0).unwrap();
    let (own, other) = (record("propagated"), record("point"));
    assert_eq!(own.scalar("pixel_scale"), other.scalar("pixel_scale"));
    let image = own.array("mean").unwrap();
    let area = image.shape[1] * image.shape[2];
    for (band, plane) in image.values.chunks(area).enumerate() {
        let total: f64 = plane.iter().map(|&flux| f64::from(flux)).sum();
        let flux = survey.samples("propagated", &format!("flux_{band}"));
        let mean = flux.iter().sum::<f64>() / flux.len() as f64;
        // What lies in the corners of larger fields is cut off, and the product is rounded to 1/64 of a pixel's deviation.
        assert!((total / mean - 1.0).abs() < 0.02, "band {band}: {total} {mean}");
    }
    let variance = |record: &unseeing::product::ObjectRecord| {
        record.array("variance").unwrap().values.iter().map(|&v| f64::from(v)).sum::<f64>()
    };
    // Of 24 draws each, and with what resampling blurs: not twice as much, nor half.
    let ratio = variance(&own) / variance(&other);
    assert!((0.5..2.0).contains(&ratio), "variance on the sky: {ratio} times that at one redshift");
}
