//! The Fréchet distance between the Gaussians of two sets of features (Dowson & Landau 1982; as a measure of generators,
//! Heusel et al. 2017, arXiv:1706.08500):
//!
//! ```text
//! d^2 = |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1^1/2 C2 C1^1/2)^1/2)
//! ```
//!
//! It is biased upwards where images are few, by an amount that depends on their number: only distances of equally many
//! images compare.

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// The squared distance between sets of features, `[N, F]` and `[M, F]`, in the features' units squared. An error where a set
/// has less than two, or holds what is not finite.
pub fn squared(left: &Tensor, right: &Tensor) -> Result<f64> {
    let ((mean, covariance), (other, others)) = (gaussian(left)?, gaussian(right)?);
    let offset = mean.f_sub(&other)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let (values, vectors) = covariance.f_linalg_eigh("L")?;
    let root = values.f_clamp_min(0.0)?.f_sqrt()?;
    // C1^1/2 C2 C1^1/2 in the basis of C1, which has the same trace.
    let rotated = vectors.f_tr()?.f_matmul(&others)?.f_matmul(&vectors)?;
    let middle = rotated.f_mul(&root.f_unsqueeze(1)?)?.f_mul(&root.f_unsqueeze(0)?)?;
    let cross = middle.f_linalg_eigvalsh("L")?.f_clamp_min(0.0)?.f_sqrt()?.f_sum(Kind::Double)?;
    let traces = covariance.f_trace()?.f_add(&others.f_trace()?)?;
    Ok(offset + traces.f_sub(&cross.f_mul_scalar(2.0)?)?.f_double_value(&[])?)
}

/// Mean and covariance, f64.
fn gaussian(features: &Tensor) -> Result<(Tensor, Tensor)> {
    let features = features.f_to_kind(Kind::Double)?;
    let count = features.size()[0];
    if count < 2 || features.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Err(Error::usage(format!(
            "Fréchet distance: {count} rows of features, expected at least 2 and finite numbers"
        )));
    }
    let mean = features.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let centred = features.f_sub(&mean)?;
    Ok((mean, centred.f_tr()?.f_matmul(&centred)?.f_div_scalar((count - 1) as f64)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn normal(name: &str, rows: usize, columns: usize) -> Tensor {
        let values = Key::new(1, name, 0, Purpose::Evaluation, 0).normal(rows * columns);
        Tensor::from_slice(&values).view([rows as i64, columns as i64]).to_kind(Kind::Double)
    }

    /// Rows with exactly this mean and covariance: what is left is the arithmetic.
    fn exactly(name: &str, mean: &[f64], factor: &Tensor) -> Tensor {
        let rows = normal(name, 50, mean.len());
        let rows = &rows - rows.mean_dim([0i64].as_slice(), true, Kind::Double);
        let covariance = rows.tr().matmul(&rows) / 49.0;
        let white = rows.matmul(&covariance.linalg_cholesky(false).inverse().tr());
        white.matmul(&factor.tr()) + Tensor::from_slice(mean)
    }

    /// f64 rounding through two eigenvalue problems of three by three.
    const ROUNDING: f64 = 1e-9;

    #[test]
    fn shifted_gaussians_have_their_closed_form() {
        let factor = Tensor::from_slice(&[1.0, 0.0, 0.0, 0.5, 2.0, 0.0, -0.3, 0.1, 0.7]).view([3, 3]);
        let base = exactly("a", &[1.0, 2.0, 3.0], &factor);
        // The same covariance: the squared distance of the means.
        let shifted = exactly("b", &[2.0, 4.0, 1.0], &factor);
        assert!((squared(&base, &shifted).unwrap() - 9.0).abs() < ROUNDING);
        assert!(squared(&base, &base).unwrap().abs() < ROUNDING);
        // Twice the deviations, no shift: tr C + 4 tr C - 2 * 2 tr C = tr C.
        let trace = factor.square().sum(Kind::Double).double_value(&[]);
        let wide = exactly("c", &[1.0, 2.0, 3.0], &(&factor * 2.0));
        assert!((squared(&base, &wide).unwrap() - trace).abs() < ROUNDING);
        // Diagonal covariances: the sum of (s1 - s2)^2.
        let diagonal = |values: &[f64]| Tensor::from_slice(values).diag(0);
        let left = exactly("d", &[0.0; 3], &diagonal(&[1.0, 2.0, 3.0]));
        let right = exactly("e", &[0.0; 3], &diagonal(&[4.0, 1.0, 3.5]));
        assert!((squared(&left, &right).unwrap() - 10.25).abs() < ROUNDING);
    }

    #[test]
    fn fewer_images_than_features_still_have_a_distance_and_none_is_an_error() {
        let few = normal("few", 4, 10);
        assert!(squared(&few, &few).unwrap().abs() < 1e-7); // Square roots of rounded zeros.
        assert!(squared(&few, &few.narrow(0, 0, 1)).unwrap_err().to_string().contains("1 rows"));
        assert!(squared(&few, &(&few * f64::NAN)).is_err());
    }
}
