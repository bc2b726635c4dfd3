//! `unseeing verify`: checks the products of a survey against their receipts.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing verify`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing verify` is not built yet"))
}
