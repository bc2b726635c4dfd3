//! A stream of keyed random numbers with the distributions that galaxies and augmentation are drawn from.

use crate::random::{Key, Purpose, object_seed};

/// Numbers fetched from the key at a time.
const CHUNK: usize = 64;

/// Reads the numbers of one key one after the other. What comes out is a pure function of (seed, name, index, purpose)
/// and of the calls made so far.
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    sample: u32,
    purpose: Purpose,
    step: u32,
    chunk: Vec<f64>,
    next: usize,
}

impl Stream {
    /// The stream of item `index` of the sequence `name`.
    pub fn new(seed: u64, name: &str, index: u64, purpose: Purpose) -> Self {
        // The key's sample counter has 32 bits; the upper half of the index goes into its seed.
        let seed = object_seed(seed, &format!("{name}/{}", index >> 32));
        Stream { seed, sample: index as u32, purpose, step: 0, chunk: Vec::new(), next: 0 }
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        if self.next == self.chunk.len() {
            self.chunk = Key::of_seed(self.seed, self.sample, self.purpose, self.step).uniform(CHUNK);
            self.step += 1;
            self.next = 0;
        }
        self.next += 1;
        self.chunk[self.next - 1]
    }

    /// Uniform in [low, high).
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in its logarithm, in [low, high).
    pub fn log_range(&mut self, low: f64, high: f64) -> f64 {
        self.range(low.ln(), high.ln()).exp()
    }

    /// Standard normal (Box-Muller, the cosine half).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Log-normal with this median and standard deviation of the natural logarithm.
    pub fn log_normal(&mut self, median: f64, sd: f64) -> f64 {
        median * (sd * self.normal()).exp()
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// An integer in low..=high.
    pub fn integer(&mut self, low: usize, high: usize) -> usize {
        low + ((high - low + 1) as f64 * self.uniform()) as usize
    }

    /// An index with probability proportional to its weight.
    pub fn choice(&mut self, weights: &[f64]) -> usize {
        let mut at = self.uniform() * weights.iter().sum::<f64>();
        for (index, &weight) in weights.iter().enumerate() {
            if at < weight {
                return index;
            }
            at -= weight;
        }
        weights.len() - 1
    }

    /// An angle in [0, 2 pi).
    pub fn angle(&mut self) -> f64 {
        self.range(0.0, std::f64::consts::TAU)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_differ_by_index_beyond_32_bits() {
        let read = |index| {
            let mut stream = Stream::new(3, "x", index, Purpose::Galaxy);
            (0..200).map(|_| stream.uniform()).collect::<Vec<_>>()
        };
        assert_eq!(read(5), read(5));
        assert_ne!(read(5), read(6));
        assert_ne!(read(5), read(5 + (1 << 32)));
    }
}
