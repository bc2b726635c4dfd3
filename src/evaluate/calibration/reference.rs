//! The posterior of a network prior where data are faint: draws of the prior, each weighted by its likelihood (importance sampling).
//! Nothing is linearised and no step is taken, so that it is exact but for the number of draws, for whatever prior they are of. What
//! the weights are worth, (sum w)^2 / sum w^2 draws, falls steeply with the signal: with tens of thousands of draws it is enough up to
//! a S/N of 10 to 20. The amplitude is summed over a grid and the sky is integrated: with h the model of an image of amplitude 1,
//! and sums over the pixels of each band
//!
//! ```text
//! ln p(y | x, a) = a B - a^2 A / 2 + constant,   A = sum over bands of h^T P h - k (1^T P h)^2,   B = h^T P y - k (1^T P y)(1^T P h)
//! P = Sigma^-1,   k = s^2 / (1 + s^2 1^T P 1)    s: prior standard deviation of the sky, and b | y, x, a ~ N(k 1^T P (y - a h), k)
//! ```

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::forward::{Latent, Likelihood};
use crate::io::bytes;
use crate::prior::store::Store;
use crate::random::{Key, Purpose};
use crate::{Error, Result};

/// The metadata key of the prior's digest, and the tensor of the draws, in a file of `unseeing draw`.
const PRIOR: &str = "prior";
const IMAGES: &str = "stretched";
/// Images that are predicted at a time.
const BATCH: i64 = 64;
/// Nodes of ln a, over so many standard deviations of its prior to either side.
const NODES: i64 = 241;
const SPAN: f64 = 5.0;
/// Draws of equal weight that stand for the posterior: their own noise is 3 % of a standard deviation.
const DRAWS: usize = 1024;

/// Draws of a prior.
pub struct Reference {
    /// `[N, C, n, n]`
    images: Tensor,
}

/// The posterior of one observation.
pub struct Weighted {
    /// Draws of equal weight.
    pub latent: Latent,
    /// How many independent draws the weights are worth.
    pub effective: f64,
}

impl Reference {
    /// Reads what `unseeing draw PRIOR --out FILE.safetensors` wrote, of the prior with this `digest` and `shape`. Draws of another
    /// prior, which would pass for a posterior, are an error.
    pub fn read(path: &Path, digest: &str, shape: [i64; 3], device: Device) -> Result<Self> {
        let why = |what: String| {
            Error::file(
                path,
                format!("{what}: expected draws of this prior, of `unseeing draw PRIOR --out FILE.safetensors`"),
            )
        };
        let store = Store::from_bytes(&bytes::read(path)?, PRIOR).map_err(|error| why(error.to_string()))?;
        if store.text != digest {
            return Err(why("holds draws of another prior".into()));
        }
        let images = store.any(IMAGES).map_err(|error| why(error.to_string()))?;
        if images.size().len() != 4 || images.size()[0] == 0 || images.size()[1..] != shape {
            return Err(why(format!("images of shape {:?}, those of the prior are {shape:?}", images.size())));
        }
        Ok(Reference { images: images.f_to_device(device)? })
    }

    /// The posterior under `likelihood`, whose noise must not depend on the model; `object` names it in the keys.
    pub fn posterior(&self, likelihood: &dyn Likelihood, seed: u64, object: &str) -> Result<Weighted> {
        let device = self.images.device();
        let nuisance = likelihood.nuisance();
        let double = |tensor: &Tensor| tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double);
        let one = |tensor: &Tensor| -> Result<f64> { Ok(double(tensor)?.f_double_value(&[0])?) };
        let (middle, scatter) = (one(&nuisance.ln_amplitude_mean)?, one(&nuisance.ln_amplitude_sd)?);
        let bands = nuisance.sky_sd.size()[0];
        let of = |images: Tensor| -> Result<Latent> {
            let zeros = |columns| Tensor::f_zeros([images.size()[0], columns], (Kind::Float, device));
            Ok(Latent { ln_amplitude: zeros(1)?, sky: zeros(bands)?, image: images })
        };
        let linear = likelihood.linearize(&of(self.images.f_narrow(0, 0, 1)?)?)?;
        // Sums over the pixels of each band, `[B, C]`.
        let sums = |left: &Tensor, right: &Tensor| -> Result<Tensor> {
            let product = left.f_to_kind(Kind::Double)?.f_mul(&right.f_to_kind(Kind::Double)?)?;
            double(&product.f_sum_dim_intlist([2i64, 3].as_slice(), false, Kind::Double)?).map_err(Error::from)
        };
        let data = likelihood.data().f_unsqueeze(0)?;
        let mask = likelihood.mask().f_unsqueeze(0)?;
        let weighted = [&data, &mask].map(|images| linear.precision(images));
        let [data_weighted, mask_weighted] = weighted;
        let (data_weighted, mask_weighted) = (data_weighted?, mask_weighted?);
        let prior = double(&nuisance.sky_sd)?.f_square()?;
        let k = prior.f_div(&prior.f_mul(&sums(&mask, &mask_weighted)?)?.f_add_scalar(1.0)?)?;
        let flat = sums(&mask, &data_weighted)?;
        let count = self.images.size()[0];
        let mut parts: [Vec<Tensor>; 3] = Default::default();
        for first in (0..count).step_by(BATCH as usize) {
            let model = likelihood.predict(&of(self.images.f_narrow(0, first, BATCH.min(count - first))?)?)?;
            let level = sums(&model, &mask_weighted)?;
            let over = |bands: Tensor| bands.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
            let own = sums(&model, &linear.precision(&model)?)?;
            parts[0].push(over(own.f_sub(&level.f_square()?.f_mul(&k)?)?)?);
            parts[1].push(over(sums(&model, &data_weighted)?.f_sub(&level.f_mul(&flat)?.f_mul(&k)?)?)?);
            parts[2].push(level);
        }
        let [curvature, slope, level] = parts.map(|part| Tensor::f_cat(&part, 0));
        let (curvature, slope, level) = (curvature?.f_unsqueeze(1)?, slope?.f_unsqueeze(1)?, level?);
        let white = Tensor::f_linspace(-SPAN, SPAN, NODES, (Kind::Double, Device::Cpu))?;
        let amplitudes = white.f_mul_scalar(scatter)?.f_add_scalar(middle)?.f_exp()?.f_unsqueeze(0)?;
        let fits = slope.f_mul(&amplitudes)?.f_sub(&curvature.f_mul(&amplitudes.f_square()?)?.f_mul_scalar(0.5)?)?;
        let ln_weights = fits.f_sub(&white.f_square()?.f_mul_scalar(0.5)?)?.f_view([-1])?;
        let weights = ln_weights.f_softmax(0, Kind::Double)?;
        let each = weights.f_view([count, NODES])?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        let effective = 1.0 / each.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        // Evenly spaced places in the sum of the weights, from a random first one: the least noise that resampling can have.
        let key = |step| Key::new(seed, object, 0, Purpose::Evaluation, step);
        let first = key(0).uniform(1)[0];
        let places: Vec<f64> = (0..DRAWS).map(|draw| (draw as f64 + first) / DRAWS as f64).collect();
        let places = Tensor::f_from_slice(&places)?;
        let found =
            places.f_searchsorted(&weights.f_cumsum(0, Kind::Double)?, false, false, "left", None::<&Tensor>)?;
        let found = found.f_clamp_max(count * NODES - 1)?;
        let (image, node) = (found.f_div_scalar_mode(NODES, "floor")?, found.f_remainder(NODES)?);
        // Within its cell of the grid.
        let within: Vec<f64> =
            key(1).uniform(DRAWS).iter().map(|u| (u - 0.5) * 2.0 * SPAN / (NODES - 1) as f64).collect();
        let ln_amplitude = white
            .f_index_select(0, &node)?
            .f_add(&Tensor::f_from_slice(&within)?)?
            .f_mul_scalar(scatter)?
            .f_add_scalar(middle)?
            .f_unsqueeze(1)?;
        let left = flat.f_sub(&level.f_index_select(0, &image)?.f_mul(&ln_amplitude.f_exp()?)?)?;
        let normal = Tensor::f_from_slice(&key(2).normal(DRAWS * bands as usize))?.f_view([-1, bands])?;
        let sky = left.f_mul(&k)?.f_add(&normal.f_to_kind(Kind::Double)?.f_mul(&k.f_sqrt()?)?)?;
        let single = |values: &Tensor| values.f_to_kind(Kind::Float)?.f_to_device(device);
        let image = self.images.f_index_select(0, &image.f_to_device(device)?)?;
        Ok(Weighted { latent: Latent { image, ln_amplitude: single(&ln_amplitude)?, sky: single(&sky)? }, effective })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::mock::{Misspecified, Mock, Observing, Scene, observe};
    use crate::forward::Stretch;
    use crate::prior::store::to_bytes;

    const SIZE: i64 = 32;

    /// Round galaxies of different sizes.
    fn images() -> Tensor {
        let line: Tensor = (Tensor::arange(SIZE, (Kind::Float, Device::Cpu)) - 15.5).square();
        let radius = (line.view([-1, 1]) + line.view([1, -1])).sqrt();
        let image = |scale: f64| ((&radius / -scale).exp() / (scale * scale)).view([1, 1, SIZE, SIZE]);
        Tensor::cat(&[3.0, 3.6, 5.0].map(image), 0).repeat([1, 3, 1, 1])
    }

    fn mock() -> Mock {
        let typical = images().narrow(0, 0, 1);
        let stretch = Stretch::Linear { scale: 1.0 };
        let scene = Scene { stretch, reference: 1, pixel_kpc: 1.0, typical, device: Device::Cpu, seed: 3 };
        let (redshift, signal_to_noise) = ([0.3, 0.4], [12.0, 12.0]);
        let misspecified = Misspecified::default();
        let observing =
            Observing { draws: 1, redshift, signal_to_noise, ln_amplitude_sd: 0.3, sky_sd: 0.5, misspecified };
        observe(&scene, &scene.typical, 4, &observing).unwrap()
    }

    /// ln p(y, ln a | x), with the sky summed over a grid of its own, pixel by pixel.
    fn brute(mock: &Mock, image: &Tensor, ln_amplitude: f64) -> f64 {
        let options = (Kind::Float, Device::Cpu);
        let latent = Latent {
            image: image.unsqueeze(0),
            ln_amplitude: Tensor::full([1, 1], ln_amplitude, options),
            sky: Tensor::zeros([1, 3], options),
        };
        let left = (mock.likelihood.data() - mock.likelihood.predict(&latent).unwrap().get(0)) / mock.sd;
        let bands: f64 = (0..3)
            .map(|band| {
                let left = left.get(band).to_kind(Kind::Double);
                let at = |node: i32| {
                    let sky = 0.5 * f64::from(node) / 80.0; // The prior's deviation is half a pixel's.
                    -0.5 * (&left - sky).square().sum(Kind::Double).double_value(&[]) - 0.5 * (sky / 0.5).powi(2)
                };
                let values: Vec<f64> = (-240..=240).map(at).collect();
                let most = values.iter().copied().fold(f64::MIN, f64::max);
                most + values.iter().map(|value| (value - most).exp()).sum::<f64>().ln()
            })
            .sum();
        bands - 0.5 * ((ln_amplitude - 1000f64.ln()) / 0.3).powi(2)
    }

    #[test]
    fn weights_are_those_of_brute_force() {
        let (images, mock) = (images(), mock());
        let found = Reference { images: images.copy() }.posterior(&mock.likelihood, 1, "x").unwrap();
        let nodes: Vec<f64> = (-50..=50).map(|node| 1000f64.ln() + 0.3 * f64::from(node) / 10.0).collect();
        let joint: Vec<Vec<f64>> =
            (0..3).map(|index| nodes.iter().map(|&node| brute(&mock, &images.get(index), node)).collect()).collect();
        let most = joint.iter().flatten().copied().fold(f64::MIN, f64::max);
        let weights: Vec<Vec<f64>> =
            joint.iter().map(|row| row.iter().map(|value| (value - most).exp()).collect()).collect();
        let total: f64 = weights.iter().flatten().sum();
        let mut squares = 0.0;
        for (index, row) in weights.iter().enumerate() {
            let weight = row.iter().sum::<f64>() / total;
            squares += weight * weight;
            let mine = (&found.latent.image - images.get(index as i64)).abs().sum_dim_intlist(
                [1i64, 2, 3].as_slice(),
                false,
                Kind::Double,
            );
            let mine = mine.lt(1e-6);
            let share = mine.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            // Evenly spaced places leave two draws of 1,024 open; the grids of ln a differ.
            assert!((share - weight).abs() < 0.003, "{index}: {share} {weight}");
            if weight > 0.1 {
                let mean = row.iter().zip(&nodes).map(|(w, node)| w * node).sum::<f64>() / row.iter().sum::<f64>();
                let chosen = found.latent.ln_amplitude.squeeze_dim(1).masked_select(&mine);
                let off = chosen.mean(Kind::Double).double_value(&[]) - mean;
                assert!(off.abs() < 0.01, "{index}: {off}"); // A tenth of its standard deviation.
            }
        }
        assert!((found.effective * squares - 1.0).abs() < 0.01);
        // More than one image has a say, or nothing was tested.
        assert!(found.effective > 1.2, "{}", found.effective);
    }

    /// Sky levels are those that data and model leave.
    #[test]
    fn skies_follow_what_is_left() {
        let (images, mock) = (images().narrow(0, 0, 1), mock());
        let found = Reference { images }.posterior(&mock.likelihood, 1, "x").unwrap();
        let model = mock.likelihood.predict(&found.latent).unwrap() - found.latent.sky.view([-1, 3, 1, 1]);
        let left = mock.likelihood.data() - model;
        let pixels = (left.size()[2] * left.size()[3]) as f64;
        let sky = left.mean_dim([2i64, 3].as_slice(), false, Kind::Double) / (1.0 + 4.0 / pixels);
        let off = (found.latent.sky.to_kind(Kind::Double) - sky) / (mock.sd / pixels.sqrt());
        let (mean, square) =
            (off.mean(Kind::Double).double_value(&[]), off.square().mean(Kind::Double).double_value(&[]));
        // Five standard errors of 3,072.
        assert!(mean.abs() < 0.09 && (square - 1.0).abs() < 0.13, "{mean} {square}");
    }

    #[test]
    fn files_that_are_no_draws_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("draws.safetensors");
        let read = || {
            let read = Reference::read(&path, "mine", [3, SIZE, SIZE], Device::Cpu);
            read.map(|_| ()).map_err(|error| error.to_string())
        };
        assert!(read().unwrap_err().contains("draws.safetensors"));
        std::fs::write(&path, "no tensors").unwrap();
        assert!(read().unwrap_err().contains("not a usable safetensors file"));
        let write = |prior: &str, name: &str, images: Tensor| {
            std::fs::write(&path, to_bytes(PRIOR, prior, &[(name.into(), images)]).unwrap()).unwrap();
        };
        write("another", IMAGES, images());
        assert!(read().unwrap_err().contains("holds draws of another prior"));
        write("mine", "other", images());
        assert!(read().unwrap_err().contains("there is no tensor `stretched`"));
        write("mine", IMAGES, images().narrow(2, 0, 8));
        assert!(read().unwrap_err().contains("images of shape"));
        write("mine", IMAGES, images().narrow(0, 0, 0));
        assert!(read().unwrap_err().contains("images of shape"));
        write("mine", IMAGES, images() * f64::NAN);
        assert!(read().unwrap_err().contains("not finite"));
        write("mine", IMAGES, images());
        assert_eq!(read(), Ok(()));
    }
}
