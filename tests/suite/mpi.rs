//! Surveys under mpirun: the same products on any number of ranks, and stops that lose nothing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::{PATIENCE, Run, ToySurvey, kill, mpirun, squeue, unseeing};

/// Good ones, one that cannot be opened, one that fails half-way.
const MIXED: [&str; 7] = ["", "", "fail=1", "", "stumble=2.3", "", ""];

#[test]
fn mpi_any_number_of_ranks_gives_the_same_content() {
    let alone = ToySurvey::new(&MIXED, 3);
    assert_eq!(alone.run(0), 3);
    let want = alone.digests();
    assert_eq!(want.len(), 3);
    for ranks in [1, 2, 3, 5] {
        let survey = ToySurvey::new(&MIXED, 3);
        assert_eq!(survey.run(ranks), 3, "{ranks} ranks");
        assert_eq!(survey.digests(), want, "{ranks} ranks");
        let receipt = std::fs::read_to_string(survey.path("run/receipts/00000.json")).unwrap();
        let receipt: serde_json::Value = serde_json::from_str(&receipt).unwrap();
        assert_eq!(receipt["ranks"], ranks, "the ranks did not find each other");
        assert_eq!(survey.failures()["toy-2"], "was told to fail");
        assert_eq!(survey.failures()["toy-4"], "was told to stumble in block 2");
    }
    // A second run has nothing to do, and says the same.
    assert_eq!(alone.run(2), 3);
    assert_eq!(alone.digests(), want);
}

#[test]
fn mpi_one_object_is_shared_between_all_ranks() {
    let alone = ToySurvey::new(&["sleep=0"], 1);
    assert_eq!(alone.run(0), 0);
    // Slow enough for a rank that starts late to find something left.
    let survey = ToySurvey::new(&["sleep=80"], 1);
    assert_eq!(survey.run(3), 0);
    assert_eq!(survey.digests(), alone.digests());
    for rank in 0..3 {
        let log = survey.rank_log(rank);
        // The root of six blocks has level 3: a lease of it would be the whole object, or the finishing of it.
        let parts = log.iter().filter(|line| line["fields"]["message"] == "lease" && line["fields"]["level"] != 3);
        assert!(parts.count() > 0, "rank {rank} had no part: {log:?}");
    }
}

/// A slow object that one rank has got as a whole, while others have nothing to do any more.
#[test]
fn mpi_idle_ranks_take_over_from_a_busy_one() {
    let alone = ToySurvey::new(&[""; 4], 4);
    assert_eq!(alone.run(0), 0);
    let survey = ToySurvey::new(&["sleep=80", "sleep=5", "sleep=5", "sleep=5"], 4);
    assert_eq!(survey.run(3), 0);
    assert_eq!(survey.digests(), alone.digests());
    let leases = |rank: usize| -> Vec<serde_json::Value> {
        let log = survey.rank_log(rank).into_iter();
        log.filter(|line| line["fields"]["message"] == "lease" && line["fields"]["object"] == "toy-0").collect()
    };
    let all: Vec<_> = (0..3).map(leases).collect();
    assert!(all.iter().flatten().any(|line| line["fields"]["level"] == 3), "never leased as a whole: {all:?}");
    let sharing = all.iter().filter(|leases| leases.iter().any(|line| line["fields"]["level"] != 3)).count();
    assert!(sharing >= 2, "only {sharing} ranks had parts of it: {all:?}");
}

#[test]
fn mpi_stop_signal_saves_everything_and_the_next_run_goes_on() {
    let instructions = ["sleep=10"; 6];
    let reference = ToySurvey::new(&["sleep=0"; 6], 2);
    assert_eq!(reference.run(0), 0);
    let survey = ToySurvey::new(&instructions, 2);
    // Only the stop itself may save.
    survey.edit("journal_interval = 0.01", "journal_interval = 1000");
    let mut run = survey.start(3);
    run.until("work", || survey.journaled() > 0);
    std::thread::sleep(Duration::from_millis(100));
    let before = survey.journaled();
    run.signal(libc::SIGUSR1);
    assert_eq!(run.code(), 75);
    assert!(survey.journaled() > before, "nothing was saved at the stop");
    assert!(!survey.report("status")["complete"].as_bool().unwrap());
    // Given back: nobody has to wait for the claims, and no death is counted.
    let claims = survey.files("claims");
    assert!(!claims.is_empty());
    assert!(claims.iter().all(|path| std::fs::read(path).unwrap().starts_with(b"released")));
    assert_eq!(survey.run(2), 0);
    assert_eq!(survey.digests(), reference.digests());
}

/// What is told at the end, for scripts: by rank 0 alone, on standard output, whatever the exit code.
#[test]
fn mpi_run_reports_as_json() {
    let survey = ToySurvey::new(&MIXED, 3);
    for _ in 0..2 {
        let mut command = mpirun(2);
        command.args(["run", "--engine", "toy", "--json"]).arg(survey.path("survey.toml"));
        let output = command.output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &report["code"]), (Some(3), &3.into()), "{report}");
        let status = &report["status"];
        assert_eq!((&status["done"], &status["failed"], &status["complete"]), (&5.into(), &2.into(), &true.into()));
    }
}

/// Where Slurm or the config tells when the job's time is over, no signal is needed.
#[test]
fn mpi_stop_comes_before_the_end_of_the_job() {
    for source in ["environment", "squeue", "config"] {
        let survey = ToySurvey::new(&["sleep=120"; 6], 2);
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(6);
        let mut command = mpirun(2);
        command.args(["run", "--engine", "toy"]).arg(survey.path("survey.toml"));
        match source {
            "environment" => _ = command.env("SLURM_JOB_END_TIME", end.as_secs().to_string()),
            "squeue" => {
                command.env("PATH", squeue(&survey.path("tools"), 6)).env("SLURM_JOB_ID", "77");
            }
            _ => survey.edit("claim_timeout = 5", "claim_timeout = 5\ntime_limit = 5"),
        }
        assert_eq!(Run::start(command, survey.path("log")).code(), 75, "{source}");
        let over = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // squeue's time begins when the program asks, which is after mpirun and MPI have started; a busy machine is slow.
        let late = Duration::from_secs(5);
        assert!(over < end + late, "{source}: {over:?} {end:?}");
        assert!(survey.journaled() > 0, "{source}");
        let released = |path: &std::path::PathBuf| std::fs::read(path).unwrap().starts_with(b"released");
        assert!(survey.files("claims").iter().all(released), "{source}");
        if source == "squeue" {
            // One rank only, at the start and before it stops.
            let asked = std::fs::read_to_string(survey.path("tools/asked")).unwrap();
            assert!((2..=4).contains(&asked.lines().count()), "{asked}");
        }
    }
}

/// The environment of a job that has ended, and no limit, are no end.
#[test]
fn mpi_no_stop_where_squeue_knows_no_end() {
    let survey = ToySurvey::new(&[""; 2], 2);
    let mut command = unseeing();
    command.args(["run", "--engine", "toy"]).arg(survey.path("survey.toml"));
    command.env("SLURM_JOB_ID", "78").env("SLURM_JOB_END_TIME", "1000");
    assert_eq!(Run::start(command, survey.path("log")).code(), 0);
}

#[test]
fn mpi_stop_after_stop_ends_with_the_same_content() {
    let reference = ToySurvey::new(&["sleep=0"; 3], 2);
    assert_eq!(reference.run(0), 0);
    let survey = ToySurvey::new(&["sleep=6"; 3], 2);
    let mut stops = 0;
    let code = loop {
        let mut run = survey.start([0, 2][stops % 2]);
        let before = survey.files("journals").len();
        while run.is_running() && survey.files("journals").len() == before {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(120));
        run.signal(if stops % 2 == 0 { libc::SIGTERM } else { libc::SIGUSR1 });
        let code = run.code();
        if code != 75 {
            break code;
        }
        stops += 1;
        assert!(stops < 40, "nothing is kept from one stop to the next");
    };
    assert_eq!(code, 0);
    assert!(stops >= 2, "the run ended before it was stopped twice");
    assert_eq!(survey.digests(), reference.digests());
}

#[test]
fn mpi_a_bad_config_ends_all_ranks_with_2() {
    let survey = ToySurvey::new(&[""; 2], 2);
    survey.edit("steps = 6", "stepps = 6");
    let run = survey.start(3);
    let log = survey.path("log-1");
    assert_eq!(run.code(), 2);
    assert!(std::fs::read_to_string(log).unwrap().contains("stepps"));
}

#[test]
fn mpi_a_hanging_step_ends_the_job_which_can_be_run_again() {
    let survey = ToySurvey::new(&["", "hang=1.2", ""], 3);
    survey.edit("hang_timeout = 20", "hang_timeout = 2");
    for _ in 0..2 {
        let run = survey.start(2);
        let started = Instant::now();
        assert_eq!(run.code(), 75);
        assert!(started.elapsed() < PATIENCE / 2);
    }
    // It has taken two processes with it: enough.
    assert_eq!(survey.run(2), 3);
    let failures = survey.failures();
    assert_eq!(failures.len(), 1);
    assert!(failures["toy-1"].starts_with("crashed"), "{failures:?}");
}

#[test]
fn mpi_a_frozen_rank_ends_the_job_which_can_be_run_again() {
    let survey = ToySurvey::new(&["sleep=15"; 4], 4);
    survey.edit("hang_timeout = 20", "hang_timeout = 2");
    let mut run = survey.start(3);
    run.until("work", || survey.journaled() > 0);
    let ranks = run.ranks();
    assert_eq!(ranks.len(), 3);
    kill(ranks[2], libc::SIGSTOP);
    let log = survey.path("log-1");
    assert_eq!(run.code(), 75);
    assert!(std::fs::read_to_string(log).unwrap().contains("silent"));
    kill(ranks[2], libc::SIGKILL);
    assert_eq!(survey.run(2), 0);
}

/// A rank that is frozen before it has said anything: nobody may wait for its first word.
#[test]
fn mpi_a_rank_that_never_begins_ends_the_job_too() {
    let survey = ToySurvey::new(&["sleep=15"; 4], 4);
    survey.edit("hang_timeout = 20", "hang_timeout = 2");
    let mut run = survey.start(3);
    let log = survey.path("log-1");
    run.until("plan", || std::fs::read_to_string(&log).unwrap().contains("planned"));
    let ranks = run.ranks();
    assert_eq!(ranks.len(), 3);
    kill(ranks[2], libc::SIGSTOP);
    assert_eq!(run.code(), 75);
    assert!(std::fs::read_to_string(&log).unwrap().contains("silent"));
    kill(ranks[2], libc::SIGKILL);
    assert_eq!(survey.run(2), 0);
}

/// An error of the leader before it has sent anything: the others must not wait for it.
#[test]
fn mpi_a_damaged_receipt_is_told_and_no_rank_waits() {
    let survey = ToySurvey::new(&[""; 2], 2);
    assert_eq!(survey.run(2), 0);
    let receipt = survey.files("receipts").pop().unwrap();
    std::fs::write(&receipt, "{").unwrap();
    let run = survey.start(3);
    let log = survey.path("log-2");
    assert_ne!(run.code(), 0);
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("receipts") && said.contains("error"), "{said}");
}

#[test]
fn mpi_ranks_that_do_not_find_each_other_are_told_how() {
    let survey = ToySurvey::new(&[""; 2], 2);
    // As srun starts them without PMIx: several processes, and nothing by which they could meet.
    let output = unseeing()
        .env("SLURM_STEP_NUM_TASKS", "4")
        .args(["run", "--engine", "toy"])
        .arg(survey.path("survey.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--mpi=pmix"));
    assert!(!survey.path("run").exists());
}

#[test]
fn mpi_is_not_started_by_status_and_plan() {
    let survey = ToySurvey::new(&[""; 2], 2);
    // With such an environment, starting MPI would fail.
    for command in ["plan", "status"] {
        let mut program = unseeing();
        program.envs([("OMPI_COMM_WORLD_SIZE", "3"), ("OMPI_COMM_WORLD_RANK", "1"), ("PMIX_RANK", "1")]);
        let toy: &[&str] = if command == "plan" { &["--engine", "toy"] } else { &[] };
        let output = program.arg(command).args(toy).arg(survey.path("survey.toml")).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The event log of a job: who works with what, shards, warnings of other ranks, the end.
#[test]
fn mpi_event_log_tells_of_ranks_shards_warnings_and_the_end() {
    let survey = ToySurvey::new(&["", "stumble=2.3", "", ""], 2);
    assert_eq!(survey.run(3), 3, "{}", survey.said());
    let logs = survey.files("events");
    assert_eq!(logs.len(), 1);
    let text = std::fs::read_to_string(&logs[0]).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    assert_eq!((&lines[0]["event"], &lines[0]["ranks"]), (&"job".into(), &3.into()), "{text}");
    assert!(lines[0]["versions"]["code"]["libtorch"].is_string(), "{text}");
    assert!(of("rank").len() == 3 && of("rank").iter().all(|rank| rank["device"] == "cpu"), "{text}");
    assert!(of("claimed").len() == 2 && of("published").len() == 2, "{text}");
    for shard in of("published") {
        let (hours, rate) = (shard["gpu_hours"].as_f64().unwrap(), shard["objects_per_gpu_hour"].as_f64().unwrap());
        assert!(hours > 0.0 && (hours * rate - 2.0).abs() < 1e-6, "{shard}");
    }
    assert!(of("warning").iter().any(|line| line["message"].as_str().unwrap().contains("stumble")), "{text}");
    assert_eq!(lines.last().unwrap()["code"], 3, "{text}");
}
