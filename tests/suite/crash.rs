//! Kills at any moment, torn journals, stale claims, several jobs in one run folder: the same products, or a clear failure
//! of the object that is to blame.

use std::time::{Duration, SystemTime};

use crate::common::{ToySurvey, kill, unseeing};

/// Content digests of a survey of so many well-behaved objects, from one quiet run. Sleeping does not move bits.
fn reference(objects: usize, shard_objects: u32) -> Vec<String> {
    let survey = ToySurvey::new(&vec![""; objects], shard_objects);
    assert_eq!(survey.run(0), 0);
    survey.digests()
}

#[test]
fn crash_of_the_whole_job_at_several_moments_leaves_the_same_content() {
    let want = reference(4, 4);
    // Bytes in the journals when everything is killed: at the first sign of work, among the states, among the records.
    for (bytes, ranks, again) in [(1, 3, 2), (3_000, 2, 3), (12_000, 0, 2), (25_000, 3, 0)] {
        let survey = ToySurvey::new(&["sleep=4"; 4], 4);
        let mut run = survey.start(ranks);
        run.until("work", || survey.journaled() >= bytes);
        run.kill_all();
        assert!(!survey.report("status")["complete"].as_bool().unwrap());
        assert_eq!(survey.run(again), 0, "killed at {bytes} bytes");
        assert_eq!(survey.digests(), want, "killed at {bytes} bytes");
    }
}

#[test]
fn crash_of_one_rank_ends_the_job_and_the_next_run_goes_on() {
    let want = reference(4, 2);
    let survey = ToySurvey::new(&["sleep=4"; 4], 2);
    let mut run = survey.start(3);
    run.until("work", || survey.journaled() > 2_000);
    let ranks = run.ranks();
    assert_eq!(ranks.len(), 3);
    kill(ranks[1], libc::SIGKILL);
    assert_ne!(run.code(), 0);
    assert_eq!(survey.run(3), 0);
    assert_eq!(survey.digests(), want);
}

#[test]
fn crash_twice_on_one_object_fails_that_object_only() {
    let survey = ToySurvey::new(&["sleep=3", "sleep=3", "sleep=3;crash=1.2", "sleep=3", "sleep=3"], 5);
    let mut deaths = 0;
    let code = loop {
        let code = survey.run(2);
        if code == 3 || code == 0 {
            break code;
        }
        deaths += 1;
        assert!(deaths <= 4, "the object takes the process down again and again");
    };
    assert_eq!(code, 3);
    assert!(deaths >= 2);
    let failures = survey.failures();
    assert_eq!(failures.keys().collect::<Vec<_>>(), ["toy-2"]);
    assert!(failures["toy-2"].starts_with("crashed"), "{failures:?}");

    // Retry means what it says: the object is tried again, and the others are not.
    let cleared = survey.report("retry");
    assert_eq!(cleared["objects"], serde_json::json!(["toy-2"]));
    assert_eq!(survey.report("status")["done"], 4);
    // Who is asked for and has nothing to be cleared is told.
    let again = survey.report_with("retry", &["--object", "toy-2", "--object", "toy-1", "--object", "nobody"]);
    assert_eq!(again["not_failed"], serde_json::json!(["nobody", "toy-1", "toy-2"]), "{again}");
    let code = survey.run(0);
    assert!(code != 0 && code != 3, "code {code}: the object was not tried again");
}

#[test]
fn crash_with_a_torn_journal_does_the_lost_part_again() {
    let want = reference(3, 3);
    for damage in 0..3 {
        let survey = ToySurvey::new(&["sleep=4"; 3], 3);
        let mut run = survey.start(2);
        run.until("work", || survey.journaled() > 15_000);
        run.kill_all();
        let journal = &survey.files("journals")[0];
        let mut bytes = std::fs::read(journal).unwrap();
        let length = bytes.len();
        match damage {
            0 => bytes.truncate(length - 7),
            1 => bytes[length / 2..length / 2 + 900].fill(0x55),
            _ => bytes[..40].fill(0),
        }
        std::fs::write(journal, bytes).unwrap();
        let log = survey.path("log-2");
        assert_eq!(survey.run(0), 0);
        assert!(std::fs::read_to_string(log).unwrap().contains("damaged bytes were skipped"), "damage {damage}");
        assert_eq!(survey.digests(), want, "damage {damage}");
    }
}

/// A claim of a process on another machine, last touched so long ago.
fn foreign_claim(survey: &ToySurvey, ago: Duration) {
    let claim = survey.path("run/claims/00000.claim.1");
    std::fs::write(&claim, r#"{"host":"elsewhere","pid":1,"boot":"another","started":1}"#).unwrap();
    let file = std::fs::File::options().write(true).open(&claim).unwrap();
    file.set_modified(SystemTime::now() - ago).unwrap();
}

#[test]
fn crash_elsewhere_leaves_a_claim_that_is_taken_over_once_it_is_stale() {
    let want = reference(3, 1);
    for (ago, waits) in [(Duration::from_secs(3600), 0), (Duration::ZERO, 2)] {
        let survey = ToySurvey::new(&[""; 3], 1);
        survey.edit("claim_timeout = 5", "claim_timeout = 2");
        survey.report("plan");
        foreign_claim(&survey, ago);
        let started = std::time::Instant::now();
        assert_eq!(survey.run(0), 0);
        // The timeout has to pass first, because the holder might be alive.
        assert!(started.elapsed() >= Duration::from_secs(waits), "{ago:?}");
        assert!(std::fs::read_to_string(survey.path("log-1")).unwrap().contains("taken over from elsewhere"));
        assert_eq!(survey.digests(), want);
    }
}

#[test]
fn crash_free_holder_of_a_claim_is_left_alone() {
    let survey = ToySurvey::new(&[""; 3], 1);
    survey.report("plan");
    foreign_claim(&survey, Duration::ZERO);
    let mut run = survey.start(0);
    run.until("the other shards", || survey.files("receipts").len() == 2);
    // The other job touches its claim: this one leaves the shard to it, and has nothing else to do.
    std::thread::sleep(Duration::from_millis(300));
    foreign_claim(&survey, Duration::ZERO);
    assert_eq!(run.code(), 0);
    assert_eq!(survey.files("receipts").len(), 2);
    assert!(!survey.report("status")["complete"].as_bool().unwrap());
    // Whoever knows that the other job is gone need not wait.
    assert_eq!(survey.report_with("retry", &["--claims"])["claims"], serde_json::json!([0]));
    assert_eq!(survey.run(0), 0);
    assert_eq!(survey.digests(), reference(3, 1));
}

#[test]
fn crash_free_jobs_share_one_run_folder() {
    let want = reference(8, 1);
    let survey = ToySurvey::new(&["sleep=15"; 8], 1);
    // One after the other they would plan; at once they must not trip over each other.
    let runs = [survey.start(2), survey.start(0)];
    for run in runs {
        assert_eq!(run.code(), 0);
    }
    assert_eq!(survey.digests(), want);
    for log in ["log-1", "log-2"] {
        let said = std::fs::read_to_string(survey.path(log)).unwrap();
        assert!(said.contains("published"), "{log} took no part: {said}");
    }
}

#[test]
fn crash_free_zombie_wakes_up_and_changes_nothing() {
    let want = reference(2, 2);
    let survey = ToySurvey::new(&["sleep=10"; 2], 2);
    survey.edit("claim_timeout = 5", "claim_timeout = 1");
    let mut zombie = survey.start(0);
    zombie.until("work", || survey.journaled() > 500);
    zombie.signal(libc::SIGSTOP);
    let thief = survey.start(0);
    assert_eq!(thief.code(), 0);
    let digests = survey.digests();
    assert_eq!(digests, want);
    let receipt = std::fs::read(survey.path("run/receipts/00000.json")).unwrap();
    zombie.signal(libc::SIGCONT);
    assert_eq!(zombie.code(), 0);
    assert_eq!(survey.digests(), want);
    assert_eq!(std::fs::read(survey.path("run/receipts/00000.json")).unwrap(), receipt);
}

#[test]
fn crash_free_drift_of_the_plan_is_named() {
    let survey = ToySurvey::new(&[""; 2], 2);
    survey.report("plan");
    survey.edit("steps = 6", "steps = 7");
    let output = unseeing().args(["run", "--engine", "toy"]).arg(survey.path("survey.toml")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("`sampler.steps` was 6 and is 7"), "{said}");
    // What is not there at all is told with its key.
    survey.edit("steps = 7", "steps = 6");
    for (file, key) in [("catalog.csv", "catalog.paths"), ("prior.safetensors", "prior.path")] {
        std::fs::rename(survey.path(file), survey.path("away")).unwrap();
        for command in ["plan", "pack"] {
            let output = unseeing().arg(command).arg(survey.path("survey.toml")).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let named = said.contains(&format!("{file}: ")) && said.contains(&format!("mend `{key}`"));
            assert!(output.status.code() == Some(2) && named, "{command}: {said}");
        }
        std::fs::rename(survey.path("away"), survey.path(file)).unwrap();
    }
}

#[test]
fn crash_free_verify_notices_a_changed_product() {
    let survey = ToySurvey::new(&[""; 2], 1);
    assert_eq!(survey.run(0), 0);
    let product = &survey.files("shards")[0];
    let mut bytes = std::fs::read(product).unwrap();
    bytes[30] ^= 1;
    std::fs::write(product, bytes).unwrap();
    let output = unseeing().arg("verify").arg(survey.path("survey.toml")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("receipt says"));
}
