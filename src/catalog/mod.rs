//! Catalogues: from CSV and FITS tables to targets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One object to be sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// As in the catalogue. Unique within a survey, and safe as a file name.
    pub id: String,
    /// Right ascension, degrees, ICRS.
    pub ra: f64,
    /// Declination, degrees, ICRS.
    pub dec: f64,
    pub redshift: f64,
    /// One standard deviation of the redshift, if the catalogue has it.
    pub redshift_error: Option<f64>,
    /// E(B-V) of the Milky Way, magnitudes, if the catalogue has it.
    pub ebv: Option<f64>,
    /// Extinction per band in magnitudes, if the catalogue has it (in the order of the config's bands).
    pub extinction: Option<Vec<f64>>,
    /// Further columns that path patterns name, as text.
    pub columns: BTreeMap<String, String>,
    /// What makes the row unusable (no redshift, ...): the object fails with this reason, the survey goes on.
    pub trouble: Option<String>,
}
