//! How far a linearised forward model is trusted: its error counts as noise, and a solution is cut at its reach.

use tch::Tensor;

use crate::Result;
use crate::forward::Latent;

/// What is counted as the tangent's error at t = 1, relative to the flux.
const TANGENT_ERROR: f64 = 0.02;
const LARGEST_TANGENT_ERROR: f64 = 0.5;

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

/// Relative error of the tangent of the stretch at noise level `t`, beyond what linearising anew takes care of. Counted as
/// noise, it spares the solver a precision at the highest levels that a linear model does not have. It must be small: what
/// the first levels do not fit, the later ones must make up for with the little that they change. Five times as much left
/// draws of bright simulated galaxies with a chi^2 that was 10 above that of the truths, instead of 5.
pub fn tangent_error(t: f64) -> f64 {
    (TANGENT_ERROR * t * t).min(LARGEST_TANGENT_ERROR)
}
