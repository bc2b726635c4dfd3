//! Exact posteriors. For a prior that is a mixture of Gaussians with one covariance, a linear forward model and Gaussian
//! noise, the posterior is a mixture of Gaussians with one covariance too. In an orthonormal basis b_j that diagonalises
//! that covariance,
//!
//! ```text
//! p(x | y) = sum_k w_k N(x; mu_k, sum_j v_j b_j b_j^T)
//! ```
//!
//! and one component is the Gaussian case. Where there is no such form, states of long chains stand for it. All of it is f64.

use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::random::{BlockNoise, Key, Purpose};

/// An orthonormal basis of images with D pixels.
#[derive(Debug)]
pub enum Basis {
    /// Rows are the basis vectors, `[D, D]`, f64.
    Matrix(Tensor),
    /// The real Fourier (Hartley) basis of an n x n grid, cas(2 pi (k x + l y) / n) / n: it diagonalises periodic
    /// convolutions with symmetric kernels, and is its own inverse.
    Hartley(i64),
}

impl Basis {
    /// Coefficients of images `[B, D]` (f64).
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        match self {
            Basis::Matrix(rows) => Ok(images.f_matmul(&rows.f_tr()?)?),
            Basis::Hartley(size) => hartley(images, *size),
        }
    }

    /// Images from their coefficients, `[B, D]` (f64).
    pub fn inverse(&self, coefficients: &Tensor) -> Result<Tensor> {
        match self {
            Basis::Matrix(rows) => Ok(coefficients.f_matmul(rows)?),
            Basis::Hartley(size) => hartley(coefficients, *size),
        }
    }
}

/// The orthonormal Hartley transform of `[B, n n]`.
pub fn hartley(images: &Tensor, size: i64) -> Result<Tensor> {
    let planes = images.f_view([-1, size, size])?;
    let transform = planes.f_fft_fft2(None::<&[i64]>, [-2, -1], "ortho")?;
    Ok(transform.f_real()?.f_sub(&transform.f_imag()?)?.f_reshape([-1, size * size])?)
}

/// The posterior of one simulation.
#[derive(Debug)]
pub struct Exact {
    pub basis: Basis,
    /// w_k, `[K]`.
    pub weights: Tensor,
    /// mu_k in the basis, `[K, D]`.
    pub means: Tensor,
    /// v_j, `[D]`.
    pub variance: Tensor,
    /// Variance of the prior along each basis vector, `[D]`.
    pub prior_variance: Tensor,
    /// Where the posterior is no such mixture: states of independent chains in the basis, `[N, K, D]`. Moments are theirs.
    pub states: Option<Tensor>,
}

impl Exact {
    /// Posterior mean in the basis, `[D]`.
    pub fn mean(&self) -> Result<Tensor> {
        Ok(self.weights.f_unsqueeze(0)?.f_matmul(&self.means)?.f_squeeze_dim(0)?)
    }

    /// Posterior variance along each basis vector, `[D]`: within and between the components.
    pub fn marginal_variance(&self) -> Result<Tensor> {
        let between = self.means.f_sub(&self.mean()?)?.f_square()?;
        Ok(self.weights.f_unsqueeze(0)?.f_matmul(&between)?.f_squeeze_dim(0)?.f_add(&self.variance)?)
    }

    /// Independent draws by key, as images `[B, D]`, f64.
    pub fn draw(&self, seed: u64, object: &str, count: u32) -> Result<Tensor> {
        if let Some(states) = &self.states {
            return self.basis.inverse(&pick(states, seed, object, count)?);
        }
        let dimension = self.variance.size()[0];
        let weights = Vec::<f64>::try_from(&self.weights)?;
        let mut choices = Vec::with_capacity(count as usize);
        for sample in 0..count {
            let u = Key::new(seed, object, sample, Purpose::Evaluation, 0).uniform(1)[0];
            choices.push(choose(&weights, u) as i64);
        }
        let white = BlockNoise::new(seed, object, 0, count).normal(Purpose::PriorDraw, 0, &[dimension], Device::Cpu)?;
        let centres = self.means.f_index_select(0, &Tensor::f_from_slice(&choices)?)?;
        let coefficients = white.f_to_kind(Kind::Double)?.f_mul(&self.variance.f_sqrt()?)?.f_add(&centres)?;
        self.basis.inverse(&coefficients)
    }

    /// Total variation between the weights w_k and the share of `coefficients` (`[B, D]`, in the basis) that belongs to
    /// each component, by responsibility: 0 where every mode has its share, 1 where all draws are in the wrong modes.
    pub fn mode_distance(&self, coefficients: &Tensor) -> Result<f64> {
        let scale = self.variance.f_rsqrt()?;
        let points = coefficients.f_mul(&scale)?;
        let centres = self.means.f_mul(&scale)?;
        let norms = centres.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?.f_mul_scalar(0.5)?;
        let scores = points.f_matmul(&centres.f_tr()?)?.f_sub(&norms)?.f_add(&self.weights.f_log()?)?;
        let shares = scores.f_softmax(1, Kind::Double)?.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
        Ok(shares.f_sub(&self.weights)?.f_abs()?.f_sum(Kind::Double)?.f_double_value(&[])? / 2.0)
    }
}

/// One state of each chain in turn, at random, `[count, D]`: independent up to as many as there are chains.
fn pick(states: &Tensor, seed: u64, object: &str, count: u32) -> Result<Tensor> {
    let (length, chains, dimension) = states.size3()?;
    let place = |sample: u32| {
        let u = Key::new(seed, object, sample, Purpose::Evaluation, 0).uniform(1)[0];
        ((u * length as f64) as i64).min(length - 1) * chains + i64::from(sample) % chains
    };
    let places: Vec<i64> = (0..count).map(place).collect();
    Ok(states.f_view([-1, dimension])?.f_index_select(0, &Tensor::f_from_slice(&places)?)?)
}

/// The index that a uniform number picks among `weights` that sum to one.
pub fn choose(weights: &[f64], u: f64) -> usize {
    let mut sum = 0.0;
    for (index, weight) in weights.iter().enumerate() {
        sum += weight;
        if u < sum {
            return index;
        }
    }
    // Rounding may leave the sum below one; a component without weight is never picked.
    weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hartley_is_orthonormal_and_its_own_inverse() {
        let image = Tensor::from_slice(&Key::new(1, "h", 0, Purpose::Evaluation, 0).normal(2 * 36)).view([2, 36]);
        let image = image.to_kind(Kind::Double);
        let there = hartley(&image, 6).unwrap();
        assert!((hartley(&there, 6).unwrap() - &image).abs().max().double_value(&[]) < 1e-12);
        let norms = (there.square().sum(Kind::Double) - image.square().sum(Kind::Double)).double_value(&[]);
        assert!(norms.abs() < 1e-10);
    }

    #[test]
    fn draws_have_the_moments_and_the_modes_of_the_mixture() {
        let double = |values: &[f64]| Tensor::from_slice(values);
        let exact = Exact {
            basis: Basis::Matrix(double(&[0.6, 0.8, -0.8, 0.6]).view([2, 2])),
            weights: double(&[0.25, 0.75]),
            means: double(&[3.0, 0.0, -1.0, 0.0]).view([2, 2]),
            variance: double(&[0.04, 0.25]),
            prior_variance: double(&[1.0, 1.0]),
            states: None,
        };
        let draws = exact.draw(1, "x", 20_000).unwrap();
        let coefficients = exact.basis.forward(&draws).unwrap();
        let mean = coefficients.mean_dim([0i64].as_slice(), false, Kind::Double);
        // 3/4 of the draws at -1 and 1/4 at 3; sd 1.74: five standard errors of 20,000 draws.
        assert!((mean - exact.mean().unwrap()).abs().max().double_value(&[]) < 0.062);
        let variance = coefficients.var_dim([0i64].as_slice(), true, false);
        let ratio = (variance / exact.marginal_variance().unwrap() - 1.0).abs().max().double_value(&[]);
        assert!(ratio < 5.0 * (2.0f64 / 20_000.0).sqrt(), "{ratio}");
        assert!(exact.mode_distance(&coefficients).unwrap() < 0.016); // Five standard errors of a share of 1/4.
        // All draws in the first mode: it has 1 instead of 1/4.
        let first = double(&[3.0, 0.0]).view([1, 2]);
        assert!((exact.mode_distance(&first).unwrap() - 0.75).abs() < 1e-6);
    }

    #[test]
    fn a_mode_without_weight_is_never_picked() {
        assert_eq!(choose(&[0.5, 0.5 - 1e-12, 0.0], 1.0 - 1e-15), 1);
        assert_eq!(choose(&[0.5, 0.5], 0.2), 0);
    }
}
