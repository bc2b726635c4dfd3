//! One invocation of a training run: resumes where the folder's checkpoint stands, trains, logs, and leaves a checkpoint
//! and a prior whenever it stops.
//!
//! ```text
//! checkpoint.safetensors   everything that a resumed run needs
//! prior.safetensors        the prior of the averaged weights
//! log.csv                  step, learning rate, gradient norm, loss, loss by noise level
//! heldout.csv              step, then network / Wiener loss by noise level
//! draws.png                draws of the prior at the last checkpoint
//! heldout.png              held-out images, for comparison
//! ```

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::prior::ancestral;
use crate::random::BlockNoise;
use crate::train::batches::BatchMaker;
use crate::train::checkpoint::{checkpoint_bytes, resume, shipped_bytes};
use crate::train::config::TrainConfig;
use crate::train::heldout::Heldout;
use crate::train::picture::write_grid;
use crate::train::setup::Setup;
use crate::train::source::ImageSource;
use crate::train::trainer::{StepReport, Trainer};
use crate::{Error, Result};

/// Upper ends of the noise-level bins of the loss log.
const BINS: [f64; 8] = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, f64::INFINITY];
/// Steps in a row of the loss log.
const ROW: u64 = 50;
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

/// Trains until the steps are done, the time is over or `stop` is set.
pub fn run(config: &TrainConfig, source: Arc<dyn ImageSource>, options: &Options) -> Result<Outcome> {
    let began = Instant::now();
    let folder = &options.folder;
    fs::create_dir_all(folder).map_err(|error| Error::file(folder, error))?;
    let digest = source.digest();
    let checkpoint = folder.join("checkpoint.safetensors");
    let mut trainer = if checkpoint.exists() {
        resume(&checkpoint, config, &digest, source.shape())?
    } else {
        Trainer::new(config, Setup::measure(source.as_ref(), config)?)?
    };
    let setup = &trainer.setup;
    eprintln!(
        "train: step {} of {}, {} parameters, stretch {:?}, largest noise level {:.1}, set up in {:.0} s",
        trainer.step,
        config.optimizer.steps,
        trainer.layout.length(),
        setup.stretch,
        setup.sigma_max,
        began.elapsed().as_secs_f64()
    );
    let heldout = Heldout::new(source.as_ref(), &trainer, config.run.heldout)?;
    let shown = i64::from(DRAWS).min(heldout.images.size()[0]);
    let stride = heldout.images.size()[0] / shown.max(1);
    let some = heldout.images.f_slice(0, 0, stride * shown, stride.max(1))?;
    write_grid(&folder.join("heldout.png"), &some, 6)?;
    let mut log = Log::open(&folder.join("log.csv"), trainer.step)?;
    let mut heldout_log = Log::open(&folder.join("heldout.csv"), trainer.step)?;
    let save = |trainer: &Trainer| -> Result<()> {
        publish(&checkpoint, &checkpoint_bytes(trainer, &digest)?)?;
        publish(&folder.join("prior.safetensors"), &shipped_bytes(trainer, source.as_ref())?)?;
        draw_sheet(trainer, &folder.join("draws.png"))
    };

    let last = options.stop_at.map_or(config.optimizer.steps, |stop| stop.min(config.optimizer.steps));
    let batches = BatchMaker::new(source.clone(), config, trainer.setup.sigma_max).start(trainer.step);
    let mut saved = Instant::now();
    let mut row = Row::default();
    let first_step = trainer.step;
    let training_began = Instant::now();
    while trainer.step < last {
        let batch = batches.recv().map_err(|_| Error::internal("the thread that makes batches has ended"))??;
        row.add(&trainer.train(&batch)?);
        if trainer.step % ROW == 0 || trainer.step == last {
            let rate = (trainer.step - first_step) as f64 / training_began.elapsed().as_secs_f64();
            log.write(&row.text(trainer.step, trainer.optimizer.learning_rate(trainer.step - 1)))?;
            if trainer.step % (10 * ROW) == 0 {
                eprintln!("train: step {}, loss {:.4}, {rate:.2} steps/s", trainer.step, row.loss());
            }
            row = Row::default();
        }
        if trainer.step % config.run.evaluate_every == 0 || trainer.step == last {
            let losses = heldout.losses(&trainer)?;
            let cells = losses.iter().map(|loss| format!(",{:.4e},{:.5},{:.5}", loss.sigma, loss.network, loss.wiener));
            heldout_log.write(&format!("{}{}", trainer.step, cells.collect::<String>()))?;
            let ratios = losses.iter().map(|loss| format!(" {:.3}:{:.3}", loss.sigma, loss.ratio()));
            eprintln!("train: step {}, held out, sigma:network/Wiener{}", trainer.step, ratios.collect::<String>());
        }
        let over = options.minutes.is_some_and(|minutes| began.elapsed().as_secs_f64() > 60.0 * minutes);
        if over || options.stop.load(Ordering::Relaxed) {
            break;
        }
        if saved.elapsed().as_secs_f64() > config.run.checkpoint_interval {
            save(&trainer)?;
            saved = Instant::now();
        }
    }
    save(&trainer)?;
    Ok(if trainer.step < config.optimizer.steps { Outcome::Stopped } else { Outcome::Finished })
}

/// Draws of the prior by the averaged weights, always from the same noise.
fn draw_sheet(trainer: &Trainer, path: &Path) -> Result<()> {
    let noise = BlockNoise::new(trainer.config.run.seed, "draws", 0, DRAWS);
    let denoiser = trainer.denoiser()?;
    let range = [trainer.setup.sigma_max, trainer.config.levels.sigma_min];
    let draws = ancestral::draw(&denoiser, &trainer.setup.covariance, range, DRAW_STEPS, &noise)?;
    write_grid(path, &draws, 6)
}

/// Means over the steps of a row.
#[derive(Default)]
struct Row {
    steps: f64,
    loss: f64,
    norm: f64,
    bins: [(f64, f64); BINS.len()],
}

impl Row {
    fn add(&mut self, report: &StepReport) {
        self.steps += 1.0;
        self.loss += report.loss;
        self.norm += report.gradient_norm;
        for &(sigma, loss) in &report.images {
            let bin = BINS.iter().position(|&end| sigma < end).unwrap_or(BINS.len() - 1);
            self.bins[bin].0 += loss;
            self.bins[bin].1 += 1.0;
        }
    }

    fn loss(&self) -> f64 {
        self.loss / self.steps
    }

    fn text(&self, step: u64, rate: f64) -> String {
        let bins = self.bins.iter().map(|(sum, count)| format!(",{:.5}", sum / count)).collect::<String>();
        format!("{step},{rate:.3e},{:.4},{:.5}{bins}", self.norm / self.steps, self.loss())
    }
}

/// A CSV file that is appended to. Rows beyond the step at which a run resumes are dropped: they will be made again.
struct Log {
    path: PathBuf,
    file: fs::File,
}

impl Log {
    fn open(path: &Path, step: u64) -> Result<Self> {
        let failed = |error: std::io::Error| Error::file(path, error);
        let old = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let row_step = |line: &str| line.split(',').next().and_then(|cell| cell.parse::<u64>().ok());
        let kept = old.lines().filter(|line| row_step(line).is_some_and(|row| row <= step));
        let text: String = kept.flat_map(|line| [line, "\n"]).collect();
        let mut file = fs::File::create(path).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(Log { path: path.to_path_buf(), file })
    }

    fn write(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}").map_err(|error| Error::file(&self.path, error))
    }
}

/// Writes a file so that it is never seen half-written.
fn publish(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| Error::file(path, error);
    let temporary = path.with_extension("partial");
    let mut file = fs::File::create(&temporary).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}
