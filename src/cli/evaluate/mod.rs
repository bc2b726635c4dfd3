//! `unseeing evaluate`: tests of priors and samplers, one file each.

use clap::{Args as ClapArgs, Subcommand};

use crate::Result;

mod calibration;
mod compare;
mod consistency;
mod coverage;
mod dominance;
mod prior;
mod recovery;

/// Arguments of `unseeing evaluate`.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    test: Test,
}

#[derive(Subcommand)]
enum Test {
    /// Self-consistency of a prior and a sampler: draws without data against ancestral draws, and draws given simulated
    /// data of prior draws against those
    Consistency(consistency::Args),
    /// Samplers against exact posteriors and simulated truths: coverage, ranks, distances, cost. Alone or under mpirun;
    /// what was interrupted is continued
    Calibration(calibration::Args),
    /// Posterior means and draws against a sharp image of the same sky (HST) or simulated truths, beside Richardson-Lucy
    /// and Wiener on the same data
    Compare(compare::Args),
    /// The products of a simulated survey against its truths, pixel by pixel: how often truths are within the intervals that
    /// mean and variance claim, by observed S/N and radius
    Coverage(coverage::Args),
    /// One galaxy at many magnitudes, all else the same: how much of the prior's variance the data leave
    Dominance(dominance::Args),
    /// Draws of a prior against the images that it was trained on and held-out ones: Frechet distances, precision, recall,
    /// density, coverage, memorisation, power spectra, distributions of quantities. Alone or under mpirun; what was
    /// interrupted is continued
    Prior(prior::Args),
    /// The products of a simulated survey against its truths: bias and pull of fluxes, sizes, shapes and colours, shear
    /// response, blank sky
    Recovery(recovery::Args),
}

impl Args {
    /// Whether the command goes on when nobody reads what it prints.
    pub fn is_long(&self) -> bool {
        matches!(self.test, Test::Calibration(_) | Test::Prior(_))
    }
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    match args.test {
        Test::Consistency(args) => consistency::run(&args),
        Test::Calibration(args) => calibration::run(&args),
        Test::Compare(args) => compare::run(&args),
        Test::Coverage(args) => coverage::run(&args),
        Test::Dominance(args) => dominance::run(&args),
        Test::Prior(args) => prior::run(&args),
        Test::Recovery(args) => recovery::run(&args),
    }
}
