//! io

pub mod about;
