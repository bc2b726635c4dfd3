//! From the config's `[sampler]` and a prior to a sampler.

use super::conjugate_gradient::Stop;
use super::perturb_map::{PerturbMap, Settings};
use super::stages::can_sweep;
use super::{Daps, DiffPir, Dps, DpsPaper, Mmps, PerturbMapGradient, PerturbMapSmc, Pigdm, Sampler, SplitGibbs};
use super::{daps, diffpir, mmps, split_gibbs};
use crate::config::SamplerConfig;
use crate::forward::Stretch;
use crate::prior::card::{Card, Normalisation};
use crate::prior::{Covariance, Prior, Spread};
use crate::{Error, Result};

/// t_max in units of the standard deviation of the prior's strongest mode, unless the config says otherwise.
const T_MAX_FACTOR: f64 = 3.0;
/// t_min in the prior's stretched space, unless the config says otherwise. The last step goes from here to the most likely
/// galaxy, not to a draw, so t_min must be well below the smallest standard deviation of a posterior: with 0.02 draws at S/N 500
/// fitted their data better than the truths, ln p(y|x) by 0.4 of its deviations, and ellipticities lay 20 % too close.
const T_MIN: f64 = 0.005;
/// rho where `split-gibbs` holds it, unless the config says otherwise. With less, draws would lag behind.
const RHO_HELD: f64 = 0.02;

/// rho of the first round of `split-gibbs` where the stretch is exponential, unless the config says otherwise.
const RHO_MAX_ASINH: f64 = 1.0;

/// The part of the steps that are sweeps of `perturb-map`, and how many at most, unless the config says otherwise. With 8
/// the variances of fluxes of a network prior's posteriors at S/N 0 to 21 were 0.96 +- 0.04 of what they should be and those of the
/// outskirts 1.0 +- 0.3, with 6 1.12 and 1.5, with none 1.24 and 2.7 (21 simulations of 64 draws, against the exact posterior; of 32
/// steps, with four more levels above the sweeps than now).
const SWEEPS_OF_STEPS: [u32; 2] = [2, 7];
const MOST_SWEEPS: u32 = 12;

/// The methods that `sampler.method` can name.
pub const METHODS: [&str; 10] = [
    "perturb-map",
    "perturb-map-gradient",
    "perturb-map-smc",
    "dps",
    "dps-paper",
    "pigdm",
    "mmps",
    "diffpir",
    "daps",
    "split-gibbs",
];

/// The sampler that the config asks for, prepared for `prior` on its device.
pub fn build(config: &SamplerConfig, prior: &Prior) -> Result<Box<dyn Sampler>> {
    let covariance = prior.covariance.to_device(prior.covariance.mean.device())?;
    build_for(config, &prior.card, covariance, prior.spread.as_ref())
}

/// The same for a prior with this card, covariance and table of its uncertainty, where it has one.
pub fn build_for(
    config: &SamplerConfig,
    card: &Card,
    covariance: Covariance,
    spread: Option<&Spread>,
) -> Result<Box<dyn Sampler>> {
    let spread = spread.map(|spread| spread.to_device(covariance.mean.device())).transpose()?;
    let levels = settings(config, card, &covariance)?;
    let plain = Settings { sweeps: 0, ..levels };
    match config.method.as_str() {
        "perturb-map" => {
            let sweeps = sweeps(config, levels, spread.is_some());
            Ok(Box::new(PerturbMap::new(covariance, spread, Settings { sweeps, ..levels })?))
        }
        "perturb-map-gradient" => Ok(Box::new(PerturbMapGradient::new(PerturbMap::new(covariance, spread, plain)?))),
        "perturb-map-smc" => Ok(Box::new(PerturbMapSmc::new(PerturbMap::new(covariance, spread, plain)?))),
        "dps" => Ok(Box::new(Dps::new(config.steps, levels.t_max, levels.t_min, config.guidance)?)),
        "dps-paper" => {
            // The published prior's images lie between -1 and 1; those of other priors have no bounds.
            let clip = (card.normalisation == Normalisation::BandPeak).then_some(1.0);
            Ok(Box::new(DpsPaper::new(config.steps, config.guidance, clip)?))
        }
        "pigdm" => Ok(Box::new(Pigdm::new(covariance, config.steps, [levels.t_max, levels.t_min], levels.stop)?)),
        "mmps" => {
            let iterations = config.mmps_iterations.unwrap_or(mmps::ITERATIONS);
            Ok(Box::new(Mmps::new(covariance, config.steps, [levels.t_max, levels.t_min], iterations, levels.stop)?))
        }
        "diffpir" => {
            let Settings { steps, t_max, t_min, relinearizations, stop, .. } = levels;
            let lambda = config.diffpir_lambda.unwrap_or(diffpir::LAMBDA);
            let zeta = config.diffpir_zeta.unwrap_or(diffpir::ZETA);
            let settings = diffpir::Settings { steps, t_max, t_min, lambda, zeta, relinearizations, stop };
            Ok(Box::new(DiffPir::new(covariance, settings)?))
        }
        "daps" => {
            let settings = daps::Settings {
                steps: config.steps,
                ode_steps: config.daps_ode_steps.unwrap_or(daps::ODE_STEPS),
                t_max: levels.t_max,
                t_min: levels.t_min,
                langevin_steps: config.daps_langevin_steps.unwrap_or(daps::LANGEVIN_STEPS),
                langevin_rate: config.daps_langevin_rate.unwrap_or(daps::LANGEVIN_RATE),
                stop: levels.stop,
            };
            Ok(Box::new(Daps::new(covariance, settings)?))
        }
        "split-gibbs" => Ok(Box::new(SplitGibbs::new(covariance, gibbs_settings(config, card, levels)?)?)),
        other => {
            Err(Error::usage(format!("sampler.method = \"{other}\": expected one of \"{}\"", METHODS.join("\", \""))))
        }
    }
}

/// Sweeps are for networks: a prior with a table of its network's uncertainty has them, where its noise levels have a place for them.
/// Of analytic priors p(x0 | x_t) may be far from a Gaussian also where sweeps are made.
fn sweeps(config: &SamplerConfig, levels: Settings, measured: bool) -> u32 {
    let [part, whole] = SWEEPS_OF_STEPS;
    let usual = (config.steps * part / whole).min(MOST_SWEEPS);
    let usual = if measured && can_sweep(levels.t_max, levels.t_min, config.steps - usual) { usual } else { 0 };
    config.sweeps.unwrap_or(usual)
}

fn gibbs_settings(config: &SamplerConfig, card: &Card, levels: Settings) -> Result<split_gibbs::Settings> {
    let sensible = match card.stretch {
        Stretch::Linear { .. } => levels.t_max,
        Stretch::Asinh { .. } => RHO_MAX_ASINH.min(levels.t_max),
    };
    let rho_max = config.gibbs_rho_max.unwrap_or(sensible);
    if rho_max > levels.t_max {
        return Err(Error::usage(format!(
            "sampler.gibbs_rho_max = {rho_max} is more than t_max, the largest noise level of the chain, {}",
            levels.t_max
        )));
    }
    Ok(split_gibbs::Settings {
        steps: config.steps,
        reverse_steps: config.gibbs_reverse_steps.unwrap_or(split_gibbs::REVERSE_STEPS),
        t_max: levels.t_max,
        rho_max,
        rho: config.gibbs_rho.unwrap_or(RHO_HELD.max(levels.t_min).min(rho_max)),
        held: config.gibbs_held.unwrap_or(split_gibbs::HELD),
        // The coupling ends where other methods do, and the reverse diffusion goes on from there.
        t_min: config.t_min.unwrap_or(card.sigma_min),
        relinearizations: levels.relinearizations,
        stop: levels.stop,
    })
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
        sweeps: 0,
        t_max,
        t_min,
        relinearizations: config.relinearizations,
        stop: Stop { tolerance: config.cg_tolerance, iterations: config.cg_iterations },
    })
}

#[cfg(test)]
mod tests {
    use super::super::toy::{SHAPE, unit_covariance};
    use super::*;
    use crate::prior::card::Architecture;

    fn card() -> Card {
        Card::example(Architecture::Gaussian, SHAPE[1])
    }

    #[test]
    fn every_method_that_the_config_may_name_is_built() {
        let build = |config: SamplerConfig| build_for(&config, &card(), unit_covariance().unwrap(), None);
        for method in METHODS {
            let config = SamplerConfig { method: method.into(), ..SamplerConfig::default() };
            let steps = config.steps;
            let sampler = build(config).unwrap();
            // Progress and costs are counted with the config's steps.
            assert_eq!((sampler.name(), sampler.steps()), (method, steps));
        }
        let no_place = build(SamplerConfig { t_max: Some(2.0), sweeps: Some(4), ..SamplerConfig::default() });
        assert!(no_place.err().unwrap().to_string().contains("sampler.sweeps"));
        let error = |config| build(config).err().unwrap().to_string();
        let unknown = error(SamplerConfig { method: "magic".into(), ..SamplerConfig::default() });
        assert!(METHODS.iter().all(|method| unknown.contains(method)), "{unknown}");
        let gibbs = SamplerConfig { method: "split-gibbs".into(), ..SamplerConfig::default() };
        let above = error(SamplerConfig { gibbs_rho_max: Some(30.0), ..gibbs });
        assert!(above.contains("gibbs_rho_max = 30"), "{above}");
    }

    /// Sweeps are for priors whose network's uncertainty is known, and for the default method.
    #[test]
    fn part_of_the_steps_are_sweeps_where_a_table_says_how_wide_a_step_is() {
        let levels = |t_max| Settings {
            t_max,
            ..settings(&SamplerConfig::default(), &card(), &unit_covariance().unwrap()).unwrap()
        };
        let made = |steps, chosen, t_max, measured| {
            sweeps(&SamplerConfig { steps, sweeps: chosen, ..SamplerConfig::default() }, levels(t_max), measured)
        };
        assert_eq!([8, 28, 64].map(|steps| made(steps, None, 60.0, true)), [2, 8, 12]);
        assert_eq!(made(32, None, 60.0, false), 0);
        assert_eq!(made(32, None, 3.0, true), 0);
        assert_eq!(made(32, Some(5), 60.0, true), 5);
        assert_eq!(made(32, Some(0), 60.0, true), 0);
    }
}
