//! Ranks that die amid work, and what that costs: the job ends at once, and no more work is lost than between two saves. And how
//! long a stop takes.

use std::time::{Duration, Instant};

use crate::common::{PATIENCE, ToySurvey};

/// A stop is to take one step and so much; a step of these toys takes a tenth of a second.
const STOP: Duration = Duration::from_millis(15_100);

/// The ways in which a rank can go at a step of its worker, before its work and after it: (rank, place).
const DEATHS: [(usize, &str); 11] = [
    (1, "worker.step:5=kill"),
    (1, "worker.step:5=panic"),
    (0, "worker.step:5=panic"),
    (1, "worker.step:5=exit"),
    (0, "worker.step:5=exit"),
    (2, "run.joined=panic"),
    (1, "run.started=panic"),
    (0, "run.started=panic"),
    (1, "run.started=error"),
    (0, "run.started=error"),
    (1, "run.leaving=panic"),
];

#[test]
fn mpi_a_rank_that_panics_exits_or_errs_in_any_phase_ends_the_job() {
    let reference = ToySurvey::new(&[""; 4], 2);
    assert_eq!(reference.run(0), 0);
    let want = reference.digests();
    for (rank, place) in DEATHS {
        let survey = ToySurvey::new(&["sleep=5"; 4], 2);
        let started = Instant::now();
        let code = survey.start_failing(3, rank, place).code();
        assert!(code != 0 && code != 3, "rank {rank}, {place}: {code}: {}", survey.said());
        // Long before anybody's silence would be noticed: that takes 20 s here.
        assert!(started.elapsed() < PATIENCE / 4, "rank {rank}, {place}: {:?}", started.elapsed());
        let said = survey.said();
        assert!(!place.ends_with("panic") || said.contains("at the failpoint"), "rank {rank}, {place}: {said}");
        assert!(!place.ends_with("error") || said.contains("Input/output error"), "rank {rank}, {place}: {said}");
        assert_eq!(survey.run(2), 0, "rank {rank}, {place}: {}", survey.said());
        assert_eq!(survey.digests(), want, "rank {rank}, {place}");
    }
}

/// An error of libtorch, say, in a step: the object fails with its reason, the survey goes on.
#[test]
fn mpi_a_step_that_errs_fails_its_object_only() {
    let survey = ToySurvey::new(&["sleep=5"; 3], 1);
    let code = survey.start_failing(2, 1, "worker.step:9=error").code();
    // Every step of that rank fails from then on: it is not to be trusted with more objects.
    assert!(code == 3 || code == 75 || code == 1, "{code}: {}", survey.said());
    assert!(survey.said().contains("worker.step"), "{}", survey.said());
    survey.report("retry");
    assert_eq!(survey.run(2), 0, "{}", survey.said());
    let quiet = ToySurvey::new(&[""; 3], 1);
    assert_eq!(quiet.run(0), 0);
    assert_eq!(survey.digests(), quiet.digests());
}

/// One object of 36 steps of 50 ms; killed before its 30th, with so many seconds between two saves. Whether the next run ends with
/// at most so many further steps: it is killed before one more.
fn ends_within(steps: u32, interval: &str) -> bool {
    let survey = ToySurvey::new(&["sleep=50"], 1);
    survey.edit("journal_interval = 0.01", &format!("journal_interval = {interval}"));
    assert_eq!(survey.start_failing(0, 0, "worker.step:30=kill").code(), 128 + libc::SIGKILL);
    survey.start_failing(0, 0, &format!("worker.step:{}=kill", steps + 1)).code() == 0
}

#[test]
fn crash_loses_no_more_work_than_between_two_saves() {
    // 29 steps are done, and 7 are left. Half a second is ten steps at most, however slow the machine is; and the step that
    // the save waits for.
    assert!(ends_within(7 + 10 + 1, "0.5"));
    // Without saves all is lost: the bound means something.
    assert!(!ends_within(7 + 10 + 1, "1000"));
}

#[test]
fn mpi_stops_take_no_longer_than_a_step_and_fifteen_seconds() {
    let reference = ToySurvey::new(&[""; 12], 4);
    assert_eq!(reference.run(0), 0);
    let survey = ToySurvey::new(&["sleep=100"; 12], 4);
    let mut times = Vec::new();
    for _ in 0..3 {
        let journals = survey.files("journals").len();
        let mut run = survey.start(3);
        run.until("work", || survey.files("journals").len() > journals);
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        run.signal(libc::SIGUSR1);
        assert_eq!(run.code(), 75, "{}", survey.said());
        times.push(asked.elapsed());
    }
    println!("from signal to exit: {times:?}");
    assert!(times.iter().all(|&time| time < STOP), "{times:?}");
    assert_eq!(survey.report("status")["complete"], false);
    assert_eq!(survey.run(3), 0, "{}", survey.said());
    assert_eq!(survey.digests(), reference.digests());
}
