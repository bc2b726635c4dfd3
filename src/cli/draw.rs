//! `unseeing draw`: draws galaxies from a prior, without data.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use tch::{Device, Tensor};
use zip::write::SimpleFileOptions;

use crate::config::SamplerConfig;
use crate::io::publish::publish_path;
use crate::prior::Prior;
use crate::prior::store::to_bytes;
use crate::random::BlockNoise;
use crate::sampler::{self, Problem, to_vec};
use crate::train::picture::write_grid;
use crate::{Error, Result, cli};

/// Draws in one batch of the network.
pub const BLOCK: u32 = 16;

/// Arguments of `unseeing draw`.
#[derive(ClapArgs)]
pub struct Args {
    /// Prior (safetensors)
    prior: PathBuf,
    /// Number of draws
    #[arg(long, default_value_t = 36, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Noise levels of a draw; each costs an evaluation of the network
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..))]
    steps: u32,
    /// Threads of the network
    #[arg(long, default_value_t = 1)]
    threads: u16,
    /// A picture (.png), or the arrays `stretched` and `flux` [N, C, n, n] (.npz, .safetensors)
    #[arg(long)]
    out: PathBuf,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let kind = args.out.extension().and_then(|end| end.to_str()).unwrap_or_default().to_owned();
    if !["png", "npz", "safetensors"].contains(&kind.as_str()) {
        let path = args.out.display();
        return Err(Error::usage(format!("--out {path}: expected a name ending in .png, .npz or .safetensors")));
    }
    tch::set_num_threads(i32::from(args.threads.max(1)));
    let prior = Prior::read(&args.prior, Device::Cpu)?;
    let images = draws(&prior, args.seed, args.steps, 0, args.count)?;
    let flux = prior.card.stretch.inverse(&images)?;
    match kind.as_str() {
        "png" => publish_path(&args.out, |path| write_grid(path, &images, columns(args.count)))?,
        "npz" => publish_path(&args.out, |path| write_npz(path, &[("stretched", &images), ("flux", &flux)]))?,
        _ => {
            let tensors = [("stretched".to_owned(), images), ("flux".to_owned(), flux)];
            let bytes = to_bytes("prior", &prior.digest, &tensors)?;
            publish_path(&args.out, |path| std::fs::write(path, &bytes).map_err(|error| Error::file(path, error)))?;
        }
    }
    Ok(cli::DONE)
}

/// Draws `first .. first + count` of the prior in its stretched space, `[count, C, n, n]`, by key: the default sampler
/// without data, so that they are draws of the prior that posteriors are made with.
pub fn draws(prior: &Prior, seed: u64, steps: u32, first: u32, count: u32) -> Result<Tensor> {
    let config = SamplerConfig { steps, ..SamplerConfig::default() };
    let sampler = sampler::build(&config, prior)?;
    let device = prior.covariance.mean.device();
    let mut parts = Vec::new();
    for start in (first..first + count).step_by(BLOCK as usize) {
        let noise = BlockNoise::new(seed, "prior draws", start, BLOCK.min(first + count - start));
        let denoiser = prior.denoiser.as_ref();
        parts.push(sampler::run(sampler.as_ref(), &Problem { denoiser, likelihood: None, noise, device })?.image);
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}

fn columns(count: u32) -> usize {
    (f64::from(count).sqrt().ceil() as usize).max(1)
}

/// A NumPy archive of f32 arrays.
fn write_npz(path: &Path, arrays: &[(&str, &Tensor)]) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::file(path, error);
    let file = std::fs::File::create(path).map_err(|error| failed(&error))?;
    let mut archive = zip::ZipWriter::new(file);
    for (name, tensor) in arrays {
        let shape: String = tensor.size().iter().map(|side| format!("{side}, ")).collect();
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
        // The header ends on a multiple of 64 bytes (NumPy format 1.0: magic 6, version 2, length 2, newline 1).
        header.push_str(&" ".repeat(63 - (header.len() + 10) % 64));
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(to_vec(tensor)?.iter().flat_map(|value| value.to_le_bytes()));
        archive.start_file(format!("{name}.npy"), SimpleFileOptions::default()).map_err(|error| failed(&error))?;
        archive.write_all(&bytes).map_err(|error| failed(&error))?;
    }
    archive.finish().map_err(|error| failed(&error))?;
    Ok(())
}
