//! A small network with random weights and a sampler around it, made of the operations that real ones are made of:
//! convolutions, group norms, attention and matrix products in the network; FFTs, complex matrix products, a truncated
//! basis and per-sample sums outside it. It draws nothing of interest. It is there to ask whether a machine repeats its
//! arithmetic, and how fast it is.

use tch::{Device, Kind, Tensor};

use crate::forward::Latent;
use crate::prior::Denoiser;
use crate::random::{Key, Purpose};
use crate::sampler::{Problem, Sampler, State};
use crate::{Error, Result};

/// Bands, pixels on a side, and rank of the truncated basis.
const BANDS: i64 = 3;
const SIZE: i64 = 64;
const RANK: i64 = 64;
/// Channels of the two levels of the network.
const FINE: i64 = 32;
const COARSE: i64 = 64;
const GROUPS: i64 = 8;
const HEADS: i64 = 4;
/// Noise levels, as in a real run.
const SIGMA_MAX: f64 = 50.0;
const SIGMA_MIN: f64 = 0.02;

/// Random weights of shape `shape`, by key: standard normal numbers over the square root of the fan-in.
fn weights(name: &str, shape: &[i64], device: Device) -> Result<Tensor> {
    let count: i64 = shape.iter().product();
    let fan_in: i64 = shape.iter().skip(1).product::<i64>().max(1);
    let values = Key::new(0, name, 0, Purpose::Weights, 0).normal(count as usize);
    let tensor = Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_device(device)?;
    Ok(tensor.f_div_scalar((fan_in as f64).sqrt())?)
}

/// The network: unshuffle by two, a level of `FINE` channels, a level of `COARSE` channels with attention on 8 x 8, and back.
pub struct Network {
    stem: Tensor,
    fine: [Tensor; 2],
    down: Tensor,
    coarse: [Tensor; 2],
    embed: Tensor,
    qkv: Tensor,
    project: Tensor,
    up: Tensor,
    head: Tensor,
}

impl Network {
    /// Makes the weights on `device`.
    pub fn new(device: Device) -> Result<Network> {
        let make = |name: &str, shape: &[i64]| weights(name, shape, device);
        Ok(Network {
            stem: make("stem", &[FINE, 4 * BANDS, 3, 3])?,
            fine: [make("fine0", &[FINE, FINE, 3, 3])?, make("fine1", &[FINE, FINE, 3, 3])?],
            down: make("down", &[COARSE, FINE, 3, 3])?,
            coarse: [make("coarse0", &[COARSE, COARSE, 3, 3])?, make("coarse1", &[COARSE, COARSE, 3, 3])?],
            embed: make("embed", &[COARSE, 16])?,
            qkv: make("qkv", &[3 * COARSE, COARSE, 1, 1])?,
            project: make("project", &[COARSE, COARSE, 1, 1])?,
            up: make("up", &[FINE, COARSE, 3, 3])?,
            head: make("head", &[4 * BANDS, FINE, 3, 3])?,
        })
    }

    fn forward(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let scaled = x.f_div_scalar((sigma * sigma + 1.0).sqrt())?;
        let mut fine = conv(&scaled.f_pixel_unshuffle(2)?, &self.stem, 1)?;
        for weight in &self.fine {
            fine = fine.f_add(&conv(&normed(&fine)?, weight, 1)?)?;
        }
        let mut coarse = conv(&fine, &self.down, 2)?;
        let frequencies: Vec<f32> = (0..16).map(|k| ((f64::from(k) * 0.3 + 1.0) * sigma.ln()).sin() as f32).collect();
        let embedded = Tensor::f_from_slice(&frequencies)?.f_to_device(x.device())?.f_view([1, 16])?;
        let shift = embedded.f_matmul(&self.embed.f_tr()?)?.f_view([1, COARSE, 1, 1])?;
        coarse = coarse.f_add(&shift)?;
        for weight in &self.coarse {
            coarse = coarse.f_add(&conv(&normed(&coarse)?, weight, 1)?)?;
        }
        coarse = coarse.f_add(&self.attention(&coarse)?)?;
        let half = SIZE / 2;
        let raised = coarse.f_upsample_nearest2d([half, half], None, None)?;
        let out = conv(&normed(&fine.f_add(&conv(&raised, &self.up, 1)?)?)?, &self.head, 1)?;
        Ok(out.f_pixel_shuffle(2)?)
    }

    /// Attention on 8 x 8 means.
    fn attention(&self, x: &Tensor) -> Result<Tensor> {
        let batch = x.size()[0];
        let pooled = normed(&x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?)?;
        let side = SIZE / 8;
        let width = COARSE / HEADS;
        let qkv = conv(&pooled, &self.qkv, 1)?.f_view([batch, 3, HEADS, width, side * side])?;
        let (q, k, v) = (qkv.f_select(1, 0)?, qkv.f_select(1, 1)?, qkv.f_select(1, 2)?);
        let scores = q.f_transpose(-1, -2)?.f_matmul(&k)?.f_div_scalar((width as f64).sqrt())?;
        let mixed = v.f_matmul(&scores.f_softmax(-1, Kind::Float)?.f_transpose(-1, -2)?)?;
        let out = conv(&mixed.f_reshape([batch, COARSE, side, side])?, &self.project, 1)?;
        Ok(out.f_upsample_nearest2d([2 * side, 2 * side], None, None)?)
    }
}

fn conv(x: &Tensor, weight: &Tensor, stride: i64) -> Result<Tensor> {
    let padding = weight.size()[2] / 2;
    Ok(x.f_conv2d(weight, None::<Tensor>, [stride, stride], [padding, padding], [1, 1], 1)?)
}

fn normed(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_group_norm(GROUPS, None::<Tensor>, None::<Tensor>, 1e-5, true)?.f_silu()?)
}

impl Denoiser for Network {
    fn shape(&self) -> [i64; 3] {
        [BANDS, SIZE, SIZE]
    }

    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        // The skip of a unit Gaussian prior keeps the chain finite whatever the weights.
        let skip = 1.0 / (1.0 + sigma * sigma);
        let out = self.forward(x, sigma)?.f_tanh()?.f_mul_scalar(sigma / (1.0 + sigma * sigma).sqrt())?;
        Ok(x.f_mul_scalar(skip)?.f_add(&out)?)
    }

    fn denoise_with_grad(&self, _x: &Tensor, _sigma: f64) -> Result<Tensor> {
        Err(Error::internal("the stand-in network has no gradient"))
    }

    fn flops(&self) -> f64 {
        let half = (SIZE / 2 * SIZE / 2) as f64;
        let quarter = half / 4.0;
        let at = |pixels: f64, input: i64, output: i64| 2.0 * 9.0 * pixels * (input * output) as f64;
        at(half, 4 * BANDS, FINE)
            + 2.0 * at(half, FINE, FINE)
            + at(quarter, FINE, COARSE)
            + 2.0 * at(quarter, COARSE, COARSE)
            + at(half, COARSE, FINE)
            + at(half, FINE, 4 * BANDS)
    }
}

/// Denoise, smooth towards data in Fourier space, project on a basis, normalise by a per-sample sum, renoise.
pub struct Chain {
    steps: u32,
    /// `[SIZE, SIZE / 2 + 1]`, real.
    transfer: Tensor,
    /// Rows of a trigonometric interpolation, `[48, SIZE]`, complex.
    rows: Tensor,
    /// `[RANK, BANDS * SIZE * SIZE]`
    basis: Tensor,
}

impl Chain {
    /// A chain of `steps` steps.
    pub fn new(steps: u32, device: Device) -> Result<Chain> {
        let transfer = weights("transfer", &[SIZE, SIZE / 2 + 1], device)?.f_square()?.f_neg()?.f_exp()?;
        let rows =
            Tensor::f_complex(&weights("rows-re", &[48, SIZE], device)?, &weights("rows-im", &[48, SIZE], device)?)?;
        Ok(Chain { steps, transfer, rows, basis: weights("basis", &[RANK, BANDS * SIZE * SIZE], device)? })
    }

    /// Karras et al. 2022 (arXiv:2206.00364), eq. 5.
    fn level(&self, step: u32) -> f64 {
        if step >= self.steps {
            return 0.0;
        }
        let fraction = f64::from(step) / f64::from((self.steps - 1).max(1));
        let (high, low) = (SIGMA_MAX.powf(1.0 / 7.0), SIGMA_MIN.powf(1.0 / 7.0));
        (high + fraction * (low - high)).powi(7)
    }

    fn data_step(&self, x: &Tensor) -> Result<Tensor> {
        let batch = x.size()[0];
        let smooth = x.f_fft_rfft2(None::<&[i64]>, [-2, -1], "backward")?.f_mul(&self.transfer)?.f_fft_irfft2(
            [SIZE, SIZE].as_slice(),
            [-2, -1],
            "backward",
        )?;
        let columns = self.rows.f_matmul(&smooth.f_to_kind(Kind::ComplexFloat)?)?;
        let sampled = columns.f_matmul(&self.rows.f_tr()?)?.f_real()?;
        let flat = smooth.f_reshape([batch, BANDS * SIZE * SIZE])?;
        let coefficients = flat.f_matmul(&self.basis.f_tr()?)?;
        let projected = coefficients.f_matmul(&self.basis)?.f_view_as(x)?;
        let power = sampled.f_square()?.f_sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Float)?;
        let weight = power.f_div_scalar((BANDS * 48 * 48) as f64)?.f_add_scalar(1.0)?.f_reciprocal()?;
        Ok(smooth.f_add(&projected)?.f_mul(&weight.f_view([batch, 1, 1, 1])?)?)
    }
}

impl Sampler for Chain {
    fn name(&self) -> &'static str {
        "stand-in"
    }

    fn steps(&self) -> u32 {
        self.steps
    }

    fn start(&self, problem: &Problem) -> Result<State> {
        let start = problem.noise.normal(Purpose::Start, 0, &problem.denoiser.shape(), problem.device)?;
        Ok(State { step: 0, tensors: vec![("x".into(), start.f_mul_scalar(SIGMA_MAX)?)] })
    }

    fn step(&self, problem: &Problem, state: &mut State) -> Result<()> {
        let denoised = problem.denoiser.denoise(state.get("x")?, self.level(state.step))?;
        let moved = denoised.f_add(&self.data_step(&denoised)?.f_mul_scalar(0.1)?)?;
        let next = state.step + 1;
        let renoise = problem.noise.normal(Purpose::Renoise, next, &problem.denoiser.shape(), problem.device)?;
        state.tensors = vec![("x".into(), moved.f_add(&renoise.f_mul_scalar(self.level(next))?)?)];
        state.step = next;
        Ok(())
    }

    fn finish(&self, problem: &Problem, state: State) -> Result<Latent> {
        let count = problem.noise.count();
        let nothing = || Tensor::f_zeros([count, 1], (Kind::Float, problem.device));
        Ok(Latent { image: state.get("x")?.shallow_clone(), ln_amplitude: nothing()?, sky: nothing()? })
    }
}

/// Single operations on a batch of random numbers: when a machine does not repeat itself, the first to differ is here.
pub fn operations(batch: i64, device: Device) -> Result<Vec<(&'static str, Tensor)>> {
    let _guard = tch::no_grad_guard();
    let network = Network::new(device)?;
    let chain = Chain::new(2, device)?;
    let x = weights("input", &[batch, FINE, 32, 32], device)?;
    let image = weights("image", &[batch, BANDS, SIZE, SIZE], device)?;
    let flat = image.f_reshape([batch, -1])?;
    // The same numbers, four bytes off the alignment that the allocator gives.
    let shifted = Tensor::f_cat(&[flat.f_view(-1)?.f_narrow(0, 0, 1)?, flat.f_view(-1)?], 0)?;
    let shifted = shifted.f_narrow(0, 1, flat.numel() as i64)?.f_view_as(&flat)?;
    let square = weights("square", &[batch, 4, 64, 64], device)?;
    let complex = chain.rows.f_matmul(&image.f_to_kind(Kind::ComplexFloat)?)?;
    Ok(vec![
        ("convolution 3x3", conv(&x, &network.fine[0], 1)?),
        ("strided convolution", conv(&x, &network.down, 2)?),
        ("group norm", x.f_group_norm(GROUPS, None::<Tensor>, None::<Tensor>, 1e-5, true)?),
        ("softmax", square.f_softmax(-1, Kind::Float)?),
        ("matrix product", flat.f_matmul(&chain.basis.f_tr()?)?),
        ("matrix product, unaligned", shifted.f_matmul(&chain.basis.f_tr()?)?),
        ("batched matrix product", square.f_matmul(&square)?),
        ("complex matrix product", complex.f_matmul(&chain.rows.f_tr()?)?.f_view_as_real()?),
        ("FFT", image.f_fft_rfft2(None::<&[i64]>, [-2, -1], "backward")?.f_view_as_real()?),
        ("per-sample sum", flat.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?),
        ("exp, tanh, silu", flat.f_exp()?.f_add(&flat.f_tanh()?)?.f_add(&flat.f_silu()?)?),
    ])
}
