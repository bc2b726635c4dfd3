//! From the config's `[sampler]` and a prior to a sampler.

use super::conjugate_gradient::Stop;
use super::perturb_map::{PerturbMap, Settings};
use super::{Dps, DpsPaper, Sampler};
use crate::config::SamplerConfig;
use crate::prior::card::{Card, Normalisation};
use crate::prior::{Covariance, Prior, Spread};
use crate::{Error, Result};

/// t_max in units of the standard deviation of the prior's strongest mode, unless the config says otherwise.
const T_MAX_FACTOR: f64 = 3.0;
/// t_min in the prior's stretched space, unless the config says otherwise.
pub const T_MIN: f64 = 0.02;

/// The methods that `sampler.method` can name.
pub const METHODS: [&str; 3] = ["perturb-map", "dps", "dps-paper"];

/// The sampler that the config asks for, prepared for `prior` on its device.
pub fn build(config: &SamplerConfig, prior: &Prior) -> Result<Box<dyn Sampler>> {
    let spread = match &prior.spread {
        Some(spread) => Some(spread.to_device(prior.covariance.mean.device())?),
        None => None,
    };
    build_with(config, &prior.card, prior.covariance.to_device(prior.covariance.mean.device())?, spread)
}

/// The same for a prior with this card and covariance.
pub fn build_for(config: &SamplerConfig, card: &Card, covariance: Covariance) -> Result<Box<dyn Sampler>> {
    build_with(config, card, covariance, None)
}

fn build_with(
    config: &SamplerConfig,
    card: &Card,
    covariance: Covariance,
    spread: Option<Spread>,
) -> Result<Box<dyn Sampler>> {
    let levels = settings(config, card, &covariance)?;
    match config.method.as_str() {
        "perturb-map" => Ok(Box::new(PerturbMap::new(covariance, spread, levels)?)),
        "dps" => Ok(Box::new(Dps::new(config.steps, levels.t_max, levels.t_min, config.guidance)?)),
        "dps-paper" => {
            // The published prior's images lie between -1 and 1; those of other priors have no bounds.
            let clip = (card.normalisation == Normalisation::BandPeak).then_some(1.0);
            Ok(Box::new(DpsPaper::new(config.steps, config.guidance, clip)?))
        }
        other => {
            Err(Error::usage(format!("sampler.method = \"{other}\": expected one of \"{}\"", METHODS.join("\", \""))))
        }
    }
}

/// The noise levels must lie within what the network was trained for.
fn settings(config: &SamplerConfig, card: &Card, covariance: &Covariance) -> Result<Settings> {
    let t_max = config.t_max.unwrap_or((T_MAX_FACTOR * covariance.largest_sd()).min(card.sigma_max));
    let t_min = config.t_min.unwrap_or(T_MIN.max(card.sigma_min));
    for (key, value) in [("t_max", t_max), ("t_min", t_min)] {
        // The levels go through decimal text and through powers: allow for rounding.
        if value < card.sigma_min * 0.999 || value > card.sigma_max * 1.001 {
            return Err(Error::usage(format!(
                "sampler.{key} = {value} is outside the noise levels that the prior `{}` was trained for ({} to {})",
                card.name, card.sigma_min, card.sigma_max
            )));
        }
    }
    Ok(Settings {
        steps: config.steps,
        t_max,
        t_min,
        relinearizations: config.relinearizations,
        stop: Stop { tolerance: config.cg_tolerance, iterations: config.cg_iterations },
    })
}
