//! The denoiser of a trained lean network: D = W + c_out gate F (see prior/skip.rs).

use std::cell::RefCell;
use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use crate::prior::Denoiser;
use crate::prior::covariance::Covariance;
use crate::prior::lean::LeanNetwork;
use crate::prior::skip::Skip;
use crate::{Error, Result};

/// Noise levels whose tables are kept: more than any sampler's grid has.
const KEPT_LEVELS: usize = 1024;

/// A lean network with its Gaussian skip.
pub struct LeanDenoiser {
    network: LeanNetwork,
    covariance: Covariance,
    /// Tables by the bits of the noise level.
    tables: RefCell<HashMap<u64, Skip>>,
}

impl LeanDenoiser {
    /// Joins a network and the covariance that it was trained with, both on one device.
    pub fn new(network: LeanNetwork, covariance: Covariance) -> Self {
        LeanDenoiser { network, covariance, tables: RefCell::new(HashMap::new()) }
    }

    /// Makes the tables of a level that is new.
    fn remember(&self, sigma: f64) -> Result<()> {
        let mut tables = self.tables.borrow_mut();
        if tables.contains_key(&sigma.to_bits()) {
            return Ok(());
        }
        let _guard = tch::no_grad_guard();
        if tables.len() >= KEPT_LEVELS {
            tables.clear();
        }
        tables.insert(sigma.to_bits(), Skip::new(&self.covariance, &[sigma])?);
        Ok(())
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.remember(sigma)?;
        let tables = self.tables.borrow();
        let skip = tables.get(&sigma.to_bits()).ok_or_else(|| Error::internal("noise-level tables were lost"))?;
        let index = Tensor::f_zeros([1], (Kind::Int64, self.device()))?;
        let prepared = skip.prepare(x, &index)?;
        let residual = self.network.forward(&prepared.inputs, &prepared.ln_sigma)?;
        Ok(prepared.wiener.f_add(&residual.f_mul(&prepared.output_scale.f_mul(&prepared.gate)?)?)?)
    }

    fn device(&self) -> Device {
        self.covariance.mean.device()
    }
}

impl Denoiser for LeanDenoiser {
    fn shape(&self) -> [i64; 3] {
        self.covariance.shape
    }

    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        self.estimate(x, sigma)
    }

    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.estimate(x, sigma)
    }

    fn features(&self, x: &Tensor, sigma: f64) -> Result<Option<Tensor>> {
        let _guard = tch::no_grad_guard();
        self.remember(sigma)?;
        let tables = self.tables.borrow();
        let skip = tables.get(&sigma.to_bits()).ok_or_else(|| Error::internal("noise-level tables were lost"))?;
        let prepared = skip.prepare(x, &Tensor::f_zeros([1], (Kind::Int64, self.device()))?)?;
        Ok(Some(self.network.features(&prepared.inputs, &prepared.ln_sigma)?))
    }

    fn flops(&self) -> f64 {
        self.network.flops()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::card::{Architecture, LeanConfig};
    use crate::random::{BlockNoise, Key, Purpose};
    use crate::train::parameters::{Layout, Network};

    /// f32 rounding, and the two forms of the Woodbury identity.
    const F32_TOLERANCE: f64 = 1e-4;

    fn covariance() -> Covariance {
        let pixels = 2 * 16 * 16;
        let values = Key::new(1, "components", 0, Purpose::Evaluation, 0).normal(pixels * 3);
        let (q, _) = Tensor::linalg_qr(&Tensor::from_slice(&values).view([pixels as i64, 3]), "reduced");
        let flat = |value: f64| Tensor::full([pixels as i64], value, (Kind::Float, Device::Cpu));
        let variances = Tensor::from_slice(&[30.0f32, 5.0, 1.0]);
        Covariance::new([2, 16, 16], flat(0.1), q.tr().contiguous(), variances, flat(0.02)).unwrap()
    }

    fn denoiser(noise: f64) -> LeanDenoiser {
        let config = LeanConfig { channels: vec![16, 16], unshuffle: 2, blocks: 1, heads: 2 };
        let layout = Layout::new(&Architecture::Lean(config), [2, 16, 16]).unwrap();
        let flat = layout.initial(3).unwrap();
        let extra = Key::new(2, "extra", 0, Purpose::Weights, 0).normal(layout.length() as usize);
        match layout.network(&(flat + Tensor::from_slice(&extra) * noise), false).unwrap().0 {
            Network::Lean(network) => LeanDenoiser::new(network, covariance()),
            Network::Unet(_) => unreachable!("the layout is that of a lean network"),
        }
    }

    #[test]
    fn an_untrained_network_is_the_wiener_filter() {
        let denoiser = denoiser(0.0);
        let x = covariance().draw(0.5, &BlockNoise::new(1, "x", 0, 3), 0).unwrap();
        for sigma in [0.01, 0.5, 20.0] {
            let expected = covariance().level(sigma).unwrap().wiener(&x).unwrap();
            let found = denoiser.denoise(&x, sigma).unwrap();
            assert!((found - expected).abs().max().double_value(&[]) < F32_TOLERANCE, "at {sigma}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let denoiser = denoiser(0.05);
        let x = covariance().draw(0.5, &BlockNoise::new(1, "x", 0, 1), 0).unwrap().set_requires_grad(true);
        let direction =
            BlockNoise::new(1, "d", 0, 1).normal(Purpose::Evaluation, 0, &[2, 16, 16], Device::Cpu).unwrap();
        let loss = denoiser.denoise_with_grad(&x, 0.5).unwrap().square().sum(Kind::Float);
        let gradient = Tensor::run_backward(&[&loss], &[&x], false, false);
        let found = (&gradient[0] * &direction).sum(Kind::Double).double_value(&[]);
        let x = x.detach();
        let h = 1e-3;
        let value = |step: f64| {
            let moved = &x + &direction * step;
            denoiser.denoise(&moved, 0.5).unwrap().to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[])
        };
        let expected = (value(h) - value(-h)) / (2.0 * h);
        // Central differences of f32 forwards.
        assert!((found / expected - 1.0).abs() < 0.01, "{found} {expected}");
        assert!(!denoiser.denoise(&x.set_requires_grad(true), 0.5).unwrap().requires_grad());
    }
}
