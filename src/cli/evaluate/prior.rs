//! `unseeing evaluate prior`: draws of a prior against the images that it was trained on and held-out ones.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args as ClapArgs;
use tch::Tensor;

use crate::cli::DONE;
use crate::cli::draw::Place;
use crate::cli::shared::shared;
use crate::cluster::Comm;
use crate::evaluate::Outcome;
use crate::evaluate::draws::{self, Drawer, Parts};
use crate::evaluate::quality::features::Inception;
use crate::evaluate::quality::neighbours::NEIGHBOURS;
use crate::evaluate::quality::report::json;
use crate::evaluate::quality::{Report, Sets};
use crate::io::hdf5::Reader;
use crate::io::publish::publish_bytes;
use crate::prior::Prior;
use crate::train::Dataset;
use crate::train::config::TrainConfig;
use crate::train::source::ImageSource;
use crate::{Error, Result};

/// Arguments of `unseeing evaluate prior`.
#[derive(ClapArgs)]
pub struct Args {
    /// Prior (safetensors)
    prior: PathBuf,
    /// Training config (TOML) whose [data] are the images, read as `unseeing train` reads them
    #[arg(long, value_name = "CONFIG")]
    data: PathBuf,
    /// Number of draws, and of training images
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(i64::from(NEIGHBOURS as u32) + 1..))]
    count: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Noise levels of a draw; each costs an evaluation of the network
    #[arg(long, default_value_t = draws::STEPS, value_parser = clap::value_parser!(u32).range(2..))]
    steps: u32,
    /// Threads of the network, in each rank
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// A TorchScript Inception network, for the distance that is known as FID: given [B, 3, 299, 299] from 0 to 1, it gives
    /// [B, features]. Without it that distance is left out
    #[arg(long, value_name = "FILE.pt")]
    inception: Option<PathBuf>,
    /// Folder of the report (report.txt, report.json, umap.csv, pictures) and of the draws (draws.h5), which are not made again
    #[arg(long, default_value = "runs/evaluate-prior")]
    out: PathBuf,
    /// Answers in JSON
    #[arg(long)]
    json: bool,
    /// Draws no pictures
    #[arg(long)]
    no_figures: bool,
    #[command(flatten)]
    place: Place,
}

/// What rank 0 reports on.
struct Made {
    prior: Prior,
    machine: String,
    inception: Option<Inception>,
    config: TrainConfig,
}

/// Runs the command and returns the exit code.
pub fn run(args: &Args) -> Result<i32> {
    shared(|comm, stop| work(args, comm, stop), |made| report(args, &made))
}

/// This rank's share of the draws. What can be wrong with the inputs is found before.
fn work(args: &Args, comm: &dyn Comm, stop: &AtomicBool) -> Result<(Outcome, Made)> {
    let config = TrainConfig::read(&args.data)?;
    let (compute, machine) = args.place.open(comm, args.threads)?;
    let prior = Prior::read(&args.prior, compute.device)?;
    check(&prior, &config, &args.data)?;
    let inception = args.inception.as_deref().map(Inception::load).transpose()?;
    let drawer = Drawer::new(&prior, args.seed, args.steps)?;
    std::fs::create_dir_all(&args.out)
        .map_err(|error| Error::file(&args.out, format!("cannot create the folder: {error}")))?;
    let parts = Parts::new(&draws_file(args), &drawer, &machine, args.count);
    let outcome = if parts.is_in(&draws_file(args))? {
        Outcome::Finished
    } else {
        let blocks = parts.blocks();
        let told = |index: u32| {
            if comm.rank() == 0 {
                eprintln!("evaluate prior: block {} of {blocks}", index + 1);
            }
        };
        parts.work(&drawer, (comm.rank(), comm.size()), stop, &told)?
    };
    drop(drawer);
    Ok((outcome, Made { prior, machine, inception, config }))
}

/// The images must be on the prior's grid.
fn check(prior: &Prior, config: &TrainConfig, path: &Path) -> Result<()> {
    let (card, data) = (&prior.card, &config.data);
    let same = card.bands == data.bands
        && card.size == data.size as i64
        && (card.pixel_kpc - data.pixel_kpc).abs() <= 1e-6 * card.pixel_kpc;
    if same {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{}: [data] describes {} pixels of {} kpc in {:?}, but the prior has {} of {} kpc in {:?}",
        path.display(),
        data.size,
        data.pixel_kpc,
        data.bands,
        card.size,
        card.pixel_kpc,
        card.bands
    )))
}

fn draws_file(args: &Args) -> PathBuf {
    args.out.join("draws.h5")
}

fn report(args: &Args, made: &Made) -> Result<i32> {
    let prior = &made.prior;
    let drawer = Drawer::new(prior, args.seed, args.steps)?;
    let path = draws_file(args);
    let parts = Parts::new(&path, &drawer, &made.machine, args.count);
    if !parts.is_in(&path)? {
        parts.write_hdf5(&path, &drawer)?;
        parts.remove()?;
    }
    let (shape, values) = Reader::open(&path)?.read::<f32>("stretched")?;
    let shape: Vec<i64> = shape.iter().map(|&side| side as i64).collect();
    let draws = Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?;
    let source = Dataset::open(&made.config.data)?;
    let sets = Sets::new(prior, draws, &source, NEIGHBOURS + 1)?;
    let report = Report::of(prior, &sets, made.inception.as_ref(), &ImageSource::digest(&source), args.seed)?;
    let (json, text) = (json(&report)?, report.text());
    publish_bytes(&args.out.join("report.json"), json.as_bytes())?;
    publish_bytes(&args.out.join("report.txt"), text.as_bytes())?;
    if let Some(embedding) = &report.embedding {
        publish_bytes(&args.out.join("umap.csv"), embedding.table().as_bytes())?;
    }
    if !args.no_figures {
        report.draw(&args.out)?;
    }
    println!("{}", if args.json { json } else { text });
    Ok(DONE)
}
