//! The real engine with the shipped prior, on a simulated survey.

use serde_json::Value;

use crate::common::{mpirun, unseeing};

const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");

/// Few draws of few steps: bits are tested here, not statistics.
#[test]
fn mpi_the_real_engine_gives_the_same_bytes_on_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let survey = folder.path().join("survey");
    let simulate = ["simulate", "--objects", "2", "--depth", "wide", "--samples", "5", "--prior", PRIOR, "--out"];
    let made = unseeing().args(simulate).arg(&survey).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(survey.join("config.toml")).unwrap();
    let text = text.replace("block = 16", "block = 1").replace("\nsteps = 32", "\nsteps = 6");
    assert!(text.contains("block = 1\n") && text.contains("steps = 6\n"), "{text}");
    let mut digests = Vec::new();
    for ranks in [1, 2, 3, 5] {
        let config = survey.join(format!("config-{ranks}.toml"));
        std::fs::write(&config, text.replace("folder = \"run\"", &format!("folder = \"run-{ranks}\""))).unwrap();
        let run = mpirun(ranks).arg("run").arg(&config).output().unwrap();
        assert!(run.status.success(), "{ranks} ranks: {}", String::from_utf8_lossy(&run.stderr));
        let receipt = std::fs::read_to_string(survey.join(format!("run-{ranks}/receipts/00000.json"))).unwrap();
        let receipt: Value = serde_json::from_str(&receipt).unwrap();
        assert_eq!((&receipt["objects"], &receipt["failed"]), (&Value::from(2), &Value::from(0)), "{receipt}");
        assert_eq!(receipt["ranks"], ranks, "the ranks did not find each other");
        digests.push(receipt["content_blake3"].as_str().unwrap().to_string());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "different content: {digests:?}");

    // The interim prior's own morphology is in the product, in the units of the posterior's.
    let shard = unseeing::product::read::Shard::open(&survey.join("run-1/shards/00000.h5")).unwrap();
    let sizes = shard.meta.prior_samples.iter().find(|(name, _)| name == "r50").map(|(_, values)| values);
    let mut sizes = sizes.expect("the product has no prior/r50").clone();
    sizes.retain(|size| size.is_finite());
    sizes.sort_by(f32::total_cmp);
    assert!(sizes.len() > 1000, "{} draws of the prior have a size", sizes.len());
    let median = sizes[sizes.len() / 2];
    assert!((1.5..8.0).contains(&median), "median half-light radius of the prior's draws: {median} kpc");
}
