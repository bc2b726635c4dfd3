//! The pulse of a worker thread, written by it and watched by its rank's main thread.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Step durations kept for the median.
const KEPT: usize = 101;
/// A worker is taken for hung after this many median steps (and at least the config's timeout).
const HUNG_STEPS: f64 = 10.0;

/// Signs of life.
#[derive(Default)]
pub struct Pulse {
    work: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The object being worked on; none while waiting for a lease.
    object: Option<String>,
    last: Option<Instant>,
    steps: Vec<f64>,
    next: usize,
}

impl Pulse {
    /// An object is begun.
    pub fn begin(&self, object: &str) {
        let mut inner = self.lock();
        inner.object = Some(object.to_string());
        inner.last = Some(Instant::now());
    }

    /// The worker waits for a lease: silence is no sign of trouble.
    pub fn end(&self) {
        self.lock().object = None;
    }

    /// Something other than a step was done.
    pub fn tick(&self) {
        self.lock().last = Some(Instant::now());
    }

    /// A step was done of this many samples.
    pub fn step(&self, samples: u32) {
        self.work.fetch_add(u64::from(samples), Ordering::Relaxed);
        let mut inner = self.lock();
        let now = Instant::now();
        if let Some(last) = inner.last.replace(now) {
            let seconds = now.duration_since(last).as_secs_f64();
            let place = inner.next % KEPT;
            if inner.steps.len() < KEPT {
                inner.steps.push(seconds)
            } else {
                inner.steps[place] = seconds
            }
            inner.next += 1;
        }
    }

    /// Samples times steps done since the start.
    pub fn work(&self) -> u64 {
        self.work.load(Ordering::Relaxed)
    }

    /// To be called before `hung` by who has not looked for so long. A watcher that was `away` itself (the process was frozen or suspended, or
    /// it was at work on files) cannot tell who was silent meanwhile: the worker is given its time anew.
    pub fn looked_after(&self, away: Duration, timeout: Duration) {
        if away > timeout / 2 {
            self.tick();
        }
    }

    /// The object on which the worker has been silent for longer than it should, and for how long.
    pub fn hung(&self, timeout: Duration) -> Option<(String, Duration)> {
        let inner = self.lock();
        let object = inner.object.as_ref()?;
        let silent = inner.last?.elapsed();
        if silent <= timeout {
            return None;
        }
        let mut steps = inner.steps.clone();
        steps.sort_unstable_by(f64::total_cmp);
        let median = steps.get(steps.len() / 2).copied().unwrap_or(0.0);
        (silent.as_secs_f64() > HUNG_STEPS * median).then(|| (object.clone(), silent))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave these plain values half-changed.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_while_working_and_in_units_of_the_median_step() {
        let pulse = Pulse::default();
        let timeout = Duration::from_millis(20);
        std::thread::sleep(2 * timeout);
        assert!(pulse.hung(timeout).is_none());
        pulse.begin("a");
        std::thread::sleep(2 * timeout);
        assert_eq!(pulse.hung(timeout).unwrap().0, "a");
        // That silence was one step long: now ten of them are waited for.
        pulse.step(3);
        std::thread::sleep(2 * timeout);
        assert!(pulse.hung(timeout).is_none());
        pulse.end();
        assert!(pulse.hung(Duration::ZERO).is_none());
        assert_eq!(pulse.work(), 3);
    }

    #[test]
    fn a_watcher_that_was_away_does_not_blame_the_worker() {
        let pulse = Pulse::default();
        let (second, timeout) = (Duration::from_secs(1), Duration::from_secs(20));
        let silent = || pulse.hung(Duration::ZERO).unwrap().1;
        pulse.begin("a");
        std::thread::sleep(second);
        pulse.looked_after(timeout / 10, timeout);
        assert!(silent() >= second);
        pulse.looked_after(timeout, timeout);
        assert!(silent() < second);
    }
}
