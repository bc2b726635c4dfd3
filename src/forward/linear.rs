//! A linear likelihood with a dense matrix and white noise: y = A x + c ln a + sky + noise. Small problems with a closed
//! form, to certify samplers.

use tch::{Kind, Tensor};

use super::{Latent, Likelihood, Linearized, NuisancePrior, PointSources};
use crate::Result;
use crate::random::{BlockNoise, Purpose};

/// y = A x + c ln a + b + N(0, sd^2), one data channel.
pub struct LinearLikelihood {
    data: Tensor,
    mask: Tensor,
    model: Model,
    nuisance: NuisancePrior,
}

struct Model {
    /// `[M, D]`
    matrix: Tensor,
    /// c, `[M, A]`
    amplitude: Tensor,
    sd: f64,
    /// `[1, C, my, mx]` with M = C my mx.
    shape: [i64; 4],
    /// `[C, n, n]`: what a direction's adjoint looks like.
    image: Vec<i64>,
}

impl LinearLikelihood {
    /// `data` is `[C, my, mx]`, `matrix` `[M, D]` with M = C my mx, `amplitude` `[M, A]`. The image space is seen flat.
    pub fn new(data: Tensor, matrix: Tensor, amplitude: Tensor, sd: f64, nuisance: NuisancePrior) -> Result<Self> {
        let (channels, height, width) = data.size3()?;
        let model =
            Model { image: vec![matrix.size()[1]], matrix, amplitude, sd, shape: [-1, channels, height, width] };
        Ok(LinearLikelihood { mask: data.f_ones_like()?, data, model, nuisance })
    }
}

impl Model {
    fn apply(&self, latent: &Latent) -> Result<Tensor> {
        let image = latent.image.f_reshape([-1, self.image[0]])?.f_matmul(&self.matrix.f_tr()?)?;
        let amplitude = latent.ln_amplitude.f_matmul(&self.amplitude.f_tr()?)?;
        let sky = latent.sky.f_unsqueeze(-1)?.f_unsqueeze(-1)?;
        Ok(image.f_add(&amplitude)?.f_view(self.shape)?.f_add(&sky)?)
    }

    fn copy(&self) -> Model {
        Model {
            matrix: self.matrix.shallow_clone(),
            amplitude: self.amplitude.shallow_clone(),
            sd: self.sd,
            shape: self.shape,
            image: self.image.clone(),
        }
    }
}

impl Likelihood for LinearLikelihood {
    fn data(&self) -> &Tensor {
        &self.data
    }

    fn mask(&self) -> &Tensor {
        &self.mask
    }

    fn nuisance(&self) -> &NuisancePrior {
        &self.nuisance
    }

    fn predict(&self, latent: &Latent) -> Result<Tensor> {
        self.model.apply(latent)
    }

    fn linearize_within(&self, latent: &Latent, _tangent_error: f64) -> Result<Box<dyn Linearized>> {
        let prediction = self.model.apply(latent)?;
        let variance = prediction.f_full_like(self.model.sd * self.model.sd)?;
        let shape = latent.image.size();
        Ok(Box::new(LinearPoint { model: self.model.copy(), prediction, variance, shape }))
    }
}

struct LinearPoint {
    model: Model,
    prediction: Tensor,
    variance: Tensor,
    shape: Vec<i64>,
}

impl Linearized for LinearPoint {
    fn prediction(&self) -> &Tensor {
        &self.prediction
    }

    fn apply(&self, direction: &Latent) -> Result<Tensor> {
        self.model.apply(direction)
    }

    fn adjoint(&self, residual: &Tensor) -> Result<Latent> {
        let flat = residual.f_reshape([-1, self.model.matrix.size()[0]])?;
        Ok(Latent {
            image: flat.f_matmul(&self.model.matrix)?.f_view(self.shape.as_slice())?,
            ln_amplitude: flat.f_matmul(&self.model.amplitude)?,
            sky: residual.f_sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Float)?,
        })
    }

    fn covariance(&self, vector: &Tensor) -> Result<Tensor> {
        Ok(vector.f_mul_scalar(self.model.sd * self.model.sd)?)
    }

    fn variance(&self) -> &Tensor {
        &self.variance
    }

    fn noise(&self, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        let white = noise.normal(Purpose::PerturbData, step, &self.prediction.size()[1..], self.prediction.device())?;
        Ok(white.f_mul_scalar(self.model.sd)?)
    }

    fn point_sources(&self) -> Result<Option<PointSources<'_>>> {
        let squares = self.model.matrix.f_square()?.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Float)?;
        let squares = squares.f_clamp_min(f64::from(f32::MIN_POSITIVE))?.f_div_scalar(self.model.sd * self.model.sd)?;
        let precision =
            squares.f_view([&[1], &self.shape[1..]].concat().as_slice())?.f_expand(self.shape.as_slice(), false)?;
        let matched = |vector: &Tensor| Ok(self.adjoint(vector)?.image);
        Ok(Some(PointSources { matched: Box::new(matched), precision }))
    }
}
