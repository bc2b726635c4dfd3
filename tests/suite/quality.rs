//! `unseeing evaluate prior` through the real program.

use serde_json::Value;

use crate::common::{mpirun, unseeing};
use crate::prior::write_config;

#[test]
fn mpi_a_prior_is_judged_whatever_the_ranks_and_wrong_images_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_config(folder, 2);
    let text = std::fs::read_to_string(folder.join("train.toml")).unwrap();
    let config = text.replace("heldout = 3", "heldout = 12");
    std::fs::write(folder.join("train.toml"), &config).unwrap();
    let run = |mut command: std::process::Command, arguments: &[&str]| {
        command.args(arguments).current_dir(folder).output().unwrap()
    };
    assert!(run(unseeing(), &["train", "train.toml", "--out", "run"]).status.success());
    let arguments =
        ["evaluate", "prior", "run/prior.safetensors", "--data", "train.toml", "--count", "20", "--steps", "4"];
    let judge = |command, more: &[&str]| {
        let output = run(command, &[&arguments[..], more].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), errors)
    };
    let (code, _, errors) = judge(unseeing(), &["--out", "alone"]);
    assert_eq!(code, Some(0), "{errors}");
    let (code, _, errors) = judge(mpirun(2), &["--out", "shared"]);
    assert_eq!(code, Some(0), "{errors}");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(read("alone/report.json"), read("shared/report.json"));
    let report: Value = serde_json::from_str(&read("alone/report.json")).unwrap();
    assert_eq!((&report["draws"], &report["heldout"]), (&20.into(), &12.into()));
    assert_eq!(report["trained_on_these"], true);
    let names: Vec<&str> = report["spaces"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["morphology", "the prior's own encoder"], "no Inception network was given");
    // The network has not learned anything: its draws are not those of the population.
    assert!(report["spaces"][0]["frechet"]["draws"].as_f64() > report["spaces"][0]["frechet"]["heldout"].as_f64());
    assert_eq!(report["verdicts"].as_array().unwrap().len(), 5);
    assert!(read("alone/report.txt").contains("coverage") && read("alone/report.txt").contains("r50"));
    for picture in ["power-r.png", "quantity-r50.png", "umap.png"] {
        assert!(std::fs::read(folder.join("alone").join(picture)).unwrap().starts_with(b"\x89PNG"), "{picture}");
    }
    // Draws, as many training images, held-out ones, and the line above.
    assert_eq!(read("alone/umap.csv").lines().count(), 20 + 20 + 12 + 1);
    assert_eq!(read("alone/umap.csv"), read("shared/umap.csv"));
    // The draws are kept, and not made again.
    let (code, out, errors) = judge(unseeing(), &["--out", "alone", "--json", "--no-figures"]);
    assert!(code == Some(0) && !errors.contains("block"), "{errors}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), report);

    for (from, to, words) in [
        ("size = 16", "size = 32", "32 pixels"),
        ("heldout = 12", "heldout = 2", "2 held-out images"),
        ("pool = 12", "pools = 12", "pools"),
    ] {
        std::fs::write(folder.join("train.toml"), config.replace(from, to)).unwrap();
        let (code, _, errors) = judge(unseeing(), &["--out", "alone"]);
        assert!(code == Some(2) && errors.contains(words), "{errors}");
    }
    std::fs::write(folder.join("train.toml"), &config).unwrap();
    let (code, _, errors) = judge(unseeing(), &["--out", "alone", "--inception", "train.toml"]);
    assert!(code == Some(2) && errors.contains("--inception train.toml"), "{errors}");
}
