//! What tests of the real program share: launching it, with and without MPI, on small surveys with the toy engine.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;
use unseeing::survey::toy;

/// How long anything may take on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_unseeing");

/// The program, to be run alone: without what a launcher around the tests may have left in the environment.
pub fn unseeing() -> Command {
    let mut command = Command::new(PROGRAM);
    clean(&mut command);
    command
}

/// The program, to be run as `ranks` ranks on this machine, however few cores it has.
pub fn mpirun(ranks: usize) -> Command {
    let mut command = Command::new("mpirun");
    clean(&mut command);
    command.args(["-n", &ranks.to_string(), PROGRAM]);
    command
}

/// A Python that has `modules`: that of `UNSEEING_PYTHON` (`make test` sets it), that of the set-up, or any. `None`, and a
/// note, without one.
pub fn python(modules: &str) -> Option<String> {
    let made = ["UNSEEING_CACHE", "XDG_CACHE_HOME", "HOME"].iter().zip(["", "/unseeing", "/.cache/unseeing"]);
    let made = made.filter_map(|(name, rest)| Some(std::env::var(name).ok()? + rest + "/python/bin/python"));
    let named = std::env::var("UNSEEING_PYTHON").ok();
    let found = named.into_iter().chain(made).chain(["python3".to_string()]).find(|python| {
        let probe = Command::new(python).args(["-c", &format!("import {modules}")]).output();
        probe.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        println!("SKIPPED: needs python3 with {modules}");
    }
    found
}

fn clean(command: &mut Command) {
    for (name, _) in std::env::vars() {
        if ["SLURM_", "PMIX_", "PMI_", "OMPI_COMM"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG");
    command.envs([
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
        ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ]);
}

/// A survey of toy objects in a folder of its own.
pub struct ToySurvey {
    folder: tempfile::TempDir,
    runs: std::cell::Cell<u32>,
}

impl ToySurvey {
    /// `instructions` has one entry per object (see `survey::toy`); 12 samples in 6 blocks, 6 steps each.
    pub fn new(instructions: &[&str], shard_objects: u32) -> ToySurvey {
        let folder = tempfile::tempdir().unwrap();
        let mut objects = toy::names(instructions.len() as u32);
        objects.iter_mut().zip(instructions).for_each(|(object, text)| object.1 = text.to_string());
        toy::config(folder.path(), &objects, shard_objects).unwrap();
        ToySurvey { folder, runs: std::cell::Cell::new(0) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a text in the config.
    pub fn edit(&self, from: &str, to: &str) {
        let path = self.path("survey.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "the config has no {from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }

    /// Starts a run, alone (0) or as so many ranks.
    pub fn start(&self, ranks: usize) -> Run {
        let command = if ranks == 0 { unseeing() } else { mpirun(ranks) };
        self.start_as(command)
    }

    fn start_as(&self, mut command: Command) -> Run {
        self.runs.set(self.runs.get() + 1);
        command.args(self.arguments());
        Run::start(command, self.path(&format!("log-{}", self.runs.get())))
    }

    fn arguments(&self) -> [std::ffi::OsString; 6] {
        let (config, log) = (self.path("survey.toml"), self.path(&format!("json-{}", self.runs.get())));
        ["run".into(), "--engine".into(), "toy".into(), config.into(), "--log-json".into(), log.into()]
    }

    /// Starts a run in which one rank has something set to happen (see `failpoint`): of a run alone if `ranks` is 0.
    pub fn start_failing(&self, ranks: usize, rank: usize, failpoint: &str) -> Run {
        let setting = format!("UNSEEING_FAILPOINT={failpoint}");
        if ranks == 0 {
            let mut command = unseeing();
            command.env("UNSEEING_FAILPOINT", failpoint);
            return self.start_as(command);
        }
        // Several programs of one job: mpirun gives each its own ranks, in this order.
        let mut command = Command::new("mpirun");
        clean(&mut command);
        self.runs.set(self.runs.get() + 1);
        for index in 0..ranks {
            command.args((index > 0).then_some(":")).args(["-n", "1"]);
            if index == rank {
                command.args(["env", &setting]);
            }
            command.arg(PROGRAM).args(self.arguments());
        }
        Run::start(command, self.path(&format!("log-{}", self.runs.get())))
    }

    /// What the last run said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.path(&format!("log-{}", self.runs.get()))).unwrap()
    }

    /// Runs to the end; returns the exit code.
    pub fn run(&self, ranks: usize) -> i32 {
        self.start(ranks).code()
    }

    /// The JSON report of a command on this survey.
    pub fn report(&self, command: &str) -> Value {
        self.report_with(command, &[])
    }

    /// The same with further options.
    pub fn report_with(&self, command: &str, options: &[&str]) -> Value {
        let toy: &[&str] = if ["plan", "pack"].contains(&command) { &["--engine", "toy"] } else { &[] };
        let mut program = unseeing();
        program.args([command, "--json"]).args(toy).args(options).arg(self.path("survey.toml"));
        let output = program.output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Content digests of all shards, checked against the files.
    pub fn digests(&self) -> Vec<String> {
        let report = self.report("verify");
        assert_eq!((&report["complete"], &report["faults"]), (&true.into(), &0.into()), "{report}");
        let shards = report["shards"].as_array().unwrap();
        shards.iter().map(|shard| shard["content_blake3"].as_str().unwrap().to_string()).collect()
    }

    /// Ids and reasons of failed objects.
    pub fn failures(&self) -> BTreeMap<String, String> {
        let report = self.report("status");
        let failures = report["failures"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_string();
        failures.iter().map(|failure| (text(&failure[0]), text(&failure[1]))).collect()
    }

    /// All files in a folder of the run folder.
    pub fn files(&self, folder: &str) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.path("run").join(folder)) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path()).collect()
    }

    /// Bytes in all journals.
    pub fn journaled(&self) -> u64 {
        self.files("journals").iter().filter_map(|path| path.metadata().ok()).map(|data| data.len()).sum()
    }

    /// The lines that a rank logged in the last run.
    pub fn rank_log(&self, rank: usize) -> Vec<Value> {
        let path = self.path(&format!("json-{}", self.runs.get())).join(format!("rank-{rank:04}.json"));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A program that was started. It is killed if the test ends before it.
pub struct Run {
    child: Child,
    log: PathBuf,
    started: Instant,
}

impl Run {
    /// Starts a program that writes what it says into `log`.
    pub fn start(mut command: Command, log: PathBuf) -> Run {
        let stderr = File::create(&log).unwrap();
        let child = command.stdout(stderr.try_clone().unwrap()).stderr(stderr).spawn().unwrap();
        Run { child, log, started: Instant::now() }
    }

    /// Waits for the end; returns the exit code, 128 + the signal if it was killed.
    pub fn code(mut self) -> i32 {
        let status = self.wait();
        use std::os::unix::process::ExitStatusExt;
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
    }

    fn wait(&mut self) -> ExitStatus {
        // It may have been frozen before.
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(asked.elapsed() < PATIENCE, "does not end:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until something is to be seen while the program runs.
    pub fn until(&mut self, what: &str, seen: impl Fn() -> bool) {
        while !seen() {
            assert!(self.is_running(), "ended before {what} was seen:\n{}", self.said());
            assert!(self.started.elapsed() < PATIENCE, "{what} is never seen:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn signal(&self, signal: i32) {
        kill(self.child.id(), signal);
    }

    /// Process numbers of the ranks under mpirun, in the order in which they were started: that of the ranks.
    pub fn ranks(&self) -> Vec<u32> {
        children(self.child.id())
    }

    /// Waits until a rank (the program itself, if it runs alone) has been stopped by a signal.
    pub fn until_frozen(&mut self, rank: Option<usize>) {
        let launcher = self.child.id();
        self.until("a frozen process", || {
            let process = rank.map_or(Some(launcher), |rank| children(launcher).get(rank).copied());
            process.is_some_and(|process| {
                let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
                stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
            })
        });
    }

    /// Kills everything at once: the launcher and all ranks.
    pub fn kill_all(self) {
        self.kill_all_code();
    }

    /// The same; returns the exit code, since it may have ended before.
    pub fn kill_all_code(self) -> i32 {
        let ranks = self.ranks();
        self.signal(libc::SIGKILL);
        ranks.into_iter().for_each(|rank| kill(rank, libc::SIGKILL));
        self.code()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.is_running() {
            for process in self.ranks().into_iter().chain([self.child.id()]) {
                kill(process, libc::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal to one process.
pub fn kill(process: u32, signal: i32) {
    // SAFETY: a plain system call.
    unsafe { libc::kill(process as i32, signal) };
}

fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in Path::new("/proc").read_dir().unwrap().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
        if fields.is_some_and(|fields| fields.get(1) == Some(&parent.to_string().as_str())) {
            found.push(process);
        }
    }
    found.sort_unstable();
    found
}

/// A `squeue` that tells that job 77 has so many seconds left, counted from its first call, but no job else.
const SQUEUE: &str = r#"#!/bin/bash
echo "$@" >>"$(dirname "$0")/asked"
[ "$*" = "-h -j 77 -o %L" ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
start=$(dirname "$0")/start
[ -e "$start" ] || date +%s >"$start"
left=$(($(cat "$start") + SECONDS_LEFT - $(date +%s)))
printf '0:%02d\n' $((left > 0 ? left : 0))
"#;

/// Makes it in the folder `tools`, which also gets a file `asked` with a line for each call; the search path that finds it first.
pub fn squeue(tools: &Path, seconds: u32) -> String {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir(tools).unwrap();
    let path = tools.join("squeue");
    std::fs::write(&path, SQUEUE.replace("SECONDS_LEFT", &seconds.to_string())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", tools.display(), std::env::var("PATH").unwrap())
}
