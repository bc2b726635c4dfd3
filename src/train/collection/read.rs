//! One galaxy from its files: linear flux on the prior's grid, or the reason why it cannot be used.

use std::path::PathBuf;

use super::config::{CollectionConfig, Units};
use crate::forward::resample::{fits, resample};
use crate::io::fits::Fits;

/// The files of one image.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is called: its file's path below the folder that was searched.
    pub name: String,
    pub subhalo: String,
    /// One file for each band, or one for all.
    pub paths: Vec<PathBuf>,
}

/// An image on the grid.
#[derive(Debug)]
pub struct Image {
    /// `[C, S, S]`; the reference band's total is one.
    pub flux: Vec<f32>,
    /// Pitch of its file's pixels, kpc.
    pub native_kpc: f64,
}

/// Reads, checks and resamples an image. The error is the reason for which it is skipped.
pub fn read(item: &Item, config: &CollectionConfig, reference: usize) -> Result<Image, String> {
    let count = config.stored_size();
    let mut flux = Vec::with_capacity(config.bands.len() * count * count);
    let mut native_kpc = 0.0f64;
    for (index, band) in config.bands.iter().enumerate() {
        let path = &item.paths[index.min(item.paths.len() - 1)];
        let text = |error: crate::Error| error.to_string();
        let mut file = Fits::open(path).map_err(text)?;
        let hdu = match &band.hdu {
            None => file.first_image().map_err(text)?,
            Some(name) => {
                let found = file.hdus().iter().find(|hdu| hdu.is_plane() && hdu.name.eq_ignore_ascii_case(name));
                found
                    .cloned()
                    .ok_or_else(|| format!("band {}: no image `{name}`; the file has {}", band.name, file.listing()))?
            }
        };
        let pitch = match (&config.native.pixel_kpc, &config.native.keyword) {
            (None, Some(keyword)) => {
                let value = file.header(hdu.number).number(keyword).map_err(text)?;
                let value =
                    value.ok_or_else(|| format!("band {}: no keyword {keyword}, the pixels' pitch", band.name))?;
                value.abs() * config.native.unit_kpc
            }
            (given, _) => given.unwrap_or(f64::NAN),
        };
        let ratio = config.pixel_kpc / pitch;
        if !(1e-3..1e3).contains(&ratio) {
            return Err(format!("band {}: pixels of {pitch} kpc", band.name));
        }
        let shape = [hdu.shape[0], hdu.shape[1]];
        if !fits(shape, count, ratio) {
            let needed = count as f64 * config.pixel_kpc;
            let [height, width] = shape.map(|side| side as f64 * pitch);
            return Err(format!("band {}: too small: {width:.1} x {height:.1} kpc, {needed:.1} are needed", band.name));
        }
        let plane = file.exact_section(&hdu, (0, shape[0]), (0, shape[1])).map_err(text)?;
        let linear = linear(&plane.values, config.units).map_err(|what| format!("band {}: {what}", band.name))?;
        let image = resample(&linear, shape, count, ratio);
        let total: f64 = image.iter().sum();
        if !(total > 0.0 && total.is_finite()) {
            return Err(format!("band {}: no light (total flux {total})", band.name));
        }
        flux.extend(image);
        native_kpc = native_kpc.max(pitch);
    }
    let total: f64 = flux[reference * count * count..][..count * count].iter().sum();
    Ok(Image { flux: flux.iter().map(|value| (value / total) as f32).collect(), native_kpc })
}

/// Flux per pixel in a unit that all bands share. Magnitudes of +inf are no light; anything else that is not a number
/// makes the image useless.
fn linear(values: &[f64], units: Units) -> Result<Vec<f64>, String> {
    let bad = |value: f64| match units {
        Units::Flux => !value.is_finite(),
        Units::MagPerArcsec2 | Units::MagPerPixel => value.is_nan() || value == f64::NEG_INFINITY,
    };
    let count = values.iter().filter(|&&value| bad(value)).count();
    if count > 0 {
        return Err(format!("{count} pixels are NaN or infinite"));
    }
    Ok(match units {
        Units::Flux => values.to_vec(),
        // The pixel's area is the same all over an image and in all bands, and the total is set to one.
        Units::MagPerArcsec2 | Units::MagPerPixel => {
            values.iter().map(|&value| 10f64.powf(-0.4 * (value - 22.0))).collect()
        }
    })
}
