//! `unseeing status`: tells how far a survey has come.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing status`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing status` is not built yet"))
}
