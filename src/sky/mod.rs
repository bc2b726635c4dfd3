//! sky

pub mod wcs;
