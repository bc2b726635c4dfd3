//! What does not belong into a run folder: files of another survey, of another plan of the same survey, or of another shard. It
//! is never taken for this survey's own; who meets it names it, and says what helps.

use crate::common::{ToySurvey, unseeing};

/// Three objects in three shards, of this seed.
fn survey(seed: u32) -> ToySurvey {
    let survey = ToySurvey::new(&["", "stumble=2.3", ""], 1);
    survey.edit("seed = 5", &format!("seed = {seed}"));
    survey
}

/// Calls a command; the exit code, and all that was said.
fn call(survey: &ToySurvey, command: &[&str]) -> (i32, String) {
    let output = unseeing().args(command).arg(survey.path("survey.toml")).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

const RUN: &[&str] = &["run", "--engine", "toy"];

/// Each of these commands fails, names the file and says these words.
fn refused(survey: &ToySurvey, file: &str, words: &[&str], commands: &[&[&str]]) {
    for command in commands {
        let (code, said) = call(survey, command);
        assert_eq!(code, 1, "{file}: {command:?}: {said}");
        assert!(said.contains(&format!("{file}: ")), "{file}: {command:?}: {said}");
        words.iter().for_each(|words| assert!(said.contains(words), "{file}: {command:?}: no `{words}` in {said}"));
    }
}

fn copy(from: &ToySurvey, to: &ToySurvey, file: &str) {
    std::fs::copy(from.path("run").join(file), to.path("run").join(file)).unwrap();
}

#[test]
fn crash_free_receipts_of_other_surveys_plans_and_shards_are_refused() {
    let (own, other) = (survey(5), survey(6));
    for survey in [&own, &other] {
        assert_eq!(survey.run(0), 3);
    }
    let want = own.digests();
    let receipt = "receipts/00000.json";
    let whole = std::fs::read(own.path("run").join(receipt)).unwrap();
    let all: &[&[&str]] = &[RUN, &["status"], &["verify"], &["retry"], &["merge", "--out", "survey.h5"]];

    copy(&other, &own, receipt);
    copy(&other, &own, "shards/00000.records");
    refused(&own, receipt, &["belongs to another plan", "remove it, and its shard is done again"], all);
    // What is said helps.
    std::fs::remove_file(own.path("run").join(receipt)).unwrap();
    assert_eq!(own.run(0), 3);
    assert_eq!(own.digests(), want);

    // A product that was purged is not done, whatever its receipt says.
    let product = own.path("run/shards/00000.records");
    std::fs::rename(&product, own.path("away")).unwrap();
    refused(&own, "shards/00000.records", &["remove its receipt", receipt], &[RUN, &["verify"]]);
    std::fs::rename(own.path("away"), &product).unwrap();

    // Another shard's, under this name.
    let (path, second) = (own.path("run").join(receipt), own.path("run/receipts/00001.json"));
    std::fs::copy(&second, &path).unwrap();
    refused(&own, receipt, &["is the receipt of shard 1", "remove it"], &all[..4]);
    std::fs::write(&path, &whole).unwrap();

    // One too many does not stand for one that is missing.
    std::fs::copy(&path, own.path("run/receipts/00007.json")).unwrap();
    std::fs::remove_file(&path).unwrap();
    refused(&own, "receipts/00007.json", &["has no shard 7", "Remove it"], all);
    std::fs::remove_file(own.path("run/receipts/00007.json")).unwrap();
    assert_eq!(own.report("status")["complete"], false);
    assert_eq!(own.run(2), 3);
    assert_eq!(own.digests(), want);
}

/// Stopped in its middle, so that there are journals and claims.
fn begun(seed: u32) -> ToySurvey {
    let survey = ToySurvey::new(&["", "sleep=30", "sleep=30"], 3);
    survey.edit("seed = 5", &format!("seed = {seed}"));
    let mut run = survey.start(0);
    run.until("work", || survey.journaled() > 4_000);
    run.signal(libc::SIGUSR1);
    assert_eq!(run.code(), 75);
    survey
}

#[test]
fn crash_free_journals_of_other_plans_are_refused_and_strays_are_named() {
    let (own, other) = (begun(5), begun(6));
    let want = {
        let quick = ToySurvey::new(&[""; 3], 3);
        assert_eq!(quick.run(0), 0);
        quick.digests()
    };
    let journal = "journals/00000.journal.1";
    let whole = std::fs::read(own.path("run").join(journal)).unwrap();
    copy(&other, &own, journal);
    let words =
        ["was written for another plan", "plan it in another folder", "remove it, and what it holds is done again"];
    refused(&own, journal, &words, &[RUN, &["status"], &["retry"]]);
    std::fs::write(own.path("run").join(journal), whole).unwrap();

    // Files of shards that this survey has not: nobody reads them, and `verify` tells of them.
    let strays = ["claims/00009.claim.1", "journals/00009.journal.2", "shards/00009.records"];
    strays.iter().for_each(|stray| std::fs::write(own.path("run").join(stray), "of another survey").unwrap());
    // A number that leaves none for the next attempt.
    std::fs::write(own.path("run/journals/00000.journal.4294967295"), "of nobody").unwrap();
    assert_eq!(call(&own, RUN).0, 0);
    strays.iter().for_each(|stray| refused(&own, stray, &["has no shard 9, but 1. Remove it"], &[&["verify"]]));
    assert_eq!(call(&own, &["retry", "--claims"]).0, 0);
    strays.iter().for_each(|stray| std::fs::remove_file(own.path("run").join(stray)).unwrap());
    assert_eq!(own.digests(), want);
}

/// At night somebody removes the plan, since it is in the way of a changed config.
#[test]
fn crash_free_planning_anew_over_an_older_survey_mixes_nothing() {
    let reference = begun(5);
    assert_eq!(reference.run(0), 0);
    let want = reference.digests();
    let change = |survey: &ToySurvey, from: &str, to: &str| {
        survey.edit(from, to);
        std::fs::remove_file(survey.path("run/plan.json")).unwrap();
    };
    // Its products are not taken for those of the new plan.
    change(&reference, "seed = 5", "seed = 8");
    refused(&reference, "receipts/00000.json", &["belongs to another plan", "plan it in another folder"], &[RUN]);
    // Nor is half of its work.
    let survey = begun(5);
    change(&survey, "seed = 5", "seed = 8");
    refused(
        &survey,
        "journals/00000.journal.1",
        &["was written for another plan", "plan it in another folder"],
        &[RUN],
    );
    // The old config makes the old plan again, and all is there.
    change(&survey, "seed = 8", "seed = 5");
    assert_eq!(survey.run(0), 0, "{}", survey.said());
    assert_eq!(survey.digests(), want);
}
