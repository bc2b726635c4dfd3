//! Draws of a block taken anew by the evidence of their redshifts (`photo_z.mode = "weighted"`).

use tch::Tensor;

use crate::Result;
use crate::forward::{Latent, Likelihood};
use crate::posterior::flags::lost;
use crate::sampler::evidence::{ln_likelihoods, shares};
use crate::sampler::resampling::{resampled, worth};

/// Which draws stand in the slots of a block now, and how many they are worth.
#[derive(Debug, PartialEq)]
pub(super) struct Reweighed {
    pub chosen: Vec<usize>,
    pub worth: f64,
}

/// Weighs the draws of a block by the evidence of their redshifts. `own` has the likelihoods of their redshifts, `common` the
/// noise that all are compared in. Draws that are not finite, or are no fit (their chi^2 is more than `times` the median), keep
/// their slots and have no part in it: they are counted later.
pub(super) fn reweigh(
    own: &dyn Likelihood,
    common: &dyn Likelihood,
    draws: &Latent,
    times: f64,
    uniform: f64,
) -> Result<Reweighed> {
    let table = ln_likelihoods(own, common, draws)?;
    let chi2: Vec<f32> = table.iter().enumerate().map(|(index, row)| (-2.0 * row[index]) as f32).collect();
    let bad = lost(&chi2, times);
    let good: Vec<usize> = (0..chi2.len()).filter(|&index| chi2[index].is_finite() && !bad[index]).collect();
    let mut chosen: Vec<usize> = (0..chi2.len()).collect();
    if good.is_empty() {
        return Ok(Reweighed { chosen, worth: 0.0 });
    }
    let part: Vec<Vec<f64>> = good.iter().map(|&k| good.iter().map(|&draw| table[k][draw]).collect()).collect();
    let shares = shares(&part)?;
    for (&slot, index) in good.iter().zip(resampled(&shares, uniform)) {
        chosen[slot] = good[index as usize];
    }
    Ok(Reweighed { chosen, worth: worth(&shares) })
}

/// The draws that were chosen, in the order of their slots.
pub(super) fn taken(draws: &Latent, chosen: &[usize]) -> Result<Latent> {
    let indices: Vec<i64> = chosen.iter().map(|&index| index as i64).collect();
    let indices = Tensor::f_from_slice(&indices)?.f_to_device(draws.image.device())?;
    let take = |tensor: &Tensor| tensor.f_index_select(0, &indices);
    Ok(Latent { image: take(&draws.image)?, ln_amplitude: take(&draws.ln_amplitude)?, sky: take(&draws.sky)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::GalaxyLikelihood;
    use crate::forward::galaxy::tests::{input, latent};
    use tch::Kind;

    /// Of four draws one is not finite and one is no fit; the others are alike, and weigh alike at one redshift.
    #[test]
    fn lost_draws_keep_their_slots_and_equal_redshifts_weigh_alike() {
        let common = GalaxyLikelihood::new(input(Kind::Float, 1, false)).unwrap();
        let own = common.for_pitches(&[0.11; 4]).unwrap();
        let draws = latent(4, 1, 40, Kind::Float);
        let first = |tensor: &Tensor| {
            tensor.narrow(0, 0, 1).repeat([4].into_iter().chain(vec![1; tensor.dim() - 1]).collect::<Vec<i64>>())
        };
        let draws = Latent {
            image: first(&draws.image),
            ln_amplitude: first(&draws.ln_amplitude) * 0.1,
            sky: first(&draws.sky),
        };
        let _ = draws.sky.get(1).fill_(f64::NAN);
        let _ = draws.sky.get(2).fill_(1e4);
        let found = reweigh(&own, &common, &draws, 10.0, 0.3).unwrap();
        assert_eq!(found.chosen, [0, 1, 2, 3]);
        assert!((found.worth - 2.0).abs() < 1e-6, "{found:?}");
        let moved = taken(&draws, &[3, 1, 2, 2]).unwrap();
        assert_eq!(moved.sky.get(3), draws.sky.get(2));
        // All of them lost: nothing is chosen, nothing fails.
        let _ = draws.sky.narrow(0, 0, 4).fill_(f64::NAN);
        assert_eq!(
            reweigh(&own, &common, &draws, 10.0, 0.3).unwrap(),
            Reweighed { chosen: vec![0, 1, 2, 3], worth: 0.0 }
        );
    }
}
