//! cluster

pub mod about;
