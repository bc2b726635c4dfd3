//! A cheap engine for tests of the system: a few steps of arithmetic on small tensors, by key, with states that are saved
//! and continued like a sampler's. An object's behaviour (to be slow, to fail, to crash, to hang) is written in a column
//! of its catalogue row, as `word=value;word=value`. It is no science.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tch::Device;

use super::engine::{Engine, OpenObject, Packed};
use super::worker::RankContext;
use crate::catalog::Target;
use crate::config::Config;
use crate::posterior::{Moments, Node};
use crate::product::{ObjectRecord, RecordArray, Status};
use crate::random::{BlockNoise, Purpose};
use crate::sampler::{SavedState, State, to_vec};
use crate::{Error, Result};

/// The catalogue column with the toy's instructions.
const COLUMN: &str = "toy";
const SHAPE: [i64; 3] = [2, 6, 6];
const PIXELS: usize = 72;

/// The toy engine.
pub struct Toy {
    config: Config,
}

impl Toy {
    /// A factory of toys, as `survey::run` wants it.
    pub fn build(context: &RankContext) -> Result<Box<dyn Engine>> {
        Ok(Box::new(Toy { config: context.config.clone() }))
    }
}

impl Engine for Toy {
    fn open(&mut self, target: &Target, _packed: Option<&Packed>) -> Result<Box<dyn OpenObject + '_>> {
        let object = ToyObject::new(&self.config, target);
        if object.wants("fail").is_some() {
            return Err(Error::object(&target.id, "was told to fail"));
        }
        Ok(Box::new(object))
    }
}

struct ToyObject<'a> {
    config: &'a Config,
    id: String,
    instructions: Vec<(String, String)>,
}

impl<'a> ToyObject<'a> {
    fn new(config: &'a Config, target: &Target) -> Self {
        let text = target.columns.get(COLUMN).map_or("", String::as_str);
        let pairs = text.split(';').filter_map(|part| part.split_once('='));
        let instructions = pairs.map(|(word, value)| (word.to_string(), value.to_string())).collect();
        ToyObject { config, id: target.id.clone(), instructions }
    }

    fn wants(&self, word: &str) -> Option<&str> {
        self.instructions.iter().find(|(known, _)| known == word).map(|(_, value)| value.as_str())
    }

    /// Whether a misbehaviour with the value `block.step` is due.
    fn due(&self, word: &str, block: u32, step: u32) -> bool {
        self.wants(word).is_some_and(|value| value == format!("{block}.{step}"))
    }

    fn noise(&self, block: u32) -> BlockNoise {
        let first = block * self.config.posterior.block;
        BlockNoise::new(self.config.survey.seed, &self.id, first, self.samples(block))
    }
}

impl OpenObject for ToyObject<'_> {
    fn blocks(&self) -> u32 {
        self.config.posterior.samples.div_ceil(self.config.posterior.block)
    }

    fn steps(&self) -> u32 {
        self.config.sampler.steps
    }

    fn samples(&self, block: u32) -> u32 {
        let size = self.config.posterior.block;
        self.config.posterior.samples.saturating_sub(block * size).min(size)
    }

    fn start(&self, block: u32) -> Result<State> {
        let x = self.noise(block).normal(Purpose::Start, 0, &SHAPE, Device::Cpu)?;
        Ok(State { step: 0, tensors: vec![("x".into(), x)] })
    }

    fn resume(&self, saved: &SavedState) -> Result<State> {
        State::load(saved, Device::Cpu)
    }

    fn step(&self, block: u32, state: &mut State) -> Result<()> {
        if let Some(milliseconds) = self.wants("sleep").and_then(|value| value.parse().ok()) {
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
        if self.due("crash", block, state.step) {
            std::process::abort();
        }
        if self.due("hang", block, state.step) {
            std::thread::sleep(Duration::from_secs(3600));
        }
        if self.due("stumble", block, state.step) {
            return Err(Error::object(&self.id, format!("was told to stumble in block {block}")));
        }
        let noise = self.noise(block).normal(Purpose::Renoise, state.step, &SHAPE, Device::Cpu)?;
        let x = state.get("x")?;
        // A product of matrices, so that the order of sums and the shape of the batch could matter.
        let next = x.f_matmul(x)?.f_mul_scalar(0.05)?.f_tanh()?.f_add(&x.f_mul_scalar(0.8)?)?;
        let next = next.f_add(&noise.f_mul_scalar(0.3)?)?;
        state.tensors = vec![("x".into(), next)];
        state.step += 1;
        Ok(())
    }

    fn finish_block(&self, _block: u32, state: State) -> Result<Node> {
        let values = to_vec(state.get("x")?)?;
        let mut moments = Moments::new(PIXELS);
        let samples = values.chunks(PIXELS);
        samples.clone().for_each(|sample| moments.push(sample));
        let sums = samples.map(|sample| sample.iter().sum()).collect();
        Ok(Node {
            moments: vec![("x".into(), moments)],
            samples: vec![("sum".into(), sums)],
            draws: Vec::new(),
            lost: 0,
        })
    }

    fn finish(&self, node: Node) -> Result<ObjectRecord> {
        let Some((_, moments)) = node.moments.first() else { return Err(Error::internal("a node without moments")) };
        let shape: Vec<usize> = SHAPE.iter().map(|&side| side as usize).collect();
        let array = |values: &[f64]| RecordArray {
            shape: shape.clone(),
            values: values.iter().map(|&value| value as f32).collect(),
        };
        Ok(ObjectRecord {
            id: self.id.clone(),
            status: Status::Done,
            reason: String::new(),
            flags: 0,
            scalars: vec![("samples".into(), moments.count as f64)],
            arrays: vec![("mean".into(), array(&moments.mean)), ("variance".into(), array(&moments.variance()))],
            samples: node.samples,
        })
    }
}

/// Ids of well-behaved objects.
pub fn names(count: u32) -> Vec<(String, String)> {
    (0..count).map(|index| (format!("toy-{index}"), String::new())).collect()
}

/// Writes a config, a catalogue and a stand-in for a prior into `root`, for objects given by id and instructions, and
/// reads the config back: 12 samples in blocks of 2, 6 steps.
pub fn config(root: &Path, objects: &[(String, String)], shard_objects: u32) -> Result<Config> {
    let fault = |error: std::io::Error| Error::file(root, error);
    let mut catalog = std::fs::File::create(root.join("catalog.csv")).map_err(fault)?;
    writeln!(catalog, "object_id,ra,dec,redshift,{COLUMN}").map_err(fault)?;
    for (index, (id, instructions)) in objects.iter().enumerate() {
        writeln!(catalog, "{id},{},1.5,0.3,{instructions}", 150.0 + index as f64 / 100.0).map_err(fault)?;
    }
    std::fs::write(root.join("prior.safetensors"), b"a toy needs no weights").map_err(fault)?;
    let text = format!(
        "[survey]\nname = \"toy\"\nfolder = \"run\"\nseed = 5\nshard_objects = {shard_objects}\n\
         [catalog]\npaths = [\"catalog.csv\"]\n\
         [data]\nbands = [\"g\", \"r\"]\nimage = \"{{id}}-{{band}}-{{{COLUMN}}}.fits\"\npsf = \"{{id}}-{{band}}-psf.fits\"\n\
         [prior]\npath = \"prior.safetensors\"\n\
         [sampler]\nsteps = 6\n[posterior]\nsamples = 12\nblock = 2\n\
         [run]\ndevice = \"cpu\"\nthreads = 1\njournal_interval = 0.01\nhang_timeout = 20\nclaim_timeout = 5\n"
    );
    let path = root.join("survey.toml");
    std::fs::write(&path, text).map_err(fault)?;
    Config::read(&path)
}
