//! Compute devices.
