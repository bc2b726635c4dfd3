//! io

pub mod npz;

pub mod hdf5;
pub mod publish;

pub mod about;
pub mod fits;
