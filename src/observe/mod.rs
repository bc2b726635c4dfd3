//! From a catalogue's target to an observation: cutout, PSF, noise and mask in every band, calibrated to nJy.

pub mod pattern;

use crate::sky::wcs::TanWcs;

/// Everything that was observed of one target: the bands share one pixel grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The target's id.
    pub id: String,
    pub redshift: f64,
    pub redshift_error: Option<f64>,
    /// Rows and columns `[my, mx]` of the cut: all planes below have `my * mx` values, row by row.
    pub shape: [usize; 2],
    /// World coordinates of the cut (`crpix` counts from its own first pixel, from 0).
    pub wcs: TanWcs,
    /// Pixel position `[x, y]` of the target in the cut, 0-based; pixel centres are whole numbers.
    pub target: [f64; 2],
    /// Bands in the order of the config (and of the prior's channels).
    pub bands: Vec<Band>,
    /// What was done that a user should know of (a sky level removed, ...), in words.
    pub notes: Vec<String>,
}

/// One band of an observation. Image, variance, autocovariance and flux are in nJy, with the Milky Way's extinction
/// already corrected.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    pub name: String,
    /// nJy per detector pixel, residual sky level removed; 0 where the pixel is unusable.
    pub image: Vec<f32>,
    /// Variance of the sky noise (nJy^2), positive everywhere.
    pub variance: Vec<f32>,
    /// Whether `variance` already holds the photon noise of the sources (it comes from a variance plane).
    pub variance_holds_sources: bool,
    /// True where a pixel counts: it is good, and belongs to the target or to the sky.
    pub usable: Vec<bool>,
    /// Autocovariance of the sky noise.
    pub autocovariance: Autocovariance,
    /// The PSF as it was read, on the detector's pixel grid. Not normalised.
    pub psf: Psf,
    /// Flux of the target in an aperture and its standard deviation, nJy: where the amplitude's prior comes from.
    pub flux: f64,
    pub flux_error: f64,
    /// Electrons per nJy of `image`, when the config tells the gain.
    pub gain: Option<f64>,
    /// 10^(0.4 A): what image, noise and flux have been multiplied by.
    pub extinction_factor: f64,
    /// Sky level that was taken off, nJy per pixel (before the extinction's correction).
    pub sky: f64,
}

/// Stationary autocovariance of the noise at lags `-lag..=lag` in rows and columns, nJy^2.
#[derive(Clone, Debug, PartialEq)]
pub struct Autocovariance {
    /// Largest lag L in pixels.
    pub lag: usize,
    /// `(2 L + 1)^2` values, row by row: the lag (dy, dx) is at `(dy + L) (2 L + 1) + dx + L`. Even in (dy, dx).
    pub values: Vec<f64>,
}

/// A PSF image. Its centre is the pixel `(size - 1) / 2` of an odd size, and `size / 2` of an even one.
#[derive(Clone, Debug, PartialEq)]
pub struct Psf {
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Row by row.
    pub values: Vec<f32>,
}

impl Autocovariance {
    /// The value at lag `(dy, dx)`; 0 beyond the largest lag.
    pub fn at(&self, dy: isize, dx: isize) -> f64 {
        let (lag, width) = (self.lag as isize, 2 * self.lag as isize + 1);
        if dy.abs() > lag || dx.abs() > lag {
            return 0.0;
        }
        self.values[((dy + lag) * width + dx + lag) as usize]
    }
}
