//! One run of a job: rank 0 plans or checks the plan, everyone gets the config and the prior, workers start, rank 0
//! leads. The science comes in as a factory of engines, the product format as a shard writer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::claim;
use super::events::{Events, Warnings};
use super::folder::Folder;
use super::leader::{Leader, PAUSE, Survey};
use super::lease::{ToLeader, ToWorker, decode, encode};
use super::liveness::{abort_with, beat_interval, hung, leader_patience};
use super::pins;
use super::plan::Plan;
use super::progress::Progress;
use super::receipt::{Receipt, ShardWriter};
use super::tidy;
use super::worker::{EngineFactory, RankContext, Worker};
use crate::catalog::{self, Target};
use crate::cluster::{Comm, signals};
use crate::config::{Config, Written};
use crate::error::exit::{DONE, RESUMABLE, SOME_FAILED};
use crate::io::{digest, publish};
use crate::{Error, Result, failpoint};

/// How long ranks wait for the leader's first word: it may have a large catalogue to plan.
const PLANNING: Duration = Duration::from_secs(3600);
/// Age at which what a killed writer left behind is swept out of the run folder.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// Streams the targets of a config's catalogue.
pub fn read_targets(config: &Config) -> Result<Box<dyn Iterator<Item = Result<Target>>>> {
    Ok(Box::new(catalog::targets(config)?))
}

/// What a run needs besides its ranks.
#[derive(Clone)]
pub struct Options {
    pub config: PathBuf,
    pub factory: EngineFactory,
    pub writer: Arc<dyn ShardWriter>,
    /// What is asked of a config before the survey is planned.
    pub check: fn(&Config) -> Result<()>,
    /// Raised by a signal: save and leave.
    pub stop: Arc<AtomicBool>,
    /// When the process began: `run.time_limit` counts from there.
    pub begun: Instant,
    /// What the log of this process warns of.
    pub warnings: Warnings,
}

/// The first thing that every rank hears.
#[derive(Serialize, Deserialize)]
enum Start {
    Go {
        config: String,
        /// Its paths as they were written, which the text does not hold.
        written: Option<Written>,
        threads: u32,
        cpu_capability: Option<String>,
    },
    /// Nothing to do, or nothing can be done: leave.
    Leave,
}

/// What rank 0 knows before anything is sent.
struct Prepared {
    config: Config,
    folder: Folder,
    plan: Plan,
    prior: Vec<u8>,
}

/// Works on the survey; the same call on every rank. Returns the exit code, on ranks other than 0 always `DONE`.
///
/// # Errors
/// Only before any work (rank 0) or in a job of one rank; later errors end the whole job with their exit code, because
/// the other ranks would wait for ever.
pub fn run(comm: &dyn Comm, options: &Options) -> Result<i32> {
    comm.set_patience(PLANNING);
    if comm.rank() != 0 {
        return follow(comm, options).or_else(|error| abort_with(comm, &error));
    }
    let prepared = prepare(options);
    let leave = |code: Result<i32>| -> Result<i32> {
        comm.broadcast(encode(&Start::Leave)?)?;
        code
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return leave(Err(error)),
    };
    match finished(&prepared) {
        Ok(None) => {}
        Ok(Some(code)) => {
            tracing::info!("the survey is done");
            return leave(Ok(code));
        }
        Err(error) => return leave(Err(error)),
    }
    match lead(comm, options, prepared) {
        Err(error) if comm.size() > 1 => abort_with(comm, &error),
        outcome => outcome,
    }
}

fn prepare(options: &Options) -> Result<Prepared> {
    let config = Config::read(&options.config)?;
    let folder = Folder::new(&config.survey.folder);
    let (plan, new) = Plan::ensure(&config, &folder, || {
        (options.check)(&config)?;
        read_targets(&config)
    })?;
    if new {
        tracing::info!("planned {} objects in {} shards", plan.objects, plan.shards.len());
    }
    folder.create()?;
    let now = claim::file_system_now(&folder.claims())?;
    for place in [folder.root(), &folder.claims(), &folder.shards(), &folder.receipts()] {
        publish::sweep(place, now, LEFTOVER_AGE)?;
    }
    tidy::all(&folder)?;
    let path = &config.prior.path;
    let prior = std::fs::read(path)
        .map_err(|error| Error::usage(format!("{}: cannot read the prior: {error}", path.display())))?;
    if digest::bytes(&prior) != plan.prior.blake3 {
        return Err(Error::usage(format!("{}: the prior has just been changed", path.display())));
    }
    Ok(Prepared { config, folder, plan, prior })
}

/// The exit code of a survey that is done already.
fn finished(prepared: &Prepared) -> Result<Option<i32>> {
    let (published, failed, shards) = published(&prepared.folder, &prepared.plan)?;
    debug_assert!(published <= prepared.plan.objects);
    let code = if failed > 0 { SOME_FAILED } else { DONE };
    Ok((shards >= prepared.plan.shards.len()).then_some(code))
}

/// Objects, failed objects and shards that have receipts.
fn published(folder: &Folder, plan: &Plan) -> Result<(u64, u64, usize)> {
    let receipts = Receipt::all(folder, plan)?;
    receipts.iter().try_for_each(|receipt| receipt.check_there(folder))?;
    let sum = |of: fn(&Receipt) -> u32| receipts.iter().map(|receipt| u64::from(of(receipt))).sum();
    Ok((sum(|receipt| receipt.objects), sum(|receipt| receipt.failed), receipts.len()))
}

fn context(comm: &dyn Comm, config: Config, threads: u32, prior: Arc<Vec<u8>>) -> RankContext {
    RankContext {
        rank: comm.rank(),
        local_rank: comm.local_rank(),
        local_size: comm.local_size(),
        threads,
        config,
        prior,
    }
}

fn lead(comm: &dyn Comm, options: &Options, prepared: Prepared) -> Result<i32> {
    let Prepared { config, folder, plan, prior } = prepared;
    let text = serde_json::to_string(&config).map_err(|error| Error::internal(error.to_string()))?;
    let (threads, cpu_capability) = (plan.threads, plan.cpu_capability.clone());
    comm.set_patience(Duration::from_secs_f64(config.run.hang_timeout));
    if let Some(limit) = config.run.time_limit {
        signals::stop_after(&options.stop, Duration::from_secs_f64(limit).saturating_sub(options.begun.elapsed()));
    }
    let start =
        Start::Go { config: text, written: config.written.clone(), threads, cpu_capability: cpu_capability.clone() };
    comm.broadcast(encode(&start)?)?;
    let prior = Arc::new(comm.broadcast(prior)?);
    failpoint::at("run.started")?;
    if let Some(planned) = &cpu_capability {
        pins::pin(planned)?;
    }
    let mut worker = Worker::start(context(comm, config.clone(), threads, prior.clone()), options.factory.clone())?;
    let events = Events::start(&folder);
    events.write("job", about_job(comm, &plan)?);
    let writer = options.writer.as_ref();
    let survey = Survey { comm, folder: &folder, plan: &plan, config: &config, prior: &prior, writer, events: &events };
    let (objects, failed, _) = published(&folder, &plan)?;
    let progress = Progress::new(&plan, config.sampler.steps, objects, failed);
    let mut leader = Leader::new(survey, &mut worker, options.stop.clone(), progress, options.warnings.clone());
    let outcome = leader.lead();
    leader.tell_warnings();
    let (code, error) = match &outcome {
        Ok(code) => (*code, None),
        Err(error) => (error.exit_code(), Some(error.to_string())),
    };
    let seconds = options.begun.elapsed().as_secs_f64();
    events.write("end", json!({ "code": code, "error": error, "seconds": seconds }));
    if outcome.is_ok() {
        leader.dismiss()?;
    } else {
        worker.give(ToWorker::Exit);
    }
    worker.join()?;
    outcome
}

/// What the event log tells of a job first.
fn about_job(comm: &dyn Comm, plan: &Plan) -> Result<Value> {
    Ok(json!({
        "job": crate::cluster::about::job(), "host": crate::cluster::host(), "pid": std::process::id(),
        "ranks": comm.size(), "survey": plan.name, "plan": plan.digest()?,
        "versions": { "unseeing": env!("CARGO_PKG_VERSION"), "code": plan.code, "cpu": plan.cpu_capability },
    }))
}

/// A rank other than 0: carries messages between the leader and this rank's worker.
fn follow(comm: &dyn Comm, options: &Options) -> Result<i32> {
    let start: Start = decode(&comm.broadcast(Vec::new())?)?;
    let Start::Go { config, written, threads, cpu_capability } = start else { return Ok(DONE) };
    let mut config: Config =
        serde_json::from_str(&config).map_err(|error| Error::internal(format!("the leader's config: {error}")))?;
    config.written = written;
    let timeout = Duration::from_secs_f64(config.run.hang_timeout);
    comm.set_patience(timeout);
    let prior = Arc::new(comm.broadcast(Vec::new())?);
    failpoint::at("run.started")?;
    if let Some(planned) = &cpu_capability {
        pins::pin(planned)?;
    }
    let worker = Worker::start(context(comm, config, threads, prior), options.factory.clone())?;
    let mut last_beat = Instant::now();
    // When the leader was heard, and how long it may be silent from then on.
    let mut leader = (Instant::now(), leader_patience(timeout));
    let mut asked = false;
    let tell = |report: &ToLeader| comm.send(0, encode(report)?);
    loop {
        let mut busy = false;
        while let Some((_, bytes)) = comm.receive()? {
            busy = true;
            let order: ToWorker = decode(&bytes)?;
            leader.0 = Instant::now();
            if let ToWorker::Alive { seconds } = order {
                leader.1 = Duration::from_secs_f64(seconds);
                continue;
            }
            let exit = matches!(order, ToWorker::Exit);
            worker.give(order);
            if exit {
                worker.join()?;
                return Ok(DONE);
            }
        }
        if let Some(report) = worker.report(if busy { Duration::ZERO } else { PAUSE }) {
            if matches!(report, ToLeader::Stopped) {
                tell(&ToLeader::Beat { work: worker.pulse.work() })?;
            }
            tell(&report)?;
        }
        options.warnings.take().into_iter().try_for_each(|message| tell(&ToLeader::Warning { message }))?;
        if options.stop.load(Ordering::SeqCst) && !asked {
            asked = true;
            tell(&ToLeader::StopRequested)?;
        }
        let away = last_beat.elapsed();
        if away >= beat_interval(timeout) {
            last_beat = Instant::now();
            worker.pulse.looked_after(away, timeout);
            tell(&ToLeader::Beat { work: worker.pulse.work() })?;
            if let Some((object, silent)) = worker.pulse.hung(timeout) {
                hung(comm, &object, silent);
            }
            let silent = leader.0.elapsed();
            if silent > leader.1 {
                let (rank, host) = (comm.rank(), crate::cluster::host());
                tracing::error!(
                    "rank {rank} on {host}: the leader has been silent for {:.0} s: aborting (run again to go on)",
                    silent.as_secs_f64()
                );
                comm.abort(RESUMABLE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Solo, local};
    use crate::survey::receipt::PlainWriter;
    use crate::survey::toy::{self, Toy};
    use std::collections::BTreeMap;
    use std::path::Path;

    fn options(root: &Path) -> Options {
        Options {
            config: root.join("survey.toml"),
            factory: Arc::new(Toy::build),
            writer: Arc::new(PlainWriter),
            check: |_| Ok(()),
            stop: Arc::new(AtomicBool::new(false)),
            begun: Instant::now(),
            warnings: Warnings::default(),
        }
    }

    fn survey(objects: &[(String, String)], shard_objects: u32) -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let config = toy::config(root.path(), objects, shard_objects).unwrap();
        (root, Folder::new(&config.survey.folder))
    }

    fn run_ranks(root: &Path, size: usize) -> i32 {
        let threads: Vec<_> = local::ranks(size)
            .into_iter()
            .map(|comm| {
                let options = options(root);
                std::thread::spawn(move || {
                    let code = run(&comm, &options).unwrap();
                    Box::new(comm).finish().unwrap();
                    code
                })
            })
            .collect();
        let codes: Vec<i32> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(codes[1..].iter().all(|&code| code == DONE));
        codes[0]
    }

    fn digests(folder: &Folder) -> BTreeMap<u32, String> {
        let receipts = Receipt::list(folder).unwrap();
        receipts.iter().map(|&shard| (shard, Receipt::read(folder, shard).unwrap().unwrap().content_blake3)).collect()
    }

    fn mixed() -> Vec<(String, String)> {
        let mut objects = toy::names(7);
        objects[2].1 = "fail=1".into();
        objects[4].1 = "stumble=2.3".into();
        objects
    }

    #[test]
    fn any_number_of_ranks_gives_the_same_products() {
        let mut found = Vec::new();
        for size in [1, 2, 4, 9] {
            let (root, folder) = survey(&mixed(), 3);
            assert_eq!(run_ranks(root.path(), size), SOME_FAILED);
            found.push(digests(&folder));
            assert_eq!(found[0].len(), 3);
            assert_eq!(std::fs::read_dir(folder.claims()).unwrap().count(), 0);
            // Again: nothing to do, the same answer.
            assert_eq!(run(&Solo, &options(root.path())).unwrap(), SOME_FAILED);
        }
        assert!(found.iter().all(|digests| *digests == found[0]), "{found:?}");
    }

    #[test]
    fn one_object_is_split_over_ranks_and_gives_the_same_product() {
        let mut objects = toy::names(1);
        let mut found = Vec::new();
        for size in [1, 3, 4] {
            objects[0].1 = "sleep=1".into();
            let (root, folder) = survey(&objects, 3);
            assert_eq!(run_ranks(root.path(), size), DONE);
            found.push(digests(&folder));
        }
        assert!(found.iter().all(|digests| *digests == found[0]), "{found:?}");
    }

    #[test]
    fn an_engine_that_cannot_be_built_stops_the_job_with_its_own_code() {
        let (root, _folder) = survey(&toy::names(3), 3);
        let mut options = options(root.path());
        options.factory = Arc::new(|_| Err(Error::usage("no device 0")));
        assert_eq!(run(&Solo, &options).unwrap(), 2);
    }

    #[test]
    fn a_bad_config_is_an_error_before_any_work() {
        let (root, folder) = survey(&toy::names(3), 3);
        std::fs::write(root.path().join("survey.toml"), "[survey]\nnam = 3\n").unwrap();
        let error = run(&Solo, &options(root.path())).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(!folder.plan().exists());
    }
}
