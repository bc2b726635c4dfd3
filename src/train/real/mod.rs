//! Real galaxies: read from files, cleaned, completed beyond their isophotal edges, and viewed under augmentation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::augment::{AugmentationConfig, View, jitter, resample};
use super::dataset::DatasetConfig;
use super::procedural::{Colour, Grid, Shift, normalise};
use super::stream::Stream;
use crate::random::Purpose;
use crate::sky::cosmology::theta_arcsec;
use crate::{Error, Result};

mod clean;
mod duplicates;
mod read;

pub use clean::Cleaned;

/// A file of real galaxies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealSource {
    pub path: PathBuf,
    #[serde(default)]
    pub format: Format,
    /// The array of images, `[N, h, w]` or `[N, channels, h, w]` (npz and HDF5).
    #[serde(default = "images")]
    pub key: String,
    /// arcsec per pixel.
    pub pixel_scale: f64,
    /// Resolution of the images, FWHM in arcsec.
    pub psf_fwhm: f64,
    pub redshift: RedshiftRule,
    /// The channel of each of the dataset's bands; without it, images have one channel and colours are invented.
    #[serde(default)]
    pub channels: Option<Vec<usize>>,
    /// Magnitudes by which each band is made fainter, so that colours are typical ones of the dataset's bands.
    #[serde(default)]
    pub dimming: Option<Vec<f64>>,
    /// Only the images for which this array has this value.
    #[serde(default)]
    pub only: Option<Only>,
    /// Images that are left out (artefacts, neighbours that no rule finds), by their index in the file.
    #[serde(default)]
    pub exclude: Vec<usize>,
    /// The images have zero sky and nothing but the galaxy (cut out at an isophote): no sky or neighbours to remove, but
    /// wings to put back.
    #[serde(default)]
    pub isolated: bool,
    /// Half-light radii that are kept, kpc.
    #[serde(default = "sizes")]
    pub r50_kpc: [f64; 2],
    /// Galaxies with a lower signal-to-noise ratio per resolution element at the half-light radius are dropped.
    #[serde(default = "signal_to_noise")]
    pub min_signal_to_noise: f64,
    /// The images need nothing: simulated ones without noise, centred, with all their light.
    // Left out of what is digested where it is not used: the digests of older data sets stay as they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub complete: bool,
}

fn images() -> String {
    "images".into()
}

fn sizes() -> [f64; 2] {
    [0.8, 12.0]
}

fn signal_to_noise() -> f64 {
    8.0
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A NumPy archive.
    #[default]
    Npz,
    /// An HDF5 file.
    Hdf5,
    /// A folder of FITS files, one galaxy each; the image HDUs of a file are its channels.
    Fits,
}

/// Where redshifts come from. They give images their size in kpc.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RedshiftRule {
    /// An array of the file, or a keyword of the FITS headers.
    Column { key: String },
    /// Unknown: each galaxy is declared to be at a redshift drawn uniformly from this range, by key.
    Drawn { low: f64, high: f64 },
}

/// A selection by the value of an array.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Only {
    pub key: String,
    pub value: String,
}

/// One real galaxy, ready to be viewed.
pub struct RealGalaxy {
    /// Which image of which source.
    pub name: String,
    /// Galaxies of the same group are near-duplicates.
    pub group: String,
    cleaned: Cleaned,
    native_kpc: f64,
    fwhm_kpc: f64,
    /// One band only: colours are invented for each view.
    monochrome: bool,
}

impl RealGalaxy {
    /// A random view of it on the grid: flux per pixel `[C, n, n]`, the reference band sums to one.
    pub fn view(&self, grid: &Grid, augmentation: &AugmentationConfig, stream: &mut Stream) -> Vec<f32> {
        let zoom = stream.log_range(augmentation.zoom[0], augmentation.zoom[1]);
        let mut shift = || stream.range(-augmentation.shift, augmentation.shift) * grid.pixel_kpc;
        let shift = [shift(), shift()];
        let view = View {
            angle: stream.angle(),
            mirrored: stream.chance(0.5),
            native_kpc: self.native_kpc * zoom,
            shift,
            fwhm_kpc: self.fwhm_kpc * zoom,
        };
        let cleaned = &self.cleaned;
        let planes = resample(&cleaned.planes, cleaned.width, cleaned.centre, grid, &view);
        let mut image = if self.monochrome { colourise(&planes, grid, stream) } else { planes };
        normalise(&mut image, grid);
        jitter(image, grid, augmentation.colour, stream)
    }

    /// Half-light radius, kpc.
    pub fn r50_kpc(&self) -> f64 {
        self.cleaned.r50 * self.native_kpc
    }

    /// Adds everything that it is to the hasher.
    pub fn digest_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(self.name.as_bytes());
        hasher.update(&self.native_kpc.to_le_bytes());
        for value in self.cleaned.planes.iter().flatten() {
            hasher.update(&value.to_le_bytes());
        }
    }
}

/// Turns (light, light x share of the outer colour) into bands: red centre to blue outskirts for most, even or slightly
/// reversed for some, as real gradients are.
fn colourise(planes: &[f32], grid: &Grid, stream: &mut Stream) -> Vec<f32> {
    let area = grid.size * grid.size;
    let shift = Shift::draw(stream);
    let centre = stream.range(0.35, 0.85);
    let difference = 0.22 + 0.16 * stream.normal();
    let outside = (centre - difference).max(0.1);
    let tilt = 0.03 * stream.normal();
    // Old stars, which are red already, redden most.
    let colour = |g_r: f64| Colour {
        g_r: g_r + (0.1 + 1.1 * g_r) * shift.g_r,
        r_i: 0.05 + 0.42 * g_r + tilt + (0.1 + 0.95 * g_r) * shift.r_i,
    };
    let (inner, outer) = (colour(centre).sed(&grid.bands), colour(outside).sed(&grid.bands));
    let (light, outer_light) = planes.split_at(area);
    let mut image = Vec::with_capacity(grid.bands.len() * area);
    for (a, b) in inner.iter().zip(&outer) {
        image.extend(
            light.iter().zip(outer_light).map(|(all, out)| a * (all - out.clamp(0.0, *all)) + b * out.clamp(0.0, *all)),
        );
    }
    image
}

/// Reads the galaxies of a source; those with too little signal, neighbours that cannot be removed or an absurd size
/// are dropped. `name` tells sources apart in keys.
pub fn read(source: &RealSource, grid: &Grid, seed: u64, name: &str) -> Result<Vec<RealGalaxy>> {
    let path = &source.path;
    let fail = |what: String| Error::file(path, what);
    let mut images = read::Images::read(source)?;
    let (count, channels, width) = (images.count, images.channels, images.width);
    let monochrome = source.channels.is_none();
    let picked = source.channels.clone().unwrap_or_else(|| vec![0]);
    let wanted = if monochrome { 1 } else { grid.bands.len() };
    if picked.len() != wanted || picked.iter().any(|&channel| channel >= channels) || (monochrome && channels != 1) {
        return Err(fail(format!(
            "channels = {picked:?} does not fit: {wanted} of the file's {channels} channels are needed, one per band"
        )));
    }
    if source.dimming.as_ref().is_some_and(|dimming| dimming.len() != wanted) {
        return Err(fail(format!("dimming needs {wanted} values, one per band")));
    }
    let scales = [source.pixel_scale, source.psf_fwhm];
    if scales.iter().any(|scale| !(*scale > 0.0 && *scale < 100.0)) {
        return Err(fail(format!("pixel_scale and psf_fwhm = {scales:?}: expected arcsec above 0")));
    }
    let redshifts = match &source.redshift {
        RedshiftRule::Column { key } => images.numbers(key)?,
        RedshiftRule::Drawn { low, high } => (0..count as u64)
            .map(|index| Stream::new(seed, &format!("redshift/{name}"), index, Purpose::Galaxy).range(*low, *high))
            .collect(),
    };
    let chosen = match &source.only {
        Some(only) => images.texts(&only.key)?.iter().map(|text| *text == only.value).collect(),
        None => vec![true; count],
    };
    let images = &images;
    let prepare = |index: usize| {
        let bands: Vec<&[f32]> = picked.iter().map(|&channel| images.plane(index, channel)).collect();
        prepare(&bands, width, redshifts[index], source, grid, format!("{name}/{index}"))
    };
    let wanted: Vec<usize> = (0..count).filter(|&index| chosen[index] && !source.exclude.contains(&index)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut galaxies: Vec<RealGalaxy> = std::thread::scope(|scope| {
        let parts = wanted.chunks(wanted.len().div_ceil(threads).max(1));
        let workers: Vec<_> = parts
            .map(|part| scope.spawn(|| part.iter().filter_map(|&index| prepare(index)).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().map(|worker| worker.join()).collect::<std::thread::Result<Vec<_>>>()
    })
    .map_err(|_| Error::internal(format!("{}: a thread that cleans its images panicked", path.display())))?
    .into_iter()
    .flatten()
    .collect();
    if galaxies.is_empty() {
        return Err(fail("no image is usable: check pixel_scale, redshift, r50_kpc and min_signal_to_noise".into()));
    }
    duplicates::group(&mut galaxies);
    Ok(galaxies)
}

/// Cleans one galaxy and gives it its size. None when it is not usable.
fn prepare(
    bands: &[&[f32]],
    width: usize,
    redshift: f64,
    source: &RealSource,
    grid: &Grid,
    name: String,
) -> Option<RealGalaxy> {
    let arcsec_per_kpc = theta_arcsec(1.0, redshift).ok()?;
    let native_kpc = source.pixel_scale / arcsec_per_kpc;
    let monochrome = source.channels.is_none();
    let reference = if monochrome { 0 } else { grid.reference };
    // A view may be rotated by 45 degrees and zoomed out by 0.8, and the light goes on beyond the file's frame.
    let side = (1.3 * std::f64::consts::SQRT_2 * grid.size as f64 * grid.pixel_kpc / native_kpc).ceil() as usize;
    let element = grid.resolution_kpc() / native_kpc;
    let mut cleaned = clean::clean(bands, width, reference, source, side, element)?;
    let r50 = cleaned.r50 * native_kpc;
    if !(source.r50_kpc[0]..=source.r50_kpc[1]).contains(&r50) {
        return None;
    }
    if let Some(dimming) = &source.dimming {
        for (plane, magnitudes) in cleaned.planes.iter_mut().zip(dimming) {
            let factor = 10f64.powf(-0.4 * magnitudes) as f32;
            plane.iter_mut().for_each(|value| *value *= factor);
        }
    }
    let fwhm_kpc = source.psf_fwhm / arcsec_per_kpc;
    Some(RealGalaxy { group: name.clone(), name, cleaned, native_kpc, fwhm_kpc, monochrome })
}

/// Splits by group into (to train on, held out): a group's side is a pure function of the seed and its name.
pub fn split(galaxies: Vec<RealGalaxy>, config: &DatasetConfig) -> (Vec<RealGalaxy>, Vec<RealGalaxy>) {
    let out = |galaxy: &RealGalaxy| {
        let mut stream = Stream::new(config.seed, &format!("split/{}", galaxy.group), 0, Purpose::TrainingChoice);
        stream.chance(config.heldout_fraction)
    };
    galaxies.into_iter().partition(|galaxy| !out(galaxy))
}

#[cfg(test)]
mod tests;
