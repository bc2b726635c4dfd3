use super::super::conjugate_gradient::Stop;
use super::super::perturb_map::Settings;
use super::super::run;
use super::super::toy::*;
use super::*;
use crate::prior::Covariance;

const STOP: Stop = Stop { tolerance: 1e-5, iterations: 60 };

fn default(covariance: Covariance, steps: u32, [t_max, t_min]: [f64; 2]) -> PerturbMap {
    let settings = Settings { steps, t_max, t_min, relinearizations: 0, sweeps: 0, stop: STOP };
    PerturbMap::new(covariance, None, settings).unwrap()
}

fn on_toy(steps: u32) -> PerturbMapSmc {
    let covariance = GaussianToy::new(false).unwrap().covariance().unwrap();
    PerturbMapSmc::new(default(covariance, steps, [20.0, 0.02]))
}

/// Where p(x0 | x_t) is the Gaussian, all weights are one but for the first step's, which the start far above the prior makes
/// small: nothing is taken anew, and each draw is the default's.
#[test]
fn a_gaussian_posterior_has_even_weights() {
    let toy = GaussianToy::new(false).unwrap();
    let denoiser = toy.denoiser().unwrap();
    let problem = problem(&denoiser, Some(&toy.likelihood), 0, 50);
    let (sampler, plain) = (on_toy(32), default(toy.covariance().unwrap(), 32, [20.0, 0.02]));
    let mut state = sampler.start(&problem).unwrap();
    let mut first = f64::NAN;
    while state.step < sampler.steps() {
        sampler.step(&problem, &mut state).unwrap();
        if state.step == 1 {
            first = sampler.effective_draws(&state).unwrap().unwrap();
        }
    }
    let effective = sampler.effective_draws(&state).unwrap().unwrap();
    assert!(effective > 40.0 && effective > first - 1.0, "{first} {effective}");
    let draws = sampler.finish(&problem, state).unwrap().image;
    let difference = (draws - run(&plain, &problem).unwrap().image).abs().max().double_value(&[]);
    // f32 rounding, amplified by the chain.
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn without_data_it_is_the_default() {
    let draws = |sampler: &dyn Sampler| run(sampler, &problem(&UnitGaussian, None, 0, 8)).unwrap().image;
    let plain = || default(unit_covariance().unwrap(), 20, [40.0, 0.02]);
    let sampler = PerturbMapSmc::new(plain());
    assert_eq!(draws(&sampler), draws(&plain()));
    let state = sampler.start(&problem(&UnitGaussian, None, 0, 8)).unwrap();
    assert!(sampler.effective_draws(&state).unwrap().is_none());
}

#[test]
fn two_modes_are_weighed_rightly_where_the_default_does_not() {
    let toy = TwoModes::new().unwrap();
    let plain = || default(toy.covariance().unwrap(), 32, [3.0, 0.02]);
    let [without, with] =
        [&plain() as &dyn Sampler, &PerturbMapSmc::new(plain())].map(|sampler| toy.share(sampler).unwrap());
    // Five standard errors of 2000 draws: the weights are worth half of them at least.
    let error = 5.0 * (0.9f64 * 0.1 / 2000.0).sqrt();
    assert!((with - 0.9).abs() < error, "{with}");
    assert!((without - 0.9).abs() > 2.0 * error, "the default is right here, and the test says nothing: {without}");
}

/// Draws of other redshifts cannot take each other's place, and a calibration or a survey that asks for it is told so.
#[test]
fn samples_with_likelihoods_of_their_own_are_refused() {
    struct OfSamples(ToyLikelihood);
    impl Likelihood for OfSamples {
        fn data(&self) -> &Tensor {
            self.0.data()
        }
        fn mask(&self) -> &Tensor {
            self.0.mask()
        }
        fn nuisance(&self) -> &crate::forward::NuisancePrior {
            self.0.nuisance()
        }
        fn predict(&self, latent: &Latent) -> Result<Tensor> {
            self.0.predict(latent)
        }
        fn common(&self) -> Option<&dyn Likelihood> {
            Some(&self.0)
        }
        fn linearize_within(&self, latent: &Latent, tangent_error: f64) -> Result<Box<dyn Linearized>> {
            self.0.linearize_within(latent, tangent_error)
        }
    }
    let sampler = PerturbMapSmc::new(default(unit_covariance().unwrap(), 6, [20.0, 0.02]));
    let problem =
        |likelihood: &dyn Likelihood| run(&sampler, &problem(&UnitGaussian, Some(likelihood), 0, 4)).map(drop);
    let error = problem(&OfSamples(ToyLikelihood::new(1.0))).unwrap_err().to_string();
    assert!(error.contains("exact redshifts") && error.contains("photo_z.mode"), "{error}");
    assert!(problem(&ToyLikelihood::new(1.0)).is_ok());
}

#[test]
fn draws_are_taken_as_often_as_their_weights_say() {
    let shares = [0.5, 0.0, 0.26, 0.24, 0.0];
    for uniform in [0.0, 0.2, 0.5, 0.999] {
        let chosen = resampled(&shares, uniform);
        assert!(chosen.is_sorted() && chosen.len() == 5);
        for (index, share) in shares.iter().enumerate() {
            let times = chosen.iter().filter(|&&one| one == index as i64).count() as f64;
            assert!((times - 5.0 * share).abs() < 1.0, "{uniform}: {index} {times} times");
        }
    }
    assert_eq!(resampled(&[0.25; 4], 0.3), [0, 1, 2, 3]);
    // Shares that sum to a little less than one, by rounding.
    assert_eq!(resampled(&[0.5, 0.4999999], 0.99999999), [0, 1]);
}

#[test]
fn weights_are_worth_what_they_say() {
    assert!((worth(&[0.25; 4]) - 4.0).abs() < 1e-12);
    assert_eq!(worth(&[1.0, 0.0, 0.0]), 1.0);
    assert!(worth(&[f64::NAN; 3]).is_nan(), "lost draws are not taken anew");
}

#[test]
fn it_resumes() {
    assert_resumes(&on_toy(6)).unwrap();
}
