//! Galaxies from image files: FITS files of one band each, FITS files with a band in each extension (as the idealised
//! images of the TNG simulations have it), and NumPy archives.

use std::path::{Path, PathBuf};

use super::light::Light;
use crate::io::fits::{Fits, Hdu};
use crate::io::npz::Npz;
use crate::{Error, Result};

/// What the extensions of the TNG simulations' `*_photo.fits` files are named, before the band in capitals (Bottrell et
/// al. 2024, MNRAS 527, 6506): AB magnitudes per square arcsec, made with SKIRT for HSC's filters.
const PHOTO: &str = "SUBARU_HSC.";

/// How an image's pixels are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Units {
    /// Flux per pixel, in any unit that is the same in all bands
    Flux,
    /// AB magnitudes per square arcsec; infinite where there is no light
    Mag,
}

/// Images to be simulated: one file for each band (or one for all), FITS or npz; or files with all bands each.
#[derive(Clone, Debug)]
pub struct Images {
    pub paths: Vec<PathBuf>,
    /// Units of their pixels; else what BUNIT tells, and flux without it.
    pub units: Option<Units>,
    /// Pitch of their pixels, kpc; else what CDELT1 tells when it is a length (CTYPE1 or CUNIT1 `pc` or `kpc`).
    pub pixel_kpc: Option<f64>,
}

/// Reads images: of one FITS file a band (or one for all bands) one galaxy; of FITS files with extensions
/// `SUBARU_HSC.G` and so on one galaxy each; of an npz file as many as it has in `images`, `(N, n, n)` (the same in all
/// bands) or `(N, C, n, n)`. What is not finite, or negative, has no light.
///
/// Errors name the file and what it lacks: a band, a square image, a pitch.
pub fn read(images: &Images, bands: &[String]) -> Result<Vec<Light>> {
    let [first, rest @ ..] = images.paths.as_slice() else {
        return Err(Error::usage("simulate: --image needs a file"));
    };
    if first.extension().is_some_and(|ending| ending == "npz") {
        return read_npz(images, first, bands.len());
    }
    if Fits::open(first)?.hdus().iter().any(|hdu| hdu.name.starts_with(PHOTO)) {
        return images.paths.iter().map(|path| read_photo(images, path, bands)).collect();
    }
    if !rest.is_empty() && rest.len() + 1 != bands.len() {
        let (count, wanted) = (rest.len() + 1, bands.len());
        return Err(Error::usage(format!(
            "simulate: {count} --image files for {wanted} bands: give one for each, or one"
        )));
    }
    let mut galaxy = Planes::default();
    for index in 0..bands.len() {
        let mut fits = Fits::open(images.paths.get(index).unwrap_or(first))?;
        let hdu = fits.first_image()?;
        galaxy.add(images, &mut fits, &hdu)?;
    }
    Ok(vec![galaxy.light(bands.len())])
}

/// One galaxy of a file with an extension for each band.
fn read_photo(images: &Images, path: &Path, bands: &[String]) -> Result<Light> {
    let mut fits = Fits::open(path)?;
    let mut galaxy = Planes::default();
    for band in bands {
        let name = format!("{PHOTO}{}", band.to_uppercase());
        let found = fits.hdus().iter().find(|hdu| hdu.name == name && hdu.is_plane()).cloned();
        let missing = || Error::file(path, format!("no extension {name} with an image; it has {}", fits.listing()));
        let hdu = found.ok_or_else(missing)?;
        galaxy.add(images, &mut fits, &hdu)?;
    }
    Ok(galaxy.light(bands.len()))
}

/// The bands of one galaxy, as they are read.
#[derive(Default)]
struct Planes {
    values: Vec<f32>,
    /// Shape and pitch of those read so far.
    known: Option<([usize; 2], f64)>,
}

impl Planes {
    fn add(&mut self, images: &Images, fits: &mut Fits, hdu: &Hdu) -> Result<()> {
        let plane = fits.section(hdu, (0, hdu.shape[0]), (0, hdu.shape[1]))?;
        let path = fits.path().to_path_buf();
        let mut header = fits.header(hdu.number);
        // The Greek and the spelled-out forms of the unit differ; that it is a magnitude per area does not.
        let unit = header.text("BUNIT")?.unwrap_or_default().to_lowercase();
        let told = if unit.contains("mag") && unit.contains("arcsec") { Units::Mag } else { Units::Flux };
        let units = images.units.unwrap_or(told);
        let pixel_kpc = match images.pixel_kpc {
            Some(pixel_kpc) => pixel_kpc,
            None => {
                let step = header.number("CDELT1")?.map(f64::abs).unwrap_or_default();
                let kinds = [header.text("CTYPE1")?, header.text("CUNIT1")?].map(|text| text.unwrap_or_default());
                let is = |unit: &str| kinds.iter().any(|kind| kind.trim().eq_ignore_ascii_case(unit));
                let kpc = if is("kpc") {
                    step
                } else if is("pc") {
                    step / 1000.0
                } else {
                    0.0
                };
                if !(kpc > 0.0 && kpc.is_finite()) {
                    let what =
                        "its header tells no pitch in pc or kpc (CDELT1 with CTYPE1 or CUNIT1): give --image-kpc";
                    return Err(Error::usage(format!("{}: {what}", path.display())));
                }
                kpc
            }
        };
        let fits_in = self.known.is_none_or(|known| known == (plane.shape, pixel_kpc));
        if plane.shape[0] != plane.shape[1] || !fits_in {
            let found = format!("found {:?} of {pixel_kpc} kpc in HDU {}", plane.shape, hdu.number);
            return Err(Error::file(&path, format!("square images, the same in all bands, are needed; {found}")));
        }
        self.known = Some((plane.shape, pixel_kpc));
        self.values.extend(plane.values.iter().map(|&value| flux(value, units)));
        Ok(())
    }

    fn light(self, bands: usize) -> Light {
        Light::new(self.values, bands, self.known.map_or(1.0, |(_, pixel_kpc)| pixel_kpc))
    }
}

fn read_npz(images: &Images, path: &Path, bands: usize) -> Result<Vec<Light>> {
    let array = Npz::open(path)?.array("images")?;
    let values = array.to_f32(path, "images")?;
    let shape = array.shape.clone();
    let (repeat, square) = match shape[..] {
        [_, rows, columns] => (bands, rows == columns),
        [_, channels, rows, columns] if channels == bands => (1, rows == columns),
        _ => (0, false),
    };
    if !square || values.is_empty() {
        let what =
            format!("`images` has shape {shape:?}: (N, n, n), or (N, {bands}, n, n) for as many bands, is needed");
        return Err(Error::file(path, what));
    }
    let Some(pixel_kpc) = images.pixel_kpc else {
        return Err(Error::usage(format!("{}: an npz file tells no pitch: give --image-kpc", path.display())));
    };
    let units = images.units.unwrap_or(Units::Flux);
    let one = |image: &[f32]| {
        let image: Vec<f32> = image.iter().map(|&value| flux(value, units)).collect();
        Light::new(image.repeat(repeat), bands, pixel_kpc)
    };
    Ok(values.chunks(values.len() / shape[0]).map(one).collect())
}

/// Flux of a pixel; nothing where it is not finite or negative.
fn flux(value: f32, units: Units) -> f32 {
    let flux = match units {
        Units::Flux => value,
        // In f64: a magnitude of 25 in f32 is known to 1e-6, and so should its flux be.
        Units::Mag => 10f64.powf(-0.4 * f64::from(value)) as f32,
    };
    if flux.is_finite() && flux > 0.0 { flux } else { 0.0 }
}
