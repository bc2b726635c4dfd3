//! Precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem et al. 2020,
//! arXiv:2002.09797) of generated images, by balls around each image that reach to its k-th nearest neighbour of its own set:
//!
//! ```text
//! precision  part of the generated images inside a ball of a real one
//! recall     part of the real images inside a ball of a generated one
//! density    mean number of real balls that hold a generated image, over k
//! coverage   part of the real balls that hold a generated image
//! ```

use serde::Serialize;
use tch::{Kind, Tensor};

use super::{Measured, Resampling, numbers};
use crate::{Error, Result};

/// Neighbours that the balls reach to.
pub const NEIGHBOURS: i64 = 5;

/// The four measures of draws, those of held-out images in their place, and the ratios.
#[derive(Clone, Debug, Serialize)]
pub struct Neighbours {
    /// Images of each set.
    pub images: i64,
    pub rows: Vec<Row>,
}

/// One measure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: &'static str,
    pub draws: Measured,
    pub heldout: Measured,
    /// Draws over held out.
    pub ratio: Measured,
}

/// What each image contributes: the measures are the means.
struct Parts {
    precision: Vec<f64>,
    recall: Vec<f64>,
    density: Vec<f64>,
    coverage: Vec<f64>,
}

/// Compares `draws` and `heldout` with `train`, features `[N, F]` each of as many images, more than `NEIGHBOURS`.
pub fn compare(draws: &Tensor, heldout: &Tensor, train: &Tensor, seed: u64) -> Result<Neighbours> {
    let images = train.size()[0];
    if draws.size()[0] != images || heldout.size()[0] != images || images <= NEIGHBOURS {
        return Err(Error::internal(format!(
            "{} draws, {} held-out and {images} training images: expected as many, and more than {NEIGHBOURS}",
            draws.size()[0],
            heldout.size()[0]
        )));
    }
    let (mine, reference) = (parts(draws, train)?, parts(heldout, train)?);
    // Recall and coverage are means over the real images, which are the same for both.
    let each: [(&'static str, &[f64], &[f64], bool); 4] = [
        ("precision", &mine.precision, &reference.precision, false),
        ("recall", &mine.recall, &reference.recall, true),
        ("density", &mine.density, &reference.density, false),
        ("coverage", &mine.coverage, &reference.coverage, true),
    ];
    let rows = each.into_iter().map(|(name, draws, heldout, paired)| {
        let resampling = Resampling { seed, name };
        Row {
            name,
            draws: resampling.mean(draws),
            heldout: resampling.mean(heldout),
            ratio: resampling.ratio(draws, heldout, paired),
        }
    });
    Ok(Neighbours { images, rows: rows.collect() })
}

fn parts(generated: &Tensor, real: &Tensor) -> Result<Parts> {
    let (real_radius, generated_radius) = (radii(real)?, radii(generated)?);
    // [real, generated]
    let distance = distances(real, generated)?;
    let in_real = distance.f_le_tensor(&real_radius.f_unsqueeze(1)?)?;
    let in_generated = distance.f_le_tensor(&generated_radius.f_unsqueeze(0)?)?;
    let held = in_real.f_to_kind(Kind::Double)?.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?;
    Ok(Parts {
        precision: numbers(&in_real.f_any_dim(0, false)?)?,
        recall: numbers(&in_generated.f_any_dim(1, false)?)?,
        density: numbers(&held.f_div_scalar(NEIGHBOURS as f64)?)?,
        coverage: numbers(&in_real.f_any_dim(1, false)?)?,
    })
}

/// Euclidean distances, `[N, M]`, without the shortcut that makes equal rows differ.
fn distances(left: &Tensor, right: &Tensor) -> Result<Tensor> {
    const PLAIN: i64 = 2;
    Ok(Tensor::f_cdist(&left.f_to_kind(Kind::Double)?, &right.f_to_kind(Kind::Double)?, 2.0, PLAIN)?)
}

/// Distance of each row to its k-th nearest other row, `[N]`.
fn radii(set: &Tensor) -> Result<Tensor> {
    // The nearest of all is the row itself.
    Ok(distances(set, set)?.f_kthvalue(NEIGHBOURS + 1, 1, false)?.0)
}
