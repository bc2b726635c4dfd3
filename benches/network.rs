//! The network's forward against PyTorch eager: same weights, same inputs, one thread each, in turns. Prints the ratio of
//! the times (ours over PyTorch's) and the largest difference of the outputs.
//!
//! `make bench`, or `UNSEEING_TORCH_PYTHON=/path/to/python cargo bench --bench network`, with a Python that has torch.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Instant;

use tch::{Device, Tensor};
use unseeing::Result;
use unseeing::evaluate::calibration::probability::median;
use unseeing::prior::card::Architecture;
use unseeing::prior::lean::LeanNetwork;
use unseeing::prior::skip::Skip;
use unseeing::prior::store::Store;
use unseeing::random::{BlockNoise, Purpose};
use unseeing::sampler::to_vec;

const PRIOR: &str = "priors/default.safetensors";
const BATCH: u32 = 16;
/// Forwards in one turn, and turns of each side.
const FORWARDS: u32 = 8;
const TURNS: usize = 15;

fn main() {
    unseeing::device::prepare_environment();
    if let Err(error) = bench() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn bench() -> Result<()> {
    let Some(python) = std::env::var_os("UNSEEING_TORCH_PYTHON") else {
        println!("SKIPPED: UNSEEING_TORCH_PYTHON names no Python with torch");
        return Ok(());
    };
    unseeing::device::set_threads(1)?;
    let bytes = unseeing::io::bytes::read(Path::new(PRIOR))?;
    let card = unseeing::prior::file::card(&bytes)?;
    let store = Store::from_bytes(&bytes, unseeing::prior::file::KEY)?;
    let Architecture::Lean(config) = &card.architecture else {
        return Err(unseeing::Error::usage(format!("{PRIOR}: not a lean network")));
    };
    let (bands, size) = (card.bands.len() as i64, card.size);
    let mut source = |name: &str, shape: &[i64], _| store.get(&format!("network.{name}"), shape);
    let network = LeanNetwork::new(config, Skip::inputs(bands), bands, size, &mut source)?;
    let shape = [Skip::inputs(bands), size, size];
    let inputs = BlockNoise::new(0, "bench", 0, BATCH).normal(Purpose::Evaluation, 0, &shape, Device::Cpu)?;
    let levels = Tensor::f_from_slice(&vec![-1.0f32; BATCH as usize])?;

    let folder = tempfile::tempdir().map_err(|error| unseeing::Error::internal(error.to_string()))?;
    let fail = |error: std::io::Error| unseeing::Error::internal(format!("the PyTorch peer: {error}"));
    let write = |name: &str, tensor: &Tensor| {
        let values: Vec<u8> = to_vec(tensor)?.iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(folder.path().join(name), values).map_err(fail)
    };
    let _guard = tch::no_grad_guard();
    write("inputs", &inputs)?;
    write("outputs", &network.forward(&inputs, &levels)?)?;
    let mut peer = Command::new(python)
        .args(["benches/network_peer.py", PRIOR])
        .arg(folder.path())
        .args([BATCH, FORWARDS].map(|number| number.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let (Some(mut ask), Some(answers)) = (peer.stdin.take(), peer.stdout.take()) else {
        return Err(unseeing::Error::internal("the PyTorch peer has no pipes"));
    };
    let mut answers = BufReader::new(answers).lines();
    let mut answer = |ask: Option<&mut ChildStdin>| -> Result<String> {
        if let Some(ask) = ask {
            ask.write_all(b"go\n").map_err(fail)?;
        }
        answers.next().ok_or_else(|| unseeing::Error::internal("the PyTorch peer stopped"))?.map_err(fail)
    };
    println!("PyTorch {}", answer(None)?);
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let start = Instant::now();
        for _ in 0..FORWARDS {
            let _ = network.forward(&inputs, &levels)?;
        }
        let mine = start.elapsed().as_secs_f64() / f64::from(FORWARDS);
        let other: f64 = answer(Some(&mut ask))?
            .trim()
            .parse()
            .map_err(|_| unseeing::Error::internal("the PyTorch peer gave no number"))?;
        ours.push(mine);
        theirs.push(other);
        ratios.push(mine / other);
    }
    drop(ask);
    peer.wait().map_err(fail)?;
    let (ours, theirs, ratio) = (median(&ours), median(&theirs), median(&ratios));
    println!("forward of {BATCH}: {:.1} ms, PyTorch eager {:.1} ms, ratio {ratio:.3}", ours * 1e3, theirs * 1e3);
    println!("{:.1} GFLOP/s", network.flops() * f64::from(BATCH) / 1e9 / ours);
    Ok(())
}
