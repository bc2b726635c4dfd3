//! Claims of features: how often posteriors have a compact feature where none is, and where one is. The surveys are those of
//! `unseeing simulate --inject`: at one place of each galaxy a feature was added, or could have been.
//!
//! The statistic of an image is the flux in a circle at that place, with the feature's width as its radius, less the median
//! of the same at eleven other angles about the galaxy's middle. A draw *claims* the feature when that excess is above half
//! of what the feature alone would give, and a truth *has* it when its own excess is: a galaxy may have an arm or a companion
//! there by itself. So the rates are over truths that have it (found) and that have not (false).

use serde::Serialize;

use super::recovery::{Measured, SIGNAL_BINS};
use crate::product::{ObjectRecord, RecordArray, ShardMeta, Status};
use crate::{Error, Result};

/// Angles about the galaxy's middle at which the circle is laid, the feature's own among them.
const ANGLES: usize = 12;
/// Parts that a pixel is split into along each axis at the circle's edge.
const PARTS: usize = 5;
/// Part of the feature's flux above which it is claimed.
const CLAIMED: f64 = 0.5;

/// The feature of an object, as its truth has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Column and row on the products' grid.
    pub place: [f64; 2],
    /// Flux in the reference band, nJy.
    pub flux: f64,
    pub fwhm_kpc: f64,
    /// Whether it was added.
    pub added: bool,
}

/// What the posterior of one object says.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    pub id: String,
    /// Kron flux over its error, reference band.
    pub signal_to_noise: f64,
    pub added: bool,
    /// Excess of the truth, in units of what the feature alone gives.
    pub truth: f64,
    /// Mean over draws of their excess, likewise.
    pub mean: f64,
    /// Part of the draws that claim the feature.
    pub claiming: f64,
}

impl Claim {
    /// Of a record with its draws; `None` for failed objects.
    ///
    /// Errors: a record without draws; a truth of another shape than the products.
    pub fn of(record: &ObjectRecord, truth: &RecordArray, feature: &Place, meta: &ShardMeta) -> Result<Option<Claim>> {
        if record.status != Status::Done {
            return Ok(None);
        }
        let (size, bands) = (meta.size, meta.bands.len());
        let area = size * size;
        let Some(draws) = record.array("draws").filter(|draws| !draws.values.is_empty()) else {
            let what = "its products hold no draws, in which features are looked for: posterior.keep_draws";
            return Err(Error::object(&record.id, what));
        };
        if truth.values.len() != bands * area {
            let what = format!("its truth has shape {:?}, its products {size} pixels a side", truth.shape);
            return Err(Error::object(&record.id, what));
        }
        let radius = feature.fwhm_kpc / meta.pixel_kpc;
        // Of a Gaussian this part is within its full width at half maximum.
        let alone = feature.flux * (1.0 - 0.5f64.powi(4));
        let of = |image: &[f32]| excess(&image[meta.reference * area..][..area], size, feature.place, radius) / alone;
        let found: Vec<f64> = draws.values.chunks(bands * area).map(of).filter(|value| value.is_finite()).collect();
        let count = found.len() as f64;
        let kron = |name: &str| record.vector(name).get(meta.reference).copied().unwrap_or(f64::NAN);
        Ok(Some(Claim {
            id: record.id.clone(),
            signal_to_noise: kron("kron_flux") / kron("kron_flux_error"),
            added: feature.added,
            truth: of(&truth.values),
            mean: found.iter().sum::<f64>() / count,
            claiming: found.iter().filter(|value| **value > CLAIMED).count() as f64 / count,
        }))
    }

    /// Whether the truth has a feature there.
    pub fn is_there(&self) -> bool {
        self.truth > CLAIMED
    }
}

/// Flux within `radius` of `place`, less the median of it at the other angles about the grid's middle.
pub fn excess(image: &[f32], size: usize, place: [f64; 2], radius: f64) -> f64 {
    let middle = (size as f64 - 1.0) / 2.0;
    let (x, y) = (place[0] - middle, place[1] - middle);
    let at = |index: usize| {
        let (sine, cosine) = (std::f64::consts::TAU * index as f64 / ANGLES as f64).sin_cos();
        within(image, size, [middle + x * cosine - y * sine, middle + x * sine + y * cosine], radius)
    };
    let mut others: Vec<f64> = (1..ANGLES).map(at).collect();
    others.sort_by(f64::total_cmp);
    at(0) - others[others.len() / 2]
}

/// Flux within a circle, what the field holds of it.
fn within(image: &[f32], size: usize, [x, y]: [f64; 2], radius: f64) -> f64 {
    let range = |centre: f64| {
        let low = (centre - radius - 0.5).floor().max(0.0) as usize;
        let high = (centre + radius + 0.5).ceil().max(0.0) as usize;
        low..(high + 1).min(size)
    };
    let offset = |part: usize| (part as f64 + 0.5) / PARTS as f64 - 0.5;
    let mut sum = 0.0;
    for row in range(y) {
        for column in range(x) {
            let (dx, dy) = (column as f64 - x, row as f64 - y);
            let inside = |part: &usize| (dx + offset(part % PARTS)).hypot(dy + offset(part / PARTS)) <= radius;
            let parts = (0..PARTS * PARTS).filter(inside).count() as f64;
            sum += f64::from(image[row * size + column]) * parts / (PARTS * PARTS) as f64;
        }
    }
    sum
}

/// Claims about the objects of one bin that have a feature, or that have none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    pub objects: usize,
    /// Mean part of the draws that claim it, with its error over objects (none for a single one).
    pub claiming: Measured,
    /// Part of the objects of which more than half of the draws claim it.
    pub claimed: f64,
}

/// Rates in one bin of observed S/N.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub low: f64,
    /// `None`: no upper edge.
    pub high: Option<f64>,
    /// Where there is a feature, and where there is none.
    pub found: Option<Rate>,
    pub false_claims: Option<Rate>,
}

/// Rates by observed S/N, and over all objects first; bins without objects are left out.
pub fn rows(claims: &[Claim]) -> Vec<Row> {
    let edges = SIGNAL_BINS.iter().enumerate().map(|(index, &low)| (low, SIGNAL_BINS.get(index + 1).copied()));
    let everything = std::iter::once((f64::NEG_INFINITY, None));
    let row = |(low, high): (f64, Option<f64>)| {
        let inside: Vec<&Claim> = claims
            .iter()
            .filter(|claim| claim.signal_to_noise >= low && high.is_none_or(|high| claim.signal_to_noise < high))
            .collect();
        let rate = |there: bool| {
            let parts: Vec<f64> =
                inside.iter().filter(|claim| claim.is_there() == there).map(|claim| claim.claiming).collect();
            (!parts.is_empty()).then(|| Rate {
                objects: parts.len(),
                claiming: Measured::mean(&parts),
                claimed: parts.iter().filter(|part| **part > 0.5).count() as f64 / parts.len() as f64,
            })
        };
        let low = if low.is_finite() { low } else { 0.0 };
        Row { low, high, found: rate(true), false_claims: rate(false) }
    };
    everything.chain(edges).map(row).filter(|row| row.found.is_some() || row.false_claims.is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disc(size: usize) -> Vec<f32> {
        let middle = (size as f64 - 1.0) / 2.0;
        let at = |index: usize| ((index % size) as f64 - middle).hypot((index / size) as f64 - middle);
        (0..size * size).map(|index| (100.0 * (-at(index) / 6.0).exp()) as f32).collect()
    }

    #[test]
    fn the_excess_is_the_features_flux_and_not_the_galaxys() {
        let (size, place) = (64, [31.5 + 7.0, 31.5 + 4.0]);
        let plain = disc(size);
        // A round galaxy has no excess: pixels break the symmetry by some parts in a thousand of what is in the circle.
        let inside = within(&plain, size, place, 2.0);
        assert!(excess(&plain, size, place, 2.0).abs() < 0.01 * inside, "{}", excess(&plain, size, place, 2.0));
        let mut with = plain.clone();
        with[35 * size + 38] += 50.0;
        with[36 * size + 39] += 50.0;
        assert!((excess(&with, size, place, 2.0) - 100.0).abs() < 0.01 * inside);
        assert!((within(&vec![1.0; size * size], size, [20.3, 30.8], 5.0) - 78.54).abs() < 0.5);
    }

    #[test]
    fn rates_are_of_what_is_there_and_what_is_not() {
        let claim = |signal_to_noise: f64, truth: f64, claiming: f64| Claim {
            id: String::new(),
            signal_to_noise,
            added: truth > 0.5,
            truth,
            mean: claiming,
            claiming,
        };
        let claims = [claim(30.0, 1.0, 0.9), claim(30.0, 1.1, 0.3), claim(30.0, 0.1, 0.6), claim(300.0, 0.0, 0.0)];
        let found = rows(&claims);
        assert_eq!(found.len(), 3, "all, and two bins");
        let (found, none) = (found[1].found.unwrap(), found[1].false_claims.unwrap());
        assert!((found.claiming.value - 0.6).abs() < 1e-12 && (found.objects, found.claimed) == (2, 0.5), "{found:?}");
        assert!(none.claiming.error.is_nan() && (none.objects, none.claimed) == (1, 1.0), "{none:?}");
        assert!(rows(&claims)[0].false_claims.unwrap().objects == 2 && rows(&claims)[2].found.is_none());
    }
}
