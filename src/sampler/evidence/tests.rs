use super::*;
use crate::forward::GalaxyLikelihood;
use crate::forward::galaxy::tests::{input, latent};
use crate::random::{Key, Purpose};

/// A prior N(0, 1) in some dimensions, data y = z x + noise of unit variance times `NOISE`: everything is known.
const DIMENSIONS: usize = 6;
const NOISE: f64 = 0.4;

fn normal(name: &str, index: u32, count: usize) -> Vec<f64> {
    Key::new(11, name, index, Purpose::Evaluation, 0).normal(count).iter().map(|&value| value.into()).collect()
}

/// Table of likelihoods of exact draws at each z, and the exact ln p(y | z).
fn known(seed: u32, zs: &[f64]) -> (Vec<Vec<f64>>, Vec<f64>) {
    let truth = normal("truth", seed, DIMENSIONS);
    let error = normal("noise", seed, DIMENSIONS);
    let data: Vec<f64> = truth.iter().zip(&error).map(|(x, e)| x + NOISE * e).collect();
    let draws: Vec<Vec<f64>> = zs
        .iter()
        .enumerate()
        .map(|(index, z)| {
            let variance = 1.0 / (1.0 + z * z / NOISE.powi(2));
            let white = normal("draw", 1000 * seed + index as u32, DIMENSIONS);
            data.iter().zip(white).map(|(y, w)| variance * z * y / NOISE.powi(2) + variance.sqrt() * w).collect()
        })
        .collect();
    let likelihood = |z: f64, x: &[f64]| -> f64 {
        data.iter().zip(x).map(|(y, x)| -0.5 * ((y - z * x) / NOISE).powi(2)).sum::<f64>()
    };
    let evidence = |z: f64| -> f64 {
        let variance = z * z + NOISE.powi(2);
        data.iter().map(|y| -0.5 * y * y / variance - 0.5 * variance.ln()).sum()
    };
    (
        zs.iter().map(|&z| draws.iter().map(|x| likelihood(z, x)).collect()).collect(),
        zs.iter().map(|&z| evidence(z)).collect(),
    )
}

/// Mean and standard deviation, over data, of the error of ln p(y | last z) - ln p(y | first z): the longest way from draw to draw.
fn error_over(first: f64, last: f64, count: u32) -> [f64; 3] {
    const DATA: u32 = 60;
    let zs: Vec<f64> = (0..count).map(|at| first + (last - first) * f64::from(at) / f64::from(count - 1)).collect();
    let difference = |values: &[f64]| values[values.len() - 1] - values[0];
    let pairs: Vec<[f64; 2]> = (0..DATA)
        .map(|seed| {
            let (table, exact) = known(seed, &zs);
            [difference(&ln_evidence(&table).unwrap()) - difference(&exact), difference(&exact)]
        })
        .collect();
    let moments = |which: usize| {
        let mean = pairs.iter().map(|pair| pair[which]).sum::<f64>() / f64::from(DATA);
        let squares = pairs.iter().map(|pair| (pair[which] - mean).powi(2)).sum::<f64>();
        (mean, (squares / f64::from(DATA - 1)).sqrt())
    };
    let ((mean, sd), (_, spread)) = (moments(0), moments(1));
    println!("{count} draws from {first} to {last}: error {mean:.3}, sd {sd:.3}; the evidence's own sd {spread:.2}");
    [mean / (sd / f64::from(DATA).sqrt()), sd, spread]
}

#[test]
fn evidence_is_that_of_the_closed_form() {
    // As far apart as redshifts of 10 %: it is known to a third of what it scatters by.
    let [bias, sd, spread] = error_over(0.9, 1.1, 32);
    assert!(bias.abs() < 4.0 && sd < 0.5 * spread, "{bias} {sd} {spread}");
    // Over a factor of four, with draws that fit the data of their neighbours only, it goes with their number.
    let ([few_bias, few, _], [many_bias, many, spread]) = (error_over(0.5, 2.0, 32), error_over(0.5, 2.0, 192));
    assert!(few_bias.abs() < 4.0 && many_bias.abs() < 4.0, "{few_bias} {many_bias}");
    // Six times as many: 0.41, and what 60 data leave of that.
    assert!(many < 0.6 * few && many < 0.25 * spread, "{few} {many} {spread}");
}

#[test]
fn weighted_draws_have_the_mean_of_z_given_the_data() {
    let zs: Vec<f64> = (0..48).map(|index| 0.2 + 0.05 * f64::from(index)).collect();
    let (mut found, mut exact, mut plain) = (0.0, 0.0, 0.0);
    for seed in 0..40 {
        let (table, evidence) = known(seed, &zs);
        let mean = |shares: &[f64]| shares.iter().zip(&zs).map(|(share, z)| share * z).sum::<f64>();
        let total = ln_sum(evidence.iter().copied());
        let truth = mean(&evidence.iter().map(|one| (one - total).exp()).collect::<Vec<_>>());
        let own = mean(&shares(&table).unwrap());
        found += (own - truth).abs() / 40.0;
        plain += (mean(&[1.0 / 48.0; 48]) - truth).abs() / 40.0;
        exact += truth / 40.0;
    }
    println!("mean z {exact:.2}; off by {found:.3}, without weights by {plain:.3}");
    assert!(found < 0.5 * plain, "{found} {plain}");
}

#[test]
fn what_is_common_does_not_count_and_strangers_weigh_alike() {
    let zs: Vec<f64> = (0..8).map(|index| 0.6 + 0.1 * f64::from(index)).collect();
    let (table, _) = known(3, &zs);
    let moved: Vec<Vec<f64>> =
        table.iter().map(|row| row.iter().enumerate().map(|(draw, l)| l + 100.0 * draw as f64).collect()).collect();
    let (one, other) = (shares(&table).unwrap(), shares(&moved).unwrap());
    assert!(one.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-6), "{one:?} {other:?}");
    assert!((one.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    // Draws that fit no data but their own: nothing is known of their weights.
    let strangers: Vec<Vec<f64>> =
        (0..5).map(|k| (0..5).map(|j| if j == k { -10.0 * j as f64 } else { -1e5 }).collect()).collect();
    assert!(shares(&strangers).unwrap().iter().all(|share| (share - 0.2).abs() < 1e-6));
    assert_eq!(shares(&[vec![-3.0]]).unwrap(), [1.0]);
    assert!(shares(&[vec![f64::NAN]]).is_err());
}

/// On the survey's own likelihood: by hand for white noise, and for correlated noise by what the covariance makes of the result.
#[test]
fn likelihoods_are_those_of_each_redshift() {
    let pitches = [0.1, 0.11, 0.12];
    for correlated in [false, true] {
        let common = GalaxyLikelihood::new(input(Kind::Double, 1, correlated)).unwrap();
        let own = common.for_pitches(&pitches).unwrap();
        let draws = latent(3, 1, 40, Kind::Double);
        let draws = Latent { ln_amplitude: &draws.ln_amplitude * 0.1, ..draws };
        let rows = ln_likelihoods(&own, &common, &draws).unwrap();
        let mean = |tensor: &Tensor| tensor.mean_dim([0i64].as_slice(), true, Kind::Double);
        let centre =
            Latent { image: mean(&draws.image), ln_amplitude: mean(&draws.ln_amplitude), sky: mean(&draws.sky) };
        let noise = common.linearize(&centre).unwrap();
        for draw in 0..3i64 {
            let one = |tensor: &Tensor| tensor.narrow(0, draw, 1);
            let draw_alone =
                Latent { image: one(&draws.image), ln_amplitude: one(&draws.ln_amplitude), sky: one(&draws.sky) };
            for (k, &pitch) in pitches.iter().enumerate() {
                let alone = common.for_pitches(&[pitch]).unwrap();
                let residual = common.data().unsqueeze(0) - alone.predict(&draw_alone).unwrap();
                let squared = if correlated {
                    // Sigma^-1 r by many steps of another method: Richardson's, preconditioned.
                    let mut w = noise.precision(&residual).unwrap();
                    for _ in 0..400 {
                        let left = &residual - noise.covariance(&w).unwrap();
                        w += noise.precision(&left).unwrap() * 0.5;
                    }
                    (&residual * w).sum(Kind::Double)
                } else {
                    (residual.square() / noise.variance()).sum(Kind::Double)
                };
                let (found, expected) = (rows[k][draw as usize], -0.5 * squared.double_value(&[]));
                assert!((found - expected).abs() < 0.02 + 1e-6 * expected.abs(), "{correlated}: {found} {expected}");
            }
        }
        // A draw that is not finite, or whose chi^2 is not, spoils no other.
        for value in [f64::NAN, 1e200] {
            let _ = draws.sky.get(1).fill_(value);
            let spoilt = ln_likelihoods(&own, &common, &draws).unwrap();
            assert!(spoilt.iter().all(|row| row[1].is_nan() && row[0].is_finite() && row[2].is_finite()), "{value}");
        }
    }
}
