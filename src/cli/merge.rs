//! `unseeing merge`: joins the shard files of a survey into one file.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing merge`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing merge` is not built yet"))
}
