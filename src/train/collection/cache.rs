//! A collection's file as a source of training images. Images are read one at a time, when they are asked for, and each is
//! checked against its digest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::FORMAT;
use super::build::digest;
use crate::io::hdf5::{Attribute, Kind, Reader};
use crate::prior::card::Normalisation;
use crate::random::Purpose;
use crate::train::augment::orient;
use crate::train::procedural::Grid;
use crate::train::procedural::canvas::FWHM_PER_SIGMA;
use crate::train::source::ImageSource;
use crate::train::stream::Stream;
use crate::{Error, Result};

/// The `[data.images]` table of a training config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesSection {
    /// A file of `unseeing dataset`.
    pub path: PathBuf,
    /// Whether images are shown in their eight orientations.
    #[serde(default = "yes")]
    pub orientations: bool,
    #[serde(default)]
    pub normalisation: NormalisationKind,
    /// Largest random shift along either axis, whole pixels (a stage of the optimizer may have its own).
    #[serde(default)]
    pub shift: usize,
}

fn yes() -> bool {
    true
}

/// What makes an image's scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormalisationKind {
    /// The total flux of the reference band is one.
    #[default]
    ReferenceBand,
    /// Each band's peak is one (the paper).
    BandPeak,
}

impl NormalisationKind {
    /// As the prior's card says it.
    pub fn of_card(self, reference: usize) -> Normalisation {
        match self {
            NormalisationKind::ReferenceBand => Normalisation::ReferenceBand { band: reference },
            NormalisationKind::BandPeak => Normalisation::BandPeak,
        }
    }
}

/// The images of a file.
pub struct CachedImages {
    reader: Reader,
    grid: Grid,
    stored: usize,
    training: Vec<usize>,
    heldout: Vec<usize>,
    digests: Vec<String>,
    section: ImagesSection,
    seed: u64,
    /// From which draw on which shift: the stages of the training.
    shifts: Vec<(u64, usize)>,
    total: String,
    native_kpc: f64,
}

impl CachedImages {
    /// Opens the file and checks that it has the images that `grid` asks for. `shifts` are pairs of a draw's number and the
    /// largest shift from there on; the first is that of draw 0.
    pub fn open(section: &ImagesSection, grid: &Grid, seed: u64, shifts: Vec<(u64, usize)>) -> Result<Self> {
        let path = &section.path;
        let wrong = |what: String| Error::usage(format!("{}: {what}", path.display()));
        let reader = Reader::open(path).map_err(|error| Error::usage(error.to_string()))?;
        let format = reader.text_attribute("format").unwrap_or_default();
        if format != FORMAT {
            return Err(wrong(format!("format `{format}`, expected `{FORMAT}`: make it with `unseeing dataset`")));
        }
        let number = |name: &str| match reader.attribute("", name)? {
            Some(Attribute::Number(value)) => Ok(value),
            Some(Attribute::Integer(value)) => Ok(value as f64),
            _ => Err(wrong(format!("no number `{name}` among the file's attributes"))),
        };
        let (size, shift) = (number("size")? as usize, number("shift")? as usize);
        let bands = match reader.attribute("", "bands")? {
            Some(Attribute::Texts(bands)) => bands,
            _ => Vec::new(),
        };
        let pitch = number("pixel_kpc")?;
        if size != grid.size || pitch != grid.pixel_kpc || bands != grid.bands {
            return Err(wrong(format!(
                "has images of {size} pixels of {pitch} kpc in {bands:?}; [data] asks for {} of {} kpc in {:?}",
                grid.size, grid.pixel_kpc, grid.bands
            )));
        }
        let largest = shifts.iter().map(|&(_, shift)| shift).max().unwrap_or(0);
        if largest > shift {
            return Err(wrong(format!(
                "was made with shift = {shift}; the training wants to shift by {largest} pixels"
            )));
        }
        let stored = size + 2 * shift;
        let digests = reader.read_texts("digest")?;
        let expected = vec![digests.len(), bands.len(), stored, stored];
        if reader.info("images")? != (expected.clone(), Kind::F32) {
            return Err(wrong(format!("dataset `images` is not {expected:?} of float32: the file is damaged")));
        }
        let (_, flags) = reader.read::<u8>("heldout")?;
        if flags.len() != digests.len() || [0, 1].iter().any(|side| !flags.contains(side)) {
            let what = "needs images to train on and images held out: more subhalos, or another heldout_fraction";
            return Err(wrong(what.into()));
        }
        let side = |wanted: bool| (0..flags.len()).filter(|&index| (flags[index] != 0) == wanted).collect::<Vec<_>>();
        Ok(CachedImages {
            total: reader.text_attribute("digest")?,
            native_kpc: number("native_kpc")?,
            training: side(false),
            heldout: side(true),
            grid: grid.clone(),
            section: section.clone(),
            reader,
            stored,
            digests,
            seed,
            shifts,
        })
    }

    /// The stored image, `[C, S, S]`.
    fn stored(&self, index: usize) -> Result<Vec<f32>> {
        let image = self.reader.read_rows::<f32>("images", index..index + 1)?;
        if digest(&image) != self.digests[index] {
            let what = format!("image {index} is damaged (its digest differs): make the file anew");
            return Err(Error::file(self.reader.path(), what));
        }
        Ok(image)
    }

    /// The part of a stored image that begins at `corner` (row, column), normalised.
    fn cut(&self, stored: &[f32], corner: [usize; 2]) -> Result<Vec<f32>> {
        let (n, side) = (self.grid.size, self.stored);
        let mut image = Vec::with_capacity(self.grid.bands.len() * n * n);
        for plane in stored.chunks_exact(side * side) {
            let lines = plane.chunks_exact(side).skip(corner[0]).take(n);
            lines.for_each(|line| image.extend_from_slice(&line[corner[1]..corner[1] + n]));
        }
        let area = n * n;
        let total = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>();
        let peak = |values: &[f32]| f64::from(values.iter().copied().fold(0.0f32, f32::max));
        let one = total(&image[self.grid.reference * area..][..area]);
        for plane in image.chunks_exact_mut(area) {
            let scale = match self.section.normalisation {
                NormalisationKind::ReferenceBand => one,
                NormalisationKind::BandPeak => peak(plane),
            };
            if !(scale > 0.0 && scale.is_finite()) {
                return Err(Error::file(self.reader.path(), "an image has no light where it is cut out"));
            }
            plane.iter_mut().for_each(|value| *value = (f64::from(*value) / scale) as f32);
        }
        Ok(image)
    }
}

impl ImageSource for CachedImages {
    fn shape(&self) -> [i64; 3] {
        [self.grid.bands.len() as i64, self.grid.size as i64, self.grid.size as i64]
    }

    fn training_image(&self, draw: u64) -> Result<Vec<f32>> {
        let mut choice = Stream::new(self.seed, "training", draw, Purpose::TrainingChoice);
        let stored = self.stored(self.training[choice.integer(0, self.training.len() - 1)])?;
        let largest = self.shifts.iter().rev().find(|(first, _)| *first <= draw).map_or(0, |&(_, shift)| shift);
        let middle = (self.stored - self.grid.size) / 2;
        let corner = [0; 2].map(|_| middle - largest + choice.integer(0, 2 * largest));
        let image = self.cut(&stored, corner)?;
        Ok(if self.section.orientations { orient(&image, &self.grid, choice.integer(0, 7)) } else { image })
    }

    fn heldout_len(&self) -> usize {
        self.heldout.len()
    }

    fn heldout_image(&self, index: usize) -> Result<Vec<f32>> {
        let middle = (self.stored - self.grid.size) / 2;
        self.cut(&self.stored(self.heldout[index % self.heldout.len().max(1)])?, [middle; 2])
    }

    fn digest(&self) -> String {
        // What is done with the images belongs to what they are.
        let what = (self.seed, self.section.orientations, self.section.normalisation, &self.shifts);
        crate::io::digest::bytes(format!("{} {what:?}", self.total).as_bytes())
    }

    fn description(&self) -> String {
        let name = self.section.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{} simulated images of {name} ({} more held out, by subhalo)", self.training.len(), self.heldout.len())
    }

    /// Pixels of the simulation and of the grid, both as top hats.
    fn resolution_kpc(&self) -> f64 {
        self.native_kpc.hypot(self.grid.pixel_kpc) * FWHM_PER_SIGMA / 12f64.sqrt()
    }
}
