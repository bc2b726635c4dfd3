//! `unseeing report`: draws pictures and tables of a survey.

use clap::Args as ClapArgs;

use crate::{Error, Result};

/// Arguments of `unseeing report`.
#[derive(ClapArgs)]
pub struct Args {}

/// Runs the command and returns the exit code.
pub fn run(_args: Args) -> Result<i32> {
    Err(Error::usage("`unseeing report` is not built yet"))
}
