//! How far a linearised forward model is trusted: its error counts as noise, and a solution is cut at its reach.

use tch::Tensor;

use crate::Result;
use crate::forward::Latent;

/// What is counted as the tangent's error at t = 1, relative to the flux.
const TANGENT_ERROR: f64 = 0.1;
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
/// noise, it keeps the steps from fitting bright galaxies to a precision that a linear model does not have. At t of about 1,
/// where the overall shape is decided, it must stay small: five times as much left draws whose log p(y|x) was two
/// standard deviations too low. Above, x0 is uncertain by more than a tangent reaches, and the solver is spared.
pub fn tangent_error(t: f64) -> f64 {
    (TANGENT_ERROR * t * t.min(1.0)).min(LARGEST_TANGENT_ERROR)
}
