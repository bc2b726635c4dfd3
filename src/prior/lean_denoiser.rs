//! The denoiser of a trained lean network: D = W + c_out F (see prior/skip.rs).

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
        Ok(prepared.wiener.f_add(&residual.f_mul(&prepared.output_scale)?)?)
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

    fn flops(&self) -> f64 {
        self.network.flops()
    }
}
