//! `mixture-25`: the 25-mode Gaussian mixture of Cardoso et al. 2023 (MCGdiff, arXiv:2308.07983, section 5), which Boys et
//! al. 2023 (TMPD, arXiv:2310.06721) also use:
//!
//! ```text
//! p(x) = sum_ij w_ij N(x; (8i, 8j, 8i, 8j, ...), I),   i, j in -2..2,   d = 8, 80, 800
//! y = A x + sigma e,   d_y = 1, 2, 4
//! ```
//!
//! What the published text leaves open follows the public code of MCGdiff: w_ij ~ squares of standard normal numbers,
//! normalised (TMPD: equal); A = U S V^T with U and V those of a matrix of standard normal numbers and S uniform in
//! [0, 1], sorted; sigma uniform in [0, max S] (TMPD: 0.01, 0.1 or 1; `noise` fixes it). Each simulation draws all of
//! these anew, as each seed of the papers does. The published figure is the mean of one-dimensional Wasserstein-1
//! distances over 10^4 slices, between as many draws (1000) of sampler and posterior.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::galaxy_mixture::mixture_draws;
use super::{Family, Problem, Setting, Simulation, bare, card, no_nuisance};
use crate::config::check::Checker;
use crate::evaluate::calibration::counting::Counting;
use crate::evaluate::calibration::exact::{Basis, Exact};
use crate::forward::Latent;
use crate::forward::linear::LinearLikelihood;
use crate::prior::Covariance;
use crate::prior::analytic::MixtureDenoiser;
use crate::prior::card::Architecture;
use crate::random::{BlockNoise, Key, Purpose};
use crate::sampler::Sampler;
use crate::{Error, Result};

/// Distance between neighbouring modes along one coordinate.
const SPACING: f64 = 8.0;
/// Smallest sigma that is drawn: a noise of exactly zero has no density.
const LEAST_NOISE: f64 = 1e-3;
/// No weight is drawn below this share: its square root has no meaning in f32.
const LEAST_WEIGHT: f64 = 1e-9;

/// `[problems.mixture-25]`: one problem for each pair of dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mixture25Config {
    /// d: even numbers.
    pub dimension: Vec<i64>,
    /// d_y.
    pub observed: Vec<i64>,
    /// sigma; drawn for each simulation when not given.
    pub noise: Option<f64>,
}

impl Default for Mixture25Config {
    fn default() -> Self {
        Mixture25Config { dimension: vec![8], observed: vec![1], noise: None }
    }
}

impl Mixture25Config {
    /// Errors name `key` and what is below it.
    pub(crate) fn check(&self, check: &Checker, key: &str) -> Result<()> {
        let even = |d: &i64| d % 2 == 0 && (4..=4000).contains(d);
        let (d, observed) = (&self.dimension, &self.observed);
        let dimensions = !d.is_empty() && d.iter().all(even);
        let why = format!("expected a list of even numbers from 4 to 4000, found {d:?}");
        check.need(dimensions, &format!("{key}.dimension"), why)?;
        let least = d.iter().copied().min().unwrap_or(0);
        let fits = !observed.is_empty() && observed.iter().all(|&count| count >= 1 && count < least);
        let why = format!("expected a list of 1 to less than the dimension, found {observed:?}");
        check.need(fits, &format!("{key}.observed"), why)?;
        self.noise.map_or(Ok(()), |noise| check.positive(noise, &format!("{key}.noise")))
    }

    /// Name and dimensions of each problem.
    pub fn cases(&self, name: &str) -> Vec<(String, i64, i64)> {
        let several = self.dimension.len() * self.observed.len() > 1;
        let both = self.dimension.iter().flat_map(|&d| self.observed.iter().map(move |&observed| (d, observed)));
        both.map(|(d, observed)| (if several { format!("{name}-{d}-{observed}") } else { name.into() }, d, observed))
            .collect()
    }
}

/// The problem; every simulation has its own weights and its own A.
pub struct Mixture25 {
    name: String,
    seed: u64,
    noise: Option<f64>,
    dimension: i64,
    observed: i64,
}

/// What one simulation draws before its truth.
struct Recipe {
    weights: Vec<f64>,
    /// V^T, `[d, d]`, its first d_y rows being those that A sees; f64 as all of these.
    basis: Tensor,
    /// A, `[d_y, d]`, U, `[d_y, d_y]`, and S, `[d_y]`.
    matrix: Tensor,
    left: Tensor,
    singular: Tensor,
    noise: f64,
}

impl Mixture25 {
    pub fn new(name: &str, noise: Option<f64>, dimension: i64, observed: i64, seed: u64) -> Self {
        Mixture25 { name: name.into(), seed, noise, dimension, observed }
    }

    fn object(&self, index: u32) -> String {
        format!("{} {index}", self.name)
    }

    /// The 25 means, `[25, d]`, f64.
    fn means(&self) -> Result<Tensor> {
        let mut values: Vec<f64> = Vec::new();
        for (i, j) in (-2..=2).flat_map(|i| (-2..=2).map(move |j| (i, j))) {
            let pair = [SPACING * f64::from(i), SPACING * f64::from(j)];
            values.extend(pair.iter().cycle().take(self.dimension as usize));
        }
        Ok(Tensor::f_from_slice(&values)?.f_view([25, self.dimension])?)
    }

    fn recipe(&self, index: u32) -> Result<Recipe> {
        let key = |step| Key::new(self.seed, &self.object(index), 0, Purpose::Evaluation, step);
        let squares: Vec<f64> = key(0).normal(25).iter().map(|&value| f64::from(value).powi(2)).collect();
        let total: f64 = squares.iter().sum();
        let weights = squares.iter().map(|square| (square / total).max(LEAST_WEIGHT)).collect();
        let (d, observed) = (self.dimension, self.observed);
        let normal = Tensor::f_from_slice(&key(1).normal((d * observed) as usize))?.f_view([observed, d])?;
        // The full form: V is completed to an orthonormal basis of the whole space.
        let (left, _, right) = normal.f_to_kind(Kind::Double)?.f_svd(false, true)?;
        let basis = right.f_tr()?.f_contiguous()?;
        let mut singular = key(2).uniform(observed as usize);
        singular.sort_by(|left, right| right.total_cmp(left));
        let noise = self.noise.unwrap_or((key(3).uniform(1)[0] * singular[0]).max(LEAST_NOISE));
        let singular = Tensor::f_from_slice(&singular)?;
        let matrix = left.f_mul(&singular)?.f_matmul(&basis.f_narrow(0, 0, observed)?)?;
        Ok(Recipe { weights, basis, matrix, left, singular, noise })
    }

    /// With V^T x = z, data U^T y = S z + noise: v = sigma^2 / (S^2 + sigma^2) along V and 1 across.
    fn posterior(&self, recipe: &Recipe, data: &Tensor, prior: &Covariance) -> Result<Exact> {
        let (d, observed) = (self.dimension, self.observed);
        let double = (Kind::Double, Device::Cpu);
        let squared = recipe.singular.f_square()?;
        let noise = recipe.noise * recipe.noise;
        let total = squared.f_add_scalar(noise)?;
        let along = total.f_reciprocal()?.f_mul_scalar(noise)?;
        let variance = Tensor::f_cat(&[along, Tensor::f_ones([d - observed], double)?], 0)?;
        let basis = recipe.basis.shallow_clone();
        let means = self.means()?.f_matmul(&basis.f_tr()?)?;
        let turned = data.f_view([1, -1])?.f_matmul(&recipe.left)?;
        let seen = means.f_narrow(1, 0, observed)?;
        let miss = turned.f_sub(&seen.f_mul(&recipe.singular)?)?;
        let scores = miss.f_square()?.f_div(&total)?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        let prior_weights = Tensor::f_from_slice(&recipe.weights)?.f_log()?;
        let shift = miss.f_mul(&recipe.singular)?.f_div(&total)?;
        let moved = Tensor::f_cat(&[seen.f_add(&shift)?, means.f_narrow(1, observed, d - observed)?], 1)?;
        let scaled = prior.components.f_to_kind(Kind::Double)?.f_matmul(&basis.f_tr()?)?.f_square()?;
        let spread = prior.variances.f_to_kind(Kind::Double)?.f_unsqueeze(0)?.f_matmul(&scaled)?.f_squeeze_dim(0)?;
        Ok(Exact {
            basis: Basis::Matrix(basis),
            weights: scores.f_mul_scalar(-0.5)?.f_add(&prior_weights)?.f_softmax(0, Kind::Double)?,
            means: moved,
            variance,
            prior_variance: spread.f_add_scalar(1.0)?,
            states: None,
        })
    }
}

/// C0 of the mixture: the means lie in the plane of (1, 0, 1, 0, ...) and (0, 1, 0, 1, ...).
fn covariance(means: &Tensor, weights: &[f64], dimension: i64) -> Result<Covariance> {
    let weights = Tensor::f_from_slice(weights)?;
    let weights = weights.f_div(&weights.f_sum(Kind::Double)?)?.f_unsqueeze(1)?;
    let mean = means.f_mul(&weights)?.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?;
    let length = (dimension as f64 / 2.0).sqrt();
    let plane: Vec<f64> =
        (0..2).flat_map(|axis| (0..dimension).map(move |at| f64::from(u8::from(at % 2 == axis)) / length)).collect();
    let plane = Tensor::f_from_slice(&plane)?.f_view([2, dimension])?;
    let places = means.f_sub(&mean)?.f_matmul(&plane.f_tr()?)?;
    let (values, vectors) = places.f_tr()?.f_matmul(&places.f_mul(&weights)?)?.f_linalg_eigh("L")?;
    Covariance::new(
        [1, 1, dimension],
        mean.f_to_kind(Kind::Float)?,
        vectors.f_tr()?.f_matmul(&plane)?.f_to_kind(Kind::Float)?,
        values.f_clamp_min(0.0)?.f_to_kind(Kind::Float)?,
        Tensor::f_ones([dimension], (Kind::Float, Device::Cpu))?,
    )
}

impl Problem for Mixture25 {
    fn name(&self) -> &str {
        &self.name
    }

    fn family(&self) -> Family {
        Family::Mixture
    }

    fn setting(&self, index: u32) -> Result<Rc<Setting>> {
        let means = self.means()?;
        let weights = self.recipe(index)?.weights;
        let images = means.f_view([25, 1, 1, self.dimension])?.f_to_kind(Kind::Float)?;
        Ok(Rc::new(Setting {
            denoiser: Counting::new(Box::new(MixtureDenoiser::weighted(images, &weights, 1.0)?)),
            card: card(&self.name, self.dimension, Architecture::Mixture { components: 25, scatter: 1.0 }),
            covariance: covariance(&means, &weights, self.dimension)?,
            spread: None,
        }))
    }

    fn simulate(&self, index: u32, _sampler: Option<&dyn Sampler>) -> Result<Simulation> {
        let recipe = self.recipe(index)?;
        let setting = self.setting(index)?;
        let noise = BlockNoise::new(self.seed, &self.object(index), 0, 1);
        let truth = self.prior_draws(index, None, &noise)?.f_view([1, self.dimension])?;
        let white =
            noise.normal(Purpose::ObservationNoise, 0, &[self.observed], Device::Cpu)?.f_to_kind(Kind::Double)?;
        let clean = truth.f_to_kind(Kind::Double)?.f_matmul(&recipe.matrix.f_tr()?)?;
        let data = clean.f_add(&white.f_mul_scalar(recipe.noise)?)?;
        let exact = self.posterior(&recipe, &data, &setting.covariance)?;
        let likelihood = LinearLikelihood::new(
            data.f_view([1, 1, self.observed])?.f_to_kind(Kind::Float)?,
            recipe.matrix.f_to_kind(Kind::Float)?,
            Tensor::f_zeros([self.observed, 1], (Kind::Float, Device::Cpu))?,
            recipe.noise,
            no_nuisance(1)?,
        )?;
        Ok(Simulation {
            truth: bare(truth.f_view([1, 1, 1, self.dimension])?)?,
            setting,
            likelihood: Box::new(likelihood),
            exact: Some(exact),
            of_samples: None,
            observed_signal_to_noise: None,
            reference: None,
        })
    }

    fn prior_draws(&self, index: u32, _sampler: Option<&dyn Sampler>, noise: &BlockNoise) -> Result<Tensor> {
        let means = self.means()?.f_to_kind(Kind::Float)?;
        let draws = mixture_draws(&means, Some(&self.recipe(index)?.weights), 1.0, noise)?;
        Ok(draws.f_view([-1, 1, 1, self.dimension])?)
    }

    fn statistics(&self) -> Vec<String> {
        ["first axis", "second axis", "best measured", "unmeasured"].map(String::from).to_vec()
    }

    fn measure(&self, simulation: &Simulation, draws: &Latent) -> Result<Vec<Vec<f64>>> {
        let exact = simulation.exact.as_ref().ok_or_else(|| Error::internal("mixture-25 without its posterior"))?;
        let flat = draws.image.f_reshape([-1, self.dimension])?.f_to_kind(Kind::Double)?;
        let coefficients = exact.basis.forward(&flat)?;
        let axis =
            |first: i64| flat.f_slice(1, first, self.dimension, 2)?.f_mean_dim([1i64].as_slice(), false, Kind::Double);
        let columns = [axis(0)?, axis(1)?, coefficients.f_select(1, 0)?, coefficients.f_select(1, self.dimension - 1)?];
        columns.iter().map(|column| Ok(Vec::<f64>::try_from(column.f_contiguous()?)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_posterior_is_that_of_bayes_rule() {
        let problem = Mixture25::new("m", Some(0.5), 4, 2, 7);
        let simulation = problem.simulate(0, None).unwrap();
        let recipe = problem.recipe(0).unwrap();
        let exact = simulation.exact.unwrap();
        let data = simulation.likelihood.data().view([2, 1]).to_kind(Kind::Double);
        let double = (Kind::Double, Device::Cpu);
        // Component by component, with dense matrices.
        let gain = {
            let total = recipe.matrix.matmul(&recipe.matrix.tr()) + Tensor::eye(2, double) * 0.25;
            recipe.matrix.tr().matmul(&total.inverse())
        };
        let means = problem.means().unwrap();
        let moved = &means + (&data - recipe.matrix.matmul(&means.tr())).tr().matmul(&gain.tr());
        let found = exact.basis.inverse(&exact.means).unwrap();
        assert!((moved - found).abs().max().double_value(&[]) < 1e-5); // The data are f32.
        let covariance = Tensor::eye(4, double) - gain.matmul(&recipe.matrix);
        let Basis::Matrix(rows) = &exact.basis else { panic!("a matrix") };
        let dense = rows.tr().matmul(&exact.variance.diag(0)).matmul(rows);
        assert!((covariance - dense).abs().max().double_value(&[]) < 1e-10);
        assert!((exact.weights.sum(Kind::Double).double_value(&[]) - 1.0).abs() < 1e-12);
        // p(x | y) ~ p(x) p(y | x) at two points: the ratio is the same.
        let density = |x: &Tensor| {
            let prior = (x - &means).square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double) * -0.5;
            let prior = (prior + Tensor::from_slice(&recipe.weights).log()).logsumexp([0i64].as_slice(), false);
            let miss = (x.matmul(&recipe.matrix.tr()) - data.tr()).square().sum(Kind::Double) * (-0.5 / 0.25);
            let at = (exact.basis.forward(x).unwrap() - &exact.means).square() / &exact.variance;
            let posterior = at.sum_dim_intlist([1i64].as_slice(), false, Kind::Double) * -0.5 + exact.weights.log();
            (prior + miss - posterior.logsumexp([0i64].as_slice(), false)).double_value(&[])
        };
        let truth = simulation.truth.image.view([1, 4]).to_kind(Kind::Double);
        let (one, other) = (density(&truth), density(&(&truth * 0.7 + 0.4)));
        assert!((one - other).abs() < 1e-4 * one.abs().max(1.0), "{one} {other}");
    }

    #[test]
    fn c0_has_the_variance_of_the_mixture() {
        let problem = Mixture25::new("m", None, 8, 1, 7);
        let simulation = problem.simulate(3, None).unwrap();
        let draws = problem.prior_draws(3, None, &BlockNoise::new(1, "d", 0, 20_000)).unwrap().view([-1, 8]);
        let found = draws.var_dim([0i64].as_slice(), true, false);
        let expected = simulation.setting.covariance.variance().unwrap().view([-1]);
        let ratio = (found / expected - 1.0).abs().max().double_value(&[]);
        assert!(ratio < 0.05, "{ratio}"); // Five standard errors of 20,000 draws.
    }
}
