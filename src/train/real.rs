//! Real galaxies: read from files, cleaned, completed beyond their isophotal edges, and viewed under augmentation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::augment::AugmentationConfig;
use super::dataset::DatasetConfig;
use super::procedural::Grid;
use super::stream::Stream;
use crate::{Error, Result};

/// A file of real galaxies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealSource {
    pub path: PathBuf,
}

/// One real galaxy, ready to be viewed.
pub struct RealGalaxy {}

impl RealGalaxy {
    /// A random view of it on the grid.
    pub fn view(&self, grid: &Grid, _augmentation: &AugmentationConfig, _stream: &mut Stream) -> Vec<f32> {
        vec![0.0; grid.bands.len() * grid.size * grid.size]
    }

    /// Adds everything that it is to the hasher.
    pub fn hash(&self, _hasher: &mut blake3::Hasher) {}
}

/// Reads the galaxies of a source.
pub fn read(source: &RealSource, _grid: &Grid, _seed: u64, _name: &str) -> Result<Vec<RealGalaxy>> {
    Err(Error::file(&source.path, "real galaxies cannot be read yet: leave [[data.real]] out"))
}

/// Splits by galaxy, near-duplicates together.
pub fn split(galaxies: Vec<RealGalaxy>, _config: &DatasetConfig) -> (Vec<RealGalaxy>, Vec<RealGalaxy>) {
    (galaxies, Vec::new())
}
