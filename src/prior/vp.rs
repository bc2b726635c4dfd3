//! A variance-preserving network that predicts noise, seen as a denoiser in the variance-exploding convention:
//!
//! ```text
//! D(x, sigma) = x - sigma eps_theta(x / sqrt(1 + sigma^2), t(sigma)),   alpha_bar(t) = 1 / (1 + sigma^2)
//! ```
//!
//! with t a float, interpolated in log S/N between the schedule's steps (Karras et al. 2022, arXiv:2206.00364, app. C).

use tch::{Device, Kind, Tensor};

use super::Denoiser;
use super::card::UnetConfig;
use super::schedule::Schedule;
use super::unet::Unet;
use super::weights::Weights;
use crate::{Error, Result};

/// A network that predicts the noise in x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.
pub trait EpsilonNetwork: Send {
    /// `[C, n, n]`
    fn shape(&self) -> [i64; 3];
    /// eps(x_t, t), `[B, C, n, n]`, for `x` of the same shape and times `t`, `[B]`, f32.
    fn epsilon(&self, x: &Tensor, t: &Tensor) -> Result<Tensor>;
    /// What the network makes of `x` at its coarsest level, averaged over places, `[B, F]`; `None` where it has no such thing.
    fn features(&self, _x: &Tensor, _t: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }
    /// Cost of one forward of one sample (multiply and add are two).
    fn flops(&self) -> f64;
}

/// The denoiser behind a noise-predicting network.
pub struct VpDenoiser<N> {
    network: N,
    schedule: Schedule,
    /// What the network is given for one step of the schedule.
    time_scale: f64,
}

impl<N: EpsilonNetwork> VpDenoiser<N> {
    /// `rescale`: the network was trained on times scaled to 0..1000 whatever the number of steps.
    pub fn new(network: N, schedule: Schedule, rescale: bool) -> Self {
        let time_scale = if rescale { 1000.0 / schedule.steps() as f64 } else { 1.0 };
        VpDenoiser { network, schedule, time_scale }
    }

    /// What the network is given for images with noise of level `sigma`: x_t and t.
    fn prepared(&self, x: &Tensor, sigma: f64) -> Result<(Tensor, Tensor)> {
        let Some(time) = self.schedule.time(sigma) else {
            let [low, high] = self.sigma_range();
            return Err(Error::usage(format!(
                "noise level {sigma} is outside the network's range, {low:.3e} to {high:.3e}: lower t_max"
            )));
        };
        let scaled = x.f_div_scalar((1.0 + sigma * sigma).sqrt())?;
        let t = Tensor::f_full([x.size()[0]], time * self.time_scale, (Kind::Float, x.device()))?;
        Ok((scaled, t))
    }

    /// The noise levels that the network was trained for, from the lowest to the highest.
    pub fn sigma_range(&self) -> [f64; 2] {
        [self.schedule.sigma(0), self.schedule.sigma(self.schedule.steps() - 1)]
    }
}

impl VpDenoiser<Unet> {
    /// The denoiser of a U-Net, with the schedule that its hyperparameters name.
    pub fn of_unet(network: Unet, config: &UnetConfig) -> Result<Self> {
        let schedule = Schedule::named(&config.noise_schedule, config.diffusion_steps)?;
        Ok(VpDenoiser::new(network, schedule, config.rescale_timesteps))
    }

    /// The denoiser of a published checkpoint, for images of `channels` bands.
    pub fn load_unet(config: &UnetConfig, channels: i64, weights: &Weights, device: Device) -> Result<Self> {
        VpDenoiser::of_unet(Unet::load(config, channels, weights, device)?, config)
    }
}

impl<N: EpsilonNetwork> Denoiser for VpDenoiser<N> {
    fn shape(&self) -> [i64; 3] {
        self.network.shape()
    }

    /// Below the schedule's lowest level the network is asked at that level: the error is of the order of `sigma`.
    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let (scaled, t) = self.prepared(x, sigma)?;
        Ok(x.f_sub(&self.network.epsilon(&scaled, &t)?.f_mul_scalar(sigma)?)?)
    }

    fn features(&self, x: &Tensor, sigma: f64) -> Result<Option<Tensor>> {
        let _guard = tch::no_grad_guard();
        let (scaled, t) = self.prepared(x, sigma)?;
        self.network.features(&scaled, &t)
    }

    fn flops(&self) -> f64 {
        self.network.flops()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    const MEAN: f64 = 0.3;
    const SD: f64 = 0.7;

    /// The exact noise prediction for pixels that are independent N(MEAN, SD^2), at any real time: alpha_bar from the
    /// schedule's closed formula, not from its table.
    struct ExactNetwork;

    fn alpha_bar(time: f64) -> f64 {
        let f = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
        f((time + 1.0) / 1000.0) / f(0.0)
    }

    impl EpsilonNetwork for ExactNetwork {
        fn shape(&self) -> [i64; 3] {
            [1, 4, 4]
        }

        fn epsilon(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
            let level = alpha_bar(t.double_value(&[0]));
            // E[eps | x_t] for x_t = sqrt(level) x_0 + sqrt(1 - level) eps.
            let variance = level * SD * SD + 1.0 - level;
            Ok((x - level.sqrt() * MEAN) * ((1.0 - level).sqrt() / variance))
        }

        fn flops(&self) -> f64 {
            0.0
        }
    }

    #[test]
    fn the_wrapped_network_is_the_exact_denoiser() {
        let denoiser = VpDenoiser::new(ExactNetwork, Schedule::cosine(1000), true);
        let noise = Key::new(1, "vp", 0, Purpose::Evaluation, 0).normal(32);
        for sigma in [0.02, 0.1, 0.9, 1.0, 7.3, 100.0] {
            let x = Tensor::from_slice(&noise).view([2, 1, 4, 4]) * (SD * SD + sigma * sigma).sqrt() + MEAN;
            let want = (&x * (SD * SD) + MEAN * sigma * sigma) / (SD * SD + sigma * sigma);
            let got = denoiser.denoise(&x, sigma).unwrap();
            let error = (got - want).abs().max().double_value(&[]);
            // f32 cancellation in x - sigma eps, and the interpolation in ln sigma, whose error grows towards the last
            // steps (there sigma ~ 1 / (T - t), so ln sigma is off by up to 1 / (8 (T - t)^2) ~ sigma^2 / (2 T)^2).
            let tolerance = 2e-4 + 1e-5 * sigma;
            assert!(error < tolerance, "sigma {sigma}: {error:.1e}");
        }
        let x = Tensor::zeros([1, 1, 4, 4], (Kind::Float, Device::Cpu));
        assert!(denoiser.denoise(&x, 1e6).unwrap_err().to_string().contains("noise level 1000000 is outside"));
    }

    #[test]
    fn gradients_flow_only_when_wanted() {
        let denoiser = VpDenoiser::new(ExactNetwork, Schedule::cosine(1000), true);
        let x = Tensor::zeros([1, 1, 4, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        assert!(!denoiser.denoise(&x, 1.0).unwrap().requires_grad());
        let gradient =
            Tensor::run_backward(&[denoiser.denoise_with_grad(&x, 1.0).unwrap().sum(Kind::Float)], &[&x], false, false);
        let want = SD * SD / (SD * SD + 1.0);
        assert!((&gradient[0] - want).abs().max().double_value(&[]) < 1e-4);
    }
}
