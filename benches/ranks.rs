//! Two ranks with one thread each against one rank with two threads, on the same survey in turns; and the peak memory of
//! a rank. Prints the ratio of the times (two ranks over one).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use unseeing::evaluate::calibration::probability::median;

const TURNS: usize = 3;
const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");
const PROGRAM: &str = env!("CARGO_BIN_EXE_unseeing");

fn main() {
    if let Err(error) = bench() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn bench() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let survey = folder.path().join("survey");
    let status = Command::new(PROGRAM)
        .args(["simulate", "--objects", "2", "--depth", "wide", "--redshift", "0.25,0.6", "--prior", PRIOR, "--out"])
        .arg(&survey)
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err("`unseeing simulate` failed".into());
    }
    let text = std::fs::read_to_string(survey.join("config.toml"))?.replace("samples = 64", "samples = 32");
    let (mut two, mut one, mut ratios, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0u64);
    for _ in 0..TURNS {
        let (a, memory) = run(&survey, &text, 2, 1)?;
        let (b, other) = run(&survey, &text, 1, 2)?;
        peak = peak.max(memory).max(other);
        two.push(a);
        one.push(b);
        ratios.push(a / b);
    }
    println!(
        "64 samples: 2 ranks x 1 thread {:.1} s, 1 rank x 2 threads {:.1} s, ratio {:.3}; peak memory of a rank {} MiB",
        median(&two),
        median(&one),
        median(&ratios),
        peak / 1024
    );
    Ok(())
}

/// Seconds of a run, and the largest resident size of a rank, KiB.
fn run(survey: &Path, text: &str, ranks: u32, threads: u32) -> Result<(f64, u64), Box<dyn std::error::Error>> {
    std::fs::write(survey.join("config.toml"), text.replace("threads = 1", &format!("threads = {threads}")))?;
    if survey.join("run").exists() {
        std::fs::remove_dir_all(survey.join("run"))?;
    }
    let start = Instant::now();
    let mut child = Command::new("mpirun")
        .args(["-n", &ranks.to_string(), PROGRAM, "run"])
        .arg(survey.join("config.toml"))
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_MCA_hwloc_base_binding_policy", "none")
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        .env("OMP_NUM_THREADS", threads.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut peaks = BTreeMap::new();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        for (process, peak) in resident() {
            peaks.insert(process, peak);
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        return Err(format!("`unseeing run` on {ranks} ranks failed: {status}").into());
    }
    let peak = peaks.values().copied().max().ok_or("no rank was seen running")?;
    Ok((start.elapsed().as_secs_f64(), peak))
}

/// Peak resident size of every process that runs the program, KiB.
fn resident() -> Vec<(String, u64)> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let peak = |folder: &Path| {
        let program = std::fs::read_link(folder.join("exe")).ok()?;
        if program != Path::new(PROGRAM) {
            return None;
        }
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    processes
        .flatten()
        .filter_map(|process| Some((process.file_name().to_string_lossy().into_owned(), peak(&process.path())?)))
        .collect()
}
