//! The real engine with the shipped prior, on a simulated survey.

use std::path::{Path, PathBuf};

use serde_json::Value;
use unseeing::posterior::Flag;

use crate::common::{Run, kill, mpirun, unseeing};

const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");

/// A survey of two galaxies in a folder, and its config: few draws of few steps, for bits are tested here, not
/// statistics.
fn survey(folder: &Path, samples: u32) -> (PathBuf, String) {
    let survey = folder.join("survey");
    let samples = samples.to_string();
    let simulate = ["simulate", "--objects", "2", "--depth", "wide", "--samples", &samples, "--prior", PRIOR, "--out"];
    let made = unseeing().args(simulate).arg(&survey).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(survey.join("config.toml")).unwrap();
    let text = text.replace("block = 16", "block = 1").replace("\nsteps = 28", "\nsteps = 6");
    let text = text.replace("journal_interval = 60.0", "journal_interval = 1.0");
    let edited = ["block = 1\n", "steps = 6\n", "journal_interval = 1.0\n"];
    assert!(edited.iter().all(|line| text.contains(line)), "{text}");
    (survey, text)
}

/// A killed rank takes the job with it; the next run, with other ranks, goes on to what an undisturbed run gives.
#[test]
fn crash_of_the_real_engine_leaves_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (survey, text) = survey(folder.path(), 8);
    let config = |run: &str| {
        let config = survey.join(format!("{run}.toml"));
        std::fs::write(&config, text.replace("folder = \"run\"", &format!("folder = \"{run}\""))).unwrap();
        config
    };
    let start = |ranks: usize, config: &Path| {
        let mut command = mpirun(ranks);
        command.arg("run").arg(config);
        Run::start(command, folder.path().join("log"))
    };
    let receipt = |run: &str| -> Value {
        let receipt = std::fs::read_to_string(survey.join(run).join("receipts/00000.json")).unwrap();
        serde_json::from_str(&receipt).unwrap()
    };
    assert_eq!(start(2, &config("undisturbed")).code(), 0);
    let killed = config("killed");
    let mut run = start(2, &killed);
    let journaled = || {
        let Ok(journals) = std::fs::read_dir(survey.join("killed/journals")) else { return 0 };
        journals.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum::<u64>()
    };
    run.until("work in the journal", || journaled() > 10_000);
    let ranks = run.ranks();
    assert_eq!(ranks.len(), 2);
    kill(ranks[1], libc::SIGKILL);
    assert_ne!(run.code(), 0);
    assert!(!survey.join("killed/receipts/00000.json").exists(), "the run was done before its rank was killed");
    assert_eq!(start(3, &killed).code(), 0);
    let (found, want) = (receipt("killed"), receipt("undisturbed"));
    assert_eq!((&want["objects"], &want["failed"]), (&Value::from(2), &Value::from(0)), "{want}");
    assert_eq!(found["content_blake3"], want["content_blake3"]);
}

#[test]
fn mpi_the_real_engine_gives_the_same_bytes_on_any_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let (survey, text) = survey(folder.path(), 5);
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

/// Draws that are weighed: on any ranks the same bytes, and the product says what they are worth. Other methods weigh none.
#[test]
fn mpi_weighed_draws_are_the_same_on_any_number_of_ranks_and_say_what_they_are_worth() {
    let folder = tempfile::tempdir().unwrap();
    let (survey, text) = survey(folder.path(), 8);
    let text = text.replace("block = 1\n", "block = 4\n");
    let run = |name: &str, method: &str, ranks: usize| {
        let own = text.replace("folder = \"run\"", &format!("folder = \"{name}\""));
        let own = own.replace("method = \"perturb-map\"", &format!("method = \"{method}\""));
        assert!(own.contains(&format!("method = \"{method}\"")) && own.contains("block = 4\n"), "{own}");
        let config = survey.join(format!("{name}.toml"));
        std::fs::write(&config, own).unwrap();
        let run = mpirun(ranks).arg("run").arg(&config).output().unwrap();
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
        let shard = unseeing::product::read::Shard::open(&survey.join(name).join("shards/00000.h5")).unwrap();
        let worth = |index: usize| {
            let record = shard.record(index).unwrap();
            let worth = record.scalar("effective_draws").filter(|worth| worth.is_finite());
            // Of 8 samples.
            let few = worth.is_some_and(|worth| worth < 4.0);
            assert_eq!(record.flags & Flag::FewSamples as u32 != 0, few, "{worth:?}");
            // Solves of both methods end by their tolerance, and say so.
            let left = record.scalar("solve_residual").unwrap_or(f64::NAN);
            assert!((0.0..=1.0).contains(&left), "{left}");
            assert_eq!(record.flags & Flag::UnfinishedSolves as u32, 0);
            worth
        };
        let receipt = std::fs::read_to_string(survey.join(name).join("receipts/00000.json")).unwrap();
        let receipt: Value = serde_json::from_str(&receipt).unwrap();
        ([worth(0), worth(1)], receipt["content_blake3"].as_str().unwrap().to_string())
    };
    let ([one, two], alone) = run("alone", "perturb-map-smc", 1);
    // Of two blocks of four.
    assert!([one, two].iter().all(|worth| worth.is_some_and(|worth| (2.0..=8.0).contains(&worth))), "{one:?} {two:?}");
    assert_eq!(run("three", "perturb-map-smc", 3).1, alone);
    let (worth, default) = run("default", "perturb-map", 1);
    assert_eq!(worth, [None, None]);
    assert_ne!(default, alone);
}
