//! `unseeing draw`: draws galaxies from a prior, without data.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args as ClapArgs;
use tch::Tensor;
use zip::write::SimpleFileOptions;

use crate::cli::shared::{program, shared};
use crate::cluster::Comm;
use crate::config::DeviceKind;
use crate::device::Compute;
use crate::evaluate::Outcome;
use crate::evaluate::draws::{self, Drawer, Parts};
use crate::io::publish::publish_path;
use crate::prior::Prior;
use crate::prior::store::to_bytes;
use crate::sampler::to_vec;
use crate::train::picture::write_grid;
use crate::{Error, Result, cli};

/// Draws on the picture that goes with HDF5 files.
const SHOWN: u32 = 64;
/// Endings of `--out`.
const KINDS: [&str; 5] = ["png", "npz", "safetensors", "h5", "hdf5"];

/// Arguments of `unseeing draw`.
#[derive(ClapArgs)]
pub struct Args {
    /// Prior (safetensors)
    prior: PathBuf,
    /// Number of draws; more than there were goes on from those
    #[arg(long, default_value_t = 36, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Noise levels of a draw; each costs an evaluation of the network
    #[arg(long, default_value_t = draws::STEPS, value_parser = clap::value_parser!(u32).range(2..))]
    steps: u32,
    /// Threads of the network, in each rank
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// A picture (.png), or the arrays `stretched` and `flux` [N, C, n, n] (.h5, with a picture beside it; .npz,
    /// .safetensors). Finished blocks wait in OUT.parts until all are there
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Where draws are made.
#[derive(ClapArgs, Clone, Copy)]
pub struct Place {
    /// Draw on CUDA devices, one a rank
    #[arg(long)]
    cuda: bool,
}

impl Place {
    /// This rank's device, with `threads` of the CPU, and what moves bits there.
    pub fn open(self, comm: &dyn Comm, threads: u32) -> Result<(Compute, String)> {
        let kind = if self.cuda { DeviceKind::Cuda } else { DeviceKind::Cpu };
        let compute = Compute::open(kind, comm.local_rank() as u32, comm.local_size() as u32, threads)?;
        let machine = format!("{} {}", program()?, compute.fingerprint()?);
        Ok((compute, machine))
    }
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    shared(|comm, stop| work(&args, comm, stop), |made| publish(&args, made))
}

/// What rank 0 publishes from; nothing where the output is there already.
type Made = Option<(Prior, String)>;

fn work(args: &Args, comm: &dyn Comm, stop: &AtomicBool) -> Result<(Outcome, Made)> {
    let path = args.out.display();
    if !KINDS.contains(&kind(args)) {
        let names = KINDS.map(|kind| format!(".{kind}")).join(", ");
        return Err(Error::usage(format!("--out {path}: expected a name ending in one of {names}")));
    }
    let (compute, machine) = args.place.open(comm, args.threads)?;
    let prior = Prior::read(&args.prior, compute.device)?;
    let drawer = Drawer::new(&prior, args.seed, args.steps)?;
    let parts = Parts::new(&args.out, &drawer, &machine, args.count);
    if is_done(args, &parts)? {
        if comm.rank() == 0 {
            eprintln!("draw: {path} holds these draws already");
        }
        return Ok((Outcome::Finished, None));
    }
    let blocks = parts.blocks();
    let told = |index: u32| {
        if comm.rank() == 0 {
            eprintln!("draw: block {} of {blocks}", index + 1);
        }
    };
    let outcome = parts.work(&drawer, (comm.rank(), comm.size()), stop, &told)?;
    drop(drawer);
    Ok((outcome, Some((prior, machine))))
}

fn kind(args: &Args) -> &str {
    args.out.extension().and_then(|end| end.to_str()).unwrap_or_default()
}

/// Whether the output holds these draws already, and as many. Only HDF5 says what it holds.
fn is_done(args: &Args, parts: &Parts) -> Result<bool> {
    Ok(["h5", "hdf5"].contains(&kind(args)) && args.out.with_extension("png").exists() && parts.is_in(&args.out)?)
}

/// Joins the blocks into the output.
fn publish(args: &Args, made: Made) -> Result<i32> {
    let Some((prior, machine)) = made else { return Ok(cli::DONE) };
    let drawer = Drawer::new(&prior, args.seed, args.steps)?;
    let parts = Parts::new(&args.out, &drawer, &machine, args.count);
    if ["h5", "hdf5"].contains(&kind(args)) {
        // The picture is there once the arrays are.
        let shown = Parts::new(&args.out, &drawer, &machine, args.count.min(SHOWN)).images()?;
        let picture = args.out.with_extension("png");
        publish_path(&picture, |path| write_grid(path, &shown, columns(shown.size()[0] as u32)))?;
        parts.write_hdf5(&args.out, &drawer)?;
    } else {
        let images = parts.images()?;
        let flux = prior.card.stretch.inverse(&images)?;
        match kind(args) {
            "png" => publish_path(&args.out, |path| write_grid(path, &images, columns(args.count)))?,
            "npz" => publish_path(&args.out, |path| write_npz(path, &[("stretched", &images), ("flux", &flux)]))?,
            _ => {
                let tensors = [("stretched".to_owned(), images), ("flux".to_owned(), flux)];
                let bytes = to_bytes("prior", &prior.digest, &tensors)?;
                publish_path(&args.out, |path| std::fs::write(path, &bytes).map_err(|error| Error::file(path, error)))?;
            }
        }
    }
    parts.remove()?;
    Ok(cli::DONE)
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
