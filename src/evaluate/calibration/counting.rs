//! A denoiser that counts what is asked of it.

use std::sync::atomic::{AtomicU64, Ordering};

use tch::Tensor;

use crate::Result;
use crate::prior::Denoiser;

/// Counts forwards and gradients, in samples: a batch of 16 is 16.
pub struct Counting {
    inner: Box<dyn Denoiser>,
    forwards: AtomicU64,
    gradients: AtomicU64,
}

impl Counting {
    pub fn new(inner: Box<dyn Denoiser>) -> Self {
        Counting { inner, forwards: AtomicU64::new(0), gradients: AtomicU64::new(0) }
    }

    /// Forwards so far, those with a gradient included.
    pub fn forwards(&self) -> u64 {
        self.forwards.load(Ordering::Relaxed)
    }

    /// Forwards through which a gradient can be taken, once or more often (`Sampler::backward_passes`).
    pub fn gradients(&self) -> u64 {
        self.gradients.load(Ordering::Relaxed)
    }
}

impl Denoiser for Counting {
    fn shape(&self) -> [i64; 3] {
        self.inner.shape()
    }

    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.forwards.fetch_add(x.size()[0] as u64, Ordering::Relaxed);
        self.inner.denoise(x, sigma)
    }

    fn denoise_with_grad(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.forwards.fetch_add(x.size()[0] as u64, Ordering::Relaxed);
        self.gradients.fetch_add(x.size()[0] as u64, Ordering::Relaxed);
        self.inner.denoise_with_grad(x, sigma)
    }

    fn flops(&self) -> f64 {
        self.inner.flops()
    }
}
