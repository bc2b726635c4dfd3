//! Prior dominance (Table 2 of Spagnoletti et al. 2024, arXiv:2411.19158): one galaxy at many magnitudes, all else the
//! same, and how much of the prior's variance the data leave. Noise, sampler and geometry use the same random numbers at
//! all magnitudes, so that differences are those of the magnitude.

pub mod kept;

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::simulate::{SimulateOptions, SimulatedObject, Source, object};
use crate::forward::{Field, GalaxyLikelihood, GalaxyLikelihoodInput, Likelihood, NuisancePrior, SkyNoise};
use crate::io::digest;
use crate::posterior::variance_ratio::PAPER_RADIUS;
use crate::prior::Prior;
use crate::prior::card::Normalisation;
use crate::random::BlockNoise;
use crate::sampler::{self, Problem, Sampler, to_vec};
use crate::sky::cosmology::theta_arcsec;
use crate::{Error, Result};
use kept::{Block, Kept};

/// HSC's pixel, arcsec, as the simulator has it.
const PITCH: f64 = 0.168;
/// Standard deviation of ln(amplitude) about the true flux.
const LN_AMPLITUDE_SD: f64 = 0.3;

/// What an experiment is made with.
pub struct Experiment<'a> {
    pub prior: &'a Prior,
    pub sampler: &'a dyn Sampler,
    /// The survey: seed, redshift, depth, galaxies; its magnitudes are ignored, its noise is white.
    pub options: &'a SimulateOptions,
    /// Which of the source's galaxies.
    pub index: u32,
    pub draws: u32,
    pub block: u32,
    pub device: Device,
    /// Where finished blocks of draws are kept, to go on from.
    pub kept: Option<&'a Kept>,
}

/// A number with its Monte Carlo error, by the jackknife over draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    pub value: f64,
    pub error: f64,
}

/// One magnitude.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// AB magnitude in the last band but for z and y (i, when there is one).
    pub magnitude: f64,
    /// (sum model^2 / variance)^(1/2) over the reference band: that of a matched filter.
    pub matched_signal_to_noise: f64,
    /// The paper's: noisy observation over the standard deviation of its noise, per detector pixel, averaged within 30
    /// pixels of the target and then over the bands. The averages are those of the notebook that was published with it
    /// (`DPS_hallucinations.ipynb`: "Average SNR in central circular region"); that the circle is on the detector's pixels,
    /// and what exactly is averaged, is our reading.
    pub paper_signal_to_noise: f64,
    /// Posterior / prior variance in linear flux at fixed amplitude within 30 pixels, band by band.
    pub linear: Vec<Ratio>,
    /// The paper's number: stretched space, mean of the bands.
    pub stretched: Ratio,
    /// For pictures: observation `[C, my, mx]`, posterior mean and variance ratio `[C, n, n]`.
    #[serde(skip)]
    pub images: Images,
}

/// Images of one magnitude.
#[derive(Clone, Debug, Default)]
pub struct Images {
    pub observation: Vec<f32>,
    pub observed: [usize; 2],
    pub mean: Vec<f32>,
    pub ratio: Vec<f32>,
}

impl Experiment<'_> {
    /// Observes and samples the galaxy at one magnitude.
    pub fn row(&self, source: &Source, magnitude: f64) -> Result<Row> {
        let options =
            SimulateOptions { magnitudes: [magnitude; 2], correlated: false, neighbours: 0.0, ..self.options.clone() };
        let seen = object(&options, source, self.index)?;
        let likelihood = self.likelihood(&seen)?;
        let field = *likelihood.operator().field();
        let reference = self.prior.card.normalisation.reference();
        let (mut unit, mut stretched) = (Draws::default(), Draws::default());
        let mut mean = vec![0.0f64; seen.flux.len()];
        let data = data_digest(&seen);
        for first in (0..self.draws).step_by(self.block as usize) {
            let count = self.block.min(self.draws - first);
            let block = self.block_of(&likelihood, magnitude, &data, (first, count))?;
            let each =
                |values: &[f32]| values.chunks(values.len() / count as usize).map(<[f32]>::to_vec).collect::<Vec<_>>();
            for (image, &amplitude) in each(&block.unit).iter().zip(&block.amplitude) {
                let part = f64::from(amplitude) / f64::from(self.draws);
                mean.iter_mut().zip(image).for_each(|(sum, &value)| *sum += part * f64::from(value));
            }
            unit.images.extend(each(&block.unit));
            stretched.images.extend(each(&block.stretched));
        }
        let size = self.prior.card.size as usize;
        let area = size * size;
        let bands = seen.flux.len() / area;
        let wide = |tensor: &Tensor| -> Result<Vec<f64>> { Ok(to_vec(tensor)?.into_iter().map(f64::from).collect()) };
        let (prior_unit, prior_stretched) =
            (wide(&self.prior.flux_variance)?, wide(&self.prior.covariance.variance()?)?);
        let inside = |index: usize| {
            let centre = (size as f64 - 1.0) / 2.0;
            ((index / size % size) as f64 - centre).hypot((index % size) as f64 - centre) <= PAPER_RADIUS
        };
        let of_band = |band: usize| (band * area..(band + 1) * area).filter(|&index| inside(index)).collect::<Vec<_>>();
        let linear = (0..bands).map(|band| unit.ratio(&prior_unit, &of_band(band))).collect();
        let everywhere: Vec<usize> = (0..bands).flat_map(of_band).collect();
        let variance = unit.variance();
        let [my, mx] = field.shape.map(|side| side as usize);
        let plane = my * mx;
        let data = to_vec(likelihood.data())?;
        let truth = tensor(&seen.flux, [1, bands as i64, size as i64, size as i64])?.f_to_device(self.device)?;
        let model = to_vec(&likelihood.operator().apply(&truth)?)?;
        let own = reference * plane..(reference + 1) * plane;
        let power: f64 = model[own].iter().map(|&value| f64::from(value).powi(2)).sum();
        Ok(Row {
            magnitude,
            matched_signal_to_noise: power.sqrt() / seen.noise[reference],
            paper_signal_to_noise: paper_signal_to_noise(&data, &seen.noise, &field),
            linear,
            stretched: stretched.ratio(&prior_stretched, &everywhere),
            images: Images {
                observation: data,
                observed: [my, mx],
                mean: mean.into_iter().map(|value| value as f32).collect(),
                ratio: variance.iter().zip(&prior_unit).map(|(own, prior)| (own / prior) as f32).collect(),
            },
        })
    }

    /// Draws of one block: those that are kept, or new ones.
    fn block_of(
        &self,
        likelihood: &GalaxyLikelihood,
        magnitude: f64,
        data: &str,
        (first, count): (u32, u32),
    ) -> Result<Block> {
        let place = self.kept.map(|kept| kept.place(magnitude, data, first, count));
        let pixels = self.prior.denoiser.shape().iter().product::<i64>() as usize;
        if let Some(place) = &place
            && let Some(block) = kept::read(place, count as usize, pixels)?
        {
            return Ok(block);
        }
        let noise = BlockNoise::new(self.options.seed, "dominance", first, count);
        let denoiser = self.prior.denoiser.as_ref();
        let problem = Problem { denoiser, likelihood: Some(likelihood), noise, device: self.device };
        let draws = sampler::run(self.sampler, &problem)?;
        let block = Block {
            unit: to_vec(&likelihood.unit(&draws)?)?,
            stretched: to_vec(&draws.image)?,
            amplitude: to_vec(&draws.ln_amplitude.f_exp()?)?,
        };
        if let Some(place) = &place {
            kept::write(place, &block)?;
        }
        Ok(block)
    }

    fn likelihood(&self, seen: &SimulatedObject) -> Result<GalaxyLikelihood> {
        let card = &self.prior.card;
        let Normalisation::ReferenceBand { band: reference } = card.normalisation else {
            return Err(Error::usage("evaluate dominance needs a prior with one amplitude (a reference band)"));
        };
        let pitch = theta_arcsec(card.pixel_kpc, seen.redshift).map_err(|error| Error::usage(error.to_string()))?;
        let cutout = seen.shape.map(|side| side as i64);
        let window = Field::window(seen.target, cutout, card.size, pitch, PITCH)
            .ok_or_else(|| Error::internal("the simulated galaxy is outside of its image"))?;
        let [my, mx] = window.field.shape;
        let (x, y) = (window.x as usize, window.y as usize);
        let (width, bands) = (seen.shape[1], seen.images.len() as i64);
        let rows = |image: &Vec<f32>| -> Vec<f32> {
            (y..y + my as usize).flat_map(|row| image[row * width + x..][..mx as usize].to_vec()).collect()
        };
        let data: Vec<f32> = seen.images.iter().flat_map(rows).collect();
        let variance: Vec<f32> = seen.noise.iter().flat_map(|sd| vec![(sd * sd) as f32; (my * mx) as usize]).collect();
        let shape = [bands, my, mx];
        let area = (card.size * card.size) as usize;
        let flux: f64 = seen.flux[reference * area..(reference + 1) * area].iter().map(|&value| f64::from(value)).sum();
        GalaxyLikelihood::new(GalaxyLikelihoodInput {
            object: seen.id.clone(),
            field: window.field,
            data: tensor(&data, shape)?,
            mask: Tensor::f_ones(shape, (Kind::Float, Device::Cpu))?,
            sky_noise: SkyNoise::White { variance: tensor(&variance, shape)? },
            gain: None,
            relative_error: 0.0,
            psfs: seen.psfs.clone(),
            stretch: card.stretch,
            reference: Some(reference as i64),
            colours: None,
            nuisance: NuisancePrior {
                ln_amplitude_mean: Tensor::f_from_slice(&[flux.max(1e-6).ln() as f32])?,
                ln_amplitude_sd: Tensor::f_from_slice(&[LN_AMPLITUDE_SD as f32])?,
                sky_sd: Tensor::f_zeros([bands], (Kind::Float, Device::Cpu))?,
            },
            down_weight_edges: true,
            device: self.device,
            kind: Kind::Float,
        })
    }
}

/// Digest of all that a posterior depends on besides prior and sampler.
fn data_digest(seen: &SimulatedObject) -> String {
    let images = seen.images.iter().flatten().chain(&seen.flux).flat_map(|value| value.to_le_bytes());
    let psfs = seen.psfs.iter().flat_map(|psf| psf.values()).chain(&seen.noise).chain(&seen.target);
    let numbers = psfs.chain([&seen.redshift]).flat_map(|value| value.to_le_bytes());
    digest::bytes(&images.chain(numbers).collect::<Vec<u8>>())
}

/// See `Row::paper_signal_to_noise`: `data` are `[C, my, mx]`, `noise` one number a band.
fn paper_signal_to_noise(data: &[f32], noise: &[f64], field: &Field) -> f64 {
    let [_, width] = field.shape.map(|side| side as usize);
    let near = |index: usize| {
        let (x, y) = ((index % width) as f64 - field.target[0], (index / width) as f64 - field.target[1]);
        x.hypot(y) <= PAPER_RADIUS
    };
    let planes = data.chunks(data.len() / noise.len()).zip(noise);
    let means = planes.map(|(plane, sd)| {
        let inside: Vec<f64> = (0..plane.len()).filter(|&at| near(at)).map(|at| f64::from(plane[at]) / sd).collect();
        inside.iter().sum::<f64>() / inside.len() as f64
    });
    means.sum::<f64>() / noise.len() as f64
}

fn tensor<const N: usize>(values: &[f32], shape: [i64; N]) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_view(&shape[..])?)
}

/// Whether the paper's ratio rises with magnitude: each value at least the one before, less two standard errors of both.
pub fn rises(rows: &[Row]) -> bool {
    rows.windows(2).all(|pair| {
        let [before, after] = [pair[0].stretched, pair[1].stretched];
        after.value >= before.value - 2.0 * before.error.hypot(after.error)
    })
}

/// Draws as images.
#[derive(Default)]
struct Draws {
    images: Vec<Vec<f32>>,
}

impl Draws {
    /// Sums over draws of the values and of their squares, pixel by pixel.
    fn sums(&self) -> Vec<(f64, f64)> {
        let mut sums = vec![(0.0, 0.0); self.images.first().map_or(0, Vec::len)];
        for image in &self.images {
            for (sum, &value) in sums.iter_mut().zip(image) {
                let value = f64::from(value);
                *sum = (sum.0 + value, sum.1 + value * value);
            }
        }
        sums
    }

    fn variance(&self) -> Vec<f64> {
        let count = self.images.len() as f64;
        self.sums().iter().map(|(sum, square)| (square - sum * sum / count) / (count - 1.0)).collect()
    }

    /// Sum of the variances of `pixels` over that of `prior`, with the jackknife's error over draws.
    fn ratio(&self, prior: &[f64], pixels: &[usize]) -> Ratio {
        let count = self.images.len() as f64;
        let sums = self.sums();
        let below: f64 = pixels.iter().map(|&pixel| prior[pixel]).sum();
        let variance = |(sum, square): (f64, f64), count: f64| (square - sum * sum / count) / (count - 1.0);
        let value = pixels.iter().map(|&pixel| variance(sums[pixel], count)).sum::<f64>() / below;
        let without: Vec<f64> = self
            .images
            .iter()
            .map(|image| {
                let less = |pixel: usize| {
                    let value = f64::from(image[pixel]);
                    variance((sums[pixel].0 - value, sums[pixel].1 - value * value), count - 1.0)
                };
                pixels.iter().map(|&pixel| less(pixel)).sum::<f64>() / below
            })
            .collect();
        let mean = without.iter().sum::<f64>() / count;
        let error = ((count - 1.0) / count * without.iter().map(|value| (value - mean).powi(2)).sum::<f64>()).sqrt();
        Ratio { value, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    #[test]
    fn ratios_and_their_errors_are_those_of_the_draws() {
        // 400 repetitions of 16 draws of 20 independent pixels with variance 0.25 under a prior of variance 1.
        let ratios: Vec<Ratio> = (0..400)
            .map(|repetition| {
                let normal = Key::new(1, "ratio", repetition, Purpose::Evaluation, 0).normal(16 * 20);
                let images = normal.chunks(20).map(|image| image.iter().map(|value| 0.5 * value).collect()).collect();
                Draws { images }.ratio(&[1.0; 20], &(0..20).collect::<Vec<_>>())
            })
            .collect();
        let mean = ratios.iter().map(|ratio| ratio.value).sum::<f64>() / 400.0;
        let scatter = (ratios.iter().map(|ratio| (ratio.value - mean).powi(2)).sum::<f64>() / 399.0).sqrt();
        let error = ratios.iter().map(|ratio| ratio.error).sum::<f64>() / 400.0;
        // Its own scatter: 0.25 sqrt(2 / (15 * 20)) = 0.020 each.
        assert!((mean - 0.25).abs() < 0.004 && (scatter / 0.0204 - 1.0).abs() < 0.15, "{mean} {scatter}");
        assert!((error / scatter - 1.0).abs() < 0.15, "{error} {scatter}");
    }

    #[test]
    fn the_papers_signal_to_noise_is_a_mean_over_pixels_and_bands() {
        // 90 x 90 pixels: 4 within 30 pixels of the target, 100 beyond; a second band of half of it at twice the noise.
        let field = Field { size: 1, prior_pitch: 1.0, detector_pitch: 1.0, target: [44.0, 45.0], shape: [90, 90] };
        let place = |index: usize| ((index % 90) as f64 - 44.0).hypot((index / 90) as f64 - 45.0);
        let first = (0..8100).map(|index| if place(index) <= 30.0 { 4.0 } else { 100.0 });
        let data: Vec<f32> = first.clone().chain(first.map(|value| value / 2.0)).collect();
        assert!((paper_signal_to_noise(&data, &[1.0, 2.0], &field) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn a_rise_is_judged_within_its_errors() {
        let row = |value: f64| Row {
            magnitude: 18.0,
            matched_signal_to_noise: 1.0,
            paper_signal_to_noise: 1.0,
            linear: Vec::new(),
            stretched: Ratio { value, error: 0.01 },
            images: Images::default(),
        };
        assert!(rises(&[row(0.1), row(0.2), row(0.19)]));
        assert!(!rises(&[row(0.1), row(0.2), row(0.15)]));
    }
}
