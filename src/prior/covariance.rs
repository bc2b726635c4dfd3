//! The Gaussian part of a prior: its mean mu and its covariance C0 = U^T diag(lambda) U + diag(d), never dense.
//!
//! At noise level t, with M = diag(d + t^2), S = diag(lambda)^(1/2) U and H = (I + S M^-1 S^T)^-1, the Woodbury identity
//! gives everything that the sampler and the Gaussian skip of the network need:
//!
//! ```text
//! (C0 + t^2)^-1   = M^-1 - M^-1 S^T H S M^-1
//! Wiener(x)       = mu + C0 (C0 + t^2)^-1 (x - mu) = x - t^2 (C0 + t^2)^-1 (x - mu)
//! C               = t^2 C0 (C0 + t^2)^-1 = diag(t^2 d / (d + t^2)) + G S^T H S G,   G = t^2 M^-1
//! ```
//!
//! The last form has only positive terms, so that it is exact at every t, also where C0 is singular.

use tch::{Device, Kind, Tensor};

use crate::prior::coarse::raise;
use crate::random::{BlockNoise, Key, Purpose};
use crate::{Error, Result};

/// Mean and covariance of a prior in its stretched image space, `D = C n n` values.
#[derive(Debug)]
pub struct Covariance {
    /// `[C, n, n]`
    pub shape: [i64; 3],
    /// `[D]`
    pub mean: Tensor,
    /// Orthonormal components U, `[K, D]`.
    pub components: Tensor,
    /// Their variances lambda, `[K]`.
    pub variances: Tensor,
    /// Variance d that is left to each pixel, `[D]`.
    pub diagonal: Tensor,
    /// What the components are raised from, `[K, C, m, m]` in f16, where a file keeps them coarser (`prior/coarse.rs`).
    pub coarse: Option<Tensor>,
    /// S = diag(lambda)^(1/2) U, `[K, D]`.
    scaled: Tensor,
}

/// The covariance seen at one noise level.
#[derive(Debug)]
pub struct Level {
    /// The noise level t.
    pub t: f64,
    shape: [i64; 3],
    mean: Tensor,
    scaled: Tensor,
    /// 1 / (d + t^2), `[D]`.
    inverse: Tensor,
    /// G = t^2 / (d + t^2), `[D]`.
    gain: Tensor,
    /// t^2 d / (d + t^2), `[D]`, and its square root.
    own: Tensor,
    own_root: Tensor,
    /// H and its lower Cholesky factor, `[K, K]`.
    inner: Tensor,
    inner_root: Tensor,
}

impl Covariance {
    /// From its parts; `diagonal` and `variances` must not be negative.
    pub fn new(shape: [i64; 3], mean: Tensor, components: Tensor, variances: Tensor, diagonal: Tensor) -> Result<Self> {
        let pixels = shape.iter().product::<i64>();
        let rank = variances.size().first().copied().unwrap_or(0);
        let wrong = |what: &str, tensor: &Tensor, expected: &[i64]| {
            let found = tensor.size();
            Err(Error::internal(format!("covariance: {what} has shape {found:?}, expected {expected:?}")))
        };
        if mean.size() != [pixels] {
            return wrong("mean", &mean, &[pixels]);
        }
        if components.size() != [rank, pixels] {
            return wrong("components", &components, &[rank, pixels]);
        }
        if diagonal.size() != [pixels] {
            return wrong("diagonal", &diagonal, &[pixels]);
        }
        let scaled = variances.f_sqrt()?.f_unsqueeze(1)?.f_mul(&components)?;
        Ok(Covariance { shape, mean, components, variances, diagonal, coarse: None, scaled })
    }

    /// The same with components that are kept coarser, `[K, C, m, m]` in f16.
    pub fn of_coarse(
        shape: [i64; 3],
        mean: Tensor,
        coarse: Tensor,
        variances: Tensor,
        diagonal: Tensor,
    ) -> Result<Self> {
        let raised = raise(&coarse, shape[1])?.f_reshape([coarse.size()[0], -1])?;
        Ok(Covariance { coarse: Some(coarse), ..Covariance::new(shape, mean, raised, variances, diagonal)? })
    }

    /// Fits mean, the `rank` leading components and the remaining diagonal to images `[N, C, n, n]`, by randomised
    /// subspace iteration (Halko, Martinsson & Tropp 2011, arXiv:0909.4061). `floor` is the least variance of a pixel.
    pub fn fit(images: &Tensor, rank: i64, floor: f64) -> Result<Self> {
        let size = images.size();
        let &[count, channels, height, width] = size.as_slice() else {
            return Err(Error::internal(format!("covariance: images of shape {size:?}, expected [N, C, n, n]")));
        };
        let pixels = channels * height * width;
        let flat = images.f_to_kind(Kind::Float)?.f_view([count, pixels])?;
        let mean = flat.f_mean_dim(0, false, Kind::Float)?;
        let centred = flat.f_sub(&mean)?;
        let freedom = (count - 1).max(1) as f64;
        let rank = rank.min(count - 1).min(pixels).max(0);
        // A few extra directions and six power iterations: the leading components are then exact for our purpose.
        let probes = (rank + 16).min(pixels).min(count);
        let start = Key::new(0, "covariance", 0, Purpose::Evaluation, 0).normal((pixels * probes) as usize);
        let mut basis = Tensor::f_from_slice(&start)?.f_view([pixels, probes])?;
        for _ in 0..6 {
            let product = centred.f_tr()?.f_matmul(&centred.f_matmul(&basis)?)?;
            let (orthonormal, _) = Tensor::f_linalg_qr(&product, "reduced")?;
            basis = orthonormal;
        }
        let projected = centred.f_matmul(&basis)?.f_to_kind(Kind::Double)?;
        let gram = projected.f_tr()?.f_matmul(&projected)?.f_div_scalar(freedom)?;
        let (values, vectors) = gram.f_linalg_eigh("L")?;
        // eigh sorts upwards.
        let values = values.f_flip([0])?.f_narrow(0, 0, rank)?.f_clamp_min(0.0)?.f_to_kind(Kind::Float)?;
        let vectors = vectors.f_flip([1])?.f_narrow(1, 0, rank)?.f_to_kind(Kind::Float)?;
        let components = basis.f_matmul(&vectors)?.f_tr()?.f_contiguous()?;
        let total = centred.f_square()?.f_sum_dim_intlist(0, false, Kind::Float)?.f_div_scalar(freedom)?;
        let explained =
            components.f_square()?.f_mul(&values.f_unsqueeze(1)?)?.f_sum_dim_intlist(0, false, Kind::Float)?;
        let diagonal = total.f_sub(&explained)?.f_clamp_min(floor)?;
        Covariance::new([channels, height, width], mean, components, values, diagonal)
    }

    /// The same on another device.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        let moved = Covariance::new(
            self.shape,
            self.mean.f_to_device(device)?,
            self.components.f_to_device(device)?,
            self.variances.f_to_device(device)?,
            self.diagonal.f_to_device(device)?,
        )?;
        Ok(Covariance { coarse: self.coarse.as_ref().map(Tensor::shallow_clone), ..moved })
    }

    /// Diagonal of C0, `[C, n, n]`.
    pub fn variance(&self) -> Result<Tensor> {
        let explained = self.scaled.f_square()?.f_sum_dim_intlist(0, false, Kind::Float)?;
        Ok(self.diagonal.f_add(&explained)?.f_view(self.shape)?)
    }

    /// Square root of the largest eigenvalue of U^T diag(lambda) U: the scale of the prior's strongest mode.
    pub fn largest_sd(&self) -> f64 {
        let largest = if self.variances.numel() == 0 { &self.diagonal } else { &self.variances };
        largest.max().double_value(&[]).max(0.0).sqrt()
    }

    /// Draws of N(mu, C0 + t^2 I), `[B, C, n, n]`, by key.
    pub fn draw(&self, t: f64, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        let device = self.mean.device();
        let own = self.diagonal.f_add_scalar(t * t)?.f_sqrt()?;
        let white = noise.normal(Purpose::Start, step, &[channels * height * width], device)?;
        let modes = noise.normal(Purpose::StartPca, step, &[self.variances.numel() as i64], device)?;
        let draws = white.f_mul(&own)?.f_add(&self.mean)?.f_add(&modes.f_matmul(&self.scaled)?)?;
        Ok(draws.f_view([-1, channels, height, width])?)
    }

    /// The operators at noise level `t`. Small matrices are inverted in f64.
    pub fn level(&self, t: f64) -> Result<Level> {
        if !(t > 0.0 && t.is_finite()) {
            return Err(Error::internal(format!("covariance: noise level {t}, expected a positive number")));
        }
        let device = self.mean.device();
        let diagonal = self.diagonal.f_to_kind(Kind::Double)?;
        let scaled = self.scaled.f_to_kind(Kind::Double)?;
        let inverse = diagonal.f_add_scalar(t * t)?.f_reciprocal()?;
        let rank = self.variances.numel() as i64;
        let weighted = scaled.f_mul(&inverse)?;
        let capacitance = weighted.f_matmul(&scaled.f_tr()?)?.f_add(&Tensor::f_eye(rank, (Kind::Double, device))?)?;
        let inner = if rank == 0 {
            capacitance
        } else {
            // Symmetric to the last bit, as the Cholesky factor below wants it.
            let inverse = capacitance.f_inverse()?;
            inverse.f_add(&inverse.f_tr()?)?.f_mul_scalar(0.5)?
        };
        let inner_root = if rank == 0 { inner.shallow_clone() } else { inner.f_linalg_cholesky(false)? };
        let gain = inverse.f_mul_scalar(t * t)?;
        let own = gain.f_mul(&diagonal)?;
        Ok(Level {
            t,
            shape: self.shape,
            mean: self.mean.shallow_clone(),
            scaled: self.scaled.shallow_clone(),
            inverse: inverse.f_to_kind(Kind::Float)?,
            gain: gain.f_to_kind(Kind::Float)?,
            own_root: own.f_sqrt()?.f_to_kind(Kind::Float)?,
            own: own.f_to_kind(Kind::Float)?,
            inner: inner.f_to_kind(Kind::Float)?,
            inner_root: inner_root.f_to_kind(Kind::Float)?,
        })
    }
}

impl Level {
    fn flat(&self, images: &Tensor) -> Result<Tensor> {
        Ok(images.f_reshape([-1, self.shape.iter().product::<i64>()])?)
    }

    fn image(&self, flat: &Tensor) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        Ok(flat.f_view([-1, channels, height, width])?)
    }

    /// (C0 + t^2)^-1 v for `v` of shape `[B, C, n, n]`.
    pub fn solve(&self, v: &Tensor) -> Result<Tensor> {
        let own = self.flat(v)?.f_mul(&self.inverse)?;
        let modes = own.f_matmul(&self.scaled.f_tr()?)?.f_matmul(&self.inner)?;
        let correction = modes.f_matmul(&self.scaled)?.f_mul(&self.inverse)?;
        self.image(&own.f_sub(&correction)?)
    }

    /// The Wiener estimate mu + C0 (C0 + t^2)^-1 (x - mu): the denoiser of the Gaussian N(mu, C0).
    pub fn wiener(&self, x: &Tensor) -> Result<Tensor> {
        let centred = self.flat(x)?.f_sub(&self.mean)?;
        Ok(x.f_sub(&self.solve(&centred)?.f_mul_scalar(self.t * self.t)?)?)
    }

    /// C v with C = t^2 C0 (C0 + t^2)^-1, the covariance of the Gaussian's posterior given x_t.
    pub fn covariance(&self, v: &Tensor) -> Result<Tensor> {
        let flat = self.flat(v)?;
        let modes = flat.f_mul(&self.gain)?.f_matmul(&self.scaled.f_tr()?)?.f_matmul(&self.inner)?;
        let low_rank = modes.f_matmul(&self.scaled)?.f_mul(&self.gain)?;
        self.image(&flat.f_mul(&self.own)?.f_add(&low_rank)?)
    }

    /// Diagonal of C, `[C, n, n]`.
    pub fn variance(&self) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        let rooted = self.inner_root.f_tr()?.f_matmul(&self.scaled)?;
        let low_rank = rooted.f_square()?.f_sum_dim_intlist(0, false, Kind::Float)?.f_mul(&self.gain.f_square()?)?;
        Ok(self.own.f_add(&low_rank)?.f_view([channels, height, width])?)
    }

    /// The low-rank part of C as modes m_k, `[K, C, n, n]`: C = diag(own) + sum_k m_k m_k^T.
    pub fn modes(&self) -> Result<Tensor> {
        self.image(&self.inner_root.f_tr()?.f_matmul(&self.scaled)?.f_mul(&self.gain)?)
    }

    /// What scales g, `[B, C, n, n]` or `[B, 1, 1, 1]`, make of the parts of C: g G and g^2 times its diagonal, `[B, D]`.
    pub(super) fn scaled_parts(&self, scales: &Tensor) -> Result<[Tensor; 2]> {
        let flat = scales.f_reshape([scales.size()[0], -1])?;
        Ok([flat.f_mul(&self.gain)?, flat.f_square()?.f_mul(&self.own)?])
    }

    /// diag(g) C diag(g) v, of what `scaled_parts` made of g. Each pass over the images counts in a solver.
    pub(super) fn scaled_covariance(&self, v: &Tensor, [gain, own]: &[Tensor; 2]) -> Result<Tensor> {
        let flat = self.flat(v)?;
        let modes = flat.f_mul(gain)?.f_matmul(&self.scaled.f_tr()?)?.f_matmul(&self.inner)?;
        let mut out = modes.f_matmul(&self.scaled)?;
        let _ = out.f_mul_(gain)?.f_addcmul_(&flat, own)?;
        self.image(&out)
    }

    /// Draws of N(0, C), `[B, C, n, n]`, by key.
    pub fn draw(&self, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        let device = self.own.device();
        let white = noise.normal(Purpose::PerturbDiagonal, step, &[self.own.numel() as i64], device)?;
        let modes = noise.normal(Purpose::PerturbPca, step, &[self.inner.size()[0]], device)?;
        let low_rank = modes.f_matmul(&self.inner_root.f_tr()?)?.f_matmul(&self.scaled)?.f_mul(&self.gain)?;
        self.image(&white.f_mul(&self.own_root)?.f_add(&low_rank)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f32 arithmetic over a condition number of a few hundred.
    const F32_TOLERANCE: f64 = 2e-4;

    fn example() -> Covariance {
        let shape = [2, 3, 3];
        let normal = |step, count| Key::new(5, "example", 0, Purpose::Evaluation, step).normal(count);
        let (q, _) = Tensor::from_slice(&normal(0, 18 * 4)).view([18, 4]).qr(true);
        let mean = Tensor::from_slice(&normal(1, 18));
        let variances = Tensor::from_slice(&[9.0f32, 2.0, 0.5, 0.0]);
        // Singular on purpose: one pixel has no variance of its own, one component has none.
        let diagonal = Tensor::from_slice(&normal(2, 18)).square() * 0.1;
        let _ = diagonal.get(3).fill_(0.0);
        Covariance::new(shape, mean, q.tr().contiguous(), variances, diagonal).unwrap()
    }

    fn dense(covariance: &Covariance) -> Tensor {
        let u = covariance.components.to_kind(Kind::Double);
        let lambda = covariance.variances.to_kind(Kind::Double).diag(0);
        u.tr().matmul(&lambda).matmul(&u) + covariance.diagonal.to_kind(Kind::Double).diag(0)
    }

    fn assert_close(found: &Tensor, expected: &Tensor) {
        let scale = expected.abs().max().double_value(&[]);
        let error = (found.to_kind(Kind::Double).view(-1) - expected.view(-1)).abs().max().double_value(&[]);
        assert!(error <= F32_TOLERANCE * scale, "differs by {error} of {scale}");
    }

    #[test]
    fn level_operators_are_those_of_the_dense_matrices() {
        let covariance = example();
        let c0 = dense(&covariance);
        let eye = Tensor::eye(18, (Kind::Double, Device::Cpu));
        let v = Tensor::from_slice(&Key::new(5, "v", 0, Purpose::Evaluation, 0).normal(18)).view([1, 2, 3, 3]);
        for t in [0.05, 1.0, 30.0] {
            let level = covariance.level(t).unwrap();
            let inverse = (&c0 + &eye * (t * t)).inverse();
            let flat = v.view([18, 1]).to_kind(Kind::Double);
            assert_close(&level.solve(&v).unwrap(), &inverse.matmul(&flat));
            let c = c0.matmul(&inverse) * (t * t);
            assert_close(&level.covariance(&v).unwrap(), &c.matmul(&flat));
            assert_close(&level.variance().unwrap(), &c.diagonal(0, 0, 1));
            let mean = covariance.mean.to_kind(Kind::Double).view([18, 1]);
            let wiener = &mean + c0.matmul(&inverse).matmul(&(&flat - &mean));
            assert_close(&level.wiener(&v).unwrap(), &wiener);
        }
    }

    #[test]
    fn draws_have_the_covariance() {
        let covariance = example();
        let count = 40_000;
        let noise = BlockNoise::new(1, "draws", 0, count);
        let t = 0.7;
        let c = {
            let c0 = dense(&covariance);
            let inverse = (&c0 + Tensor::eye(18, (Kind::Double, Device::Cpu)) * (t * t)).inverse();
            c0.matmul(&inverse) * (t * t)
        };
        let level_draws = covariance.level(t).unwrap().draw(&noise, 0).unwrap().view([-1, 18]).to_kind(Kind::Double);
        let prior_draws = covariance.draw(t, &noise, 0).unwrap().view([-1, 18]).to_kind(Kind::Double);
        let wide = dense(&covariance) + Tensor::eye(18, (Kind::Double, Device::Cpu)) * (t * t);
        let centred = prior_draws - covariance.mean.to_kind(Kind::Double);
        for (draws, expected) in [(level_draws, c), (centred, wide)] {
            let found = draws.tr().matmul(&draws) / f64::from(count);
            let scale = expected.abs().max().double_value(&[]);
            // Five standard errors, sqrt(2 / count) each, of the largest entry.
            let error = (found - expected).abs().max().double_value(&[]);
            assert!(error < 5.0 * scale * (2.0 / f64::from(count)).sqrt(), "{error} of {scale}");
        }
    }

    #[test]
    fn fit_recovers_the_components() {
        let covariance = example();
        let images = covariance.draw(1e-6, &BlockNoise::new(2, "fit", 0, 20_000), 0).unwrap();
        let fitted = Covariance::fit(&images, 3, 1e-9).unwrap();
        let expected = dense(&covariance);
        let error = (dense(&fitted) - &expected).abs().max().double_value(&[]);
        let scale = expected.abs().max().double_value(&[]);
        // Sampling error of 20,000 draws; what the fourth component and the diagonal mix is small here.
        assert!(error < 0.05 * scale, "{error} of {scale}");
    }
}
