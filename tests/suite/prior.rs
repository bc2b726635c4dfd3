//! Training a small prior with the real program, drawing from it, and measuring it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Run, mpirun, unseeing as unseeing_alone};

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

    // The network is taken for less certain than it was measured to be.
    succeeds(
        folder,
        &["moments", prior, "--count", "6", "--steps", "4", "--widen", "1.5", "--out", "wide.safetensors"],
        0,
    );
    let factor = |name: &str| {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let prior = unseeing::prior::Prior::from_bytes(&bytes, tch::Device::Cpu).unwrap();
        let [bands, height, width] = prior.shape();
        let image = tch::Tensor::zeros([1, bands, height, width], (tch::Kind::Float, tch::Device::Cpu));
        prior.spread.unwrap().factor(1.0, &image).unwrap().mean(tch::Kind::Double).double_value(&[])
    };
    let ratio = factor("wide.safetensors") / factor(prior);
    assert!((ratio - 1.5).abs() < 1e-4, "{ratio}");
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

/// The same bytes on 1, 2 and 4 ranks over 50 steps, and when a run goes on with another number of them.
#[test]
fn mpi_any_number_of_ranks_trains_the_same_network() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_config(folder, 50);
    let text = std::fs::read_to_string(folder.join("train.toml")).unwrap();
    let text = text.replace("batch = 2", "batch = 10\nmicro_batch = 2");
    std::fs::write(folder.join("train.toml"), &text).unwrap();
    let train = |ranks: usize, out: &str, more: &[&str]| {
        let mut command = if ranks == 0 { unseeing_alone() } else { mpirun(ranks) };
        command.env("OMP_NUM_THREADS", "1").args(["train", "train.toml", "--out", out]).args(more);
        let output = command.current_dir(folder).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let read = |out: &str| std::fs::read(folder.join(out).join("checkpoint.safetensors")).unwrap();
    let losses = |out: &str| {
        let log = std::fs::read_to_string(folder.join(out).join("log.csv")).unwrap();
        log.lines().map(|line| line.split(',').take(12).collect::<Vec<_>>().join(",")).collect::<Vec<_>>()
    };
    let (code, said) = train(0, "alone", &[]);
    assert_eq!(code, Some(0), "{said}");
    for ranks in [2, 4] {
        let out = format!("of-{ranks}");
        let (code, said) = train(ranks, &out, &[]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("{ranks} rank(s)")), "the ranks did not find each other: {said}");
        assert!(read(&out) == read("alone"), "{ranks} ranks have trained another network");
        assert_eq!(losses(&out), losses("alone"));
    }
    assert_eq!(train(4, "parts", &["--steps", "20"]).0, Some(75));
    assert_eq!(train(2, "parts", &["--steps", "31"]).0, Some(75));
    assert_eq!(train(0, "parts", &[]).0, Some(0));
    assert!(read("parts") == read("alone"), "going on with other ranks has trained another network");
    // Five micro-batches are not for six ranks; and other micro-batches are another sum.
    let (code, said) = train(6, "six", &[]);
    assert!(code == Some(2) && said.contains("6 ranks, but a batch has 5 micro-batches"), "{code:?} {said}");
    std::fs::write(folder.join("train.toml"), text.replace("micro_batch = 2", "micro_batch = 5")).unwrap();
    assert_eq!(train(0, "other", &[]).0, Some(0));
    assert!(read("other") != read("alone"));
}

#[test]
fn mpi_a_signalled_training_saves_on_all_its_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_config(folder, 1_000_000);
    let text = std::fs::read_to_string(folder.join("train.toml")).unwrap();
    std::fs::write(folder.join("train.toml"), text.replace("batch = 2", "batch = 2\nmicro_batch = 1")).unwrap();
    let mut command = mpirun(2);
    command.args(["train", "train.toml", "--out", "run"]).current_dir(folder).env("OMP_NUM_THREADS", "1");
    let mut run = Run::start(command, folder.join("said"));
    run.until("a row of the log", || {
        std::fs::read_to_string(folder.join("run/log.csv")).unwrap_or_default().lines().count() > 0
    });
    run.signal(libc::SIGUSR1);
    assert_eq!(run.code(), 75);
    assert!(folder.join("run/checkpoint.safetensors").exists() && folder.join("run/training.png").exists());
}

/// A training that diverges ends with an error, and the checkpoint before it stays.
#[test]
fn a_diverged_training_keeps_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_config(folder, 400);
    let text = std::fs::read_to_string(folder.join("train.toml")).unwrap();
    let wild = "batch = 2\nlearning_rate = 1e9\nwarmup = 200\nclip = 1e9";
    std::fs::write(folder.join("train.toml"), text.replace("batch = 2", wild)).unwrap();
    succeeds(folder, &["train", "train.toml", "--out", "run", "--steps", "1"], 75);
    let before = std::fs::read(folder.join("run/checkpoint.safetensors")).unwrap();
    let output = unseeing(folder, &["train", "train.toml", "--out", "run"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("diverged") || errors.contains("not finite"), "{errors}");
    assert_eq!(std::fs::read(folder.join("run/checkpoint.safetensors")).unwrap(), before);
}

#[test]
fn unusable_checkpoints_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_config(folder, 4);
    succeeds(folder, &["train", "train.toml", "--out", "run", "--steps", "1"], 75);
    let (config, checkpoint) = (folder.join("train.toml"), folder.join("run/checkpoint.safetensors"));
    let (text, bytes) = (std::fs::read_to_string(&config).unwrap(), std::fs::read(&checkpoint).unwrap());
    let fails = |words: &[&str]| {
        let output = unseeing(folder, &["train", "train.toml", "--out", "run"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        let all = words.iter().chain(&["checkpoint.safetensors", "cannot resume"]);
        all.for_each(|word| assert!(errors.contains(word), "nothing of {word}: {errors}"));
    };
    std::fs::write(&config, text.replace("channels = [8, 16]", "channels = [16]")).unwrap();
    fails(&["another architecture", "[8, 16]", "[16]"]);
    std::fs::write(&config, text.replace("name = \"small\"", "name = \"large\"")).unwrap();
    fails(&["`small`", "`large`", "another card"]);
    std::fs::write(&config, &text).unwrap();
    std::fs::write(&checkpoint, &bytes[..bytes.len() / 2]).unwrap();
    fails(&["not a usable safetensors file"]);
    std::fs::copy(folder.join("run/prior.safetensors"), &checkpoint).unwrap();
    fails(&["no key `training`"]);
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
