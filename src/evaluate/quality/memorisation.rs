//! Whether draws repeat training images: how often the nearest of equally many training and held-out images is a training
//! one. A prior that has learned the population, and not its examples, is as often near to either: 0.5. Images are compared
//! in the eight orientations and at small shifts, after each is moved (whole pixels, around the edge) so that its light
//! is centred.
//!
//! Only as many training images as there are held-out ones can take part: a prior that repeats few of many training images
//! is not seen by it.

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::{Measured, Resampling, numbers};
use crate::evaluate::calibration::probability::median;
use crate::{Error, Result};

/// Largest shift beside the centring, pixels along each axis: turning moves a centred image by up to one.
const SHIFT: i64 = 2;

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Memorisation {
    /// Images of each set.
    pub images: i64,
    /// P(the nearest is a training image); ties count half.
    pub probability: Measured,
    /// Median distances (root mean square over pixels, stretched units) to the nearest of either set.
    pub median_to_train: f64,
    pub median_to_heldout: f64,
}

/// Compares `draws` with as many `train` and `heldout` images, `[N, C, n, n]` each.
pub fn measure(draws: &Tensor, train: &Tensor, heldout: &Tensor, seed: u64) -> Result<Memorisation> {
    if train.size() != heldout.size() {
        return Err(Error::internal("memorisation: there must be as many training as held-out images"));
    }
    let _guard = tch::no_grad_guard();
    let (draws, train, heldout) = (centred(draws)?, centred(train)?, centred(heldout)?);
    let (to_train, to_heldout) = (nearest(&draws, &train)?, nearest(&draws, &heldout)?);
    let which = to_train.iter().zip(&to_heldout).map(|(train, heldout)| match train.total_cmp(heldout) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 0.0,
    });
    Ok(Memorisation {
        images: train.size()[0],
        probability: Resampling { seed, name: "memorisation" }.mean(&which.collect::<Vec<_>>()),
        median_to_train: median(&to_train),
        median_to_heldout: median(&to_heldout),
    })
}

/// Distance from each draw to the nearest of `references`.
pub fn nearest(draws: &Tensor, references: &Tensor) -> Result<Vec<f64>> {
    let pixels = draws.size()[1..].iter().product::<i64>();
    let columns = references.f_reshape([-1, pixels])?.f_tr()?.f_contiguous()?;
    let norms = columns.f_square()?.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float)?;
    let mut found = Vec::new();
    for index in 0..draws.size()[0] {
        let draw = draws.f_narrow(0, index, 1)?;
        let views = views(&draw)?.f_reshape([-1, pixels])?;
        // |draw|^2 is the same in every view.
        let squares = norms.f_sub(&views.f_matmul(&columns)?.f_mul_scalar(2.0)?)?.f_min()?;
        let square = squares.f_add(&draw.f_square()?.f_sum(Kind::Float)?)?.f_clamp_min(0.0)?;
        found.push((square.f_double_value(&[])? / pixels as f64).sqrt());
    }
    Ok(found)
}

/// One image `[1, C, n, n]` in every orientation at every shift.
fn views(image: &Tensor) -> Result<Tensor> {
    let mut turned = Vec::with_capacity(8);
    for quarter in 0..4 {
        let image = image.f_rot90(quarter, [2, 3])?;
        turned.push(image.f_flip([3])?);
        turned.push(image);
    }
    let turned = Tensor::f_cat(&turned, 0)?;
    let mut views = Vec::new();
    for down in -SHIFT..=SHIFT {
        for right in -SHIFT..=SHIFT {
            views.push(turned.f_roll([down, right], [2, 3])?);
        }
    }
    Ok(Tensor::f_cat(&views, 0)?)
}

/// Each image moved by whole pixels so that the centroid of what is bright in all bands together is in the middle.
fn centred(images: &Tensor) -> Result<Tensor> {
    let [count, _, height, width] = <[i64; 4]>::try_from(images.size()).map_err(|_| Error::internal("not images"))?;
    let light = images.f_clamp_min(0.0)?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
    let total = light.f_sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Double)?.f_clamp_min(f64::MIN_POSITIVE)?;
    let centre = |axis: i64, length: i64| -> Result<Vec<f64>> {
        let other = 3 - axis;
        let places = Tensor::f_arange(length, (Kind::Double, Device::Cpu))?;
        let along = light.f_sum_dim_intlist([other].as_slice(), false, Kind::Double)?;
        numbers(&along.f_matmul(&places)?.f_div(&total)?)
    };
    let (rows, columns) = (centre(1, height)?, centre(2, width)?);
    let mut moved = Vec::with_capacity(count as usize);
    for index in 0..count {
        let shift = |centre: f64, length: i64| ((length - 1) as f64 / 2.0 - centre).round() as i64;
        let by = [shift(rows[index as usize], height), shift(columns[index as usize], width)];
        moved.push(images.f_narrow(0, index, 1)?.f_roll(by, [2, 3])?);
    }
    Ok(Tensor::f_cat(&moved, 0)?)
}
