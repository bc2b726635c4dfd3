//! Point sources at the prior's pixels, as the data show them. The exact sum of squares over the noise's variance would take one
//! operator with the squares of the PSF; the variance hardly changes over a PSF, so that
//!
//! ```text
//! sum_j P_ji^2 / Sigma_jj = (sum_j P_ji^2 / sum_j P_ji) * sum_j P_ji / Sigma_jj
//! ```
//!
//! with the first factor, the sharpness of the PSF, that of a source in the middle of the field.

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::forward::{PointSources, SamplingOperator};

/// The sum of the squares of a point source of unit flux over the sum of its pixels, `[C, 1, 1]`.
pub(super) fn sharpness(operator: &SamplingOperator, kind: Kind, device: Device) -> Result<Tensor> {
    let field = operator.field();
    let middle = (field.size - 1) / 2;
    let source = Tensor::f_zeros([1, operator.bands(), field.size, field.size], (kind, device))?;
    let _ = source.f_narrow(2, middle, 1)?.f_narrow(3, middle, 1)?.f_fill_(1.0)?;
    let image = operator.apply(&source)?;
    let sum = |tensor: &Tensor| tensor.f_sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Double);
    let found = sum(&image.f_square()?)?.f_div(&sum(&image)?)?;
    Ok(found.f_view([-1, 1, 1])?.f_to_kind(kind)?)
}

/// Those of a likelihood, for noise of this `variance`, `[B, C, my, mx]`.
pub(super) fn of<'a>(
    operator: &'a SamplingOperator,
    sharpness: &Tensor,
    mask: &Tensor,
    variance: &Tensor,
) -> Result<PointSources<'a>> {
    // Far outside the data it is nothing, and rounding must not make it less.
    let precision =
        operator.adjoint(&mask.f_div(variance)?)?.f_mul(sharpness)?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
    Ok(PointSources { matched: Box::new(|vector| operator.adjoint(vector)), precision })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{input, latent};
    use super::super::{GalaxyLikelihood, SkyNoise};
    use crate::forward::Likelihood;
    use tch::{Device, Kind, Tensor};

    /// Against point sources put through the operator one by one, with a variance that changes across the field.
    #[test]
    fn the_sum_of_squares_is_that_of_the_sources_themselves() {
        let mut input = input(Kind::Double, 1, false);
        let [my, mx] = input.field.shape;
        let slope = Tensor::linspace(1.0, 3.0, mx, (Kind::Double, Device::Cpu)).view([1, 1, mx]);
        input.sky_noise = SkyNoise::White { variance: slope.expand([3, my, mx], false).contiguous() };
        input.mask = Tensor::ones([3, my, mx], (Kind::Double, Device::Cpu));
        (input.gain, input.relative_error, input.down_weight_edges) = (None, 0.0, false);
        let likelihood = GalaxyLikelihood::new(input).unwrap();
        let linear = likelihood.linearize(&latent(1, 1, 0, Kind::Double)).unwrap();
        let points = linear.point_sources().unwrap().unwrap();
        let n = points.precision.size()[3];
        for (y, x) in [(n / 2, n / 2), (n / 2 + 3, n / 2 - 4), (n / 2 - 5, n / 2 + 2)] {
            let source = Tensor::zeros([1, 3, n, n], (Kind::Double, Device::Cpu));
            let _ = source.narrow(2, y, 1).narrow(3, x, 1).fill_(1.0);
            let image = likelihood.operator().apply(&source).unwrap();
            let squares = image.square() / linear.variance();
            let exact = squares.sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Double);
            let found = points.precision.narrow(2, y, 1).narrow(3, x, 1).reshape([1, 3]);
            let error = (found / exact - 1.0).abs().max().double_value(&[]);
            assert!(error < 0.03, "{y} {x}: {error}"); // The part of a PSF that this small field cuts off, most of all.
            // The match of a source with itself is the sum of its squares.
            let own = (points.matched)(&(&image / linear.variance())).unwrap();
            let own = own.narrow(2, y, 1).narrow(3, x, 1).reshape([1, 3]);
            let exact = squares.sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Double);
            assert!((own / exact - 1.0).abs().max().double_value(&[]) < 1e-9);
        }
    }
}
