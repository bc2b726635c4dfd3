//! Where training images come from, as the training loop sees it.

use rayon::prelude::*;

use crate::Result;
use crate::random::{Key, Purpose};
use crate::train::dataset::Dataset;

/// Images by index: the same index gives the same image, whatever was asked before.
pub trait ImageSource: Send + Sync {
    /// `[C, n, n]`
    fn shape(&self) -> [i64; 3];
    /// Training image number `draw`, augmented: linear flux, the reference band's total is one, row by row.
    fn training_image(&self, draw: u64) -> Result<Vec<f32>>;
    /// Images of galaxies that no training image shows.
    fn heldout_len(&self) -> usize;
    /// Held-out image `index`, below `heldout_len`.
    fn heldout_image(&self, index: usize) -> Result<Vec<f32>>;
    /// Names the images: equal digests, equal images.
    fn digest(&self) -> String;
    /// What the images are, in words.
    fn description(&self) -> String;
    /// Effective resolution of the images (FWHM), kpc.
    fn resolution_kpc(&self) -> f64;
}

/// Many images, made on all processors: one after the other they would keep a GPU waiting for minutes.
pub fn together(numbers: &[u64], make: impl Fn(u64) -> Result<Vec<f32>> + Sync) -> Result<Vec<Vec<f32>>> {
    numbers.par_iter().map(|&number| make(number)).collect()
}

/// Round exponential blobs of random size, colour and place: quick images for tests of the machinery.
#[derive(Clone, Debug)]
pub struct Toy {
    pub bands: i64,
    pub size: i64,
    pub seed: u64,
}

impl Toy {
    fn image(&self, name: &str, index: u64) -> Vec<f32> {
        let draw = Key::new(self.seed, name, index as u32, Purpose::Galaxy, (index >> 32) as u32).uniform(16);
        let n = self.size as usize;
        let centre = (self.size - 1) as f64 / 2.0;
        let mut image = vec![0.0; self.bands as usize * n * n];
        for (blob, &brightness) in [1.0, 0.3].iter().enumerate() {
            let part = &draw[5 * blob..];
            let scale = self.size as f64 * (0.02 + 0.06 * part[0]);
            let offset = if blob == 0 { 0.05 } else { 0.5 } * self.size as f64;
            let (x, y) = (centre + offset * (part[1] - 0.5), centre + offset * (part[2] - 0.5));
            for (band, plane) in image.chunks_mut(n * n).enumerate() {
                let colour = 1.0 + 0.5 * (part[3] - 0.5) * (band as f64 - 1.0);
                for (pixel, value) in plane.iter_mut().enumerate() {
                    let (dx, dy) = ((pixel % n) as f64 - x, (pixel / n) as f64 - y);
                    let profile = (-(dx * dx + dy * dy).sqrt() / scale).exp();
                    *value += (brightness * part[4] * colour * profile) as f32;
                }
            }
        }
        let total: f32 = image[reference(self.bands) * n * n..][..n * n].iter().sum();
        image.iter_mut().for_each(|value| *value /= total);
        image
    }
}

/// The band whose total flux is one.
pub fn reference(bands: i64) -> usize {
    (bands as usize) / 2
}

impl ImageSource for Toy {
    fn shape(&self) -> [i64; 3] {
        [self.bands, self.size, self.size]
    }

    fn training_image(&self, draw: u64) -> Result<Vec<f32>> {
        Ok(self.image("toy", draw))
    }

    fn heldout_len(&self) -> usize {
        64
    }

    fn heldout_image(&self, index: usize) -> Result<Vec<f32>> {
        Ok(self.image("toy, held out", index as u64))
    }

    fn digest(&self) -> String {
        format!("toy-{}-{}-{}", self.bands, self.size, self.seed)
    }

    fn description(&self) -> String {
        "round exponential blobs".into()
    }

    fn resolution_kpc(&self) -> f64 {
        0.0
    }
}

impl ImageSource for Dataset {
    fn shape(&self) -> [i64; 3] {
        let grid = self.grid();
        [grid.bands.len() as i64, grid.size as i64, grid.size as i64]
    }

    fn training_image(&self, draw: u64) -> Result<Vec<f32>> {
        Ok(Dataset::training_image(self, draw))
    }

    fn heldout_len(&self) -> usize {
        Dataset::heldout_len(self)
    }

    fn heldout_image(&self, index: usize) -> Result<Vec<f32>> {
        Ok(Dataset::heldout_image(self, index))
    }

    fn digest(&self) -> String {
        Dataset::digest(self).into()
    }

    fn description(&self) -> String {
        let [procedural, real, heldout_procedural, heldout_real] = self.counts();
        format!(
            "{procedural} procedurally drawn galaxies and {real} real ones with augmentation ({heldout_procedural} and \
             {heldout_real} more held out)"
        )
    }

    fn resolution_kpc(&self) -> f64 {
        Dataset::resolution_kpc(self)
    }
}
