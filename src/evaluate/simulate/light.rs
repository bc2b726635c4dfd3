//! Where the light of simulated galaxies comes from: procedural galaxies, draws of the prior, images, a point, nothing.

use tch::{Device, Tensor};

use super::SimulateOptions;
use super::images::read;
use crate::config::SamplerConfig;
use crate::evaluate::draws;
use crate::evaluate::mock::chain_draws;
use crate::prior::Prior;
use crate::random::{BlockNoise, object_seed};
use crate::sampler;
use crate::train::procedural::{self, Grid, Truth};
use crate::{Error, Result};

/// Draws of the prior in one batch.
const BLOCK: u32 = 16;

/// What is simulated.
#[derive(Clone, Debug, PartialEq, clap::ValueEnum)]
pub enum Galaxies {
    /// The family that the demonstration prior is trained on, from another sequence of numbers
    Procedural,
    /// Draws of the prior's own chain without data: the truths that a calibrated posterior is calibrated for
    Prior,
    /// A point in the middle of the prior's grid
    Point,
    /// Nothing but sky
    Blank,
    /// Images: see --image
    Image,
}

/// The light of one galaxy on a grid of its own.
pub struct Light {
    /// `[C, size, size]`, flux per pixel in any unit.
    pub image: Vec<f32>,
    pub size: usize,
    pub pixel_kpc: f64,
    /// Total of each band.
    pub flux: Vec<f64>,
    /// What is known of a procedural galaxy.
    pub truth: Option<Truth>,
}

/// All galaxies of a survey.
pub enum Source {
    Procedural { seed: u64 },
    Same(Light),
    Many(Vec<Light>),
}

impl Source {
    /// Prepares the galaxies of a survey: draws those of the prior, reads images.
    pub fn open(options: &SimulateOptions) -> Result<Source> {
        let grid = &options.grid;
        let (bands, size) = (grid.bands.len(), grid.size);
        match options.galaxies {
            // The seed is mixed with a name that no training set uses.
            Galaxies::Procedural => Ok(Source::Procedural { seed: object_seed(options.seed, "simulated survey") }),
            Galaxies::Blank => Ok(Source::Same(Light::new(vec![0.0; bands * size * size], bands, grid.pixel_kpc))),
            Galaxies::Point => {
                let middle = |at: usize| (at as f64 - (size as f64 - 1.0) / 2.0).abs() < 0.75;
                let on = |index: usize| middle(index / size % size) && middle(index % size);
                let image = (0..bands * size * size).map(|index| f32::from(u8::from(on(index)))).collect();
                Ok(Source::Same(Light::new(image, bands, grid.pixel_kpc)))
            }
            Galaxies::Prior => Ok(Source::Many(prior_draws(options)?)),
            Galaxies::Image => {
                let images =
                    options.images.as_ref().ok_or_else(|| Error::usage("simulate: --galaxies image needs --image"))?;
                Ok(Source::Many(read(images, &grid.bands)?))
            }
        }
    }

    /// The light of galaxy `index`; images are used in turn.
    pub fn light(&self, index: u64, grid: &Grid) -> Result<std::borrow::Cow<'_, Light>> {
        match self {
            Source::Procedural { seed } => {
                // Twice the prior's field, so that light goes on beyond it as in the sky.
                let wide = Grid { size: 2 * grid.size, ..grid.clone() };
                let galaxy = procedural::draw(*seed, index, &wide);
                let flux = galaxy.truth.flux.clone();
                let (size, pixel_kpc, truth) = (wide.size, wide.pixel_kpc, Some(galaxy.truth));
                Ok(std::borrow::Cow::Owned(Light { image: galaxy.image, size, pixel_kpc, flux, truth }))
            }
            Source::Same(light) => Ok(std::borrow::Cow::Borrowed(light)),
            // Even numbers are galaxies, odd ones their neighbours.
            Source::Many(lights) => Ok(std::borrow::Cow::Borrowed(&lights[index as usize / 2 % lights.len()])),
        }
    }
}

impl Clone for Light {
    fn clone(&self) -> Self {
        let Light { image, size, pixel_kpc, flux, truth } = self;
        let (image, flux, truth) = (image.clone(), flux.clone(), truth.clone());
        Light { image, size: *size, pixel_kpc: *pixel_kpc, flux, truth }
    }
}

impl Light {
    /// The light of `[bands, size, size]` pixels of a pitch.
    pub fn new(image: Vec<f32>, bands: usize, pixel_kpc: f64) -> Light {
        let size = ((image.len() / bands) as f64).sqrt().round() as usize;
        let total = |plane: &[f32]| plane.iter().map(|&value| f64::from(value)).sum();
        let flux = image.chunks(size * size).map(total).collect();
        Light { image, size, pixel_kpc, flux, truth: None }
    }

    /// The galaxy under a reduced shear g: I'(x) = I(A x) with A = [[1 - g1, -g2], [-g2, 1 + g1]], bilinear. A round
    /// galaxy becomes longer along x for g1 > 0.
    pub fn sheared(mut self, [g1, g2]: [f64; 2]) -> Light {
        if [g1, g2] == [0.0, 0.0] {
            return self;
        }
        let size = self.size;
        let centre = (size as f64 - 1.0) / 2.0;
        let planes = self.image.chunks(size * size).map(|plane| {
            let at = |x: i64, y: i64| {
                let inside = (0..size as i64).contains(&x) && (0..size as i64).contains(&y);
                if inside { f64::from(plane[y as usize * size + x as usize]) } else { 0.0 }
            };
            let value = |index: usize| {
                let (x, y) = ((index % size) as f64 - centre, (index / size) as f64 - centre);
                let (x, y) = ((1.0 - g1) * x - g2 * y + centre, (1.0 + g1) * y - g2 * x + centre);
                let (left, low) = (x.floor(), y.floor());
                let (u, v, left, low) = (x - left, y - low, left as i64, low as i64);
                let below = (1.0 - u) * at(left, low) + u * at(left + 1, low);
                let above = (1.0 - u) * at(left, low + 1) + u * at(left + 1, low + 1);
                ((1.0 - v) * below + v * above) as f32
            };
            (0..size * size).map(value).collect::<Vec<f32>>()
        });
        self.image = planes.collect::<Vec<_>>().concat();
        self
    }

    /// The light on the prior's grid of `size` pixels of `pixel_kpc`, times `scale`: each pixel's flux goes to the pixels
    /// that it overlaps, so that flux is conserved.
    pub fn on_grid(&self, size: usize, pixel_kpc: f64, scale: f64) -> Vec<f32> {
        let ratio = self.pixel_kpc / pixel_kpc;
        // Part of source pixel `from` in target pixel `to`, with both grids about the same centre.
        let edge = |at: usize, count: usize, pitch: f64| (at as f64 - count as f64 / 2.0) * pitch;
        let overlap = |to: usize, from: usize| {
            let low = edge(from, self.size, ratio).max(edge(to, size, 1.0));
            let high = edge(from + 1, self.size, ratio).min(edge(to + 1, size, 1.0));
            ((high - low) / ratio).max(0.0)
        };
        // What overlaps, of each target pixel: the same for rows and columns.
        let weights: Vec<Vec<(usize, f64)>> = (0..size)
            .map(|to| (0..self.size).map(|from| (from, overlap(to, from))).filter(|(_, part)| *part > 1e-12).collect())
            .collect();
        let mut out = Vec::with_capacity(self.flux.len() * size * size);
        for plane in self.image.chunks(self.size * self.size) {
            for rows in &weights {
                for columns in &weights {
                    let line = |row: usize| -> f64 {
                        columns.iter().map(|(x, part)| part * f64::from(plane[row * self.size + x])).sum()
                    };
                    let sum: f64 = rows.iter().map(|(row, part)| part * line(*row)).sum();
                    out.push((sum * scale) as f32);
                }
            }
        }
        out
    }
}

/// Draws of the sampler's chain without data, in linear flux.
fn prior_draws(options: &SimulateOptions) -> Result<Vec<Light>> {
    let prior = Prior::read(&options.prior, Device::Cpu)?;
    let card = &prior.card;
    let grid = &options.grid;
    if (card.bands.len(), card.size as usize, card.pixel_kpc) != (grid.bands.len(), grid.size, grid.pixel_kpc) {
        return Err(Error::usage(format!(
            "simulate --galaxies prior: {} has {} bands of {} pixels of {} kpc: give as many --bands, and its --size and --pixel-kpc",
            options.prior.display(),
            card.bands.len(),
            card.size,
            card.pixel_kpc
        )));
    }
    let sampler = sampler::build(&SamplerConfig { steps: draws::STEPS, ..SamplerConfig::default() }, &prior)?;
    let mut lights = Vec::new();
    for first in (0..options.objects).step_by(BLOCK as usize) {
        let count = BLOCK.min(options.objects - first);
        let noise = BlockNoise::new(options.seed, "simulated survey", first, count);
        let draws = chain_draws(prior.denoiser.as_ref(), sampler.as_ref(), &noise, Device::Cpu)?;
        let flux: Tensor = card.stretch.inverse(&draws)?;
        let values = sampler::to_vec(&flux)?;
        let length = values.len() / count as usize;
        lights.extend(values.chunks(length).map(|image| Light::new(image.to_vec(), grid.bands.len(), grid.pixel_kpc)));
    }
    Ok(lights)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(size: usize, pixel_kpc: f64) -> Light {
        let at = |index: usize| {
            let (x, y) =
                ((index % size) as f64 - (size as f64 - 1.0) / 2.0, (index / size) as f64 - (size as f64 - 1.0) / 2.0);
            (-(x * x + y * y) * pixel_kpc * pixel_kpc / 8.0).exp() as f32
        };
        Light::new((0..size * size).map(at).collect(), 1, pixel_kpc)
    }

    #[test]
    fn another_grid_keeps_the_flux_and_the_place() {
        // From 0.3 kpc to 0.8 kpc, a field of 38.4 kpc; the blob has a standard deviation of 2 kpc.
        let fine = blob(128, 0.3);
        let coarse = fine.on_grid(48, 0.8, 2.0);
        let total: f64 = coarse.iter().map(|&value| f64::from(value)).sum();
        assert!((total / (2.0 * fine.flux[0]) - 1.0).abs() < 1e-5, "{total}");
        let moment: f64 = (0..coarse.len()).map(|index| f64::from(coarse[index]) * (index % 48) as f64).sum();
        assert!((moment / total - 23.5).abs() < 1e-4, "{}", moment / total);
        // The same grid changes nothing.
        assert_eq!(fine.on_grid(128, 0.3, 1.0), fine.image);
    }

    #[test]
    fn shear_makes_ellipses() {
        let sheared = blob(64, 0.5).sheared([0.05, 0.0]);
        let found = crate::posterior::morphology::morphology(&sheared.image, 1, 0.5, 0).unwrap();
        let e1 = found.iter().find(|(name, _)| name == "e1").unwrap().1;
        // Distortion of a sheared circle: 2 g / (1 + g^2).
        assert!((f64::from(e1) - 2.0 * 0.05 / 1.0025).abs() < 2e-3, "{e1}");
        // Surface brightness is conserved, so the flux grows by 1 / (1 - g^2); bilinear interpolation takes half a per cent.
        let total = |image: &[f32]| image.iter().map(|&value| f64::from(value)).sum::<f64>();
        let grown = total(&sheared.image) / total(&blob(64, 0.5).image);
        assert!((grown * (1.0 - 0.0025) - 1.0).abs() < 0.01, "{grown}");
    }
}
