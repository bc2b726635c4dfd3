//! Amplitude and sky given the image, exactly. The light is a h, with h known, so that the likelihood is Gaussian in a, with the sky
//! integrated, and the prior is Gaussian in ln a: one number, whose distribution is summed over a grid,
//!
//! ```text
//! y = a h + b + n,      K = Sigma + sky_sd^2 1 1^T          Sigma that of the point
//! ln p(ln a | y) = beta e^d - alpha e^(2 d) / 2 - (ln a - mean)^2 / (2 sd^2),      d = ln a - ln a0
//! alpha = (a0 h)^T K^-1 (a0 h),      beta = (a0 h)^T K^-1 y
//! ```
//!
//! A draw by linearising in ln a, as perturb-and-MAP does, is too bright, by an amount of the order of the relative error of the flux in
//! units of posterior standard deviations. Then the sky is drawn, which is linear.

use tch::{Kind, Tensor};

use super::condition::{perturbation, scale_by_prior};
use super::conjugate_gradient::{self, Stop};
use super::gauss_newton::GaussNewton;
use super::preconditioner::Preconditioner;
use super::{Problem, to_vec};
use crate::Result;
use crate::forward::{Latent, Likelihood, Linearized};
use crate::random::Purpose;

/// How much more precisely than a step's solutions: a residual of the noise's own size would move ln a by its whole error.
const PRECISE: f64 = 0.03;
/// Nodes of the grid, and how far below its largest value the logarithm of the density is at the grid's ends.
const NODES: usize = 1024;
const DEEP: f64 = 32.0;

/// A draw of amplitude and sky given the image of `point` and the data, with the noise covariance at `point`.
pub fn draw_nuisance(
    problem: &Problem,
    likelihood: &dyn Likelihood,
    step: u32,
    point: &Latent,
    stop: Stop,
) -> Result<Latent> {
    if likelihood.bend(&point.image)?.is_none() {
        return draw_linear(problem, likelihood, step, point, stop);
    }
    let nuisance = likelihood.nuisance();
    let linear = likelihood.linearize(point)?;
    let [ones, none, no_sky] =
        [point.ln_amplitude.f_ones_like()?, point.image.f_zeros_like()?, point.sky.f_zeros_like()?];
    let toward = |ln_amplitude: &Tensor, sky: &Tensor| -> Result<Tensor> {
        linear.apply(&Latent {
            image: none.shallow_clone(),
            ln_amplitude: ln_amplitude.shallow_clone(),
            sky: sky.shallow_clone(),
        })
    };
    let light = toward(&ones, &no_sky)?;
    // The data without the sky of the point: a h + b + n.
    let data = likelihood.data().f_sub(linear.prediction())?;
    let data = data.f_add(&light)?.f_add(&toward(&ones.f_zeros_like()?, &point.sky)?)?;
    let preconditioner = Preconditioner::new(likelihood, point, None, 0.0)?;
    let solve = |rhs: &Tensor| given_sky(likelihood, linear.as_ref(), &preconditioner, rhs, stop.loosened(PRECISE));
    let [light_weights, data_weights] = [solve(&light)?, solve(&data)?];
    let amplitudes = point.ln_amplitude.size()[1];
    let pixels: &[i64] = if amplitudes == 1 { &[1, 2, 3] } else { &[2, 3] };
    let along = |weights: &Tensor| -> Result<Vec<f64>> {
        let sums = light.f_mul(weights)?.f_sum_dim_intlist(pixels, false, Kind::Double)?;
        Ok(Vec::<f64>::try_from(sums.f_view(-1)?)?)
    };
    let [alpha, beta] = [along(&light_weights)?, along(&data_weights)?];
    let normal = problem.noise.normal(Purpose::PerturbAmplitude, step, &[amplitudes], problem.device)?;
    let shares = Vec::<f64>::try_from(normal.f_to_kind(Kind::Double)?.f_special_ndtr()?.f_view(-1)?)?;
    let [mean, sd] = [to_vec(&nuisance.ln_amplitude_mean)?, to_vec(&nuisance.ln_amplitude_sd)?];
    let before = to_vec(&point.ln_amplitude)?;
    let drawn: Vec<f32> = (0..before.len())
        .map(|index| {
            let amplitude = index % amplitudes as usize;
            let density = Density {
                alpha: alpha[index],
                beta: beta[index],
                origin: f64::from(before[index]),
                mean: f64::from(mean[amplitude]),
                sd: f64::from(sd[amplitude]),
            };
            density.quantile(shares[index]) as f32
        })
        .collect();
    let ln_amplitude =
        Tensor::f_from_slice(&drawn)?.f_view_as(&point.ln_amplitude)?.f_to_device(point.image.device())?;

    let factor = ln_amplitude.f_sub(&point.ln_amplitude)?.f_exp()?;
    let model = light.f_mul(&factor.f_unsqueeze(-1)?.f_unsqueeze(-1)?)?;
    let shift = perturbation(problem, nuisance, step, none.shallow_clone())?.sky;
    let rest = data.f_sub(&model)?.f_sub(&toward(&ones.f_zeros_like()?, &shift)?)?;
    let weights = solve(&rest.f_sub(&linear.noise(&problem.noise, step)?)?)?;
    let sky = linear.adjoint(&weights)?.sky.f_mul(&nuisance.sky_sd.f_square()?)?.f_add(&shift)?;
    Ok(Latent { image: point.image.shallow_clone(), ln_amplitude, sky })
}

/// K^-1 `rhs`.
fn given_sky(
    likelihood: &dyn Likelihood,
    linear: &dyn Linearized,
    preconditioner: &Preconditioner,
    rhs: &Tensor,
    stop: Stop,
) -> Result<Tensor> {
    let variance = likelihood.nuisance().sky_sd.f_square()?;
    let apply = |w: &Tensor| -> Result<Tensor> {
        let back = linear.adjoint(w)?;
        let sky = back.sky.f_mul(&variance)?;
        let through =
            Latent { image: back.image.f_zeros_like()?, ln_amplitude: back.ln_amplitude.f_zeros_like()?, sky };
        Ok(linear.apply(&through)?.f_add(&linear.covariance(w)?)?)
    };
    Ok(conjugate_gradient::solve(rhs, stop, |residual| preconditioner.apply(residual), apply)?.weights)
}

/// The draw where the model is linear in ln a, too.
fn draw_linear(
    problem: &Problem,
    likelihood: &dyn Likelihood,
    step: u32,
    point: &Latent,
    stop: Stop,
) -> Result<Latent> {
    let nuisance = likelihood.nuisance();
    let fixed = Latent {
        image: point.image.shallow_clone(),
        ln_amplitude: nuisance.ln_amplitude_mean.f_unsqueeze(0)?,
        sky: nuisance.sky_sd.f_zeros_like()?.f_unsqueeze(0)?,
    };
    let centre = fixed.plus(&perturbation(problem, nuisance, step, point.image.f_zeros_like()?)?)?;
    let prior = |direction: &Latent| scale_by_prior(direction, nuisance, None);
    let given = GaussNewton { likelihood, prior: &prior, modes: None, rounds: 1, tangent_error: 0.0, stop };
    given.draw(problem, step, &centre, point)
}

/// The density of ln a above.
#[derive(Clone, Copy, Debug)]
struct Density {
    alpha: f64,
    beta: f64,
    /// ln a0.
    origin: f64,
    mean: f64,
    sd: f64,
}

impl Density {
    fn ln(&self, x: f64) -> f64 {
        let factor = (x - self.origin).exp();
        factor * (self.beta - 0.5 * self.alpha * factor) - 0.5 * ((x - self.mean) / self.sd).powi(2)
    }

    fn slope(&self, x: f64) -> f64 {
        let factor = (x - self.origin).exp();
        factor * (self.beta - self.alpha * factor) - (x - self.mean) / self.sd.powi(2)
    }

    /// The largest value lies between the prior's mean and what the data alone say.
    fn mode(&self) -> f64 {
        let data = if self.beta > 0.0 && self.alpha > 0.0 {
            self.origin + (self.beta / self.alpha).ln()
        } else {
            // Data of negative flux pull down, by no more than they do at the prior's mean.
            let factor = (self.mean - self.origin).exp();
            self.mean - self.sd.powi(2) * factor * (self.beta.abs() + self.alpha.abs() * factor)
        };
        let (mut low, mut high) = (data.min(self.mean), data.max(self.mean));
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if self.slope(middle) > 0.0 { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }

    /// The ln a below which this share of the distribution lies. NaN if a number is.
    fn quantile(&self, share: f64) -> f64 {
        let numbers = [self.alpha, self.beta, self.origin, self.mean, self.sd, share];
        if !numbers.iter().all(|number| number.is_finite()) {
            return f64::NAN;
        }
        if self.sd == 0.0 {
            return self.mean;
        }
        let mode = self.mode();
        let factor = (mode - self.origin).exp();
        let curvature = factor * (2.0 * self.alpha * factor - self.beta) + self.sd.powi(-2);
        let width = curvature.max(self.sd.powi(-2)).powf(-0.5);
        let top = self.ln(mode);
        let end = |direction: f64| {
            let reach = (2..40).map(|power| direction * width * 2f64.powf(0.5 * f64::from(power)));
            let mut ends = reach.map(|distance| mode + distance);
            ends.find(|x| self.ln(*x) < top - DEEP).unwrap_or(mode + direction * DEEP * self.sd)
        };
        let (low, high) = (end(-1.0), end(1.0));
        let step = (high - low) / (NODES - 1) as f64;
        let heights: Vec<f64> = (0..NODES).map(|i| (self.ln(low + i as f64 * step) - top).exp()).collect();
        let pieces: Vec<f64> = heights.windows(2).map(|pair| 0.5 * (pair[0] + pair[1])).collect();
        let mut left = share * pieces.iter().sum::<f64>();
        for (index, piece) in pieces.iter().enumerate() {
            if left <= *piece {
                let part = if *piece > 0.0 { left / piece } else { 0.5 };
                return low + (index as f64 + part) * step;
            }
            left -= piece;
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::GalaxyLikelihood;
    use crate::forward::NuisancePrior;
    use crate::forward::galaxy::tests::{input, latent};
    use crate::random::{BlockNoise, Key};
    use tch::Device;

    /// A galaxy of S/N 5 or so with its prior of ln a, linearised 0.4 off.
    fn faint(amplitudes: i64, mean: f64, data: Option<Tensor>) -> GalaxyLikelihood {
        let plain = input(Kind::Float, amplitudes, false);
        let options = (Kind::Float, Device::Cpu);
        let nuisance = NuisancePrior {
            ln_amplitude_mean: Tensor::full([amplitudes], mean, options),
            ln_amplitude_sd: Tensor::full([amplitudes], 0.5, options),
            sky_sd: Tensor::full([3], 0.3, options),
        };
        let data = data.unwrap_or_else(|| plain.data.copy());
        GalaxyLikelihood::new(crate::forward::GalaxyLikelihoodInput {
            data,
            gain: None,
            relative_error: 0.0,
            nuisance,
            ..plain
        })
        .unwrap()
    }

    /// Draws of ln a and sky against sums over a grid, with the sky integrated in closed form.
    #[test]
    fn draws_are_those_of_the_exact_posterior() {
        let count = 2000u32;
        for (amplitudes, mean) in [(1i64, 4.4), (3, 1.2)] {
            let batch = i64::from(count);
            let image = latent(1, amplitudes, 7, Kind::Float).image;
            let at = |image: Tensor, ln_amplitude: f64, sky: f64| {
                let options = (Kind::Float, Device::Cpu);
                let batch = image.size()[0];
                Latent {
                    image,
                    ln_amplitude: Tensor::full([batch, amplitudes], ln_amplitude, options),
                    sky: Tensor::full([batch, 3], sky, options),
                }
            };
            let first = faint(amplitudes, mean, None);
            let truth = at(image.copy(), mean + 0.2, 0.2);
            let variance = first.linearize(&truth).unwrap().variance().copy();
            let size = variance.size();
            let white =
                Key::new(3, "amplitude", 0, Purpose::Evaluation, 0).normal(size.iter().product::<i64>() as usize);
            let noise = Tensor::from_slice(&white).view(size.as_slice()) * variance.sqrt() * first.mask();
            let likelihood = faint(amplitudes, mean, Some((first.predict(&truth).unwrap() + noise).squeeze_dim(0)));
            let point = at(image.repeat([batch, 1, 1, 1]), mean - 0.2, 0.0);
            let problem = Problem {
                denoiser: &crate::sampler::toy::UnitGaussian,
                likelihood: Some(&likelihood),
                noise: BlockNoise::new(1, "amplitude", 0, count),
                device: Device::Cpu,
            };
            let stop = Stop { tolerance: 0.3, iterations: 200 };
            let draws = draw_nuisance(&problem, &likelihood, 0, &point, stop).unwrap();

            let sum = |x: Tensor| {
                Vec::<f64>::try_from(x.sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Double)).unwrap()
            };
            let weight = likelihood.mask().unsqueeze(0) / &variance;
            let precision: Vec<f64> = sum(weight.copy()).iter().map(|p| p + 1.0 / 0.09).collect();
            let grid: Vec<f64> = (0..801).map(|i| mean + (f64::from(i) / 400.0 - 1.0) * 3.0).collect();
            // ln p of each band and the mean of its sky, for each node.
            let nodes: Vec<(Vec<f64>, Vec<f64>)> = grid
                .iter()
                .map(|l| {
                    let rest = likelihood.data() - likelihood.predict(&at(image.copy(), *l, 0.0)).unwrap();
                    let (squares, along) = (sum(rest.square() * &weight), sum(&rest * &weight));
                    let sky: Vec<f64> = along.iter().zip(&precision).map(|(a, p)| a / p).collect();
                    let ln = (0..3).map(|band| -0.5 * (squares[band] - along[band] * sky[band])).collect();
                    (ln, sky)
                })
                .collect();
            for amplitude in 0..amplitudes as usize {
                let bands = if amplitudes == 1 { 0..3 } else { amplitude..amplitude + 1 };
                let ln: Vec<f64> = grid
                    .iter()
                    .zip(&nodes)
                    .map(|(l, (ln, _))| {
                        bands.clone().map(|band| ln[band]).sum::<f64>() - 0.5 * ((l - mean) / 0.5).powi(2)
                    })
                    .collect();
                let top = ln.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = ln.iter().map(|ln| (ln - top).exp()).collect();
                let expect = |value: &dyn Fn(usize) -> f64| {
                    weights.iter().enumerate().map(|(i, w)| w * value(i)).sum::<f64>() / weights.iter().sum::<f64>()
                };
                let expected = expect(&|i| grid[i]);
                let variance = expect(&|i| (grid[i] - expected).powi(2));
                let own = draws.ln_amplitude.select(1, amplitude as i64).to_kind(Kind::Double);
                let off = (own.mean(Kind::Double).double_value(&[]) - expected) / variance.sqrt();
                let ratio = own.var(true).double_value(&[]) / variance;
                // Four standard errors of so many draws.
                assert!(variance > 0.01 && off.abs() < 0.09, "{amplitudes} {amplitude}: {off} of {variance}");
                assert!((ratio - 1.0).abs() < 0.13, "{amplitudes} {amplitude}: {ratio}");
                let band = bands.start;
                let sky = draws.sky.select(1, band as i64).mean(Kind::Double).double_value(&[]);
                let off = (sky - expect(&|i| nodes[i].1[band])) * precision[band].sqrt();
                assert!(off.abs() < 0.12, "{amplitudes} {band}: sky {off}");
            }
        }
    }

    /// The moments of the draws against sums over a grid of a, not of ln a.
    #[test]
    fn quantiles_are_those_of_a_gaussian_in_a() {
        for (signal_to_noise, sd) in [(3.0, 0.5), (10.0, 2.0), (1e4, 1.0)] {
            // a = 1 +- 1 / signal_to_noise by the data, which lie one error above.
            let alpha: f64 = f64::powi(signal_to_noise, 2);
            let density = Density { alpha, beta: alpha * (1.0 + 1.0 / signal_to_noise), origin: 0.0, mean: -0.1, sd };
            let count = 4000;
            let draws: Vec<f64> = (0..count).map(|i| density.quantile((i as f64 + 0.5) / count as f64)).collect();
            let found = draws.iter().map(|l| l.exp()).sum::<f64>() / count as f64;
            let (mut sum, mut weights) = (0.0, 0.0);
            for i in 1..40_000 {
                let a: f64 = 1.0 + (i as f64 / 2_000.0 - 10.0) / signal_to_noise;
                if a <= 0.0 {
                    continue;
                }
                // The density of a has 1 / a.
                let miss = (a - 1.0 - 1.0 / signal_to_noise) * signal_to_noise;
                let weight = (-0.5 * miss * miss - 0.5 * ((a.ln() + 0.1) / sd).powi(2)).exp() / a;
                sum += weight * a;
                weights += weight;
            }
            let error = (found - sum / weights) * signal_to_noise;
            // In posterior deviations; the range of a ends at ten of them.
            assert!(error.abs() < 2e-3, "{signal_to_noise}: {error}");
        }
    }

    #[test]
    fn fixed_amplitudes_lost_samples_and_negative_fluxes() {
        let density = Density { alpha: 25.0, beta: -10.0, origin: 0.0, mean: 0.0, sd: 0.5 };
        let (low, middle, high) = (density.quantile(1e-6), density.quantile(0.5), density.quantile(1.0 - 1e-6));
        assert!(low < middle && middle < high && middle < -0.5 && low > -4.0, "{low} {middle} {high}");
        assert_eq!(Density { sd: 0.0, ..density }.quantile(0.3), 0.0);
        assert!(Density { beta: f64::NAN, ..density }.quantile(0.3).is_nan());
        // Nothing seen: the prior.
        let blind = Density { alpha: 0.0, beta: 0.0, ..density };
        assert!((blind.quantile(0.841_344_746) - 0.5).abs() < 1e-3 && blind.quantile(0.5).abs() < 1e-3);
    }
}
