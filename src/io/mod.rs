//! io

pub mod fits;
