//! The sky: distances, and where pixels are. Pure.

pub mod cosmology;
pub mod wcs;

pub use wcs::TanWcs;
