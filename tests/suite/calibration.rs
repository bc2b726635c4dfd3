//! `unseeing evaluate calibration`: the reduced config of the repository through the real program, kills, ranks.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::{Run, mpirun, unseeing};

/// Small enough for seconds, with enough tasks to be killed among.
const TOY: &str = r#"
seed = 4
out = "out"
draws = 8
slices = 8
[[problems]]
name = "field"
simulations = 30
[problems.gaussian-field]
size = 6
[[samplers]]
sampler = { method = "perturb-map", steps = 6 }
[[samplers]]
name = "prior"
control = true
sampler = { method = "prior" }
"#;

/// The report without what depends on the machine's speed.
fn report(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("out/report.json")).unwrap();
    let mut report: Value = serde_json::from_str(&text).unwrap();
    for result in report["results"].as_array_mut().unwrap() {
        result["summary"]["cost"]["seconds"] = 0.into();
    }
    report
}

fn toy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("toy.toml"), TOY).unwrap();
    folder
}

fn start(mut program: Command, folder: &Path, log: &str) -> Run {
    program.args(["evaluate", "calibration"]).arg(folder.join("toy.toml"));
    Run::start(program, folder.join(log))
}

fn records(folder: &Path) -> usize {
    let Ok(samplers) = std::fs::read_dir(folder.join("out/records/field")) else { return 0 };
    samplers.map(|sampler| std::fs::read_dir(sampler.unwrap().path()).unwrap().count()).sum()
}

#[test]
fn crash_of_a_calibration_leaves_the_same_report() {
    let reference = toy();
    assert_eq!(start(unseeing(), reference.path(), "log").code(), 0);
    for finished in [1, 25] {
        let folder = toy();
        let mut run = start(unseeing(), folder.path(), "log-1");
        run.until("records", || records(folder.path()) >= finished);
        run.kill_all();
        assert!(!folder.path().join("out/report.json").exists());
        let before = records(folder.path());
        assert_eq!(start(unseeing(), folder.path(), "log-2").code(), 0);
        assert!(before < 60, "it had ended before it was killed");
        assert_eq!(report(folder.path()), report(reference.path()), "killed after {finished}");
    }
    for picture in ["ranks-field-perturb-map", "coverage-field", "cost-field", "cost-all"] {
        let bytes = std::fs::read(reference.path().join(format!("out/figures/{picture}.png"))).unwrap();
        assert!(bytes.starts_with(b"\x89PNG"), "{picture}");
    }
}

#[test]
fn mpi_calibration_is_shared_and_stops_on_a_signal() {
    let (alone, shared) = (toy(), toy());
    assert_eq!(start(unseeing(), alone.path(), "log").code(), 0);
    let mut run = start(mpirun(3), shared.path(), "log-1");
    run.until("records", || records(shared.path()) > 0);
    run.signal(libc::SIGUSR1);
    assert_eq!(run.code(), 75);
    assert!(!shared.path().join("out/report.json").exists());
    assert_eq!(start(mpirun(2), shared.path(), "log-2").code(), 0);
    assert_eq!(report(shared.path()), report(alone.path()));
    // A bad config ends all ranks.
    std::fs::write(shared.path().join("toy.toml"), TOY.replace("simulations", "simulation")).unwrap();
    let run = start(mpirun(3), shared.path(), "log-3");
    assert_eq!(run.code(), 2);
    assert!(std::fs::read_to_string(shared.path().join("log-3")).unwrap().contains("simulation"));
}

/// What must hold of the samplers themselves. The default sampler is held to what it meets; the rest is in the report.
#[test]
fn the_reduced_calibration_fails_its_controls_and_no_exact_draws() {
    let folder = tempfile::tempdir().unwrap();
    let quick = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/calibration-quick.toml");
    let text = std::fs::read_to_string(quick).unwrap();
    std::fs::write(folder.path().join("quick.toml"), text.replace("../runs/calibration-quick", "out")).unwrap();
    let output = unseeing()
        .args(["evaluate", "calibration", "--json", "--no-figures"])
        .arg(folder.path().join("quick.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let table = std::fs::read_to_string(folder.path().join("out/report.txt")).unwrap();
    assert_eq!(report["controls_not_failed"], Value::Array(Vec::new()), "{table}");
    let results = report["results"].as_array().unwrap();
    let verdict = |problem: &str, sampler: &str| {
        let found = results.iter().find(|one| {
            let subject = &one["summary"]["subject"];
            subject["problem"] == problem && subject["sampler"] == sampler
        });
        found.unwrap()["verdict"].as_str().unwrap().to_string()
    };
    for problem in ["field", "galaxies", "modes"] {
        assert_ne!(verdict(problem, "exact"), "fail", "{table}");
        for control in ["prior", "inflated", "dps"] {
            assert_eq!(verdict(problem, control), "fail", "{table}");
        }
    }
    // Its own approximation is exact there.
    assert_ne!(verdict("field", "perturb-map-32"), "fail", "{table}");
}

/// The full forward model with a network: a prior of sixteen pixels that was hardly trained. Whether it is calibrated says
/// nothing; that all parts fit together does.
#[test]
fn a_network_prior_is_calibrated_with_either_kind_of_truths() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = unseeing().args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let train = r#"
[prior]
name = "small"
redshift_range = [0.1, 1.0]
caution = "a test"
[data]
size = 16
pool = 12
heldout = 3
[network]
channels = [8, 16]
unshuffle = 2
blocks = 1
heads = 2
[covariance]
images = 40
rank = 4
[optimizer]
steps = 2
batch = 2
[run]
threads = 1
"#;
    std::fs::write(folder.path().join("train.toml"), train).unwrap();
    run(&["train", "train.toml", "--out", "run"]);
    let problem = |name: &str, truths: &str| {
        format!(
            "[[problems]]\nname = \"{name}\"\nsimulations = 8\n[problems.network]\nprior = \"run/prior.safetensors\"\n\
             truths = \"{truths}\"\nstrata = [1e9]\n"
        )
    };
    let samplers = r#"
[[samplers]]
sampler = { method = "perturb-map", steps = 6 }
[[samplers]]
name = "prior"
control = true
sampler = { method = "prior", steps = 6 }
[[samplers]]
sampler = { method = "exact" }
"#;
    // The same truths again, and an analysis that is wrong about them.
    let wrong = problem("wrong", "chain")
        + "truths_of = \"chain\"\nmisspecified = { redshift = 0.1, psf_width = 0.02, noise_fwhm = 1.5 }\n";
    // Galaxies so faint that draws of the prior, weighted, are the posterior.
    run(&["draw", "run/prior.safetensors", "--count", "128", "--steps", "6", "--out", "draws.safetensors"]);
    let faint = problem("faint", "chain") + "signal_to_noise = [0.2, 0.4]\nreference = \"draws.safetensors\"\n";
    let config = format!(
        "seed = 1\nout = \"out\"\ndraws = 6\n{}{}{wrong}{faint}{samplers}",
        problem("chain", "chain"),
        problem("ancestral", "ancestral")
    );
    std::fs::write(folder.path().join("network.toml"), config).unwrap();
    run(&["evaluate", "calibration", "network.toml"]);
    let report = report(folder.path());
    let results = report["results"].as_array().unwrap();
    // Nobody has an exact posterior here, so that the method `exact` is not run.
    assert_eq!(results.len(), 8);
    for result in results {
        let summary = &result["summary"];
        assert_eq!((&summary["simulations"], &summary["failures"]), (&8.into(), &0.into()), "{summary}");
        let strata = summary["strata"].as_array().unwrap();
        assert_eq!((strata.len(), &strata[0]["simulations"]), (2, &8.into()));
        assert_eq!(strata[0]["statistics"].as_array().unwrap().len(), 9);
        let recovered = summary["recovery"].as_array().unwrap();
        let flux = recovered.iter().filter(|row| row["quantity"] == "flux").map(|row| row["objects"].as_u64().unwrap());
        // Bins of fewer than three have none.
        assert!((3..=8).contains(&flux.sum::<u64>()), "{recovered:?}");
    }
    assert_eq!(results[0]["summary"]["cost"]["forwards"], 6.0);
    // The data of two kinds of truths differ.
    assert_ne!(results[0]["summary"]["statistics"], results[2]["summary"]["statistics"]);
    assert_ne!(results[0]["summary"]["statistics"], results[4]["summary"]["statistics"]);
    // Where data tell nearly nothing, the sampler's draws have the width of the prior's.
    for (index, result) in results.iter().enumerate() {
        let expected = if index < 6 { 0 } else { 8 };
        assert_eq!(result["summary"]["references"], expected, "{index}");
        let spread = &result["summary"]["statistics"][0]["spread"];
        assert_eq!(spread["value"].as_f64().is_some_and(|ratio| (0.5..2.0).contains(&ratio)), index >= 6, "{spread}");
    }
    assert!(folder.path().join("out/figures/problems-chain-perturb-map.png").exists());
}
