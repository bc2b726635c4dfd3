//! kill -9 at random moments, of one rank or of the whole job, and starting again with another number of ranks, until so
//! many kills were done: a few of them in the usual tests, as many as wanted by `make chaos N=200 [SEED=1]`.

use std::time::{Duration, Instant};

use unseeing::random::{Key, Purpose};

use crate::common::{ToySurvey, kill};

const OBJECTS: [&str; 6] = ["sleep=4", "sleep=3", "sleep=6;stumble=2.3", "sleep=4", "sleep=8", ""];

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Choices in 0..1, the same for the same seed and turn.
fn choices(seed: u64, turn: u32) -> Vec<f64> {
    Key::new(seed, "chaos", turn, Purpose::Evaluation, 0).uniform(4)
}

#[test]
fn crash_at_random_moments_leaves_the_same_content() {
    let (wanted, seed) = (number("UNSEEING_CHAOS", 12) as u32, number("UNSEEING_CHAOS_SEED", 1));
    println!("{wanted} kills, seed {seed}");
    let survey = || {
        let survey = ToySurvey::new(&OBJECTS, 2);
        survey.edit("claim_timeout = 5", "claim_timeout = 1");
        survey
    };
    let reference = survey();
    let started = Instant::now();
    assert_eq!(reference.run(0), 3);
    // From before the first sign of life to after the end.
    let longest = 1.5 * started.elapsed().as_secs_f64();
    let want = reference.digests();
    let (mut kills, mut turn, mut surveys, mut cleared, mut at_work) = (0, 0, 0, 0, 0);
    while kills < wanted {
        surveys += 1;
        let survey = survey();
        loop {
            let choice = choices(seed, turn);
            turn += 1;
            let ranks = (choice[0] * 5.0) as usize;
            // The launcher needs half a second by itself.
            let delay = choice[1] * longest + if ranks > 0 { 0.3 } else { 0.0 };
            let journaled = survey.journaled();
            let run = survey.start(ranks);
            let story = format!("seed {seed}, survey {surveys}, turn {turn}: {ranks} ranks");
            if kills < wanted {
                std::thread::sleep(Duration::from_secs_f64(delay));
                let members = run.ranks();
                let code = if ranks == 0 || choice[2] < 0.5 || members.is_empty() {
                    run.kill_all_code()
                } else {
                    kill(members[(choice[3] * members.len() as f64) as usize % members.len()], libc::SIGKILL);
                    run.code()
                };
                if code != 3 {
                    kills += 1;
                    at_work += u32::from(survey.journaled() != journaled);
                    continue;
                }
            } else {
                assert_eq!(run.code(), 3, "{story}: {}", survey.said());
            }
            // It has ended by itself. Objects that were in flight at two kills are to be tried again.
            let crashed = survey.failures().values().filter(|reason| reason.starts_with("crashed")).count();
            if crashed > 0 {
                cleared += crashed;
                survey.report("retry");
                continue;
            }
            assert_eq!(survey.digests(), want, "{story}: {}", survey.said());
            break;
        }
    }
    println!(
        "{kills} kills ({at_work} among work) in {turn} runs of {surveys} surveys, {cleared} objects cleared, no content differs"
    );
    assert!(at_work > 0, "no kill hit anything");
}
