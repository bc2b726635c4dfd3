//! The stretch of a prior: the map between flux and the prior's dimensionless image space.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::Result;

/// x = S(f), for flux f per pixel in units of the normalisation (total flux of the reference band = 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Stretch {
    /// x = f / scale
    Linear { scale: f64 },
    /// x = asinh(f / scale)
    Asinh { scale: f64 },
}

impl Stretch {
    /// x = S(f)
    pub fn forward(&self, flux: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Stretch::Linear { scale } => flux.f_div_scalar(*scale)?,
            Stretch::Asinh { scale } => flux.f_div_scalar(*scale)?.f_asinh()?,
        })
    }

    /// f = S^-1(x)
    pub fn inverse(&self, image: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Stretch::Linear { scale } => image.f_mul_scalar(*scale)?,
            Stretch::Asinh { scale } => image.f_sinh()?.f_mul_scalar(*scale)?,
        })
    }

    /// dS^-1/dx
    pub fn slope(&self, image: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Stretch::Linear { scale } => image.f_full_like(*scale)?,
            Stretch::Asinh { scale } => image.f_cosh()?.f_mul_scalar(*scale)?,
        })
    }

    /// The second derivative of S^-1 over the first.
    pub fn bend(&self, image: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Stretch::Linear { .. } => image.f_zeros_like()?,
            Stretch::Asinh { .. } => image.f_tanh()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn inverse_and_slope_belong_to_forward() {
        let image = Tensor::linspace(-3.0, 6.0, 50, (Kind::Double, tch::Device::Cpu));
        for stretch in [Stretch::Linear { scale: 0.3 }, Stretch::Asinh { scale: 0.02 }] {
            let back = stretch.forward(&stretch.inverse(&image).unwrap()).unwrap();
            // f64 rounding, amplified by sinh.
            assert!((&back - &image).abs().max().double_value(&[]) < 1e-12);
            let h = 1e-6;
            let up = stretch.inverse(&(&image + h)).unwrap();
            let down = stretch.inverse(&(&image - h)).unwrap();
            let slope = (up - down) / (2.0 * h);
            let error = (&slope / stretch.slope(&image).unwrap() - 1.0).abs().max().double_value(&[]);
            // Central difference: rounding 1e-16 / h.
            assert!(error < 1e-8, "{error}");
            let second = (stretch.slope(&(&image + h)).unwrap() - stretch.slope(&(&image - h)).unwrap()) / (2.0 * h);
            let error = (second / stretch.slope(&image).unwrap() - stretch.bend(&image).unwrap()).abs().max();
            assert!(error.double_value(&[]) < 1e-8, "{error:?}");
        }
    }
}
