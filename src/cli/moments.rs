//! `unseeing moments`: measures on draws of a prior the moments of its flux and the morphology of each draw, and
//! writes them into its file.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use rayon::prelude::*;
use tch::{Device, Tensor};

use crate::cli::draw::Place;
use crate::cluster::Solo;
use crate::evaluate::draws::{self, BLOCK, Drawer, measured_covariance};
use crate::io::publish::publish_path;
use crate::posterior::{Moments, morphology};
use crate::prior::card::Architecture;
use crate::prior::file::{DrawMoments, with_flux_moments};
use crate::prior::{Prior, Spread};
use crate::sampler::to_vec;
use crate::{Error, Result, cli};

/// Draws that are held at a time.
const CHUNK: u32 = 64;

/// Draws that the table of the network's uncertainty is measured on.
const SPREAD_DRAWS: u32 = 512;

/// Its lowest noise level, unless the network knows none as small. Below it the table is used as it is there.
const SPREAD_T_MIN: f64 = 0.02;

/// A draw whose flux is this many times that of the median one is none of a galaxy: the moments would be its own.
const RUNAWAY: f64 = 1e4;

/// Arguments of `unseeing moments`.
#[derive(ClapArgs)]
pub struct Args {
    /// Prior (safetensors); it is rewritten, and keeps everything but the moments
    prior: PathBuf,
    /// Number of draws
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..))]
    count: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Noise levels of a draw; each costs an evaluation of the network
    #[arg(long, default_value_t = draws::STEPS, value_parser = clap::value_parser!(u32).range(2..))]
    steps: u32,
    /// Threads of the network
    #[arg(long, default_value_t = 1)]
    threads: u16,
    #[command(flatten)]
    place: Place,
    /// Measures the quantities of draws (sizes, colours, ...) only, and leaves all that the sampler uses as it is
    #[arg(long)]
    quantities_only: bool,
    /// Take the network for so many times less certain than is measured. With 1, draws given data should fit them as truths do
    /// (the mean z of log p in `evaluate calibration`): more if draws fit worse, less if they fit better
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    #[arg(value_parser = cli::positive, conflicts_with = "quantities_only")]
    widen: f64,
    /// Write the result here instead
    #[arg(long)]
    out: Option<PathBuf>,
    #[arg(long)]
    json: bool,
}

/// What is kept of one draw.
struct Drawn {
    finite: bool,
    /// Total flux of each band.
    sums: Vec<f32>,
    /// As in a posterior draw, the amplitude is the flux in the reference band: here it is one.
    scaled: Vec<f32>,
    quantities: Vec<(String, f32)>,
}

impl Drawn {
    fn measure(draw: &[f32], bands: usize, pixel_kpc: f64, reference: usize) -> Result<Drawn> {
        let finite = draw.iter().all(|value| value.is_finite());
        let sums: Vec<f32> = draw.chunks(draw.len() / bands).map(|plane| plane.iter().sum()).collect();
        let scaled: Vec<f32> = draw.iter().map(|value| value / sums[reference]).collect();
        let quantities =
            if finite { morphology::morphology(&scaled, bands, pixel_kpc, reference)? } else { Vec::new() };
        Ok(Drawn { finite, sums, scaled, quantities })
    }
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    let (compute, _) = args.place.open(&Solo, u32::from(args.threads.max(1)))?;
    let mut prior = Prior::read(&args.prior, compute.device)?;
    // A lean network was trained with its covariance and keeps it. Others have none but what their draws show.
    let measured = !args.quantities_only && matches!(prior.card.architecture, Architecture::Unet(_));
    if measured {
        prior.covariance = measured_covariance(&prior, args.seed, args.steps, args.count)?;
    }
    if !args.quantities_only {
        // First how uncertain the network is: draws depend on it (a little), and must be those of the file that is written.
        prior.spread = None;
        let range = [SPREAD_T_MIN.max(prior.card.sigma_min), prior.card.sigma_max];
        let some = Drawer::new(&prior, args.seed, args.steps)?.draws(0, args.count.min(SPREAD_DRAWS))?;
        let spread = Spread::measure(prior.denoiser.as_ref(), &prior.covariance, &some, range, args.seed, BLOCK)?;
        prior.spread = Some(spread.widened(args.widen)?);
    }
    let bytes = std::fs::read(&args.prior).map_err(|error| Error::file(&args.prior, error))?;
    let shape = prior.shape();
    let [bands, height, width] = shape;
    let pixels = (bands * height * width) as usize;
    let mut moments = Moments::new(pixels);
    let mut totals = Moments::new(bands as usize);
    let mut fluxes = Vec::new();
    let reference = prior.card.normalisation.reference();
    let names = morphology::names(bands as usize);
    let mut samples: Vec<(String, Vec<f32>)> = names.into_iter().map(|name| (name, Vec::new())).collect();
    let drawer = Drawer::new(&prior, args.seed, args.steps)?;
    for first in (0..args.count).step_by(CHUNK as usize) {
        let images = drawer.draws(first, CHUNK.min(args.count - first))?;
        let flux = to_vec(&prior.card.stretch.inverse(&images)?)?;
        // The measurements of a draw take longer than the draw does on a GPU.
        let drawn: Vec<Drawn> = flux
            .par_chunks(pixels)
            .map(|draw| Drawn::measure(draw, bands as usize, prior.card.pixel_kpc, reference))
            .collect::<Result<_>>()?;
        for (index, draw) in drawn.into_iter().enumerate() {
            // The file would be published with NaN in it, and refused by whoever reads it next.
            if !draw.finite {
                return Err(Error::usage(format!(
                    "{}: draw {} is not finite, so that this network makes no prior (was it trained, with these bands, \
                     stretch and noise levels?); nothing was written",
                    args.prior.display(),
                    first as usize + index
                )));
            }
            moments.push(&draw.scaled);
            totals.push(&draw.sums);
            fluxes.push(f64::from(draw.sums[reference]));
            for ((_, column), (_, value)) in samples.iter_mut().zip(draw.quantities) {
                column.push(value);
            }
        }
    }
    if let Some(draw) = runaway(&fluxes) {
        return Err(Error::usage(format!(
            "{}: draw {draw} has a flux of {:.1e}, more than {RUNAWAY} times that of the median draw, so that this network makes no \
             prior (was it trained for long enough, at its largest noise levels too?); nothing was written",
            args.prior.display(),
            fluxes[draw]
        )));
    }
    let tensor = |values: &[f64]| -> Result<Tensor> {
        let narrow: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        Ok(Tensor::f_from_slice(&narrow)?.f_view(shape)?)
    };
    let (mean, variance, draws) = match args.quantities_only {
        true => (prior.flux_mean.shallow_clone(), prior.flux_variance.shallow_clone(), prior.flux_draws),
        false => (tensor(&moments.mean)?, tensor(&moments.variance())?, moments.count),
    };
    let covariance = if measured { Some(prior.covariance.to_device(Device::Cpu)?) } else { None };
    let measured = DrawMoments { mean, variance, draws, covariance, spread: prior.spread, samples };
    let written = with_flux_moments(&bytes, &measured)?;
    let out = args.out.as_ref().unwrap_or(&args.prior);
    publish_path(out, |path| std::fs::write(path, &written).map_err(|error| Error::file(path, error)))?;
    let sd: Vec<f64> = totals.variance().iter().map(|variance| variance.sqrt()).collect();
    if args.json {
        let found = serde_json::json!({
            "draws": moments.count,
            "bands": prior.card.bands,
            "total_flux_mean": totals.mean,
            "total_flux_sd": sd,
            "path": out,
        });
        println!("{found}");
    } else {
        println!("{}: moments of {} draws", out.display(), moments.count);
        for (index, band) in prior.card.bands.iter().enumerate() {
            println!("  total flux in {band}: {:.4} +- {:.4}", totals.mean[index], sd[index]);
        }
    }
    Ok(cli::DONE)
}

/// The brightest draw, where its flux is beyond all bounds.
fn runaway(fluxes: &[f64]) -> Option<usize> {
    let mut sizes: Vec<f64> = fluxes.iter().map(|flux| flux.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let median = *sizes.get(sizes.len() / 2)?;
    let (draw, flux) = fluxes.iter().enumerate().max_by(|(_, left), (_, right)| left.abs().total_cmp(&right.abs()))?;
    (flux.abs() > RUNAWAY * median).then_some(draw)
}

#[cfg(test)]
mod tests {
    use super::runaway;

    #[test]
    fn runaway_draws_are_found() {
        assert_eq!(runaway(&[1.0, 0.9, -1.1, 30.0]), None);
        assert_eq!(runaway(&[1.0, 0.9, -1e27, 1.1]), Some(2));
        assert_eq!(runaway(&[]), None);
    }
}
