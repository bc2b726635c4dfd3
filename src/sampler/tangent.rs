//! How far a linearised forward model is trusted: its error counts as noise, and a solution is cut at its reach.

use tch::{Kind, Tensor};

use crate::Result;
use crate::forward::{Latent, Linearized};

/// What is counted as the tangent's error at t = 1, relative to the flux. What is counted is not fitted: with 0.02, draws of faint
/// galaxies were too faint by 0.2 posterior deviations, against long chains on images that are Gaussian in the stretched space.
const TANGENT_ERROR: f64 = 0.0075;
/// Below this S/N less is counted, in proportion: a faint galaxy's noise spares the solver by itself. With all of it, draws at S/N 5 and
/// 50 were too faint by 0.12 (+- 0.04) posterior deviations in either case, with none of it by -0.03 and 0.04 (30 simulations of 31
/// draws); at S/N 500 it makes no difference but in cost: without it, a bright galaxy of HSC took twice as long.
const FULL_FROM: f64 = 150.0;
const LARGEST_TANGENT_ERROR: f64 = 0.5;

/// A tangent is good enough, and is not taken anew, where t^2, twice its error in flux, is this many times the noise of the
/// flux: at S/N 50 below t = 0.2, at S/N 500 below 0.06. With 0.2 there, draws were too bright at S/N 500, by 0.2 deviations.
const GOOD: f64 = 2.0;
/// No tangent is good at a noise level above this, however faint the galaxy is.
const LARGEST_GOOD: f64 = 1.0;

/// Cuts the changes of pixels and of ln a at what one linearisation can be trusted with. That matters at the high noise
/// levels only, where the network's next estimate takes up what is cut off; where draws are decided, changes are small.
pub fn within_reach(solution: Latent, point: &Latent, reach: Option<f64>) -> Result<Latent> {
    let Some(reach) = reach else { return Ok(solution) };
    let limit =
        |new: &Tensor, old: &Tensor| -> Result<Tensor> { Ok(new.f_sub(old)?.f_clamp(-reach, reach)?.f_add(old)?) };
    Ok(Latent {
        image: limit(&solution.image, &point.image)?,
        ln_amplitude: limit(&solution.ln_amplitude, &point.ln_amplitude)?,
        sky: solution.sky,
    })
}

/// The noise level below which tangents of a galaxy are good enough, by its S/N in all bands at the point of linearisation
/// (the median of the samples: a lost one has no say).
pub fn good_below(linear: &dyn Linearized) -> Result<f64> {
    Ok((GOOD / signal_to_noise(linear)?).sqrt().min(LARGEST_GOOD))
}

/// S/N in all bands at the point of linearisation, the median of the samples.
fn signal_to_noise(linear: &dyn Linearized) -> Result<f64> {
    let squares = linear.prediction().f_square()?.f_div(linear.variance())?;
    let median = squares.f_sum_dim_intlist(&[1i64, 2, 3][..], false, Kind::Float)?.f_sqrt()?.f_nanmedian()?;
    Ok(median.f_to_kind(Kind::Double)?.f_double_value(&[])?)
}

/// Relative error of the tangent of the stretch at noise level `t`, beyond what linearising anew takes care of. Counted as
/// noise, it spares the solver a precision at the highest levels that a linear model does not have. It must be small: what
/// the first levels do not fit, the later ones must make up for with the little that they change. With 0.1 t^2 draws of bright
/// simulated galaxies had a chi^2 that was 10 above that of the truths, with 0.02 t^2 5.
pub fn tangent_error(t: f64) -> f64 {
    (TANGENT_ERROR * t * t).min(LARGEST_TANGENT_ERROR)
}

/// The same for the galaxy that `linear` is linearised at, without an error of the tangent.
pub fn tangent_error_of(linear: &dyn Linearized, t: f64) -> Result<f64> {
    // Where no sample is a number, the full error: a lost block is to be counted, not to stop the object.
    Ok(tangent_error(t) * (signal_to_noise(linear)? / FULL_FROM).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::BlockNoise;

    /// Its prediction and variance are all that is asked for.
    struct Seen {
        prediction: Tensor,
        variance: Tensor,
    }

    impl Linearized for Seen {
        fn prediction(&self) -> &Tensor {
            &self.prediction
        }
        fn variance(&self) -> &Tensor {
            &self.variance
        }
        fn apply(&self, _direction: &Latent) -> Result<Tensor> {
            Err(crate::Error::internal("not needed here"))
        }
        fn adjoint(&self, _residual: &Tensor) -> Result<Latent> {
            Err(crate::Error::internal("not needed here"))
        }
        fn covariance(&self, _vector: &Tensor) -> Result<Tensor> {
            Err(crate::Error::internal("not needed here"))
        }
        fn noise(&self, _noise: &BlockNoise, _step: u32) -> Result<Tensor> {
            Err(crate::Error::internal("not needed here"))
        }
    }

    /// Galaxies with so much S/N each, in the same light and noise in every pixel of three bands.
    fn seen(signal_to_noise: &[f32]) -> Seen {
        let size = [signal_to_noise.len() as i64, 3, 4, 4];
        let variance = Tensor::full(size, 9.0, (Kind::Float, tch::Device::Cpu));
        let light = Tensor::from_slice(signal_to_noise).view([-1, 1, 1, 1]) * (9.0f64 / 48.0).sqrt();
        Seen { prediction: light.expand(size, false), variance }
    }

    #[test]
    fn the_brighter_a_galaxy_the_better_its_tangents_must_be() {
        for (signal_to_noise, expected) in [(0.0, 1.0), (1.0, 1.0), (50.0, 0.2), (500.0, 0.0632)] {
            let found = good_below(&seen(&[signal_to_noise; 3])).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-3, "{signal_to_noise}: {found}");
        }
    }

    #[test]
    fn a_lost_sample_has_no_say() {
        let without = good_below(&seen(&[40.0, 50.0, 60.0])).unwrap();
        for value in [f32::NAN, f32::INFINITY] {
            let with = good_below(&seen(&[40.0, value, 50.0, 60.0])).unwrap();
            // An infinite one is one of the brightest.
            assert!((with / without - 1.0).abs() < 0.1, "{value}: {with}");
        }
        // Where all are lost, steps go on as they do for a bright galaxy or a faint one.
        assert!(good_below(&seen(&[f32::NAN; 2])).unwrap() <= LARGEST_GOOD);
    }
}
