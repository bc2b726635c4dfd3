//! `unseeing retry`: clears failed objects or stale claims, so that the next run tries them again.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing retry`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing retry` is not built yet"))
}
