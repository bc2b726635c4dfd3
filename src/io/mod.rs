//! The only place that names HDF5 or FITS libraries, and the only one that renames files.
//! Files: the only place that names hdf5 or fitsio, and the only one that renames.

pub mod about;
pub mod digest;
pub mod fits;
pub mod hdf5;
pub mod journal;
pub mod npz;
pub mod publish;
