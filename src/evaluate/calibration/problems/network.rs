//! `network`: galaxies of a prior's own file, observed through the full forward model (`evaluate/mock.rs`): stretch,
//! redshift, sub-pixel position, PSF, noise, amplitude and sky, with noise that does not depend on the truth. There is no
//! exact posterior, but truth and data are a draw of the joint distribution, so that only the sampler can be at fault.
//! Or else the analysis is made wrong in a known way (`misspecified`): what that does to a posterior.

use std::path::PathBuf;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::{Family, OfSamples, Problem, Setting, Simulation};
use crate::config::check::Checker;
use crate::evaluate::calibration::counting::Counting;
use crate::evaluate::calibration::reference::Reference;
use crate::evaluate::mock::{Misspecified, Mock, Observing, Scene, Truths, chain_draws, observe};
use crate::evaluate::statistics;
use crate::forward::{GalaxyLikelihood, Latent, Likelihood};
use crate::prior::card::Normalisation;
use crate::prior::{Prior, ancestral};
use crate::random::{BlockNoise, Key, Purpose, object_seed};
use crate::sampler::{Sampler, to_vec};
use crate::sky::cosmology;
use crate::{Error, Result};

/// Draws of a redshift are no less.
const LEAST_REDSHIFT: f64 = 0.01;
/// Noise levels of ancestral truths, two network evaluations each.
const ANCESTRAL_STEPS: u32 = 64;

/// `[problems.network]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// A prior's safetensors file; relative paths are relative to the config file.
    pub prior: PathBuf,
    /// Draws of that prior, of `unseeing draw PRIOR --out FILE.safetensors` with as many `--steps` as the sampler has, since truths are
    /// draws of its chain. Weighted by their likelihood they are the posterior, where data are faint, and samplers' means and variances
    /// are held against its. The path is relative to the config file.
    pub reference: Option<PathBuf>,
    #[serde(default = "chain")]
    pub truths: Truths,
    /// Redshifts, uniform.
    #[serde(default = "redshift")]
    pub redshift: [f64; 2],
    /// S/N that the prior's mean image would have, log-uniform.
    #[serde(default = "signal_to_noise")]
    pub signal_to_noise: [f64; 2],
    #[serde(default = "ln_amplitude_sd")]
    pub ln_amplitude_sd: f64,
    /// In units of the pixel noise.
    #[serde(default = "sky_sd")]
    pub sky_sd: f64,
    /// Standard deviation of the catalogue's redshifts about the true ones. Each sample then has a redshift of its own, drawn
    /// about the catalogue's (`photo_z.mode = "propagated"`): a cut posterior.
    #[serde(default)]
    pub redshift_error: f64,
    /// Bounds between the strata of the observed S/N.
    #[serde(default = "strata")]
    pub strata: Vec<f64>,
    /// What the analysis has wrong: `redshift`, `psf_width`, `noise_fwhm`.
    #[serde(default)]
    pub misspecified: Misspecified,
    /// Problems with the same text here have the same truths; the problem's name when not given.
    pub truths_of: Option<String>,
}

fn chain() -> Truths {
    Truths::Chain
}

fn redshift() -> [f64; 2] {
    [0.15, 0.6]
}

fn signal_to_noise() -> [f64; 2] {
    [5.0, 300.0]
}

fn ln_amplitude_sd() -> f64 {
    0.3
}

fn sky_sd() -> f64 {
    0.2
}

fn strata() -> Vec<f64> {
    vec![20.0, 80.0]
}

impl NetworkConfig {
    /// Errors name `key` and what is below it.
    pub(crate) fn check(&self, check: &Checker, key: &str) -> Result<()> {
        let range = |[low, high]: [f64; 2]| low > 0.0 && high >= low && high.is_finite();
        let why = "expected two positive numbers, the larger one last";
        check.need(range(self.redshift), &format!("{key}.redshift"), why)?;
        check.need(range(self.signal_to_noise), &format!("{key}.signal_to_noise"), why)?;
        check.positive(self.ln_amplitude_sd, &format!("{key}.ln_amplitude_sd"))?;
        check.positive(self.sky_sd, &format!("{key}.sky_sd"))?;
        let rising = self.strata.windows(2).all(|pair| pair[0] < pair[1]) && self.strata.iter().all(|&s| s.is_finite());
        check.need(rising, &format!("{key}.strata"), "expected rising numbers")?;
        check.need(!self.prior.as_os_str().is_empty(), &format!("{key}.prior"), "expected a prior's file")?;
        check.at_least_zero(self.redshift_error, &format!("{key}.redshift_error"))?;
        let Misspecified { redshift, psf_width, noise_fwhm } = self.misspecified;
        let same =
            self.reference.is_none() || (self.redshift_error == 0.0 && self.misspecified == Misspecified::NOTHING);
        check.need(
            same,
            &format!("{key}.reference"),
            "expected none where redshifts scatter or the analysis is wrong",
        )?;
        let wrong = |name: &str| format!("{key}.misspecified.{name}");
        let positive = redshift.is_finite() && self.redshift[0] + redshift > 0.0;
        check.need(positive, &wrong("redshift"), "expected a number that leaves all redshifts positive")?;
        let width = psf_width > -1.0 && psf_width.is_finite();
        check.need(width, &wrong("psf_width"), "expected more than -1: a part of the width")?;
        check.at_least_zero(noise_fwhm, &wrong("noise_fwhm"))
    }
}

/// The problem, with the prior.
pub struct Network {
    name: String,
    config: NetworkConfig,
    setting: Rc<Setting>,
    scene: Scene,
    reference: Option<Reference>,
}

impl Network {
    pub fn new(name: &str, config: &NetworkConfig, seed: u64, device: Device) -> Result<Self> {
        let prior = Prior::read(&config.prior, device)?;
        let Normalisation::ReferenceBand { band } = prior.card.normalisation else {
            let path = config.prior.display();
            return Err(Error::usage(format!(
                "{path}: calibration needs a prior with one amplitude (a reference band)"
            )));
        };
        let [channels, rows, columns] = prior.shape();
        let scene = Scene {
            stretch: prior.card.stretch,
            reference: band,
            pixel_kpc: prior.card.pixel_kpc,
            typical: prior.covariance.mean.f_view([1, channels, rows, columns])?,
            device,
            seed,
        };
        let reference = config.reference.as_ref();
        let reference =
            reference.map(|path| Reference::read(path, &prior.digest, prior.shape(), device)).transpose()?;
        let Prior { denoiser, card, covariance, spread, .. } = prior;
        let setting = Setting { denoiser: Counting::new(denoiser), card, covariance, spread };
        Ok(Network { name: name.into(), config: config.clone(), setting: Rc::new(setting), scene, reference })
    }

    /// `redshift_shift` is by how much the analysis has another redshift than the truth.
    fn observing(&self, redshift_shift: f64) -> Observing {
        let wrong = self.config.misspecified;
        Observing {
            draws: 1,
            redshift: self.config.redshift,
            signal_to_noise: self.config.signal_to_noise,
            ln_amplitude_sd: self.config.ln_amplitude_sd,
            sky_sd: self.config.sky_sd,
            misspecified: Misspecified { redshift: wrong.redshift + redshift_shift, ..wrong },
        }
    }

    /// Observation `index` of its own truth.
    fn observation(&self, index: u32, sampler: Option<&dyn Sampler>) -> Result<Mock> {
        let named = self.config.truths_of.as_ref().unwrap_or(&self.name);
        let noise = BlockNoise::new(self.scene.seed, &format!("{named} truth"), index, 1);
        let truth = self.prior_draws(index, sampler, &noise)?;
        let scatter = noise.normal(Purpose::Redshift, 0, &[], Device::Cpu)?.f_double_value(&[0])?;
        observe(&self.scene, &truth, index, &self.observing(self.config.redshift_error * scatter))
    }

    /// The likelihood of samples, each with a redshift about the catalogue's.
    fn of_samples(&self, index: u32, catalogued: f64, common: GalaxyLikelihood) -> Result<OfSamples> {
        let (error, pixel_kpc) = (self.config.redshift_error, self.scene.pixel_kpc);
        let key = object_seed(self.scene.seed, &format!("{} redshifts {index}", self.name));
        Ok(Box::new(move |first, count| {
            let pitch = |sample: u32| {
                let normal = Key::of_seed(key, sample, Purpose::Redshift, 0).normal(1)[0];
                pitch(pixel_kpc, catalogued + error * f64::from(normal))
            };
            let pitches = (first..first + count).map(pitch).collect::<Result<Vec<_>>>()?;
            Ok(Box::new(common.for_pitches(&pitches)?))
        }))
    }
}

/// theta(z), arcsec per pixel of the prior; of the least redshift where an error leads below it.
fn pitch(pixel_kpc: f64, redshift: f64) -> Result<f64> {
    cosmology::theta_arcsec(pixel_kpc, redshift.max(LEAST_REDSHIFT))
        .map_err(|error| Error::internal(format!("redshift {redshift}: {error}")))
}

/// f / q = S^-1(x) / q, whose reference band has a total of one, `[B, C, n, n]`.
fn unit(scene: &Scene, images: &Tensor) -> Result<Tensor> {
    let flux = scene.stretch.inverse(images)?;
    let reference = flux.f_narrow(1, scene.reference as i64, 1)?;
    let total = reference.f_sum_dim_intlist([1i64, 2, 3].as_slice(), true, tch::Kind::Float)?;
    Ok(flux.f_div(&total)?)
}

/// Flux per prior pixel, nJy, with the truth's or the draws' own amplitude: a S^-1(x) / q.
fn flux(scene: &Scene, draws: &Latent) -> Result<Tensor> {
    let amplitude = draws.ln_amplitude.f_select(1, 0)?.f_exp()?;
    Ok(unit(scene, &draws.image)?.f_mul(&amplitude.f_view([-1, 1, 1, 1])?)?)
}

impl Problem for Network {
    fn name(&self) -> &str {
        &self.name
    }

    fn family(&self) -> Family {
        Family::Network
    }

    fn setting(&self, _index: u32) -> Result<Rc<Setting>> {
        Ok(self.setting.clone())
    }

    fn simulate(&self, index: u32, sampler: Option<&dyn Sampler>) -> Result<Simulation> {
        let Mock { likelihood, truth, observed_signal_to_noise, redshift, .. } = self.observation(index, sampler)?;
        let object = format!("{} reference {index}", self.name);
        let posterior = |reference: &Reference| reference.posterior(&likelihood, self.scene.seed, &object);
        let reference = self.reference.as_ref().map(posterior).transpose()?;
        let (likelihood, of_samples): (Box<dyn Likelihood>, _) = if self.config.redshift_error > 0.0 {
            let own = likelihood.for_pitches(&[pitch(self.scene.pixel_kpc, redshift[0])?])?;
            (Box::new(own), Some(self.of_samples(index, redshift[1], likelihood)?))
        } else {
            (Box::new(likelihood), None)
        };
        Ok(Simulation {
            setting: self.setting.clone(),
            truth,
            likelihood,
            of_samples,
            exact: None,
            observed_signal_to_noise: Some(observed_signal_to_noise),
            reference,
        })
    }

    fn prior_draws(&self, _index: u32, sampler: Option<&dyn Sampler>, noise: &BlockNoise) -> Result<Tensor> {
        let Setting { denoiser, card, covariance, .. } = self.setting.as_ref();
        match (self.config.truths, sampler) {
            (Truths::Chain, Some(sampler)) => chain_draws(denoiser, sampler, noise, self.scene.device),
            (Truths::Chain, None) => {
                Err(Error::usage(format!("problem `{}`: truths = \"chain\" needs a sampling method", self.name)))
            }
            (Truths::Ancestral, _) => {
                let range = [card.sigma_max, card.sigma_min];
                ancestral::draw(denoiser, covariance, range, ANCESTRAL_STEPS, noise)
            }
        }
    }

    fn statistics(&self) -> Vec<String> {
        ["flux", "peak", "r50", "e1", "e2", "outskirts", "colour", "ln amplitude"].map(String::from).to_vec()
    }

    fn measure(&self, _simulation: &Simulation, draws: &Latent) -> Result<Vec<Vec<f64>>> {
        let (_, channels, size, _) = draws.image.size4()?;
        let (channels, plane, reference) = (channels as usize, (size * size) as usize, self.scene.reference);
        let values = to_vec(&flux(&self.scene, draws)?)?;
        let amplitudes = to_vec(&draws.ln_amplitude)?;
        let mut rows = vec![Vec::new(); 8];
        for (image, &amplitude) in values.chunks(channels * plane).zip(&amplitudes) {
            let [flux, _, peak, r50, outskirts, colour] =
                statistics::measure(image, channels, size as usize, reference);
            let band = &image[reference * plane..(reference + 1) * plane];
            let [e1, e2] = statistics::ellipticity(band, size as usize);
            let row = [flux, peak, r50, e1, e2, outskirts, colour, f64::from(amplitude)];
            rows.iter_mut().zip(row).for_each(|(values, value)| values.push(value));
        }
        Ok(rows)
    }

    /// S(f / q). The data see a f / q, and so do products: q, the total of an image of the prior, can be told by neither. Draws of a
    /// network have a q that scatters by several per cent, those of a posterior are held to one.
    fn images(&self, draws: &Latent) -> Result<Tensor> {
        self.scene.stretch.forward(&unit(&self.scene, &draws.image)?)
    }

    fn strata(&self) -> &[f64] {
        &self.config.strata
    }

    fn device(&self) -> Device {
        self.scene.device
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SamplerConfig;
    use crate::sampler::{Problem as Sampled, build, build_for, run};
    use tch::Kind;

    /// An image of the prior and the same with another total are one galaxy, and compared alike.
    #[test]
    fn totals_of_images_do_not_count() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");
        let config: NetworkConfig = toml::from_str(&format!("prior = {path:?}")).unwrap();
        let network = Network::new("network", &config, 1, Device::Cpu).unwrap();
        let stretch = network.scene.stretch;
        let image = network.scene.typical.shallow_clone();
        let brighter = stretch.forward(&(stretch.inverse(&image).unwrap() * 1.1)).unwrap();
        let apart = |left: &Tensor, right: &Tensor| (left - right).abs().max().double_value(&[]);
        assert!(apart(&image, &brighter) > 0.05);
        let latent = |image: Tensor| Latent {
            image,
            ln_amplitude: Tensor::zeros([1, 1], (Kind::Float, Device::Cpu)),
            sky: Tensor::zeros([1, 3], (Kind::Float, Device::Cpu)),
        };
        let compared = |image: &Tensor| network.images(&latent(image.shallow_clone())).unwrap();
        // f32 arithmetic.
        assert!(apart(&compared(&image), &compared(&brighter)) < 1e-4);
        let other = compared(&(image.flip([3]) * 1.1));
        assert!(apart(&compared(&image), &other) > 0.01);
    }

    /// What is certified is what runs: the sampler that a calibration builds draws the bits of the one of `unseeing run`.
    #[test]
    fn the_sampler_is_that_of_a_run() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");
        let config: NetworkConfig = toml::from_str(&format!("prior = {path:?}")).unwrap();
        let network = Network::new("network", &config, 1, Device::Cpu).unwrap();
        let prior = Prior::read(path.as_ref(), Device::Cpu).unwrap();
        assert!(prior.spread.is_some()); // Else there is nothing to forget.
        let Setting { card, covariance, spread, .. } = network.setting.as_ref();
        let covariance = covariance.to_device(Device::Cpu).unwrap();
        let short = SamplerConfig { steps: 3, ..SamplerConfig::default() };
        let certified = build_for(&short, card, covariance, spread.as_ref()).unwrap();
        let runs = build(&short, &prior).unwrap();
        let draw = |sampler: &dyn Sampler| {
            let denoiser = prior.denoiser.as_ref();
            let noise = BlockNoise::new(1, "same", 0, 2);
            let problem = Sampled { denoiser, likelihood: None, noise, device: Device::Cpu };
            to_vec(&run(sampler, &problem).unwrap().image).unwrap()
        };
        assert_eq!(draw(certified.as_ref()), draw(runs.as_ref()));
    }

    /// The truth is measured at its own redshift, each sample at one about the catalogue's, whatever block it is in.
    #[test]
    fn redshifts_of_samples_scatter_about_the_catalogues() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");
        let text =
            format!("prior = {path:?}\ntruths = \"ancestral\"\nredshift_error = 0.1\nsignal_to_noise = [300, 301]");
        let config: NetworkConfig = toml::from_str(&text).unwrap();
        let network = Network::new("network", &config, 1, Device::Cpu).unwrap();
        let simulation = network.simulate(1, None).unwrap();
        let misfit = |likelihood: &dyn Likelihood, latent: &Latent| {
            let linear = likelihood.linearize(latent).unwrap();
            let squares = (likelihood.data() - linear.prediction()).square() / linear.variance();
            let sums = squares.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double);
            Vec::<f64>::try_from(sums).unwrap()
        };
        let truth = misfit(simulation.likelihood.as_ref(), &simulation.truth)[0];
        // Some thousand pixels, those at the field's edge with less weight.
        assert!(truth > 0.6 && truth < 1.05, "{truth}");
        let again = |count: i64| Latent {
            image: simulation.truth.image.repeat([count, 1, 1, 1]),
            ln_amplitude: simulation.truth.ln_amplitude.repeat([count, 1]),
            sky: simulation.truth.sky.repeat([count, 1]),
        };
        let of_samples = simulation.of_samples.as_ref().unwrap();
        let all = misfit(of_samples(0, 6).unwrap().as_ref(), &again(6));
        assert_eq!(all[4..], misfit(of_samples(4, 2).unwrap().as_ref(), &again(2))[..]);
        // At another redshift the truth has another size and does not fit: where the field is smaller, its edge hides that.
        assert!(all.iter().filter(|&&one| one > 1.4 * truth).count() >= 2, "{truth} {all:?}");
        assert!(all.iter().zip(&all[1..]).all(|(left, right)| left != right));
    }
}
