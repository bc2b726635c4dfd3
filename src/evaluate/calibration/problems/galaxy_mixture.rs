//! `galaxy-mixture`: M Sersic-like galaxies m_k, equally likely, with Gaussian scatter s in every pixel, blurred, with
//! white noise. With a periodic blur by a symmetric PSF everything is diagonal in the (real) Fourier basis, so that the
//! exact posterior is cheap at any number of pixels:
//!
//! ```text
//! w_k ~ N(y; K m_k, s^2 K K^T + sigma^2)
//! v_j = (1 / s^2 + K_j^2 / sigma^2)^-1,    mu_kj = v_j (m_kj / s^2 + K_j y_j / sigma^2)
//! ```

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::blurred::{Blurred, blur, transfer};
use super::{Family, GALAXY_STATISTICS, Problem, Setting, Simulation, bare, card, galaxy_statistics};
use crate::Result;
use crate::config::check::Checker;
use crate::evaluate::calibration::counting::Counting;
use crate::evaluate::calibration::exact::{Basis, Exact, choose, hartley};
use crate::evaluate::calibration::probability::normal_cdf;
use crate::forward::Latent;
use crate::prior::Covariance;
use crate::prior::analytic::MixtureDenoiser;
use crate::prior::card::Architecture;
use crate::random::{BlockNoise, Key, Purpose};
use crate::sampler::Sampler;

/// Mean peak of the galaxies: with noise 0.03 to 1 they are seen at a peak S/N of 2 to 70.
const PEAK: f64 = 2.0;

/// `[problems.galaxy-mixture]`: one problem for each size and noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GalaxyMixtureConfig {
    /// Pixels on a side.
    pub size: Vec<i64>,
    /// Standard deviation of the noise in a pixel; the galaxies' mean peak is 2.
    pub noise: Vec<f64>,
    /// Galaxies in the mixture.
    pub components: usize,
    /// Their scatter in each pixel.
    pub scatter: f64,
    /// FWHM of the PSF in units of the field's side.
    pub psf_fwhm: f64,
}

impl Default for GalaxyMixtureConfig {
    fn default() -> Self {
        GalaxyMixtureConfig { size: vec![16], noise: vec![0.3], components: 12, scatter: 0.1, psf_fwhm: 0.2 }
    }
}

impl GalaxyMixtureConfig {
    /// Errors name `key` and what is below it.
    pub(crate) fn check(&self, check: &Checker, key: &str) -> Result<()> {
        let sizes = !self.size.is_empty() && self.size.iter().all(|size| (8..=256).contains(size));
        check.need(sizes, &format!("{key}.size"), format!("expected a list of 8 to 256, found {:?}", self.size))?;
        check.need(!self.noise.is_empty(), &format!("{key}.noise"), "expected at least one")?;
        self.noise.iter().try_for_each(|&noise| check.positive(noise, &format!("{key}.noise")))?;
        let components = (2..=1000).contains(&self.components);
        check.need(
            components,
            &format!("{key}.components"),
            format!("expected 2 to 1000, found {}", self.components),
        )?;
        check.positive(self.scatter, &format!("{key}.scatter"))?;
        check.positive(self.psf_fwhm, &format!("{key}.psf_fwhm"))
    }

    /// Name, size and noise of each problem.
    pub fn cases(&self, name: &str) -> Vec<(String, i64, f64)> {
        let several = self.size.len() * self.noise.len() > 1;
        let both = self.size.iter().flat_map(|&size| self.noise.iter().map(move |&noise| (size, noise)));
        both.map(|(size, noise)| {
            (if several { format!("{name}-{size}px-{noise}") } else { name.to_string() }, size, noise)
        })
        .collect()
    }
}

/// The problem, with everything that its simulations share.
pub struct GalaxyMixture {
    name: String,
    seed: u64,
    size: i64,
    noise: f64,
    scatter: f64,
    setting: Rc<Setting>,
    /// `[M, D]`, f32.
    galaxies: Tensor,
    /// The same in the Fourier basis, f64.
    modes: Tensor,
    /// `[n, n]`, f64.
    transfer: Tensor,
    /// Variance of the prior in each mode, `[D]`.
    prior_variance: Tensor,
}

impl GalaxyMixture {
    pub fn new(name: &str, config: &GalaxyMixtureConfig, size: i64, noise: f64, seed: u64) -> Result<Self> {
        let count = config.components as i64;
        let pixels = size * size;
        let mut values = Vec::with_capacity((count * pixels) as usize);
        for index in 0..count {
            // The same galaxies at every size and noise: the key holds neither.
            values.extend(sersic(size, &Key::new(seed, "galaxy mixture", index as u32, Purpose::Galaxy, 0)));
        }
        let galaxies = Tensor::f_from_slice(&values)?.f_view([count, pixels])?;
        let modes = hartley(&galaxies, size)?;
        let transfer = Tensor::f_from_slice(&transfer(size, config.psf_fwhm * size as f64))?.f_view([size, size])?;
        let between = modes.f_var_dim([0i64].as_slice(), false, false)?;
        let covariance = covariance(&galaxies, size, config.scatter)?;
        let images = galaxies.f_view([count, 1, size, size])?.f_to_kind(Kind::Float)?;
        let architecture = Architecture::Mixture { components: config.components, scatter: config.scatter };
        Ok(GalaxyMixture {
            name: name.into(),
            seed,
            size,
            noise,
            scatter: config.scatter,
            setting: Rc::new(Setting {
                denoiser: Counting::new(Box::new(MixtureDenoiser::new(images, config.scatter)?)),
                card: card(name, size, architecture),
                covariance,
                spread: None,
            }),
            galaxies: galaxies.f_to_kind(Kind::Float)?,
            modes,
            transfer,
            prior_variance: between.f_add_scalar(config.scatter.powi(2))?,
        })
    }

    fn posterior(&self, data: &Tensor) -> Result<Exact> {
        let data = hartley(&data.f_reshape([1, -1])?.f_to_kind(Kind::Double)?, self.size)?;
        let (scatter, noise) = (self.scatter.powi(2), self.noise.powi(2));
        let gain = self.transfer.f_view([1, -1])?;
        let evidence = gain.f_square()?.f_mul_scalar(scatter)?.f_add_scalar(noise)?;
        let residual = self.modes.f_mul(&gain)?.f_sub(&data)?.f_square()?.f_div(&evidence)?;
        let scores = residual.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?.f_mul_scalar(-0.5)?;
        let variance = gain.f_square()?.f_div_scalar(noise)?.f_add_scalar(1.0 / scatter)?.f_reciprocal()?;
        let seen = data.f_mul(&gain)?.f_div_scalar(noise)?;
        Ok(Exact {
            basis: Basis::Hartley(self.size),
            weights: scores.f_softmax(0, Kind::Double)?,
            means: self.modes.f_div_scalar(scatter)?.f_add(&seen)?.f_mul(&variance)?,
            variance: variance.f_view([-1])?,
            prior_variance: self.prior_variance.shallow_clone(),
            states: None,
        })
    }
}

/// One galaxy, its flux row by row: a Sersic profile I(r) = I0 exp(-b ((r / re)^(1/n) - 1)), b = 2 n - 1/3, with an
/// elliptical radius softened by half a pixel.
fn sersic(size: i64, key: &Key) -> Vec<f64> {
    let u = key.uniform(6);
    let side = size as f64;
    let (re, index) = (side * (0.05 + 0.09 * u[0]), 0.7 + 1.8 * u[1]);
    let (ratio, angle) = (0.35 + 0.65 * u[2], std::f64::consts::PI * u[3]);
    let peak = PEAK * (0.5 + u[4]);
    // Off the centre by up to a twentieth of the field: positions are uncertain, too.
    let centre = [(side - 1.0) / 2.0 + side * 0.1 * (u[5] - 0.5), (side - 1.0) / 2.0 + side * 0.1 * (u[0] - 0.5)];
    let (sine, cosine) = angle.sin_cos();
    let profile = |row: i64, column: i64| {
        let (dy, dx) = (row as f64 - centre[0], column as f64 - centre[1]);
        let (along, across) = (dx * cosine + dy * sine, (dy * cosine - dx * sine) / ratio);
        let radius = (along * along + across * across + 0.25).sqrt();
        (-(2.0 * index - 1.0 / 3.0) * ((radius / re).powf(1.0 / index) - 1.0)).exp()
    };
    let values: Vec<f64> = (0..size * size).map(|index| profile(index / size, index % size)).collect();
    let highest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    values.iter().map(|value| peak * value / highest).collect()
}

/// The mixture's own covariance: its components' scatter about their mean (M - 1 directions at most) and s^2.
fn covariance(galaxies: &Tensor, size: i64, scatter: f64) -> Result<Covariance> {
    let count = galaxies.size()[0];
    let mean = galaxies.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let centred = galaxies.f_sub(&mean)?;
    let gram = centred.f_matmul(&centred.f_tr()?)?.f_div_scalar(count as f64)?;
    let (values, vectors) = gram.f_linalg_eigh("L")?;
    // The smallest eigenvalue belongs to the mean, which was taken off.
    let (values, vectors) = (values.f_narrow(0, 1, count - 1)?, vectors.f_narrow(1, 1, count - 1)?);
    let values = values.f_clamp_min(1e-12)?;
    let scale = values.f_mul_scalar(count as f64)?.f_rsqrt()?;
    let components = vectors.f_mul(&scale)?.f_tr()?.f_matmul(&centred)?;
    Covariance::new(
        [1, size, size],
        mean.f_to_kind(Kind::Float)?,
        components.f_to_kind(Kind::Float)?,
        values.f_to_kind(Kind::Float)?,
        Tensor::f_full([size * size], scatter * scatter, (Kind::Float, Device::Cpu))?,
    )
}

impl Problem for GalaxyMixture {
    fn name(&self) -> &str {
        &self.name
    }

    fn family(&self) -> Family {
        Family::Mixture
    }

    fn setting(&self, _index: u32) -> Result<Rc<Setting>> {
        Ok(self.setting.clone())
    }

    fn simulate(&self, index: u32, sampler: Option<&dyn Sampler>) -> Result<Simulation> {
        let noise = BlockNoise::new(self.seed, &format!("{} {index}", self.name), 0, 1);
        let truth = self.prior_draws(index, sampler, &noise)?;
        let white = noise.normal(Purpose::ObservationNoise, 0, &[self.size, self.size], Device::Cpu)?;
        let clean = blur(&truth.f_get(0)?.f_to_kind(Kind::Double)?, &self.transfer)?.f_to_kind(Kind::Float)?;
        let data = clean.f_add(&white.f_mul_scalar(self.noise)?)?;
        let exact = self.posterior(&data)?;
        let variance = data.f_full_like(self.noise * self.noise)?;
        let likelihood = Blurred::new(data.f_add_scalar(0.0)?, data.f_ones_like()?, variance, &self.transfer)?;
        Ok(Simulation {
            setting: self.setting.clone(),
            truth: bare(truth)?,
            likelihood: Box::new(likelihood),
            exact: Some(exact),
            of_samples: None,
            observed_signal_to_noise: None,
            reference: None,
        })
    }

    fn prior_draws(&self, _index: u32, _sampler: Option<&dyn Sampler>, noise: &BlockNoise) -> Result<Tensor> {
        let draws = mixture_draws(&self.galaxies, None, self.scatter, noise)?;
        Ok(draws.f_view([-1, 1, self.size, self.size])?)
    }

    fn statistics(&self) -> Vec<String> {
        GALAXY_STATISTICS.map(String::from).to_vec()
    }

    fn measure(&self, _simulation: &Simulation, draws: &Latent) -> Result<Vec<Vec<f64>>> {
        galaxy_statistics(&draws.image)
    }
}

/// Draws of a mixture with isotropic scatter, `[B, D]`; `components` is `[M, D]`, equally likely without `weights`.
pub fn mixture_draws(components: &Tensor, weights: Option<&[f64]>, scatter: f64, noise: &BlockNoise) -> Result<Tensor> {
    let count = components.size()[0];
    let equal = vec![1.0 / count as f64; count as usize];
    let weights = weights.unwrap_or(&equal);
    // A uniform number from a normal one, which blocks give by key: P(N < u).
    let normal = Vec::<f32>::try_from(noise.normal(Purpose::Galaxy, 0, &[], Device::Cpu)?)?;
    let uniform = normal.iter().map(|&value| normal_cdf(f64::from(value)));
    let choices: Vec<i64> = uniform.map(|u| choose(weights, u) as i64).collect();
    let white = noise.normal(Purpose::PriorDraw, 0, &components.size()[1..], Device::Cpu)?;
    let centres = components.f_index_select(0, &Tensor::f_from_slice(&choices)?)?;
    Ok(white.f_mul_scalar(scatter)?.f_add(&centres)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::Level;

    fn problem(noise: f64) -> GalaxyMixture {
        GalaxyMixture::new("m", &GalaxyMixtureConfig::default(), 12, noise, 3).unwrap()
    }

    #[test]
    fn the_posterior_is_the_weighted_prior_by_importance_sampling() {
        // So noisy that prior draws reach everywhere that the posterior does.
        let problem =
            GalaxyMixture::new("m", &GalaxyMixtureConfig { components: 3, ..Default::default() }, 8, 1.5, 5).unwrap();
        let simulation = problem.simulate(1, None).unwrap();
        let count = 40_000;
        let noise = BlockNoise::new(9, "importance", 0, count);
        let draws = bare(problem.prior_draws(0, None, &noise).unwrap()).unwrap();
        let residual = simulation.likelihood.predict(&draws).unwrap() - simulation.likelihood.data();
        let log_p = residual.square().sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double) * (-0.5 / 2.25);
        let weights = log_p.softmax(0, Kind::Double);
        let effective = 1.0 / weights.square().sum(Kind::Double).double_value(&[]);
        assert!(effective > 2000.0, "{effective}");
        let flat = draws.image.view([-1, 64]).to_kind(Kind::Double);
        let mean = weights.view([1, -1]).matmul(&flat);
        let exact = simulation.exact.unwrap();
        let expected = exact.basis.inverse(&exact.mean().unwrap().view([1, -1])).unwrap();
        let sd = exact.marginal_variance().unwrap().max().double_value(&[]).sqrt();
        let error = (mean - expected).abs().max().double_value(&[]);
        assert!(error < 5.0 * sd / effective.sqrt(), "{error} of {sd}");
    }

    #[test]
    fn c0_is_the_covariance_of_draws() {
        let problem = problem(0.3);
        let noise = BlockNoise::new(9, "prior", 0, 20_000);
        let draws = problem.prior_draws(0, None, &noise).unwrap().view([-1, 144]);
        let level: Level = problem.setting.covariance.level(1e3).unwrap();
        // At a noise level far above the prior's, t^2 C0 (C0 + t^2)^-1 is C0.
        let (found, expected) = (draws.var_dim([0i64].as_slice(), true, false), level.variance().unwrap().view([144]));
        let scale = expected.max().double_value(&[]);
        let error = (found - expected).abs().max().double_value(&[]);
        // Five standard errors of a variance from 20,000 draws.
        assert!(error < 5.0 * scale * (2.0f64 / 20_000.0).sqrt(), "{error} of {scale}");
        let modes = problem.prior_variance.sum(Kind::Double).double_value(&[]);
        assert!(
            (modes / problem.setting.covariance.variance().unwrap().sum(Kind::Double).double_value(&[]) - 1.0).abs()
                < 1e-4
        );
    }

    #[test]
    fn with_little_noise_the_truth_has_all_the_weight() {
        let exact = problem(0.03).simulate(0, None).unwrap().exact.unwrap();
        assert!(exact.weights.max().double_value(&[]) > 0.99);
        assert!((exact.weights.sum(Kind::Double).double_value(&[]) - 1.0).abs() < 1e-12);
    }
}
