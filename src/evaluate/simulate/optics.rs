//! What the simulated survey's telescope does: point spread functions and sky noise like those of HSC's coadds, or those
//! that were asked for.

use std::path::PathBuf;

use crate::forward::Psf;
use crate::forward::psf::PsfError;
use crate::io::fits::read_image;
use crate::random::{Key, Purpose};
use crate::train::stream::Stream;
use crate::{Error, Result};

/// HSC's pixel, arcsec.
pub const PITCH: f64 = 0.168;
/// Pixels of a PSF image on a side.
pub const PSF_SIZE: usize = 43;
/// Exponent of the Moffat profile.
const BETA: f64 = 3.0;
/// Weight of the next pixel in the kernel that correlates the noise: blocks of 4 x 4 pixels then have about 2.7 times the
/// variance of white noise (2.5 to 3.7 is measured in coadds).
const CORRELATION: f32 = 0.22;

/// How deep the survey is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Depth {
    /// Sky noise like HSC's UltraDeep layer
    UltraDeep,
    /// Sky noise like HSC's Wide layer
    Wide,
}

/// Median seeing (FWHM, arcsec) and sky noise of the UltraDeep layer (nJy per pixel) of a band.
fn band_quality(band: &str) -> (f64, f64) {
    match band {
        "g" => (0.75, 0.35),
        "r" => (0.70, 0.45),
        "i" => (0.60, 0.56),
        "z" => (0.65, 0.90),
        _ => (0.66, 1.60),
    }
}

/// The point spread functions. Widths are FWHM in arcsec, one for all bands or one for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Seeing {
    /// Slightly elliptical Moffat profiles about HSC's median seeing, others for each object.
    #[default]
    Hsc,
    /// Round Gaussians.
    Gaussian { fwhm: Vec<f64> },
    /// Round Moffat profiles (1 + r^2 / a^2)^-beta.
    Moffat { fwhm: Vec<f64>, beta: f64 },
    /// Images with HSC's pixels, the pixel's response inside.
    Files(Vec<PathBuf>),
}

/// Seeing, noise and sky level of a survey.
#[derive(Clone, Debug)]
pub struct Optics {
    pub depth: Depth,
    pub seeing: Seeing,
    /// Standard deviation of the sky noise, nJy per pixel, one for all bands or one for each; the depth's when empty.
    pub noise: Vec<f64>,
    /// Level of the sky that the calibration left behind, nJy per pixel, likewise; none when empty.
    pub sky: Vec<f64>,
}

impl Optics {
    /// HSC's seeing and noise of this depth, and no sky level.
    pub fn hsc(depth: Depth) -> Optics {
        Optics { depth, seeing: Seeing::Hsc, noise: Vec::new(), sky: Vec::new() }
    }

    /// Checks numbers and counts for `bands` bands.
    pub fn check(&self, bands: usize) -> Result<()> {
        let count = |what: &str, count: usize| {
            let problem =
                || Error::usage(format!("simulate: {count} {what} for {bands} bands: give one, or one for each"));
            if count == 1 || count == bands { Ok(()) } else { Err(problem()) }
        };
        let positive = |what: &str, values: &[f64]| {
            let bad = values.iter().find(|value| !(**value > 0.0 && value.is_finite()));
            let problem = |value| Error::usage(format!("simulate: {what} is {value}, expected a positive number"));
            bad.map_or(Ok(()), |value| Err(problem(value)))
        };
        match &self.seeing {
            Seeing::Hsc => {}
            Seeing::Gaussian { fwhm } | Seeing::Moffat { fwhm, .. } => {
                count("widths of the PSF", fwhm.len())?;
                positive("a width of the PSF", fwhm)?;
                // A narrower profile is not described by its values at pixel centres.
                if let Some(narrow) = fwhm.iter().find(|fwhm| **fwhm < 2.0 * PITCH) {
                    let what =
                        format!("a PSF of {narrow} arcsec is narrower than two pixels of {PITCH}: give it as a file");
                    return Err(Error::usage(format!("simulate: {what}")));
                }
            }
            Seeing::Files(paths) => count("files of PSFs", paths.len())?,
        }
        if let Seeing::Moffat { beta, .. } = self.seeing
            && !(beta > 1.0 && beta.is_finite())
        {
            let what = format!("the Moffat profile's beta is {beta}, expected more than 1 (less has no finite flux)");
            return Err(Error::usage(format!("simulate: {what}")));
        }
        if !self.noise.is_empty() {
            count("noise levels", self.noise.len())?;
            positive("a noise level", &self.noise)?;
        }
        if !self.sky.is_empty() {
            count("sky levels", self.sky.len())?;
        }
        if self.sky.iter().any(|sky| !sky.is_finite()) {
            return Err(Error::usage("simulate: a sky level is not a finite number"));
        }
        Ok(())
    }

    /// Standard deviation of the sky noise in band `index`, nJy per pixel.
    pub fn noise_of(&self, band: &str, index: usize) -> f64 {
        let (_, noise) = band_quality(band);
        let of_depth = match self.depth {
            Depth::UltraDeep => noise,
            Depth::Wide => 3.2 * noise,
        };
        of_band(&self.noise, index).copied().unwrap_or(of_depth)
    }

    /// Level of the sky in band `index`, nJy per pixel.
    pub fn sky_of(&self, index: usize) -> f64 {
        of_band(&self.sky, index).copied().unwrap_or(0.0)
    }

    /// The effective PSFs of one object; `stream` is used for HSC's only.
    pub fn psfs(&self, bands: &[String], stream: &mut Stream) -> Result<Vec<Psf>> {
        let wrong = |error: PsfError| Error::usage(format!("simulate: the PSF: {error}"));
        let width = |fwhm: &[f64], index| of_band(fwhm, index).copied().unwrap_or(band_quality("").0);
        let one = |(index, band): (usize, &String)| match &self.seeing {
            Seeing::Hsc => effective_psf(band, stream),
            Seeing::Gaussian { fwhm } => {
                let fwhm = width(fwhm, index);
                Psf::gaussian(image_size(fwhm), fwhm, PITCH).map_err(wrong)
            }
            Seeing::Moffat { fwhm, beta } => moffat(width(fwhm, index), *beta).map_err(wrong),
            Seeing::Files(paths) => {
                let path =
                    of_band(paths, index).ok_or_else(|| Error::usage("simulate: --psf file needs --psf-file"))?;
                let image = read_image(path)?;
                let values: Vec<f64> = image.values.iter().map(|&value| f64::from(value)).collect();
                Psf::new(&values, image.shape[0], image.shape[1], PITCH, true).map_err(|error| Error::file(path, error))
            }
        };
        bands.iter().enumerate().map(one).collect()
    }
}

/// That of the band, or the one for all.
fn of_band<T>(values: &[T], index: usize) -> Option<&T> {
    if values.len() == 1 { values.first() } else { values.get(index) }
}

/// Pixels on a side of the image of a profile of this width: HSC's, or five widths to each side.
fn image_size(fwhm: f64) -> usize {
    PSF_SIZE.max(2 * (5.0 * fwhm / PITCH).ceil() as usize + 1)
}

/// A round Moffat profile at pixel centres.
fn moffat(fwhm: f64, beta: f64) -> std::result::Result<Psf, PsfError> {
    let radius = fwhm / PITCH / (2.0 * (2f64.powf(1.0 / beta) - 1.0).sqrt());
    let size = image_size(fwhm);
    let middle = (size / 2) as f64;
    let value = |at: usize| {
        let (x, y) = ((at % size) as f64 - middle, (at / size) as f64 - middle);
        (1.0 + (x * x + y * y) / (radius * radius)).powf(-beta)
    };
    Psf::new(&(0..size * size).map(value).collect::<Vec<_>>(), size, size, PITCH, true)
}

/// The effective PSF of one object in one band: an elliptical Moffat profile (Moffat 1969), slightly off the median
/// seeing, sampled at pixel centres. The pixel's response counts as inside.
fn effective_psf(band: &str, stream: &mut Stream) -> Result<Psf> {
    let fwhm = band_quality(band).0 * (1.0 + 0.03 * stream.normal()).clamp(0.85, 1.2);
    let ellipticity = stream.range(0.005, 0.04);
    let (sine, cosine) = (0.5 * stream.angle()).sin_cos();
    let radius = fwhm / PITCH / (2.0 * (2f64.powf(1.0 / BETA) - 1.0).sqrt());
    let middle = (PSF_SIZE / 2) as f64;
    let mut values: Vec<f64> = (0..PSF_SIZE * PSF_SIZE)
        .map(|at| {
            let (x, y) = ((at % PSF_SIZE) as f64 - middle, (at / PSF_SIZE) as f64 - middle);
            let (u, v) = ((x * cosine + y * sine) * (1.0 - ellipticity), (y * cosine - x * sine) * (1.0 + ellipticity));
            (1.0 + (u * u + v * v) / (radius * radius)).powf(-BETA)
        })
        .collect();
    let sum: f64 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= sum);
    Psf::new(&values, PSF_SIZE, PSF_SIZE, PITCH, true)
        .map_err(|error: PsfError| Error::internal(format!("simulated PSF: {error}")))
}

/// Sky noise of one image, `[height, width]` row by row, of this standard deviation; `correlated` as in coadds.
pub fn noise(seed: u64, id: &str, band: u32, shape: [usize; 2], sigma: f64, correlated: bool) -> Vec<f32> {
    let key = Key::new(seed, id, band, Purpose::ObservationNoise, 0);
    let [height, width] = shape;
    if !correlated {
        return key.normal(height * width).iter().map(|value| value * sigma as f32).collect();
    }
    let wide = width + 2;
    let white = key.normal((height + 2) * wide);
    let kernel = [CORRELATION, 1.0, CORRELATION];
    let square: f32 = kernel.iter().map(|weight| weight * weight).sum();
    let scale = sigma as f32 / square;
    (0..height * width)
        .map(|at| {
            let (x, y) = (at % width, at / width);
            let mut sum = 0.0;
            for (j, a) in kernel.iter().enumerate() {
                for (i, b) in kernel.iter().enumerate() {
                    sum += a * b * white[(y + j) * wide + x + i];
                }
            }
            scale * sum
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psfs_have_their_seeing_and_unit_sum() {
        for (band, fwhm) in [("g", 0.75), ("r", 0.70), ("i", 0.60)] {
            let psf = effective_psf(band, &mut Stream::new(1, "psf", 0, Purpose::Evaluation)).unwrap();
            assert!((psf.values().iter().sum::<f64>() - 1.0).abs() < 1e-12);
            // The draw scatters by 3 %.
            assert!((psf.fwhm() / fwhm - 1.0).abs() < 0.12, "{band}: {}", psf.fwhm());
        }
    }

    #[test]
    fn a_seeing_that_is_asked_for_is_the_one_that_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("psf.fits");
        let bands = ["g", "r", "i"].map(String::from);
        let of = |seeing: Seeing| {
            let optics = Optics { seeing, ..Optics::hsc(Depth::Wide) };
            optics.check(3).unwrap();
            optics.psfs(&bands, &mut Stream::new(1, "psf", 0, Purpose::Evaluation)).unwrap()
        };
        let widths = vec![0.6, 0.8, 1.6];
        for seeing in [
            Seeing::Gaussian { fwhm: widths.clone() },
            Seeing::Moffat { fwhm: widths.clone(), beta: 2.5 },
            Seeing::Moffat { fwhm: widths.clone(), beta: 4.765 },
        ] {
            for (psf, width) in of(seeing.clone()).iter().zip(&widths) {
                // Cells of an eighth of a pixel are counted.
                assert!((psf.fwhm() - width).abs() < 0.02, "{seeing:?}: {} for {width}", psf.fwhm());
            }
        }
        // The exponent decides what is in the wings: within r of a Moffat profile there are 1 - (1 + r^2 / a^2)^(1 - beta).
        let wings = |beta: f64| {
            let psf = &of(Seeing::Moffat { fwhm: vec![0.8], beta })[0];
            let a = 0.8 / (2.0 * (2f64.powf(1.0 / beta) - 1.0).sqrt());
            let radius = a * (0.1f64.powf(1.0 / (1.0 - beta)) - 1.0).sqrt();
            psf.encircled_energy_radius(0.9) / radius
        };
        // The image ends at five widths, and pixels have discrete radii.
        assert!(
            (wings(4.765) - 1.0).abs() < 0.06 && (wings(3.0) - 1.0).abs() < 0.06,
            "{} {}",
            wings(4.765),
            wings(3.0)
        );
        let written = &of(Seeing::Gaussian { fwhm: vec![0.7] })[0];
        let values: Vec<f32> = written.values().iter().map(|&value| value as f32).collect();
        let pixels = crate::io::fits::Pixels::Floats(&values);
        let image = crate::io::fits::NewImage { name: "", shape: &[43, 43], pixels, wcs: None, keywords: Vec::new() };
        crate::io::fits::write_images(&path, &[image]).unwrap();
        let read = of(Seeing::Files(vec![path]));
        let pairs = read.iter().flat_map(|psf| psf.values().iter().zip(written.values()));
        assert!(pairs.clone().all(|(read, written)| (read - written).abs() < 1e-7) && pairs.count() == 3 * 43 * 43);
    }

    #[test]
    fn impossible_optics_are_told() {
        let hsc = Optics::hsc(Depth::Wide);
        let told = |optics: Optics| optics.check(3).unwrap_err().to_string();
        let seeing = |seeing: Seeing| Optics { seeing, ..hsc.clone() };
        assert!(told(seeing(Seeing::Gaussian { fwhm: vec![0.7, 0.7] })).contains("2 widths of the PSF for 3 bands"));
        assert!(told(seeing(Seeing::Gaussian { fwhm: vec![-0.7] })).contains("-0.7, expected a positive"));
        assert!(told(seeing(Seeing::Gaussian { fwhm: vec![0.2] })).contains("narrower than two pixels"));
        assert!(told(seeing(Seeing::Moffat { fwhm: vec![0.7], beta: 1.0 })).contains("beta is 1"));
        assert!(told(seeing(Seeing::Files(Vec::new()))).contains("0 files"));
        assert!(told(Optics { noise: vec![0.0], ..hsc.clone() }).contains("a noise level is 0"));
        assert!(told(Optics { sky: vec![f64::NAN], ..hsc.clone() }).contains("sky level"));
    }

    #[test]
    fn noise_has_its_variance_and_its_correlation() {
        let shape = [256, 256];
        for (correlated, low, high) in [(false, 0.9, 1.1), (true, 2.3, 3.2)] {
            let values = noise(3, "x", 0, shape, 2.0, correlated);
            let variance = values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64;
            assert!((variance / 4.0 - 1.0).abs() < 0.05, "{variance}");
            let mut blocks = 0.0;
            for y in (0..256).step_by(4) {
                for x in (0..256).step_by(4) {
                    let sum: f32 = (0..16).map(|k| values[(y + k / 4) * 256 + x + k % 4]).sum();
                    blocks += f64::from(sum * sum);
                }
            }
            // Block sums over what white noise of this variance would have; 4096 blocks scatter by 2 %.
            let ratio = blocks / 4096.0 / (16.0 * variance);
            assert!((low..high).contains(&ratio), "correlated {correlated}: {ratio}");
        }
    }
}
