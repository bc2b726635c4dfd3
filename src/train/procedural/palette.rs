//! Colours of the parts of a galaxy, as flux ratios to the r band, and the reddening of dust.

use super::Kind;
use crate::train::stream::Stream;

/// g - r and r - i in magnitudes; redder bands continue r - i.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colour {
    pub g_r: f64,
    pub r_i: f64,
}

impl Colour {
    /// Flux in each band in units of the r band's.
    pub fn sed(&self, bands: &[String]) -> Vec<f32> {
        bands
            .iter()
            .map(|band| {
                let brighter = match band.as_str() {
                    "g" => -self.g_r,
                    "i" => self.r_i,
                    "z" => 1.6 * self.r_i,
                    "y" => 2.0 * self.r_i,
                    _ => 0.0,
                };
                10f64.powf(0.4 * brighter) as f32
            })
            .collect()
    }

    /// Between this colour (0) and another (1).
    pub fn towards(&self, other: Colour, share: f64) -> Colour {
        Colour { g_r: self.g_r + (other.g_r - self.g_r) * share, r_i: self.r_i + (other.r_i - self.r_i) * share }
    }
}

/// A_band / A_r of a Milky-Way-like law.
pub fn extinction(bands: &[String]) -> Vec<f32> {
    bands
        .iter()
        .map(|band| match band.as_str() {
            "g" => 1.40,
            "i" => 0.75,
            "z" => 0.58,
            "y" => 0.50,
            _ => 1.0,
        })
        .collect()
}

/// The colours of one galaxy's old, intermediate and young stars.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    pub old: Colour,
    pub middle: Colour,
    pub young: Colour,
}

impl Palette {
    /// Draws the colours of a galaxy, half of them as the bands see them at a redshift of up to 0.9.
    pub fn draw(kind: Kind, stream: &mut Stream) -> Self {
        let shift = Shift::draw(stream);
        let reddening = (0.08 * stream.normal()).abs();
        let metal = match kind {
            Kind::Irregular | Kind::Clumpy => -0.10,
            Kind::Elliptical | Kind::Lenticular => 0.02,
            _ => 0.0,
        };
        let old_g_r = 0.74 + metal + 0.05 * stream.normal() + 0.9 * shift.g_r;
        let old = Colour { g_r: old_g_r, r_i: 0.38 + 0.5 * metal + 0.025 * stream.normal() + 0.8 * shift.r_i };
        let young_g_r = 0.18 + 0.08 * stream.normal() + reddening + 0.25 * shift.g_r;
        let young = Colour { g_r: young_g_r, r_i: 0.07 + 0.04 * stream.normal() + 0.6 * reddening + 0.25 * shift.r_i };
        let middle = old.towards(young, stream.range(0.35, 0.65));
        Palette { old, middle, young }
    }
}

/// How far the 4000 A break of old stars has moved through the bands, 0 to 1: through g - r at redshifts up to 0.4,
/// through r - i mostly from 0.4 to 0.9. Roughly the colours of ellipticals in Fukugita, Shimasaku & Ichikawa (1995).
#[derive(Clone, Copy, Debug)]
pub struct Shift {
    pub g_r: f64,
    pub r_i: f64,
}

impl Shift {
    /// Half of the galaxies are seen as they are, the others at a redshift between 0 and 0.9.
    pub fn draw(stream: &mut Stream) -> Self {
        let redshift = if stream.chance(0.5) { 0.9 * stream.uniform() } else { 0.0 };
        let rise = |from: f64, to: f64| ((redshift - from) / (to - from)).clamp(0.0, 1.0);
        Shift { g_r: rise(0.0, 0.4), r_i: 0.25 * rise(0.0, 0.4) + 0.75 * rise(0.4, 0.9) }
    }
}
