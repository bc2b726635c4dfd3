//! A small survey with known truth: galaxies (procedural ones, draws of the prior, images, points, nothing) seen through HSC-like seeing and noise by the forward operator.
//!
//! Procedural galaxies are of the family that the demonstration prior is trained on, from another sequence of numbers: none of
//! them is in a training set. They are drawn on twice the prior's field, so that light goes on beyond it as in the sky.

use std::path::PathBuf;

use tch::{Device, Kind, Tensor};

use crate::catalog::Z_MAX;
use crate::forward::{Field, Psf, SamplingOperator};
use crate::random::Purpose;
use crate::sky::cosmology::theta_arcsec;
use crate::train::procedural::{Grid, Truth};
use crate::train::stream::Stream;
use crate::{Error, Result};

mod files;
mod images;
mod inject;
mod light;
mod optics;

pub use images::{Images, Units};
pub use inject::{Feature, Injection};
pub use light::{Galaxies, Light, Source};
pub use optics::{Depth, Optics, Seeing};

/// AB magnitude of 1 nJy.
const ZERO_POINT_NJY: f64 = 31.4;
/// Pixels of a cutout beyond the prior's field: sky to measure the noise on.
const SKY_PIXELS: usize = 48;
/// Smallest and largest side of a cutout.
const SIDES: [usize; 2] = [120, 240];

/// What to simulate.
#[derive(Clone, Debug)]
pub struct SimulateOptions {
    pub folder: PathBuf,
    pub objects: u32,
    pub seed: u64,
    /// The prior's grid.
    pub grid: Grid,
    pub redshifts: [f64; 2],
    /// Standard deviation with which the catalogue's redshifts are scattered about the true ones; its column of errors, and
    /// `photo_z.mode = "propagated"` in the config, are written then.
    pub redshift_error: Option<f64>,
    /// Magnitudes in the reddest band but for z and y: i when there is one.
    pub magnitudes: [f64; 2],
    pub optics: Optics,
    pub correlated: bool,
    /// Probability of a neighbour in the frame.
    pub neighbours: f64,
    /// Leaves the mask and variance HDUs empty, as HSC's cutout service may.
    pub empty_planes: bool,
    /// The prior that the config names.
    pub prior: PathBuf,
    pub samples: u32,
    pub galaxies: Galaxies,
    /// For `Galaxies::Image`.
    pub images: Option<Images>,
    /// Reduced shear of all galaxies.
    pub shear: [f64; 2],
    /// A compact feature that every second galaxy is given.
    pub inject: Option<Injection>,
}

/// One object with everything that is known of it.
pub struct SimulatedObject {
    pub id: String,
    pub ra: f64,
    pub dec: f64,
    pub redshift: f64,
    /// The redshift that the catalogue has.
    pub catalogued: f64,
    /// AB magnitude per band, of all light within the prior's field.
    pub magnitudes: Vec<f64>,
    /// What is known of a procedural galaxy.
    pub truth: Option<Truth>,
    /// nJy per pixel of the prior's grid, `[C, n, n]`.
    pub flux: Vec<f32>,
    /// arcsec per pixel of the prior's grid.
    pub theta: f64,
    /// The feature that it was given, or could have been.
    pub feature: Option<Feature>,
    /// Whether another galaxy was put into the frame.
    pub neighbour: bool,
    /// Rows and columns of the cutouts, and the target's 0-based position (x, y) in them.
    pub shape: [usize; 2],
    pub target: [f64; 2],
    /// nJy per pixel, one image per band.
    pub images: Vec<Vec<f32>>,
    /// Standard deviation of the sky noise per band, nJy per pixel.
    pub noise: Vec<f64>,
    pub psfs: Vec<Psf>,
}

/// Simulates the survey and writes it into the folder; `progress` is told after each object. Gives the config's path.
pub fn simulate(options: &SimulateOptions, mut progress: impl FnMut(&SimulatedObject)) -> Result<PathBuf> {
    options.grid.check()?;
    let bounds = [options.redshifts, options.magnitudes];
    if options.objects == 0 || bounds.iter().any(|[low, high]| !(low <= high && low.is_finite() && high.is_finite())) {
        return Err(Error::usage("simulate: at least one object, and ranges given as LOW,HIGH, are needed"));
    }
    options.optics.check(options.grid.bands.len())?;
    let positive = |value: f64| value > 0.0 && value.is_finite();
    if options.inject.is_some_and(|inject| !(positive(inject.part) && positive(inject.fwhm_kpc))) {
        return Err(Error::usage(
            "simulate: an injected feature needs a positive part of the flux and a positive width",
        ));
    }
    if options.redshift_error.is_some_and(|error| !(0.0..=Z_MAX).contains(&error)) {
        return Err(Error::usage(format!("simulate: an error of the redshifts is a number from 0 to {Z_MAX}")));
    }
    if options.redshift_error.is_some() && options.inject.is_some() {
        // Claims compare places on the truth's grid with the same places on the grid of the catalogue's redshift.
        return Err(Error::usage("simulate: features can be injected only where redshifts are known exactly"));
    }
    // What can go wrong goes wrong before the folder is made.
    let source = Source::open(options)?;
    let mut survey = files::Survey::create(options)?;
    for index in 0..options.objects {
        let object = object(options, &source, index)?;
        survey.add(&object)?;
        progress(&object);
    }
    survey.finish()
}

/// Simulates object `index`: a pure function of the options' seed, the source and the index.
pub fn object(options: &SimulateOptions, source: &Source, index: u32) -> Result<SimulatedObject> {
    let grid = &options.grid;
    let mut stream = Stream::new(options.seed, "simulate", u64::from(index), Purpose::Evaluation);
    let id = format!("sim-{index:04}");
    let redshift = stream.range(options.redshifts[0], options.redshifts[1]);
    let magnitude = stream.range(options.magnitudes[0], options.magnitudes[1]);
    let (ra, dec) = (stream.range(149.5, 150.5), stream.range(1.7, 2.7));
    let psfs = options.optics.psfs(&grid.bands, &mut stream)?;
    let catalogued = scattered(options, redshift, index);
    let widest = theta(grid.pixel_kpc, redshift)?.max(theta(grid.pixel_kpc, catalogued)?);
    let theta = theta(grid.pixel_kpc, redshift)?;
    let side = (grid.size as f64 * widest / optics::PITCH).ceil() as usize + SKY_PIXELS;
    let side = side.clamp(SIDES[0], SIDES[1]);
    let mut jitter = || (side / 2) as f64 + stream.range(-0.5, 0.5);
    let target = [jitter(), jitter()];

    let mut galaxy = source.light(2 * u64::from(index), grid)?.into_owned().sheared(options.shear);
    let feature = options.inject.map(|inject| inject.apply(&mut galaxy, grid, options.seed, index)).transpose()?;
    let scale = amplitude(&galaxy, grid, magnitude);
    let feature = feature.map(|feature| {
        let flux = feature.flux.iter().map(|flux| flux * scale).collect();
        Feature { flux, ..feature }
    });
    let mut images = observe(&galaxy, scale, redshift, target, side, &psfs)?;
    let neighbour = stream.chance(options.neighbours);
    if neighbour {
        let other = source.light(2 * u64::from(index) + 1, grid)?;
        let fainter = amplitude(&other, grid, magnitude + stream.range(0.3, 3.0));
        let redshift = stream.range(0.2, 0.9);
        let distance = stream.range(3.5, 8.0) / optics::PITCH;
        let angle = stream.angle();
        let place = [target[0] + distance * angle.cos(), target[1] + distance * angle.sin()];
        let light = observe(&other, fainter, redshift, place, side, &psfs)?;
        for (image, light) in images.iter_mut().zip(&light) {
            image.iter_mut().zip(light).for_each(|(sum, value)| *sum += value);
        }
    }
    let mut noise = Vec::new();
    for (band, (name, image)) in grid.bands.iter().zip(&mut images).enumerate() {
        let sigma = options.optics.noise_of(name, band);
        let level = options.optics.sky_of(band) as f32;
        let sky = optics::noise(options.seed, &id, band as u32, [side, side], sigma, options.correlated);
        image.iter_mut().zip(&sky).for_each(|(sum, value)| *sum += value + level);
        noise.push(sigma);
    }
    let flux = galaxy.on_grid(grid.size, grid.pixel_kpc, scale);
    let area = grid.size * grid.size;
    let total = |plane: &[f32]| plane.iter().map(|&value| f64::from(value)).sum::<f64>();
    let magnitudes = flux.chunks_exact(area).map(|plane| ZERO_POINT_NJY - 2.5 * total(plane).log10()).collect();
    let truth = galaxy.truth;
    let shape = [side, side];
    Ok(SimulatedObject {
        id,
        ra,
        dec,
        redshift,
        catalogued,
        magnitudes,
        truth,
        flux,
        theta,
        feature,
        neighbour,
        shape,
        target,
        images,
        noise,
        psfs,
    })
}

/// The catalogue's redshift of an object: the true one, or a draw about it of those that a catalogue may have.
fn scattered(options: &SimulateOptions, redshift: f64, index: u32) -> f64 {
    let Some(error) = options.redshift_error else { return redshift };
    // A sequence of its own: those that the posterior's redshifts are drawn from must not know of it.
    let mut stream = Stream::new(options.seed, "simulate/redshift", u64::from(index), Purpose::Evaluation);
    loop {
        let drawn = redshift + error * stream.normal();
        if drawn > 0.0 && drawn <= Z_MAX {
            return drawn;
        }
    }
}

fn theta(pixel_kpc: f64, redshift: f64) -> Result<f64> {
    theta_arcsec(pixel_kpc, redshift).map_err(|error| Error::usage(format!("simulate: {error}")))
}

/// nJy per unit of the galaxy's image such that it has this magnitude in the i band (or the last, without one).
fn amplitude(galaxy: &Light, grid: &Grid, magnitude: f64) -> f64 {
    let band = grid.bands.iter().position(|band| band == "i").unwrap_or(grid.bands.len() - 1);
    10f64.powf(-0.4 * (magnitude - ZERO_POINT_NJY)) / galaxy.flux[band].max(1e-300)
}

/// The galaxy through the PSFs on a square of `side` detector pixels, with its centre at `target`.
fn observe(
    galaxy: &Light,
    scale: f64,
    redshift: f64,
    target: [f64; 2],
    side: usize,
    psfs: &[Psf],
) -> Result<Vec<Vec<f32>>> {
    let size = galaxy.size as i64;
    let shape = [side as i64; 2];
    let field =
        Field { size, prior_pitch: theta(galaxy.pixel_kpc, redshift)?, detector_pitch: optics::PITCH, target, shape };
    let operator = SamplingOperator::new(&field, psfs, Kind::Double, Device::Cpu)?;
    let flux = Tensor::f_from_slice(&galaxy.image)?.f_view([1, psfs.len() as i64, size, size])?;
    let seen = operator.apply(&flux.f_to_kind(Kind::Double)?.f_mul_scalar(scale)?)?;
    let seen = seen.f_to_kind(Kind::Float)?.f_contiguous()?.f_view([-1])?;
    let values: Vec<f32> = Vec::try_from(&seen)?;
    Ok(values.chunks_exact(side * side).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests;
