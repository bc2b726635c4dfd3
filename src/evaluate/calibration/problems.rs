//! The problems that samplers are tested on: a prior with its denoiser, a truth, its observation, and the exact posterior
//! where there is one.

use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::config::{CalibrationConfig, ProblemConfig};
use super::counting::Counting;
use super::exact::Exact;
use super::reference::Weighted;
use crate::Result;
use crate::evaluate::statistics;
use crate::forward::{Latent, Likelihood, NuisancePrior, Stretch};
use crate::prior::card::{Architecture, Normalisation};
use crate::prior::{Card, Covariance, Spread};
use crate::random::BlockNoise;
use crate::sampler::{Sampler, to_vec};

mod blurred;
mod galaxy_mixture;
mod gaussian_field;
mod mixture_25;
mod network;
mod stretched_field;

pub use galaxy_mixture::GalaxyMixtureConfig;
pub use gaussian_field::GaussianFieldConfig;
pub use mixture_25::Mixture25Config;
pub use network::NetworkConfig;
pub use stretched_field::StretchedFieldConfig;

/// A prior, as samplers see it.
pub struct Setting {
    pub denoiser: Counting,
    pub card: Card,
    /// C0.
    pub covariance: Covariance,
    /// The table of the denoiser's uncertainty, where the prior has one: what `unseeing run` samples with.
    pub spread: Option<Spread>,
}

/// What a test of a finished simulation may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Gaussian,
    Mixture,
    /// A flux that is curved in the prior's images, and a reference posterior from long chains.
    Curved,
    Network,
}

/// The likelihood of a block of samples: the first one, and how many.
pub type OfSamples = Box<dyn Fn(u32, u32) -> Result<Box<dyn Likelihood>>>;

/// A truth and its observation.
pub struct Simulation {
    pub setting: Rc<Setting>,
    /// One sample.
    pub truth: Latent,
    /// The truth's, and that of all samples unless they have their own.
    pub likelihood: Box<dyn Likelihood>,
    /// Where each sample has its own: a redshift drawn from the catalogue's error.
    pub of_samples: Option<OfSamples>,
    pub exact: Option<Exact>,
    /// Draws of the posterior of a network prior, where the problem has a file of draws of the prior.
    pub reference: Option<Weighted>,
    /// S/N of the data, a function of the data alone; `None` where the problem is not stratified by it.
    pub observed_signal_to_noise: Option<f64>,
}

/// One problem.
pub trait Problem {
    fn name(&self) -> &str;
    fn family(&self) -> Family;
    /// The prior of simulation `index`; the same `Rc` where all simulations share one.
    fn setting(&self, index: u32) -> Result<Rc<Setting>>;
    /// Simulation `index`, a pure function of the config's seed and the index - and of the sampler where the prior is
    /// defined by a sampler's own chain.
    fn simulate(&self, index: u32, sampler: Option<&dyn Sampler>) -> Result<Simulation>;
    /// Draws of the prior of simulation `index`, `[B, C, n, n]`.
    fn prior_draws(&self, index: u32, sampler: Option<&dyn Sampler>, noise: &BlockNoise) -> Result<Tensor>;
    /// Names of the statistics that ranks and z are taken of.
    fn statistics(&self) -> Vec<String>;
    /// Their values: one row for each statistic, one column for each sample.
    fn measure(&self, simulation: &Simulation, draws: &Latent) -> Result<Vec<Vec<f64>>>;
    /// The images that are compared pixel by pixel, `[B, C, n, n]`.
    fn images(&self, draws: &Latent) -> Result<Tensor> {
        Ok(draws.image.shallow_clone())
    }
    /// Bounds between the strata of the observed S/N.
    fn strata(&self) -> &[f64] {
        &[]
    }
    /// Where the prior's denoiser runs.
    fn device(&self) -> Device {
        Device::Cpu
    }
}

/// A problem and the entry of the config that it comes from.
pub struct ProblemCase {
    /// Name of the entry; samplers may be restricted to it.
    pub entry: String,
    pub simulations: u32,
    pub draws: u32,
    pub slices: u32,
    pub problem: Box<dyn Problem>,
}

/// All problems of an entry. `name` becomes the problem's, with size and noise appended where there are several.
pub fn build(whole: &CalibrationConfig, config: &ProblemConfig, device: Device) -> Result<Vec<ProblemCase>> {
    let (name, seed) = (config.name.as_str(), whole.seed);
    let mut problems: Vec<Box<dyn Problem>> = Vec::new();
    if let Some(kind) = &config.gaussian_field {
        problems.push(Box::new(gaussian_field::GaussianField::new(name, kind, seed)?));
    }
    if let Some(kind) = &config.galaxy_mixture {
        for (label, size, noise) in kind.cases(name) {
            problems.push(Box::new(galaxy_mixture::GalaxyMixture::new(&label, kind, size, noise, seed)?));
        }
    }
    if let Some(kind) = &config.stretched_field {
        for (label, ratio) in kind.cases(name) {
            problems.push(Box::new(stretched_field::StretchedField::new(&label, kind, ratio, seed)?));
        }
    }
    if let Some(kind) = &config.mixture_25 {
        for (label, dimension, observed) in kind.cases(name) {
            problems.push(Box::new(mixture_25::Mixture25::new(&label, kind.noise, dimension, observed, seed)));
        }
    }
    if let Some(kind) = &config.network {
        problems.push(Box::new(network::Network::new(name, kind, seed, device)?));
    }
    let case = |problem| ProblemCase {
        entry: name.to_string(),
        simulations: config.simulations,
        draws: config.draws.unwrap_or(whole.draws),
        slices: config.slices.unwrap_or(whole.slices).max(1),
        problem,
    };
    Ok(problems.into_iter().map(case).collect())
}

/// The card of an analytic prior with images of `shape`: any noise level may be asked of an exact denoiser.
fn card(name: &str, size: i64, architecture: Architecture) -> Card {
    Card {
        name: name.into(),
        architecture,
        pixel_kpc: 1.0,
        size,
        bands: vec!["x".into()],
        stretch: Stretch::Linear { scale: 1.0 },
        normalisation: Normalisation::ReferenceBand { band: 0 },
        sigma_min: 1e-4,
        sigma_max: 1e5,
        redshift_range: [0.0, 1.0],
        resolution_kpc: 0.0,
        training_data: "none: an analytic prior".into(),
        training_digest: String::new(),
        recipe: String::new(),
        caution: "for tests of samplers".into(),
    }
}

/// The statistics of one-band galaxies, in the order of `galaxy_statistics`.
const GALAXY_STATISTICS: [&str; 6] = ["flux", "peak", "r50", "e1", "e2", "outskirts"];

/// Their values for images of flux `[B, 1, n, n]`: one row for each statistic.
fn galaxy_statistics(flux: &Tensor) -> Result<Vec<Vec<f64>>> {
    let size = flux.size()[3] as usize;
    let mut rows = vec![Vec::new(); GALAXY_STATISTICS.len()];
    for image in to_vec(flux)?.chunks(size * size) {
        let [flux, _, peak, r50, outskirts, _] = statistics::measure(image, 1, size, 0);
        let [e1, e2] = statistics::ellipticity(image, size);
        rows.iter_mut().zip([flux, peak, r50, e1, e2, outskirts]).for_each(|(row, value)| row.push(value));
    }
    Ok(rows)
}

/// Amplitude and sky that are known to be 1 and 0: `bands` sky levels.
fn no_nuisance(bands: i64) -> Result<NuisancePrior> {
    let options = (Kind::Float, Device::Cpu);
    Ok(NuisancePrior {
        ln_amplitude_mean: Tensor::f_zeros([1], options)?,
        ln_amplitude_sd: Tensor::f_zeros([1], options)?,
        sky_sd: Tensor::f_zeros([bands], options)?,
    })
}

/// Images without amplitude and sky.
pub fn bare(image: Tensor) -> Result<Latent> {
    let size = image.size();
    let options = (Kind::Float, image.device());
    Ok(Latent {
        ln_amplitude: Tensor::f_zeros([size[0], 1], options)?,
        sky: Tensor::f_zeros([size[0], 1], options)?,
        image,
    })
}
