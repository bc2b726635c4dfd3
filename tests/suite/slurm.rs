//! The batch scripts in slurm/, run for real on a small Slurm cluster of this machine (tests/slurm-local.sh).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[path = "slurm/scripts.rs"]
mod scripts;

/// One cluster at a time.
static CLUSTER: Mutex<()> = Mutex::new(());
/// Waiting for the cluster: its own delays (a requeued job waits 5 s at least) and a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster that lives as long as the test.
struct Cluster {
    prefix: PathBuf,
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts one with more processors and GPUs claimed than there are, and of these features; `None`, said aloud, where that cannot be.
    fn start(features: &str) -> Option<Cluster> {
        Cluster::with_nodes(1, features)
    }

    fn with_nodes(nodes: u32, features: &str) -> Option<Cluster> {
        let turn = CLUSTER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Sockets below it have names of at most 108 bytes, so not below a long TMPDIR.
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let prefix = folder.path().join("slurm");
        let output = Command::new(root().join("tests/slurm-local.sh"))
            .args(["-p", prefix.to_str().unwrap(), "start"])
            .envs([("SLURM_LOCAL_CPUS", "96"), ("SLURM_LOCAL_GPUS", "8"), ("SLURM_LOCAL_FEATURES", features)])
            .env("SLURM_LOCAL_NODES", nodes.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("not found:") || said.contains("must be root") {
            println!("SKIPPED: needs Slurm and root: {}", said.trim());
            return None;
        }
        assert!(output.status.success(), "the cluster does not start: {said}");
        Some(Cluster { prefix, folder, _turn: turn })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.prefix.join("etc/slurm.conf")).current_dir(root());
        // Settings of a run around this one, and what the scripts read.
        for name in ["LIBTORCH", "VENV", "CONFIG", "MPI_TYPE", "SLURM_JOB_ID"] {
            command.env_remove(name);
        }
        command
    }

    /// Submits a script with options before it and arguments after it; returns the job's number.
    fn submit(&self, program: &Path, options: &[&str], script: &str, arguments: &[&str]) -> u32 {
        // Clusters have environment modules; here they only say what they were asked for.
        self.submit_with(program, options, script, arguments, Some("() { echo \"module $*\"; }"))
    }

    /// The same with another command `module`, or none.
    fn submit_with(
        &self,
        program: &Path,
        options: &[&str],
        script: &str,
        arguments: &[&str],
        module: Option<&str>,
    ) -> u32 {
        let mut command = self.command("sbatch");
        command.args(["--parsable", "--output", self.path("out").to_str().unwrap()]).args(options);
        command.env("UNSEEING", program).env("TEST_FOLDER", self.folder.path());
        module.map(|module| command.env("BASH_FUNC_module%%", module));
        let output = command.arg(script).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let number = text.trim().split(';').next().unwrap().parse();
        number.unwrap_or_else(|_| panic!("sbatch {script}: {text}{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// A program that stands in for ours, so that the test decides when it ends and how.
    fn program(&self, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path("program");
        std::fs::write(&path, format!("#!/bin/bash\ncd \"$TEST_FOLDER\"\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Files in the run folder that are journals.
    fn journals(&self) -> usize {
        let run = self.path("run");
        let mut open = vec![run];
        let mut found = 0;
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path().is_dir() {
                    true => open.push(entry.path()),
                    false => found += usize::from(entry.file_name().to_string_lossy().contains(".journal.")),
                }
            }
        }
        found
    }

    /// Waits for the job's end and returns its `ExitCode`, for example `3:0`.
    fn wait(&self, job: impl std::fmt::Display) -> String {
        let start = Instant::now();
        loop {
            let output = self.command("scontrol").args(["show", "job", &job.to_string()]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let field = |name: &str| {
                let found = text.split_whitespace().find_map(|word| word.strip_prefix(name));
                found.unwrap_or_default().to_string()
            };
            if ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"].contains(&field("JobState=").as_str()) {
                return field("ExitCode=");
            }
            assert!(start.elapsed() < PATIENCE, "job {job} does not end: {text}\n{}", self.read("out"));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < PATIENCE, "{what}: not seen. Output so far:\n{}", self.read("out"));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let script = root().join("tests/slurm-local.sh");
        // A cluster that does not stop is told on its own standard error.
        let _ = Command::new(script).args(["-p", self.prefix.to_str().unwrap_or_default(), "stop"]).output();
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Stops once, taking a while to save, and finishes when it is started again.
const STOPS_ONCE: &str = r#"
echo "start $SLURM_PROCID of $SLURM_NTASKS: $*" >>log
if [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
  trap 'stop=1' USR1
  touch "waiting.$SLURM_PROCID"
  while [ -z "${stop:-}" ]; do sleep 0.1; done
  sleep 2
  echo "saved $SLURM_PROCID" >>log
  [ "$SLURM_PROCID" = 0 ] && exit 75
  exit 0
fi
echo "finished $SLURM_PROCID" >>log
"#;

#[test]
fn slurm_a_job_that_is_asked_to_stop_saves_and_requeues_itself() {
    let Some(cluster) = Cluster::start("") else { return };
    let program = cluster.program(STOPS_ONCE);
    let options = ["--array=4", "--ntasks-per-node=2", "--gres=gpu:2", "--cpus-per-task=1", "--time=5"];
    let job = cluster.submit(&program, &options, "slurm/dev.slurm", &["the.toml"]);
    cluster.until("both ranks wait", || (0..2).all(|rank| cluster.path(&format!("waiting.{rank}")).exists()));
    let signal = cluster.command("scancel").args(["--batch", "--signal=USR1", &format!("{job}_4")]).status().unwrap();
    assert!(signal.success());
    cluster.until("the job asks for its requeue", || cluster.read("out").contains("requeued"));
    cluster.until("both ranks finish", || cluster.read("log").matches("finished").count() == 2);
    assert_eq!(cluster.wait(job), "0:0", "{}", cluster.read("out"));
    let (log, out) = (cluster.read("log"), cluster.read("out"));
    for rank in 0..2 {
        assert_eq!(log.matches(&format!("start {rank} of 2: run the.toml\n")).count(), 2, "{log}");
        assert_eq!(log.matches(&format!("saved {rank}\n")).count(), 1, "{log}");
    }
    assert!(out.contains("start 2, on") && out.contains("exit code 0"), "{out}");
}

/// A survey of toys in the cluster's folder, and what an undisturbed run of it gives.
struct Toys<'a> {
    cluster: &'a Cluster,
    config: PathBuf,
    want: Vec<String>,
}

impl<'a> Toys<'a> {
    fn new(cluster: &'a Cluster, objects: u32, shard_objects: u32) -> Toys<'a> {
        Toys::named(cluster, ["quick", "run"], objects, shard_objects)
    }

    /// The same under names of its own: those of the undisturbed run and of the other.
    fn named(cluster: &'a Cluster, names: [&str; 2], objects: u32, shard_objects: u32) -> Toys<'a> {
        let rows = |sleep: u32| -> String {
            let row = |object| format!("toy-{object},150,2,0.2,sleep={sleep}\n");
            format!("object_id,ra,dec,redshift,toy\n{}", (0..objects).map(row).collect::<String>())
        };
        std::fs::write(cluster.path("prior.safetensors"), "no weights").unwrap();
        let text = TOY_SURVEY.replace("[catalog]", &format!("shard_objects = {shard_objects}\n[catalog]"));
        let text =
            text.replace("threads = 1", "threads = 1\nhang_timeout = 5\nclaim_timeout = 20\njournal_interval = 0.2");
        let place = |name: &str, sleep| {
            std::fs::write(cluster.path(&format!("{name}.csv")), rows(sleep)).unwrap();
            let text = text.replace("\"run\"", &format!("\"{name}\"")).replace("toys.csv", &format!("{name}.csv"));
            let path = cluster.path(&format!("{name}.toml"));
            std::fs::write(&path, text).unwrap();
            path
        };
        let (quick, config) = (place(names[0], 0), place(names[1], 40));
        let mut toys = Toys { cluster, config, want: Vec::new() };
        let alone = crate::common::unseeing().args(["run", "--engine", "toy"]).arg(&quick).output().unwrap();
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
        toys.want = toys.contents(&quick);
        toys
    }

    /// Submits an array of workers of two ranks each.
    fn submit(&self, array: &str) -> u32 {
        let options =
            [&format!("--array={array}"), "--ntasks-per-node=2", "--gres=gpu:2", "--cpus-per-task=1", "--time=12"];
        let program = PathBuf::from(env!("CARGO_BIN_EXE_unseeing"));
        let arguments = [self.config.to_str().unwrap(), "--engine", "toy"];
        self.cluster.submit(&program, &options, "slurm/dev.slurm", &arguments)
    }

    fn report(&self, command: &str, config: &Path) -> serde_json::Value {
        let output = crate::common::unseeing().args([command, "--json"]).arg(config).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn contents(&self, config: &Path) -> Vec<String> {
        let report = self.report("verify", config);
        let shards = report["shards"].as_array().unwrap();
        shards.iter().map(|shard| shard["content_blake3"].as_str().unwrap().to_string()).collect()
    }

    /// Waits until every shard has its product, and compares with the undisturbed run.
    fn assert_whole(&self) {
        self.cluster.until("the survey is whole", || self.report("status", &self.config)["complete"] == true);
        assert_eq!(self.contents(&self.config), self.want);
        assert_eq!(self.report("status", &self.config)["failed"], 0);
    }

    /// How many shards are being worked on.
    fn running(&self) -> usize {
        let status = self.report("status", &self.config);
        let shards = status["working"].as_array().cloned().unwrap_or_default();
        shards.iter().filter(|shard| shard["state"] == "running").count()
    }

    /// A process of this survey that is the rank `rank` of its job.
    fn process(&self, rank: u32) -> Option<u32> {
        let (config, rank) = (self.config.to_str().unwrap().to_string(), format!("SLURM_PROCID={rank}"));
        let holds = |path: PathBuf, text: &str| {
            std::fs::read(path).is_ok_and(|bytes| bytes.split(|&byte| byte == 0).any(|part| part == text.as_bytes()))
        };
        let processes = Path::new("/proc").read_dir().unwrap().flatten();
        processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|process| {
            let folder = Path::new("/proc").join(process.to_string());
            let ours = std::fs::read_link(folder.join("exe")).is_ok_and(|exe| exe.ends_with("release/unseeing"));
            ours && holds(folder.join("cmdline"), &config) && holds(folder.join("environ"), &rank)
        })
    }
}

/// Three workers on two nodes: the node of one is set down, one is cancelled; the others do their work.
#[test]
fn slurm_a_node_down_and_a_cancelled_worker_lose_nothing() {
    let Some(cluster) = Cluster::with_nodes(2, "") else { return };
    let toys = Toys::new(&cluster, 16, 2);
    let job = toys.submit("0-2");
    cluster.until("three workers at work", || toys.running() >= 3);
    let nodes = cluster.command("squeue").args(["-h", "-o", "%N", "-j", &format!("{job}_0")]).output().unwrap();
    let node = String::from_utf8_lossy(&nodes.stdout).trim().to_string();
    let set = |state: &str| {
        let update = ["update", &format!("nodename={node}"), &format!("state={state}"), "reason=test"];
        cluster.command("scontrol").args(update).status().unwrap().success()
    };
    assert!(cluster.command("scancel").arg(format!("{job}_1")).status().unwrap().success());
    assert!(set("down"), "{node}");
    toys.assert_whole();
    // It may have come back by itself.
    set("resume");
    cluster.wait(format!("{job}_2"));
}

#[test]
fn slurm_two_array_tasks_on_one_shard_do_it_once() {
    let Some(cluster) = Cluster::with_nodes(2, "") else { return };
    let toys = Toys::new(&cluster, 4, 4);
    let job = toys.submit("0-1");
    assert_eq!([0, 1].map(|task| cluster.wait(format!("{job}_{task}"))), ["0:0", "0:0"], "{}", cluster.read("out"));
    toys.assert_whole();
    let said = cluster.read("out");
    assert!(said.matches("published as").count() == 1 && said.contains("other jobs work on the last"), "{said}");
}

/// kill -9 of a rank: its job ends by itself, is requeued, and goes on.
#[test]
fn slurm_a_killed_rank_ends_its_job_which_starts_again() {
    let Some(cluster) = Cluster::start("") else { return };
    let toys = Toys::new(&cluster, 6, 2);
    let job = toys.submit("0");
    cluster.until("work", || cluster.journals() > 0 && toys.process(1).is_some());
    let killed = Instant::now();
    crate::common::kill(toys.process(1).unwrap(), libc::SIGKILL);
    cluster.until("the job starts again", || cluster.read("out").contains("requeued (a rank was killed)"));
    println!("requeued {:.1} s after the rank was killed", killed.elapsed().as_secs_f64());
    assert!(killed.elapsed() < Duration::from_secs(40), "{}", cluster.read("out"));
    assert_eq!(cluster.wait(format!("{job}_0")), "0:0", "{}", cluster.read("out"));
    assert!(cluster.read("out").contains("start 2, on"), "{}", cluster.read("out"));
    toys.assert_whole();
}

/// The real program on a survey of toys (arithmetic without science), stopped in its middle.
#[test]
fn slurm_a_survey_that_is_stopped_goes_on_and_is_whole() {
    let Some(cluster) = Cluster::start("") else { return };
    let rows: String = (0..6).map(|object| format!("toy-{object},150,2,0.2,sleep=60\n")).collect();
    std::fs::write(cluster.path("toys.csv"), format!("object_id,ra,dec,redshift,toy\n{rows}")).unwrap();
    std::fs::write(cluster.path("prior.safetensors"), "no weights").unwrap();
    std::fs::write(cluster.path("survey.toml"), TOY_SURVEY).unwrap();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_unseeing"));
    let config = cluster.path("survey.toml");
    let config = config.to_str().unwrap();
    let options = ["--array=0", "--ntasks-per-node=2", "--gres=gpu:2", "--cpus-per-task=1", "--time=11"];
    let job = cluster.submit(&program, &options, "slurm/dev.slurm", &[config, "--engine", "toy"]);
    cluster.until("the survey has a plan and a journal", || cluster.journals() > 0);
    std::thread::sleep(Duration::from_secs(3));
    let signal = cluster.command("scancel").args(["--batch", "--signal=USR1", &format!("{job}_0")]).status().unwrap();
    assert!(signal.success());
    cluster.until("the job asks for its requeue", || cluster.read("out").contains("requeued"));
    assert_eq!(cluster.wait(job), "0:0", "{}", cluster.read("out"));
    let verified = Command::new(&program).args(["verify", config]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let status = Command::new(&program).args(["status", "--json", config]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status["complete"] == true && status["done"] == 6, "{status}");
}

const TOY_SURVEY: &str = r#"
[survey]
name = "toys"
folder = "run"
[catalog]
paths = ["toys.csv"]
[data]
bands = ["g", "r"]
image = "{id}-{band}-{toy}.fits"
psf = "{id}-{band}-psf.fits"
[prior]
path = "prior.safetensors"
[sampler]
steps = 16
[posterior]
samples = 64
block = 16
[run]
device = "cpu"
threads = 1
"#;

#[test]
fn slurm_the_end_of_the_time_limit_is_a_stop() {
    let Some(cluster) = Cluster::start("") else { return };
    let program = cluster.program(STOPS_ONCE);
    // The script's own --signal=B:USR1@600, with a limit so short that the signal is due at once.
    let options = ["--array=0", "--ntasks-per-node=1", "--gres=gpu:1", "--cpus-per-task=1", "--time=5"];
    let job = cluster.submit(&program, &options, "slurm/dev.slurm", &["the.toml"]);
    cluster.until("the rank finishes after a stop", || cluster.read("log").contains("finished 0"));
    assert_eq!(cluster.wait(job), "0:0", "{}", cluster.read("out"));
    assert!(cluster.read("log").contains("saved 0"), "{}", cluster.read("log"));
}

#[test]
fn slurm_doctor_sees_how_srun_started_it() {
    let Some(cluster) = Cluster::start("") else { return };
    let program = PathBuf::from(env!("CARGO_BIN_EXE_unseeing"));
    let script =
        cluster.program("srun --mpi=pmix \"$UNSEEING\" doctor --json >one; srun --mpi=none \"$UNSEEING\" doctor >two");
    let options = ["--ntasks=2", "--cpus-per-task=1", "--time=5"];
    let job = cluster.submit(&program, &options, script.to_str().unwrap(), &[]);
    assert_eq!(cluster.wait(job), "0:0", "{}", cluster.read("out"));
    let one = cluster.read("one");
    assert_eq!(one.matches("srun with PMIx, 2 task(s)").count(), 2, "{one}");
    assert!(cluster.read("two").contains("srun --mpi=pmix"), "{}", cluster.read("two"));
}
