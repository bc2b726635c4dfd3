//! Reading and checking PSF images.

use std::path::Path;

use super::Psf;
use crate::io::fits::Fits;
use crate::{Error, Result};

/// Smallest and largest side of a PSF image, pixels.
const SIDES: std::ops::RangeInclusive<usize> = 3..=1024;
/// The centroid lies within this fraction of the side from the centre, or the file is not a centred PSF.
const CENTRED: f64 = 0.25;

/// Reads the PSF of a band. What cannot be a PSF is an error that names the file.
pub(super) fn read(path: &Path, band: &str) -> Result<Psf> {
    let mut fits = Fits::open(path)?;
    let hdu = fits.first_image()?;
    let shape = [hdu.shape[0], hdu.shape[1]];
    if !SIDES.contains(&shape[0]) || !SIDES.contains(&shape[1]) {
        let what = format!("the PSF has {shape:?} pixels; expected {} to {} a side", SIDES.start(), SIDES.end());
        return Err(Error::file(path, what));
    }
    for number in [hdu.number, 0] {
        for key in ["FILTER", "FILTNAM", "BAND"] {
            let filter = fits.header(number).text(key)?.unwrap_or_default();
            if !same_filter(&filter, band) {
                let what = format!("{key} is `{filter}`: the PSF of another band than `{band}`");
                return Err(Error::file(path, what));
            }
        }
    }
    let values = fits.section(&hdu, (0, shape[0]), (0, shape[1]))?.values;
    let psf = Psf { shape, values };
    psf.check().map_err(|why| Error::file(path, why))?;
    Ok(psf)
}

impl Psf {
    /// The centroid `[x, y]` relative to the centre, pixels.
    pub fn centroid(&self) -> [f64; 2] {
        let [ny, nx] = self.shape;
        let (mut sum, mut x, mut y) = (0.0, 0.0, 0.0);
        for (index, &value) in self.values.iter().enumerate() {
            let value = f64::from(value);
            sum += value;
            x += value * ((index % nx) as f64 - (nx / 2) as f64);
            y += value * ((index / nx) as f64 - (ny / 2) as f64);
        }
        [x / sum, y / sum]
    }

    /// Full width at half maximum of the Gaussian of the same peak and sum, pixels.
    pub fn fwhm(&self) -> f64 {
        let sum: f64 = self.values.iter().map(|&value| f64::from(value)).sum();
        let peak = self.values.iter().copied().fold(f32::MIN, f32::max);
        // A Gaussian's sum is 2 pi sigma^2 times its peak.
        2.3548 * (sum / f64::from(peak) / std::f64::consts::TAU).max(0.0).sqrt()
    }

    fn check(&self) -> std::result::Result<(), String> {
        let strange = self.values.iter().filter(|value| !value.is_finite()).count();
        if strange > 0 {
            return Err(format!("{strange} pixels of the PSF are not numbers"));
        }
        let sum: f64 = self.values.iter().map(|&value| f64::from(value)).sum();
        let absolute: f64 = self.values.iter().map(|&value| f64::from(value.abs())).sum();
        if absolute == 0.0 {
            return Err("the PSF is zero everywhere".into());
        }
        // Interpolated PSFs ring a little; one that is half negative is no PSF.
        if sum <= 0.5 * absolute {
            return Err(format!("the PSF's total is {sum:.3e}, with {absolute:.3e} in absolute value: not a PSF"));
        }
        let [x, y] = self.centroid();
        let [ny, nx] = self.shape;
        if x.abs() > CENTRED * nx as f64 || y.abs() > CENTRED * ny as f64 {
            return Err(format!("the PSF's centroid is ({x:.1}, {y:.1}) pixels off the centre of the image"));
        }
        Ok(())
    }
}

/// False when `filter` (a header's) and `band` (the config's) are both known names and differ. An unknown or absent
/// filter contradicts nothing.
pub(super) fn same_filter(filter: &str, band: &str) -> bool {
    match (known_filter(filter), known_filter(band)) {
        (Some(first), Some(second)) => first == second,
        _ => true,
    }
}

/// The bare name: `HSC-I2` and `i` are both `i`; `F814W` is `f814w`.
fn known_filter(name: &str) -> Option<String> {
    let name = name.trim().to_lowercase();
    let last = name.rsplit(['-', '_', '.', ' ', '/']).next().unwrap_or("");
    let bytes = last.as_bytes();
    let is_space = bytes.len() >= 5 && bytes[0] == b'f' && bytes[1..4].iter().all(u8::is_ascii_digit);
    if is_space {
        return Some(last.to_string());
    }
    // HSC's second i and r filters are `i2` and `r2`.
    let letter = last.strip_suffix('2').unwrap_or(last);
    (letter.len() == 1 && "ugrizyjhk".contains(letter)).then(|| letter.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_compared_where_both_are_known() {
        for (filter, band) in
            [("i", "HSC-I"), ("i2", "HSC-I"), ("HSC-R2", "r"), ("", "g"), ("clear", "g"), ("g", "one")]
        {
            assert!(same_filter(filter, band), "{filter} {band}");
        }
        for (filter, band) in [("g", "HSC-I"), ("HSC-R", "HSC-I"), ("F814W", "F606W"), ("lsst_g", "z")] {
            assert!(!same_filter(filter, band), "{filter} {band}");
        }
    }

    #[test]
    fn only_psfs_are_psfs() {
        let make = |f: &dyn Fn(f64, f64) -> f64| {
            let values = (0..441).map(|i| f((i % 21) as f64 - 10.0, (i / 21) as f64 - 10.0) as f32).collect();
            Psf { shape: [21, 21], values }
        };
        let gaussian = |x: f64, y: f64| (-0.5 * (x * x + y * y) / 4.0).exp();
        let good = make(&gaussian);
        good.check().unwrap();
        // The Gaussian's own width, sampled and cut at 5 sigma.
        assert!((good.fwhm() - 2.0 * 2.3548).abs() < 0.01 && good.centroid()[0].abs() < 1e-6);
        let cases: [(&dyn Fn(f64, f64) -> f64, &str); 5] = [
            (&|_, _| 0.0, "zero everywhere"),
            (&|x, y| -gaussian(x, y), "not a PSF"),
            (&|x, y| if x == y { f64::NAN } else { gaussian(x, y) }, "not numbers"),
            (&|x, _| x, "not a PSF"),
            (&|x, y| gaussian(x - 8.0, y), "off the centre"),
        ];
        for (function, words) in cases {
            let why = make(function).check().unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}
