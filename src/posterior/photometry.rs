//! Aperture photometry of the input beside that of the model: the same pixels of a circle on the detector, of the data and of
//! what the posterior predicts for it, which has the data's PSF. Bands have different PSFs: for colours, each band is
//! brought to the broadest of them. The sum over a circle of an image that is convolved with a symmetric kernel is the sum of
//! the image weighted with the circle convolved with that kernel, so no pixel has to be interpolated under a mask.

use crate::{Error, Result};

/// PSF and flat field are not known better than this part of the flux.
const SYSTEMATIC: f64 = 0.02;

/// One band of the detector. All slices are of `rows x columns` pixels.
#[derive(Clone, Copy, Debug)]
pub struct Detector<'a> {
    /// Data and prediction, sky and all, and the level of that sky: nJy per pixel.
    pub data: &'a [f32],
    pub model: &'a [f32],
    pub sky: f64,
    /// Variance of the noise.
    pub variance: &'a [f32],
    /// Pixels that count.
    pub counts: &'a [bool],
    /// Variance of a large sum over that of white noise with the same variance in each pixel: 1 or more.
    pub excess: f64,
}

/// Weights of the pixels of a `rows x columns` detector: 1 within `radius` of `target` (column, row), 0 beyond, convolved with
/// a Gaussian of standard deviation `sigma`; all in pixels.
pub fn weights([rows, columns]: [usize; 2], target: [f64; 2], radius: f64, sigma: f64) -> Vec<f64> {
    let inside = |index: usize| {
        let (x, y) = ((index % columns) as f64 - target[0], (index / columns) as f64 - target[1]);
        f64::from(u8::from(x.hypot(y) <= radius))
    };
    let circle: Vec<f64> = (0..rows * columns).map(inside).collect();
    // A tenth of a pixel is nothing.
    if sigma < 0.1 {
        return circle;
    }
    let reach = (4.0 * sigma).ceil() as i64;
    let kernel: Vec<f64> = (-reach..=reach).map(|offset| (-0.5 * (offset as f64 / sigma).powi(2)).exp()).collect();
    let sum: f64 = kernel.iter().sum();
    let pass = |values: &[f64], along: fn(usize, usize) -> usize, length: usize, step: i64| -> Vec<f64> {
        let one = |index: usize| {
            let place = along(index, columns) as i64;
            let near = (-reach..=reach).filter(|offset| (0..length as i64).contains(&(place + offset)));
            let value =
                |offset: i64| kernel[(offset + reach) as usize] * values[(index as i64 + offset * step) as usize];
            near.map(value).sum::<f64>() / sum
        };
        (0..values.len()).map(one).collect()
    };
    let across = pass(&circle, |index, columns| index % columns, columns, 1);
    pass(&across, |index, columns| index / columns, rows, columns as i64)
}

/// Weighted fluxes of the usable pixels, nJy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aperture {
    pub observed: f64,
    /// Standard deviation of the observed flux under the noise model.
    pub error: f64,
    pub model: f64,
}

impl Aperture {
    /// Sums with these weights. Without usable pixels the fluxes are 0, and so is the error.
    ///
    /// Errors: slices of different lengths.
    pub fn of(detector: &Detector, weights: &[f64]) -> Result<Aperture> {
        let Detector { data, model, variance, counts, .. } = *detector;
        let length = data.len();
        if [model.len(), variance.len(), counts.len(), weights.len()] != [length; 4] {
            return Err(Error::internal(format!("photometry of planes of different sizes, one of them {length}")));
        }
        let (mut observed, mut predicted, mut square) = (0.0, 0.0, 0.0);
        for index in (0..length).filter(|&index| counts[index] && weights[index] > 0.0) {
            observed += weights[index] * (f64::from(data[index]) - detector.sky);
            predicted += weights[index] * (f64::from(model[index]) - detector.sky);
            square += weights[index].powi(2) * f64::from(variance[index]);
        }
        Ok(Aperture { observed, model: predicted, error: (square * detector.excess.max(1.0)).sqrt() })
    }

    /// Whether data and model differ by more than `times` the noise and what is not known of PSF and flat field.
    pub fn mismatch(&self, times: f64) -> bool {
        (self.observed - self.model).abs() > times * self.error.hypot(SYSTEMATIC * self.model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20 x 20 pixels; the circle of 2.5 pixels about (9, 12) has 21 of them.
    fn of(data: f32, counts: &[bool], excess: f64) -> Aperture {
        let (data, model, variance) = ([data; 400], [5.0; 400], [4.0; 400]);
        let detector = Detector { data: &data, model: &model, sky: 1.0, variance: &variance, counts, excess };
        Aperture::of(&detector, &weights([20, 20], [9.0, 12.0], 2.5, 0.0)).unwrap()
    }

    #[test]
    fn fluxes_and_errors_are_sums_over_the_usable_pixels() {
        let mut counts = [true; 400];
        let whole = of(6.0, &counts, 1.0);
        assert_eq!((whole.observed, whole.model), (21.0 * 5.0, 21.0 * 4.0));
        assert!((whole.error - (21.0f64 * 4.0).sqrt()).abs() < 1e-12);
        // Correlated noise: the error of the sum grows; less than white noise it never has.
        assert!((of(6.0, &counts, 2.25).error / whole.error - 1.5).abs() < 1e-12);
        assert_eq!(of(6.0, &counts, 0.5).error, whole.error);
        // The target's pixel is masked, and one that is not in the circle.
        (counts[12 * 20 + 9], counts[0]) = (false, false);
        let part = of(6.0, &counts, 1.0);
        assert_eq!((part.observed, part.model), (20.0 * 5.0, 20.0 * 4.0));
        let none = of(6.0, &[false; 400], 1.0);
        assert!(none == Aperture { observed: 0.0, error: 0.0, model: 0.0 } && !none.mismatch(5.0));
    }

    /// Through a broad and a narrow PSF, a circle takes different parts of a source; with the narrow one brought to the broad
    /// one, the same.
    #[test]
    fn matched_weights_take_the_same_part_through_any_psf() {
        let (shape, target) = ([61, 60], [29.3, 30.8]);
        let source = |sigma: f64| -> Vec<f32> {
            let at = |index: usize| ((index % 60) as f64 - target[0]).hypot((index / 60) as f64 - target[1]);
            let peak = 1000.0 / (std::f64::consts::TAU * sigma * sigma);
            (0..61 * 60).map(|index| (peak * (-0.5 * (at(index) / sigma).powi(2)).exp()) as f32).collect()
        };
        let (broad, narrow) = (source(2.5), source(1.5));
        let (counts, variance) = ([true; 61 * 60], [1.0; 61 * 60]);
        let flux = |image: &[f32], sigma: f64| {
            let detector =
                Detector { data: image, model: image, sky: 0.0, variance: &variance, counts: &counts, excess: 1.0 };
            Aperture::of(&detector, &weights(shape, target, 4.0, sigma)).unwrap()
        };
        let (as_it_is, matched) = (flux(&narrow, 0.0), flux(&narrow, 2.0));
        // 2.5^2 = 1.5^2 + 2^2. Kernels are sampled at pixel centres: some parts in a thousand.
        assert!((matched.observed / flux(&broad, 0.0).observed - 1.0).abs() < 5e-3, "{matched:?}");
        assert!(as_it_is.observed > 1.2 * matched.observed, "{as_it_is:?}");
        // The weights keep their sum, so a smooth sky has the same flux, and white noise less.
        let sum = |sigma: f64| weights(shape, target, 4.0, sigma).iter().sum::<f64>();
        assert!((sum(2.0) / sum(0.0) - 1.0).abs() < 1e-9 && matched.error < as_it_is.error);
    }

    #[test]
    fn a_mismatch_is_more_than_noise_and_calibration_allow() {
        // Model 84, noise 9.17, calibration 1.68: together 9.32.
        let differs = |by: f64| Aperture { observed: 84.0 + by, error: 84f64.sqrt(), model: 84.0 }.mismatch(5.0);
        assert!(!differs(46.0) && !differs(-46.0) && differs(47.0) && differs(-47.0));
        // Where there is no noise to speak of, 2 % of the flux count.
        let bright = |observed: f64| Aperture { observed, error: 1.0, model: 1e6 }.mismatch(5.0);
        assert!(!bright(1.09e6) && bright(1.11e6));
    }

    #[test]
    fn planes_of_different_sizes_are_refused() {
        let detector = Detector {
            data: &[0.0; 4],
            model: &[0.0; 3],
            sky: 0.0,
            variance: &[0.0; 4],
            counts: &[true; 4],
            excess: 1.0,
        };
        assert!(Aperture::of(&detector, &[1.0; 4]).is_err());
    }
}
