//! Calibration: samplers certified against exact posteriors and against simulated truths.
//!
//! A *problem* (`problems/`) draws a truth and its observation, a *sampler* draws from what it takes for the posterior, and
//! one simulation's *record* (`record.rs`) holds what is measured: errors and variances by bins of posterior over prior
//! variance, ranks, TARP, sliced Wasserstein distance, mode weights, cost. `summary.rs` turns the records of one sampler on
//! one problem into estimates with errors and p-values, and `verdict.rs` holds them to the bars. Records are files
//! (`run.rs`), so that a run can be interrupted and shared between ranks.
//!
//! What is random is a function of the config's seed and of names; no test is chosen after looking at data.

mod compared;
pub mod config;
mod counting;
pub mod exact;
mod exchange;
pub mod figures;
mod hamiltonian;
pub mod probability;
pub mod problems;
pub mod record;
mod recovered;
mod reference;
pub mod report;
pub mod run;
pub mod summary;
#[cfg(test)]
mod tests;
pub mod verdict;
mod wasserstein;
mod wiener;
