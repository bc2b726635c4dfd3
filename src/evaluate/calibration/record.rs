//! What one simulation says about one sampler.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::exact::Exact;
use super::probability::{mean_sd, normal_quantile};
use super::problems::{Problem, Simulation};
use super::reference::Weighted;
use super::wasserstein::sliced;
use super::wiener;
use crate::forward::{Latent, Likelihood};
use crate::random::{BlockNoise, Key, Purpose};
use crate::{Error, Result};

/// Upper bounds of posterior over prior variance of the first two bins; the third has none.
pub const BIN_BOUNDS: [f64; 2] = [0.1, 0.5];

/// A simulation that was done: numbers, or the reason why there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub failure: Option<String>,
    pub numbers: Option<Numbers>,
    pub cost: Cost,
}

/// What a gradient costs beyond its forward, in forwards: the backward pass through a network has twice its operations when
/// all gradients are taken. (That of the input alone can be had for one.)
const GRADIENT: f64 = 2.0;

/// Cost of one draw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub forwards: f64,
    /// Backward passes, at most.
    pub gradients: f64,
    pub seconds: f64,
}

impl Cost {
    /// Network evaluations: forwards, and two more for each gradient.
    pub fn evaluations(&self) -> f64 {
        self.forwards + GRADIENT * self.gradients
    }
}

/// Everything that is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    pub draws: u32,
    /// In the problem's order; log p(y|x) comes last.
    pub statistics: Vec<Place>,
    /// What they are places of, in the same order: the truth's value, and those of the draws.
    pub values: Vec<Vec<f64>>,
    /// Place of the truth among the draws by distance from the reference.
    pub tarp: Place,
    pub bins: [BinSums; 3],
    /// Sliced Wasserstein distance from exact draws, and that of exact draws from others.
    pub wasserstein: Option<[f64; 2]>,
    /// Total variation of the mode weights, and that of as many exact draws.
    pub modes: Option<[f64; 2]>,
    pub observed_signal_to_noise: Option<f64>,
    /// What the posterior is by weighted draws of the prior, whatever they are worth.
    pub reference: Option<ReferenceNumbers>,
}

/// Weighted draws of the prior: how many independent ones they are worth, and mean and variance of each statistic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceNumbers {
    pub effective: f64,
    pub moments: Vec<[f64; 2]>,
}

/// Where a truth lies among its draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Draws below, 0 to n; ties are broken at random (by key).
    pub rank: u32,
    /// Uniform in (0, 1) when calibrated: (rank + u) / (n + 1).
    pub fraction: f64,
    /// (truth - mean) / sd; `None` where the draws do not differ.
    pub z: Option<f64>,
}

impl Place {
    /// The normal score, the standard normal number at the same place as the truth among its draws (van der Waerden 1952): a
    /// standard normal number when calibrated, whatever the shape of the posterior and the number of draws. z is that of
    /// bell-shaped posteriors alone: of long-tailed ones it has neither mean 0 nor variance 1.
    pub fn score(&self) -> f64 {
        normal_quantile(self.fraction)
    }
}

/// Sums over the basis vectors (or pixels) of one bin.
///
/// With an exact posterior: error of the sampler's mean with the Monte Carlo term of n draws taken off, the exact trace,
/// the sampler's trace. Without: squared distance of the truth from the mean over (1 + 1/n), the sampler's trace twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BinSums {
    pub entries: u32,
    pub error: f64,
    pub trace: f64,
    pub found: f64,
}

/// Measures `draws` against `simulation`. `object` names the simulation in the keys of what is random here.
pub fn measure(
    problem: &dyn Problem,
    simulation: &Simulation,
    draws: &Latent,
    slices: u32,
    (seed, object): (u64, &str),
) -> Result<Numbers> {
    let count = draws.image.size()[0] as u32;
    let finite = |tensor: &Tensor| -> Result<bool> { Ok(tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 1) };
    if !(finite(&draws.image)? && finite(&draws.ln_amplitude)? && finite(&draws.sky)?) {
        return Err(Error::object(object, "the draws are not finite numbers"));
    }
    let places = |step| Key::new(seed, object, 0, Purpose::Evaluation, step).uniform(2);
    let mut truths = problem.measure(simulation, &simulation.truth)?;
    let mut values = problem.measure(simulation, draws)?;
    truths.push(log_likelihood(simulation.likelihood.as_ref(), &simulation.truth)?);
    let own = simulation.of_samples.as_ref().map(|of_samples| of_samples(0, count)).transpose()?;
    values.push(log_likelihood(own.as_deref().unwrap_or(simulation.likelihood.as_ref()), draws)?);
    let mut statistics = Vec::with_capacity(values.len());
    let names: Vec<String> = problem.statistics().into_iter().chain([LOG_P.to_string()]).collect();
    for (index, (truth, values)) in truths.iter().zip(&values).enumerate() {
        if !(truth[0].is_finite() && values.iter().all(|value| value.is_finite())) {
            return Err(Error::object(object, format!("the statistic `{}` is not finite", names[index])));
        }
        statistics.push(place(truth[0], values, &places(index as u32)));
    }
    let flat = |images: &Tensor| -> Result<Tensor> {
        Ok(images.f_reshape([images.size()[0], -1])?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Double)?)
    };
    let (truth, images) = (flat(&problem.images(&simulation.truth)?)?, flat(&problem.images(draws)?)?);
    let noise = BlockNoise::new(seed, &format!("{object} reference"), 0, 1);
    // A function of the data: where samples have likelihoods of their own, of the catalogue's redshift and not of the truth's.
    let likelihood = simulation.likelihood.as_ref();
    let likelihood = likelihood.common().unwrap_or(likelihood);
    let reference = wiener::reference(&simulation.setting, likelihood, &noise, problem.device())?;
    let reference = flat(&reference)?;
    let distance = |from: &Tensor| -> Result<Vec<f64>> {
        let squares = from.f_sub(&reference)?.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        Ok(Vec::<f64>::try_from(squares)?)
    };
    let tarp = place(distance(&truth)?[0], &distance(&images)?, &places(10_000));
    let (bins, wasserstein, modes) = match &simulation.exact {
        Some(exact) => {
            let mine = exact.draw(seed, &format!("{object} exact"), count)?;
            let other = exact.draw(seed, &format!("{object} floor"), count)?;
            let distance = [sliced(&images, &mine, slices, seed)?, sliced(&other, &mine, slices, seed)?];
            let coefficients = exact.basis.forward(&images)?;
            let modes = [exact.mode_distance(&coefficients)?, exact.mode_distance(&exact.basis.forward(&other)?)?];
            (exact_bins(exact, &coefficients)?, Some(distance), (exact.weights.numel() > 1).then_some(modes))
        }
        None => (
            truth_bins(&images, &truth, &flat(&simulation.setting.covariance.variance()?.f_unsqueeze(0)?)?)?,
            None,
            None,
        ),
    };
    let reference = simulation.reference.as_ref().map(|weighted| reference_numbers(problem, simulation, weighted));
    let reference = reference.transpose()?;
    let all = truths.iter().zip(&values).map(|(truth, values)| [&truth[..1], values].concat());
    let numbers = Numbers {
        draws: count,
        statistics,
        values: all.collect(),
        tarp,
        bins,
        wasserstein,
        modes,
        observed_signal_to_noise: simulation.observed_signal_to_noise,
        reference,
    };
    // Draws may be finite and their squares not.
    if numbers.all_finite() {
        Ok(numbers)
    } else {
        Err(Error::object(object, "the draws are too large to be measured"))
    }
}

fn reference_numbers(
    problem: &dyn Problem,
    simulation: &Simulation,
    Weighted { latent, effective }: &Weighted,
) -> Result<ReferenceNumbers> {
    let mut values = problem.measure(simulation, latent)?;
    values.push(log_likelihood(simulation.likelihood.as_ref(), latent)?);
    let moments = values.iter().map(|values| mean_sd(values)).map(|(mean, sd)| [mean, sd * sd]);
    Ok(ReferenceNumbers { effective: *effective, moments: moments.collect() })
}

/// Weights that are worth fewer draws tell no posterior: their means would be off by a sixth of a standard deviation.
const LEAST_EFFECTIVE: f64 = 40.0;

impl Numbers {
    /// The reference, where its weights are worth enough.
    pub fn reference(&self) -> Option<&ReferenceNumbers> {
        self.reference.as_ref().filter(|reference| reference.effective >= LEAST_EFFECTIVE)
    }

    /// Whether no number is NaN or infinite: JSON knows no such thing.
    fn all_finite(&self) -> bool {
        let places = self.statistics.iter().chain([&self.tarp]);
        let z = places.filter_map(|place| place.z);
        let bins = self.bins.iter().flat_map(|bin| [bin.error, bin.trace, bin.found]);
        let pairs = self.wasserstein.into_iter().chain(self.modes).flatten();
        let moments = self.reference.iter().flat_map(|reference| reference.moments.iter().flatten().copied());
        z.chain(bins).chain(pairs).chain(moments).chain(self.observed_signal_to_noise).all(f64::is_finite)
    }
}

/// The name of the last statistic.
pub const LOG_P: &str = "log p(y|x)";

/// log p(y | latent) without its constant, -chi^2 / 2, each sample.
fn log_likelihood(likelihood: &dyn Likelihood, latent: &Latent) -> Result<Vec<f64>> {
    let linear = likelihood.linearize(latent)?;
    let residual = likelihood.data().f_unsqueeze(0)?.f_sub(linear.prediction())?.f_to_kind(Kind::Double)?;
    let weighted = residual.f_square()?.f_div(&linear.variance().f_to_kind(Kind::Double)?)?;
    let sums = weighted.f_sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double)?;
    Ok(Vec::<f64>::try_from(sums.f_mul_scalar(-0.5)?)?)
}

/// The place of `truth` among `draws`; `uniform` breaks ties and fills the last fraction.
pub fn place(truth: f64, draws: &[f64], uniform: &[f64]) -> Place {
    let below = draws.iter().filter(|&&draw| draw < truth).count();
    let ties = draws.iter().filter(|&&draw| draw == truth).count();
    let rank = below + ((uniform[0] * (ties + 1) as f64) as usize).min(ties);
    let (mean, sd) = mean_sd(draws);
    Place {
        rank: rank as u32,
        fraction: (rank as f64 + uniform[1]) / (draws.len() as f64 + 1.0),
        z: (sd > 0.0).then_some((truth - mean) / sd),
    }
}

/// The bin of a ratio of posterior over prior variance.
pub fn bin(ratio: f64) -> usize {
    BIN_BOUNDS.iter().filter(|&&bound| ratio >= bound).count()
}

/// Mean and variance of the draws against the exact ones, along the posterior's own basis.
pub fn exact_bins(exact: &Exact, coefficients: &Tensor) -> Result<[BinSums; 3]> {
    let count = coefficients.size()[0] as f64;
    let mean = coefficients.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let found = Vec::<f64>::try_from(coefficients.f_var_dim([0i64].as_slice(), true, false)?)?;
    let miss = Vec::<f64>::try_from(mean.f_sub(&exact.mean()?)?.f_square()?)?;
    let variance = Vec::<f64>::try_from(exact.marginal_variance()?)?;
    let prior = Vec::<f64>::try_from(&exact.prior_variance)?;
    let mut bins = [BinSums::default(); 3];
    for index in 0..variance.len() {
        let sums = &mut bins[bin(variance[index] / prior[index])];
        sums.entries += 1;
        sums.error += miss[index] - found[index] / count;
        sums.trace += variance[index];
        sums.found += found[index];
    }
    Ok(bins)
}

/// The same against the truth, pixel by pixel, in bins of the sampler's own variance.
fn truth_bins(draws: &Tensor, truth: &Tensor, prior: &Tensor) -> Result<[BinSums; 3]> {
    let count = draws.size()[0] as f64;
    let mean = draws.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
    let found = Vec::<f64>::try_from(draws.f_var_dim([0i64].as_slice(), true, false)?)?;
    let miss = Vec::<f64>::try_from(mean.f_sub(truth)?.f_square()?.f_view([-1])?)?;
    let prior = Vec::<f64>::try_from(prior.f_view([-1])?)?;
    let mut bins = [BinSums::default(); 3];
    for index in 0..found.len() {
        // A pixel that the prior knows exactly has nothing to be in any bin for.
        if prior[index] > 0.0 {
            let sums = &mut bins[bin(found[index] / prior[index])];
            sums.entries += 1;
            sums.error += miss[index] / (1.0 + 1.0 / count);
            sums.trace += found[index];
            sums.found += found[index];
        }
    }
    Ok(bins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_break_ties_and_fill_the_unit_interval() {
        let place_at = |truth, u: f64| place(truth, &[1.0, 2.0, 2.0, 3.0], &[u, 0.5]);
        assert_eq!(place_at(0.0, 0.9).rank, 0);
        assert_eq!(place_at(2.5, 0.9).rank, 3);
        assert_eq!((place_at(2.0, 0.0).rank, place_at(2.0, 0.99).rank), (1, 3));
        assert_eq!(place_at(9.0, 0.0).fraction, 4.5 / 5.0);
        assert_eq!(place(1.0, &[2.0, 2.0], &[0.0, 0.0]).z, None);
        assert_eq!([0.0, 0.1, 0.3, 0.5, 2.0].map(bin), [0, 1, 1, 2, 2]);
    }
}
