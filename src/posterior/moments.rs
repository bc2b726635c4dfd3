//! Mean and variance of images, in f64 and in our own code, so that the bits are ours: Welford's update within a block,
//! the merge of Chan, Golub & LeVeque (1979, STAN-CS-79-773) between blocks.

use serde::{Deserialize, Serialize};

/// Count, mean and sum of squared deviations of a stream of equally long vectors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    pub count: u64,
    pub mean: Vec<f64>,
    /// Sum over samples of (value - mean)^2.
    pub m2: Vec<f64>,
}

impl Moments {
    /// No samples yet of vectors of `length` values.
    pub fn new(length: usize) -> Self {
        Moments { count: 0, mean: vec![0.0; length], m2: vec![0.0; length] }
    }

    /// Adds one sample (Welford).
    pub fn push(&mut self, values: &[f32]) {
        debug_assert_eq!(values.len(), self.mean.len());
        self.count += 1;
        let count = self.count as f64;
        for ((mean, m2), &value) in self.mean.iter_mut().zip(&mut self.m2).zip(values) {
            let delta = f64::from(value) - *mean;
            *mean += delta / count;
            *m2 += delta * (f64::from(value) - *mean);
        }
    }

    /// Adds the samples of `other` (Chan et al.). Not associative to the last bit: the order is fixed by the tree.
    pub fn merge(&mut self, other: &Moments) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = other.clone();
            return;
        }
        let (left, right) = (self.count as f64, other.count as f64);
        let total = left + right;
        let left_mean = self.mean.iter_mut().zip(&mut self.m2);
        for ((mean, m2), (other_mean, other_m2)) in left_mean.zip(other.mean.iter().zip(&other.m2)) {
            let delta = other_mean - *mean;
            *mean += delta * (right / total);
            *m2 += other_m2 + delta * delta * (left * right / total);
        }
        self.count += other.count;
    }

    /// Unbiased variance; zero for fewer than two samples.
    pub fn variance(&self) -> Vec<f64> {
        let freedom = self.count.saturating_sub(1).max(1) as f64;
        self.m2.iter().map(|m2| m2 / freedom).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    #[test]
    fn merged_moments_are_those_of_all_samples() {
        let values = Key::new(3, "moments", 0, Purpose::Evaluation, 0).normal(3 * 50);
        let samples: Vec<&[f32]> = values.chunks(3).collect();
        let mut whole = Moments::new(3);
        samples.iter().for_each(|sample| whole.push(sample));
        let (mut left, mut right) = (Moments::new(3), Moments::new(3));
        samples[..17].iter().for_each(|sample| left.push(sample));
        samples[17..].iter().for_each(|sample| right.push(sample));
        left.merge(&right);
        for index in 0..3 {
            let mean = samples.iter().map(|s| f64::from(s[index])).sum::<f64>() / 50.0;
            let variance = samples.iter().map(|s| (f64::from(s[index]) - mean).powi(2)).sum::<f64>() / 49.0;
            for moments in [&whole, &left] {
                // f64 rounding over 50 additions.
                assert!((moments.mean[index] - mean).abs() < 1e-13);
                assert!((moments.variance()[index] - variance).abs() < 1e-13);
            }
        }
    }
}
