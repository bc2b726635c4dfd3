//! Power spectra of stretched images, averaged over directions: whether draws have as much structure on each scale.

use serde::Serialize;
use tch::{Kind, Tensor};

use super::numbers;
use crate::{Error, Result};

/// Mean power by wave number in one band.
#[derive(Clone, Debug, Serialize)]
pub struct Spectrum {
    pub band: String,
    /// Cycles over the field, 1 to half the pixels.
    pub wave_number: Vec<u32>,
    /// |Fourier transform|^2 / pixels, mean over images and directions, stretched units squared.
    pub draws: Vec<f64>,
    pub train: Vec<f64>,
    pub heldout: Vec<f64>,
    /// Standard error of `draws`, from the scatter of images.
    pub draws_error: Vec<f64>,
}

impl Spectrum {
    /// Draws over training images.
    pub fn ratio(&self) -> Vec<f64> {
        self.draws.iter().zip(&self.train).map(|(draws, train)| draws / train).collect()
    }

    /// Held-out over training images: what chance makes of the same population.
    pub fn heldout_ratio(&self) -> Vec<f64> {
        self.heldout.iter().zip(&self.train).map(|(heldout, train)| heldout / train).collect()
    }
}

/// Spectra of sets of images `[N, C, n, n]` in every band.
pub fn spectra(draws: &Tensor, train: &Tensor, heldout: &Tensor, bands: &[String]) -> Result<Vec<Spectrum>> {
    let (draws, train, heldout) = (powers(draws)?, powers(train)?, powers(heldout)?);
    let each = bands.iter().enumerate().map(|(band, name)| {
        let (mean, error) = mean_and_error(&draws, band)?;
        Ok(Spectrum {
            band: name.clone(),
            wave_number: (1..=mean.len() as u32).collect(),
            draws: mean,
            train: mean_and_error(&train, band)?.0,
            heldout: mean_and_error(&heldout, band)?.0,
            draws_error: error,
        })
    });
    each.collect()
}

/// Power of each image in each band by wave number, `[N, C, K]`.
fn powers(images: &Tensor) -> Result<Tensor> {
    let (count, bands, size, width) = images.size4()?;
    if size != width || size < 2 {
        return Err(Error::internal(format!("power spectrum of {size} x {width} pixels: expected a square")));
    }
    let transform = images.f_fft_fft2(None::<&[i64]>, [2, 3].as_slice(), "backward")?;
    let power = transform.f_abs()?.f_square()?.f_div_scalar((size * size) as f64)?;
    // Each frequency belongs to the ring of its rounded length.
    let rings = size / 2;
    let frequency = |index: i64| (if index > size / 2 { index - size } else { index }) as f64;
    let mut weights = vec![0.0f32; (size * size * rings) as usize];
    let mut members = vec![0.0f32; rings as usize];
    let mut places = Vec::new();
    for row in 0..size {
        for column in 0..size {
            let ring = frequency(row).hypot(frequency(column)).round() as i64;
            if (1..=rings).contains(&ring) {
                members[ring as usize - 1] += 1.0;
                places.push(((row * size + column), ring - 1));
            }
        }
    }
    for (place, ring) in places {
        weights[(place * rings + ring) as usize] = 1.0 / members[ring as usize];
    }
    let weights = Tensor::f_from_slice(&weights)?.f_view([size * size, rings])?;
    Ok(power.f_reshape([count * bands, size * size])?.f_matmul(&weights)?.f_view([count, bands, rings])?)
}

fn mean_and_error(powers: &Tensor, band: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let mine = powers.f_select(1, band as i64)?.f_to_kind(Kind::Double)?;
    let mean = mine.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let variance = mine.f_var_dim([0i64].as_slice(), true, false)?;
    Ok((numbers(&mean)?, numbers(&variance.f_div_scalar(mine.size()[0] as f64)?.f_sqrt()?)?))
}
