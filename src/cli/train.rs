//! `unseeing train`: trains a prior from images.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing train`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing train` is not built yet"))
}
