//! Judging a prior: its draws against the images that it was trained on, and against held-out ones, which are the measure of
//! what is possible. Every number stands beside the same number of held-out images.
//!
//! Three sets of as many images are compared, all in the prior's stretched space. Distances between distributions also use
//! all draws. What is random (resampling for the intervals) is keyed by the seed.

use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::prior::Prior;
use crate::prior::card::Normalisation;
use crate::random::{Key, Purpose};
use crate::train::source::ImageSource;
use crate::{Error, Result};

pub mod embedding;
pub mod features;
pub mod frechet;
pub mod memorisation;
pub mod neighbours;
pub mod quantities;
pub mod report;
pub mod spectrum;

pub use features::Features;
pub use report::Report;

/// Resamplings behind an interval.
const RESAMPLES: usize = 1000;
/// The part of them between the ends of an interval.
const CONFIDENCE: f64 = 0.95;

/// The images that are compared, `[N, C, n, n]` each, stretched, on the CPU.
#[derive(Debug)]
pub struct Sets {
    pub draws: Tensor,
    /// As many training images as draws.
    pub train: Tensor,
    /// As many held-out images as there are, at most as many as draws.
    pub heldout: Tensor,
}

impl Sets {
    /// Puts `draws` (stretched) beside images of `source`. Errors: images of another shape than the prior's, too few held
    /// out for `least`.
    pub fn new(prior: &Prior, draws: Tensor, source: &dyn ImageSource, least: i64) -> Result<Sets> {
        if source.shape() != prior.shape() {
            return Err(Error::usage(format!(
                "the images of --data have shape {:?} (bands, pixels, pixels), but the prior has {:?}",
                source.shape(),
                prior.shape()
            )));
        }
        let count = draws.size()[0] as usize;
        let heldout = source.heldout_len().min(count);
        if (heldout as i64) < least {
            return Err(Error::usage(format!(
                "{count} draws and {} held-out images: at least {least} of both are needed (--count, data.heldout)",
                source.heldout_len()
            )));
        }
        let train = (0..count).map(|draw| source.training_image(draw as u64)).collect::<Result<Vec<_>>>()?;
        // Spread over all of them: held-out images of one kind stand together.
        let spread = (0..heldout).map(|index| source.heldout_image(index * source.heldout_len() / heldout));
        let heldout = spread.collect::<Result<Vec<_>>>()?;
        Ok(Sets {
            draws: draws.f_to_device(Device::Cpu)?,
            train: stretched(prior, &train)?,
            heldout: stretched(prior, &heldout)?,
        })
    }

    /// The number of images that are compared one by one: that of the held-out ones.
    pub fn paired(&self) -> i64 {
        self.heldout.size()[0]
    }
}

/// Images of flux in the prior's own normalisation and stretch.
fn stretched(prior: &Prior, images: &[Vec<f32>]) -> Result<Tensor> {
    let [bands, height, width] = prior.shape();
    let mut flux = Tensor::f_from_slice(&images.concat())?.f_view([-1, bands, height, width])?;
    if prior.card.normalisation == Normalisation::BandPeak {
        let peaks = flux.f_amax([2i64, 3].as_slice(), true)?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
        flux = flux.f_div(&peaks)?;
    }
    prior.card.stretch.forward(&flux)
}

/// A number and its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    pub value: f64,
    /// 95 per cent, from resampling the images that it is a mean over.
    pub interval: [f64; 2],
}

/// What is resampled: one number an image.
pub(super) struct Resampling<'a> {
    pub seed: u64,
    /// Names the stream of random numbers.
    pub name: &'a str,
}

impl Resampling<'_> {
    /// The mean of `values`.
    pub fn mean(&self, values: &[f64]) -> Measured {
        let found = self.each(values.len(), |chosen| mean(values, chosen));
        Measured { value: mean(values, &all(values.len())), interval: ends(found) }
    }

    /// The ratio of the means of two sets of values. They are resampled together where they are of the same images (`paired`).
    pub fn ratio(&self, above: &[f64], below: &[f64], paired: bool) -> Measured {
        let other = Resampling { seed: self.seed, name: &format!("{} reference", self.name) };
        let second = other.choices(below.len());
        let mut round = 0;
        let found = self.each(above.len(), |chosen| {
            round += 1;
            mean(above, chosen) / mean(below, if paired { chosen } else { &second[round - 1] })
        });
        let value = mean(above, &all(above.len())) / mean(below, &all(below.len()));
        Measured { value, interval: ends(found) }
    }

    fn choices(&self, count: usize) -> Vec<Vec<usize>> {
        let uniform = |round| Key::new(self.seed, self.name, round, Purpose::Evaluation, 0).uniform(count);
        let choice = |round| uniform(round).into_iter().map(|u| ((u * count as f64) as usize).min(count - 1)).collect();
        (0..RESAMPLES as u32).map(choice).collect()
    }

    fn each(&self, count: usize, measure: impl FnMut(&[usize]) -> f64) -> Vec<f64> {
        let choices = self.choices(count);
        choices.iter().map(Vec::as_slice).map(measure).collect()
    }
}

fn all(count: usize) -> Vec<usize> {
    (0..count).collect()
}

fn mean(values: &[f64], chosen: &[usize]) -> f64 {
    chosen.iter().map(|&index| values[index]).sum::<f64>() / chosen.len() as f64
}

fn ends(mut found: Vec<f64>) -> [f64; 2] {
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found[((found.len() - 1) as f64 * share).round() as usize];
    [at(0.5 - 0.5 * CONFIDENCE), at(0.5 + 0.5 * CONFIDENCE)]
}

/// The values of a tensor as f64, row by row.
fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::<f64>::try_from(tensor.f_to_kind(Kind::Double)?.f_contiguous()?.f_view(-1)?)?)
}

#[cfg(test)]
mod tests;
