//! `unseeing simulate`: makes a small survey with known truth.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing simulate`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing simulate` is not built yet"))
}
