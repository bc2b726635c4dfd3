//! Draws from a prior without data: Heun's second-order steps of the probability-flow equation (Karras et al. 2022,
//! arXiv:2206.00364, algorithm 1), from the largest noise level down to zero:
//!
//! ```text
//! d  = (x - D(x, t)) / t           x' = x + (b - t) d
//! d' = (x' - D(x', b)) / b         x  <- x + (b - t) (d + d') / 2        (Euler for the last step, b = 0)
//! ```

use tch::Tensor;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::analytic::GaussianDenoiser;
    use tch::{Device, Kind};

    #[test]
    fn draws_with_an_exact_gaussian_denoiser_have_its_covariance() {
        let flat = |values: &[f32]| Tensor::from_slice(values);
        let make = || {
            let components = flat(&[0.5, 0.5, 0.5, 0.5]).view([1, 4]);
            Covariance::new([1, 2, 2], flat(&[1.0, 0.0, 0.0, -1.0]), components, flat(&[4.0]), flat(&[0.1; 4])).unwrap()
        };
        let count = 20_000;
        let noise = BlockNoise::new(1, "draws", 0, count);
        let denoiser = GaussianDenoiser::new(make());
        let draws = draw(&denoiser, &make(), [12.0, 0.01], 32, &noise).unwrap().view([-1, 4]);
        let mean = draws.mean_dim([0i64].as_slice(), false, Kind::Double);
        let covariance = draws.to_kind(Kind::Double).tr().cov(1, None::<Tensor>, None::<Tensor>);
        let expected_mean = Tensor::from_slice(&[1.0f64, 0.0, 0.0, -1.0]);
        let expected =
            Tensor::ones([4, 4], (Kind::Double, Device::Cpu)) + Tensor::eye(4, (Kind::Double, Device::Cpu)) * 0.1;
        // Five standard errors of 20,000 draws of variance 1.1, and 2 % for the 32 steps of the integration.
        let spread = 5.0 * (1.1f64 / f64::from(count)).sqrt();
        assert!((mean - expected_mean).abs().max().double_value(&[]) < spread);
        assert!((covariance - expected).abs().max().double_value(&[]) < 1.6 * spread + 0.022);
    }

    #[test]
    fn the_grid_goes_from_largest_to_smallest() {
        let grid = karras_grid(50.0, 0.01, 16);
        assert!((grid[0] - 50.0).abs() < 1e-9 && (grid[15] - 0.01).abs() < 1e-12);
        assert!(grid.windows(2).all(|pair| pair[0] > pair[1]));
    }
}
