//! `unseeing export`: writes the products of chosen objects as FITS images.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing export`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing export` is not built yet"))
}
