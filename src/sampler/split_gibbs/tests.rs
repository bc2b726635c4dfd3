use super::super::toy::*;
use super::*;
use crate::forward::NuisancePrior;
use crate::forward::linear::LinearLikelihood;
use crate::prior::analytic::MixtureDenoiser;
use tch::Device;

const STOP: Stop = Stop { tolerance: 1e-5, iterations: 60 };
/// f32 rounding in products of other sizes, amplified by the chain.
const BATCH_TOLERANCE: f64 = 1e-4;

fn settings(rounds: u32, reverse_steps: u32, rho_max: f64, rho: f64) -> Settings {
    let steps = rounds * reverse_steps;
    let (t_max, t_min) = (rho_max, 0.02);
    Settings { steps, reverse_steps, t_max, rho_max, rho, held: 0.5, t_min, relinearizations: 0, stop: STOP }
}

fn on_toy(rounds: u32, reverse_steps: u32, rho: f64) -> SplitGibbs {
    let covariance = GaussianToy::new(false).unwrap().covariance().unwrap();
    SplitGibbs::new(covariance, settings(rounds, reverse_steps, 6.0, rho)).unwrap()
}

#[test]
fn without_data_it_draws_from_the_prior_and_with_data_it_moves_to_them() {
    let sampler = SplitGibbs::new(unit_covariance().unwrap(), settings(50, 4, 40.0, 0.02)).unwrap();
    let [mean, variance] = draws_without_data(&sampler).unwrap();
    // Five standard errors: for a Gaussian prior there is nothing else.
    assert!(mean.abs() < 0.055 && (variance - 1.0).abs() < 0.078, "{mean} {variance}");
    let [one, other] = [1.0, 1e4].map(|unit| misfit(&sampler, unit).unwrap());
    // A draw is off by about 1, and by the 0.6 noise sd that rho stands for in these data.
    assert!(one < 2.0 && (one / other - 1.0).abs() < 1e-3, "{one} {other}");
}

#[test]
fn gaussian_posterior_is_met() {
    let covariance = GaussianToy::new(false).unwrap().covariance().unwrap();
    let settings = Settings { held: HELD, t_min: 0.01, ..settings(400, 2, 6.0, 0.02) };
    let sampler = SplitGibbs::new(covariance, settings).unwrap();
    let found = GaussianToy::new(false).unwrap().compare(&sampler, 4000).unwrap();
    // Five standard errors of 4000 draws are 0.08 and 0.11; what 400 rounds have not forgotten widens by 2 %.
    assert!(found.mean < 0.08 && found.variance[0] > 0.89 && found.variance[2] < 1.13, "{found:?}");
    assert!((found.variance[1] - 1.0).abs() < 0.04, "{found:?}");
}

/// Two blobs in four dimensions, of which the data see two and prefer one blob: weights and widths of both.
#[test]
fn two_component_mixture_is_met() {
    const SCATTER: f64 = 0.4;
    const NOISE: f64 = 0.6;
    const COUNT: u32 = 4000;
    let double = |t: &Tensor| t.to_kind(Kind::Double);
    let images = Tensor::from_slice(&[0.6f32, 0.6, 0.6, 0.6, -0.6, -0.6, -0.6, -0.6]).view([2, 1, 2, 2]);
    let matrix = Tensor::from_slice(&[0.5f32, 0.1, 0.2, -0.2, 0.0, 0.4, -0.1, 0.3]).view([2, 4]);
    let data = Tensor::from_slice(&[0.4f32, 0.1]).view([1, 1, 2]);
    let fixed = |count: i64| Tensor::zeros([count], (Kind::Float, Device::Cpu));
    let nuisance = NuisancePrior { ln_amplitude_mean: fixed(1), ln_amplitude_sd: fixed(1), sky_sd: fixed(1) };
    let amplitude = Tensor::zeros([2, 1], (Kind::Float, Device::Cpu));
    let likelihood = LinearLikelihood::new(data.copy(), matrix.copy(), amplitude, NOISE, nuisance).unwrap();

    // The exact posterior: each blob is a Gaussian of its own, weighted by its evidence.
    let (a, y) = (double(&matrix), double(&data).view(-1));
    let centres = double(&images).view([2, 4]);
    let eye = |size: i64| Tensor::eye(size, (Kind::Double, Device::Cpu));
    let evidence = (a.matmul(&a.tr()) * SCATTER * SCATTER + eye(2) * NOISE * NOISE).inverse();
    let gain = a.tr().matmul(&evidence) * SCATTER * SCATTER;
    let variance = ((eye(4) - gain.matmul(&a)) * SCATTER * SCATTER).diagonal(0, 0, 1).copy();
    let blob = |k: i64| {
        let miss = &y - a.mv(&centres.get(k));
        let score = -0.5 * miss.dot(&evidence.mv(&miss)).double_value(&[]);
        (centres.get(k) + gain.mv(&miss), score)
    };
    let [(mean, score), (other_mean, other_score)] = [blob(0), blob(1)];
    let weight = 1.0 / (1.0 + (other_score - score).exp());
    assert!(weight > 0.65 && weight < 0.8, "the test needs data that prefer one blob a little: {weight}");

    // C0 of the mixture: along the line between the blobs, 4 x 0.36, and the scatter.
    let component = Tensor::full([1, 4], 0.5, (Kind::Float, Device::Cpu));
    let scatter = Tensor::full([4], SCATTER * SCATTER, (Kind::Float, Device::Cpu));
    let covariance = Covariance::new([1, 2, 2], fixed(4), component, Tensor::from_slice(&[1.44f32]), scatter).unwrap();
    let sampler = SplitGibbs::new(covariance, settings(300, 6, 4.0, 0.15)).unwrap();
    let denoiser = MixtureDenoiser::new(images, SCATTER).unwrap();
    let draws = super::super::run(&sampler, &problem(&denoiser, Some(&likelihood), 0, COUNT)).unwrap();
    let draws = double(&draws.image).view([-1, 4]);

    // The blobs are six scatters apart: one in 700 is on the wrong side of the middle.
    let first = draws.sum_dim_intlist([1i64].as_slice(), false, Kind::Double).gt(0.0);
    let found = first.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    // Four standard errors, and 0.02 for rho, with which the data are less certain.
    let error = 4.0 * (0.25 / f64::from(COUNT)).sqrt() + 0.02;
    assert!((found - weight).abs() < error, "weight {found}, exact {weight}");
    for (member, mean) in [(first.copy(), mean), (first.logical_not(), other_mean)] {
        let chosen = draws.index(&[Some(member)]);
        let count = chosen.size()[0] as f64;
        let miss = (chosen.mean_dim(0, false, Kind::Double) - mean) / variance.sqrt();
        let miss = miss.abs().max().double_value(&[]);
        let ratio = chosen.var_dim(0, true, false) / &variance;
        let ratio = (ratio - 1.0).abs().max().double_value(&[]);
        // Four standard errors, and 0.02 and 4 % for rho, the steps and the wrong side (found: 0.09 and 5 %, of 1180 draws).
        assert!(miss < 4.0 / count.sqrt() + 0.02, "mean off by {miss} standard deviations, {count} draws");
        assert!(ratio < 4.0 * (2.0 / count).sqrt() + 0.04, "variance off by {ratio}, {count} draws");
    }
}

#[test]
fn it_resumes_and_samples_do_not_depend_on_their_batch() {
    // 13 steps: a start of two, and five rounds, the first of them of three.
    let settings = Settings { steps: 13, ..settings(5, 2, 6.0, 0.1) };
    let covariance = GaussianToy::new(false).unwrap().covariance().unwrap();
    assert_resumes(&SplitGibbs::new(covariance, settings).unwrap()).unwrap();
    let difference = batch_dependence(&on_toy(10, 2, 0.1)).unwrap();
    assert!(difference < BATCH_TOLERANCE, "{difference}");
}

#[test]
fn rho_falls_and_is_then_held() {
    let sampler = on_toy(11, 2, 0.1);
    assert_eq!((sampler.start, sampler.rho.len()), (2, 10));
    assert!(sampler.rho[..5].windows(2).all(|pair| pair[0] > pair[1]), "{:?}", sampler.rho);
    assert!(sampler.rho[5..].iter().all(|rho| *rho == 0.1), "{:?}", sampler.rho);
    // The start, the first round and the last: each goes to 0, and then to the next round.
    let places: Vec<_> = (0..22).map(|step| sampler.place(step).unwrap()).collect();
    assert_eq!(places[..4].iter().map(|(_, next)| *next).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert!((places[0].0[0] - 6.0).abs() < 1e-9 && places[1].0[1] == 0.0 && places[0].0[1] == places[1].0[0]);
    assert!(places[21].1 == 10 && places[21].0[1] == 0.0 && sampler.place(22).is_err());
    // Held always, but for the first round.
    let settings = Settings { held: 1.0, ..settings(5, 2, 6.0, 0.1) };
    let held = SplitGibbs::new(unit_covariance().unwrap(), settings).unwrap();
    assert!((held.rho[0] - 6.0).abs() < 1e-9 && held.rho[1..] == [0.1; 3], "{:?}", held.rho);
}

#[test]
fn bad_settings_are_named() {
    let good = settings(5, 2, 6.0, 0.1);
    let cases = [
        (Settings { reverse_steps: 0, ..good }, "rounds of 0"),
        (Settings { reverse_steps: 6, ..good }, "at least 2 rounds"),
        (Settings { rho: 0.01, ..good }, "rho from 6 to 0.01"),
        (Settings { rho: 7.0, ..good }, "rho from 6 to 7"),
        (Settings { rho_max: 7.0, ..good }, "rho from 7 to 0.1 with t_max = 6"),
        (Settings { t_min: 0.0, ..good }, "t_min = 0"),
        (Settings { held: 1.5, ..good }, "part 1.5"),
    ];
    for (bad, words) in cases {
        let error = SplitGibbs::new(unit_covariance().unwrap(), bad).err().unwrap().to_string();
        assert!(error.contains("split-gibbs") && error.contains(words), "{error}");
    }
}
