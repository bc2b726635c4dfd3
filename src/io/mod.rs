//! The only place that names HDF5 or FITS libraries, and the only one that renames files.

pub mod digest;
pub mod journal;
pub mod publish;
