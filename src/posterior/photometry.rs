//! Aperture photometry of the input beside that of the model: the same pixels of a circle on the detector, of the data and of
//! what the posterior predicts for it. Prediction and data have the same PSF, so nothing has to be matched.

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
    pub columns: usize,
    /// Variance of a large sum over that of white noise with the same variance in each pixel: 1 or more.
    pub excess: f64,
}

/// Fluxes of a circle's usable pixels, nJy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aperture {
    pub observed: f64,
    /// Standard deviation of the observed flux under the noise model.
    pub error: f64,
    pub model: f64,
}

impl Aperture {
    /// The circle of this radius (pixels) about `target` (column, row). Without usable pixels its fluxes are 0, and so is the
    /// error.
    ///
    /// Errors: slices of different lengths.
    pub fn of(detector: &Detector, target: [f64; 2], radius: f64) -> Result<Aperture> {
        let Detector { data, model, variance, counts, columns, .. } = *detector;
        let length = data.len();
        if [model.len(), variance.len(), counts.len()] != [length; 3] || columns == 0 {
            return Err(Error::internal(format!(
                "photometry of planes of different sizes, or of no columns: {length}"
            )));
        }
        let inside = |index: &usize| {
            let (x, y) = ((index % columns) as f64 - target[0], (index / columns) as f64 - target[1]);
            counts[*index] && x.hypot(y) <= radius
        };
        let (mut observed, mut predicted, mut square) = (0.0, 0.0, 0.0);
        for index in (0..length).filter(inside) {
            observed += f64::from(data[index]) - detector.sky;
            predicted += f64::from(model[index]) - detector.sky;
            square += f64::from(variance[index]);
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
        let (sky, columns) = (1.0, 20);
        let detector = Detector { data: &data, model: &model, sky, variance: &variance, counts, columns, excess };
        Aperture::of(&detector, [9.0, 12.0], 2.5).unwrap()
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
            columns: 2,
            excess: 1.0,
        };
        assert!(Aperture::of(&detector, [0.0; 2], 1.0).is_err());
    }
}
