//! Draws from a prior without data: Heun's second-order steps of the probability-flow equation (Karras et al. 2022,
//! arXiv:2206.00364, algorithm 1), from the largest noise level down to zero:
//!
//! ```text
//! d  = (x - D(x, t)) / t           x' = x + (b - t) d
//! d' = (x' - D(x', b)) / b         x  <- x + (b - t) (d + d') / 2        (Euler for the last step, b = 0)
//! ```

use tch::{Device, Tensor};

use crate::Result;
use crate::prior::{Covariance, Denoiser};
use crate::random::BlockNoise;

/// Exponent of the grid of noise levels.
const RHO: f64 = 7.0;

/// Karras' grid of `steps` noise levels from `t_max` down to `t_min`.
pub fn karras_grid(t_max: f64, t_min: f64, steps: u32) -> Vec<f64> {
    let (high, low) = (t_max.powf(1.0 / RHO), t_min.powf(1.0 / RHO));
    let last = f64::from(steps.saturating_sub(1).max(1));
    (0..steps).map(|step| (high + f64::from(step) / last * (low - high)).powf(RHO)).collect()
}

/// Draws in the prior's stretched space, `[B, C, n, n]`: 2 `steps` - 1 forwards each. They start from
/// N(mu, C0 + t_max^2 I), by key.
pub fn draw(
    denoiser: &dyn Denoiser,
    covariance: &Covariance,
    [t_max, t_min]: [f64; 2],
    steps: u32,
    noise: &BlockNoise,
) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let grid = karras_grid(t_max, t_min, steps);
    let mut x = covariance.draw(t_max, noise, 0)?;
    for (index, &t) in grid.iter().enumerate() {
        let slope = x.f_sub(&denoiser.denoise(&x, t)?)?.f_div_scalar(t)?;
        let Some(&next) = grid.get(index + 1) else {
            x = x.f_sub(&slope.f_mul_scalar(t)?)?;
            break;
        };
        let euler = x.f_add(&slope.f_mul_scalar(next - t)?)?;
        let after = euler.f_sub(&denoiser.denoise(&euler, next)?)?.f_div_scalar(next)?;
        x = x.f_add(&slope.f_add(&after)?.f_mul_scalar(0.5 * (next - t))?)?;
    }
    Ok(x)
}

/// The device of the prior's tensors.
pub fn device(covariance: &Covariance) -> Device {
    covariance.mean.device()
}
