//! The config of a survey run: a TOML file. Unknown keys are errors, every error names the file, the key and the line,
//! and what the prior's card says (bands' number, grid, stretch) is never asked for here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub(crate) mod check;
mod photo_z;
mod written;

pub use photo_z::{PhotoZConfig, PhotoZMode};
pub use written::Written;

/// A whole config file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub survey: SurveyConfig,
    pub catalog: CatalogConfig,
    pub data: DataConfig,
    #[serde(default)]
    pub noise: NoiseConfig,
    #[serde(default)]
    pub neighbours: NeighbourConfig,
    #[serde(default)]
    pub nuisance: NuisanceConfig,
    #[serde(default, skip_serializing_if = "PhotoZConfig::is_default")]
    pub photo_z: PhotoZConfig,
    pub prior: PriorConfig,
    #[serde(default)]
    pub sampler: SamplerConfig,
    #[serde(default)]
    pub posterior: PosteriorConfig,
    #[serde(default)]
    pub flags: FlagsConfig,
    #[serde(default)]
    pub run: RunConfig,
    /// The paths as the file has them; `None` for a config that was not read from a file.
    #[serde(skip)]
    pub written: Option<Written>,
}

/// What the survey is called, where it goes, and its seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SurveyConfig {
    pub name: String,
    /// The run folder; relative paths are relative to the config file.
    pub folder: PathBuf,
    #[serde(default)]
    pub seed: u64,
    /// Objects in one shard (one product file).
    #[serde(default = "default_shard_objects")]
    pub shard_objects: u32,
}

fn default_shard_objects() -> u32 {
    256
}

/// The catalogue and the names of its columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogConfig {
    /// One or several files (CSV, or FITS binary tables by their name's ending).
    pub paths: Vec<PathBuf>,
    #[serde(default)]
    pub columns: ColumnsConfig,
}

/// Column names of the catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnsConfig {
    pub id: String,
    pub ra: String,
    pub dec: String,
    pub redshift: String,
    pub redshift_error: Option<String>,
    /// Columns of the redshift's quantiles, each with its probability.
    pub redshift_quantiles: Option<Vec<(f64, String)>>,
    pub ebv: Option<String>,
    /// One column per band.
    pub extinction: Option<Vec<String>>,
}

impl Default for ColumnsConfig {
    fn default() -> Self {
        ColumnsConfig {
            id: "object_id".into(),
            ra: "ra".into(),
            dec: "dec".into(),
            redshift: "redshift".into(),
            redshift_error: None,
            redshift_quantiles: None,
            ebv: None,
            extinction: None,
        }
    }
}

/// Where images and PSFs are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Bands in the order of the prior's channels. The text is what `{band}` becomes in the patterns.
    pub bands: Vec<String>,
    /// Path pattern of the images: `{id}`, `{band}` and `{any catalogue column}`.
    pub image: String,
    /// Path pattern of the PSFs.
    pub psf: String,
    /// Whether the PSF holds the detector pixel's response (effective PSF: HSC, LSST, Euclid).
    #[serde(default = "yes")]
    pub psf_includes_pixel: bool,
    /// AB zero point, where the header has no FLUXMAG0; one value for all bands.
    pub zero_point: Option<f64>,
    /// Pixels at or above this value (in the file's units) are saturated and masked.
    pub saturation: Option<f64>,
    /// Bits of the mask plane that make a pixel unusable. When not given: all, but for the detection bits that the
    /// plane's own header names (`MP_DETECTED` and the like).
    pub mask_bits: Option<u32>,
    /// Milky Way extinction coefficients A_band / E(B-V), one per band, where the catalogue gives E(B-V).
    pub extinction_coefficients: Option<Vec<f64>>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseModel {
    /// Every pixel on its own.
    White,
    /// A stationary power spectrum, measured on the sky of the same image.
    Correlated,
}

/// The noise model: Sigma = sky + model / gain + (relative_error * model)^2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NoiseConfig {
    pub model: NoiseModel,
    /// Relative error of PSF and flat field (the eps of design: about 0.01).
    pub relative_error: f64,
    /// Electrons per nJy, one per band, when known.
    pub gain: Option<Vec<f64>>,
}

impl Default for NoiseConfig {
    fn default() -> Self {
        NoiseConfig { model: NoiseModel::Correlated, relative_error: 0.01, gain: None }
    }
}

/// How neighbours in the frame are treated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NeighbourConfig {
    pub mask: bool,
    /// Detection threshold in units of the (smoothed) sky rms.
    pub threshold: f64,
    /// Masks are grown by this many arcsec, to cover the wings.
    pub grow: f64,
}

impl Default for NeighbourConfig {
    fn default() -> Self {
        NeighbourConfig { mask: true, threshold: 2.0, grow: 0.5 }
    }
}

/// How an object's bands relate to those of the prior.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Colours {
    /// They are the same.
    Prior,
    /// The prior's mean colours are shifted to those of the object's own aperture fluxes: for redshifts at which the
    /// observed bands see another part of the spectrum than the prior has learned. Colour gradients stay the prior's.
    Aperture,
}

/// Priors of amplitude and sky.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NuisanceConfig {
    /// One standard deviation of ln(amplitude) around the aperture flux.
    pub ln_amplitude_sd: f64,
    /// What the prior's colours mean for an object.
    pub colours: Colours,
    /// One standard deviation of the sky level, in units of the pixel noise; 0 fixes the sky at 0.
    pub sky_sd: f64,
}

impl Default for NuisanceConfig {
    fn default() -> Self {
        NuisanceConfig { ln_amplitude_sd: 0.3, colours: Colours::Prior, sky_sd: 0.2 }
    }
}

/// Which prior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorConfig {
    /// A prior's safetensors file (its card is inside, its moments beside it).
    pub path: PathBuf,
}

/// Which sampler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerConfig {
    /// `perturb-map` (the default), or another of `sampler::build::METHODS`.
    pub method: String,
    /// Network evaluations per sample.
    pub steps: u32,
    /// Re-linearisations of the forward model per step.
    pub relinearizations: u32,
    /// Largest noise level; from the prior's moments when not given.
    pub t_max: Option<f64>,
    /// Smallest noise level; from the prior's card when not given.
    pub t_min: Option<f64>,
    /// Conjugate-gradient stop: error of each sample, over all directions together, in posterior standard deviations.
    pub cg_tolerance: f64,
    /// Conjugate-gradient stop: iterations.
    pub cg_iterations: u32,
    /// Step size of `dps` and `dps-paper`.
    pub guidance: f64,
    /// `perturb-map`: how many of the steps are sweeps; from the prior when not given.
    pub sweeps: Option<u32>,
    /// `mmps`: iterations of the solver in each step, each a backward pass through the network.
    pub mmps_iterations: Option<u32>,
    /// `diffpir`: weight of the denoised image against the data.
    pub diffpir_lambda: Option<f64>,
    /// `diffpir`: the part of the noise that is fresh in each step, 0 to 1.
    pub diffpir_zeta: Option<f64>,
    /// `daps`: network evaluations for each noise level.
    pub daps_ode_steps: Option<u32>,
    /// `daps`: Langevin steps for each noise level.
    pub daps_langevin_steps: Option<u32>,
    /// `daps`: their size, in units of one over the largest curvature, up to 1.9.
    pub daps_langevin_rate: Option<f64>,
    /// `split-gibbs`: network evaluations for each round.
    pub gibbs_reverse_steps: Option<u32>,
    /// `split-gibbs`: standard deviation of the coupling where it is held.
    pub gibbs_rho: Option<f64>,
    /// `split-gibbs`: the same where it starts; 1 in an asinh stretch, else t_max, when not given.
    pub gibbs_rho_max: Option<f64>,
    /// `split-gibbs`: the part of the rounds for which it is held, 0 to 1.
    pub gibbs_held: Option<f64>,
}

impl SamplerConfig {
    /// Network evaluations per sample, unless the config says otherwise.
    pub const STEPS: u32 = 28;
}

impl Default for SamplerConfig {
    fn default() -> Self {
        SamplerConfig {
            method: "perturb-map".into(),
            steps: Self::STEPS,
            relinearizations: 1,
            t_max: None,
            t_min: None,
            cg_tolerance: 0.3,
            cg_iterations: 2000,
            guidance: 1.0,
            sweeps: None,
            mmps_iterations: None,
            diffpir_lambda: None,
            diffpir_zeta: None,
            daps_ode_steps: None,
            daps_langevin_steps: None,
            daps_langevin_rate: None,
            gibbs_reverse_steps: None,
            gibbs_rho: None,
            gibbs_rho_max: None,
            gibbs_held: None,
        }
    }
}

/// What is kept of the posterior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PosteriorConfig {
    /// Draws per object.
    pub samples: u32,
    /// Draws in one batch of the network. Part of what fixes the bits.
    pub block: u32,
    /// Draws kept as images.
    pub keep_draws: u32,
}

impl Default for PosteriorConfig {
    fn default() -> Self {
        PosteriorConfig { samples: 256, block: 16, keep_draws: 0 }
    }
}

/// Thresholds of the objects' flags; what they are for is in the flags' meanings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlagsConfig {
    pub upsampling: f64,
    pub high_chi2: f64,
    pub at_edge: f64,
    pub good_pixels: f64,
    pub lost_draws: f64,
    pub predictive_p: f64,
    pub unlike_prior: f64,
    pub aperture: f64,
    pub cmodel: f64,
    pub residual_power: f64,
    pub residual_peak: f64,
    pub solve_residual: f64,
    pub detection: f64,
}

impl Default for FlagsConfig {
    fn default() -> Self {
        FlagsConfig {
            upsampling: 3.0,
            high_chi2: 1.5,
            at_edge: 3.0,
            good_pixels: 0.5,
            lost_draws: 10.0,
            predictive_p: 0.001,
            unlike_prior: 0.005,
            aperture: 5.0,
            cmodel: 5.0,
            residual_power: 3.0,
            residual_peak: 5.0,
            solve_residual: 10.0,
            detection: 3.0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    Cpu,
    Cuda,
}

/// How the run uses the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    pub device: DeviceKind,
    /// Threads of the network on each rank (CPU). Part of what fixes the bits.
    pub threads: u32,
    /// Ranks that share a CUDA device. One rank of small images does not fill a large one; four may.
    pub ranks_per_device: u32,
    /// Seconds between journal records of unfinished work.
    pub journal_interval: f64,
    /// Seconds without a step after which a rank is taken for hung (at least ten median steps).
    pub hang_timeout: f64,
    /// Seconds after which another job may take an untouched shard.
    pub claim_timeout: f64,
    /// Seconds after which a job stops by itself, to be run again: where no Slurm tells when its time is over.
    pub time_limit: Option<f64>,
}

impl Default for RunConfig {
    fn default() -> Self {
        RunConfig {
            device: DeviceKind::Cuda,
            threads: 1,
            ranks_per_device: 1,
            journal_interval: 60.0,
            hang_timeout: 300.0,
            claim_timeout: 600.0,
            time_limit: None,
        }
    }
}

impl Config {
    /// Reads, checks and resolves a config: relative paths become relative to the file's own folder.
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::usage(format!("{}: cannot read the config: {error}", path.display())))?;
        let config = Config::parse(&text, path)?;
        Ok(config.resolved(path.parent().unwrap_or(Path::new("."))))
    }

    /// Parses and checks a config's text; `path` is for the messages.
    pub fn parse(text: &str, path: &Path) -> Result<Config> {
        let config: Config = toml::from_str(text).map_err(|error| check::syntax_error(&error, text, path))?;
        check::check(&config, text, path)?;
        Ok(config)
    }
}
