//! The images that a prior learns from: procedural galaxies from a pool, real ones with augmentation, and a held-out part
//! of both. Every image is a pure function of (seed, draw).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use serde::{Deserialize, Serialize};

use super::augment::{self, AugmentationConfig};
use super::collection::cache::{CachedImages, ImagesSection};
use super::config::OptimizerSection;
use super::procedural::{self, Grid};
use super::real::{self, RealGalaxy, RealSource};
use super::source::ImageSource;
use super::stream::Stream;
use crate::random::Purpose;
use crate::{Error, Result};

/// Changes whenever the procedural generator draws other galaxies, so that old caches are not taken for new ones.
const GENERATOR: u32 = 2;
/// Held-out procedural galaxies are numbered from here, training ones from 0.
const HELDOUT_FIRST: u64 = 1 << 40;

/// The `[data]` table of a training config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetConfig {
    /// Pixels on a side.
    pub size: usize,
    /// Pitch, kpc.
    pub pixel_kpc: f64,
    /// Any of g, r, i, z, y.
    pub bands: Vec<String>,
    /// The band whose total flux is one.
    pub reference_band: String,
    pub seed: u64,
    /// Share of the draws that are procedural; the rest are real ones (all are procedural when there are no real ones).
    pub procedural_fraction: f64,
    /// Procedural galaxies to train on; each is seen in its eight orientations.
    pub pool: usize,
    /// Procedural galaxies held out.
    pub heldout: usize,
    /// Share of the real galaxies held out.
    pub heldout_fraction: f64,
    /// Where the pool is kept between runs, if anywhere.
    pub cache: Option<PathBuf>,
    pub augmentation: AugmentationConfig,
    pub real: Vec<RealSource>,
    /// A file of `unseeing dataset`: all images come from it, and nothing above is used but the grid and the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<ImagesSection>,
}

impl Default for DatasetConfig {
    fn default() -> Self {
        let grid = Grid::demonstration();
        DatasetConfig {
            size: grid.size,
            pixel_kpc: grid.pixel_kpc,
            bands: grid.bands,
            reference_band: "r".into(),
            seed: 0,
            procedural_fraction: 0.65,
            pool: 12_000,
            heldout: 256,
            heldout_fraction: 0.1,
            cache: None,
            augmentation: AugmentationConfig::default(),
            real: Vec::new(),
            images: None,
        }
    }
}

impl DatasetConfig {
    /// The images that it describes, as the training loop sees them.
    pub fn source(&self, optimizer: &OptimizerSection) -> Result<Arc<dyn ImageSource>> {
        let Some(images) = &self.images else { return Ok(Arc::new(Dataset::open(self)?)) };
        if !self.real.is_empty() {
            return Err(Error::usage(
                "[data.images] and [[data.real]] exclude each other: all images come from the file",
            ));
        }
        Ok(Arc::new(CachedImages::open(images, &self.grid()?, self.seed, optimizer.shifts(images.shift))?))
    }

    /// The grid that it describes; an error says what is wrong with it.
    pub fn grid(&self) -> Result<Grid> {
        let reference = self.bands.iter().position(|band| *band == self.reference_band).ok_or_else(|| {
            Error::usage(format!("reference_band `{}` is not one of the bands {:?}", self.reference_band, self.bands))
        })?;
        let grid = Grid { size: self.size, pixel_kpc: self.pixel_kpc, bands: self.bands.clone(), reference };
        grid.check()?;
        Ok(grid)
    }

    fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.procedural_fraction) || !(0.0..0.9).contains(&self.heldout_fraction) {
            return Err(Error::usage("procedural_fraction must be in 0..1 and heldout_fraction in 0..0.9"));
        }
        if self.pool == 0 && self.procedural_fraction > 0.0 {
            return Err(Error::usage("pool = 0 leaves no procedural galaxies: set procedural_fraction = 0 as well"));
        }
        if self.real.is_empty() && self.procedural_fraction < 1.0 && self.pool == 0 {
            return Err(Error::usage("there is nothing to train on: pool is 0 and there are no [[data.real]] sources"));
        }
        for (index, source) in self.real.iter().enumerate() {
            if self.real[..index].iter().any(|other| other.path == source.path) {
                // Its galaxies would be split into training and held-out ones twice, independently.
                let what = "is named twice under [[data.real]]: galaxies would be trained on and held out at once";
                return Err(Error::usage(format!("{} {what}", source.path.display())));
            }
        }
        self.augmentation.check()
    }
}

/// Training and held-out images.
pub struct Dataset {
    config: DatasetConfig,
    grid: Grid,
    /// Square roots of the flux of the procedural galaxies, half precision: 5e-4 of the flux, 1e-9 at the faint end.
    pool: Vec<f16>,
    train: Vec<RealGalaxy>,
    heldout: Vec<RealGalaxy>,
    /// Fixed views of each held-out real galaxy, so that the held-out part has the mixture of the training part.
    views: usize,
    digest: String,
}

impl Dataset {
    /// Draws (or reads from the cache) the procedural pool and reads the real galaxies. Takes a minute for the default
    /// pool on two cores. Relative paths are taken as they are.
    pub fn open(config: &DatasetConfig) -> Result<Dataset> {
        config.check()?;
        let grid = config.grid()?;
        let pool = read_or_draw_pool(config, &grid)?;
        let mut train = Vec::new();
        let mut heldout = Vec::new();
        for (number, source) in config.real.iter().enumerate() {
            let name = format!("{number}");
            let (kept, out) = real::split(real::read(source, &grid, config.seed, &name)?, config);
            train.extend(kept);
            heldout.extend(out);
        }
        let share = config.procedural_fraction.clamp(0.05, 1.0);
        let wanted = config.heldout as f64 * (1.0 - share) / share;
        let views =
            if heldout.is_empty() { 0 } else { (wanted / heldout.len() as f64).round().clamp(1.0, 8.0) as usize };
        let digest = digest(config, &pool, [&train, &heldout])?;
        Ok(Dataset { config: config.clone(), grid, pool, train, heldout, views, digest })
    }

    /// The grid of the images.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Training image number `draw`: flux per pixel `[C, n, n]`, the reference band sums to one.
    pub fn training_image(&self, draw: u64) -> Vec<f32> {
        let mut choice = Stream::new(self.config.seed, "training", draw, Purpose::TrainingChoice);
        let mut stream = Stream::new(self.config.seed, "training", draw, Purpose::Augmentation);
        let procedural = choice.chance(self.config.procedural_fraction);
        if (procedural || self.train.is_empty()) && self.config.pool > 0 {
            let index = choice.integer(0, self.config.pool - 1);
            let image = augment::orient(&self.pooled(index), &self.grid, choice.integer(0, 7));
            return augment::jitter(image, &self.grid, 0.5 * self.config.augmentation.colour, &mut stream);
        }
        let galaxy = &self.train[choice.integer(0, self.train.len() - 1)];
        galaxy.view(&self.grid, &self.config.augmentation, &mut stream)
    }

    /// Held-out images: procedural ones first, then fixed views of the held-out real galaxies.
    pub fn heldout_len(&self) -> usize {
        self.config.heldout + self.views * self.heldout.len()
    }

    /// Held-out image `index` (taken modulo `heldout_len`), in the form of `training_image`. None of them is a view of
    /// a galaxy that is trained on.
    pub fn heldout_image(&self, index: usize) -> Vec<f32> {
        let index = index % self.heldout_len().max(1);
        if index < self.config.heldout || self.heldout.is_empty() {
            return procedural::draw(self.config.seed, HELDOUT_FIRST + index as u64, &self.grid).image;
        }
        let view = index - self.config.heldout;
        let mut stream = Stream::new(self.config.seed, "heldout", view as u64, Purpose::Augmentation);
        self.heldout[view / self.views.max(1)].view(&self.grid, &self.config.augmentation, &mut stream)
    }

    /// How many galaxies there are: procedural and real to train on, procedural and real held out.
    pub fn counts(&self) -> [usize; 4] {
        [self.config.pool, self.train.len(), self.config.heldout, self.heldout.len()]
    }

    /// blake3 of the config and of all galaxies, before augmentation.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Effective resolution of the images (FWHM, blur and pixel together), kpc.
    pub fn resolution_kpc(&self) -> f64 {
        self.grid.resolution_kpc()
    }

    fn pooled(&self, index: usize) -> Vec<f32> {
        let length = self.grid.bands.len() * self.grid.size * self.grid.size;
        let mut image: Vec<f32> =
            self.pool[index * length..(index + 1) * length].iter().map(|root| root.to_f32().powi(2)).collect();
        procedural::normalise(&mut image, &self.grid);
        image
    }
}

fn digest(config: &DatasetConfig, pool: &[f16], real: [&[RealGalaxy]; 2]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    // Where things lie does not change what is learned.
    let mut portable = config.clone();
    portable.cache = None;
    for source in &mut portable.real {
        source.path = source.path.file_name().map(PathBuf::from).unwrap_or_default();
    }
    let text = serde_json::to_vec(&portable).map_err(|error| Error::internal(format!("dataset config: {error}")))?;
    hasher.update(&GENERATOR.to_le_bytes());
    hasher.update(&text);
    hasher.update(&bytes_of(pool));
    for (side, galaxies) in real.into_iter().enumerate() {
        hasher.update(&[side as u8]);
        galaxies.iter().for_each(|galaxy| galaxy.digest_into(&mut hasher));
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn bytes_of(pool: &[f16]) -> Vec<u8> {
    pool.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Identifies a pool: what it is drawn from.
fn pool_key(config: &DatasetConfig, grid: &Grid) -> Result<blake3::Hash> {
    let what = (GENERATOR, config.seed, config.pool, grid);
    let text = serde_json::to_vec(&what).map_err(|error| Error::internal(format!("pool key: {error}")))?;
    Ok(blake3::hash(&text))
}

fn read_or_draw_pool(config: &DatasetConfig, grid: &Grid) -> Result<Vec<f16>> {
    let key = pool_key(config, grid)?;
    let length = config.pool * grid.bands.len() * grid.size * grid.size;
    if let Some(pool) = config.cache.as_deref().and_then(|path| read_cache(path, key, length)) {
        return Ok(pool);
    }
    let pool = draw_pool(config, grid);
    if let Some(path) = &config.cache {
        write_cache(path, key, &pool)?;
    }
    Ok(pool)
}

/// A cache that is missing, of another pool or damaged is no error: the pool is drawn again.
fn read_cache(path: &Path, key: blake3::Hash, length: usize) -> Option<Vec<f16>> {
    let bytes = std::fs::read(path).ok()?;
    let (head, body) = bytes.split_at_checked(64)?;
    if body.len() != 2 * length || head[..32] != key.as_bytes()[..] || head[32..] != blake3::hash(body).as_bytes()[..] {
        return None;
    }
    Some(body.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]])).collect())
}

fn write_cache(path: &Path, key: blake3::Hash, pool: &[f16]) -> Result<()> {
    let body = bytes_of(pool);
    let mut bytes = Vec::with_capacity(body.len() + 64);
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(blake3::hash(&body).as_bytes());
    bytes.extend_from_slice(&body);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Error::file(folder, format!("cannot create: {error}")))?;
    }
    std::fs::write(path, bytes).map_err(|error| Error::file(path, format!("cannot write the pool's cache: {error}")))
}

/// Draws the pool on all available threads. A galaxy depends on its index only, so the threads change nothing.
fn draw_pool(config: &DatasetConfig, grid: &Grid) -> Vec<f16> {
    let length = grid.bands.len() * grid.size * grid.size;
    let mut pool = vec![f16::ZERO; config.pool * length];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = config.pool.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (thread, part) in pool.chunks_mut(share * length).enumerate() {
            scope.spawn(move || {
                for (index, slot) in part.chunks_exact_mut(length).enumerate() {
                    let galaxy = procedural::draw(config.seed, (thread * share + index) as u64, grid);
                    slot.iter_mut().zip(&galaxy.image).for_each(|(to, from)| *to = f16::from_f32(from.max(0.0).sqrt()));
                }
            });
        }
    });
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> DatasetConfig {
        DatasetConfig { pool: 12, heldout: 3, seed: 9, ..DatasetConfig::default() }
    }

    #[test]
    fn images_are_functions_of_seed_and_draw_and_normalised() {
        let dataset = Dataset::open(&small()).unwrap();
        let again = Dataset::open(&small()).unwrap();
        assert_eq!(dataset.digest(), again.digest());
        for draw in [0, 1, 77, 1 << 33] {
            let image = dataset.training_image(draw);
            assert_eq!(image, again.training_image(draw));
            let sum: f64 = image[64 * 64..2 * 64 * 64].iter().map(|&v| f64::from(v)).sum();
            assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }
        assert_ne!(dataset.training_image(0), dataset.training_image(1));
        assert_eq!(dataset.heldout_len(), 3);
        assert_eq!(dataset.heldout_image(1), again.heldout_image(1));
    }

    #[test]
    fn a_cache_gives_the_same_pool_and_a_damaged_one_is_drawn_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pool.bin");
        let config = DatasetConfig { cache: Some(path.clone()), ..small() };
        let first = Dataset::open(&config).unwrap();
        let second = Dataset::open(&config).unwrap();
        assert_eq!(first.training_image(4), second.training_image(4));
        assert_eq!(first.digest(), Dataset::open(&small()).unwrap().digest());
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Dataset::open(&config).unwrap().digest(), first.digest());
    }

    #[test]
    fn bad_configs_say_what_is_wrong() {
        let unknown = toml::from_str::<DatasetConfig>("sizes = 64").unwrap_err().to_string();
        assert!(unknown.contains("sizes"), "{unknown}");
        let config = DatasetConfig { reference_band: "u".into(), ..small() };
        assert!(Dataset::open(&config).err().unwrap().to_string().contains("reference_band `u`"));
        let source =
            "path = 'x.npz'\npixel_scale = 0.1\npsf_fwhm = 0.1\nredshift = { kind = 'drawn', low = 1, high = 2 }";
        let source: RealSource = toml::from_str(source).unwrap();
        let config = DatasetConfig { real: vec![source.clone(), source], ..small() };
        assert!(Dataset::open(&config).err().unwrap().to_string().contains("named twice"));
    }
}
