//! Tests of z that hold for posteriors of any shape. z = (truth - mean) / sd of the draws has mean 0 and a known variance only
//! where posteriors are Gaussian: of a posterior with a long tail even a perfect sampler's z may have any variance. But given the data, a
//! truth and the n draws of a calibrated sampler are exchangeable: any of the n + 1 could have been the truth, with the others
//! for its draws. So the distribution of a mean or variance of z over simulations is had by choosing, in each simulation, which one
//! is the truth, at random (a permutation test: Fisher 1935; Phipson & Smyth 2010 for its p).
//!
//! A bar is a range of what a mean or variance may be. What is tested is its bound nearest to what was found: truths are first moved
//! by the bound's bias, or scaled by its spread, in units of their draws' standard deviation.

use super::probability::mean_sd;
use crate::random::{Key, Purpose};

/// Choices that are tried at most: the least p is one over as many.
const CHOICES: u32 = 20_000;
/// As many that are as far as the truths are enough to know p by (to a tenth of it: Besag & Clifford 1991).
const ENOUGH: u32 = 100;

/// What is tested over simulations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The mean of z.
    Mean,
    /// The variance of z, in units of what it is for Gaussian posteriors.
    Variance,
}

/// The probability that a mean or variance of z of at least so far outside `bar` comes of exchangeable truths on the bar's nearer
/// bound; 1 inside. `found` is the moment, and `groups` are the truth of each simulation, first, and its draws. Simulations
/// whose draws do not differ have no z, and are left out.
pub fn outside_p(groups: &[Vec<f64>], moment: Moment, found: f64, [low, high]: [f64; 2]) -> f64 {
    let (bound, sign) = match found {
        found if found < low => (low, -1.0),
        found if found > high => (high, 1.0),
        _ => return 1.0,
    };
    let groups: Vec<Vec<f64>> = groups.iter().filter_map(|group| on_bound(group, moment, bound)).collect();
    if groups.len() < 2 {
        return 1.0;
    }
    let of = |chosen: &[f64]| {
        let (mean, sd) = mean_sd(chosen);
        sign * if moment == Moment::Mean { mean } else { sd }
    };
    let truths: Vec<f64> = groups.iter().map(|z| z[0]).collect();
    let least = of(&truths);
    let mut chosen = vec![0.0; groups.len()];
    let mut as_far = 0u32;
    for choice in 0..CHOICES {
        let uniform = Key::new(0, "exchange", choice, Purpose::Evaluation, 0).uniform(groups.len());
        for ((value, z), u) in chosen.iter_mut().zip(&groups).zip(uniform) {
            *value = z[((u * z.len() as f64) as usize).min(z.len() - 1)];
        }
        as_far += u32::from(of(&chosen) >= least);
        if as_far == ENOUGH {
            return f64::from(ENOUGH) / f64::from(choice + 1);
        }
    }
    f64::from(as_far + 1) / f64::from(CHOICES + 1)
}

/// The z of each value of a group among the others, its truth (the first one) moved to where it would be on the bound.
fn on_bound(group: &[f64], moment: Moment, bound: f64) -> Option<Vec<f64>> {
    let (mean, sd) = mean_sd(group.get(1..)?);
    let (z, count) = ((group[0] - mean) / sd, group.len() as f64 - 1.0);
    if sd <= 0.0 || !z.is_finite() || count < 2.0 {
        return None;
    }
    let moved = if moment == Moment::Mean { z - bound } else { z / bound.sqrt() };
    // In units of the draws' own deviations, so that squares lose no digits.
    let values: Vec<f64> = [moved].into_iter().chain(group[1..].iter().map(|value| (value - mean) / sd)).collect();
    let (sum, squares) = values.iter().fold((0.0, 0.0), |(sum, squares), value| (sum + value, squares + value * value));
    let among = |value: &f64| {
        let mean = (sum - value) / count;
        let variance = (squares - value * value - count * mean * mean) / (count - 1.0);
        (value - mean) / variance.max(f64::MIN_POSITIVE).sqrt()
    };
    Some(values.iter().map(among).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 31;

    /// Truths and draws of exp(tail N) (N where `tail` is 0): truths have `spread` times the deviation of draws, and `shift` more.
    fn groups(seed: u64, simulations: u32, tail: f64, [spread, shift]: [f64; 2]) -> Vec<Vec<f64>> {
        let group = |index| {
            let mut normal: Vec<f64> = Key::new(seed, "exchanged", index, Purpose::Evaluation, 0)
                .normal(DRAWS + 1)
                .iter()
                .map(|&value| f64::from(value))
                .collect();
            normal[0] = shift + spread * normal[0];
            if tail > 0.0 { normal.iter().map(|value| (tail * value).exp()).collect() } else { normal }
        };
        (0..simulations).map(group).collect()
    }

    fn z(groups: &[Vec<f64>]) -> Vec<f64> {
        let z = |group: &Vec<f64>| {
            let (mean, sd) = mean_sd(&group[1..]);
            (group[0] - mean) / sd
        };
        groups.iter().map(z).collect()
    }

    fn variance_p(groups: &[Vec<f64>], bar: [f64; 2]) -> f64 {
        let expected = super::super::probability::var_z_expected(DRAWS as u32);
        outside_p(groups, Moment::Variance, mean_sd(&z(groups)).1.powi(2) / expected, bar)
    }

    fn mean_p(groups: &[Vec<f64>], bar: [f64; 2]) -> f64 {
        outside_p(groups, Moment::Mean, mean_sd(&z(groups)).0, bar)
    }

    #[test]
    fn z_is_that_of_each_among_the_others() {
        let group = [3.0, 1.0, 2.0, 4.5, -1.0];
        let found = on_bound(&group, Moment::Mean, 0.0).unwrap();
        for (index, found) in found.iter().enumerate() {
            let mut others = group.to_vec();
            let value = others.remove(index);
            let (mean, sd) = mean_sd(&others);
            assert!((found - (value - mean) / sd).abs() < 1e-12);
        }
        // On the bound: 0.5 deviations less, or half the distance.
        assert!((on_bound(&group, Moment::Mean, 0.5).unwrap()[0] - (found[0] - 0.5)).abs() < 1e-12);
        assert!((on_bound(&group, Moment::Variance, 4.0).unwrap()[0] - found[0] / 2.0).abs() < 1e-12);
        assert_eq!(on_bound(&[1.0, 2.0, 2.0, 2.0], Moment::Mean, 0.0), None);
    }

    /// Both of bell-shaped posteriors and of those with a long tail, whose z has a variance of its own.
    #[test]
    fn truths_that_are_as_draws_are_rejected_as_often_as_p_says() {
        for tail in [0.0, 1.5, 3.0] {
            let bar = [1.0, 1.0];
            let small = |test: &dyn Fn(&[Vec<f64>]) -> f64| {
                (0..200).filter(|&seed| test(&groups(seed, 40, tail, [1.0, 0.0])) < 0.05).count()
            };
            // Both sides: 10 % of 200. Three standard errors are 13.
            let (means, variances) =
                (small(&|groups| mean_p(groups, [0.0, 0.0])), small(&|groups| variance_p(groups, bar)));
            assert!((8..=33).contains(&means) && (8..=33).contains(&variances), "{tail}: {means}, {variances}");
        }
        // The tail is one that z by itself takes for a fault.
        let (_, sd) = mean_sd(&z(&groups(1, 4000, 3.0, [1.0, 0.0])));
        assert!(sd * sd > 3.0, "{sd}");
    }

    #[test]
    fn faults_are_told_and_bars_allow_what_they_say() {
        let (means, spreads) = ([-0.15, 0.15], [0.85, 1.15]);
        for tail in [0.0, 0.5] {
            assert!(mean_p(&groups(1, 400, tail, [1.0, 0.4]), means) < 1e-3, "{tail}");
            assert!(variance_p(&groups(1, 400, tail, [2f64.sqrt(), 0.0]), spreads) < 1e-3, "{tail}");
            assert!(variance_p(&groups(1, 400, tail, [0.5f64.sqrt(), 0.0]), spreads) < 1e-3, "{tail}");
        }
        assert_eq!(mean_p(&groups(1, 400, 0.0, [1.0, 0.0]), means), 1.0);
        // Just on the bound: as often as not a little outside, and then nothing is to be said.
        let on = |seed| mean_p(&groups(seed, 400, 0.0, [1.0, 0.15]), means);
        assert!((0..20).filter(|&seed| on(seed) < 0.05).count() <= 4);
    }

    /// Truths that are far beyond their draws, in one of four simulations: no tail explains that.
    #[test]
    fn many_truths_beyond_all_draws_are_no_tail() {
        let mut all = groups(1, 40, 0.0, [1.0, 0.0]);
        all.iter_mut().step_by(4).for_each(|group| group[0] = 30.0);
        assert!(variance_p(&all, [0.85, 1.15]) < 1e-3);
        // One of 40 happens to a posterior whose tail draws have a chance of 1 in 32 to find.
        let mut one = groups(1, 40, 0.0, [1.0, 0.0]);
        one[0][0] = 30.0;
        let p = variance_p(&one, [0.85, 1.15]);
        assert!((0.02..0.05).contains(&p), "{p}");
    }
}
