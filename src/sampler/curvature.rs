//! What perturb-and-MAP gets wrong where the forward model is curved. The solution x of a perturbed problem is a draw of the
//! posterior if the model A is linear. If it is not, it has the density (randomised maximum likelihood; Oliver, He & Reynolds 1996;
//! Bardsley et al. 2014)
//!
//! ```text
//! q(x) ~ p(x | y) det(I + P J^T Sigma^-1 J)^(1/2)          J the Jacobian of A at x, P the covariance of the prior
//! ```
//!
//! to lowest order in the width of the posterior: too much where J is large. Flux is an exponential of the stretched image and of
//! ln a, so that draws are too bright and too extended. The missing factor is a pull on the solution, which can be given to the
//! centre of the prior, as for any term that is linear in x:
//!
//! ```text
//! g = -1/2 d ln det(I + P J^T Sigma^-1 J) / dx,      c -> c + P g
//! g_k = -(b_k l_kk + l_ak)                           pixel k;  b = S^-1'' / S^-1' there
//! g_a = -(l_aa + sum_k l_kk)                         ln a
//! l   = (P^-1 + J^T Sigma^-1 J)^-1 J^T Sigma^-1 J    of which l_ij = -E[u_i p_j]
//! ```
//!
//! with u the perturbation of the centre and p the pull of the data in the round before, averaged over the samples of a block. Left out
//! is what is along the gradient of ln q, which the condition on q takes away, and the condition's own curvature (it would make fluxes
//! 0.024 +- 0.005 posterior deviations higher). Sweeps (`stages.rs`) are corrected only where p(x0 | x_t) is near a Gaussian: with all of
//! them corrected, draws of faint galaxies of the twin were 0.16 posterior deviations too faint.

use tch::{Kind, Tensor};

use crate::Result;
use crate::forward::Latent;

/// The leverages l of a block.
#[derive(Debug)]
pub struct Curvature {
    /// l_kk and l_ak of each pixel, `[1, C, n, n]`.
    own: Tensor,
    shared: Tensor,
    /// l_aa + sum_k l_kk for each amplitude, over the bands that it is of, `[1, A]`.
    total: Tensor,
}

impl Curvature {
    /// From the perturbations of image, `[B, C, n, n]`, and ln a, `[B, A]`, and the `pull` of the data, J^T w.
    pub fn measured(image: &Tensor, ln_amplitude: &Tensor, pull: &Latent) -> Result<Self> {
        let leverage = |u: &Tensor, p: &Tensor| -> Result<Tensor> {
            let product = u.f_mul(p)?.f_neg()?;
            // A sample that has become NaN or infinite must not spoil the others; where all have, nothing is corrected.
            let finite = product.f_where_scalarother(&product.f_isfinite()?, f64::NAN)?;
            Ok(finite.f_nanmean([0i64].as_slice(), true, Kind::Float)?.f_nan_to_num(0.0, 0.0, 0.0)?)
        };
        let planes = ln_amplitude.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
        let own = leverage(image, &pull.image)?;
        let bands = own.f_sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Float)?;
        let pixels = if ln_amplitude.size()[1] == 1 {
            bands.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Float)?
        } else {
            bands
        };
        let total = leverage(ln_amplitude, &pull.ln_amplitude)?.f_add(&pixels)?;
        Ok(Curvature { own, shared: leverage(&planes, &pull.image)?, total })
    }

    /// g for images that bend the model by `bend`, `[B, C, n, n]`.
    pub fn pull(&self, bend: &Tensor) -> Result<Latent> {
        let size = bend.size();
        let image = bend.f_mul(&self.own)?.f_add(&self.shared)?.f_neg()?;
        let ln_amplitude = self.total.f_neg()?.f_repeat([size[0], 1])?;
        let sky = Tensor::f_zeros([size[0], size[1]], (Kind::Float, bend.device()))?;
        Ok(Latent { image, ln_amplitude, sky })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use tch::Device;

    const PIXELS: i64 = 4;
    const DATA: i64 = 6;
    const SAMPLES: i64 = 40_000;

    fn random(step: u32, shape: &[i64]) -> Tensor {
        let count = shape.iter().product::<i64>() as usize;
        Tensor::from_slice(&Key::new(4, "curvature", 0, Purpose::Evaluation, step).normal(count)).view(shape)
    }

    /// Four pixels and ln a, six data: the leverages from perturbations against those of the dense matrices, one sample lost.
    #[test]
    fn the_pull_is_that_of_the_dense_leverages() {
        let jacobian = random(0, &[DATA, PIXELS + 1]);
        let prior = random(1, &[PIXELS + 1]).square() + 0.2;
        let eye = |size| Tensor::eye(size, (Kind::Float, Device::Cpu));
        let seen = (&jacobian * &prior).matmul(&jacobian.tr()) + eye(DATA);
        let perturbation = random(2, &[SAMPLES, PIXELS + 1]) * prior.sqrt();
        let noise = random(3, &[SAMPLES, DATA]);
        let misses = -(perturbation.matmul(&jacobian.tr()) + noise);
        let pull = misses.matmul(&seen.inverse()).matmul(&jacobian);
        let _ = pull.get(5).fill_(f64::NAN);
        let parts =
            |both: &Tensor| (both.narrow(1, 0, PIXELS).reshape([-1, 1, 2, 2]), both.narrow(1, PIXELS, 1).contiguous());
        let ((image, ln_amplitude), (pull_image, pull_ln)) = (parts(&perturbation), parts(&pull));
        let pull =
            Latent { image: pull_image, ln_amplitude: pull_ln, sky: Tensor::zeros([1, 1], (Kind::Float, Device::Cpu)) };
        let bend = random(4, &[2, 1, 2, 2]);
        let found = Curvature::measured(&image, &ln_amplitude, &pull).unwrap().pull(&bend).unwrap();

        let hessian = jacobian.tr().matmul(&jacobian);
        let leverage = (prior.reciprocal().diag(0) + &hessian).inverse().matmul(&hessian);
        let own = leverage.diagonal(0, 0, 1);
        let shared = leverage.get(PIXELS).narrow(0, 0, PIXELS).view([1, 1, 2, 2]);
        let expected = -(&bend * own.narrow(0, 0, PIXELS).view([1, 1, 2, 2]) + shared);
        let error = (&found.image - expected).abs().max().double_value(&[]);
        // Means of so many products of order one, and of as many as ten.
        assert!(error < 0.05, "{error}");
        let error = (found.ln_amplitude + own.sum(Kind::Float)).abs().max().double_value(&[]);
        assert!(error < 0.05, "{error}");
    }
}
