//! AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) and a moving average of the weights, on one long vector. Its state
//! is plain tensors, so that a checkpoint continues to the same bits (the library's own optimizers cannot be saved).
//!
//! ```text
//! g <- g min(1, clip / |g|)
//! m <- m + (1 - b1) (g - m)                v <- v + (1 - b2) (g^2 - v)
//! p <- p (1 - lr wd mask) - lr / (1 - b1^k) m / (sqrt(v / (1 - b2^k)) + eps)
//! a <- a + (1 - decay_k) (p - a)
//! ```

use tch::{Kind, Tensor};

use crate::train::config::{Decay, OptimizerSection};
use crate::{Error, Result};

const BETA1: f64 = 0.9;
const EPSILON: f64 = 1e-8;

/// The trained weights and everything that the optimizer remembers, each `[P]`, f32.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerSection,
    decay_mask: Tensor,
    pub weights: Tensor,
    pub first_moment: Tensor,
    pub second_moment: Tensor,
    /// The moving average of the weights: what is shipped.
    pub average: Tensor,
}

impl Optimizer {
    /// Starts at `weights`.
    pub fn new(config: &OptimizerSection, weights: Tensor, decay_mask: Tensor) -> Result<Self> {
        Ok(Optimizer {
            config: config.clone(),
            decay_mask,
            first_moment: weights.f_zeros_like()?,
            second_moment: weights.f_zeros_like()?,
            average: weights.f_detach_copy()?,
            weights,
        })
    }

    /// The learning rate of step `step` (from 0): linear warm-up, then half a cosine down to a hundredth, or nothing.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let OptimizerSection { steps, learning_rate, warmup, .. } = self.config;
        if step < warmup {
            return learning_rate * (step + 1) as f64 / warmup as f64;
        }
        if self.config.decay == Decay::Constant {
            return learning_rate;
        }
        let done = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
        learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()))
    }

    /// One update by the gradient `[P]` at step `step` (from 0). Returns the gradient's norm before clipping; a gradient
    /// that is not finite is an error, and leaves everything as it was.
    pub fn update(&mut self, gradient: &Tensor, step: u64) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let norm = gradient.f_norm()?.f_double_value(&[])?;
        if !norm.is_finite() {
            return Err(Error::internal(format!("step {step}: the gradient is not finite; lower the learning rate")));
        }
        let clip = if self.config.clip > 0.0 { (self.config.clip / (norm + 1e-12)).min(1.0) } else { 1.0 };
        let beta2 = self.config.beta2;
        let gradient = gradient.f_mul_scalar(clip)?;
        let count = (step + 1) as f64;
        let rate = self.learning_rate(step);
        let _ = self.first_moment.f_lerp_(&gradient, 1.0 - BETA1)?;
        let _ = self.second_moment.f_lerp_(&gradient.f_square()?, 1.0 - beta2)?;
        let denominator = self.second_moment.f_div_scalar(1.0 - beta2.powf(count))?.f_sqrt()?.f_add_scalar(EPSILON)?;
        let direction = self.first_moment.f_div(&denominator)?.f_mul_scalar(rate / (1.0 - BETA1.powf(count)))?;
        let decay = self.weights.f_mul(&self.decay_mask)?.f_mul_scalar(rate * self.config.weight_decay)?;
        let _ = self.weights.f_sub_(&direction.f_add(&decay)?)?;
        // The average follows quickly while the weights still run away from their start.
        let keep = self.config.ema.min((1.0 + count) / (10.0 + count));
        let _ = self.average.f_lerp_(&self.weights, 1.0 - keep)?;
        Ok(norm)
    }

    /// The saved state by name.
    pub fn state(&self) -> [(&'static str, &Tensor); 4] {
        [
            ("weights", &self.weights),
            ("first_moment", &self.first_moment),
            ("second_moment", &self.second_moment),
            ("average", &self.average),
        ]
    }

    /// Copies a saved state into place.
    pub fn restore(&mut self, name: &str, values: &Tensor) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let target = match name {
            "weights" => &mut self.weights,
            "first_moment" => &mut self.first_moment,
            "second_moment" => &mut self.second_moment,
            "average" => &mut self.average,
            other => return Err(Error::internal(format!("the optimizer has no state `{other}`"))),
        };
        if target.size() != values.size() || values.kind() != Kind::Float {
            return Err(Error::internal(format!(
                "`{name}` has shape {:?}, expected {:?}",
                values.size(),
                target.size()
            )));
        }
        target.f_copy_(values)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> OptimizerSection {
        OptimizerSection {
            steps: 400,
            batch: 1,
            micro_batch: None,
            later: Vec::new(),
            decay: Decay::Cosine,
            beta2: 0.99,
            learning_rate: 0.05,
            warmup: 10,
            weight_decay: 0.0,
            clip: 1.0,
            ema: 0.9,
        }
    }

    #[test]
    fn finds_the_minimum_of_a_quadratic() {
        let target = Tensor::from_slice(&[3.0f32, -2.0, 0.5]);
        let curvature = Tensor::from_slice(&[1.0f32, 10.0, 0.1]);
        let mask = target.ones_like();
        let mut optimizer = Optimizer::new(&config(), target.zeros_like(), mask).unwrap();
        for step in 0..400 {
            let gradient = (&optimizer.weights - &target) * &curvature;
            optimizer.update(&gradient, step).unwrap();
        }
        // The last learning rates are 5e-4: what is left is a few of those.
        for found in [&optimizer.weights, &optimizer.average] {
            assert!((found - &target).abs().max().double_value(&[]) < 0.01, "{found:?}");
        }
        assert!(optimizer.update(&(&target * f64::NAN), 400).is_err());
    }

    #[test]
    fn first_step_is_the_sign_of_the_gradient_times_the_rate() {
        let mut optimizer =
            Optimizer::new(&config(), Tensor::from_slice(&[1.0f32, 1.0]), Tensor::from_slice(&[1.0f32, 0.0])).unwrap();
        optimizer.update(&Tensor::from_slice(&[0.3f32, -0.2]), 0).unwrap();
        let rate = optimizer.learning_rate(0);
        assert!((rate - 0.005).abs() < 1e-12);
        let moved = Vec::<f32>::try_from(&optimizer.weights).unwrap();
        // f32 rounding of numbers near one.
        assert!((f64::from(moved[0]) - (1.0 - rate)).abs() < 2e-7 && (f64::from(moved[1]) - (1.0 + rate)).abs() < 2e-7);
    }
}
