//! `unseeing import`: the published network against recorded numbers, and weights that cannot be used.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn conformance() -> Option<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/conformance"));
    if !folder.is_dir() {
        println!("SKIPPED: needs ../shared");
        return None;
    }
    Some(folder.to_path_buf())
}

fn import(arguments: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unseeing"));
    command.arg("import").args(arguments).env("OMP_NUM_THREADS", "1").output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_published_network_agrees_with_its_recording() {
    let Some(folder) = conformance() else { return };
    let (weights, recorded) = (folder.join("unet-32.pt"), folder.join("unet-32.io.safetensors"));
    let output = import(&[&weights, Path::new("--check"), &recorded, Path::new("--json")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["hyperparameters"]["num_heads"], 4);
    assert!(report["hyperparameters_from"].as_str().unwrap().ends_with("unet-32.json"));
    assert_eq!(report["tensors"], 222);
    for name in ["out", "vjp"] {
        let relative = report["check"][name]["relative"].as_f64().unwrap();
        // Promised: 1e-4 of the largest value. Zero would mean that nothing was compared.
        assert!(relative > 0.0 && relative < 1e-4, "{name}: {relative}");
    }
    let text = String::from_utf8(import(&[&weights]).stdout).unwrap();
    assert!(text.contains("222 tensors") && text.contains("attention at 16,8 px"), "{text}");

    // Without the .json the hyperparameters are read off the shapes.
    let alone = tempfile::tempdir().unwrap();
    let copy = alone.path().join("w.pt");
    std::fs::copy(&weights, &copy).unwrap();
    let output = import(&[&copy, Path::new("--check"), &recorded]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_mismatch_is_told_and_exits_1() {
    let Some(folder) = conformance() else { return };
    let copy = tempfile::tempdir().unwrap();
    let weights = copy.path().join("w.pt");
    std::fs::copy(folder.join("unet-32.pt"), &weights).unwrap();
    let text = std::fs::read_to_string(folder.join("unet-32.json")).unwrap();
    // Two heads have the same shapes as four, and other numbers.
    std::fs::write(copy.path().join("w.json"), text.replace("\"num_heads\": 4", "\"num_heads\": 2")).unwrap();
    let output = import(&[&weights, Path::new("--check"), &folder.join("unet-32.io.safetensors")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("DIFFERS"));

    // Hyperparameters of another network: the error names the tensor, the file and both shapes.
    std::fs::write(copy.path().join("w.json"), text.replace("\"num_channels\": 32", "\"num_channels\": 64")).unwrap();
    let output = import(&[&weights]);
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    for part in ["w.pt", "`time_embed.0.weight`", "[128, 32]", "[256, 64]"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_pickle_that_asks_for_code_and_truncated_weights_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("executed");
    let path = folder.path().join("evil.pt");
    let call = format!("touch {}", marker.display());
    let mut pickle = b"\x80\x02cos\nsystem\nX".to_vec();
    pickle.extend((call.len() as u32).to_le_bytes());
    pickle.extend(call.as_bytes());
    pickle.extend(b"\x85R.");
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file("evil/data.pkl", options).unwrap();
    writer.write_all(&pickle).unwrap();
    std::fs::write(&path, writer.finish().unwrap().into_inner()).unwrap();
    let output = import(&[&path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("evil.pt: asks for code: os.system"), "{}", stderr(&output));
    assert!(!marker.exists());

    let output = import(&[&folder.path().join("missing.pt")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("missing.pt"), "{}", stderr(&output));

    let Some(conformance) = conformance() else { return };
    let bytes = std::fs::read(conformance.join("unet-32.pt")).unwrap();
    let path = folder.path().join("cut.pt");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let output = import(&[&path]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cut.pt") && stderr(&output).contains("truncated"), "{}", stderr(&output));
}

/// A prior that no survey can be run with is told when the survey is planned, by name, and leaves no plan behind.
#[test]
fn a_survey_is_not_planned_with_a_prior_that_it_cannot_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = |arguments: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_unseeing"));
        program.args(arguments).current_dir(folder.path()).env("OMP_NUM_THREADS", "1").output().unwrap()
    };
    let works = |arguments: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    };
    let train = "[prior]\nname = \"small\"\nredshift_range = [0.1, 1.0]\ncaution = \"a test\"\n\
                 [data]\nsize = 32\npixel_kpc = 1.6\npool = 6\nheldout = 2\n\
                 [unet]\nnum_channels = 32\nnum_res_blocks = 1\nnum_heads = 2\nattention_resolutions = \"8\"\n\
                 [covariance]\nimages = 20\n[optimizer]\nsteps = 1\nbatch = 1\n[run]\nthreads = 1\n";
    let card = "name = \"imported\"\npixel_kpc = 1.6\nbands = [\"g\", \"r\", \"i\"]\ncaution = \"a test\"\n\
                stretch = { kind = \"asinh\", scale = 0.01 }\nnormalisation = { kind = \"band-peak\" }\n\
                redshift_range = [0.1, 1.0]\nresolution_kpc = 1.6\n";
    std::fs::write(path("train.toml"), train).unwrap();
    std::fs::write(path("card.toml"), card).unwrap();
    works(&["train", "train.toml", "--out", "trained"]);
    works(&["import", "trained/prior.safetensors", "--export", "network.safetensors"]);
    works(&["import", "network.safetensors", "--write", "imported.safetensors", "--card", "card.toml"]);
    works(&["simulate", "survey", "--objects", "1", "--depth", "wide", "--prior", "imported.safetensors"]);

    let whole = std::fs::read(path("imported.safetensors")).unwrap();
    std::fs::write(path("cut.safetensors"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(path("text.safetensors"), "no weights").unwrap();
    let text = std::fs::read_to_string(path("survey/config.toml")).unwrap();
    let bands = "bands = [\"g\", \"r\", \"i\"]";
    for (prior, from, to, words) in [
        ("imported", "", "", "unseeing moments"),
        ("text", "", "", "safetensors"),
        ("cut", "", "", "safetensors"),
        ("imported", bands, "bands = [\"g\", \"r\"]", "data.bands names 2 bands"),
    ] {
        let edited = text.replacen("imported.safetensors", &format!("{prior}.safetensors"), 1).replacen(from, to, 1);
        assert!(edited.contains(&format!("{prior}.safetensors")) && edited.contains(to), "{edited}");
        std::fs::write(path("survey/other.toml"), edited).unwrap();
        for command in ["plan", "pack", "run"] {
            let output = run(&[command, "survey/other.toml"]);
            let said = stderr(&output);
            let named = said.contains(&format!("{prior}.safetensors: ")) && said.contains(words);
            assert!(output.status.code() == Some(2) && named, "{command}, {prior}: {said}");
            assert!(!path("survey/run/plan.json").exists(), "{command}, {prior}");
        }
    }
}
