//! The observation of the exact image problems: a periodic blur by a Gaussian PSF, then independent noise with a variance
//! of its own in every pixel, y = M (K x + b) + N(0, diag(variance)). K is diagonal in Fourier space and symmetric.

use tch::{Device, Kind, Tensor};

use super::no_nuisance;
use crate::Result;
use crate::forward::{Latent, Likelihood, Linearized, NuisancePrior, PointSources};
use crate::random::{BlockNoise, Purpose};

/// FWHM of a Gaussian in units of its standard deviation, 2 sqrt(2 ln 2).
const FWHM_SIGMAS: f64 = 2.354_820_045_030_949;

/// Fourier transform of a Gaussian PSF of this FWHM (pixels) on a periodic n x n grid, f64, row by row. It is real, even
/// and positive; the width may exceed the grid's, which leaves the mean only.
pub fn transfer(size: i64, fwhm: f64) -> Vec<f64> {
    let sigma = fwhm / FWHM_SIGMAS;
    let frequency = |index: i64| (if 2 * index > size { index - size } else { index }) as f64 / size as f64;
    let weight = |k: f64| (-2.0 * (std::f64::consts::PI * sigma * k).powi(2)).exp();
    (0..size * size).map(|index| weight(frequency(index / size)) * weight(frequency(index % size))).collect()
}

/// K applied to `[.., n, n]`, in the images' own precision; `transfer` is `[n, n]`.
pub fn blur(images: &Tensor, transfer: &Tensor) -> Result<Tensor> {
    let spectrum = images.f_fft_fft2(None::<&[i64]>, [-2, -1], "backward")?.f_mul(transfer)?;
    Ok(spectrum.f_fft_ifft2(None::<&[i64]>, [-2, -1], "backward")?.f_real()?)
}

/// The likelihood of one simulated image, `[1, n, n]`.
pub struct Blurred {
    data: Tensor,
    model: Model,
    nuisance: NuisancePrior,
}

struct Model {
    /// `[n, n]`
    transfer: Tensor,
    /// `[1, n, n]`
    mask: Tensor,
    /// `[1, n, n]`; one where masked.
    variance: Tensor,
}

impl Blurred {
    /// `data`, `mask` and `variance` are `[1, n, n]`, f32; `transfer` is `[n, n]`.
    pub fn new(data: Tensor, mask: Tensor, variance: Tensor, transfer: &Tensor) -> Result<Self> {
        let variance = variance.f_where_self(&mask.f_gt(0.0)?, &variance.f_ones_like()?)?;
        let model = Model { transfer: transfer.f_to_kind(Kind::Float)?, mask, variance };
        Ok(Blurred { data: data.f_mul(&model.mask)?, model, nuisance: no_nuisance(1)? })
    }
}

impl Model {
    fn apply(&self, latent: &Latent) -> Result<Tensor> {
        let sky = latent.sky.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
        Ok(blur(&latent.image, &self.transfer)?.f_add(&sky)?.f_mul(&self.mask)?)
    }
}

impl Likelihood for Blurred {
    fn data(&self) -> &Tensor {
        &self.data
    }

    fn mask(&self) -> &Tensor {
        &self.model.mask
    }

    fn nuisance(&self) -> &NuisancePrior {
        &self.nuisance
    }

    fn predict(&self, latent: &Latent) -> Result<Tensor> {
        self.model.apply(latent)
    }

    fn linearize_within(&self, latent: &Latent, _tangent_error: f64) -> Result<Box<dyn Linearized>> {
        let prediction = self.model.apply(latent)?;
        let model = Model {
            transfer: self.model.transfer.shallow_clone(),
            mask: self.model.mask.shallow_clone(),
            variance: self.model.variance.shallow_clone(),
        };
        let variance = model.variance.f_expand_as(&prediction)?;
        Ok(Box::new(Point { model, prediction, variance }))
    }
}

struct Point {
    model: Model,
    prediction: Tensor,
    /// `[B, 1, n, n]`
    variance: Tensor,
}

impl Linearized for Point {
    fn prediction(&self) -> &Tensor {
        &self.prediction
    }

    fn apply(&self, direction: &Latent) -> Result<Tensor> {
        self.model.apply(direction)
    }

    fn adjoint(&self, residual: &Tensor) -> Result<Latent> {
        let masked = residual.f_mul(&self.model.mask)?;
        let batch = residual.size()[0];
        Ok(Latent {
            image: blur(&masked, &self.model.transfer)?,
            ln_amplitude: Tensor::f_zeros([batch, 1], (Kind::Float, Device::Cpu))?,
            sky: masked.f_sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Float)?,
        })
    }

    fn covariance(&self, vector: &Tensor) -> Result<Tensor> {
        Ok(vector.f_mul(&self.model.variance)?.f_mul(&self.model.mask)?)
    }

    fn variance(&self) -> &Tensor {
        &self.variance
    }

    fn precision(&self, vector: &Tensor) -> Result<Tensor> {
        Ok(vector.f_div(&self.model.variance)?.f_mul(&self.model.mask)?)
    }

    fn noise(&self, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        let white = noise.normal(Purpose::PerturbData, step, &self.model.variance.size(), Device::Cpu)?;
        Ok(white.f_mul(&self.model.variance.f_sqrt()?)?.f_mul(&self.model.mask)?)
    }

    /// The squares of the PSF are those of the transfer function: K K^T / Sigma on the diagonal, exactly.
    fn point_sources(&self) -> Result<Option<PointSources<'_>>> {
        let transfer = &self.model.transfer;
        let spectrum = |image: &Tensor| image.f_fft_fft2(None::<&[i64]>, [-2, -1], "backward");
        let psf = transfer.f_fft_ifft2(None::<&[i64]>, [-2, -1], "backward")?.f_real()?;
        let squares = spectrum(&psf.f_square()?)?.f_real()?;
        let precision = blur(&self.model.mask.f_div(&self.model.variance)?.f_unsqueeze(0)?, &squares)?;
        let precision = precision.f_clamp_min(f64::from(f32::MIN_POSITIVE))?.f_expand_as(&self.prediction)?;
        let matched = |vector: &Tensor| blur(&vector.f_mul(&self.model.mask)?, transfer);
        Ok(Some(PointSources { matched: Box::new(matched), precision }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::bare;
    use super::*;
    use crate::random::Key;

    #[test]
    fn the_adjoint_is_the_adjoint_and_flux_is_conserved() {
        let normal =
            |step| Tensor::from_slice(&Key::new(1, "b", 0, Purpose::Evaluation, step).normal(144)).view([1, 1, 12, 12]);
        let transfer = Tensor::from_slice(&transfer(12, 2.5)).view([12, 12]);
        let mask = normal(2).view([1, 12, 12]).gt(-1.0).to_kind(Kind::Float);
        let variance = mask.ones_like();
        let likelihood = Blurred::new(normal(3).view([1, 12, 12]), mask, variance, &transfer).unwrap();
        let direction = bare(normal(0)).unwrap();
        let linear = likelihood.linearize(&direction).unwrap();
        let left = (linear.apply(&direction).unwrap() * normal(1)).sum(Kind::Double).double_value(&[]);
        let back = linear.adjoint(&normal(1)).unwrap().image;
        let right = (back * normal(0)).sum(Kind::Double).double_value(&[]);
        assert!((left - right).abs() < 1e-5 * left.abs().max(1.0), "{left} {right}");
        let blurred = blur(&normal(0), &transfer.to_kind(Kind::Float)).unwrap();
        let flux = |image: &Tensor| image.sum(Kind::Double).double_value(&[]);
        assert!((flux(&blurred) - flux(&normal(0))).abs() < 1e-4);
    }

    #[test]
    fn point_sources_are_those_of_the_model() {
        let normal =
            |step| Tensor::from_slice(&Key::new(2, "b", 0, Purpose::Evaluation, step).normal(144)).view([1, 12, 12]);
        let transfer = Tensor::from_slice(&transfer(12, 2.5)).view([12, 12]);
        let mask = normal(0).gt(-1.0).to_kind(Kind::Float);
        let likelihood = Blurred::new(normal(1), mask, normal(2).square() + 0.1, &transfer).unwrap();
        let linear = likelihood.linearize(&bare(normal(3).view([1, 1, 12, 12])).unwrap()).unwrap();
        let points = linear.point_sources().unwrap().unwrap();
        let eye = Tensor::eye(144, (Kind::Float, Device::Cpu)).view([144, 1, 12, 12]);
        let sources = linear.apply(&bare(eye).unwrap()).unwrap();
        let exact =
            (sources.square() / linear.variance()).sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double);
        let error = (points.precision.view(-1) / exact - 1.0).abs().max().double_value(&[]);
        assert!(error < 1e-3, "{error}"); // f32; where pixels around are masked, little is left.
        let vector = normal(4).view([1, 1, 12, 12]);
        let exact = (sources * &vector).sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float);
        assert!(((points.matched)(&vector).unwrap().view(-1) - exact).abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn a_gaussian_of_its_fwhm_falls_to_one_half() {
        let transfer = Tensor::from_slice(&transfer(32, 8.0)).view([32, 32]);
        let point = Tensor::zeros([32, 32], (Kind::Double, Device::Cpu));
        let _ = point.get(16).get(16).fill_(1.0);
        let image = blur(&point, &transfer).unwrap();
        let half = image.double_value(&[16, 20]) / image.double_value(&[16, 16]);
        assert!((half - 0.5).abs() < 1e-3, "{half}");
        // Wider than the grid: only the mean is left.
        let wide = Tensor::from_slice(&super::transfer(8, 50.0)).view([8, 8]);
        let flat = blur(&Tensor::ones([8, 8], (Kind::Double, Device::Cpu)), &wide).unwrap();
        assert!((flat - 1.0).abs().max().double_value(&[]) < 1e-9);
    }
}
