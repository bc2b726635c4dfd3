//! The noise covariance: Sigma = sky + Poisson(model / gain, when known) + (eps * model)^2.
//!
//! The last two are diagonal and use the positive part of the model. The sky's part is a variance for each pixel
//! (white), or a stationary covariance (correlated, as coadds have). The latter is given by its power spectrum on a
//! periodic grid at least as large as the data (circulant embedding: Dietrich & Newsam 1997, SIAM J. Sci. Comput. 18,
//! 1088): restricted to the data it is a proper covariance, because it is a principal part of a circulant one.
//!
//! Masked pixels have no rows and columns.

use tch::{Device, Kind, Tensor};

use crate::random::{BlockNoise, Purpose};
use crate::{Error, Result};

/// The sky's part of the noise, in (nJy per detector pixel)^2.
#[derive(Debug)]
pub enum SkyNoise {
    /// Independent pixels: their variance, `[C, my, mx]`.
    White { variance: Tensor },
    /// Stationary noise: its power spectrum `[C, py, px]` on a periodic grid with py >= my and px >= mx, in the order of
    /// the discrete Fourier transform. The power is the transform of the covariance as a function of the lag, so white
    /// noise of variance s^2 has power s^2 everywhere, and the variance is the power's mean. `correlated_grid` gives
    /// sizes that transform quickly.
    Correlated { power: Tensor },
}

/// Power below which a mode is not divided by, in units of the variance.
const LEAST_POWER: f64 = 1e-3;

/// A good size of the periodic grid along an axis with `pixels` pixels: at least `margin` more, so that the ends of the
/// data do not see each other around the period, and 2^a 3^b 5^c, for which the Fourier transforms are quickest.
pub fn correlated_grid(pixels: i64, margin: i64) -> i64 {
    let smooth = |size: &i64| {
        let divide = |mut size: i64, prime: i64| {
            while size > 0 && size % prime == 0 {
                size /= prime;
            }
            size
        };
        divide(divide(divide(*size, 2), 3), 5) == 1
    };
    let least = (pixels + margin).max(1);
    // A power of two is never further than a factor of two away.
    (least..=2 * least).find(smooth).unwrap_or(least)
}

/// The noise of an observation for any model.
#[derive(Debug)]
pub struct NoiseModel {
    /// 1 where a pixel counts, `[C, my, mx]`.
    mask: Tensor,
    /// 1 where it does not.
    masked: Tensor,
    /// The sky's variance, not inflated, `[C, my, mx]`; anything where masked.
    sky: Tensor,
    /// What is independent of the model on the diagonal, apart from the stationary part; zero where masked.
    constant: Tensor,
    stationary: Option<Stationary>,
    /// 1 / gain, `[C, 1, 1]`.
    inverse_gain: Option<Tensor>,
    relative_error: f64,
}

/// What a noise model is made from.
#[derive(Debug)]
pub struct NoiseInput<'a> {
    pub sky: &'a SkyNoise,
    /// 1 where a pixel counts and 0 where it is masked, `[C, my, mx]`.
    pub mask: &'a Tensor,
    /// Factor by which the sky's variance is inflated, `[C, my, mx]`, 1 or more.
    pub inflation: Option<&'a Tensor>,
    /// Electrons per nJy, one per band, when known.
    pub gain: Option<&'a [f64]>,
    /// eps: relative error of PSF and flat field.
    pub relative_error: f64,
}

impl NoiseModel {
    /// Checks and prepares. The kind and the device are those of the mask.
    pub fn new(input: &NoiseInput) -> Result<Self> {
        let (mask, kind, device) = (input.mask, input.mask.kind(), input.mask.device());
        let &[bands, my, mx] = mask.size().as_slice() else {
            return Err(Error::internal(format!("noise: mask of shape {:?}, expected [C, my, mx]", mask.size())));
        };
        let (sky, stationary) = match input.sky {
            SkyNoise::White { variance } => {
                if variance.size() != mask.size() {
                    return Err(Error::internal(format!(
                        "noise: variance of shape {:?}, expected {:?}",
                        variance.size(),
                        mask.size()
                    )));
                }
                let variance = variance.f_to_device(device)?.f_to_kind(kind)?;
                // A masked pixel may hold anything, NaN too.
                let variance = variance.f_where_self(&mask.f_gt(0.0)?, &variance.f_ones_like()?)?;
                (variance, None)
            }
            SkyNoise::Correlated { power } => {
                let stationary = Stationary::new(power, [bands, my, mx], kind, device)?;
                (stationary.variance.f_expand([bands, my, mx], false)?, Some(stationary))
            }
        };
        if !all(&sky.f_gt(0.0)?)? || !all(&sky.f_isfinite()?)? {
            return Err(Error::internal("noise: the sky's variance must be positive and finite where a pixel counts"));
        }
        let constant = constant(&sky, input.inflation, stationary.is_some(), mask)?;
        let inverse_gain = match input.gain {
            None => None,
            Some(gain) => {
                if gain.len() as i64 != bands || gain.iter().any(|gain| !(gain.is_finite() && *gain > 0.0)) {
                    return Err(Error::internal(format!("noise: gain {gain:?}, expected {bands} positive numbers")));
                }
                let inverse: Vec<f64> = gain.iter().map(|gain| 1.0 / gain).collect();
                Some(Tensor::f_from_slice(&inverse)?.f_view([bands, 1, 1])?.f_to_kind(kind)?.f_to_device(device)?)
            }
        };
        if !(input.relative_error.is_finite() && input.relative_error >= 0.0) {
            return Err(Error::internal(format!("noise: relative error {}, expected 0 or more", input.relative_error)));
        }
        Ok(NoiseModel {
            mask: mask.shallow_clone(),
            masked: mask.f_neg()?.f_add_scalar(1.0)?,
            sky,
            constant,
            stationary,
            inverse_gain,
            relative_error: input.relative_error,
        })
    }

    /// The same noise with another inflation of the sky's variance: `[C, my, mx]`, or `[B, C, my, mx]` where it differs from
    /// sample to sample. The other tables are shared.
    pub fn inflated(&self, factor: &Tensor) -> Result<Self> {
        let constant = constant(&self.sky, Some(factor), self.stationary.is_some(), &self.mask)?;
        Ok(NoiseModel { constant, ..self.share() })
    }

    /// Another handle on the same tables; nothing is copied.
    pub fn share(&self) -> Self {
        NoiseModel {
            mask: self.mask.shallow_clone(),
            masked: self.masked.shallow_clone(),
            sky: self.sky.shallow_clone(),
            constant: self.constant.shallow_clone(),
            stationary: self.stationary.as_ref().map(Stationary::share),
            inverse_gain: self.inverse_gain.as_ref().map(Tensor::shallow_clone),
            relative_error: self.relative_error,
        }
    }

    /// Sigma for the noise-free light of the object, `[B, C, my, mx]` (without the sky level, whose photons the sky's
    /// variance holds already). `extra` is a further standard deviation of each pixel.
    pub fn at(&self, model: &Tensor, extra: Option<&Tensor>) -> Result<Covariance> {
        let positive = model.f_clamp_min(0.0)?;
        let mut diagonal = positive.f_square()?.f_mul_scalar_(self.relative_error.powi(2))?;
        if let Some(extra) = extra {
            let _ = diagonal.f_addcmul_(extra, extra)?;
        }
        if let Some(inverse_gain) = &self.inverse_gain {
            let _ = diagonal.f_addcmul_(&positive, inverse_gain)?;
        }
        let diagonal = diagonal.f_mul_(&self.mask)?.f_add_(&self.constant)?;
        let variance = match &self.stationary {
            None => diagonal.f_add(&self.masked)?,
            Some(stationary) => diagonal.f_add(&self.masked)?.f_addcmul_(&self.mask, &stationary.variance)?,
        };
        let mut stationary = None;
        let mut precision = self.mask.f_div(&variance)?;
        let mut inverse_root = None;
        if let Some(ours) = &self.stationary {
            // Where the two parts meet, the diagonal one decides as soon as it is above the quietest mode of the other.
            let quiet = ours.variance.f_mul(&ours.quietest)?;
            let share = quiet.f_div(&diagonal.f_add(&quiet)?)?.f_mul_(&self.mask)?;
            inverse_root = Some(share.f_mul(&precision)?.f_sqrt()?);
            precision = precision.f_mul(&share.f_neg()?.f_add_scalar(1.0)?)?;
            stationary = Some(ours.share());
        }
        Ok(Covariance { mask: self.mask.shallow_clone(), diagonal, variance, stationary, precision, inverse_root })
    }
}

/// Sigma at one model per sample.
#[derive(Debug)]
pub struct Covariance {
    mask: Tensor,
    /// The diagonal part, `[B, C, my, mx]`, zero where masked.
    diagonal: Tensor,
    /// The whole diagonal, one where masked.
    variance: Tensor,
    stationary: Option<Stationary>,
    /// Of the approximate inverse: its diagonal part, and the factor on both sides of the inverse of the stationary
    /// correlation; zero where masked.
    precision: Tensor,
    inverse_root: Option<Tensor>,
}

impl Covariance {
    /// Sigma v, for v `[B, C, my, mx]`; zero where masked, whatever v is there.
    pub fn apply(&self, vector: &Tensor) -> Result<Tensor> {
        match &self.stationary {
            None => Ok(vector.f_mul(&self.diagonal)?),
            Some(stationary) => {
                let mut out = stationary.apply(&vector.f_mul(&self.mask)?)?.f_mul(&self.mask)?;
                Ok(out.f_addcmul_(vector, &self.diagonal)?)
            }
        }
    }

    /// About Sigma^-1 v: exact for a diagonal Sigma, and close for a stationary one. Where both parts are of a size it
    /// is a mixture of their inverses. Symmetric, positive, zero where masked.
    pub fn precision(&self, vector: &Tensor) -> Result<Tensor> {
        let out = vector.f_mul(&self.precision)?;
        match (&self.stationary, &self.inverse_root) {
            (Some(stationary), Some(root)) => {
                let through = stationary.filter(&vector.f_mul(root)?, &stationary.inverse)?;
                Ok(out.f_addcmul(&through, root)?)
            }
            _ => Ok(out),
        }
    }

    /// The diagonal of Sigma, `[B, C, my, mx]`; one where masked.
    pub fn variance(&self) -> &Tensor {
        &self.variance
    }

    /// Draws of N(0, Sigma), `[B, C, my, mx]`.
    pub fn draw(&self, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        let (kind, device) = (self.mask.kind(), self.mask.device());
        let white = noise.normal(Purpose::PerturbData, step, &self.mask.size(), device)?.f_to_kind(kind)?;
        let out = self.diagonal.f_sqrt()?.f_mul(&white)?;
        match &self.stationary {
            None => Ok(out),
            Some(stationary) => Ok(out.f_addcmul(&stationary.draw(noise, step)?, &self.mask)?),
        }
    }
}

/// Stationary noise on a periodic grid that holds the data.
#[derive(Debug)]
struct Stationary {
    /// Half of the (real, even) spectrum, `[C, py, px / 2 + 1]`.
    power: Tensor,
    amplitude: Tensor,
    /// variance / power: the inverse of the correlation's spectrum.
    inverse: Tensor,
    /// `[C, 1, 1]`
    variance: Tensor,
    /// Least power in units of the variance, `[C, 1, 1]`.
    quietest: Tensor,
    grid: [i64; 2],
    data: [i64; 2],
}

impl Stationary {
    fn new(power: &Tensor, [bands, my, mx]: [i64; 3], kind: Kind, device: Device) -> Result<Self> {
        let size = power.size();
        let &[count, py, px] = size.as_slice() else {
            return Err(Error::internal(format!("noise: power spectrum of shape {size:?}, expected [C, py, px]")));
        };
        if count != bands || py < my || px < mx {
            return Err(Error::internal(format!(
                "noise: power spectrum of shape {size:?}, expected {bands} bands and at least {my} x {mx} pixels"
            )));
        }
        let power = power.f_to_kind(Kind::Double)?.f_to_device(device)?;
        if !all(&power.f_isfinite()?)? || !all(&power.f_ge(0.0)?)? {
            return Err(Error::internal("noise: the power spectrum must be finite and not negative"));
        }
        // The covariance of real noise has P(k) = P(-k); an estimate is made so, which keeps Sigma symmetric.
        let mirrored = power.f_flip([1, 2])?.f_roll([1, 1], [1, 2])?;
        let power = power.f_add(&mirrored)?.f_mul_scalar(0.5)?;
        let variance = power.f_mean_dim([1i64, 2].as_slice(), true, Kind::Double)?.f_to_kind(kind)?;
        let half = power.f_narrow(2, 0, px / 2 + 1)?.f_contiguous()?;
        let amplitude = half.f_sqrt()?.f_to_kind(kind)?;
        let relative = half.f_div(&variance)?.f_clamp_min(LEAST_POWER)?;
        let quietest = relative.f_amin([1i64, 2].as_slice(), true)?.f_to_kind(kind)?;
        let inverse = relative.f_reciprocal()?.f_to_kind(kind)?;
        let power = half.f_to_kind(kind)?;
        Ok(Stationary { power, amplitude, inverse, variance, quietest, grid: [py, px], data: [my, mx] })
    }

    fn share(&self) -> Self {
        Stationary {
            power: self.power.shallow_clone(),
            amplitude: self.amplitude.shallow_clone(),
            inverse: self.inverse.shallow_clone(),
            variance: self.variance.shallow_clone(),
            quietest: self.quietest.shallow_clone(),
            ..*self
        }
    }

    /// The stationary covariance applied to a field that is zero outside the data.
    fn apply(&self, vector: &Tensor) -> Result<Tensor> {
        // rfft2 with a size pads with zeros at the end, which is the embedding.
        self.filter(vector, &self.power)
    }

    /// White noise of the whole periodic grid, coloured and cut to the data.
    fn draw(&self, noise: &BlockNoise, step: u32) -> Result<Tensor> {
        let shape = [self.power.size()[0], self.grid[0], self.grid[1]];
        let white = noise.normal(Purpose::PerturbCorrelated, step, &shape, self.power.device())?;
        self.filter(&white.f_to_kind(self.power.kind())?, &self.amplitude)
    }

    fn filter(&self, field: &Tensor, spectrum: &Tensor) -> Result<Tensor> {
        let [py, px] = self.grid;
        let mut modes = field.f_fft_rfft2([py, px].as_slice(), [-2, -1], "backward")?;
        let _ = modes.f_mul_(spectrum)?;
        let out = modes.f_fft_irfft2([py, px].as_slice(), [-2, -1], "backward")?;
        Ok(out.f_narrow(-2, 0, self.data[0])?.f_narrow(-1, 0, self.data[1])?)
    }
}

/// The sky's part of the diagonal that is not in the stationary part.
fn constant(sky: &Tensor, inflation: Option<&Tensor>, stationary: bool, mask: &Tensor) -> Result<Tensor> {
    let constant = match (inflation, stationary) {
        (Some(factor), false) => sky.f_mul(factor)?,
        (Some(factor), true) => sky.f_mul(&factor.f_sub_scalar(1.0)?)?,
        (None, false) => sky.shallow_clone(),
        (None, true) => sky.f_zeros_like()?,
    };
    Ok(constant.f_mul(mask)?)
}

fn all(condition: &Tensor) -> Result<bool> {
    Ok(condition.f_all()?.f_int64_value(&[])? != 0)
}

#[cfg(test)]
mod tests;
