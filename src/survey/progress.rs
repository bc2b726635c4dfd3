//! What the leader shows of a run: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::plan::Plan;

/// Seconds between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// Progress of a run.
pub struct Progress {
    bar: Option<ProgressBar>,
    objects: u64,
    /// Objects of shards that were done before, and of shards that this run has finished.
    published: u64,
    failed: u64,
    samples: u32,
    steps: u32,
    work: u64,
    started: Instant,
    last_line: Instant,
    ended: u64,
    /// Objects that had ended before this run.
    before: u64,
}

impl Progress {
    /// `published`, `failed`: objects in shards that have receipts already, and those of them that failed.
    pub fn new(plan: &Plan, steps: u32, published: u64, failed: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} objects  {msg}");
            ProgressBar::new(plan.objects).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        Progress {
            bar,
            objects: plan.objects,
            published,
            failed,
            samples: plan.samples,
            steps,
            work: 0,
            started: now,
            last_line: now,
            ended: 0,
            before: published,
        }
    }

    /// Samples times steps that were done.
    pub fn add_work(&mut self, work: u64) {
        self.work += work;
    }

    /// Shows the state: objects of the open shards that have ended, and how many of those failed.
    pub fn show(&mut self, ended_open: u64, failed: u64) {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let done = self.work as f64 / f64::from(self.steps.max(1));
        let rate = done / seconds;
        self.ended = (self.published + ended_open).max(self.ended).min(self.objects);
        let samples = |objects: u64| objects as f64 * f64::from(self.samples);
        let begun = (done - samples(self.ended.saturating_sub(self.before))).max(0.0);
        let left = (samples(self.objects - self.ended) - begun).max(0.0) / rate.max(1e-9);
        let message = format!("{rate:.1} samples/s, {} failed, {} left", self.failed + failed, duration(left));
        if let Some(bar) = &self.bar {
            bar.set_position(self.ended);
            bar.set_message(message);
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            tracing::info!("{}/{} objects, {message}", self.ended, self.objects);
        }
    }

    /// A shard was published: its objects count from here on.
    pub fn publish(&mut self, objects: u32, failed: u32) {
        self.published += u64::from(objects);
        self.failed += u64::from(failed);
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let samples = self.work as f64 / f64::from(self.steps.max(1));
        tracing::info!("{samples:.0} samples in {seconds:.1} s ({:.1} a second)", samples / seconds.max(1e-3));
    }
}

/// A time in words; unknown while nothing has been done.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s > 1e7 => "unknown time".into(),
        s if s >= 7200.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 120.0 => format!("{:.0} min", s / 60.0),
        s => format!("{s:.0} s"),
    }
}
