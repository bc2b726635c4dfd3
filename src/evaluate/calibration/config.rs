//! The config of a calibration run: a TOML file. It fixes seeds, problems, samplers and the significance level before
//! anything is drawn. Unknown keys are errors; every error names the file, the line and the key.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::problems::{GalaxyMixtureConfig, GaussianFieldConfig, Mixture25Config, NetworkConfig, StretchedFieldConfig};
use crate::config::check::{Checker, syntax_error};
use crate::config::{DeviceKind, SamplerConfig};
use crate::sampler::build::METHODS;
use crate::{Error, Result};

/// Draws of the exact posterior, where a problem has one: what a perfect sampler would give.
pub const EXACT: &str = "exact";
/// Draws of the prior: a sampler that has not looked at the data.
pub const PRIOR: &str = "prior";

/// A whole calibration config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationConfig {
    pub seed: u64,
    /// Folder of records, report and pictures; relative paths are relative to the config file.
    pub out: PathBuf,
    /// Draws for each simulation, unless a problem says otherwise.
    pub draws: u32,
    /// Draws in one batch of the network.
    #[serde(default = "block")]
    pub block: u32,
    /// Family-wise error of one sampler's tests over all problems (Holm).
    #[serde(default = "significance")]
    pub significance: f64,
    /// Slices of the sliced Wasserstein distance.
    #[serde(default = "slices")]
    pub slices: u32,
    #[serde(default)]
    pub machine: MachineConfig,
    pub problems: Vec<ProblemConfig>,
    pub samplers: Vec<SamplerEntry>,
}

fn block() -> u32 {
    64
}

fn significance() -> f64 {
    0.05
}

fn slices() -> u32 {
    200
}

/// Where the networks run. Exact posteriors are always computed on the CPU in f64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfig {
    pub device: DeviceKind,
    /// Threads of each rank (CPU).
    pub threads: u32,
    /// Ranks that share a CUDA device.
    pub ranks_per_device: u32,
}

impl Default for MachineConfig {
    fn default() -> Self {
        MachineConfig { device: DeviceKind::Cpu, threads: 1, ranks_per_device: 1 }
    }
}

/// One problem, or several that differ in size or noise: exactly one of the five kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProblemConfig {
    pub name: String,
    /// Truths, each observed once.
    pub simulations: u32,
    /// Draws for each, instead of the config's.
    pub draws: Option<u32>,
    /// Slices, instead of the config's.
    pub slices: Option<u32>,
    pub gaussian_field: Option<GaussianFieldConfig>,
    pub galaxy_mixture: Option<GalaxyMixtureConfig>,
    pub stretched_field: Option<StretchedFieldConfig>,
    #[serde(rename = "mixture-25")]
    pub mixture_25: Option<Mixture25Config>,
    pub network: Option<NetworkConfig>,
}

/// One sampler, or the same with several numbers of steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerEntry {
    /// What the report calls it; the method when not given. With several numbers of steps, they are appended.
    pub name: Option<String>,
    /// A negative control: the tests must fail for it.
    #[serde(default)]
    pub control: bool,
    /// The deviations of the draws from their mean are multiplied by the square root of this.
    #[serde(default = "one")]
    pub inflate: f64,
    /// Numbers of steps, each a sampler of its own; `sampler.steps` when not given.
    #[serde(default)]
    pub steps: Vec<u32>,
    /// Problems (by their names here) that it is run on; all when not given.
    pub problems: Option<Vec<String>>,
    /// As in a survey's config; its method may also be `exact` or `prior`.
    pub sampler: SamplerConfig,
}

fn one() -> f64 {
    1.0
}

/// One sampler with one number of steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SamplerCase {
    pub name: String,
    /// The entry's own name: what the points of one line in the figure of cost share.
    pub family: String,
    pub control: bool,
    pub inflate: f64,
    pub problems: Option<Vec<String>>,
    pub sampler: SamplerConfig,
}

impl SamplerCase {
    /// Whether it is run on the problems of the entry `problem`.
    pub fn runs_on(&self, problem: &str) -> bool {
        self.problems.as_ref().is_none_or(|names| names.iter().any(|name| name == problem))
    }
}

impl CalibrationConfig {
    /// Reads and checks a config; relative paths become relative to the file's own folder.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::usage(format!("{}: cannot read the config: {error}", path.display())))?;
        let mut config = Self::parse(&text, path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        config.out = folder.join(&config.out);
        let check = Checker::new(&text, path);
        for (index, problem) in config.problems.iter_mut().enumerate() {
            let Some(network) = &mut problem.network else { continue };
            network.prior = folder.join(&network.prior);
            network.reference = network.reference.as_ref().map(|path| folder.join(path));
            let there = |file: &Path, name: &str, mend: &str| {
                let key = format!("problems.{index}.network.{name}");
                check.need(file.is_file(), &key, format!("there is no file {}: {mend}", file.display()))
            };
            there(&network.prior, "prior", "name a prior's safetensors file")?;
            if let Some(draws) = &network.reference {
                let [prior, out] = [&network.prior, draws].map(|path| path.display().to_string());
                let mend = format!("draw it first, `unseeing draw {prior} --count 32768 --seed 77 --out {out}`");
                there(draws, "reference", &mend)?;
            }
        }
        Ok(config)
    }

    /// Parses and checks a config's text; `path` is for the messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| syntax_error(&error, text, path))?;
        config.check(&Checker::new(text, path))?;
        Ok(config)
    }

    fn check(&self, check: &Checker) -> Result<()> {
        // Four draws are the fewest for which the variance of z is finite.
        let enough = |draws: u32| (4..=100_000).contains(&draws);
        check.need(!self.out.as_os_str().is_empty(), "out", "expected a folder, found nothing")?;
        check.need(enough(self.draws), "draws", format!("expected 4 to 100000, found {}", self.draws))?;
        check.need(self.block >= 1, "block", "expected at least 1")?;
        check.need(self.slices >= 1, "slices", "expected at least 1")?;
        check.need(self.machine.threads >= 1, "machine.threads", "expected at least 1")?;
        let level = self.significance > 0.0 && self.significance < 0.5;
        check.need(level, "significance", format!("expected between 0 and 0.5, found {}", self.significance))?;
        check.need(!self.problems.is_empty(), "problems", "expected at least one")?;
        check.need(!self.samplers.is_empty(), "samplers", "expected at least one")?;
        for (index, problem) in self.problems.iter().enumerate() {
            let key = |name: &str| format!("problems.{index}.{name}");
            let twice = self.problems[..index].iter().any(|other| other.name == problem.name);
            check.need(is_name(&problem.name), &key("name"), "expected letters, digits, `-`, `_` and `.`")?;
            check.need(!twice, &key("name"), format!("`{}` is there twice", problem.name))?;
            let count = problem.simulations;
            check.need(count >= 2, &key("simulations"), format!("expected at least 2, found {count}"))?;
            let draws = problem.draws.unwrap_or(self.draws);
            check.need(enough(draws), &key("draws"), format!("expected 4 to 100000, found {draws}"))?;
            let mut kinds = 0;
            if let Some(kind) = &problem.gaussian_field {
                kinds += 1;
                kind.check(check, &key("gaussian-field"))?;
            }
            if let Some(kind) = &problem.galaxy_mixture {
                kinds += 1;
                kind.check(check, &key("galaxy-mixture"))?;
            }
            if let Some(kind) = &problem.stretched_field {
                kinds += 1;
                kind.check(check, &key("stretched-field"))?;
            }
            if let Some(kind) = &problem.mixture_25 {
                kinds += 1;
                kind.check(check, &key("mixture-25"))?;
            }
            if let Some(kind) = &problem.network {
                kinds += 1;
                kind.check(check, &key("network"))?;
            }
            let why = "expected exactly one of gaussian-field, galaxy-mixture, stretched-field, mixture-25, network";
            check.need(kinds == 1, &format!("problems.{index}"), why)?;
        }
        for (index, entry) in self.samplers.iter().enumerate() {
            self.check_sampler(check, index, entry)?;
        }
        let cases = self.cases();
        for (index, case) in cases.iter().enumerate() {
            let twice = cases[..index].iter().any(|other| other.name == case.name);
            check.need(!twice, "samplers", format!("two samplers are called `{}`: give them a `name`", case.name))?;
        }
        Ok(())
    }

    fn check_sampler(&self, check: &Checker, index: usize, entry: &SamplerEntry) -> Result<()> {
        let key = |name: &str| format!("samplers.{index}.{name}");
        let method = entry.sampler.method.as_str();
        let known = method == EXACT || method == PRIOR || METHODS.contains(&method);
        let all = METHODS.join(", ");
        check.need(
            known,
            &key("sampler.method"),
            format!("unknown method `{method}`: expected exact, prior, {all}"),
        )?;
        let name = entry.name.as_deref().unwrap_or(method);
        check.need(is_name(name), &key("name"), "expected letters, digits, `-`, `_` and `.`")?;
        check.positive(entry.inflate, &key("inflate"))?;
        for &steps in entry.steps.iter().chain([&entry.sampler.steps]) {
            check.need(steps >= 2, &key("steps"), format!("expected at least 2, found {steps}"))?;
        }
        for name in entry.problems.iter().flatten() {
            let found = self.problems.iter().any(|problem| &problem.name == name);
            check.need(found, &key("problems"), format!("there is no problem called `{name}`"))?;
        }
        Ok(())
    }

    /// The samplers, one for each number of steps.
    pub fn cases(&self) -> Vec<SamplerCase> {
        let mut cases = Vec::new();
        for entry in &self.samplers {
            let family = entry.name.clone().unwrap_or_else(|| entry.sampler.method.clone());
            let steps = if entry.steps.is_empty() { vec![entry.sampler.steps] } else { entry.steps.clone() };
            for &count in &steps {
                cases.push(SamplerCase {
                    name: if steps.len() == 1 { family.clone() } else { format!("{family}-{count}") },
                    family: family.clone(),
                    control: entry.control,
                    inflate: entry.inflate,
                    problems: entry.problems.clone(),
                    sampler: SamplerConfig { steps: count, ..entry.sampler.clone() },
                });
            }
        }
        cases
    }
}

/// Names become parts of paths.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"seed = 1
out = "runs/x"
draws = 16

[[problems]]
name = "field"
simulations = 10
[problems.gaussian-field]
size = 8

[[samplers]]
steps = [8, 16]
sampler = { method = "perturb-map" }

[[samplers]]
name = "inflated"
control = true
inflate = 1.4
sampler = { method = "exact" }
"#;

    fn message(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        CalibrationConfig::parse(&GOOD.replace(from, to), Path::new("c.toml")).unwrap_err().to_string()
    }

    #[test]
    fn samplers_are_one_for_each_number_of_steps() {
        let config = CalibrationConfig::parse(GOOD, Path::new("c.toml")).unwrap();
        let names: Vec<String> = config.cases().into_iter().map(|case| case.name).collect();
        assert_eq!(names, ["perturb-map-8", "perturb-map-16", "inflated"]);
        assert_eq!(config.cases()[1].sampler.steps, 16);
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (from, to, words) in [
            ("seed = 1", "sead = 1", vec!["c.toml", "sead"]),
            ("size = 8", "size = 8\nsises = 8", vec!["line 10", "sises"]),
            ("simulations = 10", "simulations = 1", vec!["line 7", "simulations", "at least 2"]),
            ("draws = 16", "draws = 3", vec!["line 3", "draws"]),
            ("\"exact\"", "\"exakt\"", vec!["line 19", "exakt", "perturb-map"]),
            ("inflate = 1.4", "inflate = -1.0", vec!["line 18", "inflate"]),
            ("[problems.gaussian-field]\nsize = 8\n", "", vec!["line 5", "exactly one of"]),
            ("size = 8", "size = 8\nnoise = inf", vec!["line 10", "noise", "positive"]),
        ] {
            let said = message(from, to);
            words.iter().for_each(|word| assert!(said.contains(word), "{to}: {said}"));
        }
    }

    #[test]
    fn what_an_analysis_has_wrong_is_checked() {
        let network = "[problems.network]\nprior = \"p\"\nmisspecified = { redshift = 0.05 }\n";
        let good = GOOD.replace("[problems.gaussian-field]\nsize = 8\n", network);
        assert!(CalibrationConfig::parse(&good, Path::new("c.toml")).is_ok());
        for (wrong, key) in [
            ("redshift = -0.2", "misspecified.redshift"),
            ("psf_width = -1.0", "misspecified.psf_width"),
            ("noise_fwhm = -1.0", "misspecified.noise_fwhm"),
            ("nose_fwhm = 1.0", "nose_fwhm"),
        ] {
            let text = good.replace("redshift = 0.05", wrong);
            let said = CalibrationConfig::parse(&text, Path::new("c.toml")).unwrap_err().to_string();
            assert!(said.contains(key) && said.contains("c.toml"), "{said}");
        }
    }

    #[test]
    fn files_that_are_not_there_are_named_with_their_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        let network = "[problems.network]\nprior = \"p\"\nreference = \"draws\"\n";
        std::fs::write(&path, GOOD.replace("[problems.gaussian-field]\nsize = 8\n", network)).unwrap();
        let said = || CalibrationConfig::read(&path).unwrap_err();
        for (file, words) in [("p", ["line 9", "network.prior"]), ("draws", ["line 10", "unseeing draw"])] {
            let error = said();
            words.iter().for_each(|word| assert!(error.to_string().contains(word), "{error}"));
            assert_eq!(error.exit_code(), 2);
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        assert!(CalibrationConfig::read(&path).is_ok());
    }

    #[test]
    fn shipped_configs_are_good() {
        let read = |name: &str| {
            CalibrationConfig::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)).unwrap()
        };
        // Every method has its line in the figure of cost.
        let cases = read("cost.toml").cases();
        assert!(METHODS.iter().all(|method| cases.iter().any(|case| case.sampler.method == *method)));
        let wrong = read("calibration-misspecified.toml").problems;
        assert!(wrong.iter().all(|problem| problem.network.as_ref().unwrap().truths_of.is_some()));
        for name in ["calibration.toml", "calibration-quick.toml"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name);
            let config = CalibrationConfig::read(&path).unwrap();
            assert!(config.samplers.iter().filter(|entry| entry.control).count() >= 3, "{name}");
        }
    }
}
