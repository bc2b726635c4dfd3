//! The integration tests, in one binary.

#[path = "suite/inputs.rs"]
mod inputs;
