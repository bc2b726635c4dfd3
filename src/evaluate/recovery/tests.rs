use super::*;
use crate::random::{Key, Purpose};

/// Objects whose posterior is right, but for a factor in the mean and in the standard deviation.
fn objects(bias: f64, sd: f64) -> Vec<Object> {
    let normal = Key::new(1, "recovery", 0, Purpose::Evaluation, 0).normal(400);
    let one = |index: usize| {
        let (truth, error) = (100.0, 3.0);
        let mean = (truth + error * f64::from(normal[index])) * bias;
        let e1 = 0.1 * f64::from(normal[index + 200]);
        let compared = |truth: f64, mean: f64, sd: f64| Compared { truth, mean, sd, draws: u32::MAX };
        let quantities = [("flux_0", compared(truth, mean, error * sd)), ("e1", compared(e1, e1 + 0.02, 0.05))];
        Object {
            id: format!("{index}"),
            flags: u32::from(index == 7),
            signal_to_noise: 30.0,
            size_over_psf: 1.5,
            quantities: quantities.into_iter().map(|(name, values)| (name.to_string(), values)).collect(),
        }
    };
    (0..200).map(one).collect()
}

#[test]
fn bias_and_pull_are_found_in_their_bin() {
    let found = rows(&objects(1.05, 0.5), 1);
    let flux = found.iter().find(|row| row.quantity == "flux_0" && row.binned_by == "observed S/N").unwrap();
    assert_eq!((flux.low, flux.high, flux.objects), (20.0, Some(50.0), 199));
    assert!((flux.bias.value - 0.05).abs() < 4.0 * flux.bias.error && flux.bias.error < 0.004, "{flux:?}");
    assert!((flux.pull.value - 5.0 / 1.5).abs() < 0.5 && (flux.pull_sd.value - 2.1).abs() < 0.3, "{flux:?}");
    let shape = found.iter().find(|row| row.quantity == "e1" && row.binned_by == "size / PSF").unwrap();
    assert!((shape.bias.value - 0.02).abs() < 1e-9 && (shape.low, shape.within_1_sd) == (1.0, 1.0), "{shape:?}");
    assert_eq!(found.len(), 4, "empty bins are left out");
}

#[test]
fn what_is_in_no_row_is_counted() {
    let mut some = objects(1.0, 1.0);
    (some[0].signal_to_noise, some[1].signal_to_noise) = (f64::NAN, -3.0);
    (some[2].signal_to_noise, some[3].signal_to_noise) = (10.0, 70.0);
    some[4].size_over_psf = 9.0;
    let [signal, size] = &unbinned(&some, 1)[..] else { panic!() };
    assert_eq!((signal.too_few, signal.no_bin, size.too_few, size.no_bin), (2, 2, 1, 0));
    let in_rows: usize = rows(&some, 1).iter().filter(|row| row.quantity == "e1").map(|row| row.objects).sum();
    assert_eq!(in_rows, (199 - 4) + (199 - 1));
}

/// Truths and draws of the same Gaussians: pulls of few draws must not look like those of too narrow a posterior.
#[test]
fn pulls_of_a_right_posterior_have_unit_variance_for_any_number_of_draws() {
    const OBJECTS: usize = 20_000;
    for count in [8, 16] {
        let one = |index: usize| {
            let numbers = Key::new(3, "pulls", index as u32, Purpose::Evaluation, count as u32).normal(count + 1);
            let at = |number: f32| 50.0 + 2.0 * number;
            let draws: Vec<f32> = numbers[1..].iter().map(|&number| at(number)).collect();
            let flux = Compared::of(f64::from(at(numbers[0])), &draws);
            Object {
                id: format!("{index}"),
                flags: 0,
                signal_to_noise: 30.0,
                size_over_psf: 1.5,
                quantities: [("flux_0".to_string(), flux)].into_iter().collect(),
            }
        };
        let found = rows(&(0..OBJECTS).map(one).collect::<Vec<_>>(), 0);
        let Row { pull, pull_sd, within_1_sd, within_1_sd_expected, .. } = found[0];
        println!("{count} draws: {pull:?} {pull_sd:?} {within_1_sd:.3} {within_1_sd_expected:.3}");
        assert!(pull.value.abs() < 3.0 * pull.error, "{count} draws: {pull:?}");
        // Without the correction it is 1.21 and 1.11.
        assert!((pull_sd.value - 1.0).abs() < 3.0 * pull_sd.error && pull_sd.error < 0.025, "{pull_sd:?}");
        let error = (0.68 * 0.32 / OBJECTS as f64).sqrt();
        assert!((within_1_sd - within_1_sd_expected).abs() < 3.0 * error && within_1_sd_expected < 0.665);
    }
    // Tables of Student's t: P(|t| < 2.365) is 0.95 with 7 degrees of freedom.
    assert!((student_within(2.364_624, 7.0) - 0.95).abs() < 1e-5);
    let few = |draws: &[f32]| Compared::of(1.0, draws).pull();
    assert!(few(&[1.0, 2.0, 3.0]).is_none() && few(&[1.0, 2.0, 3.0, 5.0]).is_some());
}

#[test]
fn the_response_is_that_of_posterior_and_truth() {
    let (mut plus, mut minus) = (objects(1.0, 1.0), objects(1.0, 1.0));
    let set = |objects: &mut Vec<Object>, truth: f64, mean: f64| {
        let e1 = Compared { truth, mean, sd: 0.01, draws: 16 };
        objects.iter_mut().for_each(|object| *object.quantities.get_mut("e1").unwrap() = e1);
    };
    set(&mut plus, 0.10, 0.06);
    set(&mut minus, -0.10, -0.04);
    let found = responses(&plus, &minus, [0.05, 0.0]);
    assert_eq!(found.len(), 1);
    assert!((found[0].posterior.value - 1.0).abs() < 1e-9 && (found[0].truth.value - 2.0).abs() < 1e-9);
}
