//! Surveys from packed inputs give the content of those from loose files; partial merges, and looks at running surveys.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Run, ToySurvey, mpirun, unseeing};

const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");

/// A survey of five galaxies in shards of two, one of them without a PSF; and a config that runs in `run`.
fn survey(folder: &Path) -> (PathBuf, impl Fn(&str) -> PathBuf) {
    let survey = folder.join("survey");
    let options = ["simulate", "--objects", "5", "--depth", "wide", "--samples", "2", "--prior", PRIOR, "--out"];
    let made = unseeing().args(options).arg(&survey).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::remove_file(survey.join("psfs/sim-0003-r.fits")).unwrap();
    let text = std::fs::read_to_string(survey.join("config.toml")).unwrap();
    let text = text.replace("block = 16", "block = 1").replace("\nsteps = 28", "\nsteps = 3");
    let text = text.replace("shard_objects = 5", "shard_objects = 2");
    assert!(["block = 1\n", "steps = 3\n", "shard_objects = 2\n"].iter().all(|line| text.contains(line)), "{text}");
    let place = survey.clone();
    let config = move |run: &str| {
        let path = place.join(format!("{run}.toml"));
        std::fs::write(&path, text.replace("folder = \"run\"", &format!("folder = \"{run}\""))).unwrap();
        path
    };
    (survey, config)
}

/// Runs a command that reports JSON; the exit code and the report.
fn report(command: &[&str], config: &Path) -> (i32, Value) {
    let output = unseeing().args(command).arg("--json").arg(config).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or(Value::String(error)))
}

fn contents(config: &Path) -> Vec<String> {
    let (code, report) = report(&["verify"], config);
    assert_eq!((code, &report["complete"]), (0, &true.into()), "{report}");
    let shards = report["shards"].as_array().unwrap();
    shards.iter().map(|shard| shard["content_blake3"].as_str().unwrap().to_string()).collect()
}

#[test]
fn packed_inputs_give_the_same_content_as_loose_files() {
    let folder = tempfile::tempdir().unwrap();
    let (survey, config) = survey(folder.path());
    let run = |config: &Path| unseeing().arg("run").arg(config).status().unwrap().code();
    let (loose, packed) = (config("loose"), config("packed"));

    // What cannot be used is told before anything is computed.
    let (code, planned) = report(&["plan", "--check-inputs"], &loose);
    assert_eq!((code, &planned["inputs"]["rows"], &planned["inputs"]["bad"]), (3, &5.into(), &1.into()), "{planned}");
    assert_eq!(planned["inputs"]["reasons"][0][0], "sim-0003");
    assert_eq!(run(&loose), Some(3));

    let (code, first) = report(&["pack"], &packed);
    assert_eq!((code, &first["packed"], &first["objects"], &first["bad"]), (3, &3.into(), &5.into(), &1.into()));
    let (code, again) = report(&["pack"], &packed);
    assert_eq!((code, &again["packed"], &again["skipped"]), (0, &0.into(), &3.into()), "{again}");

    // Planned again, the bundles are what is read: their indexes, and the rows that are looked at.
    let (code, planned) = report(&["plan"], &packed);
    assert_eq!((code, &planned["packed_shards"]), (0, &3.into()), "{planned}");

    // A flipped bit in a bundle is found, by `verify` and by the run; so is a bundle of another plan.
    let bundle = survey.join("packed/inputs/00000.h5");
    let whole = std::fs::read(&bundle).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    std::fs::write(&bundle, &flipped).unwrap();
    let (code, verified) = report(&["verify"], &packed);
    assert_eq!((code, &verified["faults"]), (1, &1.into()), "{verified}");
    std::fs::copy(survey.join("packed/inputs/00001.h5"), &bundle).unwrap();
    let output = unseeing().arg("run").arg(&packed).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("another plan or shard"), "{said}");
    let (code, said) = report(&["plan"], &packed);
    assert!(code == 1 && said.as_str().unwrap().contains("another plan or shard"), "{said}");
    std::fs::write(&bundle, &whole).unwrap();

    // Nothing but the bundles is read.
    std::fs::rename(survey.join("cutouts"), survey.join("gone")).unwrap();
    std::fs::rename(survey.join("psfs"), survey.join("gone too")).unwrap();
    let (code, planned) = report(&["plan", "--check-inputs"], &packed);
    assert_eq!((code, &planned["inputs"]["rows"], &planned["inputs"]["bad"]), (3, &5.into(), &1.into()), "{planned}");
    assert!(planned["estimate"]["bundle_bytes"].as_u64().unwrap() > 0, "{planned}");
    let mut command = mpirun(2);
    command.arg("run").arg(&packed);
    assert_eq!(Run::start(command, folder.path().join("log")).code(), 3);
    assert_eq!(contents(&packed), contents(&loose));
    let failures = |config: &Path| report(&["status"], config).1["failures"].clone();
    assert_eq!(failures(&packed), failures(&loose));
}

/// The plan holds paths as they were written: it does not matter from where a command is called, nor where the survey's folder
/// is. One object's file is missing, which is its reason, and content.
#[test]
fn a_survey_can_be_called_from_anywhere_and_moved_with_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (survey, config) = survey(folder.path());
    config("run");
    let call = |place: &Path, command: &str, config: &str| {
        let output = unseeing().args([command, config]).current_dir(place).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(call(folder.path(), "plan", "survey/run.toml"), (0, String::new()));
    let (code, said) = call(&survey, "run", "run.toml");
    assert_eq!(code, 3, "{said}");
    let (want, failures) = (contents(&survey.join("run.toml")), report(&["status"], &survey.join("run.toml")).1);
    let reason = failures["failures"][0][1].as_str().unwrap();
    assert!(reason.starts_with("psfs/sim-0003-r.fits: "), "{reason}");

    let moved = folder.path().join("elsewhere");
    std::fs::rename(&survey, &moved).unwrap();
    let there = moved.join("run.toml");
    // What is there is whole; what is done again there is the same, on a rank that heard of the config from the leader too.
    assert_eq!(contents(&there), want);
    std::fs::remove_dir_all(moved.join("run/receipts")).unwrap();
    for journal in std::fs::read_dir(moved.join("run/journals")).unwrap() {
        std::fs::remove_file(journal.unwrap().path()).unwrap();
    }
    let mut command = mpirun(2);
    command.arg("run").arg(&there);
    assert_eq!(Run::start(command, folder.path().join("log")).code(), 3);
    assert_eq!(contents(&there), want);

    // Another catalogue in its place is still noticed.
    let catalog = moved.join("catalog.csv");
    std::fs::write(&catalog, std::fs::read_to_string(&catalog).unwrap() + "\n").unwrap();
    let (code, said) = call(&moved, "run", "run.toml");
    assert!(code == 2 && said.contains("catalog.csv has other content"), "{said}");
}

#[test]
fn a_merge_of_an_unfinished_survey_has_to_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (survey, config) = survey(folder.path());
    let config = config("run");
    assert_eq!(unseeing().arg("run").arg(&config).status().unwrap().code(), Some(3));
    let merge = |options: &[&str]| {
        let out = survey.join("survey.h5");
        let mut command = unseeing();
        command.args(["merge", "--json", "--out"]).arg(&out).arg(survey.join("run")).args(options);
        command.output().unwrap()
    };
    let by_config = unseeing().arg("merge").arg(&config).arg("--out").arg(survey.join("other.h5")).output().unwrap();
    assert!(by_config.status.success(), "{}", String::from_utf8_lossy(&by_config.stderr));
    let merged = |options: &[&str]| -> Value { serde_json::from_slice(&merge(options).stdout).unwrap() };
    let whole = merged(&[]);
    assert_eq!((&whole["objects"], &whole["failed"], &whole["missing"]), (&5.into(), &1.into(), &Value::Array(vec![])));
    assert_eq!(merged(&[]), whole, "merging twice counts nothing twice");
    // With the table that `catalogue` makes of the joined file.
    assert_eq!(whole["catalogue"].as_str().unwrap(), survey.join("survey.fits").to_str().unwrap());
    let table = survey.join("merged.csv");
    merged(&["--catalogue", table.to_str().unwrap()]);
    let own =
        unseeing().arg("catalogue").arg(survey.join("survey.h5")).arg("--out").arg(survey.join("own.csv")).status();
    assert!(own.unwrap().success());
    let rows = std::fs::read_to_string(&table).unwrap();
    assert!(rows.lines().count() == 6 && rows == std::fs::read_to_string(survey.join("own.csv")).unwrap(), "{rows}");
    std::fs::remove_file(survey.join("run/receipts/00001.json")).unwrap();
    let refused = merge(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && said.contains("--partial"), "{said}");
    let part = merged(&["--partial"]);
    assert_eq!((&part["objects"], &part["missing"]), (&3.into(), &serde_json::json!([1])));
    // The shard is done again, and the survey is what it was.
    assert_eq!(unseeing().arg("run").arg(&config).status().unwrap().code(), Some(3));
    assert_eq!(merged(&[]), whole);
}

/// From another terminal, while ranks work.
#[test]
fn mpi_status_of_a_running_survey_is_live() {
    let survey = ToySurvey::new(&["", "fail=1", "sleep=80", "sleep=80", "sleep=80", "sleep=80"], 2);
    let mut run = survey.start(3);
    let seen = std::cell::Cell::new(0);
    run.until("a shard done and another running", || {
        if survey.files("receipts").is_empty() {
            return false;
        }
        let status = survey.report("status");
        seen.set(seen.get() + 1);
        let working = status["working"].as_array().unwrap();
        let running = working.iter().any(|shard| shard["state"] == "running" && shard["pid"].is_u64());
        running && status["shards_done"] == 1 && status["objects_per_hour"].as_f64().unwrap() > 0.0
    });
    assert!(seen.get() > 0);
    assert_eq!(run.code(), 3);
    // Before the first product there is a rate too, of the shards in work.
    let first = ToySurvey::new(&["", "", "sleep=200", "sleep=200"], 4);
    let mut begun = first.start(0);
    begun.until("objects done, and a rate", || {
        let status = if first.journaled() > 0 { first.report("status") } else { Value::Null };
        let number = |key: &str| status[key].as_f64().unwrap_or(0.0);
        first.files("receipts").is_empty() && number("done") >= 2.0 && number("objects_per_hour") > 0.0
    });
    drop(begun);
    let status = survey.report("status");
    assert_eq!((&status["done"], &status["failed"], &status["hours_left"]), (&5.into(), &1.into(), &0.0.into()));
}
