//! `unseeing simulate`, through the real binary.

use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_unseeing")).arg("simulate").args(arguments).output().unwrap()
}

#[test]
fn the_same_seed_gives_the_same_survey() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, other] = ["a", "b", "c"].map(|name| folder.path().join(name));
    for (path, seed) in [(&first, "7"), (&second, "7"), (&other, "8")] {
        let out = simulate(&["--out", path.to_str().unwrap(), "--objects", "1", "--seed", seed, "--json"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(json["objects"][0]["id"], "sim-0000");
    }
    for file in ["cutouts/sim-0000-r.fits", "psfs/sim-0000-i.fits", "truth/sim-0000.fits", "catalog.csv"] {
        let read = |path: &std::path::Path| std::fs::read(path.join(file)).unwrap();
        assert_eq!(read(&first), read(&second), "{file}");
        assert_ne!(read(&first), read(&other), "{file}");
    }
    assert!(first.join("config.toml").exists() && first.join("truth.hdf5").exists());
}

#[test]
fn what_cannot_be_simulated_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let path = path.to_str().unwrap();
    for (arguments, words) in [
        (vec![path, "--bands", "g,u"], "band `u`"),
        (vec![path, "--survey", "lsst"], "only `hsc`"),
        (vec![path, "--redshift", "0.5"], "LOW,HIGH"),
        (vec![path, "--redshift", "7,8"], "redshift"),
        (vec![path, "--objects", "0"], "at least one object"),
        (vec![path, "--psf", "moffat"], "need --psf-fwhm"),
        (vec![path, "--psf-fwhm", "0.7"], "--psf gaussian or --psf moffat"),
        (vec![path, "--psf", "gaussian", "--psf-fwhm", "0.7,0.8"], "2 widths of the PSF for 3 bands"),
        (vec![path, "--psf", "moffat", "--psf-fwhm", "0.7", "--psf-beta", "1"], "beta is 1"),
        (vec![path, "--noise=-1"], "noise level is -1"),
        (vec![path, "--inject", "0"], "positive part"),
    ] {
        let out = simulate(&arguments);
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
        assert!(!folder.path().join("x/config.toml").exists());
    }
}

/// A config whose prior is not there cannot be run: it is said where it is written.
#[test]
fn a_prior_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("here.safetensors");
    std::fs::write(&here, "any file").unwrap();
    for (prior, missing) in [(here, false), (folder.path().join("nowhere.safetensors"), true)] {
        let path = folder.path().join(format!("survey-{missing}"));
        let options = [path.to_str().unwrap(), "--objects", "1", "--prior", prior.to_str().unwrap()];
        let out = simulate(&options);
        let note = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && path.join("config.toml").exists(), "{note}");
        assert_eq!(note.contains("nowhere.safetensors, which is not there"), missing, "{note}");
    }
}
