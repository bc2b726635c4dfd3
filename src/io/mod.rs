//! Files: the only place that names hdf5 or fitsio, and the only one that renames.

pub mod npz;

pub mod hdf5;
pub mod publish;

pub mod about;
pub mod bytes;
pub mod digest;
pub mod fits;
pub mod journal;
mod pickle;
pub mod seal;
pub mod torch_save;
