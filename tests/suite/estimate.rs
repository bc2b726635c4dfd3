//! What `plan` says a survey will take, against what a small one took.

use std::path::Path;

use serde_json::Value;

use crate::common::unseeing;

const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");
/// Bytes "at most" are before compression, which halves or thirds images of noise rounded to 1/64 of it; beyond this the
/// estimate would be of no use.
const LOOSENESS: f64 = 5.0;
/// A second survey of the same kind: other galaxies compress otherwise.
const LIKENESS: f64 = 0.2;

fn plan(options: &[&str], config: &Path) -> Value {
    let output = unseeing().arg("plan").args(options).arg("--json").arg(config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Bytes of the files in a folder, and files and folders below it, itself not counted.
fn below(folder: &Path) -> (u64, u64) {
    let (mut bytes, mut count) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (inner, more) = if entry.path().is_dir() { below(&entry.path()) } else { (0, 0) };
        let own = if entry.path().is_file() { entry.metadata().unwrap().len() } else { 0 };
        (bytes, count) = (bytes + own + inner, count + 1 + more);
    }
    (bytes, count)
}

#[test]
fn estimates_hold_what_a_small_survey_took() {
    let folder = tempfile::tempdir().unwrap();
    let survey = folder.path().join("survey");
    let options = ["simulate", "--objects", "6", "--depth", "wide", "--samples", "4", "--prior", PRIOR, "--out"];
    let made = unseeing().args(options).arg(&survey).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = survey.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("block = 16", "block = 4").replace("\nsteps = 28", "\nsteps = 3");
    std::fs::write(&config, text.replace("shard_objects = 6", "shard_objects = 2")).unwrap();

    let planned = plan(&[], &config);
    let estimate = &planned["estimate"];
    assert_eq!((&estimate["shards"], &estimate["gpu_hours"]), (&3.into(), &Value::Null), "{planned}");
    let packed = unseeing().arg("pack").arg(&config).status().unwrap();
    assert!(packed.success());
    let ran = unseeing().arg("run").arg(&config).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let run = survey.join("run");
    let number = |estimate: &Value, key: &str| estimate[key].as_u64().unwrap_or_else(|| panic!("{key}: {estimate}"));
    let products = below(&run.join("shards")).0;
    let written = [
        ("product_bytes", products),
        ("bundle_bytes", below(&run.join("inputs")).0),
        ("input_bytes", below(&survey.join("cutouts")).0 + below(&survey.join("psfs")).0),
    ];
    for (key, written) in written {
        let ratio = number(estimate, key) as f64 / written as f64;
        println!("{key}: {} estimated, {written} written", number(estimate, key));
        assert!((1.0..LOOSENESS).contains(&ratio), "{key}: {ratio}");
    }
    // All that there is: files, and folders.
    // There was one job, with one event log.
    assert_eq!(number(estimate, "files_at_rest_packed"), below(&run).1 - 1);
    assert_eq!(number(estimate, "files_at_rest"), below(&run).1 - 1 - 3 - 1);

    // Now there is a rate, for another survey too: twice the steps, half of the samples.
    let text = std::fs::read_to_string(&config).unwrap();
    let other = survey.join("other.toml");
    let text = text.replace("folder = \"run\"", "folder = \"other\"").replace("samples = 4", "samples = 2");
    std::fs::write(&other, text.replace("\nsteps = 3", "\nsteps = 6")).unwrap();
    let own = plan(&[], &config);
    let like = plan(&["--like", run.to_str().unwrap()], &other);
    for (name, planned) in [("own", &own), ("like", &like)] {
        let (estimate, rate) = (&planned["estimate"], &planned["estimate"]["rate"]);
        assert_eq!((&rate["source"], &rate["objects"]), (&"measured".into(), &6.into()), "{name}: {planned}");
        let seconds = rate["seconds_per_object"].as_f64().unwrap();
        let hours = estimate["gpu_hours"].as_f64().unwrap();
        assert!(seconds > 0.0 && (hours * 3600.0 / seconds - 6.0).abs() < 1e-9, "{name}: {planned}");
        let ratio = number(estimate, "product_bytes") as f64 / products as f64;
        assert!((ratio - 1.0).abs() < LIKENESS, "{name}: {ratio}");
    }
    assert_eq!(own["estimate"]["rate"]["seconds_per_object"], like["estimate"]["rate"]["seconds_per_object"]);
    let words = unseeing().args(["plan", "--seconds-per-object", "1200"]).arg(&other).output().unwrap();
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(words.contains("2.00 GPU-hours") && words.contains("as given"), "{words}");
    let wrong = unseeing().args(["plan", "--seconds-per-object", "-1"]).arg(&other).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}
