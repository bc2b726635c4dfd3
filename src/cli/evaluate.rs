//! `unseeing evaluate`: tests whether a prior and a sampler are consistent.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing evaluate`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing evaluate` is not built yet"))
}
