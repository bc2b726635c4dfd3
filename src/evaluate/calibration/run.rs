//! The work of a calibration run: one task is one simulation of one problem for one sampler. Tasks are shared round-robin
//! between ranks, and each finished one is a file of its own, published whole, under a name that holds a digest of all that
//! its numbers depend on, the program included. So a run that is interrupted, or that is given more samplers or simulations, goes on from what
//! there is, and its numbers do not depend on the number of ranks.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::config::{CalibrationConfig, EXACT, PRIOR, SamplerCase};
use super::problems::{self, Family, NetworkConfig, ProblemCase, Setting, Simulation};
use super::record::{Cost, Numbers, Record, measure};
use crate::config::SamplerConfig;
pub use crate::evaluate::Outcome;
use crate::forward::{Latent, Likelihood};
use crate::io::{digest, publish};
use crate::random::{BlockNoise, Purpose};
use crate::sampler::{self, Problem, Sampler, build_for};
use crate::{Error, Result};

/// Problems, samplers and what is to be done.
pub struct Plan {
    config: CalibrationConfig,
    pub problems: Vec<ProblemCase>,
    pub samplers: Vec<SamplerCase>,
    tasks: Vec<Task>,
    /// The sampler that was prepared last: consecutive tasks share it where they share a prior.
    prepared: RefCell<Option<Prepared>>,
}

/// One simulation for one sampler.
struct Task {
    problem: usize,
    sampler: usize,
    index: u32,
    record: PathBuf,
}

struct Prepared {
    sampler: usize,
    setting: Rc<Setting>,
    built: Rc<dyn Sampler>,
}

impl Plan {
    /// `program` is the digest of the program: records of another one are not taken for this one's.
    pub fn new(config: &CalibrationConfig, device: Device, program: &str) -> Result<Plan> {
        let samplers = config.cases();
        let mut cases = Vec::new();
        let mut tasks = Vec::new();
        for entry in &config.problems {
            let prior = entry.network.as_ref().map(|network| digest::file(&network.prior)).transpose()?;
            // A prior is what its bytes are, wherever they lie.
            let reference = entry.network.as_ref().and_then(|network| network.reference.as_deref());
            let reference = reference.map(digest::file).transpose()?;
            let network = entry.network.clone().map(|network| NetworkConfig {
                prior: PathBuf::new(),
                reference: None,
                ..network
            });
            for case in problems::build(config, entry, device)? {
                let name = case.problem.name().to_string();
                for (sampler, chosen) in samplers.iter().enumerate() {
                    let no_exact = case.problem.family() == Family::Network && chosen.sampler.method == EXACT;
                    if !chosen.runs_on(&case.entry) || no_exact {
                        continue;
                    }
                    let parts = serde_json::json!({
                        "program": program,
                        "seed": config.seed,
                        "block": config.block,
                        "draws": case.draws,
                        "slices": case.slices,
                        "kind": (
                            &entry.gaussian_field,
                            &entry.galaxy_mixture,
                            &entry.stretched_field,
                            &entry.mixture_25,
                            &network
                        ),
                        "prior": prior,
                        "reference": reference,
                        "sampler": chosen.sampler,
                        "inflate": chosen.inflate,
                    });
                    let key = digest::bytes(parts.to_string().as_bytes());
                    let folder = config.out.join("records").join(&name).join(format!("{}-{}", chosen.name, &key[..12]));
                    tasks.extend((0..case.simulations).map(|index| Task {
                        problem: cases.len(),
                        sampler,
                        index,
                        record: folder.join(format!("{index:06}.json")),
                    }));
                }
                cases.push(case);
            }
        }
        Ok(Plan { config: config.clone(), problems: cases, samplers, tasks, prepared: RefCell::new(None) })
    }

    /// The number of tasks.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Does this rank's share of the tasks that have no record yet. `told` hears of each one.
    pub fn work(&self, (rank, ranks): (usize, usize), stop: &AtomicBool, told: &dyn Fn(usize)) -> Result<Outcome> {
        for (number, task) in self.tasks.iter().enumerate().filter(|(number, _)| number % ranks == rank) {
            if stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Stopped);
            }
            if read(&task.record)?.is_none() {
                let record = self.simulate(task)?;
                let folder = task.record.parent().unwrap_or(Path::new("."));
                std::fs::create_dir_all(folder)
                    .map_err(|error| Error::file(folder, format!("cannot create the folder: {error}")))?;
                let text = serde_json::to_string(&record).map_err(|error| Error::internal(error.to_string()))?;
                publish::publish_bytes(&task.record, text.as_bytes())?;
            }
            told(number);
        }
        Ok(Outcome::Finished)
    }

    /// The records of one sampler on one problem, in the order of the simulations. All must be there.
    pub fn records(&self, problem: usize, sampler: usize) -> Result<Vec<Record>> {
        let mine = self.tasks.iter().filter(|task| task.problem == problem && task.sampler == sampler);
        mine.map(|task| {
            read(&task.record)?.ok_or_else(|| Error::file(&task.record, "is missing: run the command again"))
        })
        .collect()
    }

    /// One simulation. What the sampler cannot do becomes a record without numbers; what the config asks wrongly is an
    /// error.
    fn simulate(&self, task: &Task) -> Result<Record> {
        let (case, chosen) = (&self.problems[task.problem], &self.samplers[task.sampler]);
        let problem = case.problem.as_ref();
        let built = self.sampler(task, problem.family())?;
        let simulation = problem.simulate(task.index, built.as_deref())?;
        let object = format!("{}/{}/{}", problem.name(), chosen.name, task.index);
        let denoiser = &simulation.setting.denoiser;
        let (forwards, gradients, began) = (denoiser.forwards(), denoiser.gradients(), Instant::now());
        let drawn = self.draw(task, &simulation, built.as_deref(), &object);
        let each = |count: u64| count as f64 / f64::from(case.draws);
        let passes = built.as_ref().map_or(1, |sampler| sampler.backward_passes());
        let cost = Cost {
            forwards: each(denoiser.forwards() - forwards),
            gradients: each(denoiser.gradients() - gradients) * f64::from(passes),
            seconds: began.elapsed().as_secs_f64() / f64::from(case.draws),
        };
        let measured: Result<Numbers> = drawn.and_then(|draws| {
            let draws = inflated(draws, chosen.inflate)?;
            measure(problem, &simulation, &draws, case.slices, (self.config.seed, &object))
        });
        Ok(match measured {
            Ok(numbers) => Record { failure: None, numbers: Some(numbers), cost },
            Err(error) => Record { failure: Some(error.to_string()), numbers: None, cost },
        })
    }

    /// The method, prepared for the simulation's prior; `None` where none is needed.
    fn sampler(&self, task: &Task, family: Family) -> Result<Option<Rc<dyn Sampler>>> {
        let chosen = &self.samplers[task.sampler];
        let mut config = chosen.sampler.clone();
        if config.method == EXACT || config.method == PRIOR {
            if family != Family::Network {
                return Ok(None);
            }
            // The prior of a network is what the default sampler's chain gives without data.
            config.method = SamplerConfig::default().method;
        }
        let setting = self.problems[task.problem].problem.setting(task.index)?;
        if let Some(prepared) = self.prepared.borrow().as_ref()
            && prepared.sampler == task.sampler
            && Rc::ptr_eq(&prepared.setting, &setting)
        {
            return Ok(Some(prepared.built.clone()));
        }
        let covariance = setting.covariance.to_device(self.problems[task.problem].problem.device())?;
        let built: Rc<dyn Sampler> = Rc::from(build_for(&config, &setting.card, covariance, setting.spread.as_ref())?);
        let prepared = Prepared { sampler: task.sampler, setting, built: built.clone() };
        self.prepared.replace(Some(prepared));
        Ok(Some(built))
    }

    fn draw(
        &self,
        task: &Task,
        simulation: &Simulation,
        sampler: Option<&dyn Sampler>,
        object: &str,
    ) -> Result<Latent> {
        let (case, chosen) = (&self.problems[task.problem], &self.samplers[task.sampler]);
        let count = case.draws;
        let blocks = |draw: &dyn Fn(BlockNoise, &dyn Likelihood) -> Result<Latent>| -> Result<Latent> {
            let mut parts = Vec::new();
            for first in (0..count).step_by(self.config.block as usize) {
                let size = self.config.block.min(count - first);
                let own = simulation.of_samples.as_ref().map(|of_samples| of_samples(first, size)).transpose()?;
                parts.push(draw(
                    BlockNoise::new(self.config.seed, object, first, size),
                    own.as_deref().unwrap_or(simulation.likelihood.as_ref()),
                )?);
            }
            joined(&parts)
        };
        match (chosen.sampler.method.as_str(), sampler) {
            (EXACT, _) => {
                let exact = simulation.exact.as_ref().ok_or_else(|| Error::internal("no exact posterior"))?;
                let draws = exact.draw(self.config.seed, object, count)?;
                let mut shape = simulation.truth.image.size();
                shape[0] = i64::from(count);
                // Exact posteriors are those of images: amplitude and sky are known there, and so the truth's.
                let known = |values: &Tensor| values.f_expand([i64::from(count), values.size()[1]], false);
                Ok(Latent {
                    image: draws.f_view(shape.as_slice())?.f_to_kind(Kind::Float)?,
                    ln_amplitude: known(&simulation.truth.ln_amplitude)?,
                    sky: known(&simulation.truth.sky)?,
                })
            }
            (PRIOR, _) => blocks(&|noise, likelihood| {
                let image = case.problem.prior_draws(task.index, sampler, &noise)?;
                with_prior_nuisance(image, likelihood, &noise)
            }),
            (_, Some(sampler)) => blocks(&|noise, likelihood| {
                let device = case.problem.device();
                let denoiser = &simulation.setting.denoiser;
                let drawn = sampler::run(sampler, &Problem { denoiser, likelihood: Some(likelihood), noise, device })?;
                // A sampler may leave a gradient graph behind.
                Ok(Latent {
                    image: drawn.image.f_detach()?,
                    ln_amplitude: drawn.ln_amplitude.f_detach()?,
                    sky: drawn.sky.f_detach()?,
                })
            }),
            (method, None) => Err(Error::internal(format!("`{method}` was not prepared"))),
        }
    }
}

fn read(path: &Path) -> Result<Option<Record>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::file(path, format!("is not a record ({error}): remove it and run again"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path, format!("cannot read: {error}"))),
    }
}

fn joined(parts: &[Latent]) -> Result<Latent> {
    let join = |part: &dyn Fn(&Latent) -> Tensor| Tensor::f_cat(&parts.iter().map(part).collect::<Vec<_>>(), 0);
    Ok(Latent {
        image: join(&|part| part.image.shallow_clone())?,
        ln_amplitude: join(&|part| part.ln_amplitude.shallow_clone())?,
        sky: join(&|part| part.sky.shallow_clone())?,
    })
}

/// Images of the prior with amplitudes and skies of theirs.
fn with_prior_nuisance(image: Tensor, likelihood: &dyn Likelihood, noise: &BlockNoise) -> Result<Latent> {
    let nuisance = likelihood.nuisance();
    let draw =
        |purpose, sd: &Tensor| -> Result<Tensor> { Ok(noise.normal(purpose, 0, &sd.size(), sd.device())?.f_mul(sd)?) };
    let ln_amplitude =
        draw(Purpose::PerturbAmplitude, &nuisance.ln_amplitude_sd)?.f_add(&nuisance.ln_amplitude_mean)?;
    Ok(Latent { image, ln_amplitude, sky: draw(Purpose::PerturbSky, &nuisance.sky_sd)? })
}

/// Deviations from the draws' mean times the square root of `factor`: a negative control of spread.
fn inflated(draws: Latent, factor: f64) -> Result<Latent> {
    if factor == 1.0 {
        return Ok(draws);
    }
    let stretch = |values: &Tensor| -> Result<Tensor> {
        let mean = values.f_mean_dim([0i64].as_slice(), true, Kind::Float)?;
        Ok(values.f_sub(&mean)?.f_mul_scalar(factor.sqrt())?.f_add(&mean)?)
    };
    Ok(Latent { image: stretch(&draws.image)?, ln_amplitude: stretch(&draws.ln_amplitude)?, sky: stretch(&draws.sky)? })
}
