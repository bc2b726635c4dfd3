//! What the gradient-guided samplers (`dps`, `dps-paper`, and in part `pigdm`, `mmps`, `daps`) share: the pull of the data
//! on an image at fixed amplitude and sky, sums over each sample alone, and the product with the Jacobian of a denoiser.

use tch::{Kind, Tensor};

use super::Problem;
use crate::Result;
use crate::forward::{Latent, NuisancePrior};

/// Smallest norm that is divided by: a perfect fit pulls nowhere.
pub const TINY: f64 = 1e-30;

/// A latent galaxy with this image, and amplitude and sky at their prior means.
pub fn with_prior_nuisance(problem: &Problem, image: Tensor) -> Result<Latent> {
    let size = image.size();
    let (batch, bands) = (size[0], size[1]);
    let options = (Kind::Float, image.device());
    let ln_amplitude = match problem.likelihood {
        Some(likelihood) => {
            let NuisancePrior { ln_amplitude_mean, .. } = likelihood.nuisance();
            ln_amplitude_mean.f_view([1, -1])?.f_repeat([batch, 1])?
        }
        None => Tensor::f_zeros([batch, 1], options)?,
    };
    Ok(Latent { image, ln_amplitude, sky: Tensor::f_zeros([batch, bands], options)? })
}

/// A direction in the latent space that moves only the image.
pub fn image_direction(image: Tensor, like: &Latent) -> Result<Latent> {
    Ok(Latent { image, ln_amplitude: like.ln_amplitude.f_zeros_like()?, sky: like.sky.f_zeros_like()? })
}

/// Sum of squares of each sample, `[B, 1, 1, 1]`.
pub fn sum_of_squares(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_square()?.f_sum_dim_intlist(&[1i64, 2, 3][..], true, Kind::Float)?)
}

/// Norm of each sample, `[B, 1, 1, 1]`, never zero.
pub fn norm(x: &Tensor) -> Result<Tensor> {
    Ok(sum_of_squares(x)?.f_sqrt()?.f_clamp_min(TINY)?)
}

/// `x` as the beginning of a gradient graph.
pub fn leaf(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_detach()?.f_set_requires_grad(true)?)
}

/// (d output / d input)^T `cotangent`: samples do not mix, since the network treats them one by one.
pub fn pull_back(output: &Tensor, input: &Tensor, cotangent: &Tensor) -> Result<Tensor> {
    let product = output.f_mul(cotangent)?.f_sum(Kind::Float)?;
    Ok(Tensor::f_run_backward(&[product], &[input], false, false)?.remove(0))
}

/// The same, for several products with one graph.
pub fn pull_back_again(output: &Tensor, input: &Tensor, cotangent: &Tensor) -> Result<Tensor> {
    let product = output.f_mul(cotangent)?.f_sum(Kind::Float)?;
    Ok(Tensor::f_run_backward(&[product], &[input], true, false)?.remove(0))
}
