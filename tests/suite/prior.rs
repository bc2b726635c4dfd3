//! Training a small prior with the real program, drawing from it, and measuring it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn unseeing(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_unseeing")).args(arguments).current_dir(folder).output().unwrap()
}

fn succeeds(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = unseeing(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Sixteen pixels, a dozen procedural galaxies: seconds.
pub fn write_config(folder: &Path, steps: u64) {
    let config = format!(
        r#"
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
steps = {steps}
batch = 2
[run]
threads = 1
"#
    );
    std::fs::write(folder.join("train.toml"), config).unwrap();
}

#[test]
fn a_prior_is_trained_drawn_from_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_config(folder, 4);
    // Stopped early, then continued.
    succeeds(folder, &["train", "train.toml", "--out", "run", "--steps", "2"], 75);
    succeeds(folder, &["train", "train.toml", "--out", "run"], 0);
    let check = succeeds(folder, &["train", "train.toml", "--out", "run", "--check", "--json"], 0);
    let check: serde_json::Value = serde_json::from_str(&check).unwrap();
    assert_eq!(check["step"], 4);
    assert!(check["losses"].as_array().unwrap().len() >= 8);
    assert_eq!(check["nearest_to_draws"].as_array().unwrap().len(), 3);

    let prior = "run/prior.safetensors";
    for out in ["a.npz", "b.npz"] {
        succeeds(folder, &["draw", prior, "--count", "3", "--seed", "5", "--steps", "4", "--out", out], 0);
    }
    succeeds(folder, &["draw", prior, "--count", "3", "--seed", "6", "--steps", "4", "--out", "c.npz"], 0);
    succeeds(folder, &["draw", prior, "--count", "3", "--steps", "4", "--out", "d.png"], 0);
    let flux = |name: &str| {
        let path = folder.join(name);
        let array = unseeing::io::npz::Npz::open(&path).unwrap().array("flux").unwrap();
        assert_eq!(array.shape, [3, 3, 16, 16]);
        array.to_f32(&path, "flux").unwrap()
    };
    assert_eq!(flux("a.npz"), flux("b.npz"));
    assert_ne!(flux("a.npz"), flux("c.npz"));
    assert!(std::fs::read(folder.join("d.png")).unwrap().starts_with(b"\x89PNG"));

    let read = || {
        let bytes = std::fs::read(folder.join(prior)).unwrap();
        let prior = unseeing::prior::Prior::from_bytes(&bytes, tch::Device::Cpu).unwrap();
        (prior.flux_draws, prior.flux_mean, prior.card)
    };
    let (before, old_mean, old_card) = read();
    let moments = succeeds(folder, &["moments", prior, "--count", "6", "--steps", "4", "--json"], 0);
    let moments: serde_json::Value = serde_json::from_str(&moments).unwrap();
    assert_eq!(moments["draws"], 6);
    let (after, new_mean, new_card) = read();
    assert_eq!((before, after), (0, 6));
    assert_ne!(old_mean, new_mean);
    assert_eq!(old_card, new_card);
}

#[test]
fn crash_a_signalled_training_saves_and_says_that_it_can_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_config(folder, 1_000_000);
    let mut child = Command::new(env!("CARGO_BIN_EXE_unseeing"))
        .args(["train", "train.toml", "--out", "run"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Fifty steps are in the log: it is training.
    let began = Instant::now();
    while std::fs::read_to_string(folder.join("run/log.csv")).unwrap_or_default().lines().count() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the training ended by itself");
        assert!(began.elapsed() < Duration::from_secs(300), "no row of the log in 300 s");
        std::thread::sleep(Duration::from_millis(50));
    }
    // SAFETY: the child is ours and has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGUSR1) };
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(folder.join("run/checkpoint.safetensors").exists() && folder.join("run/prior.safetensors").exists());
}

#[test]
fn wrong_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_config(folder, 4);
    let text = std::fs::read_to_string(folder.join("train.toml")).unwrap();
    std::fs::write(folder.join("typo.toml"), text.replace("batch = 2", "batches = 2")).unwrap();
    let fails = |arguments: &[&str], words: &[&str]| {
        let output = unseeing(folder, arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        words.iter().for_each(|word| assert!(errors.contains(word), "{arguments:?} says nothing of {word}: {errors}"));
    };
    fails(&["train", "typo.toml"], &["typo.toml", "batches", "line"]);
    fails(&["train", "absent.toml"], &["absent.toml"]);
    fails(&["draw", "absent.safetensors", "--out", "x.png"], &["absent.safetensors"]);
    fails(&["draw", "train.toml", "--out", "x.png"], &["train.toml", "safetensors"]);
    fails(&["draw", "train.toml", "--out", "x.gif"], &["x.gif", ".npz"]);
    fails(&["moments", "train.toml"], &["train.toml"]);
}
