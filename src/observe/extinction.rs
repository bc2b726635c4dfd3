//! Extinction by the Milky Way's dust.

use crate::catalog::Target;
use crate::config::DataConfig;

/// 10^(0.4 A) for each band: what the observed flux is multiplied by. A comes from the catalogue's columns, or is
/// E(B-V) times the config's coefficients; without either it is 0.
pub(super) fn factors(target: &Target, data: &DataConfig) -> Vec<f64> {
    let magnitudes = match (&target.extinction, target.ebv, &data.extinction_coefficients) {
        (Some(magnitudes), _, _) => magnitudes.clone(),
        (None, Some(ebv), Some(coefficients)) => coefficients.iter().map(|coefficient| coefficient * ebv).collect(),
        _ => vec![0.0; data.bands.len()],
    };
    magnitudes.into_iter().map(|magnitude| 10f64.powf(0.4 * magnitude)).collect()
}
