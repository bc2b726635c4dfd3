//! `stretched-field`: what the stretch costs. Images are Gaussian in the stretched space, where priors live: a disc, scattered
//! by a random field; the denoiser is exact. They are observed through the survey's own likelihood, whose flux is curved in
//! them, x -> a S^-1(x), with amplitude and sky known. The posterior is no Gaussian and has no closed form; long Hamiltonian
//! chains (`hamiltonian.rs`) stand for it. Only the linearisation of the stretch and the discretisation can be at fault.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::gaussian_field::{power_spectrum, stationary};
use super::{Family, GALAXY_STATISTICS, Problem, Setting, Simulation, card, galaxy_statistics};
use crate::config::check::Checker;
use crate::evaluate::calibration::counting::Counting;
use crate::evaluate::calibration::exact::{Basis, Exact, hartley};
use crate::evaluate::calibration::hamiltonian::Target;
use crate::forward::{
    Field, GalaxyLikelihood, GalaxyLikelihoodInput, Latent, Likelihood, NuisancePrior, Psf, SkyNoise, Stretch,
};
use crate::prior::Card;
use crate::prior::analytic::GaussianDenoiser;
use crate::prior::card::Architecture;
use crate::random::{BlockNoise, Purpose};
use crate::sampler::Sampler;
use crate::{Error, Result};

/// Pitch of the detector and FWHM of the PSF, arcsec.
const PITCH: f64 = 0.168;
const FWHM: f64 = 0.7;
/// Pitch of the prior, arcsec: as of 0.8 kpc at redshift 0.17.
const PRIOR_PITCH: f64 = 0.27;
/// a, nJy. Only ratios to the noise matter.
const AMPLITUDE: f64 = 1000.0;
/// Axis ratio of the disc.
const AXIS_RATIO: f64 = 0.6;
const LARGEST_SIZE: i64 = 32;

/// `[problems.stretched-field]`: one problem for each S/N.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StretchedFieldConfig {
    /// Pixels on a side.
    pub size: i64,
    /// S/N of the disc in its own profile (matched filter).
    pub signal_to_noise: Vec<f64>,
    /// Standard deviation of a pixel, in the stretched space: a factor e^scatter in flux where it is bright.
    pub scatter: f64,
    /// Scale length of the disc, pixels. Its total flux is 1.
    pub radius: f64,
    /// s of asinh(f / s): the flux in a pixel where the stretch bends.
    pub scale: f64,
}

impl Default for StretchedFieldConfig {
    fn default() -> Self {
        StretchedFieldConfig {
            size: 16,
            signal_to_noise: vec![5.0, 50.0, 500.0],
            scatter: 0.5,
            radius: 2.0,
            scale: 0.002,
        }
    }
}

impl StretchedFieldConfig {
    /// Errors name `key` and what is below it.
    pub(crate) fn check(&self, check: &Checker, key: &str) -> Result<()> {
        let size = (8..=LARGEST_SIZE).contains(&self.size);
        check.need(size, &format!("{key}.size"), format!("expected 8 to {LARGEST_SIZE}, found {}", self.size))?;
        let key = |name: &str| format!("{key}.{name}");
        check.need(!self.signal_to_noise.is_empty(), &key("signal_to_noise"), "expected at least one")?;
        self.signal_to_noise.iter().try_for_each(|&ratio| check.positive(ratio, &key("signal_to_noise")))?;
        check.positive(self.scatter, &key("scatter"))?;
        check.positive(self.radius, &key("radius"))?;
        check.positive(self.scale, &key("scale"))
    }

    /// Name and S/N of each problem.
    pub fn cases(&self, name: &str) -> Vec<(String, f64)> {
        let several = self.signal_to_noise.len() > 1;
        let label = |ratio: f64| if several { format!("{name}-{ratio}") } else { name.to_string() };
        self.signal_to_noise.iter().map(|&ratio| (label(ratio), ratio)).collect()
    }
}

/// The problem, with everything that its simulations share.
pub struct StretchedField {
    name: String,
    seed: u64,
    size: i64,
    stretch: Stretch,
    setting: Rc<Setting>,
    /// Noise of a pixel of the detector, nJy.
    sd: f64,
    /// mu and the square roots of the spectrum, `[D]`, f64.
    mean: Tensor,
    root: Tensor,
    /// Flux to data in units of the noise, `[M, D]`, f64.
    matrix: Tensor,
}

impl StretchedField {
    pub fn new(name: &str, config: &StretchedFieldConfig, signal_to_noise: f64, seed: u64) -> Result<Self> {
        let (size, pixels) = (config.size, config.size * config.size);
        let stretch = Stretch::Asinh { scale: config.scale };
        let mean = stretch.forward(&disc(size, config.radius)?)?;
        let power: Vec<f64> = power_spectrum(size).iter().map(|value| value * config.scatter.powi(2)).collect();
        let covariance = stationary(size, &mean, &power)?;
        let eye = Tensor::f_eye(pixels, (Kind::Double, Device::Cpu))?.f_view([pixels, 1, size, size])?;
        let operator = likelihood(size, stretch, 1.0, None, Kind::Double)?;
        let matrix = operator.operator().apply(&eye)?.f_view([pixels, -1])?.f_tr()?.f_mul_scalar(AMPLITUDE)?;
        let signal = matrix.f_mv(&stretch.inverse(&mean)?)?.f_square()?.f_sum(Kind::Double)?;
        let sd = signal.f_double_value(&[])?.sqrt() / signal_to_noise;
        let card = Card { stretch, ..card(name, size, Architecture::Gaussian) };
        let denoiser = GaussianDenoiser::new(covariance.to_device(Device::Cpu)?);
        Ok(StretchedField {
            name: name.into(),
            seed,
            size,
            stretch,
            setting: Rc::new(Setting { denoiser: Counting::new(Box::new(denoiser)), card, covariance, spread: None }),
            sd,
            mean,
            root: Tensor::f_from_slice(&power)?.f_sqrt()?,
            matrix: matrix.f_div_scalar(sd)?,
        })
    }

    fn latent(&self, image: Tensor) -> Result<Latent> {
        let options = (Kind::Float, Device::Cpu);
        let count = image.size()[0];
        Ok(Latent {
            image,
            ln_amplitude: Tensor::f_full([count, 1], AMPLITUDE.ln(), options)?,
            sky: Tensor::f_zeros([count, 1], options)?,
        })
    }

    fn exact(&self, data: &Tensor, object: &str) -> Result<Exact> {
        let target = Target {
            stretch: self.stretch,
            size: self.size,
            mean: self.mean.shallow_clone(),
            root: self.root.shallow_clone(),
            matrix: self.matrix.shallow_clone(),
            data: data.f_to_kind(Kind::Double)?.f_div_scalar(self.sd)?.f_view([-1])?,
        };
        let chains = target.condensed()?.sample(self.seed, object)?;
        tracing::debug!(object, chains.r_hat, chains.acceptance, "reference posterior");
        let flat = chains.states.f_view([-1, self.size * self.size])?;
        let rows = hartley(&chains.basis, self.size)?.f_mul(&self.root)?;
        Ok(Exact {
            weights: Tensor::f_ones([1], (Kind::Double, Device::Cpu))?,
            means: flat.f_mean_dim([0i64].as_slice(), true, Kind::Double)?,
            variance: flat.f_var_dim([0i64].as_slice(), true, false)?,
            prior_variance: rows.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?,
            basis: Basis::Matrix(chains.basis),
            states: Some(chains.states),
        })
    }
}

/// An inclined exponential disc in the middle of the grid, of total flux 1, `[D]`, f64.
fn disc(size: i64, radius: f64) -> Result<Tensor> {
    let centre = (size as f64 - 1.0) / 2.0;
    let flux = |index: i64| {
        let (dy, dx) = ((index / size) as f64 - centre, (index % size) as f64 - centre);
        (-(dx * dx + (dy / AXIS_RATIO).powi(2)).sqrt() / radius).exp()
    };
    let values: Vec<f64> = (0..size * size).map(flux).collect();
    let total: f64 = values.iter().sum();
    Ok(Tensor::f_from_slice(&values)?.f_div_scalar(total)?)
}

/// The survey's likelihood of `data` (zeros when not given), with noise `sd`.
fn likelihood(size: i64, stretch: Stretch, sd: f64, data: Option<&Tensor>, kind: Kind) -> Result<GalaxyLikelihood> {
    let side = (size as f64 * PRIOR_PITCH / PITCH).floor() as i64;
    let (shape, options) = ([1, side, side], (Kind::Float, Device::Cpu));
    let middle = (side - 1) as f64 / 2.0;
    let field =
        Field { size, prior_pitch: PRIOR_PITCH, detector_pitch: PITCH, target: [middle; 2], shape: [side, side] };
    GalaxyLikelihood::new(GalaxyLikelihoodInput {
        object: "stretched field".into(),
        field,
        data: data.map_or_else(|| Tensor::f_zeros(shape, options), |data| Ok(data.shallow_clone()))?,
        mask: Tensor::f_ones(shape, options)?,
        sky_noise: SkyNoise::White { variance: Tensor::f_full(shape, sd * sd, options)? },
        gain: None,
        relative_error: 0.0,
        psfs: vec![Psf::gaussian(43, FWHM, PITCH).map_err(|error| Error::internal(error.to_string()))?],
        stretch,
        reference: None,
        colours: None,
        nuisance: NuisancePrior {
            ln_amplitude_mean: Tensor::f_full([1], AMPLITUDE.ln(), options)?,
            ln_amplitude_sd: Tensor::f_zeros([1], options)?,
            sky_sd: Tensor::f_zeros([1], options)?,
        },
        down_weight_edges: false,
        device: Device::Cpu,
        kind,
    })
}

impl Problem for StretchedField {
    fn name(&self) -> &str {
        &self.name
    }

    fn family(&self) -> Family {
        Family::Curved
    }

    fn setting(&self, _index: u32) -> Result<Rc<Setting>> {
        Ok(self.setting.clone())
    }

    fn simulate(&self, index: u32, sampler: Option<&dyn Sampler>) -> Result<Simulation> {
        let object = format!("{} {index}", self.name);
        let noise = BlockNoise::new(self.seed, &object, 0, 1);
        let truth = self.latent(self.prior_draws(index, sampler, &noise)?)?;
        let empty = likelihood(self.size, self.stretch, self.sd, None, Kind::Float)?;
        let clean = empty.predict(&truth)?.f_get(0)?;
        let white = noise.normal(Purpose::ObservationNoise, 0, &clean.size(), Device::Cpu)?.f_get(0)?;
        let data = clean.f_add(&white.f_mul_scalar(self.sd)?)?;
        Ok(Simulation {
            setting: self.setting.clone(),
            truth,
            likelihood: Box::new(likelihood(self.size, self.stretch, self.sd, Some(&data), Kind::Float)?),
            exact: Some(self.exact(&data, &object)?),
            of_samples: None,
            observed_signal_to_noise: None,
            reference: None,
        })
    }

    fn prior_draws(&self, _index: u32, _sampler: Option<&dyn Sampler>, noise: &BlockNoise) -> Result<Tensor> {
        self.setting.covariance.draw(0.0, noise, 0)
    }

    fn statistics(&self) -> Vec<String> {
        GALAXY_STATISTICS.map(String::from).to_vec()
    }

    fn measure(&self, _simulation: &Simulation, draws: &Latent) -> Result<Vec<Vec<f64>>> {
        galaxy_statistics(&self.stretch.inverse(&draws.image)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(signal_to_noise: f64) -> StretchedField {
        let config = StretchedFieldConfig { size: 8, radius: 1.0, ..Default::default() };
        StretchedField::new("stretched", &config, signal_to_noise, 3).unwrap()
    }

    /// What the chains know of the data is what the samplers' likelihood says, to the rounding of f32.
    #[test]
    fn the_reference_has_the_likelihood_of_the_samplers() {
        let problem = problem(50.0);
        let noise = BlockNoise::new(3, "x", 0, 1);
        let truth = problem.latent(problem.prior_draws(0, None, &noise).unwrap()).unwrap();
        let likelihood = likelihood(8, problem.stretch, problem.sd, None, Kind::Float).unwrap();
        let found = likelihood.predict(&truth).unwrap().view([-1]).to_kind(Kind::Double) / problem.sd;
        let flux = problem.stretch.inverse(&truth.image.view([-1]).to_kind(Kind::Double)).unwrap();
        let expected = problem.matrix.mv(&flux);
        let error = (found - &expected).abs().max() / expected.abs().max();
        assert!(error.double_value(&[]) < 1e-5);
        // The disc's own S/N.
        let disc = problem.matrix.mv(&problem.stretch.inverse(&problem.mean).unwrap());
        assert!((disc.square().sum(Kind::Double).double_value(&[]).sqrt() - 50.0).abs() < 1e-6);
    }

    #[test]
    fn the_posterior_narrows_with_the_signal() {
        let share = |signal_to_noise| {
            let exact = problem(signal_to_noise).simulate(0, None).unwrap().exact.unwrap();
            let total = |t: &Tensor| t.sum(Kind::Double).double_value(&[]);
            total(&exact.variance) / total(&exact.prior_variance)
        };
        let shares = [share(1.0), share(30.0), share(1000.0)];
        assert!(shares[0] > 0.8 && shares[0] > shares[1] && shares[1] > shares[2] && shares[2] < 0.6, "{shares:?}");
    }
}
