//! What is read of one target: in every band the image around it, calibrated, and the PSF. Everything after this is
//! computed, so inputs that were read elsewhere and kept (see `bundle`) give the same observation.

use std::path::PathBuf;

use super::cutout::{Exposure, Section};
use super::{Psf, pattern, psf};
use crate::catalog::Target;
use crate::config::Config;
use crate::sky::wcs::TanWcs;
use crate::{Error, Result};

/// The sky around the field, for noise and detection, reaches at least this many pixels from the target.
const SURROUNDINGS: f64 = 160.0;
/// And at least this many pixels beyond the field.
const BEYOND: f64 = 40.0;
/// Two bands are on one grid when positions differ by less than this many pixels.
const SAME_GRID: f64 = 0.05;

/// The inputs of one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// World coordinates of the whole images.
    pub wcs: TanWcs,
    /// First row and the one behind the last, of the section that was read; the same for columns.
    pub rows: (usize, usize),
    pub columns: (usize, usize),
    /// In the order of the config.
    pub bands: Vec<BandInputs>,
}

/// The inputs of one band.
#[derive(Clone, Debug, PartialEq)]
pub struct BandInputs {
    pub section: Section,
    pub psf: Psf,
    /// The files that they came from.
    pub files: [PathBuf; 2],
}

impl Inputs {
    /// Reads the target's files. `field_arcsec` as for `observe`.
    ///
    /// # Errors
    /// As those of `observe`.
    pub fn read(target: &Target, config: &Config, field_arcsec: f64) -> Result<Inputs> {
        if let Some(trouble) = &target.trouble {
            return Err(Error::object(&target.id, trouble));
        }
        read(target, config, field_arcsec).map_err(|error| match error {
            // A file of one target is the target's own trouble. The reason is content, whatever folder the survey is in.
            Error::File { path, what } => Error::object(&target.id, Error::file(config.name_of(&path), what)),
            other => other,
        })
    }
}

fn read(target: &Target, config: &Config, field_arcsec: f64) -> Result<Inputs> {
    let data = &config.data;
    let trouble = |what: String| Error::object(&target.id, what);
    let mut exposures = Vec::new();
    for band in &data.bands {
        let path = pattern::fill(&data.image, target, band)?;
        exposures.push((Exposure::open(&path, band, data)?, path));
    }
    let Some((first, _)) = exposures.first() else { return Err(Error::usage("data.bands is empty")) };
    let (wcs, shape) = (first.wcs, first.shape);
    for ((exposure, _), band) in exposures.iter().zip(&data.bands).skip(1) {
        if let Some(why) = grid_difference(first, exposure, target) {
            return Err(trouble(format!("band {band} is not on the grid of band {}: {why}", data.bands[0])));
        }
    }
    let position = wcs
        .sky_to_pixel([target.ra, target.dec])
        .ok()
        .filter(|&[x, y]| x > -0.5 && y > -0.5 && x < shape[1] as f64 - 0.5 && y < shape[0] as f64 - 0.5);
    let Some(position) = position else {
        let (ra, dec) = (target.ra, target.dec);
        let centre = wcs.pixel_to_sky([shape[1] as f64 / 2.0, shape[0] as f64 / 2.0]);
        let what = format!(
            "RA {ra:.6}, Dec {dec:.6} is outside the image, whose centre is {:.6}, {:.6}",
            centre[0], centre[1]
        );
        return Err(trouble(what));
    };
    let half = 0.5 * field_arcsec / wcs.pixel_scale();
    let outer = (half + BEYOND).max(SURROUNDINGS);
    let (rows, columns) = (range(position[1], outer, shape[0]), range(position[0], outer, shape[1]));
    let mut bands = Vec::new();
    for ((mut exposure, path), band) in exposures.into_iter().zip(&data.bands) {
        let section = exposure.section(rows, columns)?;
        let psf_path = pattern::fill(&data.psf, target, band)?;
        bands.push(BandInputs { section, psf: psf::read(&psf_path, band)?, files: [path, psf_path] });
    }
    Ok(Inputs { wcs, rows, columns, bands })
}

/// Why two exposures are not on one pixel grid.
fn grid_difference(first: &Exposure, other: &Exposure, target: &Target) -> Option<String> {
    if first.shape != other.shape {
        return Some(format!("it has {:?} pixels, not {:?}", other.shape, first.shape));
    }
    let corner = first.wcs.pixel_to_sky([0.0, 0.0]);
    for [ra, dec] in [[target.ra, target.dec], corner] {
        let (here, there) = (first.wcs.sky_to_pixel([ra, dec]), other.wcs.sky_to_pixel([ra, dec]));
        let (Ok([x, y]), Ok([u, v])) = (here, there) else { continue };
        let shift = (x - u).hypot(y - v);
        // A NaN counts as a difference.
        if shift.is_nan() || shift >= SAME_GRID {
            return Some(format!("the WCS differ by {shift:.2} pixels"));
        }
    }
    None
}

/// Whole pixels from `centre - half` to `centre + half`, within `0..size`.
pub(super) fn range(centre: f64, half: f64, size: usize) -> (usize, usize) {
    let low = (centre - half).round().max(0.0) as usize;
    let high = ((centre + half).round().max(0.0) as usize + 1).min(size);
    (low.min(high), high)
}
