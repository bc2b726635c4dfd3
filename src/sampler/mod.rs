//! Posterior samplers, one file per method. A sampler sees a denoiser, a likelihood and noise by key; it does no I/O and
//! knows no MPI, no catalogue, no device.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::forward::{Latent, Likelihood};
use crate::prior::Denoiser;
use crate::random::BlockNoise;
use crate::{Error, Result};

mod amplitude;
pub mod build;
mod chain;
mod condition;
pub mod conjugate_gradient;
mod curvature;
pub mod daps;
pub mod diffpir;
pub mod dps;
pub mod dps_paper;
mod gauss_newton;
mod guidance;
mod inflation;
mod local_inflation;
pub mod mmps;
pub mod perturb_map;
pub mod perturb_map_gradient;
pub mod perturb_map_smc;
pub mod pigdm;
mod preconditioner;
pub mod split_gibbs;
pub mod stages;
mod tangent;
#[cfg(test)]
mod toy;

pub use build::{build, build_for};
pub use daps::Daps;
pub use diffpir::DiffPir;
pub use dps::Dps;
pub use dps_paper::DpsPaper;
pub use mmps::Mmps;
pub use perturb_map::PerturbMap;
pub use perturb_map_gradient::PerturbMapGradient;
pub use perturb_map_smc::PerturbMapSmc;
pub use pigdm::Pigdm;
pub use split_gibbs::SplitGibbs;

/// What a sampler works on: one block of samples of one object.
pub struct Problem<'a> {
    pub denoiser: &'a dyn Denoiser,
    /// `None`: no data, the chain then draws from the prior (a self-consistency test).
    pub likelihood: Option<&'a dyn Likelihood>,
    pub noise: BlockNoise,
    pub device: Device,
}

/// A sampler's whole memory between two steps: saved after any step, it continues to the same bytes.
#[derive(Debug)]
pub struct State {
    /// Steps done.
    pub step: u32,
    /// Named tensors, in an order that the method fixes.
    pub tensors: Vec<(String, Tensor)>,
}

/// One method of drawing posterior samples.
pub trait Sampler: Send {
    /// The method's name, as in the config.
    fn name(&self) -> &'static str;
    /// The number of steps from `start` to `finish`.
    fn steps(&self) -> u32;
    /// Backward passes, at most, through each network evaluation that is made with a gradient: what the method costs.
    fn backward_passes(&self) -> u32 {
        1
    }
    /// The state before the first step.
    fn start(&self, problem: &Problem) -> Result<State>;
    /// One step.
    fn step(&self, problem: &Problem, state: &mut State) -> Result<()>;
    /// How many draws those of a block are worth, at the end of its steps, where the method weighs them; `None` where all count.
    fn effective_draws(&self, _state: &State) -> Result<Option<f64>> {
        Ok(None)
    }
    /// The largest residual that a solve of each draw's steps was left with, over what would have ended the solve, `[B]`: above 1
    /// where the limit of iterations ended it instead. `None` where a method does not tell.
    fn solve_residual(&self, state: &State) -> Result<Option<Vec<f32>>> {
        state.get(chain::SOLVE_RESIDUAL).ok().map(to_vec).transpose()
    }
    /// The draws, once all steps are done.
    fn finish(&self, problem: &Problem, state: State) -> Result<Latent>;
}

/// Runs a sampler from its start to its end.
pub fn run(sampler: &dyn Sampler, problem: &Problem) -> Result<Latent> {
    let mut state = sampler.start(problem)?;
    while state.step < sampler.steps() {
        sampler.step(problem, &mut state)?;
    }
    sampler.finish(problem, state)
}

/// A state as plain numbers, for the journal and for the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedState {
    pub step: u32,
    /// Name, shape, values.
    pub tensors: Vec<(String, Vec<i64>, Vec<f32>)>,
}

impl State {
    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let found = self.tensors.iter().find(|(key, _)| key == name);
        found.map(|(_, tensor)| tensor).ok_or_else(|| Error::internal(format!("sampler state has no tensor `{name}`")))
    }

    /// Copies the state out of the device.
    pub fn save(&self) -> Result<SavedState> {
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            tensors.push((name.clone(), tensor.size(), to_vec(tensor)?));
        }
        Ok(SavedState { step: self.step, tensors })
    }

    /// Puts a saved state back onto `device`.
    pub fn load(saved: &SavedState, device: Device) -> Result<Self> {
        let mut tensors = Vec::with_capacity(saved.tensors.len());
        for (name, shape, values) in &saved.tensors {
            let tensor = Tensor::f_from_slice(values)?.f_view(shape.as_slice())?.f_to_device(device)?;
            tensors.push((name.clone(), tensor));
        }
        Ok(State { step: saved.step, tensors })
    }
}

/// The values of an f32 tensor, row by row.
pub fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::<f32>::try_from(tensor.f_to_device(Device::Cpu)?.f_contiguous()?.f_view(-1)?)?)
}
