//! `unseeing run`: works on a survey: alone, or as one of many ranks (mpirun, srun).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clap::{Args as ClapArgs, ValueEnum};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::cluster::{self, Comm, signals};
use crate::config::Config;
use crate::device::Compute;
use crate::failpoint;
use crate::posterior::morphology;
use crate::prior::Prior;
use crate::prior::file::draw_samples;
use crate::survey;
use crate::survey::engine::Engine;
use crate::survey::events::Warnings;
use crate::survey::fitness;
use crate::survey::folder::Folder;
use crate::survey::product_writer::ProductWriter;
use crate::survey::receipt::{PlainWriter, ShardWriter};
use crate::survey::run::Options;
use crate::survey::science::GalaxyEngine;
use crate::survey::toy::Toy;
use crate::survey::worker::RankContext;
use crate::{Error, Result};

/// Arguments of `unseeing run`.
#[derive(ClapArgs)]
pub struct Args {
    /// The survey's config (TOML)
    config: PathBuf,
    /// Write a log of each rank into this folder, as JSON lines
    #[arg(long, value_name = "DIR")]
    log_json: Option<PathBuf>,
    /// Report as JSON at the end: the exit code, and what `unseeing status` tells
    #[arg(long)]
    json: bool,
    /// What computes; `toy` is for tests of machines and of this program, and gives no science
    #[arg(long, hide = true, value_enum, default_value = "posterior")]
    engine: EngineKind,
}

/// What computes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    Posterior,
    Toy,
}

impl EngineKind {
    /// What it asks of a config before a survey is planned.
    pub fn check(self) -> fn(&Config) -> Result<()> {
        match self {
            EngineKind::Posterior => fitness::check_prior,
            EngineKind::Toy => |_| Ok(()),
        }
    }
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let begun = std::time::Instant::now();
    // First of all, so that a signal during start-up is not lost.
    let stop = signals::stop_flag()?;
    cluster::abort_on_panic();
    let comm = cluster::join()?;
    let warnings = Warnings::default();
    start_log(comm.as_ref(), args.log_json.as_deref(), warnings.clone());
    if comm.rank() == 0 {
        signals::stop_before_the_end(&stop);
    }
    failpoint::at("run.joined")?;
    let leads = comm.rank() == 0;
    let options = Options {
        config: args.config.clone(),
        factory: match args.engine {
            EngineKind::Posterior => Arc::new(posterior_engine),
            EngineKind::Toy => Arc::new(Toy::build),
        },
        writer: match args.engine {
            EngineKind::Posterior => Arc::new(ProductWriter),
            EngineKind::Toy => Arc::new(PlainWriter),
        },
        check: args.engine.check(),
        stop,
        begun,
        warnings,
    };
    let outcome = survey::run::run(comm.as_ref(), &options);
    failpoint::at("run.leaving")?;
    // Before any return, because a rank that leaves without this makes the others wait.
    comm.finish()?;
    let code = outcome?;
    if args.json && leads {
        let status = survey::status::read(&Folder::find(&args.config)?)?;
        println!("{:#}", serde_json::json!({ "code": code, "status": status }));
    }
    Ok(code)
}

/// The engine that samples posteriors, on this rank's own device.
fn posterior_engine(context: &RankContext) -> Result<Box<dyn Engine>> {
    let (rank, ranks) = (context.local_rank as u32, context.local_size as u32);
    let run = &context.config.run;
    let device = Compute::open_shared(run.device, rank, ranks, run.ranks_per_device, context.threads)?.device;
    let prior = Prior::from_bytes(&context.prior, device)?;
    let prior_draws = draw_samples(&context.prior, &morphology::names(prior.card.bands.len()))?;
    Ok(Box::new(GalaxyEngine::new(context.config.clone(), prior, device)?.with_prior_draws(prior_draws)))
}

/// The writer that made `file`, by its ending: so that products can be checked without knowing the engine.
pub fn writer_of(file: &Path) -> Arc<dyn ShardWriter> {
    let plain = PlainWriter.extension();
    if file.extension().is_some_and(|ending| ending == plain) { Arc::new(PlainWriter) } else { Arc::new(ProductWriter) }
}

/// Messages go to the terminal: all of the leader's (as RUST_LOG says, if it is set), errors of the other ranks, whose warnings
/// the leader tells. A log that cannot be written ends the job.
fn start_log(comm: &dyn Comm, folder: Option<&Path>, warnings: Warnings) {
    let level = if comm.rank() == 0 { LevelFilter::INFO } else { LevelFilter::ERROR };
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let human = fmt::layer().with_writer(std::io::stderr).with_target(false).with_filter(filter);
    let json = folder.map(|folder| match open_log(comm.rank(), folder) {
        Ok(file) => fmt::layer().json().with_writer(Mutex::new(file)).with_filter(LevelFilter::DEBUG),
        Err(error) => {
            eprintln!("error: {error}");
            comm.abort(error.exit_code());
        }
    });
    tracing_subscriber::registry().with(human).with(json).with(warnings).init();
}

fn open_log(rank: usize, folder: &Path) -> Result<File> {
    let path = folder.join(format!("rank-{rank:04}.json"));
    std::fs::create_dir_all(folder)
        .and_then(|()| File::options().create(true).append(true).open(&path))
        .map_err(|error| Error::usage(format!("{}: cannot write the log (--log-json): {error}", path.display())))
}
