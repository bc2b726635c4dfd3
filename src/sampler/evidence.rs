//! The evidence p(y | z_k) of likelihoods that differ, as those of redshifts do, from one draw x_k ~ p(x | y, z_k) for each: the
//! draws weigh their own redshifts. With the multistate acceptance ratio (Shirts & Chodera 2008, arXiv:0801.1426),
//!
//! ```text
//! p(y | z_k) = sum_j p(y | x_j, z_k) / sum_m p(y | x_j, z_m) / p(y | z_m)
//! ```
//!
//! which are K equations for K unknowns, up to a factor. Only likelihoods are asked for: the density of the prior, which nobody knows
//! of a diffusion model, is the same at all z and cancels. It costs K^2 predictions, and no network evaluation. Draws of neighbouring
//! redshifts must fit each other's data: where they do not, the weights are as uncertain as uneven, and are worth few draws.

use tch::{Device, Kind, Tensor};

use super::conjugate_gradient::{self, Stop, dot};
use crate::forward::{Latent, Likelihood};
use crate::{Error, Result};

/// Of the solves with the noise covariance: what is left adds 0.01 to chi^2.
const STOP: Stop = Stop { tolerance: 0.1, iterations: 200 };
/// Newton steps at most, and the largest error of an equation that is left.
const ROUNDS: usize = 200;
const CLOSE: f64 = 1e-9;
/// Added to what Newton's steps divide by: directions in which no draw knows of two redshifts stay where they are.
const RIDGE: f64 = 1e-9;
/// Halvings of a step that goes too far.
const HALVINGS: usize = 40;

/// ln p(y | x_j, z_k) of all draws j, up to what they have in common: a row for each k. `own` has the likelihood of each
/// draw's z; the noise of all is that of `noise` at the mean of the draws, so that no z is favoured for what its field's edge
/// inflates. Draws that are not finite, or whose predictions are too large to be squared, have NaN.
pub fn ln_likelihoods(own: &dyn Likelihood, noise: &dyn Likelihood, draws: &Latent) -> Result<Vec<Vec<f64>>> {
    let count = draws.image.size()[0];
    let finite = |index: i64| -> Result<bool> {
        let mut finite = true;
        for part in [&draws.image, &draws.ln_amplitude, &draws.sky] {
            finite &= part.f_get(index)?.f_isfinite()?.f_all()?.f_int64_value(&[])? == 1;
        }
        Ok(finite)
    };
    let finite = (0..count).map(finite).collect::<Result<Vec<bool>>>()?;
    let mean = |tensor: &Tensor| -> Result<Tensor> {
        let known = tensor.f_where_scalarother(&tensor.f_isfinite()?, f64::NAN)?;
        Ok(known.f_nanmean([0i64].as_slice(), true, Kind::Float)?.f_to_kind(tensor.kind())?)
    };
    let centre =
        Latent { image: mean(&draws.image)?, ln_amplitude: mean(&draws.ln_amplitude)?, sky: mean(&draws.sky)? };
    let mut rows = vec![vec![f64::NAN; count as usize]; count as usize];
    if !finite.contains(&true) {
        return Ok(rows);
    }
    let noise = noise.linearize(&centre)?;
    let data = own.data().f_unsqueeze(0)?;
    for (draw, _) in finite.iter().enumerate().filter(|(_, finite)| **finite) {
        let same = |tensor: &Tensor| -> Result<Tensor> {
            let mut shape = tensor.size();
            shape[0] = count;
            Ok(tensor.f_narrow(0, draw as i64, 1)?.f_expand(shape, false)?.f_contiguous()?)
        };
        let everywhere =
            Latent { image: same(&draws.image)?, ln_amplitude: same(&draws.ln_amplitude)?, sky: same(&draws.sky)? };
        let residual = data.f_sub(&own.predict(&everywhere)?)?;
        let precondition = |left: &Tensor| -> Result<(Tensor, Tensor)> {
            let weighted = noise.precision(left)?;
            let size = dot(left, &weighted)?;
            Ok((weighted, size))
        };
        // A draw may be finite, and the squares of what it predicts not.
        if precondition(&residual)?.1.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            continue;
        }
        let (weighted, _) =
            conjugate_gradient::solve(&residual, STOP, precondition, |weighted| noise.covariance(weighted))?;
        let squares = residual.f_mul(&weighted)?.f_sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double)?;
        for (row, square) in rows.iter_mut().zip(Vec::<f64>::try_from(squares.f_to_device(Device::Cpu)?)?) {
            row[draw] = -0.5 * square;
        }
    }
    Ok(rows)
}

/// The weights of the draws, which sum to one, from `ln_likelihoods` of finite ones.
pub fn shares(ln_likelihoods: &[Vec<f64>]) -> Result<Vec<f64>> {
    let evidence = ln_evidence(ln_likelihoods)?;
    let total = ln_sum(evidence.iter().copied());
    Ok(evidence.iter().map(|one| (one - total).exp()).collect())
}

/// ln p(y | z_k) up to a constant: the minimum over f, f_k = -ln p(y | z_k), of
/// sum_j ln sum_k exp(l_kj + f_k) - sum_k f_k, which is convex, by Newton's method.
fn ln_evidence(rows: &[Vec<f64>]) -> Result<Vec<f64>> {
    let count = rows.len();
    if rows.iter().any(|row| row.len() != count || row.iter().any(|value| !value.is_finite())) {
        return Err(Error::internal("evidence: expected a square table of finite likelihoods"));
    }
    let mut f = vec![0.0; count];
    let columns = |f: &[f64]| -> Vec<f64> {
        (0..count).map(|draw| ln_sum(rows.iter().zip(f).map(|(row, f)| row[draw] + f))).collect()
    };
    let objective = |f: &[f64]| columns(f).iter().sum::<f64>() - f.iter().sum::<f64>();
    let mut value = objective(&f);
    for _ in 0..ROUNDS {
        let totals = columns(&f);
        // That draw j is of z_k.
        let parts: Vec<f64> = (0..count * count)
            .map(|at| (rows[at / count][at % count] + f[at / count] - totals[at % count]).exp())
            .collect();
        let sums: Vec<f64> = parts.chunks(count).map(|row| row.iter().sum()).collect();
        let gradient: Vec<f64> = sums.iter().map(|sum| sum - 1.0).collect();
        if gradient.iter().all(|value| value.abs() < CLOSE) {
            break;
        }
        let parts = Tensor::f_from_slice(&parts)?.f_view([count as i64, -1])?;
        let curvature =
            Tensor::f_from_slice(&sums)?.f_add_scalar(RIDGE)?.f_diag(0)?.f_sub(&parts.f_matmul(&parts.f_tr()?)?)?;
        // The factor that all have in common is held.
        let curvature = curvature.f_add_scalar(1.0 / count as f64)?;
        let step = Tensor::f_linalg_solve(&curvature, &Tensor::f_from_slice(&gradient)?, true)?;
        let step = Vec::<f64>::try_from(step)?;
        let mut length = 1.0;
        for _ in 0..HALVINGS {
            let next: Vec<f64> = f.iter().zip(&step).map(|(f, step)| f - length * step).collect();
            let at_next = objective(&next);
            if at_next <= value {
                (f, value) = (next, at_next);
                break;
            }
            length *= 0.5;
        }
    }
    Ok(f.into_iter().map(|f| -f).collect())
}

/// ln sum exp, without overflow.
fn ln_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    largest + values.map(|value| (value - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests;
