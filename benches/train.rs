//! The training step against PyTorch eager: the shipped architecture, the same batch, one thread each, in turns. Forward,
//! backward, AdamW, the clipping of the gradient and the moving average on both sides; noise and the Gaussian skip on ours
//! only. Prints the ratio of the times (ours over PyTorch's).
//!
//! `UNSEEING_TORCH_PYTHON=/path/to/python cargo bench --bench train`, with a Python that has torch.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use unseeing::evaluate::calibration::probability::median;
use unseeing::train::batches::BatchMaker;
use unseeing::train::config::TrainConfig;
use unseeing::train::setup::Setup;
use unseeing::train::source::{ImageSource, Toy};
use unseeing::train::trainer::Trainer;
use unseeing::{Error, Result};

const CONFIG: &str = "configs/train-default.toml";
const PRIOR: &str = "priors/default.safetensors";
/// Steps in one turn, and turns of each side.
const STEPS: u64 = 3;
const TURNS: usize = 9;

fn main() {
    unseeing::device::prepare_environment();
    if let Err(error) = bench() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn bench() -> Result<()> {
    unseeing::device::set_threads(1)?;
    let mut config = TrainConfig::read(Path::new(CONFIG))?;
    config.covariance.images = 256;
    // What a CPU bears; the recipe is for a GPU.
    config.optimizer.batch = 32;
    let shape = [config.data.bands.len() as i64, config.data.size as i64];
    // Quick images: what a step costs does not depend on what they show.
    let source: Arc<dyn ImageSource> = Arc::new(Toy { bands: shape[0], size: shape[1], seed: 1 });
    let mut trainer = Trainer::new(&config, Setup::measure(source.as_ref(), &config)?)?;
    let maker = BatchMaker::new(source, &config, trainer.setup.sigma_max);
    let mut turn = || -> Result<f64> {
        let batches = (trainer.step..trainer.step + STEPS).map(|step| maker.make(step)).collect::<Result<Vec<_>>>()?;
        let start = Instant::now();
        for batch in &batches {
            trainer.train(batch)?;
        }
        Ok(start.elapsed().as_secs_f64() / STEPS as f64)
    };
    turn()?;

    let python = std::env::var_os("UNSEEING_TORCH_PYTHON");
    let Some(python) = python else {
        println!("SKIPPED: UNSEEING_TORCH_PYTHON names no Python with torch");
        return Ok(());
    };
    let fail = |error: std::io::Error| Error::internal(format!("the PyTorch peer: {error}"));
    let mut peer = Command::new(python)
        .args(["benches/train_peer.py", PRIOR])
        .args([config.optimizer.batch.to_string(), STEPS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let (Some(mut ask), Some(answers)) = (peer.stdin.take(), peer.stdout.take()) else {
        return Err(Error::internal("the PyTorch peer has no pipes"));
    };
    let mut answers = BufReader::new(answers).lines();
    let mut answer = || answers.next().ok_or_else(|| Error::internal("the PyTorch peer stopped"))?.map_err(fail);
    println!("PyTorch {}", answer()?);
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let mine = turn()?;
        ask.write_all(b"go\n").map_err(fail)?;
        let other: f64 = answer()?.trim().parse().map_err(|_| Error::internal("the PyTorch peer gave no number"))?;
        ours.push(mine);
        theirs.push(other);
        ratios.push(mine / other);
    }
    drop(ask);
    peer.wait().map_err(fail)?;
    let (ours, theirs, ratio) = (median(&ours), median(&theirs), median(&ratios));
    let batch = config.optimizer.batch;
    println!("step of {batch}: {:.1} ms, PyTorch eager {:.1} ms, ratio {ratio:.3}", ours * 1e3, theirs * 1e3);
    Ok(())
}
