//! `unseeing doctor`: tells what this machine has and whether the program works on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args as ClapArgs, ValueEnum};
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::cli::{DONE, to_json};
use crate::cluster::about::{About, about};
use crate::config::DeviceKind;
use crate::device::{Compute, Fact, Setting, cuda_devices, describe, settings};
use crate::evaluate::determinism::{self, History, Subject};
use crate::evaluate::selftest::{self, DEVICE_TOLERANCE, NUMBERS_TOLERANCE, SelfTest};
use crate::io::about::{Check, cfitsio_version, check_folder, hdf5_version};
use crate::prior::Prior;
use crate::{Error, Result};

/// Arguments of `unseeing doctor`.
#[derive(ClapArgs)]
pub struct Args {
    /// Answers in JSON
    #[arg(long)]
    json: bool,
    /// Tests whether one block of samples has the same bytes whatever happens around it
    #[arg(long)]
    determinism: bool,
    /// The prior whose network is tested (a small network with random weights when not given)
    #[arg(long, value_name = "FILE")]
    prior: Option<PathBuf>,
    /// A run folder whose file system is checked
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Where the network runs
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceChoice,
    /// CPU threads of the network
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// One process of the determinism test
    #[arg(long, hide = true)]
    child: Option<String>,
    /// Where that process leaves or finds a sampler's state
    #[arg(long, hide = true)]
    state: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DeviceChoice {
    Cpu,
    Cuda,
}

impl DeviceChoice {
    fn kind(self) -> DeviceKind {
        match self {
            DeviceChoice::Cpu => DeviceKind::Cpu,
            DeviceChoice::Cuda => DeviceKind::Cuda,
        }
    }

    fn name(self) -> &'static str {
        match self {
            DeviceChoice::Cpu => "cpu",
            DeviceChoice::Cuda => "cuda",
        }
    }
}

/// The whole answer.
#[derive(Serialize)]
struct Report {
    program: &'static str,
    libtorch: String,
    mkl: String,
    onednn: String,
    mpi: About,
    hdf5: String,
    cfitsio: String,
    cpu_capability: String,
    processors: usize,
    threads: u32,
    settings: Vec<Setting>,
    cuda_devices: u32,
    /// Why there is no CUDA device.
    cuda_missing: Option<String>,
    /// What fixes the bits of this machine.
    fingerprint: String,
    network: String,
    selftest: SelfTest,
    /// Largest difference of the network's output between GPU and CPU, of its largest value.
    gpu_difference: Option<f64>,
    /// The same of its random numbers.
    gpu_numbers_difference: Option<f64>,
    folder: Option<Vec<Check>>,
    determinism: Option<Determinism>,
    good: bool,
}

#[derive(Serialize)]
struct Determinism {
    digest: String,
    cases: Vec<Case>,
    good: bool,
}

/// One way of drawing the block, and whether its bytes are those of the first.
#[derive(Serialize)]
struct Case {
    name: String,
    digests: Vec<String>,
    same: bool,
}

/// What a child process prints.
#[derive(Serialize, Deserialize)]
struct ChildAnswer {
    digest: String,
    operations: Vec<(String, String)>,
}

/// Runs the command and returns the exit code: 1 when something is wrong with this machine.
pub fn run(args: Args) -> Result<i32> {
    let compute = Compute::open(args.device.kind(), 0, 1, args.threads)?;
    let subject = subject(args.prior.as_deref(), compute.device)?;
    if let Some(child) = &args.child {
        let answer = child_answer(child, &subject, args.state.as_deref())?;
        println!("{}", to_json(&answer)?);
        return Ok(DONE);
    }
    let report = examine(&args, &compute, &subject)?;
    match args.json {
        true => println!("{}", to_json(&report)?),
        false => print(&report),
    }
    Ok(if report.good { DONE } else { 1 })
}

/// What the tests run: the given prior, or the stand-in.
fn subject(prior: Option<&Path>, device: Device) -> Result<Subject> {
    match prior {
        None => Subject::standin(device),
        Some(path) => Subject::of_prior(Prior::read(path, device)?, device),
    }
}

fn examine(args: &Args, compute: &Compute, subject: &Subject) -> Result<Report> {
    let cuda = cuda_devices();
    let selftest = selftest::run(subject.denoiser.as_ref(), compute.device, determinism::BLOCK)?;
    let (gpu_difference, gpu_numbers_difference) = match &cuda {
        Ok(_) => (Some(gpu_difference(args)?), Some(selftest::compare_numbers(Device::Cuda(0), Device::Cpu)?)),
        Err(_) => (None, None),
    };
    let folder = args.folder.as_deref().map(check_folder).transpose()?;
    let determinism = if args.determinism { Some(determinism_cases(args)?) } else { None };
    let good = selftest.good
        && gpu_difference.is_none_or(|difference| difference < DEVICE_TOLERANCE)
        && gpu_numbers_difference.is_none_or(|difference| difference < NUMBERS_TOLERANCE)
        && folder.iter().flatten().all(|check| check.good)
        && determinism.as_ref().is_none_or(|found| found.good);
    Ok(Report {
        program: env!("CARGO_PKG_VERSION"),
        libtorch: describe(Fact::Version)?,
        mkl: describe(Fact::Mkl)?,
        onednn: describe(Fact::OneDnn)?,
        mpi: about(),
        hdf5: hdf5_version(),
        cfitsio: cfitsio_version(),
        cpu_capability: describe(Fact::CpuCapability)?,
        processors: std::thread::available_parallelism().map_or(1, |count| count.get()),
        threads: compute.threads,
        settings: settings(),
        cuda_devices: cuda.as_ref().map_or(0, |count| *count),
        cuda_missing: cuda.err().map(|error| error.to_string()),
        fingerprint: compute.fingerprint()?,
        network: subject.name.clone(),
        selftest,
        gpu_difference,
        gpu_numbers_difference,
        folder,
        determinism,
        good,
    })
}

fn gpu_difference(args: &Args) -> Result<f64> {
    let gpu = Compute::open(DeviceKind::Cuda, 0, 1, args.threads)?.device;
    let on_gpu = subject(args.prior.as_deref(), gpu)?;
    let on_cpu = subject(args.prior.as_deref(), Device::Cpu)?;
    selftest::compare((on_gpu.denoiser.as_ref(), gpu), (on_cpu.denoiser.as_ref(), Device::Cpu))
}

fn child_answer(child: &str, subject: &Subject, state: Option<&Path>) -> Result<ChildAnswer> {
    let no_state = || Error::usage("this child needs --state FILE");
    let digest = match child {
        "first-half" => {
            let path = state.ok_or_else(no_state)?;
            let saved = determinism::first_half(subject)?;
            let bytes = postcard::to_stdvec(&saved).map_err(|error| Error::file(path, error))?;
            std::fs::write(path, bytes).map_err(|error| Error::file(path, error))?;
            String::new()
        }
        "second-half" => {
            let path = state.ok_or_else(no_state)?;
            let bytes = std::fs::read(path).map_err(|error| Error::file(path, error))?;
            let saved = postcard::from_bytes(&bytes).map_err(|error| Error::file(path, error))?;
            determinism::second_half(subject, &saved)?
        }
        "operations" => String::new(),
        history => determinism::digest(subject, history.parse()?)?,
    };
    let operations = match child {
        "operations" => determinism::operations(subject.device)?,
        _ => Vec::new(),
    };
    Ok(ChildAnswer { digest, operations })
}

/// Draws the same block in many ways, each in processes of its own.
fn determinism_cases(args: &Args) -> Result<Determinism> {
    let state = std::env::temp_dir().join(format!("unseeing-doctor-{}", std::process::id()));
    let straight = History::Straight.name();
    let mut cases = Vec::new();
    let mut add = |name: String, answers: Vec<ChildAnswer>| {
        cases.push((name, answers.into_iter().map(|answer| answer.digest).collect::<Vec<_>>()));
    };
    add("once".into(), at_once(args, straight, None, 1)?);
    add("once more".into(), at_once(args, straight, None, 1)?);
    for processes in [2, 3, 5] {
        add(format!("{processes} processes at once"), at_once(args, straight, None, processes)?);
    }
    add("saved and loaded after each step".into(), at_once(args, History::Interrupted.name(), None, 1)?);
    let halves =
        at_once(args, "first-half", Some(&state), 1).and_then(|_| at_once(args, "second-half", Some(&state), 1));
    // The file may not be there if the first half failed; the answer is in `halves`.
    let _ = std::fs::remove_file(&state);
    add("continued in another process".into(), halves?);
    add("after other batch sizes".into(), at_once(args, History::OtherShapes.name(), None, 1)?);

    let digest = cases[0].1[0].clone();
    let mut cases: Vec<Case> = cases
        .into_iter()
        .map(|(name, digests)| Case { same: digests.iter().all(|found| *found == digest), name, digests })
        .collect();
    cases.extend(operation_cases(args)?);
    let good = cases.iter().all(|case| case.same);
    Ok(Determinism { digest, cases, good })
}

/// Single operations in three processes at once, with one and with two threads: they name the culprit.
fn operation_cases(args: &Args) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for threads in [1, 2] {
        let answers = at_once(&Args { threads, ..copy(args) }, "operations", None, 3)?;
        for (index, (name, first)) in answers[0].operations.iter().enumerate() {
            let digests: Vec<String> = answers.iter().map(|answer| answer.operations[index].1.clone()).collect();
            let same = digests.iter().all(|found| found == first);
            cases.push(Case { name: format!("{name}, {threads} thread(s), 3 processes"), digests, same });
        }
    }
    Ok(cases)
}

fn copy(args: &Args) -> Args {
    Args { prior: args.prior.clone(), folder: None, child: None, state: None, ..*args }
}

/// Runs `processes` children at the same time and returns what each printed.
fn at_once(args: &Args, child: &str, state: Option<&Path>, processes: usize) -> Result<Vec<ChildAnswer>> {
    let program = std::env::current_exe().map_err(|error| Error::internal(format!("own path: {error}")))?;
    let mut command = Command::new(&program);
    command.args(["doctor", "--child", child, "--device", args.device.name(), "--threads", &args.threads.to_string()]);
    if let Some(prior) = &args.prior {
        command.arg("--prior").arg(prior);
    }
    if let Some(state) = state {
        command.arg("--state").arg(state);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut started = Vec::with_capacity(processes);
    for _ in 0..processes {
        started.push(command.spawn().map_err(|error| Error::file(&program, format!("cannot be started: {error}")))?);
    }
    let mut answers = Vec::with_capacity(processes);
    for process in started {
        let output = process.wait_with_output().map_err(|error| Error::file(&program, error))?;
        if !output.status.success() {
            return Err(Error::internal(format!("a test process ({child}) ended with {}", output.status)));
        }
        let answer = serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::internal(format!("a test process ({child}) answered badly: {error}")))?;
        answers.push(answer);
    }
    Ok(answers)
}

fn print(report: &Report) {
    let mark = |good: bool| if good { "ok  " } else { "BAD " };
    println!("unseeing       {}", report.program);
    println!("libtorch       {}", report.libtorch);
    println!("  MKL          {}", report.mkl);
    println!("  oneDNN       {}", report.onednn);
    println!("MPI            {}", report.mpi.library);
    println!("  launched by  {}", report.mpi.launcher.as_deref().unwrap_or("nothing: one process"));
    if let Some(caution) = &report.mpi.caution {
        println!("  CAUTION      {caution}");
    }
    println!("HDF5           {}", report.hdf5);
    println!("cfitsio        {}", report.cfitsio);
    println!(
        "CPU            {} processor(s) usable, capability {}, {} thread(s) for the network",
        report.processors, report.cpu_capability, report.threads
    );
    for setting in report.settings.iter().filter(|setting| setting.value.is_some()) {
        println!("  {}={}", setting.name, setting.value.as_deref().unwrap_or_default());
    }
    match &report.cuda_missing {
        None => println!("CUDA           {} device(s)", report.cuda_devices),
        Some(why) => println!("CUDA           none ({why})"),
    }
    println!("fingerprint    {}", report.fingerprint);
    let test = &report.selftest;
    println!("{} arithmetic: largest error {:.1e} of the largest value", mark(test.good), test.error);
    println!(
        "     speed: {} at {:.1} GFLOP/s ({:.3} GFLOP, {:.2} ms a sample); matrix product {:.1} GFLOP/s",
        report.network, test.network_gflops, test.network_gflop, test.network_ms, test.matrix_gflops
    );
    if let Some(difference) = report.gpu_difference {
        println!("{} GPU against CPU: {difference:.1e} of the largest value", mark(difference < DEVICE_TOLERANCE));
    }
    if let Some(difference) = report.gpu_numbers_difference {
        let good = mark(difference < NUMBERS_TOLERANCE);
        println!("{good} random numbers of GPU and CPU: {difference:.1e} of the largest");
    }
    for check in report.folder.iter().flatten() {
        println!("{} folder: {}: {}", mark(check.good), check.name, check.note);
    }
    if let Some(found) = &report.determinism {
        println!("Same bytes? One block of {} samples, {} steps:", determinism::BLOCK, determinism::STEPS);
        for case in &found.cases {
            println!("{} {:<52} {}", mark(case.same), case.name, distinct(&case.digests));
        }
    }
    println!("{}", if report.good { "All is well." } else { "Something is wrong: see the lines marked BAD." });
}

/// The digests of a case, each once.
fn distinct(digests: &[String]) -> String {
    let mut seen = digests.to_vec();
    seen.sort();
    seen.dedup();
    seen.join(" ")
}
