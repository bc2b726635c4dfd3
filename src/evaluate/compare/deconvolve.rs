//! Two deconvolutions of old, with the survey's own forward operator: what a posterior has to beat.

use tch::{Kind, Tensor};

use super::Observed;
use crate::Result;

/// Richardson-Lucy needs positive data: a level of so many standard deviations of the sky noise is added to data and model.
const LEVEL: f64 = 5.0;
/// Iterations and relative residual at which the Wiener filter's solver stops.
const ITERATIONS: usize = 200;
const TOLERANCE: f64 = 1e-5;

/// Richardson (1972, JOSA 62, 55) and Lucy (1974, AJ 79, 745): x <- x * A^T(w (y + c) / (A x + c)) / A^T w, from a flat
/// image. `tell` is given the iteration (from 1) and the image after each.
pub fn richardson_lucy(observed: &Observed, iterations: usize, tell: &mut dyn FnMut(usize, &[f64])) -> Result<()> {
    let level = LEVEL * observed.noise;
    let mask = observed.weight.f_gt(0.0)?.f_to_kind(Kind::Double)?;
    let data = observed.data.f_add_scalar(level)?.f_clamp_min(1e-3 * level)?.f_mul(&mask)?;
    let norm = observed.operator.adjoint(&mask)?;
    // Where no data are, nothing changes.
    let norm = norm.f_clamp_min(0.05 * norm.f_max()?.f_double_value(&[])?)?;
    let total = observed.data.f_sum(Kind::Double)?.f_double_value(&[])?.max(level);
    let size = observed.field.size;
    let mut image = Tensor::f_full([1, 1, size, size], total / (size * size) as f64, (Kind::Double, norm.device()))?;
    for iteration in 1..=iterations {
        let model = observed.operator.apply(&image)?.f_add_scalar(level)?.f_clamp_min(1e-3 * level)?;
        let factor = observed.operator.adjoint(&data.f_div(&model)?)?.f_div(&norm)?;
        image = image.f_mul(&factor.f_clamp_min(0.0)?)?;
        tell(iteration, &numbers(&image)?);
    }
    Ok(())
}

/// The Wiener filter under a smooth prior (power falling as k^-2): (A^T W A + s L) x = A^T W y, with L the negative
/// Laplacian and s = `strength` in units of the largest of A^T W A 1. By conjugate gradients, since masked pixels have no
/// weight.
pub fn wiener(observed: &Observed, strength: f64) -> Result<Vec<f64>> {
    let operator = &observed.operator;
    let scale = operator.adjoint(&observed.weight)?.f_max()?.f_double_value(&[])?;
    let normal = |image: &Tensor| -> Result<Tensor> {
        let data = operator.adjoint(&operator.apply(image)?.f_mul(&observed.weight)?)?;
        let mut smooth = image.f_mul_scalar(4.0)?;
        for (shift, axis) in [(1, -1), (-1, -1), (1, -2), (-1, -2)] {
            smooth = smooth.f_sub(&image.f_roll([shift].as_slice(), [axis].as_slice())?)?;
        }
        Ok(data.f_add(&smooth.f_mul_scalar(strength * scale)?)?)
    };
    let dot = |a: &Tensor, b: &Tensor| -> Result<f64> { Ok(a.f_mul(b)?.f_sum(Kind::Double)?.f_double_value(&[])?) };
    let right = operator.adjoint(&observed.data.f_mul(&observed.weight)?)?;
    let mut image = right.f_zeros_like()?;
    let (mut residual, mut direction) = (right.shallow_clone(), right.shallow_clone());
    let mut square = dot(&residual, &residual)?;
    let enough = TOLERANCE * TOLERANCE * square;
    for _ in 0..ITERATIONS {
        if square <= enough {
            break;
        }
        let image_of = normal(&direction)?;
        let step = square / dot(&direction, &image_of)?;
        image = image.f_add(&direction.f_mul_scalar(step)?)?;
        residual = residual.f_sub(&image_of.f_mul_scalar(step)?)?;
        let next = dot(&residual, &residual)?;
        direction = residual.f_add(&direction.f_mul_scalar(next / square)?)?;
        square = next;
    }
    numbers(&image)
}

fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::try_from(tensor.f_contiguous()?.f_view(-1)?)?)
}
