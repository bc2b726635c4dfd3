//! `unseeing doctor`: tells what this machine has and whether the program works on it.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing doctor`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing doctor` is not built yet"))
}
