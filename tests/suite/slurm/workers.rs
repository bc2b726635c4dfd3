//! The real program on surveys of toys (arithmetic without science), as array tasks that claim their shards: stopped, killed,
//! cancelled, on nodes that fail, two on one shard. In the end the content is that of an undisturbed run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Cluster;

/// A survey of toys in the cluster's folder, and what an undisturbed run of it gives.
pub struct Toys<'a> {
    cluster: &'a Cluster,
    pub config: PathBuf,
    want: Vec<String>,
}

impl<'a> Toys<'a> {
    pub fn new(cluster: &'a Cluster, objects: u32, shard_objects: u32) -> Toys<'a> {
        Toys::named(cluster, ["quick", "run"], objects, shard_objects)
    }

    /// The same under names of its own: those of the undisturbed run and of the other.
    pub fn named(cluster: &'a Cluster, names: [&str; 2], objects: u32, shard_objects: u32) -> Toys<'a> {
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

    /// Submits an array of workers on one node, of two ranks each.
    fn submit(&self, array: &str) -> u32 {
        self.submit_on(1, array)
    }

    /// The same on so many nodes each.
    fn submit_on(&self, nodes: u32, array: &str) -> u32 {
        let (array, nodes) = (format!("--array={array}"), format!("--nodes={nodes}"));
        let options = [&array, &nodes, "--ntasks-per-node=2", "--gres=gpu:2", "--cpus-per-task=1", "--time=12"];
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
    pub fn assert_whole(&self) {
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

/// kill -9 of a rank of a job on two nodes: the job ends by itself, is requeued, and goes on.
#[test]
fn slurm_a_killed_rank_ends_its_job_which_starts_again() {
    let Some(cluster) = Cluster::with_nodes(2, "") else { return };
    let toys = Toys::new(&cluster, 12, 2);
    let job = toys.submit_on(2, "0");
    cluster.until("work", || cluster.journals() > 0 && toys.process(1).is_some());
    let killed = Instant::now();
    crate::common::kill(toys.process(1).unwrap(), libc::SIGKILL);
    cluster.until("the job starts again", || cluster.read("out").contains("requeued (a rank was killed)"));
    println!("requeued {:.1} s after the rank was killed", killed.elapsed().as_secs_f64());
    assert!(killed.elapsed() < Duration::from_secs(40), "{}", cluster.read("out"));
    assert_eq!(cluster.wait(format!("{job}_0")), "0:0", "{}", cluster.read("out"));
    assert!(cluster.read("out").contains("start 2, on"), "{}", cluster.read("out"));
    toys.assert_whole();
    // They were one job, and each node had its part of it.
    let receipt = std::fs::read_to_string(cluster.path("run/receipts/00005.json")).unwrap();
    assert!(receipt.contains("\"ranks\": 4,"), "{receipt}");
    let out = cluster.read("out");
    let nodes = out.lines().filter(|line| line.contains("on sl") && line.contains("n[0-1],")).count();
    assert_eq!(nodes, 2, "{out}");
}

/// A survey that is stopped in its middle.
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
