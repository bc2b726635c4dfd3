//! The sweeps of the default sampler.

use super::tests::{independent, nuisance};
use super::*;
use crate::forward::linear::LinearLikelihood;
use crate::prior::analytic::GaussianDenoiser;
use crate::random::BlockNoise;
use crate::sampler::run;
use tch::{Device, Kind};

/// Sweeps forget where a chain was, by (1 / t^2) / (1 / t^2 + 1 / v) each, and a chain without data has none.
#[test]
fn sweeps_forget_and_are_for_data_only() {
    let covariance = || independent(2, 400.0);
    let settings = |sweeps| Settings {
        steps: 16,
        t_max: 60.0,
        t_min: 0.01,
        relinearizations: 0,
        sweeps,
        stop: Stop { tolerance: 1e-5, iterations: 60 },
    };
    let sampler = |sweeps| PerturbMap::new(covariance(), None, settings(sweeps)).unwrap();
    let (denoiser, noise) = (GaussianDenoiser::new(covariance()), || BlockNoise::new(1, "sweeps", 0, 2));
    let without = Problem { denoiser: &denoiser, likelihood: None, noise: noise(), device: Device::Cpu };
    let images = [0, 4].map(|sweeps| run(&sampler(sweeps), &without).unwrap().image);
    assert_eq!(images[0], images[1]);

    // Pixels seen with noise 4: v = 1 / (1 / 16 + 1 / 400). Two chains with the same noise, 1 apart.
    let eye = Tensor::eye(4, (Kind::Float, Device::Cpu));
    let none = Tensor::zeros([4, 1], (Kind::Float, Device::Cpu));
    let data = Tensor::zeros([1, 1, 4], (Kind::Float, Device::Cpu));
    let likelihood = LinearLikelihood::new(data, eye, none, 4.0, nuisance(0.0, 1e-6, 1e-6)).unwrap();
    let problem = Problem { denoiser: &denoiser, likelihood: Some(&likelihood), noise: noise(), device: Device::Cpu };
    let sampler = sampler(4);
    let place = (0..16).find(|step| sampler.stage(*step).unwrap().is_sweep()).unwrap();
    let ends = [0.0, 1.0].map(|shift| {
        let mut state = sampler.start(&problem).unwrap();
        state.step = place;
        state.tensors[0].1 = state.tensors[0].1.full_like(shift);
        sampler.step(&problem, &mut state).unwrap();
        state.get("x").unwrap().copy()
    });
    let kept = (&ends[1] - &ends[0]).mean(Kind::Float).double_value(&[]);
    let t = sampler.stage(place).unwrap().t;
    let v = 1.0 / (1.0 / 16.0 + 1.0 / 400.0);
    let expected = (1.0 / (t * t)) / (1.0 / (t * t) + 1.0 / v);
    assert!((kept / expected - 1.0).abs() < 1e-3, "{kept}, expected {expected}");
}

/// Where sweeps are corrected for the model's curvature goes with the size of the prior's strongest mode, and steps downwards always are.
#[test]
fn sweeps_are_corrected_far_below_the_strongest_mode_only() {
    // Of two levels with four sweeps each: both, the lower one (as of the shipped prior), none (as of its twin).
    for (sd, corrected) in [(21.0f64, 8), (16.0, 4), (8.0, 0)] {
        let settings = Settings {
            steps: 28,
            t_max: 3.0 * sd,
            t_min: 0.005,
            relinearizations: 1,
            sweeps: 8,
            stop: Stop { tolerance: 1e-5, iterations: 60 },
        };
        let sampler = PerturbMap::new(independent(2, sd * sd), None, settings).unwrap();
        let stages: Vec<Stage> = (0..28).map(|step| sampler.stage(step).unwrap()).collect();
        assert_eq!(stages.iter().filter(|stage| stage.is_sweep()).count(), 8);
        let found: Vec<Stage> =
            stages.iter().copied().filter(|stage| stage.is_sweep() && sampler.corrects_curvature(*stage)).collect();
        assert_eq!(found.len(), corrected, "{sd}: {found:?}");
        assert!(found.iter().all(|stage| stage.t < 0.25 * sd), "{sd}: {found:?}");
        assert!(stages.iter().all(|stage| stage.is_sweep() || sampler.corrects_curvature(*stage)), "{sd}");
    }
}
