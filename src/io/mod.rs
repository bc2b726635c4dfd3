//! Files: the only place that names hdf5 or fitsio, and the only one that renames.

pub mod npz;

pub mod hdf5;
pub mod publish;

pub mod about;
pub mod fits;
