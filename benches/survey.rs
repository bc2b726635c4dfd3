//! The system without science: what planning, leases, journals and product files cost by themselves. Prints
//!
//! * a catalogue of a million rows planned: seconds, and peak memory;
//! * objects a second of a sampler that computes nothing, through lease, journal and HDF5, of 32 x 32 pixels in 3 bands,
//!   with the images `mean` and `variance` only and with all images of the schema; bytes and files of it;
//! * peak memory of a rank for 1,000 and for 8,000 objects;
//! * 64 ranks on this machine, against the content of one;
//! * dispatch over four ranks of which one is three times slower: the makespan over the ideal one. The steps of this sampler
//!   are sleeps, so that four ranks do not need four cores;
//! * seconds from USR1 to the end of a job of three ranks, again and again on one survey.
//!
//! `cargo bench --bench survey [-- plan rate memory ranks dispatch stop]` runs those named, or all.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use unseeing::Result;
use unseeing::catalog::Target;
use unseeing::cluster::{self, Solo};
use unseeing::config::Config;
use unseeing::evaluate::calibration::probability::median;
use unseeing::posterior::{Moments, Node};
use unseeing::product::{ObjectRecord, RecordArray, ShardMeta, Status, read, write_file};
use unseeing::random::{Key, Purpose};
use unseeing::sampler::{SavedState, State};
use unseeing::survey::engine::{Engine, OpenObject, Packed};
use unseeing::survey::receipt::{ShardContext, ShardWriter};
use unseeing::survey::run::{Options, run};
use unseeing::survey::toy;
use unseeing::survey::worker::EngineFactory;

const PROGRAM: &str = env!("CARGO_BIN_EXE_unseeing");
const ROWS: u32 = 1_000_000;
const OBJECTS: u32 = 2048;
const SIDE: usize = 32;
const BANDS: usize = 3;
const RANKS: usize = 64;
const IMAGES: [&str; 8] =
    ["mean", "variance", "variance_ratio", "observation", "observation_variance", "mask", "model", "residual"];

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;
/// A part of the bench, with its name.
type Part = (&'static str, fn() -> Outcome);

/// Ranks of the dispatch, the last of them three times slower; objects, and milliseconds a step of the others.
const WORKERS: u32 = 4;
const SLOWNESS: u32 = 3;
const QUEUES: [u32; 3] = [20, 40, 160];
const STEP: u32 = 10;
/// Blocks of an object, and steps of a block (as `toy::config` has them).
const BLOCKS: u32 = 6;
const STEPS: u32 = 6;
/// How often a job is stopped, and milliseconds a step of its toys.
const STOPS: usize = 11;
const STOPPED_STEP: u32 = 100;
/// Names the folder for a process of this bench that is a rank of the dispatch.
const RANK_OF: &str = "UNSEEING_BENCH_DISPATCH";

fn main() {
    if let Some(folder) = std::env::var_os(RANK_OF) {
        match dispatch_rank(Path::new(&folder)) {
            Ok(code) => std::process::exit(code),
            Err(error) => {
                eprintln!("error: a rank: {error}");
                std::process::exit(1);
            }
        }
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let parts: [Part; 6] =
        [("plan", plan), ("rate", rate), ("memory", memory), ("ranks", ranks), ("dispatch", dispatch), ("stop", stop)];
    for (name, part) in parts {
        if (wanted.is_empty() || wanted.iter().any(|word| word == name))
            && let Err(error) = part()
        {
            eprintln!("error: {name}: {error}");
            std::process::exit(1);
        }
    }
}

/// Runs a program to its end: seconds, and the peak memory of its process in MiB.
fn measure(command: &mut Command) -> std::result::Result<(f64, f64), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut status = 0;
    // SAFETY: the structure is plain numbers, and the call fills it; the child is not waited for elsewhere.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::wait4(child.id() as i32, &mut status, 0, &mut usage);
        usage
    };
    if status != 0 {
        return Err(format!("{command:?} ended with status {status}").into());
    }
    Ok((start.elapsed().as_secs_f64(), usage.ru_maxrss as f64 / 1024.0))
}

fn plan() -> Outcome {
    let root = tempfile::tempdir()?;
    toy::config(root.path(), &toy::names(ROWS), 256)?;
    let (seconds, memory) = measure(Command::new(PROGRAM).arg("plan").arg(root.path().join("survey.toml")))?;
    println!("plan: {ROWS} rows in {seconds:.1} s, peak memory {memory:.0} MiB");
    Ok(())
}

/// A sampler that computes nothing: blocks of steps that sleep, if at all, and images made before.
struct Null {
    blocks: u32,
    steps: u32,
    sleep: Duration,
    arrays: Vec<(String, RecordArray)>,
}

impl Engine for Null {
    fn open(&mut self, target: &Target, _packed: Option<&Packed>) -> Result<Box<dyn OpenObject + '_>> {
        Ok(Box::new(NullObject { id: target.id.clone(), engine: self }))
    }
}

struct NullObject<'a> {
    id: String,
    engine: &'a Null,
}

impl OpenObject for NullObject<'_> {
    fn blocks(&self) -> u32 {
        self.engine.blocks
    }

    fn steps(&self) -> u32 {
        self.engine.steps
    }

    fn samples(&self, _block: u32) -> u32 {
        2
    }

    fn start(&self, _block: u32) -> Result<State> {
        Ok(State { step: 0, tensors: Vec::new() })
    }

    fn resume(&self, saved: &SavedState) -> Result<State> {
        State::load(saved, tch::Device::Cpu)
    }

    fn step(&self, _block: u32, state: &mut State) -> Result<()> {
        std::thread::sleep(self.engine.sleep);
        state.step += 1;
        Ok(())
    }

    fn finish_block(&self, _block: u32, _state: State) -> Result<Node> {
        Ok(Node { moments: vec![("x".into(), Moments::new(1))], samples: Vec::new(), draws: Vec::new(), lost: 0 })
    }

    fn finish(&self, _node: Node) -> Result<ObjectRecord> {
        Ok(ObjectRecord {
            id: self.id.clone(),
            status: Status::Done,
            reason: String::new(),
            flags: 0,
            scalars: vec![("redshift".into(), 0.3)],
            arrays: self.engine.arrays.clone(),
            samples: Vec::new(),
        })
    }
}

/// Shard files of the schema, of the null sampler's size.
struct Products;

impl ShardWriter for Products {
    fn extension(&self) -> &'static str {
        "h5"
    }

    fn write(&self, path: &Path, records: &[ObjectRecord], _context: &ShardContext) -> Result<String> {
        let meta = ShardMeta {
            bands: ["g", "r", "i"].map(String::from).to_vec(),
            size: SIDE,
            samples: 2,
            amplitudes: 1,
            ..ShardMeta::default()
        };
        write_file(path, records, &meta)
    }

    fn content(&self, path: &Path) -> Result<String> {
        read::content_digest(path)
    }
}

fn rate() -> Outcome {
    for images in [2, IMAGES.len()] {
        let root = tempfile::tempdir()?;
        let config: Config = toy::config(root.path(), &toy::names(OBJECTS), 256)?;
        let path = root.path().join("survey.toml");
        let text = std::fs::read_to_string(&path)?.replace("samples = 12\nblock = 2", "samples = 2\nblock = 2");
        std::fs::write(&path, text.replace("journal_interval = 0.01", "journal_interval = 60"))?;
        let arrays: Vec<(String, RecordArray)> = IMAGES[..images]
            .iter()
            .map(|name| {
                let key = Key::new(1, name, 0, Purpose::Evaluation, 0);
                let values = key.uniform(BANDS * SIDE * SIDE).into_iter().map(|value| value as f32 + 0.1).collect();
                (name.to_string(), RecordArray { shape: vec![BANDS, SIDE, SIDE], values })
            })
            .collect();
        let null = move || Null { blocks: 1, steps: 1, sleep: Duration::ZERO, arrays: arrays.clone() };
        let factory: EngineFactory = Arc::new(move |_| Ok(Box::new(null())));
        let start = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let options = Options {
            config: path,
            factory,
            writer: Arc::new(Products),
            check: |_| Ok(()),
            stop,
            begun: start,
            warnings: Default::default(),
        };
        let code = run(&Solo, &options)?;
        let seconds = start.elapsed().as_secs_f64();
        if code != 0 {
            return Err(format!("the run ended with {code}").into());
        }
        let (mut files, mut bytes) = (0, 0);
        for folder in ["shards", "receipts", "journals", "claims"] {
            for entry in std::fs::read_dir(config.survey.folder.join(folder))?.flatten() {
                files += 1;
                bytes += entry.metadata()?.len();
            }
        }
        println!(
            "rate: {OBJECTS} objects of {images} images of {BANDS} x {SIDE} x {SIDE} in {seconds:.2} s, {:.0} a second; {} \
             bytes an object, {} files a shard",
            f64::from(OBJECTS) / seconds,
            bytes / u64::from(OBJECTS),
            files as f64 / f64::from(OBJECTS.div_ceil(256))
        );
    }
    Ok(())
}

fn memory() -> Outcome {
    for objects in [1000, 8000] {
        let root = tempfile::tempdir()?;
        toy::config(root.path(), &toy::names(objects), 250)?;
        let config = root.path().join("survey.toml");
        let (seconds, memory) = measure(Command::new(PROGRAM).args(["run", "--engine", "toy"]).arg(config))?;
        println!("memory: {objects} toys in {seconds:.1} s, peak memory of the rank {memory:.0} MiB");
    }
    Ok(())
}

/// For many ranks on few cores, also as root.
const MPI: [(&str, &str); 5] = [
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ("OMPI_MCA_mpi_yield_when_idle", "1"),
    ("OMP_NUM_THREADS", "1"),
];

fn ranks() -> Outcome {
    let mut contents = Vec::new();
    for ranks in [1, RANKS] {
        let root = tempfile::tempdir()?;
        toy::config(root.path(), &toy::names(4 * RANKS as u32), 32)?;
        let config = root.path().join("survey.toml");
        // So many ranks on so few cores are silent for long.
        let text = std::fs::read_to_string(&config)?.replace("hang_timeout = 20", "hang_timeout = 120");
        std::fs::write(&config, text)?;
        let mut command = Command::new(if ranks == 1 { PROGRAM } else { "mpirun" });
        if ranks > 1 {
            command.args(["-n", &ranks.to_string(), "--bind-to", "none", "--oversubscribe", PROGRAM]);
        }
        command.args(["run", "--engine", "toy"]).arg(&config);
        command.envs(MPI);
        let (seconds, _) = measure(&mut command)?;
        let output = Command::new(PROGRAM).args(["verify", "--json"]).arg(&config).output()?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let shards = report["shards"].as_array().cloned().unwrap_or_default();
        contents.push(shards.iter().map(|shard| shard["content_blake3"].to_string()).collect::<Vec<_>>());
        println!("ranks: {ranks} finish {} toys in {seconds:.1} s", 4 * RANKS);
    }
    let same = contents[0] == contents[1] && !contents[0].is_empty();
    println!("ranks: the content is {}", if same { "the same" } else { "NOT the same" });
    if same { Ok(()) } else { Err("64 ranks give another content than one".into()) }
}

/// A rank of the dispatch; rank 0 leaves the seconds of the run behind, from the plan to the last receipt.
fn dispatch_rank(folder: &Path) -> std::result::Result<i32, Box<dyn std::error::Error>> {
    cluster::abort_on_panic();
    let comm = cluster::join()?;
    let factory: EngineFactory = Arc::new(|context| {
        let slowness = if context.rank as u32 == WORKERS - 1 { SLOWNESS } else { 1 };
        let sleep = Duration::from_millis(u64::from(STEP * slowness));
        let (name, shape) = ("mean".to_string(), vec![BANDS, SIDE, SIDE]);
        let mean = RecordArray { shape, values: vec![1.0; BANDS * SIDE * SIDE] };
        Ok(Box::new(Null { blocks: BLOCKS, steps: STEPS, sleep, arrays: vec![(name, mean)] }))
    });
    let begun = Instant::now();
    let options = Options {
        config: folder.join("survey.toml"),
        factory,
        writer: Arc::new(Products),
        check: |_| Ok(()),
        stop: Arc::new(AtomicBool::new(false)),
        begun,
        warnings: Default::default(),
    };
    let code = run(comm.as_ref(), &options)?;
    let seconds = begun.elapsed().as_secs_f64();
    if comm.rank() == 0 {
        std::fs::write(folder.join("seconds"), seconds.to_string())?;
    }
    comm.finish()?;
    Ok(code)
}

fn dispatch() -> Outcome {
    for objects in QUEUES {
        let root = tempfile::tempdir()?;
        toy::config(root.path(), &toy::names(objects), 20)?;
        let config = root.path().join("survey.toml");
        let text = std::fs::read_to_string(&config)?.replace("journal_interval = 0.01", "journal_interval = 60");
        std::fs::write(&config, text)?;
        let mut command = Command::new("mpirun");
        command.args(["-n", &WORKERS.to_string(), "--bind-to", "none", "--oversubscribe"]);
        command.arg(std::env::current_exe()?).env(RANK_OF, root.path()).envs(MPI);
        measure(&mut command)?;
        let seconds: f64 = std::fs::read_to_string(root.path().join("seconds"))?.parse()?;
        let object = f64::from(BLOCKS * STEPS * STEP) / 1000.0;
        let speed = f64::from(WORKERS - 1) + 1.0 / f64::from(SLOWNESS);
        let ideal = f64::from(objects) * object / speed;
        println!(
            "dispatch: {objects} objects of {object} s on {WORKERS} ranks, one {SLOWNESS} times slower, in {seconds:.2} s; \
             ideal {ideal:.2} s, ratio {:.3}",
            seconds / ideal
        );
    }
    Ok(())
}

fn stop() -> Outcome {
    let root = tempfile::tempdir()?;
    let mut objects = toy::names(40);
    objects.iter_mut().for_each(|object| object.1 = format!("sleep={STOPPED_STEP}"));
    let config = toy::config(root.path(), &objects, 4)?;
    let journals = || std::fs::read_dir(config.survey.folder.join("journals")).map_or(0, Iterator::count);
    let mut seconds = Vec::new();
    for turn in 0..STOPS {
        let before = journals();
        let mut command = Command::new("mpirun");
        command.args(["-n", "3", "--bind-to", "none", "--oversubscribe", PROGRAM, "run", "--engine", "toy"]);
        command.arg(root.path().join("survey.toml")).envs(MPI).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        while journals() == before && child.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Anywhere in a step.
        std::thread::sleep(Duration::from_millis(300 + 13 * turn as u64));
        let asked = Instant::now();
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGUSR1) };
        let status = child.wait()?;
        if status.code() != Some(75) {
            return Err(format!("the job that was to be stopped ended with {status}").into());
        }
        seconds.push(asked.elapsed().as_secs_f64());
    }
    let worst = seconds.iter().copied().fold(0.0, f64::max);
    let step = f64::from(STOPPED_STEP) / 1000.0;
    println!(
        "stop: steps of {step} s, {STOPS} stops, from signal to exit {:.2} s (median), {worst:.2} s (worst)",
        median(&seconds)
    );
    Ok(())
}
