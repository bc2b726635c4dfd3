//! The truths of a simulated survey, as `unseeing simulate` writes them.

use std::collections::HashMap;
use std::path::Path;

use super::features::Place;
use crate::forward::resample::resample_image;
use crate::io::hdf5::{Attribute, Reader};
use crate::product::RecordArray;
use crate::sky::cosmology::theta_arcsec;
use crate::{Error, Result};

/// Pitches that differ by less are those of one redshift, which catalogues have with six decimals.
const SAME_PITCH: f64 = 1e-4;

/// Truths of simulated objects.
pub struct Truths {
    reader: Reader,
    rows: HashMap<String, usize>,
    shape: Vec<usize>,
    /// One for each object, where the file has them.
    redshifts: Vec<f64>,
    features: Option<Features>,
}

/// Injected features, object by object.
struct Features {
    fwhm_kpc: f64,
    places: Vec<f64>,
    flux: Vec<f64>,
    added: Vec<u8>,
}

impl Truths {
    /// Opens a file with `id`, and `flux` `[object, band, pixel, pixel]` in nJy per pixel, each on the grid of its
    /// `redshift` [object]; with injected features also `feature/place` [object, 2], `feature/flux` [object, band] and `feature/added` [object].
    ///
    /// A missing file, or one that is no file of truths, is an error of usage: nothing was done yet.
    pub fn open(path: &Path) -> Result<Truths> {
        Truths::read(path).map_err(|error| Error::usage(error.to_string()))
    }

    fn read(path: &Path) -> Result<Truths> {
        let reader = Reader::open(path)?;
        let rows = reader.read_texts("id")?.into_iter().enumerate().map(|(row, id)| (id, row)).collect();
        let shape = reader.info("flux")?.0;
        if shape.len() != 4 {
            return Err(Error::file(path, format!("`flux` has shape {shape:?}, not [object, band, pixel, pixel]")));
        }
        let features = match reader.attribute("", "feature_fwhm_kpc")? {
            Some(Attribute::Number(fwhm_kpc)) => Some(Features::read(&reader, fwhm_kpc, [shape[0], shape[1]])?),
            _ => None,
        };
        let redshifts = if reader.names()?.iter().any(|name| name == "redshift") {
            reader.read::<f64>("redshift")?.1
        } else {
            Vec::new()
        };
        Ok(Truths { reader, rows, shape, redshifts, features })
    }

    /// The truth of an object, `[C, n, n]`; `None` when the file has none of it.
    pub fn of(&self, id: &str) -> Result<Option<RecordArray>> {
        let Some(&row) = self.rows.get(id) else { return Ok(None) };
        let values = self.reader.read_rows::<f32>("flux", row..row + 1)?;
        Ok(Some(RecordArray { shape: self.shape[1..].to_vec(), values }))
    }

    /// The same on the grid of products with pixels of `pitch` arcsec, which stand for `pixel_kpc` at the catalogue's redshift:
    /// where that is not the true one, the truth's own grid is another.
    ///
    /// Errors: a true redshift that has no distance.
    pub fn at_pitch(&self, id: &str, pixel_kpc: f64, pitch: f64) -> Result<Option<RecordArray>> {
        let Some(mut truth) = self.of(id)? else { return Ok(None) };
        let redshift = self.rows.get(id).and_then(|&row| self.redshifts.get(row));
        if let (Some(&redshift), &[_, _, size]) = (redshift, truth.shape.as_slice()) {
            let own =
                theta_arcsec(pixel_kpc, redshift).map_err(|error| Error::object(id, format!("its truth: {error}")))?;
            if (pitch / own - 1.0).abs() > SAME_PITCH {
                truth.values = resample_image(&truth.values, size, pitch / own);
            }
        }
        Ok(Some(truth))
    }

    /// The injected feature of an object, added or not, with its flux in one band; `None` when the file has none of it, or no
    /// features.
    pub fn feature(&self, id: &str, band: usize) -> Option<Place> {
        let (&row, features) = (self.rows.get(id)?, self.features.as_ref()?);
        let place = [features.places[2 * row], features.places[2 * row + 1]];
        let flux = *features.flux.get(row * self.shape[1] + band)?;
        Some(Place { place, flux, fwhm_kpc: features.fwhm_kpc, added: features.added[row] > 0 })
    }
}

impl Features {
    fn read(reader: &Reader, fwhm_kpc: f64, [objects, bands]: [usize; 2]) -> Result<Features> {
        let (_, places) = reader.read::<f64>("feature/place")?;
        let (_, flux) = reader.read::<f64>("feature/flux")?;
        let (_, added) = reader.read::<u8>("feature/added")?;
        if (places.len(), flux.len(), added.len()) != (2 * objects, bands * objects, objects) {
            let what = format!("its features are not of {objects} objects in {bands} bands, as `flux` is");
            return Err(Error::file(reader.path(), what));
        }
        Ok(Features { fwhm_kpc, places, flux, added })
    }
}
