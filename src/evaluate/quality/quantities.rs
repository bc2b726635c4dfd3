//! Distributions of measured quantities (`posterior/morphology`) of draws against data.

use serde::Serialize;

use super::features::Morphology;
use crate::evaluate::ranks::two_sample_test;

/// One quantity.
#[derive(Clone, Debug, Serialize)]
pub struct Quantity {
    pub name: String,
    /// Mean and standard deviation of draws, training and held-out images.
    pub draws: [f64; 2],
    pub train: [f64; 2],
    pub heldout: [f64; 2],
    /// Kolmogorov-Smirnov distance from the training images, and the probability of a larger one by chance, which takes images to
    /// be independent (views of one galaxy are not).
    pub draws_distance: f64,
    pub draws_p: f64,
    pub heldout_distance: f64,
    pub heldout_p: f64,
    /// The measured values, for pictures.
    #[serde(skip)]
    pub values: [Vec<f64>; 3],
}

/// Compares the quantities of draws, training and held-out images. What could not be measured is left out.
pub fn compare(draws: &Morphology, train: &Morphology, heldout: &Morphology) -> Vec<Quantity> {
    let columns = draws.names.iter().enumerate();
    let all = columns.map(|(index, name)| (name, [draws, train, heldout].map(|set| set.column(index))));
    all.filter(|(_, values)| values.iter().all(|values| values.len() > 1 && varies(values)))
        .map(|(name, values)| {
            let [draws, train, heldout] = values.each_ref().map(|values| mean_sd(values));
            let (draws_distance, draws_p) = two_sample_test(&values[0], &values[1]);
            let (heldout_distance, heldout_p) = two_sample_test(&values[2], &values[1]);
            Quantity {
                name: name.clone(),
                draws,
                train,
                heldout,
                draws_distance,
                draws_p,
                heldout_distance,
                heldout_p,
                values,
            }
        })
        .collect()
}

/// Whether there is a distribution: the flux in the reference band is one by normalisation.
fn varies(values: &[f64]) -> bool {
    let [mean, sd] = mean_sd(values);
    sd > 1e-4 * mean.abs()
}

fn mean_sd(values: &[f64]) -> [f64; 2] {
    let (mean, sd) = crate::evaluate::calibration::probability::mean_sd(values);
    [mean, sd]
}
