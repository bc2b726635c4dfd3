//! The batch scripts in slurm/, run for real on a small Slurm cluster of this machine (tests/slurm-local.sh).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[path = "slurm/scripts.rs"]
mod scripts;
#[path = "slurm/workers.rs"]
mod workers;

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
            .envs([("SLURM_LOCAL_CPUS", "96"), ("SLURM_LOCAL_FEATURES", features)])
            .envs(
                [("SLURM_LOCAL_NODES", nodes), ("SLURM_LOCAL_GPUS", 8 / nodes)].map(|(name, n)| (name, n.to_string())),
            )
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
        // Nodes share one host, and so the memory by which Open MPI would speak within it.
        let network = [("btl", "self,tcp"), ("btl_tcp_if_include", "lo"), ("oob_tcp_if_include", "lo")];
        command.envs(network.map(|(name, value)| (format!("OMPI_MCA_{name}"), value)));
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
