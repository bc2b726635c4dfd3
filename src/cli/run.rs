//! `unseeing run`: works on a survey: alone, or as one of many ranks (mpirun, srun).

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing run`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing run` is not built yet"))
}
