//! The two profiles of a composite model, and their elliptical shapes, in Fourier space: there a profile is a function of
//! the quadratic form u = k^T S k alone, with S = r^2 exp(H), H = [[eta1, eta2], [eta2, -eta1]] the matrix of its ellipse.

use std::f64::consts::PI;

/// The exponential's scale length is its half-light radius over this.
const EXPONENTIAL: f64 = 1.678_346_99;

/// The de Vaucouleurs profile as a sum of Gaussians (Hogg & Lang 2013, PASP 125, 719): part of the light, and variance along
/// an axis in squared half-light radii. Fitted to SDSS's form of the profile, softened within r/50 as (x^2 + 0.0004)^(1/8) and
/// brought to zero between 7 and 8 r by (1 - (x - 7)^2)^2: light in annuli of equal width in ln r, from 0.002 to 12 r, by least
/// squares. It holds 92.7 % of the light of the profile without softening and end.
const DE_VAUCOULEURS: [[f64; 2]; 8] = [
    [8.719728e-03, 6.197796e-04],
    [2.684362e-02, 3.018216e-03],
    [5.483546e-02, 1.170869e-02],
    [9.239493e-02, 4.013220e-02],
    [1.373174e-01, 1.292323e-01],
    [1.882899e-01, 4.203398e-01],
    [2.387057e-01, 1.553030e+00],
    [2.564615e-01, 8.518194e+00],
];
/// Their sum, by which they are divided.
const DE_VAUCOULEURS_SUM: f64 = 1.003_568_238;

/// A radial profile of unit flux and unit half-light radius.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Profile {
    /// exp(-1.678 x), without end.
    Exponential,
    /// exp(-7.669 (x^(1/4) - 1)) in SDSS's form, see above; its radius is that of the profile without end.
    DeVaucouleurs,
}

impl Profile {
    /// Its transform at `u`, the squared frequency in cycles per half-light radius, and the derivative by u.
    pub(super) fn transform(self, u: f64) -> (f64, f64) {
        match self {
            Profile::Exponential => {
                let scale = (2.0 * PI / EXPONENTIAL).powi(2);
                let root = 1.0 / (1.0 + scale * u);
                let value = root * root.sqrt();
                (value, -1.5 * scale * value * root)
            }
            Profile::DeVaucouleurs => {
                let (mut value, mut slope) = (0.0, 0.0);
                for [part, variance] in DE_VAUCOULEURS {
                    let rate = 2.0 * PI * PI * variance;
                    // Gaussians that are wider than the frequency's wavelength are gone, to 1e-13.
                    if rate * u < 30.0 {
                        let term = part / DE_VAUCOULEURS_SUM * (-rate * u).exp();
                        value += term;
                        slope -= rate * term;
                    }
                }
                (value, slope)
            }
        }
    }
}

/// Centre, size and ellipse of a profile: x and y in pixels, the logarithm of the half-light radius in pixels (the geometric
/// mean of the semi-axes), eta1 along the columns and eta2 along the diagonal. The axis ratio is exp(-|eta|).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape(pub [f64; 5]);

impl Shape {
    /// u of the frequency (cycles per pixel), and its derivatives by ln r, eta1 and eta2.
    pub(super) fn quadratic(&self) -> impl Fn(f64, f64) -> [f64; 4] + use<> {
        let [_, _, ln_radius, eta1, eta2] = self.0;
        let square = (2.0 * ln_radius).exp();
        let size = eta1.hypot(eta2);
        // sinh(m) / m and its derivative over m, which have limits at 0.
        let (ratio, slope) = match size < 1e-4 {
            true => (1.0 + size * size / 6.0, 1.0 / 3.0),
            false => (size.sinh() / size, (size.cosh() - size.sinh() / size) / (size * size)),
        };
        let cosh = size.cosh();
        move |kx: f64, ky: f64| {
            let (sum, plus, cross) = (kx * kx + ky * ky, kx * kx - ky * ky, 2.0 * kx * ky);
            let along = eta1 * plus + eta2 * cross;
            let u = square * (cosh * sum + ratio * along);
            let by = |eta: f64, own: f64| square * (ratio * eta * sum + ratio * own + slope * eta * along);
            [u, 2.0 * u, by(eta1, plus), by(eta2, cross)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SDSS's de Vaucouleurs profile, not normalised.
    fn de_vaucouleurs(x: f64) -> f64 {
        let end = if x < 7.0 { 1.0 } else { (1.0 - (x.min(8.0) - 7.0).powi(2)).powi(2) };
        end * (-7.66925 * ((x * x + 0.0004).powf(0.125) - 1.0)).exp()
    }

    /// Light within some radii, by quadrature over ln r.
    fn growth(profile: impl Fn(f64) -> f64, radii: &[f64], far: f64) -> Vec<f64> {
        const STEPS: usize = 20_000;
        let (low, high) = (1e-5f64.ln(), far.ln());
        let step = (high - low) / STEPS as f64;
        let light = |index: usize| {
            let x = (low + (index as f64 + 0.5) * step).exp();
            (x, 2.0 * PI * x * x * profile(x) * step)
        };
        let total: f64 = (0..STEPS).map(|index| light(index).1).sum();
        let within =
            |radius: f64| (0..STEPS).map(light).filter(|(x, _)| *x < radius).map(|(_, part)| part).sum::<f64>();
        radii.iter().map(|&radius| within(radius) / total).collect()
    }

    #[test]
    fn the_gaussians_have_the_light_of_the_profile_at_all_radii() {
        /// The part of the light that may be elsewhere: half a per cent of flux is below what photometry is good for.
        const PART: f64 = 0.007;
        let radii = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0];
        let sum: f64 = DE_VAUCOULEURS.iter().map(|[part, _]| part).sum();
        assert!((sum / DE_VAUCOULEURS_SUM - 1.0).abs() < 1e-6);
        for (radius, want) in radii.iter().zip(growth(de_vaucouleurs, &radii, 8.0)) {
            let parts =
                DE_VAUCOULEURS.iter().map(|[part, variance]| part * (1.0 - (-0.5 * radius * radius / variance).exp()));
            let found = parts.sum::<f64>() / sum;
            assert!((found - want).abs() < PART, "{radius}: {found:.4} {want:.4}");
        }
        // What softening and end take away.
        let pure = |x: f64| (-7.66925 * (x.powf(0.25) - 1.0)).exp();
        let integral = |profile: &dyn Fn(f64) -> f64, far: f64| {
            let steps = 200_000;
            let step = (far.ln() - 1e-9f64.ln()) / steps as f64;
            let x = |index: usize| (1e-9f64.ln() + (index as f64 + 0.5) * step).exp();
            (0..steps).map(|index| x(index).powi(2) * profile(x(index)) * step).sum::<f64>()
        };
        let kept = integral(&de_vaucouleurs, 8.0) / integral(&pure, 1e5);
        assert!((kept - 0.927).abs() < 1e-3, "{kept}");
    }

    /// The transform of a round profile is the Hankel transform of its light.
    #[test]
    fn transforms_are_those_of_the_profiles() {
        let exponential = |x: f64| (-EXPONENTIAL * x).exp();
        assert!((growth(exponential, &[1.0], 30.0)[0] - 0.5).abs() < 1e-3, "half of the light is within r");
        let hankel = |profile: &dyn Fn(f64) -> f64, frequency: f64, far: f64| {
            let (mut sum, mut norm) = (0.0, 0.0);
            let (radii, angles) = (4000, 200);
            for index in 0..radii {
                let x = far * ((index as f64 + 0.5) / radii as f64).powi(2);
                let light = x * profile(x) * 2.0 * (x * far / radii as f64 / radii as f64).sqrt();
                let angle = |part: usize| PI * (part as f64 + 0.5) / angles as f64;
                // J0 by its integral.
                let bessel = (0..angles).map(|part| (2.0 * PI * frequency * x * angle(part).cos()).cos()).sum::<f64>();
                sum += light * bessel / angles as f64;
                norm += light;
            }
            sum / norm
        };
        for frequency in [0.0, 0.1, 0.3, 1.0, 2.0] {
            let want = hankel(&exponential, frequency, 20.0);
            let found = Profile::Exponential.transform(frequency * frequency).0;
            assert!((found - want).abs() < 1e-4, "exponential at {frequency}: {found} {want}");
            let want = hankel(&de_vaucouleurs, frequency, 8.0);
            let found = Profile::DeVaucouleurs.transform(frequency * frequency).0;
            assert!((found - want).abs() < 0.005, "de Vaucouleurs at {frequency}: {found} {want}");
        }
    }

    #[test]
    fn derivatives_are_those_of_differences() {
        for profile in [Profile::Exponential, Profile::DeVaucouleurs] {
            for u in [0.01, 0.3, 2.0] {
                let difference = (profile.transform(u + 1e-6).0 - profile.transform(u - 1e-6).0) / 2e-6;
                assert!((profile.transform(u).1 - difference).abs() < 1e-6, "{profile:?} {u}");
            }
        }
        for shape in [[0.0, 0.0, 1.2, 0.4, -0.7], [0.0, 0.0, 0.3, 0.0, 0.0], [0.0, 0.0, -0.5, 0.0, 1e-5]] {
            let own = Shape(shape).quadratic()(0.3, -0.2);
            for (index, &found) in own.iter().enumerate().skip(1) {
                let moved = |by: f64| {
                    let mut moved = shape;
                    moved[index + 1] += by;
                    Shape(moved).quadratic()(0.3, -0.2)[0]
                };
                let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((found - difference).abs() < 1e-7, "{shape:?} {index}: {found} {difference}");
            }
        }
        // The axis ratio, and which way the long axis lies: light that is long in x is narrow in k_x.
        let form = Shape([0.0, 0.0, 0.0, 1.0, 0.0]).quadratic();
        assert!((form(1.0, 0.0)[0] / form(0.0, 1.0)[0] - 2f64.exp()).abs() < 1e-9);
    }
}
