//! One invocation of a training run: resumes where the folder's checkpoint stands, trains, logs, and leaves a checkpoint
//! and a prior whenever it stops.
//!
//! ```text
//! checkpoint.safetensors   everything that a resumed run needs
//! prior.safetensors        the prior of the averaged weights
//! log.csv                  step, learning rate, gradient norm, loss, loss by noise level, images/s, memory, and the shares of the
//!                          time that were spent waiting for images and for the other ranks' gradients
//! training.png             the same as a chart
//! heldout.csv              step, then network / Wiener loss by noise level
//! draws.png                draws of the prior at the last checkpoint
//! heldout.png              held-out images, for comparison
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tch::{Device, Tensor};

use crate::cluster::Comm;
use crate::device::set_precision;
use crate::io::publish::publish_bytes as publish;
use crate::prior::ancestral;
use crate::random::BlockNoise;
use crate::train::batches::BatchMaker;
use crate::train::checkpoint::{checkpoint_bytes, resume, resume_bytes, shipped_bytes};
use crate::train::config::{Precision, TrainConfig};
use crate::train::heldout::{Heldout, LevelLoss, nearest_training_distances};
use crate::train::picture::write_grid;
use crate::train::reduce::Reducer;
use crate::train::rows::{Log, Row};
use crate::train::setup::Setup;
use crate::train::source::ImageSource;
use crate::train::trainer::Trainer;
use crate::{Error, Result};

/// The checkpoint's name in the run's folder.
const CHECKPOINT: &str = "checkpoint.safetensors";
/// Steps in a row of the loss log.
const ROW: u64 = 50;
/// The loss of a network that says nothing is about one.
const SILENT: f64 = 1.0;
/// Draws on the contact sheet, and their noise levels.
const DRAWS: u32 = 24;
const DRAW_STEPS: u32 = 24;

/// What bounds this invocation.
#[derive(Clone, Debug)]
pub struct Options {
    pub folder: PathBuf,
    /// Stop at this step (the schedule keeps the config's length).
    pub stop_at: Option<u64>,
    pub minutes: Option<f64>,
    /// Set by a signal.
    pub stop: Arc<AtomicBool>,
}

/// How an invocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps of the config are done.
    Finished,
    /// Stopped early; the same command goes on.
    Stopped,
}

/// Trains until the steps are done, the time is over or `stop` is set, on the ranks of `comm`. All ranks end at the same
/// step; rank 0 alone measures, writes and saves.
pub fn run(
    config: &TrainConfig,
    source: Arc<dyn ImageSource>,
    options: &Options,
    comm: &dyn Comm,
    device: Device,
) -> Result<Outcome> {
    let began = Instant::now();
    let patience = Duration::try_from_secs_f64(config.run.hang_timeout).unwrap_or(Duration::MAX);
    let mut reducer = Reducer::new(comm, &config.optimizer, patience)?;
    let mut trainer = begin(config, source.as_ref(), &options.folder, comm, device)?;
    set_precision(config.run.precision == Precision::Tf32)?;
    let mut record = match comm.rank() {
        0 => Some(Record::open(config, source.as_ref(), &options.folder, &trainer)?),
        _ => None,
    };
    if comm.rank() == 0 {
        eprintln!(
            "train: step {} of {}, {} parameters, {} rank(s), stretch {:?}, largest noise level {:.1}, set up in {:.0} s",
            trainer.step,
            config.optimizer.steps,
            trainer.layout.length(),
            comm.size(),
            trainer.setup.stretch,
            trainer.setup.sigma_max,
            began.elapsed().as_secs_f64()
        );
    }
    let last = options.stop_at.map_or(config.optimizer.steps, |stop| stop.min(config.optimizer.steps));
    let maker = BatchMaker::new(source.clone(), config, trainer.setup.sigma_max);
    let mut batches = maker.only(comm.rank(), comm.size()).start(trainer.step, config.run.makers);
    let mut row = Row::default();
    let mut waited = reducer.waited();
    let mut least = SILENT;
    let (mut saved, mut row_began) = (Instant::now(), Instant::now());
    while trainer.step < last {
        let asked = Instant::now();
        let batch = batches.next().ok_or_else(|| Error::internal("a thread that makes batches has ended"))??;
        row.waited += asked.elapsed().as_secs_f64();
        let over = options.minutes.is_some_and(|minutes| began.elapsed().as_secs_f64() > 60.0 * minutes);
        let stop = over || options.stop.load(Ordering::Relaxed);
        let total = trainer.sum(&batch, stop, &mut reducer)?;
        let report = trainer.apply(&total, &batch.levels)?;
        row.add(&report);
        let row_ends = trainer.step % ROW == 0 || trainer.step == last;
        // Before anything is saved: the last good checkpoint stays.
        if (row_ends || report.stop) && row.loss() > config.run.divergence * least {
            let what = format!("the loss is {:.4}, the least so far was {least:.4}", row.loss());
            let mend = "the last checkpoint is kept; lower the learning rate, or raise run.divergence";
            return Err(Error::internal(format!("step {}: the training has diverged: {what}; {mend}", trainer.step)));
        }
        if row_ends {
            least = least.min(row.loss());
            let seconds = row_began.elapsed().as_secs_f64();
            row.exchanged = (reducer.waited() - waited).as_secs_f64();
            waited = reducer.waited();
            if let Some(record) = &mut record {
                record.row(&trainer, &row, seconds)?;
            }
            row = Row::default();
        }
        if let Some(record) = &mut record {
            record.measure(&trainer, trainer.step == last)?;
            let due = saved.elapsed().as_secs_f64() > config.run.checkpoint_interval;
            if row_ends && due && trainer.step < last && !report.stop {
                record.save(&trainer)?;
                saved = Instant::now();
            }
        }
        if row_ends {
            row_began = Instant::now();
        }
        if report.stop {
            break;
        }
    }
    if let Some(record) = &mut record {
        record.save(&trainer)?;
    }
    Ok(if trainer.step < config.optimizer.steps { Outcome::Stopped } else { Outcome::Finished })
}

/// The trainer of this rank: rank 0 measures the images or reads the checkpoint, and gives all the others its state.
fn begin(
    config: &TrainConfig,
    source: &dyn ImageSource,
    folder: &Path,
    comm: &dyn Comm,
    device: Device,
) -> Result<Trainer> {
    let digest = source.digest();
    let checkpoint = folder.join(CHECKPOINT);
    let mut trainer = None;
    if comm.rank() == 0 {
        fs::create_dir_all(folder).map_err(|error| Error::file(folder, error))?;
        trainer = Some(if checkpoint.exists() {
            resume(&checkpoint, config, &digest, source.shape(), device)?
        } else {
            Trainer::on(config, Setup::measure(source, config)?, device)?
        });
    }
    if comm.size() == 1 {
        return trainer.ok_or_else(|| Error::internal("a job of one rank without rank 0"));
    }
    let bytes = match &trainer {
        Some(trainer) => comm.broadcast(checkpoint_bytes(trainer, &digest)?)?,
        None => comm.broadcast(Vec::new())?,
    };
    match trainer {
        Some(trainer) => Ok(trainer),
        None => resume_bytes(&bytes, config, &digest, source.shape(), device),
    }
}

/// What rank 0 writes.
struct Record<'a> {
    folder: &'a Path,
    source: &'a dyn ImageSource,
    digest: String,
    heldout: Heldout,
    log: Log,
    heldout_log: Log,
}

impl<'a> Record<'a> {
    fn open(config: &TrainConfig, source: &'a dyn ImageSource, folder: &'a Path, trainer: &Trainer) -> Result<Self> {
        let heldout = Heldout::new(source, trainer, config.run.heldout)?;
        let shown = i64::from(DRAWS).min(heldout.images.size()[0]);
        let stride = heldout.images.size()[0] / shown.max(1);
        let some = heldout.images.f_slice(0, 0, stride * shown, stride.max(1))?;
        write_grid(&folder.join("heldout.png"), &some, 6)?;
        Ok(Record {
            log: Log::open(&folder.join("log.csv"), trainer.step)?,
            heldout_log: Log::open(&folder.join("heldout.csv"), trainer.step)?,
            digest: source.digest(),
            folder,
            source,
            heldout,
        })
    }

    /// The end of a row that took so long.
    fn row(&mut self, trainer: &Trainer, row: &Row, seconds: f64) -> Result<()> {
        let batch = trainer.config.optimizer.batch_at(trainer.step - 1).0;
        self.log.write(&row.text(trainer.step, trainer.optimizer.learning_rate(trainer.step - 1), batch, seconds))?;
        if trainer.step.is_multiple_of(10 * ROW) {
            eprintln!("train: step {}, loss {:.4}", trainer.step, row.loss());
        }
        Ok(())
    }

    /// Held-out losses and sheets of draws, where this step is due for them.
    fn measure(&mut self, trainer: &Trainer, last: bool) -> Result<()> {
        let run = &trainer.config.run;
        if last || trainer.step.is_multiple_of(run.evaluate_every.max(1)) {
            let losses = self.heldout.losses(trainer)?;
            let cells = losses.iter().map(|loss| format!(",{:.4e},{:.5},{:.5}", loss.sigma, loss.network, loss.wiener));
            self.heldout_log.write(&format!("{}{}", trainer.step, cells.collect::<String>()))?;
            let ratios = losses.iter().map(|loss| format!(" {:.3}:{:.3}", loss.sigma, loss.ratio()));
            eprintln!("train: step {}, held out, sigma:network/Wiener{}", trainer.step, ratios.collect::<String>());
        }
        if run.draw_every > 0 && trainer.step.is_multiple_of(run.draw_every) {
            write_grid(&self.folder.join(format!("draws-{}.png", trainer.step)), &draws(trainer, DRAWS)?, 6)?;
        }
        Ok(())
    }

    fn save(&self, trainer: &Trainer) -> Result<()> {
        publish(&self.folder.join(CHECKPOINT), &checkpoint_bytes(trainer, &self.digest)?)?;
        publish(&self.folder.join("prior.safetensors"), &shipped_bytes(trainer, self.source)?)?;
        self.log.draw(&self.folder.join("training.png"))?;
        write_grid(&self.folder.join("draws.png"), &draws(trainer, DRAWS)?, 6)
    }
}

/// Measures a run's averaged network, without training: the held-out losses, and the distances of draws and of held-out
/// images to the nearest of `references` training images.
pub fn check(config: &TrainConfig, source: &dyn ImageSource, folder: &Path, references: u64) -> Result<Check> {
    let trainer = resume(&folder.join(CHECKPOINT), config, &source.digest(), source.shape(), Device::Cpu)?;
    let heldout = Heldout::new(source, &trainer, config.run.heldout)?;
    let draws = draws(&trainer, heldout.images.size()[0] as u32)?;
    Ok(Check {
        step: trainer.step,
        losses: heldout.losses(&trainer)?,
        nearest_to_draws: nearest_training_distances(&draws, source, &trainer, references)?,
        nearest_to_heldout: nearest_training_distances(&heldout.images, source, &trainer, references)?,
    })
}

/// What `check` finds.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub step: u64,
    pub losses: Vec<LevelLoss>,
    /// Distances (root mean square over pixels, stretched units), sorted.
    pub nearest_to_draws: Vec<f64>,
    pub nearest_to_heldout: Vec<f64>,
}

/// Draws of the prior by the averaged weights, always from the same noise.
fn draws(trainer: &Trainer, count: u32) -> Result<Tensor> {
    let denoiser = trainer.denoiser()?;
    let covariance = trainer.setup.covariance.to_device(trainer.optimizer.weights.device())?;
    let mut parts = Vec::new();
    for first in (0..count).step_by(DRAWS as usize) {
        let noise = BlockNoise::new(trainer.config.run.seed, "draws", first, DRAWS.min(count - first));
        parts.push(ancestral::draw(denoiser.as_ref(), &covariance, trainer.range(), DRAW_STEPS, &noise)?);
    }
    Ok(Tensor::f_cat(&parts, 0)?.f_to_device(Device::Cpu)?)
}
