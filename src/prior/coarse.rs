//! Principal components on a coarser grid: those of a galaxy prior vary over many pixels, and at 128 pixels a side they would
//! be most of a prior's file. They are kept as `[K, C, m, m]` in f16 and raised to n pixels by bilinear interpolation.

use tch::{Kind, Tensor};

use crate::prior::Covariance;
use crate::{Error, Result};

/// Fits mean, components on a grid `factor` times coarser, and the remaining diagonal to images `[N, C, n, n]`. The components
/// are those of the binned images, turned so that, raised, they are orthonormal and uncorrelated (to f16's rounding).
pub fn fit(images: &Tensor, rank: i64, floor: f64, factor: i64) -> Result<Covariance> {
    let (count, channels, height, width) = images.size4()?;
    if factor < 1 || height % factor != 0 || width % factor != 0 {
        return Err(Error::usage(format!("covariance.coarse = {factor} does not divide images of {height} pixels")));
    }
    let binned =
        Covariance::fit(&images.f_avg_pool2d([factor; 2], [factor; 2], [0, 0], false, true, None)?, rank, floor)?;
    let rank = binned.variances.numel() as i64;
    let raised = raise(&binned.components.f_view([rank, channels, height / factor, width / factor])?, height)?;
    let pixels = channels * height * width;
    let flat = images.f_view([count, pixels])?;
    let mean = flat.f_mean_dim(0, false, Kind::Float)?;
    let centred = flat.f_sub(&mean)?;
    // First an orthonormal basis of what the raised ones span, then the principal axes in it.
    let wide = raised.f_view([rank, pixels])?.f_to_kind(Kind::Double)?;
    let root = wide.f_matmul(&wide.f_tr()?)?.f_linalg_cholesky(false)?.f_inverse()?;
    let freedom = (count - 1).max(1) as f64;
    let along =
        centred.f_matmul(&raised.f_view([rank, pixels])?.f_tr()?)?.f_to_kind(Kind::Double)?.f_matmul(&root.f_tr()?)?;
    let (values, vectors) = along.f_tr()?.f_matmul(&along)?.f_div_scalar(freedom)?.f_linalg_eigh("L")?;
    // eigh sorts upwards.
    let turn = vectors.f_flip([1])?.f_tr()?.f_matmul(&root)?;
    let variances = values.f_flip([0])?.f_clamp_min(0.0)?.f_to_kind(Kind::Float)?;
    let kept = turn.f_matmul(&binned.components.f_to_kind(Kind::Double)?)?;
    let kept = kept.f_view([rank, channels, height / factor, width / factor])?.f_to_kind(Kind::Half)?;
    let components = raise(&kept, height)?.f_view([rank, pixels])?;
    let explained =
        components.f_square()?.f_mul(&variances.f_unsqueeze(1)?)?.f_sum_dim_intlist(0, false, Kind::Float)?;
    let total = centred.f_square()?.f_sum_dim_intlist(0, false, Kind::Float)?.f_div_scalar(freedom)?;
    let diagonal = total.f_sub(&explained)?.f_clamp_min(floor)?;
    Covariance::of_coarse([channels, height, width], mean, kept, variances, diagonal)
}

/// Components `[K, C, m, m]` on `size` pixels a side, `[K, C, size, size]`, f32.
pub fn raise(coarse: &Tensor, size: i64) -> Result<Tensor> {
    Ok(coarse.f_to_kind(Kind::Float)?.f_upsample_bilinear2d([size, size], false, None, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{BlockNoise, Key, Purpose};
    use tch::Device;

    /// f16 has 11 bits.
    const F16_TOLERANCE: f64 = 2e-3;

    /// Smooth images of known covariance: waves of random strengths, and white noise.
    fn images(count: u32) -> Tensor {
        let axis = Tensor::arange(16, (Kind::Float, Device::Cpu)) * (std::f64::consts::TAU / 16.0);
        let waves =
            [axis.cos().unsqueeze(0) * axis.sin().unsqueeze(1), axis.sin().unsqueeze(0) + axis.cos().unsqueeze(1)];
        let noise = BlockNoise::new(1, "coarse", 0, count);
        let strengths =
            noise.normal(Purpose::Evaluation, 0, &[2], Device::Cpu).unwrap() * Tensor::from_slice(&[3.0f32, 1.0]);
        let white = noise.normal(Purpose::Evaluation, 1, &[1, 16, 16], Device::Cpu).unwrap();
        strengths.matmul(&Tensor::stack(&waves, 0).view([2, 256])).view([-1, 1, 16, 16]) + white * 0.1
    }

    #[test]
    fn raised_components_are_orthonormal_and_explain_what_those_of_full_size_do() {
        let images = images(2000);
        let full = Covariance::fit(&images, 2, 1e-4).unwrap();
        let coarse = fit(&images, 2, 1e-4, 2).unwrap();
        let gram = coarse.components.matmul(&coarse.components.tr());
        let error = (gram - Tensor::eye(2, (Kind::Float, Device::Cpu))).abs().max().double_value(&[]);
        assert!(error < F16_TOLERANCE, "{error}");
        // Interpolation takes a few per cent of a wave of 16 pixels; what it takes is in the diagonal.
        let ratio = &coarse.variances / &full.variances;
        let (least, most) = (ratio.min().double_value(&[]), ratio.max().double_value(&[]));
        assert!(least > 0.93 && most <= 1.0 + F16_TOLERANCE, "{least} {most}");
        let [found, expected] = [&coarse, &full].map(|covariance| covariance.variance().unwrap());
        // No pixel has less variance than the images; between the coarse pixels some get a little more.
        let least = (&found / &expected).min().double_value(&[]);
        assert!(least > 1.0 - F16_TOLERANCE, "{least}");
        let excess = (found.sum(Kind::Float) / expected.sum(Kind::Float)).double_value(&[]) - 1.0;
        assert!(excess < 0.04, "{excess}");
        assert!(fit(&images, 2, 1e-4, 3).unwrap_err().to_string().contains("covariance.coarse = 3"));
    }

    #[test]
    fn a_file_keeps_them_coarse_and_gives_the_same_bits() {
        let covariance = fit(&images(300), 2, 1e-4, 2).unwrap();
        let flux = Tensor::from_slice(&Key::new(1, "flux", 0, Purpose::Evaluation, 0).normal(256)).view([1, 16, 16]);
        let tensors = crate::prior::file::moment_tensors(&covariance, &flux, &flux.square(), 0).unwrap();
        let kept = &tensors.iter().find(|(name, _)| name == "moments.components").unwrap().1;
        assert_eq!((kept.size(), kept.kind()), (vec![2, 1, 8, 8], Kind::Half));
        let bytes = crate::prior::store::to_bytes("key", "", &tensors).unwrap();
        let store = crate::prior::store::Store::from_bytes(&bytes, "key").unwrap();
        let again = crate::prior::file::covariance(&store, [1, 16, 16]).unwrap();
        assert_eq!(again.components, covariance.components);
        assert_eq!(again.coarse.unwrap(), covariance.coarse.unwrap());
    }
}
