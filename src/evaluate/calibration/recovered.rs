//! How well truths of a network prior are recovered, by observed S/N: what `evaluate recovery` tells of a simulated survey, of
//! simulations whose noise and PSF are known exactly.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::probability::mean_sd;
use super::problems::Family;
use super::record::Numbers;
use super::summary::Context;
use crate::evaluate::recovery::{self, Compared, Object, Row};

/// The statistics that catalogues have, and that have units.
const QUANTITIES: [&str; 3] = ["flux", "r50", "colour"];

/// Rows by observed S/N, for network priors alone.
pub fn rows(context: &Context, numbers: &[&Numbers]) -> Vec<Row> {
    if context.family != Family::Network {
        return Vec::new();
    }
    let compared = |values: &[f64]| -> Option<Compared> {
        let (truth, draws) = values.split_first()?;
        let (mean, sd) = mean_sd(draws);
        Some(Compared { truth: *truth, mean, sd, draws: draws.len() as u32 })
    };
    let object = |numbers: &&Numbers| -> Option<Object> {
        let named = context.statistics.iter().zip(&numbers.values);
        let of_catalogues = named.filter(|(name, _)| QUANTITIES.contains(&name.as_str()));
        let quantities: BTreeMap<_, _> =
            of_catalogues.filter_map(|(name, values)| Some((name.clone(), compared(values)?))).collect();
        let signal_to_noise = numbers.observed_signal_to_noise?;
        Some(Object { id: String::new(), flags: 0, signal_to_noise, size_over_psf: f64::NAN, quantities })
    };
    recovery::rows(&numbers.iter().filter_map(object).collect::<Vec<_>>(), 0)
}

/// A line for each bin.
pub fn text(name: &str, rows: &[Row], out: &mut String) -> std::fmt::Result {
    let mut bins: Vec<(f64, Vec<&Row>)> = Vec::new();
    for row in rows {
        match bins.iter_mut().find(|(low, _)| *low == row.low) {
            Some((_, same)) => same.push(row),
            None => bins.push((row.low, vec![row])),
        }
    }
    bins.sort_by(|left, right| left.0.total_cmp(&right.0));
    for (low, rows) in bins {
        let high = rows[0].high.map_or(String::new(), |high| format!(" to {high}"));
        let cell = |row: &&Row| {
            let (factor, unit) = if recovery::relative(&row.quantity) { (100.0, " %") } else { (1.0, "") };
            let digits = if unit.is_empty() { 3 } else { 1 };
            format!(
                "{} {:.digits$}+-{:.digits$}{unit} / {:.2}+-{:.2}",
                row.quantity,
                factor * row.bias.value,
                factor * row.bias.error,
                row.pull_sd.value,
                row.pull_sd.error
            )
        };
        let cells = rows.iter().map(cell).collect::<Vec<_>>().join("; ");
        let count = rows[0].objects;
        writeln!(out, "  {name}, S/N from {low}{high}: {count} simulations; bias / sd of pulls: {cells}")?;
    }
    Ok(())
}
