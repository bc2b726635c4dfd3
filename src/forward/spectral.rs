//! Linear maps that are products in Fourier space: from samples at some positions to samples at others, through a transfer
//! function per band. The forward operator is such a map.
//!
//! ```text
//! y_i = scale sum_k T(nu_k) e^{2 pi i nu_k . r_i} sum_j f_j e^{-2 pi i nu_k . r_j},   T(-nu) = T(nu)*, so y is real
//! ```
//!
//! The sums are separable, so they are four matrix products, and real ones: along x the half k_x >= 0 as interleaved real
//! and imaginary parts, along y cosines and sines for k_y >= 0. With W_c, W_s the cosine and sine transforms along y of
//! the complex transform along x, and T+- = T(k_x, +-k_y), the transfer acts as
//!
//! ```text
//! V_c = Q1 W_c + Q2 W_s,   V_s = Q1 W_s - Q2 W_c,   Q1 = T+ + T-,   Q2 = -i (T+ - T-)
//! ```
//!
//! Positions and the number of modes are arbitrary, and everything batches. Tables are computed in f64 and stored in the
//! map's kind. Measured (one thread, 48 images of 64 x 64 to 85 x 85, 41 x 41 modes): 4.2 ms for a product and its
//! transpose.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// One axis of a map.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// nu_k >= 0, starting with 0, in cycles per unit of the positions; none is its own alias.
    pub frequencies: Vec<f64>,
    pub input: Vec<f64>,
    pub output: Vec<f64>,
}

/// One band's transfer function at (+k_y, k_x) and (-k_y, k_x): real and imaginary parts, k_y outside.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub plus: (Vec<f64>, Vec<f64>),
    pub minus: (Vec<f64>, Vec<f64>),
}

/// A linear map `[B, C, iy, ix]` to `[B, C, oy, ox]`.
#[derive(Debug)]
pub(super) struct SpectralMap {
    /// The size of the batch, where each sample has tables of its own (then a table has the sample, or for those along y the
    /// sample and band, in front); `None` where all samples have the same.
    samples: Option<i64>,
    bands: i64,
    input: [i64; 2],
    output: [i64; 2],
    modes: [i64; 2],
    /// `[ix, 2 kx]`, and its transpose.
    analyse_x: [Tensor; 2],
    /// `[1, 2 ky, iy]`, and its transpose.
    analyse_y: [Tensor; 2],
    /// `[1, oy, 2 ky]`, and its transpose.
    synthesize_y: [Tensor; 2],
    /// `[2 kx, ox]`, and its transpose.
    synthesize_x: [Tensor; 2],
    /// Q1, Q2, -Q2 of the map, then of its adjoint; each `[C, ky, kx]`, complex.
    transfer: [[Tensor; 3]; 2],
}

impl SpectralMap {
    pub fn new(y: &Axis, x: &Axis, bands: &[Transfer], scale: f64, kind: Kind, device: Device) -> Result<Self> {
        let angle = |nu: f64, position: f64| (TAU * nu * position).sin_cos();
        let (kx, ky) = (x.frequencies.len(), y.frequencies.len());
        let mut analyse_x = Vec::with_capacity(x.input.len() * 2 * kx);
        for position in &x.input {
            for nu in &x.frequencies {
                let (sine, cosine) = angle(*nu, *position);
                analyse_x.extend([cosine, -sine]);
            }
        }
        let mut analyse_y = Vec::with_capacity(2 * ky * y.input.len());
        for nu in &y.frequencies {
            analyse_y.extend(y.input.iter().map(|position| angle(*nu, *position).1));
        }
        for nu in &y.frequencies {
            analyse_y.extend(y.input.iter().map(|position| angle(*nu, *position).0));
        }
        let mut synthesize_y = Vec::with_capacity(y.output.len() * 2 * ky);
        for position in &y.output {
            // k_y = 0 is counted twice in T+ + T-.
            let weight = |k: usize| if k == 0 { 0.5 } else { 1.0 };
            let modes = || y.frequencies.iter().enumerate();
            synthesize_y.extend(modes().map(|(k, nu)| weight(k) * angle(*nu, *position).1));
            synthesize_y.extend(modes().map(|(k, nu)| weight(k) * angle(*nu, *position).0));
        }
        let mut synthesize_x = Vec::with_capacity(2 * kx * x.output.len());
        for (k, nu) in x.frequencies.iter().enumerate() {
            // A mode k_x > 0 stands for its conjugate too.
            let weight = if k == 0 { 1.0 } else { 2.0 };
            synthesize_x.extend(x.output.iter().map(|position| weight * angle(*nu, *position).1));
            synthesize_x.extend(x.output.iter().map(|position| -weight * angle(*nu, *position).0));
        }
        let table = |values: &[f64], shape: &[i64]| -> Result<[Tensor; 2]> {
            let tensor = Tensor::f_from_slice(values)?.f_view(shape)?.f_to_kind(kind)?.f_to_device(device)?;
            let transposed = tensor.f_transpose(-1, -2)?.f_contiguous()?;
            Ok([tensor, transposed])
        };
        let (kx, ky) = (kx as i64, ky as i64);
        let input = [y.input.len() as i64, x.input.len() as i64];
        let output = [y.output.len() as i64, x.output.len() as i64];
        Ok(SpectralMap {
            samples: None,
            bands: bands.len() as i64,
            input,
            output,
            modes: [ky, kx],
            analyse_x: table(&analyse_x, &[input[1], 2 * kx])?,
            analyse_y: table(&analyse_y, &[1, 2 * ky, input[0]])?,
            synthesize_y: table(&synthesize_y, &[1, output[0], 2 * ky])?,
            synthesize_x: table(&synthesize_x, &[2 * kx, output[1]])?,
            transfer: transfer_tables(bands, [ky, kx], scale, kind, device)?,
        })
    }

    /// The map of a batch whose sample i goes through `maps[i]`. All must have the same sizes and modes.
    pub fn stack(maps: &[SpectralMap]) -> Result<Self> {
        let Some(first) = maps.first() else { return Err(Error::internal("forward model: a batch of no samples")) };
        let sizes = |map: &SpectralMap| (map.samples, map.bands, map.input, map.output, map.modes);
        if maps.iter().any(|map| map.samples.is_some() || sizes(map) != sizes(first)) {
            return Err(Error::internal("forward model: maps of different sizes in one batch"));
        }
        let stacked = |table: &dyn Fn(&SpectralMap) -> &Tensor| -> Result<Tensor> {
            Ok(Tensor::f_stack(&maps.iter().map(table).collect::<Vec<_>>(), 0)?)
        };
        let pair = |tables: &dyn Fn(&SpectralMap) -> &[Tensor; 2]| -> Result<[Tensor; 2]> {
            Ok([stacked(&|map| &tables(map)[0])?, stacked(&|map| &tables(map)[1])?])
        };
        // One matrix for each image of the batch: a product of stacks needs as many on both sides.
        let each_band = |tables: [Tensor; 2]| -> Result<[Tensor; 2]> {
            let [forward, back] = tables;
            let repeat = |table: Tensor| table.f_repeat([1, first.bands, 1, 1])?.f_flatten(0, 1);
            Ok([repeat(forward)?, repeat(back)?])
        };
        let three = |which: usize| -> Result<[Tensor; 3]> {
            let one = |part: usize| stacked(&|map| &map.transfer[which][part]);
            Ok([one(0)?, one(1)?, one(2)?])
        };
        Ok(SpectralMap {
            samples: Some(maps.len() as i64),
            analyse_x: pair(&|map| &map.analyse_x)?,
            analyse_y: each_band(pair(&|map| &map.analyse_y)?)?,
            synthesize_y: each_band(pair(&|map| &map.synthesize_y)?)?,
            synthesize_x: pair(&|map| &map.synthesize_x)?,
            transfer: [three(0)?, three(1)?],
            ..*first
        })
    }

    /// Number of bands, C.
    pub fn bands(&self) -> i64 {
        self.bands
    }

    /// `[B, C, iy, ix]` to `[B, C, oy, ox]`.
    pub fn apply(&self, input: &Tensor) -> Result<Tensor> {
        let ([iy, ix], [oy, ox], [_, kx]) = (self.input, self.output, self.modes);
        let batch = self.batch(input, self.input)?;
        let images = batch * self.bands;
        let along_x = self.along_x(&input.f_reshape([images * iy, ix])?, &self.analyse_x[0])?;
        let modes = self.along_y(&self.analyse_y[0], &along_x.f_view([images, iy, 2 * kx])?)?;
        let modes = self.multiply(&modes, batch, &self.transfer[0])?;
        let along_y = self.along_y(&self.synthesize_y[0], &modes)?;
        let output = self.along_x(&along_y.f_view([images * oy, 2 * kx])?, &self.synthesize_x[0])?;
        Ok(output.f_view([batch, self.bands, oy, ox])?)
    }

    /// The transposed map, `[B, C, oy, ox]` to `[B, C, iy, ix]`.
    pub fn adjoint(&self, output: &Tensor) -> Result<Tensor> {
        let ([iy, ix], [oy, ox], [_, kx]) = (self.input, self.output, self.modes);
        let batch = self.batch(output, self.output)?;
        let images = batch * self.bands;
        let along_x = self.along_x(&output.f_reshape([images * oy, ox])?, &self.synthesize_x[1])?;
        let modes = self.along_y(&self.synthesize_y[1], &along_x.f_view([images, oy, 2 * kx])?)?;
        let modes = self.multiply(&modes, batch, &self.transfer[1])?;
        let along_y = self.along_y(&self.analyse_y[1], &modes)?;
        let input = self.along_x(&along_y.f_view([images * iy, 2 * kx])?, &self.analyse_x[1])?;
        Ok(input.f_view([batch, self.bands, iy, ix])?)
    }

    /// Another handle on the same tables; nothing is copied.
    pub fn share(&self) -> Self {
        let pair = |tables: &[Tensor; 2]| tables.each_ref().map(Tensor::shallow_clone);
        SpectralMap {
            analyse_x: pair(&self.analyse_x),
            analyse_y: pair(&self.analyse_y),
            synthesize_y: pair(&self.synthesize_y),
            synthesize_x: pair(&self.synthesize_x),
            transfer: self.transfer.each_ref().map(|tables| tables.each_ref().map(Tensor::shallow_clone)),
            ..*self
        }
    }

    /// Rows of all images `[images rows, columns]` times a table.
    fn along_x(&self, rows: &Tensor, table: &Tensor) -> Result<Tensor> {
        Ok(match self.samples {
            None => rows.f_matmul(table)?,
            Some(samples) => rows.f_view([samples, -1, rows.size()[1]])?.f_bmm(table)?,
        })
    }

    /// A table times each image, `[images, rows, columns]`.
    fn along_y(&self, table: &Tensor, images: &Tensor) -> Result<Tensor> {
        match self.samples {
            None => times(table, images),
            Some(_) => Ok(table.f_bmm(images)?),
        }
    }

    /// The transfer function on the modes `[B C, 2 ky, 2 kx]`.
    fn multiply(&self, modes: &Tensor, batch: i64, [q1, q2, minus_q2]: &[Tensor; 3]) -> Result<Tensor> {
        let [ky, kx] = self.modes;
        let complex = modes.f_view([batch, self.bands, 2, ky, kx, 2])?.f_view_as_complex()?;
        let (cosine, sine) = (complex.f_select(2, 0)?, complex.f_select(2, 1)?);
        let out = complex.f_mul(&q1.f_unsqueeze(-3)?)?;
        let _ = out.f_select(2, 0)?.f_addcmul_(&sine, q2)?;
        let _ = out.f_select(2, 1)?.f_addcmul_(&cosine, minus_q2)?;
        Ok(out.f_view_as_real()?.f_view([batch * self.bands, 2 * ky, 2 * kx])?)
    }

    fn batch(&self, tensor: &Tensor, shape: [i64; 2]) -> Result<i64> {
        match tensor.size().as_slice() {
            &[batch, bands, height, width]
                if bands == self.bands && [height, width] == shape && self.samples.is_none_or(|own| own == batch) =>
            {
                Ok(batch)
            }
            size => Err(Error::internal(format!(
                "forward model: tensor of shape {size:?}, expected [{}, {}, {}, {}]",
                self.samples.map_or("B".to_string(), |own| own.to_string()),
                self.bands,
                shape[0],
                shape[1]
            ))),
        }
    }
}

/// Q1, Q2, -Q2 and their conjugates for the adjoint (where Q2 changes sign).
fn transfer_tables(
    bands: &[Transfer],
    [ky, kx]: [i64; 2],
    scale: f64,
    kind: Kind,
    device: Device,
) -> Result<[[Tensor; 3]; 2]> {
    let (mut q1, mut q2) = (Vec::new(), Vec::new());
    for Transfer { plus, minus } in bands {
        for index in 0..plus.0.len() {
            q1.extend([scale * (plus.0[index] + minus.0[index]), scale * (plus.1[index] + minus.1[index])]);
            q2.extend([scale * (plus.1[index] - minus.1[index]), -scale * (plus.0[index] - minus.0[index])]);
        }
    }
    let shape = [bands.len() as i64, ky, kx, 2];
    let table = |values: &[f64], sign: f64, conjugate: f64| -> Result<Tensor> {
        let values: Vec<f64> = values.chunks(2).flat_map(|z| [sign * z[0], sign * conjugate * z[1]]).collect();
        let tensor = Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_kind(kind)?.f_to_device(device)?;
        Ok(tensor.f_view_as_complex()?)
    };
    // V_c = Q1 W_c + Q2 W_s and V_s = Q1 W_s - Q2 W_c; transposed, W_c = Q1* V_c - Q2* V_s and W_s = Q1* V_s + Q2* V_c.
    Ok([
        [table(&q1, 1.0, 1.0)?, table(&q2, 1.0, 1.0)?, table(&q2, -1.0, 1.0)?],
        [table(&q1, 1.0, -1.0)?, table(&q2, -1.0, -1.0)?, table(&q2, 1.0, -1.0)?],
    ])
}

/// The same matrix times each image. A batch of products with stride zero: nothing is copied.
fn times(matrix: &Tensor, images: &Tensor) -> Result<Tensor> {
    Ok(matrix.f_expand([images.size()[0], -1, -1], false)?.f_bmm(images)?)
}
