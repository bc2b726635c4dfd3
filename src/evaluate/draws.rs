//! Draws of a prior, without data, and how many ranks share the making of many of them. Draws are made in blocks of a fixed
//! size, each a pure function of its number; each finished block is a file of its own, published whole, in a folder whose
//! name holds a digest of all that its numbers depend on, the program included. So a run that is interrupted, or asked for
//! more draws, goes on from what there is, and no number depends on the ranks.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Tensor;

use super::Outcome;
use super::mock::chain_draws;
use crate::config::SamplerConfig;
use crate::io::hdf5::{Attribute, Reader, Writer};
use crate::io::{bytes, digest, publish};
use crate::prior::store::{Store, to_bytes};
use crate::prior::{Covariance, Prior, ancestral};
use crate::random::BlockNoise;
use crate::sampler::{self, Sampler, to_vec};
use crate::{Error, Result};

/// Draws in one batch of the network, and in one file.
pub const BLOCK: u32 = 16;
/// Noise levels of a draw, unless somebody wants others: with those the moments of the shipped priors were measured.
pub const STEPS: u32 = 32;
/// The metadata key of a block's file.
const KEY: &str = "draws";
/// The name of its tensor.
const IMAGES: &str = "stretched";

/// Makes draws: the default sampler's chain without data, so that they are draws of the prior that posteriors are made with.
pub struct Drawer<'a> {
    pub prior: &'a Prior,
    sampler: Box<dyn Sampler>,
    pub seed: u64,
    pub steps: u32,
}

impl<'a> Drawer<'a> {
    /// Prepares the sampler for `steps` noise levels.
    pub fn new(prior: &'a Prior, seed: u64, steps: u32) -> Result<Self> {
        let config = SamplerConfig { steps, ..SamplerConfig::default() };
        Ok(Drawer { prior, sampler: sampler::build(&config, prior)?, seed, steps })
    }

    /// Block number `index`, `[BLOCK, C, n, n]` in the prior's stretched space. The noise of a draw is keyed by its own
    /// number; blocks are always full, since a batch of another size may round otherwise.
    pub fn block(&self, index: u32) -> Result<Tensor> {
        let noise = BlockNoise::new(self.seed, "prior draws", index * BLOCK, BLOCK);
        let device = self.prior.covariance.mean.device();
        Ok(chain_draws(self.prior.denoiser.as_ref(), self.sampler.as_ref(), &noise, device)?.f_detach()?)
    }

    /// Draws `first .. first + count`, `[count, C, n, n]`.
    pub fn draws(&self, first: u32, count: u32) -> Result<Tensor> {
        let blocks = first / BLOCK..(first + count).div_ceil(BLOCK);
        let parts = blocks.map(|index| self.block(index)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&parts, 0)?.f_narrow(0, i64::from(first % BLOCK), i64::from(count))?)
    }
}

/// Largest noise level that draws of a network start from where its own covariance is not known yet, stretched units; the
/// images of such networks lie between -1 and 1 (the choice of Karras et al. 2022 for them).
const START: f64 = 80.0;
/// Where they end, or where the network does.
const END: f64 = 0.02;
/// Components of a covariance that is measured on draws, and the least variance of a pixel beside them: as in training.
const RANK: i64 = 64;
const FLOOR: f64 = 1e-4;

/// The Gaussian part of a prior whose network does not need it, measured on `count` draws of the network by its
/// probability flow with `steps` noise levels.
pub fn measured_covariance(prior: &Prior, seed: u64, steps: u32, count: u32) -> Result<Covariance> {
    let range = [START.min(prior.card.sigma_max), END.max(prior.card.sigma_min)];
    let mut parts = Vec::new();
    for first in (0..count).step_by(BLOCK as usize) {
        let noise = BlockNoise::new(seed, "draws for the covariance", first, BLOCK.min(count - first));
        parts.push(ancestral::draw(prior.denoiser.as_ref(), &prior.covariance, range, steps, &noise)?);
    }
    let images = Tensor::f_cat(&parts, 0)?;
    Covariance::fit(&images, RANK.min(i64::from(count) - 1), FLOOR)
}

/// The files of the blocks of one set of draws.
pub struct Parts {
    /// Folder of all sets that were begun for one output.
    root: PathBuf,
    folder: PathBuf,
    /// Digest of all that the draws depend on, but their number.
    pub key: String,
    pub count: u32,
}

impl Parts {
    /// The blocks of `count` draws for the output `out`, beside it. `machine` is what moves bits besides the prior, the seed
    /// and the steps: the program, the libraries, the threads.
    pub fn new(out: &Path, drawer: &Drawer, machine: &str, count: u32) -> Parts {
        let parts = serde_json::json!({
            "machine": machine,
            "prior": drawer.prior.digest,
            "seed": drawer.seed,
            "steps": drawer.steps,
            "block": BLOCK,
        });
        let key = digest::bytes(parts.to_string().as_bytes());
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(".parts");
        let root = out.with_file_name(name);
        Parts { folder: root.join(&key[..12]), root, key, count }
    }

    /// The number of blocks.
    pub fn blocks(&self) -> u32 {
        self.count.div_ceil(BLOCK)
    }

    fn path(&self, index: u32) -> PathBuf {
        self.folder.join(format!("{index:06}.safetensors"))
    }

    /// Makes this rank's share of the blocks that are not there yet, on the CPU. `told` hears of each one.
    pub fn work(
        &self,
        drawer: &Drawer,
        (rank, ranks): (usize, usize),
        stop: &AtomicBool,
        told: &dyn Fn(u32),
    ) -> Result<Outcome> {
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| Error::file(&self.folder, format!("cannot create the folder: {error}")))?;
        for index in (0..self.blocks()).filter(|&index| index as usize % ranks == rank) {
            if stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Stopped);
            }
            let path = self.path(index);
            if !path.exists() {
                let file = to_bytes(KEY, &self.key, &[(IMAGES.to_owned(), drawer.block(index)?)])?;
                publish::publish_bytes(&path, &file)?;
            }
            told(index);
        }
        Ok(Outcome::Finished)
    }

    /// One finished block, without what is beyond the last draw.
    pub fn block(&self, index: u32) -> Result<Tensor> {
        let path = self.path(index);
        let spoilt = |what: String| Error::file(&path, format!("{what}: remove it and run again"));
        let store = Store::from_bytes(&bytes::read(&path)?, KEY).map_err(|error| spoilt(error.to_string()))?;
        let images = store.any(IMAGES).map_err(|error| spoilt(error.to_string()))?;
        if store.text != self.key || images.size().first() != Some(&i64::from(BLOCK)) {
            return Err(spoilt("is not a block of these draws".into()));
        }
        let wanted = BLOCK.min(self.count - index * BLOCK);
        Ok(images.f_narrow(0, 0, i64::from(wanted))?)
    }

    /// All draws, `[count, C, n, n]` in the stretched space.
    pub fn images(&self) -> Result<Tensor> {
        let parts = (0..self.blocks()).map(|index| self.block(index)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&parts, 0)?)
    }

    /// Writes all draws as HDF5: `stretched` and `flux` `[count, C, n, n]`, a row to a chunk, and where they came from as
    /// attributes. A block at a time is in memory.
    pub fn write_hdf5(&self, path: &Path, drawer: &Drawer) -> Result<()> {
        let prior = drawer.prior;
        let card = serde_json::to_string(&prior.card).map_err(|error| Error::internal(error.to_string()))?;
        let shape: Vec<usize> =
            [i64::from(self.count)].iter().chain(&prior.shape()).map(|&side| side as usize).collect();
        publish::publish_path(path, |temporary| {
            let writer = Writer::create(temporary)?;
            for (name, value) in [
                ("draws_key", Attribute::Text(self.key.clone())),
                ("prior_blake3", Attribute::Text(prior.digest.clone())),
                ("card", Attribute::Text(card)),
                ("bands", Attribute::Texts(prior.card.bands.clone())),
                ("pixel_kpc", Attribute::Number(prior.card.pixel_kpc)),
                ("seed", Attribute::Integer(drawer.seed)),
                ("steps", Attribute::Integer(drawer.steps.into())),
            ] {
                writer.attribute(name, &value)?;
            }
            let stretched = writer.rows::<f32>("stretched", &shape)?;
            let flux = writer.rows::<f32>("flux", &shape)?;
            flux.attribute("units", &"flux per pixel at amplitude 1".into())?;
            for index in 0..self.blocks() {
                let images = self.block(index)?;
                let (first, rows) = ((index * BLOCK) as usize, images.size()[0] as usize);
                stretched.write(first, rows, &to_vec(&images)?)?;
                flux.write(first, rows, &to_vec(&prior.card.stretch.inverse(&images)?)?)?;
            }
            drop((stretched, flux));
            writer.close()
        })
    }

    /// Whether an HDF5 file holds these draws, and as many.
    pub fn is_in(&self, path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        let reader = Reader::open(path)?;
        let same = reader.text_attribute("draws_key").is_ok_and(|key| key == self.key);
        Ok(same && reader.info(IMAGES).is_ok_and(|(shape, _)| shape.first() == Some(&(self.count as usize))))
    }

    /// Removes the blocks, once what was made of them is in place.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file(&self.root, format!("cannot remove the blocks: {error}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::card::{Architecture, Card, Normalisation};
    use crate::prior::file::{moment_tensors, prior_bytes};
    use tch::{Device, Kind};

    /// A Gaussian prior of 8 pixels.
    pub fn gaussian() -> Prior {
        let flat = |value: f64| Tensor::full([64], value, (Kind::Float, Device::Cpu));
        let components = Tensor::full([1, 64], 0.125, (Kind::Float, Device::Cpu));
        let covariance =
            Covariance::new([1, 8, 8], flat(1.0), components, Tensor::from_slice(&[4.0f32]), flat(0.1)).unwrap();
        let card = Card {
            bands: vec!["r".into()],
            normalisation: Normalisation::ReferenceBand { band: 0 },
            sigma_max: 10.0,
            ..Card::example(Architecture::Gaussian, 8)
        };
        let image = flat(0.5).view([1, 8, 8]);
        let moments = moment_tensors(&covariance, &image, &image, 0).unwrap();
        Prior::from_bytes(&prior_bytes(&card, &[], moments).unwrap(), Device::Cpu).unwrap()
    }

    #[test]
    fn blocks_of_any_ranks_after_any_stop_join_to_the_same_draws() {
        let prior = gaussian();
        let drawer = Drawer::new(&prior, 3, 4).unwrap();
        let want = drawer.draws(0, 40).unwrap();
        assert_eq!(drawer.draws(20, 15).unwrap(), want.narrow(0, 20, 15));
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("draws.h5");
        let parts = Parts::new(&out, &drawer, "here", 40);
        let stop = AtomicBool::new(false);
        // Two ranks of three, the second of which is stopped at once; then another number of ranks goes on.
        assert_eq!(parts.work(&drawer, (0, 3), &stop, &|_| {}).unwrap(), Outcome::Finished);
        assert_eq!(parts.work(&drawer, (1, 3), &AtomicBool::new(true), &|_| {}).unwrap(), Outcome::Stopped);
        assert!(parts.images().unwrap_err().to_string().contains("000001"));
        for rank in 0..2 {
            assert_eq!(parts.work(&drawer, (rank, 2), &stop, &|_| {}).unwrap(), Outcome::Finished);
        }
        assert_eq!(parts.images().unwrap(), want);
        parts.write_hdf5(&out, &drawer).unwrap();
        let reader = Reader::open(&out).unwrap();
        let (shape, values) = reader.read::<f32>("stretched").unwrap();
        assert_eq!((shape, values), (vec![40, 1, 8, 8], to_vec(&want).unwrap()));
        assert_eq!(reader.text_attribute("draws_key").unwrap(), parts.key);
        // What moves bits has other blocks; what does not, has the same.
        assert_ne!(Parts::new(&out, &drawer, "there", 40).key, parts.key);
        assert_eq!(Parts::new(&out, &drawer, "here", 41).key, parts.key);
        assert_ne!(Parts::new(&out, &Drawer::new(&prior, 4, 4).unwrap(), "here", 40).key, parts.key);
        // A damaged block is told.
        std::fs::write(parts.path(2), b"half").unwrap();
        assert!(parts.images().unwrap_err().to_string().contains("000002.safetensors"));
        parts.remove().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
