//! What an object's redshift is taken for.

use serde::{Deserialize, Serialize};

/// How the uncertainty of redshifts enters the posterior.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhotoZMode {
    /// The catalogue's redshift is exact.
    #[default]
    Point,
    /// Each draw has a redshift of its own, from the catalogue's error: a cut posterior, since the images are not asked about
    /// the redshift.
    Propagated,
}

/// Section `[photo_z]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PhotoZConfig {
    pub mode: PhotoZMode,
}

impl PhotoZConfig {
    /// Whether it is as if the section were not there. It is then not written, so that plans and products of such surveys are
    /// what they were before there was one.
    pub fn is_default(&self) -> bool {
        *self == PhotoZConfig::default()
    }

    /// Whether draws have redshifts of their own.
    pub fn propagated(&self) -> bool {
        self.mode == PhotoZMode::Propagated
    }
}
