//! Whether a machine repeats its arithmetic: the assumption under "the same bytes". One block of samples is drawn under
//! several histories, and a digest of every bit of the draws is taken.

use std::str::FromStr;

use tch::Device;

use crate::config::SamplerConfig;
use crate::evaluate::mock::{Misspecified, Observing, Scene, observe};
use crate::evaluate::standin;
use crate::forward::Likelihood;
use crate::prior::card::Normalisation;
use crate::prior::{Denoiser, Prior};
use crate::random::BlockNoise;
use crate::sampler::{self, Problem, Sampler, SavedState, State, to_vec};
use crate::{Error, Result};

/// Steps of the test's chain, as many as a real run has.
pub const STEPS: u32 = SamplerConfig::STEPS;
/// Samples in the block.
pub const BLOCK: u32 = 8;

/// A middling observation.
const OBSERVING: Observing = Observing {
    draws: 1,
    redshift: [0.2, 0.3],
    signal_to_noise: [50.0, 60.0],
    ln_amplitude_sd: 0.3,
    sky_sd: 0.2,
    misspecified: Misspecified::NOTHING,
};

/// What is repeated: a sampler on a problem.
pub struct Subject {
    /// What it is, for the report.
    pub name: String,
    pub denoiser: Box<dyn Denoiser>,
    pub sampler: Box<dyn Sampler>,
    pub likelihood: Option<Box<dyn Likelihood>>,
    pub device: Device,
}

impl Subject {
    /// The stand-in network and chain: random weights, real operations.
    pub fn standin(device: Device) -> Result<Subject> {
        Ok(Subject {
            name: "a small network with random weights".into(),
            denoiser: Box::new(standin::Network::new(device)?),
            sampler: Box::new(standin::Chain::new(STEPS, device)?),
            likelihood: None,
            device,
        })
    }

    /// A prior with the default sampler on a simulated observation of its mean galaxy: all that a run does to one block.
    pub fn of_prior(prior: Prior, device: Device) -> Result<Subject> {
        let config = SamplerConfig { steps: STEPS, ..SamplerConfig::default() };
        let sampler = sampler::build(&config, &prior)?;
        // Without one amplitude the chain runs without data.
        let likelihood: Option<Box<dyn Likelihood>> = match prior.card.normalisation {
            Normalisation::ReferenceBand { band } => {
                let [channels, rows, columns] = prior.shape();
                let truth = prior.covariance.mean.f_view([1, channels, rows, columns])?;
                let scene = Scene {
                    stretch: prior.card.stretch,
                    reference: band,
                    pixel_kpc: prior.card.pixel_kpc,
                    typical: truth.shallow_clone(),
                    device,
                    seed: 1,
                };
                Some(Box::new(observe(&scene, &truth, 0, &OBSERVING)?.likelihood))
            }
            Normalisation::BandPeak => None,
        };
        let name = format!("prior {} ({})", prior.card.name, &prior.digest[..8]);
        Ok(Subject { name, denoiser: prior.denoiser, sampler, likelihood, device })
    }

    fn problem(&self, count: u32) -> Problem<'_> {
        Problem {
            denoiser: self.denoiser.as_ref(),
            likelihood: self.likelihood.as_deref(),
            noise: BlockNoise::new(1, "determinism", 0, count),
            device: self.device,
        }
    }
}

/// What happened to the process or the chain before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// From the first step to the last.
    Straight,
    /// Saved, dropped and loaded after each step.
    Interrupted,
    /// Other batch sizes were run in the process before, which may change what libraries remember.
    OtherShapes,
}

impl History {
    pub const ALL: [History; 3] = [History::Straight, History::Interrupted, History::OtherShapes];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            History::Straight => "straight",
            History::Interrupted => "interrupted",
            History::OtherShapes => "other-shapes",
        }
    }
}

impl FromStr for History {
    type Err = Error;

    fn from_str(text: &str) -> Result<History> {
        let found = History::ALL.into_iter().find(|history| history.name() == text);
        found.ok_or_else(|| Error::usage(format!("no such history: `{text}`")))
    }
}

/// Draws one block under `history` and returns the digest of the draws' bits.
pub fn digest(subject: &Subject, history: History) -> Result<String> {
    if history == History::OtherShapes {
        for count in [1, 5, BLOCK + 1] {
            let problem = subject.problem(count);
            let mut state = subject.sampler.start(&problem)?;
            subject.sampler.step(&problem, &mut state)?;
        }
    }
    let problem = subject.problem(BLOCK);
    let mut state = subject.sampler.start(&problem)?;
    while state.step < subject.sampler.steps() {
        subject.sampler.step(&problem, &mut state)?;
        if history == History::Interrupted {
            state = reload(state, subject.device)?;
        }
    }
    finished(subject, state)
}

/// Runs the first half of the block's steps and returns the state, for another process to go on from.
pub fn first_half(subject: &Subject) -> Result<SavedState> {
    let problem = subject.problem(BLOCK);
    let mut state = subject.sampler.start(&problem)?;
    while state.step < subject.sampler.steps() / 2 {
        subject.sampler.step(&problem, &mut state)?;
    }
    state.save()
}

/// Runs the rest of the block from a saved state and returns the digest of the draws' bits.
pub fn second_half(subject: &Subject, saved: &SavedState) -> Result<String> {
    let problem = subject.problem(BLOCK);
    let mut state = State::load(saved, subject.device)?;
    while state.step < subject.sampler.steps() {
        subject.sampler.step(&problem, &mut state)?;
    }
    finished(subject, state)
}

/// Digests of single operations, by name.
pub fn operations(device: Device) -> Result<Vec<(String, String)>> {
    let outputs = standin::operations(i64::from(BLOCK), device)?;
    outputs.iter().map(|(name, tensor)| Ok((name.to_string(), hash(&[to_vec(tensor)?])))).collect()
}

/// Through the form that the journal holds.
fn reload(state: State, device: Device) -> Result<State> {
    let bytes = postcard::to_stdvec(&state.save()?).map_err(|error| Error::internal(format!("saving: {error}")))?;
    drop(state);
    let saved = postcard::from_bytes(&bytes).map_err(|error| Error::internal(format!("loading: {error}")))?;
    State::load(&saved, device)
}

fn finished(subject: &Subject, state: State) -> Result<String> {
    let problem = subject.problem(BLOCK);
    let draws = subject.sampler.finish(&problem, state)?;
    let parts = [to_vec(&draws.image)?, to_vec(&draws.ln_amplitude)?, to_vec(&draws.sky)?];
    if let Some(bad) = parts.iter().flatten().find(|value| !value.is_finite()) {
        return Err(Error::internal(format!("the test's chain reached {bad}: its digest would show nothing")));
    }
    Ok(hash(&parts))
}

fn hash(parts: &[Vec<f32>]) -> String {
    let mut hasher = blake3::Hasher::new();
    for value in parts.iter().flatten() {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceKind;
    use crate::device::Compute;

    #[test]
    fn histories_do_not_move_bits_and_the_digest_sees_one_bit() {
        Compute::open(DeviceKind::Cpu, 0, 1, 1).unwrap();
        let subject = Subject::standin(Device::Cpu).unwrap();
        let want = digest(&subject, History::Straight).unwrap();
        for history in History::ALL {
            assert_eq!(digest(&subject, history).unwrap(), want, "{history:?}");
        }
        let saved = first_half(&subject).unwrap();
        assert_eq!(second_half(&subject, &saved).unwrap(), want);
        let mut touched = saved.clone();
        let value = &mut touched.tensors[0].2[7];
        *value = f32::from_bits(value.to_bits() ^ 1 << 16);
        assert_ne!(second_half(&subject, &touched).unwrap(), want);
    }
}
