//! The program dies, freezes or meets an error of the operating system at each of its failpoints: before and after
//! everything that it writes, renames, claims and receives. The next run gives the content of an undisturbed one.

use std::time::{Duration, Instant};

use unseeing::failpoint::NAMES;

use crate::common::{PATIENCE, Run, ToySurvey, kill, unseeing};

const KILLED: i32 = 128 + libc::SIGKILL;

/// Two shards, one of them with an object that fails, and journals written often.
const OBJECTS: [&str; 4] = ["", "", "stumble=2.3", ""];

fn survey() -> ToySurvey {
    let survey = ToySurvey::new(&OBJECTS, 2);
    survey.edit("claim_timeout = 5", "claim_timeout = 1");
    survey
}

fn reference() -> Vec<String> {
    let survey = survey();
    assert_eq!(survey.run(0), 3);
    survey.digests()
}

/// The passages through `name` at which things happen. Published are targets, config, plan, then product and receipt of
/// each shard; frames are written by the dozen.
fn passages(name: &str) -> &'static [u32] {
    match name {
        _ if name.starts_with("publish.") => &[1, 3, 4, 5, 7],
        "journal.append" | "journal.torn" | "journal.appended" => &[1, 4, 7],
        "claim.create" | "claim.created" | "claim.written" => &[1, 2],
        _ => &[1],
    }
}

/// Those that a run comes to that is neither asked to stop nor slow, and that nobody clears.
fn of_a_run() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(|name| {
        !name.starts_with("retry.")
            && !name.starts_with("claim.release")
            && !["claim.touch", "run.leaving"].contains(name)
    })
}

/// Nothing is left of what only served to make the products.
fn assert_tidy(survey: &ToySurvey) {
    assert_eq!(survey.files("claims"), Vec::<std::path::PathBuf>::new());
    // The shard with the failed object keeps its own, for `retry`.
    assert!(survey.files("journals").iter().all(|path| path.to_string_lossy().contains("00001.journal")));
}

#[test]
fn crash_at_every_failpoint_leaves_the_same_content() {
    let want = reference();
    let mut kills = 0;
    for name in of_a_run() {
        for &passage in passages(name) {
            let survey = survey();
            let place = format!("{name}:{passage}");
            // Mostly alone, since that is quick; and as the leader of three.
            let ranks = if kills % 6 == 0 { 3 } else { 0 };
            let code = survey.start_failing(ranks, 0, &format!("{place}=kill")).code();
            assert!(
                survey.said().contains(&format!("failpoint {place}\n")),
                "{place} is not come to: {}",
                survey.said()
            );
            assert!(code == KILLED, "{place}: {code}");
            let again = if kills % 6 == 3 { 2 } else { 0 };
            assert_eq!(survey.run(again), 3, "after {place}:\n{}", survey.said());
            assert_eq!(survey.digests(), want, "after {place}");
            assert_eq!(survey.failures().len(), 1, "after {place}");
            assert_tidy(&survey);
            kills += 1;
        }
    }
    println!("{kills} kills, all survived");
}

#[test]
fn crash_during_a_stop_or_a_retry_leaves_the_same_content() {
    let want = reference();
    for name in ["claim.release", "claim.released", "journal.sync", "journal.synced", "claim.touch", "run.leaving"] {
        let slow: Vec<String> = OBJECTS.iter().map(|object| format!("sleep=8;{object}")).collect();
        let survey = ToySurvey::new(&slow.iter().map(String::as_str).collect::<Vec<_>>(), 2);
        survey.edit("claim_timeout = 5", "claim_timeout = 1");
        survey.edit("journal_interval = 0.01", "journal_interval = 0.3");
        let mut run = survey.start_failing(0, 0, &format!("{name}=kill"));
        run.until("work", || survey.journaled() > 0);
        // Long enough for claims to be touched.
        std::thread::sleep(Duration::from_millis(if name == "claim.touch" { 300 } else { 50 }));
        run.signal(libc::SIGUSR1);
        assert_eq!(run.code(), KILLED, "{name}: {}", survey.said());
        assert_eq!(survey.run(2), 3, "after {name}");
        assert_eq!(survey.digests(), want, "after {name}");
    }
    for name in ["claim.create", "claim.written", "journal.append", "journal.torn", "retry.journaled", "retry.removed"]
    {
        let survey = survey();
        assert_eq!(survey.run(0), 3);
        let mut retry = unseeing();
        retry.arg("retry").arg(survey.path("survey.toml")).env("UNSEEING_FAILPOINT", format!("{name}=kill"));
        assert_eq!(Run::start(retry, survey.path("retry")).code(), KILLED, "{name}");
        // Either nothing has happened yet, or the object is tried again.
        assert_eq!(survey.run(0), 3, "after {name}");
        assert_eq!(survey.digests(), want, "after {name}");
        assert_eq!(survey.report("retry")["objects"], serde_json::json!(["toy-2"]), "after {name}");
        assert_eq!(survey.run(0), 3);
        assert_eq!(survey.digests(), want, "after {name}");
    }
}

/// A disk or a quota that is full at the write named, and at all later ones of its kind.
#[test]
fn crash_free_full_disk_at_every_write_is_named_and_blames_no_object() {
    let want = reference();
    let writes = of_a_run()
        .filter(|name| name.starts_with("publish.") || name.starts_with("journal.") || name.starts_with("claim."));
    for (index, name) in writes.enumerate() {
        let (action, words) = [("full", "No space left on device"), ("quota", "uota exceeded")][index % 2];
        for passage in [1, *passages(name).last().unwrap()] {
            let survey = survey();
            // Twice, since two deaths would fail the objects in flight.
            for _ in 0..2 {
                let code = survey.start_failing(0, 0, &format!("{name}:{passage}={action}")).code();
                let said = survey.said();
                // What was published in the first run is not published again in the second.
                if code == 3 {
                    continue;
                }
                assert_eq!(code, 1, "{name}:{passage}: {said}");
                assert!(said.contains(words) && said.contains("/run/"), "{name}: {said}");
            }
            assert_eq!(survey.run(0), 3, "after {name}:{passage}: {}", survey.said());
            assert_eq!(survey.failures().keys().collect::<Vec<_>>(), ["toy-2"], "after {name}:{passage}");
            assert_eq!(survey.digests(), want, "after {name}:{passage}");
        }
    }
}

#[test]
fn crash_free_failpoints_that_do_not_exist_are_an_error() {
    let output = unseeing().env("UNSEEING_FAILPOINT", "journal.apend=kill").arg("doctor").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("journal.append"));
}

/// The holder of a shard freezes wherever it may, is overtaken, and wakes when all is done.
#[test]
fn crash_free_zombie_at_every_failpoint_changes_nothing() {
    let want = reference();
    let places = [
        "claim.created",
        "claim.written",
        "journal.created",
        "journal.append:8",
        "journal.torn:8",
        "publish.create:4",
        "publish.written:4",
        "publish.flushed:4",
        "publish.renamed:4",
        "receipt.before",
        "publish.flushed:5",
        "receipt.after",
        "clean.journals",
    ];
    let mut zombies = Vec::new();
    for place in places {
        let survey = survey();
        // Frozen for longer than that, since the other places come before it wakes: its worker was not silent, it was frozen too.
        survey.edit("hang_timeout = 20", "hang_timeout = 5");
        let mut zombie = survey.start_failing(0, 0, &format!("{place}=freeze"));
        zombie.until_frozen(None);
        survey.edit("hang_timeout = 5", "hang_timeout = 20");
        zombies.push((place, survey, zombie));
    }
    for (index, (place, survey, zombie)) in zombies.into_iter().enumerate() {
        // Every other one wakes while the thief is still at work.
        let thief = survey.start(0);
        if index % 2 == 0 {
            assert_eq!(thief.code(), 3, "{place}: {}", survey.said());
            assert_eq!(survey.digests(), want, "{place}");
            zombie.signal(libc::SIGCONT);
        } else {
            std::thread::sleep(Duration::from_millis(200));
            zombie.signal(libc::SIGCONT);
            let code = thief.code();
            assert!(code == 3 || code == 0, "{place}: {code}");
        }
        let code = zombie.code();
        assert!(code == 3 || code == 0, "{place}: {code}");
        assert_eq!(survey.run(0), 3, "{place}");
        assert_eq!(survey.digests(), want, "{place}");
    }
}

/// A rank that is frozen in any phase ends its job, as one that can be run again: (ranks, who, where).
#[test]
fn mpi_a_rank_frozen_in_any_phase_ends_the_job() {
    for (ranks, rank, place) in [
        // A follower: before it hears of its work, before its first word, after its last.
        (3, 2, "run.joined"),
        (3, 1, "run.started"),
        (3, 2, "run.leaving"),
        // The leader: before its first lease, among its work, while it publishes, after its last word.
        (3, 0, "run.started"),
        (2, 0, "journal.append:12"),
        (2, 0, "publish.written:4"),
        (3, 0, "run.leaving"),
    ] {
        let survey = ToySurvey::new(&["sleep=5"; 4], 2);
        survey.edit("hang_timeout = 20", "hang_timeout = 1");
        let mut run = survey.start_failing(ranks, rank, &format!("{place}=freeze"));
        run.until_frozen(Some(rank));
        let (frozen, started) = (run.ranks()[rank], Instant::now());
        assert_eq!(run.code(), 75, "{place}: {}", survey.said());
        assert!(started.elapsed() < PATIENCE / 3, "{place}");
        assert!(survey.said().contains("silent"), "{place}: {}", survey.said());
        kill(frozen, libc::SIGKILL);
        // A busy machine may take longer than that to end a program.
        survey.edit("hang_timeout = 1", "hang_timeout = 20");
        assert_eq!(survey.run(2), 0, "{place}: {}", survey.said());
    }
}

/// A rank that dies or leaves in any phase ends its job, promptly.
#[test]
fn mpi_a_rank_that_dies_in_any_phase_ends_the_job() {
    for (rank, place) in [
        (1, "run.joined=kill"),
        (1, "run.started=exit"),
        (0, "run.joined=exit"),
        (0, "run.started=kill"),
        (1, "run.leaving=kill"),
    ] {
        let survey = ToySurvey::new(&["sleep=5"; 4], 2);
        let started = Instant::now();
        assert_ne!(survey.start_failing(3, rank, place).code(), 0, "{place}");
        assert!(started.elapsed() < PATIENCE / 3, "{place}");
        assert_eq!(survey.run(2), 0, "{place}: {}", survey.said());
    }
}
