//! `unseeing moments`: measures the moments of a prior from its draws.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing moments`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing moments` is not built yet"))
}
