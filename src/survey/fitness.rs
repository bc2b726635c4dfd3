//! Whether a survey can be run with its prior: told when it is planned, not when its job has come out of the queue.

use tch::{Device, Kind};

use crate::config::Config;
use crate::prior::Prior;
use crate::prior::card::Architecture;
use crate::sampler;
use crate::{Error, Result};

/// Reads the prior, and prepares the sampler for it. Errors name the file, what was expected and how to mend it.
pub fn check_prior(config: &Config) -> Result<()> {
    let path = &config.prior.path;
    if !path.is_file() {
        return Err(Error::usage(format!(
            "there is no file {}: put the prior there, or mend `prior.path` in the config",
            path.display()
        )));
    }
    let prior = Prior::read(path, Device::Cpu)?;
    check(config, &prior).map_err(|error| match error {
        Error::Usage(what) => Error::usage(format!("{}: {what}", path.display())),
        other => other,
    })?;
    sampler::build(&config.sampler, &prior).map(drop)
}

/// Whether the survey's bands are as many as the prior's, and the prior's moments say something.
pub fn check(config: &Config, prior: &Prior) -> Result<()> {
    let (bands, expected) = (config.data.bands.len(), prior.card.bands.len());
    if bands != expected {
        return Err(Error::usage(format!(
            "data.bands names {bands} bands, but the prior `{}` has {expected} ({}): give one band for each, in that order",
            prior.card.name,
            prior.card.bands.join(", ")
        )));
    }
    let imported = matches!(prior.card.architecture, Architecture::Unet(_));
    if imported
        && prior.flux_draws == 0
        && prior.flux_variance.f_max()?.f_to_kind(Kind::Double)?.f_double_value(&[])? == 0.0
    {
        return Err(Error::usage(format!(
            "the prior `{}` was imported, and its moments, which a sampler needs, are not measured yet: call `unseeing moments` \
             with it",
            prior.card.name
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_prior_that_is_not_there_is_named_with_its_key() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/hsc-cosmos.toml");
        let mut config = Config::read(&path).unwrap();
        assert!(check_prior(&config).is_ok());
        config.prior.path = "no/such.safetensors".into();
        let error = check_prior(&config).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("no/such.safetensors") && said.contains("`prior.path`"), "{said}");
        assert_eq!(error.exit_code(), 2);
    }
}
