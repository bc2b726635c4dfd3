//! `gaussian-field`: a Gaussian random field with a red power spectrum, blurred, with noise of another variance in every
//! pixel. Its posterior is Gaussian and known in closed form:
//!
//! ```text
//! P(k) ~ (1 + |k|^2 / k0^2)^-3 + floor,  mean pixel variance 1           k in cycles per field
//! Sigma_post = C0 - C0 A^T (A C0 A^T + N)^-1 A C0,   mu = C0 A^T (A C0 A^T + N)^-1 y
//! ```
//!
//! dense, in f64. The bins of posterior over prior variance are those of the eigenvectors of Sigma_post.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::blurred::{Blurred, blur, transfer};
use super::{Family, Problem, Setting, Simulation, bare, card};
use crate::Result;
use crate::config::check::Checker;
use crate::evaluate::calibration::counting::Counting;
use crate::evaluate::calibration::exact::{Basis, Exact, hartley};
use crate::forward::Latent;
use crate::prior::Covariance;
use crate::prior::analytic::GaussianDenoiser;
use crate::prior::card::Architecture;
use crate::random::{BlockNoise, Key, Purpose};
use crate::sampler::Sampler;

/// Scale of the power spectrum, cycles per field.
const K0: f64 = 2.0;
/// Power on every scale, in units of the mean pixel variance: nothing of the prior is below it.
const FLOOR: f64 = 0.05;
/// Rounding of the dense algebra in f64, in units of the mean pixel variance.
const LEAST_VARIANCE: f64 = 1e-14;
/// Statistics: projections on this many eigenvectors of the posterior, evenly from best to worst measured.
const PROJECTIONS: usize = 6;
/// The dense algebra is cubic in the number of pixels.
const LARGEST_SIZE: i64 = 32;

/// `[problems.gaussian-field]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GaussianFieldConfig {
    /// Pixels on a side.
    pub size: i64,
    /// FWHM of the PSF, pixels.
    pub psf_fwhm: f64,
    /// Standard deviation of the noise in the middle of the field, in units of the field's own.
    pub noise: f64,
    /// Ratio of the noise variances at the field's right and left edges.
    pub variance_range: f64,
    /// Share of the pixels that are masked.
    pub masked: f64,
}

impl Default for GaussianFieldConfig {
    fn default() -> Self {
        GaussianFieldConfig { size: 16, psf_fwhm: 2.5, noise: 0.3, variance_range: 4.0, masked: 0.0 }
    }
}

impl GaussianFieldConfig {
    /// Errors name `key` and what is below it.
    pub(crate) fn check(&self, check: &Checker, key: &str) -> Result<()> {
        let size = (4..=LARGEST_SIZE).contains(&self.size);
        check.need(size, &format!("{key}.size"), format!("expected 4 to {LARGEST_SIZE}, found {}", self.size))?;
        check.positive(self.psf_fwhm, &format!("{key}.psf_fwhm"))?;
        check.positive(self.noise, &format!("{key}.noise"))?;
        check.positive(self.variance_range, &format!("{key}.variance_range"))?;
        let share = (0.0..=1.0).contains(&self.masked);
        check.need(share, &format!("{key}.masked"), format!("expected 0 to 1, found {}", self.masked))
    }
}

/// The problem, with everything that its simulations share.
pub struct GaussianField {
    name: String,
    seed: u64,
    size: i64,
    setting: Rc<Setting>,
    transfer: Tensor,
    mask: Tensor,
    variance: Tensor,
    /// C0 A^T (A C0 A^T + N)^-1, `[D, D]`, f64.
    gain: Tensor,
    /// Eigenvectors of the posterior covariance as rows, their variances, and the prior's variances along them.
    basis: Tensor,
    posterior: Tensor,
    prior: Tensor,
    /// The eigenvectors that statistics are taken of.
    projections: Vec<i64>,
}

impl GaussianField {
    pub fn new(name: &str, config: &GaussianFieldConfig, seed: u64) -> Result<Self> {
        let size = config.size;
        let (pixels, double) = (size * size, (Kind::Double, Device::Cpu));
        let power = power_spectrum(size);
        let covariance = stationary(size, &Tensor::f_zeros([pixels], double)?, &power)?;
        // C0 in f64, from its definition and not from the f32 parts that the samplers see.
        let rows = hartley(&Tensor::f_eye(pixels, double)?, size)?;
        let c0 = rows.f_tr()?.f_matmul(&Tensor::f_from_slice(&power)?.f_diag(0)?)?.f_matmul(&rows)?;
        let transfer = Tensor::f_from_slice(&transfer(size, config.psf_fwhm))?.f_view([size, size])?;
        let uniform = Key::new(seed, &format!("{name} mask"), 0, Purpose::Evaluation, 0).uniform(pixels as usize);
        let mask: Vec<f64> = uniform.iter().map(|&u| f64::from(u8::from(u >= config.masked))).collect();
        let slope = |index: i64| ((index % size) as f64 / (size - 1) as f64 - 0.5) * config.variance_range.ln();
        let variance: Vec<f64> = (0..pixels).map(|index| config.noise.powi(2) * slope(index).exp()).collect();
        let (mask, variance) = (Tensor::f_from_slice(&mask)?, Tensor::f_from_slice(&variance)?);
        let blurred = blur(&Tensor::f_eye(pixels, double)?.f_view([pixels, size, size])?, &transfer)?;
        let matrix = blurred.f_view([pixels, pixels])?.f_mul(&mask.f_unsqueeze(1)?)?;
        let crossed = c0.f_matmul(&matrix.f_tr()?)?;
        let gain = crossed.f_matmul(&matrix.f_matmul(&crossed)?.f_add(&variance.f_diag(0)?)?.f_inverse()?)?;
        let posterior = c0.f_sub(&gain.f_matmul(&crossed.f_tr()?)?)?;
        let (values, vectors) = posterior.f_add(&posterior.f_tr()?)?.f_mul_scalar(0.5)?.f_linalg_eigh("L")?;
        // What is measured to better than rounding still has a variance.
        let values = values.f_clamp_min(LEAST_VARIANCE)?;
        let basis = vectors.f_tr()?.f_contiguous()?;
        let prior = basis.f_matmul(&c0)?.f_mul(&basis)?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        let order = Vec::<i64>::try_from(values.f_div(&prior)?.f_argsort(0, false)?)?;
        let projections = (0..PROJECTIONS).map(|index| order[index * (order.len() - 1) / (PROJECTIONS - 1)]).collect();
        let plane = |values: &Tensor| -> Result<Tensor> { Ok(values.f_view([1, size, size])?.f_to_kind(Kind::Float)?) };
        Ok(GaussianField {
            name: name.into(),
            seed,
            size,
            setting: Rc::new(Setting {
                denoiser: Counting::new(Box::new(GaussianDenoiser::new(covariance.to_device(Device::Cpu)?))),
                card: card(name, size, Architecture::Gaussian),
                covariance,
                spread: None,
            }),
            transfer,
            mask: plane(&mask)?,
            variance: plane(&variance)?,
            gain,
            basis,
            posterior: values,
            prior,
            projections,
        })
    }

    fn flat(&self, images: &Tensor) -> Result<Tensor> {
        Ok(images.f_reshape([-1, self.size * self.size])?.f_to_kind(Kind::Double)?)
    }
}

/// Variance of each Hartley mode, normalised to a mean pixel variance of one.
pub(super) fn power_spectrum(size: i64) -> Vec<f64> {
    let frequency = |index: i64| (if 2 * index > size { index - size } else { index }) as f64;
    let shape = |index: i64| {
        let squared = frequency(index / size).powi(2) + frequency(index % size).powi(2);
        (1.0 + squared / (K0 * K0)).powi(-3)
    };
    let shapes: Vec<f64> = (0..size * size).map(shape).collect();
    let mean = shapes.iter().sum::<f64>() / shapes.len() as f64;
    shapes.iter().map(|value| (1.0 - FLOOR) * value / mean + FLOOR).collect()
}

/// A field about `mean` (`[D]`) with this `power` in each Hartley mode, as principal components (all modes) and the floor.
pub(super) fn stationary(size: i64, mean: &Tensor, power: &[f64]) -> Result<Covariance> {
    let pixels = size * size;
    let floor = FLOOR * power.iter().sum::<f64>() / power.len() as f64;
    let rows = hartley(&Tensor::f_eye(pixels, (Kind::Double, Device::Cpu))?, size)?.f_to_kind(Kind::Float)?;
    let variances: Vec<f32> = power.iter().map(|value| (value - floor) as f32).collect();
    let diagonal = Tensor::f_full([pixels], floor, (Kind::Float, Device::Cpu))?;
    Covariance::new([1, size, size], mean.f_to_kind(Kind::Float)?, rows, Tensor::f_from_slice(&variances)?, diagonal)
}

impl Problem for GaussianField {
    fn name(&self) -> &str {
        &self.name
    }

    fn family(&self) -> Family {
        Family::Gaussian
    }

    fn setting(&self, _index: u32) -> Result<Rc<Setting>> {
        Ok(self.setting.clone())
    }

    fn simulate(&self, index: u32, _sampler: Option<&dyn Sampler>) -> Result<Simulation> {
        let object = format!("{} {index}", self.name);
        let truth = self.setting.covariance.draw(0.0, &BlockNoise::new(self.seed, &object, 0, 1), 0)?;
        let white = BlockNoise::new(self.seed, &object, 0, 1).normal(
            Purpose::ObservationNoise,
            0,
            &[1, self.size, self.size],
            Device::Cpu,
        )?;
        let noise = white.f_get(0)?.f_mul(&self.variance.f_sqrt()?)?;
        let clean = blur(&truth.f_get(0)?.f_to_kind(Kind::Double)?, &self.transfer)?.f_to_kind(Kind::Float)?;
        let data = clean.f_add(&noise)?.f_mul(&self.mask)?;
        let mean = self.flat(&data)?.f_matmul(&self.gain.f_tr()?)?;
        let exact = Exact {
            basis: Basis::Matrix(self.basis.shallow_clone()),
            weights: Tensor::f_ones([1], (Kind::Double, Device::Cpu))?,
            means: mean.f_matmul(&self.basis.f_tr()?)?,
            variance: self.posterior.shallow_clone(),
            prior_variance: self.prior.shallow_clone(),
            states: None,
        };
        let likelihood = Blurred::new(data, self.mask.shallow_clone(), self.variance.shallow_clone(), &self.transfer)?;
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
        self.setting.covariance.draw(0.0, noise, 0)
    }

    fn statistics(&self) -> Vec<String> {
        (1..=PROJECTIONS).map(|number| format!("mode {number}")).collect()
    }

    fn measure(&self, _simulation: &Simulation, draws: &Latent) -> Result<Vec<Vec<f64>>> {
        let rows = self.basis.f_index_select(0, &Tensor::f_from_slice(&self.projections)?)?;
        let values = rows.f_matmul(&self.flat(&draws.image)?.f_tr()?)?;
        (0..PROJECTIONS as i64).map(|row| Ok(Vec::<f64>::try_from(values.f_get(row)?)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::Denoiser;

    /// Largest relative difference between the f64 C0 and what the denoiser of the samplers does at noise level 1.
    fn denoiser_error(problem: &GaussianField) -> f64 {
        let x = Tensor::from_slice(&Key::new(1, "x", 0, Purpose::Evaluation, 0).normal(problem.size.pow(2) as usize));
        let power = Tensor::from_slice(&power_spectrum(problem.size));
        let modes = hartley(&x.view([1, -1]).to_kind(Kind::Double), problem.size).unwrap();
        let expected = hartley(&(modes * (&power / (&power + 1.0))), problem.size).unwrap();
        let found = problem.setting.denoiser.denoise(&x.view([1, 1, problem.size, problem.size]), 1.0).unwrap();
        let error = (found.view([1, -1]).to_kind(Kind::Double) - &expected).abs().max() / expected.abs().max();
        error.double_value(&[])
    }

    fn problem(config: GaussianFieldConfig) -> GaussianField {
        GaussianField::new("field", &config, 3).unwrap()
    }

    #[test]
    fn the_posterior_is_that_of_normal_equations() {
        let problem = problem(GaussianFieldConfig { size: 6, masked: 0.2, ..Default::default() });
        assert!(denoiser_error(&problem) < 1e-5);
        // Sigma_post^-1 = C0^-1 + A^T N^-1 A, an independent form of the same.
        let double = (Kind::Double, Device::Cpu);
        let rows = hartley(&Tensor::eye(36, double), 6).unwrap();
        let power = Tensor::from_slice(&power_spectrum(6));
        let inverse = rows.tr().matmul(&power.reciprocal().diag(0)).matmul(&rows);
        let images = Tensor::eye(36, double).view([36, 6, 6]);
        let matrix = blur(&images, &problem.transfer).unwrap().view([36, 36]);
        let weight = (&problem.mask / &problem.variance).view([36, 1]).to_kind(Kind::Double);
        let precision = inverse + matrix.tr().matmul(&(&matrix * &weight));
        let posterior = problem.basis.tr().matmul(&problem.posterior.diag(0)).matmul(&problem.basis);
        let error = (precision.matmul(&posterior) - Tensor::eye(36, double)).abs().max().double_value(&[]);
        assert!(error < 1e-6, "{error}"); // f32 variances on one side.
        let simulation = problem.simulate(0, None).unwrap();
        let data = simulation.likelihood.data().view([36, 1]).to_kind(Kind::Double);
        let mean = posterior.matmul(&matrix.tr().matmul(&(data * weight)));
        let exact = simulation.exact.unwrap();
        let found = exact.basis.inverse(&exact.mean().unwrap().view([1, -1])).unwrap();
        assert!((found.view([-1]) - mean.view([-1])).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn with_all_pixels_masked_the_posterior_is_the_prior() {
        let problem = problem(GaussianFieldConfig { size: 6, masked: 1.0, ..Default::default() });
        let exact = problem.simulate(0, None).unwrap().exact.unwrap();
        assert!(exact.mean().unwrap().abs().max().double_value(&[]) < 1e-12);
        let ratio = &exact.variance / &exact.prior_variance;
        assert!((ratio - 1.0).abs().max().double_value(&[]) < 1e-9);
    }
}
