//! Whether an object is one that the prior knows: its posterior among the draws of the interim prior.

/// Quantities by their names in records; sizes and shapes are scale-free or logarithmic.
const MAIN: [&str; 5] = ["concentration", "asymmetry", "gini", "m20", "r50"];
/// A column with less than this part of finite draws is left out.
const MOST: f64 = 0.9;
/// Fewer draws, or fewer columns, say nothing.
const LEAST_DRAWS: usize = 50;
const LEAST_COLUMNS: usize = 3;

type Columns = [(String, Vec<f32>)];

/// The part of the interim prior's draws that are at least as far from their mean as the object is, in Mahalanobis'
/// distance over colours, ln r50, concentration, asymmetry, Gini, M20 and ellipticity: never below 1 / (draws + 1). The
/// object stands at its posterior mean. NaN where too little is known.
pub fn prior_tail(posterior: &Columns, prior: &Columns) -> f64 {
    let (mut point, mut columns) = (Vec::new(), Vec::new());
    for (own, drawn) in quantities(posterior).into_iter().zip(quantities(prior)) {
        let own: Vec<f64> = own.into_iter().filter(|value| value.is_finite()).collect();
        let finite = drawn.iter().filter(|value| value.is_finite()).count();
        if own.is_empty() || drawn.len() < LEAST_DRAWS || (finite as f64) < MOST * drawn.len() as f64 {
            continue;
        }
        point.push(own.iter().sum::<f64>() / own.len() as f64);
        columns.push(drawn);
    }
    if columns.len() < LEAST_COLUMNS {
        return f64::NAN;
    }
    let rows: Vec<Vec<f64>> = (0..columns[0].len())
        .map(|draw| columns.iter().map(|column| column[draw]).collect::<Vec<f64>>())
        .filter(|row| row.iter().all(|value| value.is_finite()))
        .collect();
    if rows.len() < LEAST_DRAWS {
        return f64::NAN;
    }
    let count = rows.len() as f64;
    let size = columns.len();
    let mean: Vec<f64> = (0..size).map(|at| rows.iter().map(|row| row[at]).sum::<f64>() / count).collect();
    let mut covariance = vec![vec![0.0; size]; size];
    for row in &rows {
        for a in 0..size {
            for b in 0..size {
                covariance[a][b] += (row[a] - mean[a]) * (row[b] - mean[b]) / (count - 1.0);
            }
        }
    }
    let Some(factor) = cholesky(&covariance) else { return f64::NAN };
    let distance = |point: &[f64]| {
        let mut solved = vec![0.0; size];
        for a in 0..size {
            let known: f64 = (0..a).map(|b| factor[a][b] * solved[b]).sum();
            solved[a] = (point[a] - mean[a] - known) / factor[a][a];
        }
        solved.iter().map(|value| value * value).sum::<f64>()
    };
    let own = distance(&point);
    let further = rows.iter().filter(|row| distance(row) >= own).count() as f64;
    (further + 1.0) / (count + 1.0)
}

/// The columns that are compared, in a fixed order; empty where one is missing.
fn quantities(columns: &Columns) -> Vec<Vec<f64>> {
    let find = |name: &str| columns.iter().find(|(key, _)| key == name).map(|(_, values)| values.as_slice());
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
    let bands = (0..).take_while(|band| find(&format!("flux_{band}")).is_some()).count();
    let mut found = Vec::new();
    for band in 1..bands {
        let pair = [band - 1, band].map(|band| wide(find(&format!("flux_{band}")).unwrap_or_default()));
        found.push(pair[0].iter().zip(&pair[1]).map(|(a, b)| (a / b).ln()).collect());
    }
    for name in MAIN {
        let values = wide(find(name).unwrap_or_default());
        found.push(if name == "r50" { values.iter().map(|value| value.ln()).collect() } else { values });
    }
    let shape = ["e1", "e2"].map(|name| wide(find(name).unwrap_or_default()));
    found.push(shape[0].iter().zip(&shape[1]).map(|(e1, e2)| e1.hypot(*e2)).collect());
    found
}

/// The lower triangle L with L L^T = `matrix`; `None` when that is not positive definite.
fn cholesky(matrix: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let size = matrix.len();
    let mut factor = vec![vec![0.0f64; size]; size];
    for a in 0..size {
        for b in 0..=a {
            let rest = matrix[a][b] - (0..b).map(|k| factor[a][k] * factor[b][k]).sum::<f64>();
            factor[a][b] = if a == b {
                if rest <= 1e-12 * matrix[a][a] {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / factor[b][b]
            };
        }
    }
    Some(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn draws(name: &str, count: usize, shift: f32) -> Vec<(String, Vec<f32>)> {
        let names = ["flux_0", "flux_1", "r50", "concentration", "asymmetry", "gini", "m20", "e1", "e2"];
        let column = |index: usize| {
            let normal = Key::new(1, name, index as u32, Purpose::Evaluation, 0).normal(count);
            match names[index] {
                "flux_0" | "flux_1" | "r50" => normal.iter().map(|value| (0.3 * value).exp()).collect(),
                "m20" => normal.iter().map(|value| value + shift).collect(),
                _ => normal,
            }
        };
        names.iter().enumerate().map(|(index, name)| (name.to_string(), column(index))).collect()
    }

    #[test]
    fn draws_of_the_prior_are_uniform_and_strangers_are_seen() {
        let prior = draws("prior", 1000, 0.0);
        // A posterior of one draw is a draw: its tail probability is uniform.
        let tails: Vec<f64> = (0..200).map(|index| prior_tail(&draws(&format!("x{index}"), 1, 0.0), &prior)).collect();
        let mean = tails.iter().sum::<f64>() / 200.0;
        assert!((mean - 0.5).abs() < 0.07, "{mean}");
        assert!(prior_tail(&draws("y", 50, 8.0), &prior) < 0.002);
        assert!(prior_tail(&draws("y", 50, 0.0), &prior) > 0.5, "a mean of many draws is near the mean");
    }

    #[test]
    fn too_little_is_unknown() {
        let prior = draws("prior", 1000, 0.0);
        assert!(prior_tail(&[], &prior).is_nan() && prior_tail(&draws("x", 5, 0.0), &[]).is_nan());
        assert!(prior_tail(&draws("x", 5, 0.0), &draws("few", 20, 0.0)).is_nan());
        // A constant column has no covariance that could be inverted.
        let mut flat = prior.clone();
        flat[4].1.fill(1.0);
        assert!(prior_tail(&draws("x", 5, 0.0), &flat).is_nan());
    }
}
