//! Reading one band's image: the HDUs, the calibration to nJy, the section around the target, the bad pixels.

use std::path::Path;

use super::psf::same_filter;
use crate::config::DataConfig;
use crate::io::fits::{Fits, Hdu};
use crate::sky::wcs::TanWcs;
use crate::{Error, Result};

/// Flux of AB magnitude 0, nJy.
const AB_ZERO: f64 = 3631e9;

/// Header keywords that hold an AB zero point.
const ZERO_POINT_KEYS: [&str; 8] = ["PHOTZP", "MAGZERO", "MAGZPT", "MAGZP", "ZEROPNT", "ZEROPOINT", "ZPAB", "ZP"];

/// Bits of an LSST-style mask plane (`MP_...` keywords) that do not make a pixel bad.
const HARMLESS_PLANES: [&str; 4] = ["MP_DETECTED", "MP_DETECTED_NEGATIVE", "MP_NOT_DEBLENDED", "MP_INEXACT_PSF"];

/// One band's file, open, with what its headers say.
pub(super) struct Exposure {
    fits: Fits,
    image: Hdu,
    mask: Option<Hdu>,
    variance: Option<Hdu>,
    /// Bits of the mask plane that make a pixel bad.
    bad_bits: i64,
    /// nJy per unit of the file.
    pub calibration: f64,
    saturation: Option<f64>,
    /// Rows and columns of the whole image.
    pub shape: [usize; 2],
    /// World coordinates of the whole image.
    pub wcs: TanWcs,
}

/// A section of an exposure.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    pub shape: [usize; 2],
    /// nJy; NaN allowed where not `good`.
    pub image: Vec<f32>,
    /// nJy^2, if the file has a variance plane that holds data.
    pub variance: Option<Vec<f32>>,
    /// Neither bad in the mask plane nor saturated nor without a number.
    pub good: Vec<bool>,
}

impl Exposure {
    /// Opens the file and reads its headers.
    pub fn open(path: &Path, band: &str, data: &DataConfig) -> Result<Exposure> {
        let mut fits = Fits::open(path)?;
        let image = fits.first_image()?;
        let shape = [image.shape[0], image.shape[1]];
        let (mask, variance) = companions(&fits, &image)?;
        // A keyword of the image's own header goes before one of the primary header.
        let places = [image.number, 0];
        for number in places {
            let filter = fits.header(number).text("FILTER")?.unwrap_or_default();
            if !same_filter(&filter, band) {
                let what = format!("FILTER is `{filter}`, but the config expects band `{band}` here");
                return Err(Error::file(path, what));
            }
        }
        let calibration = calibration(&mut fits, &places, data.zero_point)?;
        let wcs = fits.header(image.number).wcs()?;
        let mut bad_bits = data.mask_bits.map_or(-1, i64::from);
        if let (Some(mask), None) = (&mask, data.mask_bits) {
            for plane in HARMLESS_PLANES {
                if let Some(bit) = fits.header(mask.number).number(plane)?.filter(|bit| (0.0..63.0).contains(bit)) {
                    bad_bits &= !(1i64 << bit as u32);
                }
            }
        }
        Ok(Exposure { fits, image, mask, variance, bad_bits, calibration, saturation: data.saturation, shape, wcs })
    }

    /// Reads a rectangle. Only these pixels are read from the file.
    pub fn section(&mut self, rows: (usize, usize), columns: (usize, usize)) -> Result<Section> {
        let plane = self.fits.section(&self.image, rows, columns)?;
        let saturation = self.saturation.unwrap_or(f64::INFINITY);
        let mut good: Vec<bool> =
            plane.values.iter().map(|value| value.is_finite() && f64::from(*value) < saturation).collect();
        if let Some(mask) = &self.mask {
            let bits = self.fits.integer_section(mask, rows, columns)?;
            good.iter_mut().zip(bits.values).for_each(|(ok, value)| *ok &= value & self.bad_bits == 0);
        }
        let scale = self.calibration as f32;
        let variance = match &self.variance {
            None => None,
            Some(hdu) => {
                let mut values = self.fits.section(hdu, rows, columns)?.values;
                values.iter_mut().for_each(|value| *value *= scale * scale);
                // A pixel without a positive variance was not observed.
                good.iter_mut().zip(&values).for_each(|(ok, &value)| *ok &= value.is_finite() && value > 0.0);
                Some(values)
            }
        };
        let image = plane.values.into_iter().map(|value| value * scale).collect();
        Ok(Section { shape: plane.shape, image, variance, good })
    }
}

/// Mask and variance of an image: HDUs so named (EXTNAME or EXTTYPE), or else the two after the image, as HSC has
/// them. Empty ones (as HSC's cutout service may leave them) are as none.
fn companions(fits: &Fits, image: &Hdu) -> Result<(Option<Hdu>, Option<Hdu>)> {
    let find = |name: &str, offset: usize, integer: bool| -> Result<Option<Hdu>> {
        let named = fits.hdus().iter().find(|hdu| hdu.name == name);
        if let Some(hdu) = named.filter(|hdu| hdu.is_plane() && hdu.shape != image.shape) {
            let what = format!("HDU {} ({name}) is {:?}, but the image is {:?}", hdu.number, hdu.shape, image.shape);
            return Err(Error::file(fits.path(), what));
        }
        let placed = fits.hdus().get(image.number + offset).filter(|hdu| hdu.name.is_empty());
        let found = named.or(placed).filter(|hdu| hdu.is_plane() && hdu.shape == image.shape);
        Ok(found.filter(|hdu| hdu.is_integer == integer).cloned())
    };
    Ok((find("MASK", 1, true)?, find("VARIANCE", 2, false)?))
}

/// nJy per unit of the file: FLUXMAG0, a flux unit in BUNIT, a zero point in the header, or the config's.
fn calibration(fits: &mut Fits, places: &[usize], config: Option<f64>) -> Result<f64> {
    let path = fits.path().to_path_buf();
    let checked = |value: f64, source: &str| {
        let bad = || Error::file(&path, format!("{source} gives no usable flux scale ({value} nJy per unit)"));
        if value.is_finite() && value > 0.0 { Ok(value) } else { Err(bad()) }
    };
    for &number in places {
        if let Some(counts) = fits.header(number).number("FLUXMAG0")? {
            return checked(AB_ZERO / counts, "FLUXMAG0");
        }
    }
    for &number in places {
        let unit = fits.header(number).text("BUNIT")?.unwrap_or_default().to_lowercase();
        let scale = match unit.trim_end_matches("/pixel").trim_end_matches("/pix").trim() {
            "njy" => 1.0,
            "ujy" | "microjy" => 1e3,
            "mjy" => 1e6,
            "jy" => 1e9,
            _ => continue,
        };
        return Ok(scale);
    }
    for &number in places {
        for key in ZERO_POINT_KEYS {
            if let Some(zero_point) = fits.header(number).number(key)? {
                return checked(AB_ZERO * 10f64.powf(-0.4 * zero_point), key);
            }
        }
    }
    match config {
        Some(zero_point) => checked(AB_ZERO * 10f64.powf(-0.4 * zero_point), "zero_point of the config"),
        None => {
            let what = "no FLUXMAG0, no zero point (PHOTZP, MAGZERO, ...) and no flux unit in the header; set \
                        data.zero_point in the config";
            Err(Error::file(path, what))
        }
    }
}
