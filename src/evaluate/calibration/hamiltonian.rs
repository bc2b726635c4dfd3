//! Reference posteriors where there is no closed form: a Gaussian prior of images in the stretched space, a matrix, white
//! noise. With x = mu + R z and z ~ N(0, I),
//!
//! ```text
//! U(z) = |z|^2 / 2 + |A S^-1(mu + R z) - y|^2 / 2                  A and y in units of the noise
//! ```
//!
//! is sampled by Hamiltonian Monte Carlo (Neal 2011, arXiv:1206.1901) in many independent chains, in coordinates in which
//! the Gauss-Newton Hessian at the mode is the identity. It is all f64, by key, and exact but for the number of its states,
//! which the largest R-hat (Gelman & Rubin 1992) vouches for.

use tch::{Device, Kind, Tensor};

use super::exact::hartley;
use crate::forward::Stretch;
use crate::random::{BlockNoise, Key, Purpose};
use crate::{Error, Result};

/// Independent chains.
const CHAINS: u32 = 32;
/// Transitions that find the step size and forget the start, and those whose states are kept.
const WARM_UP: u32 = 100;
const KEPT: u32 = 150;
/// Leapfrog steps of a transition: one of this range, so that no chain goes round in circles.
const LEAPS: [f64; 2] = [4.0, 9.0];
/// Acceptance that the step size aims at, and the size that the search begins with.
const ACCEPTANCE: f64 = 0.8;
const FIRST_STEP: f64 = 0.25;
/// R-hat above this: the chains have not forgotten where they began.
const LARGEST_R_HAT: f64 = 1.05;
/// Damped Gauss-Newton steps towards the mode, and the step (in posterior deviations) that ends them.
const NEWTON_STEPS: usize = 200;
const NEWTON_ENDS: f64 = 1e-3;
/// What helps where there is no reference.
const TRY: &str = "try a lower signal_to_noise, a smaller scatter or a larger scale";

/// The density, in the coordinates z.
pub struct Target {
    pub stretch: Stretch,
    pub size: i64,
    /// mu, `[D]`.
    pub mean: Tensor,
    /// R = H diag(root), with the orthonormal Hartley transform H: `[D]`.
    pub root: Tensor,
    /// `[M, D]`, flux to data, in units of the noise.
    pub matrix: Tensor,
    /// `[M]`
    pub data: Tensor,
}

impl Target {
    /// The same density up to a factor, with as few data as there are pixels: A = Q T, and Q^T y in place of y.
    pub fn condensed(self) -> Result<Target> {
        let (q, triangle) = Tensor::f_linalg_qr(&self.matrix, "reduced")?;
        let data = q.f_tr()?.f_mv(&self.data)?;
        Ok(Target { matrix: triangle, data, ..self })
    }
}

/// What was found.
#[derive(Debug)]
pub struct Chains {
    /// Eigenvectors of the posterior covariance at the mode, rows, `[D, D]`: of images.
    pub basis: Tensor,
    /// States in that basis, `[KEPT, CHAINS, D]`.
    pub states: Tensor,
    pub r_hat: f64,
    pub acceptance: f64,
}

impl Target {
    /// x, `[B, D]`.
    fn image(&self, z: &Tensor) -> Result<Tensor> {
        Ok(hartley(&z.f_mul(&self.root)?, self.size)?.f_add(&self.mean)?)
    }

    /// U and its gradient for `z` `[B, D]`: `[B]` and `[B, D]`.
    fn energy(&self, z: &Tensor) -> Result<(Tensor, Tensor)> {
        let image = self.image(z)?;
        let residual = self.stretch.inverse(&image)?.f_matmul(&self.matrix.f_tr()?)?.f_sub(&self.data)?;
        let pulled = self.stretch.slope(&image)?.f_mul(&residual.f_matmul(&self.matrix)?)?;
        let gradient = hartley(&pulled, self.size)?.f_mul(&self.root)?.f_add(z)?;
        let squares = |values: &Tensor| -> Result<Tensor> {
            Ok(values.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?)
        };
        Ok((squares(z)?.f_add(&squares(&residual)?)?.f_mul_scalar(0.5)?, gradient))
    }

    /// I + J^T J with J = A diag(dS^-1/dx) R, `[D, D]`, at one `z` `[1, D]`.
    fn hessian(&self, z: &Tensor) -> Result<Tensor> {
        let slope = self.stretch.slope(&self.image(z)?)?;
        let jacobian = hartley(&self.matrix.f_mul(&slope)?, self.size)?.f_mul(&self.root)?;
        let unit = Tensor::f_eye(self.root.size()[0], (Kind::Double, Device::Cpu))?;
        Ok(jacobian.f_tr()?.f_matmul(&jacobian)?.f_add(&unit)?)
    }

    /// The mode, `[1, D]`, by damped Gauss-Newton steps from the prior's mean.
    fn mode(&self, object: &str) -> Result<Tensor> {
        let number = |tensor: &Tensor| -> Result<f64> { Ok(tensor.f_double_value(&[0])?) };
        let mut z = Tensor::f_zeros([1, self.root.size()[0]], (Kind::Double, Device::Cpu))?;
        let (mut energy, mut gradient) = self.energy(&z)?;
        let mut damping = 1.0;
        for _ in 0..NEWTON_STEPS {
            let hessian = self.hessian(&z)?;
            let damped = hessian.f_add(&hessian.f_diagonal(0, 0, 1)?.f_mul_scalar(damping)?.f_diag(0)?)?;
            let step = damped.f_inverse()?.f_matmul(&gradient.f_tr()?)?.f_tr()?.f_neg()?;
            let next = z.f_add(&step)?;
            let (new_energy, new_gradient) = self.energy(&next)?;
            if number(&new_energy)? > number(&energy)? {
                damping *= 4.0;
                continue;
            }
            let length = step.f_matmul(&hessian)?.f_mul(&step)?.f_sum(Kind::Double)?.f_double_value(&[])?.sqrt();
            (z, energy, gradient) = (next, new_energy, new_gradient);
            damping = (damping / 4.0).max(1e-9);
            if length < NEWTON_ENDS && damping < 1e-3 {
                return Ok(z);
            }
        }
        Err(Error::object(object, format!("the mode of its reference posterior was not found: {TRY}")))
    }

    /// Samples. `object` keys the random numbers and names the errors: no mode, or chains that do not agree.
    pub fn sample(&self, seed: u64, object: &str) -> Result<Chains> {
        let dimension = self.root.size()[0];
        let mode = self.mode(object)?;
        let (values, vectors) = self.hessian(&mode)?.f_linalg_eigh("L")?;
        // z = mode + eta W^T: the Hessian in eta is the identity.
        let scale = vectors.f_mul(&values.f_rsqrt()?)?;
        let at = |eta: &Tensor| -> Result<(Tensor, Tensor)> {
            let z = eta.f_matmul(&scale.f_tr()?)?.f_add(&mode)?;
            let (energy, gradient) = self.energy(&z)?;
            Ok((energy, gradient.f_matmul(&scale)?))
        };
        let keyed = format!("{object} chains");
        let noise = BlockNoise::new(seed, &keyed, 0, CHAINS);
        let normal = |step: u32| -> Result<Tensor> {
            Ok(noise.normal(Purpose::Evaluation, step, &[dimension], Device::Cpu)?.f_to_kind(Kind::Double)?)
        };
        let kinetic = |momentum: &Tensor| -> Result<Tensor> {
            let squares = momentum.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
            Ok(squares.f_mul_scalar(0.5)?)
        };
        let mut eta = normal(0)?;
        let (mut energy, mut gradient) = at(&eta)?;
        let (mut step, mut accepted) = (FIRST_STEP, 0.0);
        let mut states = Vec::with_capacity(KEPT as usize);
        for transition in 0..WARM_UP + KEPT {
            let uniform = Key::new(seed, &keyed, 0, Purpose::Renoise, transition).uniform(1 + CHAINS as usize);
            let leaps = (LEAPS[0] + uniform[0] * (LEAPS[1] - LEAPS[0])) as u32;
            let start = normal(1 + transition)?;
            let before = energy.f_add(&kinetic(&start)?)?;
            let mut place = eta.f_add_scalar(0.0)?;
            let mut momentum = start.f_sub(&gradient.f_mul_scalar(step / 2.0)?)?;
            let (mut new_energy, mut new_gradient) = (energy.shallow_clone(), gradient.shallow_clone());
            for leap in 0..leaps {
                place = place.f_add(&momentum.f_mul_scalar(step)?)?;
                (new_energy, new_gradient) = at(&place)?;
                let part = if leap + 1 == leaps { step / 2.0 } else { step };
                momentum = momentum.f_sub(&new_gradient.f_mul_scalar(part)?)?;
            }
            let gain = before.f_sub(&new_energy)?.f_sub(&kinetic(&momentum)?)?;
            // A trajectory that ran away has no finite energy.
            let probability = gain.f_clamp_max(0.0)?.f_exp()?.f_nan_to_num(0.0, None, None)?;
            let taken = Tensor::f_from_slice(&uniform[1..])?.f_lt_tensor(&probability)?;
            let wide = taken.f_unsqueeze(1)?;
            eta = place.f_where_self(&wide, &eta)?;
            gradient = new_gradient.f_where_self(&wide, &gradient)?;
            energy = new_energy.f_where_self(&taken, &energy)?;
            let rate = probability.f_mean(Kind::Double)?.f_double_value(&[])?;
            if transition < WARM_UP {
                step *= ((rate - ACCEPTANCE) * 2.0 / f64::from(transition + 1).sqrt()).exp();
            } else {
                accepted += rate / f64::from(KEPT);
                states.push(eta.shallow_clone());
            }
        }
        let states = Tensor::f_stack(&states, 0)?;
        let r_hat = largest_r_hat(&states)?;
        if r_hat.is_nan() || r_hat > LARGEST_R_HAT {
            let what = format!("the chains of its reference posterior do not agree (R-hat {r_hat:.3}): {TRY}");
            return Err(Error::object(object, what));
        }
        // The posterior covariance at the mode is R V diag(1 / values) V^T R^T, in images.
        let roots = hartley(&scale.f_tr()?.f_mul(&self.root)?, self.size)?;
        let (_, images) = roots.f_tr()?.f_matmul(&roots)?.f_linalg_eigh("L")?;
        let basis = images.f_tr()?.f_contiguous()?;
        let z = states.f_view([-1, dimension])?.f_matmul(&scale.f_tr()?)?.f_add(&mode)?;
        let states = self.image(&z)?.f_matmul(&basis.f_tr()?)?;
        let states = states.f_view([i64::from(KEPT), i64::from(CHAINS), dimension])?;
        Ok(Chains { basis, states, r_hat, acceptance: accepted })
    }
}

/// (1 - 1/N + B / W)^(1/2), the largest over coordinates, with the variance B between the means of chains and W within
/// chains; `states` `[N, K, D]`.
fn largest_r_hat(states: &Tensor) -> Result<f64> {
    let length = states.size()[0] as f64;
    let within =
        states.f_var_dim([0i64].as_slice(), true, false)?.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let means = states.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let ratio = means.f_var_dim([0i64].as_slice(), true, false)?.f_div(&within)?;
    Ok(ratio.f_add_scalar(1.0 - 1.0 / length)?.f_sqrt()?.f_max()?.f_double_value(&[])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

    /// 4 x 4 pixels of about `level`, every datum the sum of two of them.
    fn target(stretch: Stretch, level: f64, noise: f64) -> Target {
        let normal = |step, count| {
            let values = Key::new(5, "target", 0, Purpose::Evaluation, step).normal(count);
            Tensor::from_slice(&values).to_kind(Kind::Double)
        };
        let matrix = (Tensor::eye(16, DOUBLE) + Tensor::eye(16, DOUBLE).roll([1], [0])) / noise;
        let (mean, root) = (normal(0, 16) * 0.3 + level, normal(1, 16).abs() * 0.3 + 0.3);
        let target = Target { stretch, size: 4, mean, root, matrix, data: Tensor::zeros([16], DOUBLE) };
        let truth = target.image(&normal(2, 16).view([1, 16])).unwrap();
        let data = stretch.inverse(&truth).unwrap().matmul(&target.matrix.tr()).view([16]) + normal(3, 16);
        Target { data, ..target }
    }

    /// Mean and variance of all states, in pixels' own basis, and what their number leaves uncertain.
    fn moments(chains: &Chains) -> (Tensor, Tensor) {
        let images = chains.states.view([-1, 16]).matmul(&chains.basis);
        (images.mean_dim([0i64].as_slice(), false, Kind::Double), images.var_dim([0i64].as_slice(), true, false))
    }

    fn largest(tensor: Tensor) -> f64 {
        tensor.abs().max().double_value(&[])
    }

    #[test]
    fn a_linear_stretch_gives_the_closed_form() {
        let target = target(Stretch::Linear { scale: 1.0 }, 0.5, 0.3);
        let chains = target.sample(1, "linear").unwrap();
        let root = hartley(&Tensor::diag(&target.root, 0), 4).unwrap().tr();
        let precision = root.matmul(&root.tr()).inverse() + target.matrix.tr().matmul(&target.matrix);
        let covariance = precision.inverse();
        let residual = &target.data - target.matrix.mv(&target.mean);
        let expected = &target.mean + covariance.mv(&target.matrix.tr().mv(&residual));
        let variance = covariance.diagonal(0, 0, 1);
        let (mean, found) = moments(&chains);
        // 4,800 states; if only every third counts, five standard errors are 0.125 of a deviation and 0.18 of a variance.
        assert!(largest((mean - expected) / variance.sqrt()) < 0.125);
        assert!(largest(found / variance - 1.0) < 0.18);
        assert!(chains.r_hat < 1.02 && chains.acceptance > 0.6, "{} {}", chains.r_hat, chains.acceptance);
    }

    #[test]
    fn a_curved_stretch_gives_what_importance_sampling_gives() {
        let target = target(Stretch::Asinh { scale: 0.3 }, 2.0, 2.0);
        let chains = target.sample(1, "curved").unwrap();
        let count = 200_000;
        let z = Tensor::from_slice(&Key::new(6, "prior", 0, Purpose::Evaluation, 0).normal(count * 16));
        let z = z.view([-1, 16]).to_kind(Kind::Double);
        let prior = z.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double) * 0.5;
        let weights = (prior - target.energy(&z).unwrap().0).softmax(0, Kind::Double).view([1, -1]);
        let effective = 1.0 / weights.square().sum(Kind::Double).double_value(&[]);
        assert!(effective > 3_000.0, "{effective}");
        let images = target.image(&z).unwrap();
        let expected = weights.matmul(&images).view([16]);
        let variance = weights.matmul(&(&images - &expected).square()).view([16]);
        let (mean, found) = moments(&chains);
        // Five standard errors of 1,600 states here and 3,000 there.
        assert!(largest((mean - &expected) / variance.sqrt()) < 0.155);
        assert!(largest(found / &variance - 1.0) < 0.22);
        // The posterior is curved: its mode is not its mean.
        let away = target.image(&target.mode("curved").unwrap()).unwrap().view([16]) - &expected;
        assert!(largest(away / variance.sqrt()) > 0.1);
    }

    #[test]
    fn gradients_are_those_of_the_energy() {
        let target = target(Stretch::Asinh { scale: 0.3 }, 0.5, 0.5);
        let z = Tensor::from_slice(&Key::new(7, "z", 0, Purpose::Evaluation, 0).normal(16)).to_kind(Kind::Double);
        let (_, gradient) = target.energy(&z.view([1, 16])).unwrap();
        let steps = Tensor::eye(16, DOUBLE) * 1e-5;
        let numeric = (target.energy(&(&z + &steps)).unwrap().0 - target.energy(&(&z - &steps)).unwrap().0) / 2e-5;
        assert!(largest(numeric - gradient.view([16])) < 1e-5 * largest(gradient));
    }
}
