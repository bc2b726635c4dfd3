//! io

pub mod npz;
