//! `unseeing import`: reads a network trained elsewhere and checks it against recorded outputs.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing import`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing import` is not built yet"))
}
