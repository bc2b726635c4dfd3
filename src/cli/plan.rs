//! `unseeing plan`: checks a config and its catalogue and writes the plan of a survey.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing plan`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing plan` is not built yet"))
}
