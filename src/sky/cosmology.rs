//! Distances in the Planck 2015 cosmology (Planck Collaboration 2016, A&A 594, A13, table 4), flat, with radiation and
//! neutrinos: H0 = 67.74 km/s/Mpc, Om0 = 0.3075, Tcmb = 2.7255 K, Neff = 3.046, one neutrino of 0.06 eV and two without
//! mass. Leaving out radiation and neutrinos is wrong by 9e-4 at z = 1.
//!
//! The energy density of the neutrinos follows the fit of Komatsu et al. 2011 (ApJS 192, 18, section 3.3), as astropy's
//! `Planck15` does, with which these distances agree.

use std::f64::consts::PI;

/// Largest redshift for which distances are given: no survey galaxy with a useful image is beyond.
pub const MAX_REDSHIFT: f64 = 6.0;

/// km/s/Mpc
const HUBBLE: f64 = 67.74;
const MATTER: f64 = 0.3075;
/// K
const CMB_TEMPERATURE: f64 = 2.7255;
const EFFECTIVE_NEUTRINOS: f64 = 3.046;
/// eV; the other two have none.
const NEUTRINO_MASS: f64 = 0.06;
const NEUTRINOS: f64 = 3.0;

// CODATA 2018, SI units.
const LIGHT_SPEED: f64 = 299_792_458.0;
const GRAVITATION: f64 = 6.6743e-11;
const STEFAN_BOLTZMANN: f64 = 5.670_374_419e-8;
/// eV / K
const BOLTZMANN_EV: f64 = 8.617_333_262e-5;
const MEGAPARSEC: f64 = 3.085_677_581_491_367e22;
const ARCSEC_PER_RADIAN: f64 = 180.0 * 3600.0 / PI;

/// A redshift that has no distance here.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("redshift {0}, expected a number above 0 and at most {MAX_REDSHIFT}")]
pub struct RedshiftError(pub f64);

/// Angular-diameter distance in Mpc. Redshifts that are not finite, not positive or beyond `MAX_REDSHIFT` are errors.
pub fn angular_diameter_distance(z: f64) -> Result<f64, RedshiftError> {
    if !(z.is_finite() && z > 0.0 && z <= MAX_REDSHIFT) {
        return Err(RedshiftError(z));
    }
    let hubble_distance = LIGHT_SPEED / 1e3 / HUBBLE;
    Ok(hubble_distance * integral_of_inverse_expansion(z) / (1.0 + z))
}

/// theta(z): the angle of `pixel_kpc` at redshift `z`, in arcsec.
pub fn theta_arcsec(pixel_kpc: f64, z: f64) -> Result<f64, RedshiftError> {
    Ok(pixel_kpc / (angular_diameter_distance(z)? * 1e3) * ARCSEC_PER_RADIAN)
}

/// Integral from 0 to z of dz' / E(z'), by Gauss-Legendre quadrature in panels of at most 0.25 in redshift (rounding
/// error only: the integrand is smooth).
fn integral_of_inverse_expansion(z: f64) -> f64 {
    // Nodes and weights of the five-point rule on [-1, 1].
    let (a, b) = (2.0 * (10.0f64 / 7.0).sqrt(), 13.0 * 70.0f64.sqrt());
    let nodes = [
        (0.0, 128.0 / 225.0),
        ((5.0 - a).sqrt() / 3.0, (322.0 + b) / 900.0),
        (-(5.0 - a).sqrt() / 3.0, (322.0 + b) / 900.0),
        ((5.0 + a).sqrt() / 3.0, (322.0 - b) / 900.0),
        (-(5.0 + a).sqrt() / 3.0, (322.0 - b) / 900.0),
    ];
    let densities = Densities::today();
    let panels = (z / 0.25).ceil();
    let half = 0.5 * z / panels;
    let mut total = 0.0;
    for panel in 0..panels as u32 {
        let middle = half * (2.0 * f64::from(panel) + 1.0);
        total += nodes.iter().map(|(x, weight)| weight / densities.expansion(middle + half * x)).sum::<f64>() * half;
    }
    total
}

/// Densities today in units of the critical density.
struct Densities {
    photons: f64,
    dark_energy: f64,
    /// Mass of the massive neutrino over its temperature today.
    mass_over_temperature: f64,
}

impl Densities {
    fn today() -> Self {
        let hubble = HUBBLE * 1e3 / MEGAPARSEC;
        let critical = 3.0 * hubble * hubble / (8.0 * PI * GRAVITATION);
        let photons = 4.0 * STEFAN_BOLTZMANN / LIGHT_SPEED.powi(3) * CMB_TEMPERATURE.powi(4) / critical;
        let neutrino_temperature = (4.0f64 / 11.0).cbrt() * CMB_TEMPERATURE;
        let mass_over_temperature = NEUTRINO_MASS / (BOLTZMANN_EV * neutrino_temperature);
        let mut densities = Densities { photons, dark_energy: 0.0, mass_over_temperature };
        densities.dark_energy = 1.0 - MATTER - photons * (1.0 + densities.neutrinos(0.0));
        densities
    }

    /// Energy density of all neutrinos over that of the photons (Komatsu et al. 2011, equation 26).
    fn neutrinos(&self, z: f64) -> f64 {
        let massless = 7.0 / 8.0 * (4.0f64 / 11.0).powf(4.0 / 3.0) * EFFECTIVE_NEUTRINOS / NEUTRINOS;
        let ratio = 0.3173 * self.mass_over_temperature / (1.0 + z);
        massless * (NEUTRINOS - 1.0 + (1.0 + ratio.powf(1.83)).powf(1.0 / 1.83))
    }

    /// E(z) = H(z) / H0
    fn expansion(&self, z: f64) -> f64 {
        let scale = 1.0 + z;
        let radiation = self.photons * (1.0 + self.neutrinos(z));
        (scale.powi(3) * (MATTER + radiation * scale) + self.dark_energy).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The project's promise.
    const DISTANCE: f64 = 1e-7;

    /// Values of astropy's `Planck15.angular_diameter_distance`, Mpc.
    #[test]
    fn distances_agree_with_astropy() {
        for (z, want) in [
            (0.01, 43.716_402_218_267_91),
            (0.05, 208.279_117_031_809_68),
            (0.1, 392.840_443_953_4),
            (0.22, 756.054_654_406_437_5),
            (0.5, 1_297.040_841_387_9),
            (0.85, 1_624.664_498_623_832_5),
            (1.0, 1_697.952_655_987_7),
            (2.0, 1_770.512_849_311_3),
            (3.0, 1_627.448_886_161_5),
            (6.0, 1_205.022_542_303_3),
        ] {
            let got = angular_diameter_distance(z).unwrap();
            assert!((got / want - 1.0).abs() < DISTANCE, "z {z}: {got}, {:e}", got / want - 1.0);
        }
        assert!((theta_arcsec(0.8, 0.22).unwrap() / 0.218_253_858_043_474_72 - 1.0).abs() < DISTANCE);
    }

    #[test]
    fn redshifts_without_a_distance() {
        for z in [0.0, -0.1, 6.01, f64::NAN, f64::INFINITY] {
            let error = angular_diameter_distance(z).unwrap_err();
            assert!(error.to_string().contains(&format!("redshift {z}")), "{error}");
            assert!(theta_arcsec(0.8, z).is_err());
        }
    }
}
