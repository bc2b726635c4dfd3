//! `unseeing doctor`: what it says, and its test of "the same bytes".

use std::process::{Command, Output};

fn doctor(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unseeing"));
    command.arg("doctor").args(arguments).env_remove("LD_LIBRARY_PATH").envs(environment.iter().copied());
    command.output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    })
}

#[test]
fn doctor_names_versions_and_measures_a_speed_without_library_paths() {
    let folder = tempfile::tempdir().unwrap();
    let output = doctor(&["--json", "--folder", folder.path().to_str().unwrap()], &[]);
    let report = json(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!(report["libtorch"], "2.13.0");
    for key in ["hdf5", "cfitsio", "cpu_capability", "fingerprint"] {
        assert!(report[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {report}");
    }
    assert!(report["mpi"]["library"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(report["selftest"]["network_gflops"].as_f64().is_some_and(|speed| speed > 0.01));
    assert!(report["folder"].as_array().is_some_and(|checks| checks.len() >= 5));
}

#[test]
fn doctor_determinism_holds_in_every_history() {
    let output = doctor(&["--json", "--determinism"], &[]);
    let report = json(&output);
    assert!(output.status.success(), "{:#}", report["determinism"]);
    let cases = report["determinism"]["cases"].as_array().unwrap();
    for (name, processes) in [("once", 1), ("once more", 1), ("2 processes at once", 2), ("5 processes at once", 5)] {
        let case = cases.iter().find(|case| case["name"] == name).unwrap();
        assert_eq!(case["digests"].as_array().map(Vec::len), Some(processes), "{case}");
    }
}

/// The digest must see what the plan fixes; otherwise "the same" would mean nothing.
#[test]
fn doctor_determinism_sees_another_instruction_set() {
    let digest = |environment: &[(&str, &str)]| {
        let answer = json(&doctor(&["--child", "straight"], environment));
        answer["digest"].as_str().unwrap().to_string()
    };
    let report = json(&doctor(&["--json"], &[]));
    if report["cpu_capability"] == "DEFAULT" || report["cpu_capability"] == "NO AVX" {
        println!("SKIPPED: this processor has only the default instruction set");
        return;
    }
    assert_ne!(digest(&[]), digest(&[("ATEN_CPU_CAPABILITY", "default")]));
}

#[test]
fn doctor_says_what_is_missing_for_a_gpu() {
    let output = doctor(&["--device", "cuda"], &[("CUDA_VISIBLE_DEVICES", "")]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("device = \"cuda\"") && said.contains("run.device = \"cpu\""), "{said}");
}

#[test]
fn doctor_finds_fault_with_a_folder_that_cannot_be_made() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = doctor(&["--folder", file.path().join("below").to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(file.path().to_str().unwrap()));
}
