//! What a training run writes down about itself: means over the steps of a row, CSV files, and a chart of them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::report::chart::{Chart, Series};
use crate::train::trainer::StepReport;
use crate::{Error, Result};

/// Upper ends of the noise-level bins of the loss log.
const BINS: [f64; 8] = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, f64::INFINITY];
/// Columns of the log before those of the bins: step, learning rate, gradient norm, loss.
const BEFORE_BINS: usize = 4;

/// Means over the steps of a row.
#[derive(Default)]
pub struct Row {
    steps: f64,
    loss: f64,
    norm: f64,
    /// Steps that had a gradient.
    normed: f64,
    bins: [(f64, f64); BINS.len()],
    /// Seconds in which the training waited for images.
    pub waited: f64,
    /// Seconds in which it waited for the other ranks' gradients, its own being made.
    pub exchanged: f64,
}

impl Row {
    pub fn add(&mut self, report: &StepReport) {
        self.steps += 1.0;
        self.loss += report.loss;
        if let Some(norm) = report.gradient_norm {
            self.norm += norm;
            self.normed += 1.0;
        }
        for &(sigma, loss) in &report.images {
            let bin = BINS.iter().position(|&end| sigma < end).unwrap_or(BINS.len() - 1);
            self.bins[bin].0 += loss;
            self.bins[bin].1 += 1.0;
        }
    }

    pub fn loss(&self) -> f64 {
        self.loss / self.steps
    }

    /// The row of `log.csv`: step, learning rate, gradient norm, loss, loss by noise level, images a second, peak memory in
    /// MiB, shares of the time that were spent waiting for images and for the other ranks' gradients.
    pub fn text(&self, step: u64, rate: f64, batch: usize, seconds: f64) -> String {
        let bins = self.bins.iter().map(|(sum, count)| format!(",{:.5}", sum / count)).collect::<String>();
        format!(
            "{step},{rate:.3e},{:.4},{:.5}{bins},{:.1},{:.0},{:.4},{:.4}",
            self.norm / self.normed,
            self.loss(),
            self.steps * batch as f64 / seconds,
            peak_memory(),
            self.waited / seconds,
            self.exchanged / seconds
        )
    }
}

/// The largest resident memory of this process so far, MiB.
fn peak_memory() -> f64 {
    // SAFETY: plain numbers, for which zeros are valid, filled by the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss as f64 / 1024.0
}

/// A CSV file that is appended to. Rows beyond the step at which a run resumes are dropped: they will be made again.
pub struct Log {
    path: PathBuf,
    file: fs::File,
}

impl Log {
    pub fn open(path: &Path, step: u64) -> Result<Self> {
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

    pub fn write(&mut self, line: &str) -> Result<()> {
        writeln!(self.file, "{line}").map_err(|error| Error::file(&self.path, error))
    }

    /// All rows as numbers.
    fn rows(&self) -> Result<Vec<Vec<f64>>> {
        let text = fs::read_to_string(&self.path).map_err(|error| Error::file(&self.path, error))?;
        let numbers = |line: &str| line.split(',').map(|cell| cell.parse().unwrap_or(f64::NAN)).collect();
        Ok(text.lines().map(numbers).collect())
    }

    /// Draws the loss by noise level, and the gradient's norm, over the steps. Nothing is drawn of an empty log.
    pub fn draw(&self, path: &Path) -> Result<()> {
        let rows = self.rows()?;
        let column = |name: String, index: usize| Series {
            name,
            points: rows.iter().map(|row| (row[0], row.get(index).copied().unwrap_or(f64::NAN))).collect(),
        };
        let mut series = vec![column("gradient norm".into(), 2), column("loss".into(), 3)];
        for (index, end) in BINS.iter().enumerate().filter(|(index, _)| index % 2 == 0) {
            series.push(column(format!("loss, sigma < {end}"), BEFORE_BINS + index));
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut chart = Chart::new("training", "step", "mean of 50 steps");
        chart.log_y = true;
        chart.draw(&series)?.save(path)
    }
}
