//! What a config must satisfy beyond its syntax. Every error names the file, the line and the key.

use std::fmt::Display;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{Config, SamplerConfig};
use crate::observe::pattern;
use crate::sampler::build::METHODS;
use crate::sampler::perturb_map_smc::ONE_REDSHIFT;
use crate::sampler::{daps, split_gibbs};
use crate::{Error, Result};

/// An error of the TOML parser (syntax, unknown or missing key, wrong type), with line and key.
pub(crate) fn syntax_error(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let message = error.message().trim().replace('\n', "; ");
    let Some(span) = error.span() else {
        return Error::usage(format!("{}: {message}", path.display()));
    };
    let line = line_at(text, span.start);
    let key = key_at(text, span.start);
    let key = if key.is_empty() { "top level".to_string() } else { format!("`{key}`") };
    Error::usage(format!("{}, line {line}, {key}: {message}", path.display()))
}

/// All checks, in the order of the file's sections.
pub(super) fn check(config: &Config, text: &str, path: &Path) -> Result<()> {
    let check = Checker::new(text, path);
    check.catalogue(config)?;
    check.data(config)?;
    check.models(config)?;
    check.sampling(config)
}

/// Says what is wrong with a key, and on which line. Tables of an array are named by their number: `problems.0.name`.
pub(crate) struct Checker<'a> {
    text: &'a str,
    path: &'a Path,
    table: Option<DeTable<'a>>,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(text: &'a str, path: &'a Path) -> Self {
        Checker { text, path, table: DeTable::parse(text).ok().map(|table| table.into_inner()) }
    }

    fn catalogue(&self, config: &Config) -> Result<()> {
        let survey = &config.survey;
        let plain = |c: char| c.is_alphanumeric() || "-_.+ ".contains(c);
        let named = !survey.name.trim().is_empty() && survey.name.chars().all(plain);
        self.need(named, "survey.name", "expected a name of letters, digits, `-`, `_`, `.`, `+` and blanks")?;
        self.need(!survey.folder.as_os_str().is_empty(), "survey.folder", "expected a folder, found nothing")?;
        self.need(survey.shard_objects >= 1, "survey.shard_objects", "expected at least 1")?;
        let catalog = &config.catalog;
        self.need(!catalog.paths.is_empty(), "catalog.paths", "expected at least one file")?;
        let empty = catalog.paths.iter().any(|path| path.as_os_str().is_empty());
        self.need(!empty, "catalog.paths", "one of the paths is empty")?;
        let columns = &catalog.columns;
        let needed = [("id", &columns.id), ("ra", &columns.ra), ("dec", &columns.dec), ("redshift", &columns.redshift)];
        let optional = [("redshift_error", &columns.redshift_error), ("ebv", &columns.ebv)];
        let optional = optional.into_iter().filter_map(|(key, name)| name.as_ref().map(|name| (key, name)));
        for (key, name) in needed.into_iter().chain(optional) {
            self.need(!name.trim().is_empty(), &format!("catalog.columns.{key}"), "expected a column's name")?;
        }
        if let Some(quantiles) = &columns.redshift_quantiles {
            let key = "catalog.columns.redshift_quantiles";
            let named = quantiles.iter().all(|(_, name)| !name.trim().is_empty());
            self.need(named, key, "expected a column's name beside each probability")?;
            let inside = quantiles.iter().all(|(probability, _)| *probability > 0.0 && *probability < 1.0);
            let rising = quantiles.windows(2).all(|pair| pair[0].0 < pair[1].0);
            let why = "expected two or more [probability, \"column\"], with rising probabilities between 0 and 1";
            self.need(quantiles.len() >= 2 && inside && rising, key, why)?;
        }
        let coefficients = config.data.extinction_coefficients.is_some();
        if let Some(extinction) = &columns.extinction {
            let key = "catalog.columns.extinction";
            self.one_per_band(config, key, extinction.len())?;
            self.need(columns.ebv.is_none(), key, "give either this or catalog.columns.ebv, not both")?;
        }
        let ebv = columns.ebv.is_some();
        self.need(!ebv || coefficients, "catalog.columns.ebv", "E(B-V) needs data.extinction_coefficients as well")?;
        let unused = "these coefficients need catalog.columns.ebv, the column of E(B-V)";
        self.need(!coefficients || ebv, "data.extinction_coefficients", unused)
    }

    fn data(&self, config: &Config) -> Result<()> {
        let data = &config.data;
        self.need(!data.bands.is_empty(), "data.bands", "expected at least one band")?;
        for (index, band) in data.bands.iter().enumerate() {
            let bad = band.is_empty() || band.contains(['/', '\\', '\0', '{', '}']) || band == "." || band == "..";
            self.need(!bad, "data.bands", format!("{band:?} cannot be part of a file's name"))?;
            self.need(!data.bands[..index].contains(band), "data.bands", format!("`{band}` is there twice"))?;
        }
        for (key, text) in [("data.image", &data.image), ("data.psf", &data.psf)] {
            self.need(!text.is_empty(), key, "expected a path pattern, found nothing")?;
            let names = pattern::placeholders(text).map_err(|why| self.error(key, format!("`{text}`: {why}")))?;
            let has_band = data.bands.len() == 1 || names.iter().any(|name| name == "band");
            self.need(has_band, key, format!("`{text}` does not contain {{band}}, so all bands would be one file"))?;
        }
        self.finite_if(data.zero_point, "data.zero_point")?;
        self.positive_if(data.saturation, "data.saturation")?;
        if let Some(coefficients) = &data.extinction_coefficients {
            self.one_per_band(config, "data.extinction_coefficients", coefficients.len())?;
            for &value in coefficients {
                self.at_least_zero(value, "data.extinction_coefficients")?;
            }
        }
        Ok(())
    }

    fn models(&self, config: &Config) -> Result<()> {
        let noise = &config.noise;
        let small = (0.0..1.0).contains(&noise.relative_error);
        self.need(small, "noise.relative_error", format!("expected 0 to 1, found {}", noise.relative_error))?;
        if let Some(gain) = &noise.gain {
            self.one_per_band(config, "noise.gain", gain.len())?;
            for &value in gain {
                self.positive(value, "noise.gain")?;
            }
        }
        self.positive(config.neighbours.threshold, "neighbours.threshold")?;
        self.at_least_zero(config.neighbours.grow, "neighbours.grow")?;
        self.at_least_zero(config.nuisance.ln_amplitude_sd, "nuisance.ln_amplitude_sd")?;
        self.at_least_zero(config.nuisance.sky_sd, "nuisance.sky_sd")?;
        let columns = &config.catalog.columns;
        let known = columns.redshift_error.is_some() || columns.redshift_quantiles.is_some();
        let known = known || !config.photo_z.propagated();
        let why = "\"propagated\" needs catalog.columns.redshift_error, the column of the redshift's standard deviation, or \
                   catalog.columns.redshift_quantiles";
        self.need(known, "photo_z.mode", why)?;
        let named = !config.prior.path.as_os_str().is_empty();
        self.need(named, "prior.path", "expected a prior's safetensors file, found nothing")
    }

    fn sampling(&self, config: &Config) -> Result<()> {
        let sampler = &config.sampler;
        let known = METHODS.contains(&sampler.method.as_str());
        let why = format!("unknown method `{}`, expected one of {}", sampler.method, METHODS.join(", "));
        self.need(known, "sampler.method", why)?;
        let bears = sampler.method != "perturb-map-smc" || !config.photo_z.propagated();
        self.need(bears, "sampler.method", ONE_REDSHIFT)?;
        self.need(sampler.steps >= 2, "sampler.steps", format!("expected at least 2, found {}", sampler.steps))?;
        self.positive_if(sampler.t_max, "sampler.t_max")?;
        self.positive_if(sampler.t_min, "sampler.t_min")?;
        if let (Some(low), Some(high)) = (sampler.t_min, sampler.t_max) {
            self.need(low < high, "sampler.t_min", format!("expected less than t_max = {high}, found {low}"))?;
        }
        let tolerance = sampler.cg_tolerance > 0.0 && sampler.cg_tolerance <= 1.0;
        let why = format!("expected a number above 0, and 1 at most, found {}", sampler.cg_tolerance);
        self.need(tolerance, "sampler.cg_tolerance", why)?;
        self.need(sampler.cg_iterations >= 1, "sampler.cg_iterations", "expected at least 1, found 0")?;
        self.positive(sampler.guidance, "sampler.guidance")?;
        self.method_keys(sampler)?;
        let posterior = &config.posterior;
        let why = format!("a variance needs at least 2 samples, found {}", posterior.samples);
        self.need(posterior.samples >= 2, "posterior.samples", why)?;
        self.need(posterior.block >= 1, "posterior.block", "expected at least 1, found 0")?;
        let why = format!("cannot keep {} of {} draws", posterior.keep_draws, posterior.samples);
        self.need(posterior.keep_draws <= posterior.samples, "posterior.keep_draws", why)?;
        let flags = &config.flags;
        for (name, value) in [
            ("upsampling", flags.upsampling),
            ("high_chi2", flags.high_chi2),
            ("at_edge", flags.at_edge),
            ("lost_draws", flags.lost_draws),
            ("aperture", flags.aperture),
            ("cmodel", flags.cmodel),
            ("residual_power", flags.residual_power),
            ("residual_peak", flags.residual_peak),
            ("solve_residual", flags.solve_residual),
            ("detection", flags.detection),
        ] {
            self.positive(value, &format!("flags.{name}"))?;
        }
        let parts = [("good_pixels", flags.good_pixels), ("predictive_p", flags.predictive_p)];
        for (name, value) in parts.into_iter().chain([("unlike_prior", flags.unlike_prior)]) {
            self.need(
                (0.0..=1.0).contains(&value),
                &format!("flags.{name}"),
                format!("expected 0 to 1, found {value}"),
            )?;
        }
        self.need(config.run.threads >= 1, "run.threads", "expected at least 1, found 0")?;
        self.need(config.run.ranks_per_device >= 1, "run.ranks_per_device", "expected at least 1, found 0")?;
        self.positive(config.run.journal_interval, "run.journal_interval")?;
        self.positive(config.run.hang_timeout, "run.hang_timeout")?;
        self.positive(config.run.time_limit.unwrap_or(1.0), "run.time_limit")?;
        self.positive(config.run.claim_timeout, "run.claim_timeout")
    }

    /// The keys that one method alone has: for another one they would be ignored, which nobody can mean.
    fn method_keys(&self, sampler: &SamplerConfig) -> Result<()> {
        let number = |value: Option<u32>| value.map(f64::from);
        let keys: [(&str, Option<f64>, &str, f64); 11] = [
            ("sweeps", number(sampler.sweeps), "perturb-map", f64::from(sampler.steps.saturating_sub(2))),
            ("mmps_iterations", number(sampler.mmps_iterations), "mmps", f64::MAX),
            ("diffpir_lambda", sampler.diffpir_lambda, "diffpir", f64::MAX),
            ("diffpir_zeta", sampler.diffpir_zeta, "diffpir", 1.0),
            ("daps_ode_steps", number(sampler.daps_ode_steps), "daps", f64::MAX),
            ("daps_langevin_steps", number(sampler.daps_langevin_steps), "daps", f64::MAX),
            ("daps_langevin_rate", sampler.daps_langevin_rate, "daps", daps::LARGEST_RATE),
            ("gibbs_reverse_steps", number(sampler.gibbs_reverse_steps), "split-gibbs", f64::MAX),
            ("gibbs_rho", sampler.gibbs_rho, "split-gibbs", f64::MAX),
            ("gibbs_rho_max", sampler.gibbs_rho_max, "split-gibbs", f64::MAX),
            ("gibbs_held", sampler.gibbs_held, "split-gibbs", 1.0),
        ];
        for (name, value, method, largest) in keys {
            let (key, Some(value)) = (format!("sampler.{name}"), value) else { continue };
            let why = format!("only method `{method}` has this key, and the method is `{}`", sampler.method);
            self.need(sampler.method == method, &key, why)?;
            match name {
                "sweeps" | "diffpir_zeta" | "gibbs_held" => self.at_least_zero(value, &key)?,
                _ => self.positive(value, &key)?,
            }
            self.need(value <= largest, &key, format!("expected at most {largest}, found {value}"))?;
        }
        if let (Some(low), Some(high)) = (sampler.gibbs_rho, sampler.gibbs_rho_max) {
            let why = format!("expected at most gibbs_rho_max = {high}, found {low}");
            self.need(low <= high, "sampler.gibbs_rho", why)?;
        }
        // split-gibbs starts with as much as a round.
        let (least, inner) = match sampler.method.as_str() {
            "daps" => (2, sampler.daps_ode_steps.unwrap_or(daps::ODE_STEPS)),
            "split-gibbs" => (3, sampler.gibbs_reverse_steps.unwrap_or(split_gibbs::REVERSE_STEPS)),
            _ => (2, 1),
        };
        let why = format!("expected at least {least} times {inner} network evaluations, found {}", sampler.steps);
        self.need(sampler.steps / inner >= least, "sampler.steps", why)
    }

    pub(crate) fn need(&self, holds: bool, key: &str, why: impl Display) -> Result<()> {
        if holds { Ok(()) } else { Err(self.error(key, why)) }
    }

    pub(crate) fn positive(&self, value: f64, key: &str) -> Result<()> {
        self.need(value.is_finite() && value > 0.0, key, format!("expected a positive number, found {value}"))
    }

    pub(crate) fn at_least_zero(&self, value: f64, key: &str) -> Result<()> {
        self.need(value.is_finite() && value >= 0.0, key, format!("expected 0 or a positive number, found {value}"))
    }

    fn positive_if(&self, value: Option<f64>, key: &str) -> Result<()> {
        value.map_or(Ok(()), |value| self.positive(value, key))
    }

    fn finite_if(&self, value: Option<f64>, key: &str) -> Result<()> {
        value.map_or(Ok(()), |value| self.need(value.is_finite(), key, format!("expected a number, found {value}")))
    }

    fn one_per_band(&self, config: &Config, key: &str, found: usize) -> Result<()> {
        let bands = config.data.bands.len();
        self.need(found == bands, key, format!("expected one value per band of data.bands ({bands}), found {found}"))
    }

    /// The error of a key, at its line, or else at the line of the nearest table around it.
    fn error(&self, key: &str, why: impl Display) -> Error {
        let line = self.offset(key).map_or(String::new(), |offset| format!(", line {}", line_at(self.text, offset)));
        Error::usage(format!("{}{line}, `{key}`: {why}", self.path.display()))
    }

    fn offset(&self, key: &str) -> Option<usize> {
        let mut table = self.table.as_ref()?;
        let mut offset = None;
        let mut parts = key.split('.');
        while let Some(part) = parts.next() {
            let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref().as_ref() == part) else { break };
            offset = Some(name.span().start);
            let mut value = value.get_ref();
            if let DeValue::Array(entries) = value {
                let number = parts.next().and_then(|part| part.parse::<usize>().ok());
                let Some(entry) = number.and_then(|number| entries.get(number)) else { break };
                offset = Some(entry.span().start);
                value = entry.get_ref();
            }
            match value {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        offset
    }
}

/// The line (from 1) of a byte offset.
fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// The key, with its table, that a line of the text belongs to: the nearest `key =` at or above it in its table.
fn key_at(text: &str, offset: usize) -> String {
    let (mut table, mut key) = (String::new(), String::new());
    for line in text.lines().take(line_at(text, offset)) {
        let line = line.trim();
        if line.starts_with('[')
            && line.split('#').next().unwrap_or("").trim_end().ends_with(']')
            && !line.contains('"')
        {
            table = line.split('#').next().unwrap_or("").trim().trim_matches(['[', ']']).trim().to_string();
            key.clear();
        } else if let Some((name, _)) = line.split_once('=') {
            let name = name.trim();
            if !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)) {
                key = name.to_string();
            }
        }
    }
    [table, key].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests;
