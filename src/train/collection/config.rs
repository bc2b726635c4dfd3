//! The config of `unseeing dataset`: which files hold which bands in which units, and what is to be made of them. What is
//! not given is as in the idealised images of IllustrisTNG in the bands of HSC (Bottrell et al. 2024, MNRAS 527, 6506).

use std::path::{Path, PathBuf};

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::train::procedural::Grid;
use crate::{Error, Result};

/// A whole config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollectionConfig {
    /// Folders, searched with all that is in them.
    pub from: Vec<PathBuf>,
    /// The HDF5 file that is written.
    pub out: PathBuf,
    /// Pattern (a regular expression) of the names of the files that are images. Its group `subhalo` names the galaxy: all
    /// images of one are on the same side of the split. Where each band has a file of its own, its group `band` tells which.
    pub file_name: String,
    pub units: Units,
    pub native: NativePixel,
    pub bands: Vec<Band>,
    /// The band whose total flux is one.
    pub reference_band: String,
    /// Pixels on a side of the training images, and their pitch in kpc.
    pub size: usize,
    pub pixel_kpc: f64,
    /// Pixels that are kept around them, so that a training can shift them by so much.
    pub shift: usize,
    /// Share of the subhalos that are held out.
    pub heldout_fraction: f64,
    /// Seed of the split.
    pub seed: u64,
}

/// What the files' pixels hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Units {
    /// AB magnitudes per square arcsec; +inf where there is no light.
    MagPerArcsec2,
    /// AB magnitudes of each pixel; +inf where there is no light.
    MagPerPixel,
    /// Flux of each pixel, in any unit that is the same in all bands (nJy, not counts of different zero points).
    Flux,
}

/// The pitch of the files' pixels: a number, or a header keyword and what its unit is in kpc.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NativePixel {
    #[serde(default)]
    pub pixel_kpc: Option<f64>,
    #[serde(default)]
    pub keyword: Option<String>,
    #[serde(default = "one")]
    pub unit_kpc: f64,
}

fn one() -> f64 {
    1.0
}

/// Where one band is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// Any of g, r, i, z, y.
    pub name: String,
    /// The EXTNAME of its HDU; the file's first image if there is none.
    #[serde(default)]
    pub hdu: Option<String>,
    /// What the group `band` of the file's name says, where each band has a file of its own.
    #[serde(default)]
    pub file: Option<String>,
}

impl Default for CollectionConfig {
    fn default() -> Self {
        let band = |name: &str| Band {
            name: name.into(),
            hdu: Some(format!("SUBARU_HSC.{}", name.to_uppercase())),
            file: None,
        };
        CollectionConfig {
            from: Vec::new(),
            out: "images.h5".into(),
            file_name: r"^shalo_(?<snapshot>\d+)-(?<subhalo>\d+)_.*photo\.fits(\.gz)?$".into(),
            units: Units::MagPerArcsec2,
            native: NativePixel { pixel_kpc: None, keyword: Some("CDELT1".into()), unit_kpc: 0.001 },
            bands: ["g", "r", "i"].map(band).to_vec(),
            reference_band: "r".into(),
            size: 256,
            pixel_kpc: 0.4,
            shift: 10,
            heldout_fraction: 0.1,
            seed: 0,
        }
    }
}

impl CollectionConfig {
    /// Reads a config; relative paths in it are taken from its own folder.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |what: String| Error::usage(format!("{}: {what}", path.display()));
        let text =
            std::fs::read_to_string(path).map_err(|error| fail(format!("cannot read the dataset config: {error}")))?;
        let mut config: CollectionConfig = toml::from_str(&text).map_err(|error| fail(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.from.iter_mut().for_each(|from| *from = folder.join(&*from));
        config.out = folder.join(&config.out);
        Ok(config)
    }

    /// The grid that training sees.
    pub fn grid(&self) -> Result<Grid> {
        let bands: Vec<String> = self.bands.iter().map(|band| band.name.clone()).collect();
        let reference = bands.iter().position(|band| *band == self.reference_band).ok_or_else(|| {
            Error::usage(format!("reference_band `{}` is not one of the bands {bands:?}", self.reference_band))
        })?;
        let grid = Grid { size: self.size, pixel_kpc: self.pixel_kpc, bands, reference };
        grid.check()?;
        Ok(grid)
    }

    /// Pixels on a side of the stored images.
    pub fn stored_size(&self) -> usize {
        self.size + 2 * self.shift
    }

    /// Checks what the types cannot say, and compiles the pattern.
    pub fn check(&self) -> Result<Regex> {
        let wrong = |what: String| Err(Error::usage(format!("dataset config: {what}")));
        if self.from.is_empty() {
            return wrong("`from` names no folder with images (or use --from)".into());
        }
        self.grid()?;
        for (index, band) in self.bands.iter().enumerate() {
            if self.bands[..index].iter().any(|other| other.name == band.name) {
                return wrong(format!("the band `{}` is there twice", band.name));
            }
        }
        if self.shift > 512 {
            return wrong(format!("shift = {}: at most 512 pixels", self.shift));
        }
        if !(0.0..0.9).contains(&self.heldout_fraction) {
            return wrong(format!("heldout_fraction = {}: expected 0 to 0.9", self.heldout_fraction));
        }
        let NativePixel { pixel_kpc, keyword, unit_kpc } = &self.native;
        let numbers = pixel_kpc.iter().chain([unit_kpc]).all(|value| *value > 0.0 && value.is_finite());
        if pixel_kpc.is_some() == keyword.is_some() || !numbers {
            return wrong("[native] needs either `pixel_kpc` or `keyword` (with `unit_kpc`), positive".into());
        }
        let pattern = match Regex::new(&self.file_name) {
            Ok(pattern) => pattern,
            Err(error) => return wrong(format!("file_name is not a regular expression: {error}")),
        };
        let groups: Vec<&str> = pattern.capture_names().flatten().collect();
        if !groups.contains(&"subhalo") {
            return wrong("file_name has no group (?<subhalo>...): the split is by galaxy".into());
        }
        let of_files = self.bands.iter().filter(|band| band.file.is_some()).count();
        if of_files != if groups.contains(&"band") { self.bands.len() } else { 0 } {
            return wrong(
                "every band needs `file` if file_name has a group (?<band>...), and none if it has not".into(),
            );
        }
        Ok(pattern)
    }
}
