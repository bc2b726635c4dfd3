//! `unseeing draw`: draws galaxies from a prior.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing draw`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing draw` is not built yet"))
}
