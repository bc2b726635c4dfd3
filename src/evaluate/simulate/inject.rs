//! A compact feature, added to every second galaxy of a survey: by what posteriors claim at its place, and at the like
//! places of galaxies without it, it is seen how often they invent a feature and how often they miss one.

use super::light::Light;
use crate::Result;
use crate::posterior::morphology::morphology;
use crate::random::Purpose;
use crate::train::procedural::Grid;
use crate::train::stream::Stream;

/// Parts that a pixel is split into along each axis where the feature is drawn.
const PARTS: usize = 5;
/// Distance from the galaxy's middle, in half-light radii: where features are looked for, in discs and arms.
const DISTANCES: [f64; 2] = [1.0, 2.0];
/// Where a galaxy has no half-light radius (a point, nothing), kpc.
const NO_RADIUS: f64 = 3.0;
/// The feature stays within this part of the field's half-width.
const FARTHEST: f64 = 0.6;

/// What is added: a round Gaussian with the colours of its galaxy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injection {
    /// Its flux as a part of the galaxy's.
    pub part: f64,
    /// Its full width at half maximum, kpc.
    pub fwhm_kpc: f64,
}

/// The feature of one object: where it is, or would be.
#[derive(Clone, Debug, PartialEq)]
pub struct Feature {
    /// Column and row on the prior's grid.
    pub place: [f64; 2],
    /// Flux of each band, nJy.
    pub flux: Vec<f64>,
    /// Whether it was added.
    pub added: bool,
}

impl Injection {
    /// Adds the feature to the light of object `index`, if that is an even number, and tells where it is (or would be);
    /// its flux is in the light's own unit.
    pub fn apply(&self, light: &mut Light, grid: &Grid, seed: u64, index: u32) -> Result<Feature> {
        // A stream of its own: with and without injection, a survey is otherwise the same.
        let mut stream = Stream::new(seed, "injected feature", u64::from(index), Purpose::Evaluation);
        let (distance, angle) = (stream.range(DISTANCES[0], DISTANCES[1]), stream.angle());
        let whole = light.on_grid(grid.size, grid.pixel_kpc, 1.0);
        let known = morphology(&whole, grid.bands.len(), grid.pixel_kpc, grid.reference)?;
        let r50 = known.iter().find(|(name, _)| name == "r50").map(|(_, value)| f64::from(*value));
        let r50 = r50.filter(|r50| *r50 > 0.0 && r50.is_finite()).unwrap_or(NO_RADIUS);
        let distance = (distance * r50).min(FARTHEST * grid.size as f64 * grid.pixel_kpc / 2.0);
        let (x, y) = (distance * angle.cos(), distance * angle.sin());
        let middle = (grid.size as f64 - 1.0) / 2.0;
        let place = [middle + x / grid.pixel_kpc, middle + y / grid.pixel_kpc];
        let flux: Vec<f64> = light.flux.iter().map(|flux| self.part * flux).collect();
        let added = index.is_multiple_of(2);
        if added {
            self.draw(light, [x, y], &flux);
        }
        Ok(Feature { place, flux, added })
    }

    /// Draws the Gaussian at (x, y) kpc from the middle.
    fn draw(&self, light: &mut Light, [x, y]: [f64; 2], flux: &[f64]) {
        let size = light.size;
        let sigma = self.fwhm_kpc / (8.0 * 2f64.ln()).sqrt();
        let centre = (size as f64 - 1.0) / 2.0;
        // The profile is a product, so one axis at a time is enough.
        let along = |offset: f64| -> Vec<f64> {
            let value = |part: usize, pixel: usize| {
                let inside = (part as f64 + 0.5) / PARTS as f64 - 0.5;
                let distance = (pixel as f64 - centre + inside) * light.pixel_kpc - offset;
                (-0.5 * (distance / sigma).powi(2)).exp()
            };
            let values: Vec<f64> = (0..size).map(|pixel| (0..PARTS).map(|part| value(part, pixel)).sum()).collect();
            let sum: f64 = values.iter().sum();
            values.iter().map(|value| value / sum).collect()
        };
        let (columns, rows) = (along(x), along(y));
        for (band, plane) in light.image.chunks_mut(size * size).enumerate() {
            for (index, value) in plane.iter_mut().enumerate() {
                *value += (flux[band] * rows[index / size] * columns[index % size]) as f32;
            }
            light.flux[band] += flux[band];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feature_is_where_it_is_said_to_be_with_its_flux() {
        let grid = Grid::demonstration();
        let bands = grid.bands.len();
        let disc = |index: usize| ((index % 128) as f64 - 63.5).hypot((index / 128) as f64 - 63.5) * 0.4;
        let one: Vec<f32> = (0..128 * 128).map(|index| (-disc(index) / 3.0).exp() as f32).collect();
        let plain = Light::new(one.repeat(bands), bands, 0.4);
        let injection = Injection { part: 0.05, fwhm_kpc: 1.6 };
        let mut with = plain.clone();
        let feature = injection.apply(&mut with, &grid, 3, 4).unwrap();
        assert!(feature.added && (feature.flux[1] / plain.flux[1] - 0.05).abs() < 1e-12);
        let before = plain.on_grid(grid.size, grid.pixel_kpc, 1.0);
        let after = with.on_grid(grid.size, grid.pixel_kpc, 1.0);
        let added: Vec<f64> = after.iter().zip(&before).map(|(a, b)| f64::from(a - b)).take(4096).collect();
        let flux: f64 = added.iter().sum();
        // Sums of f32 pixels.
        assert!((flux / feature.flux[0] - 1.0).abs() < 1e-4, "{flux}");
        assert!((with.flux[0] - plain.flux[0] - flux).abs() < 1e-4 * flux);
        let moment = |axis: fn(usize) -> usize| {
            added.iter().enumerate().map(|(index, value)| value * axis(index) as f64).sum::<f64>() / flux
        };
        let found = [moment(|index| index % 64), moment(|index| index / 64)];
        assert!((found[0] - feature.place[0]).hypot(found[1] - feature.place[1]) < 0.02, "{found:?} {feature:?}");
        // Between one and two half-light radii: 1.68 scale lengths are one.
        let away = (found[0] - 31.5).hypot(found[1] - 31.5) * grid.pixel_kpc / (1.678 * 3.0);
        assert!((0.9..2.1).contains(&away), "{away}");
        let mut without = plain.clone();
        let feature = injection.apply(&mut without, &grid, 3, 5).unwrap();
        assert!(!feature.added && without.image == plain.image && feature.flux[0] > 0.0);
    }
}
