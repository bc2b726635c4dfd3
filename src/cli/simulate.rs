//! `unseeing simulate`: makes a small survey with known truth.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::cli::DONE;
use crate::evaluate::simulate::{Depth, Galaxies, Images, Injection, Optics, Seeing, SimulateOptions, Units, simulate};
use crate::train::procedural::Grid;
use crate::{Error, Result};

/// Arguments of `unseeing simulate`.
#[derive(ClapArgs)]
pub struct Args {
    /// Folder that the survey is written to
    #[arg(value_name = "DIR", required_unless_present = "out")]
    folder: Option<PathBuf>,
    /// The same, as an option
    #[arg(long, value_name = "DIR", conflicts_with = "folder")]
    out: Option<PathBuf>,
    /// Galaxies
    #[arg(long, default_value_t = 4)]
    objects: u32,
    /// Seed; the same seed gives the same survey
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Bands, in the order of the prior's channels: any of g, r, i, z, y
    #[arg(long, value_delimiter = ',', default_value = "g,r,i")]
    bands: Vec<String>,
    /// Whose seeing, pixels and noise: only `hsc` is known
    #[arg(long, default_value = "hsc")]
    survey: String,
    /// Sky noise
    #[arg(long, value_enum, default_value = "ultra-deep")]
    depth: Depth,
    #[command(flatten)]
    optics: OpticsArgs,
    /// Independent noise in every pixel instead of a coadd's correlated noise
    #[arg(long)]
    white: bool,
    /// Redshifts, LOW,HIGH
    #[arg(long, value_delimiter = ',', default_value = "0.1,0.6")]
    redshift: Vec<f64>,
    /// Scatters the catalogue's redshifts about the true ones by this standard deviation, and makes the config propagate it
    #[arg(long, value_name = "SD")]
    redshift_error: Option<f64>,
    /// AB magnitudes in i (or the last band), LOW,HIGH
    #[arg(long, value_delimiter = ',', default_value = "18.5,22")]
    magnitude: Vec<f64>,
    /// Probability of another galaxy in the frame
    #[arg(long, default_value_t = 0.25)]
    neighbours: f64,
    /// Leaves mask and variance HDUs empty, as HSC's cutout service may
    #[arg(long)]
    empty_planes: bool,
    /// The prior that the config names
    #[arg(long, value_name = "FILE", default_value = "priors/default.safetensors")]
    prior: PathBuf,
    /// Samples per object that the config asks for
    #[arg(long, default_value_t = 64)]
    samples: u32,
    /// Pixels of the truth on a side, and their pitch in kpc: those of the prior
    #[arg(long, default_value_t = 64)]
    size: usize,
    #[arg(long, default_value_t = 0.8)]
    pixel_kpc: f64,
    #[command(flatten)]
    galaxies: GalaxyArgs,
    /// Reduced shear of all galaxies, G1,G2
    #[arg(long, value_delimiter = ',', default_value = "0,0", allow_hyphen_values = true)]
    shear: Vec<f64>,
    /// Adds a compact feature of this part of the galaxy's flux to every second galaxy, for `evaluate recovery`
    #[arg(long, value_name = "PART")]
    inject: Option<f64>,
    /// Full width at half maximum of that feature, kpc
    #[arg(long, value_name = "KPC", default_value_t = 1.6)]
    inject_fwhm: f64,
    /// Prints what was made as JSON
    #[arg(long)]
    json: bool,
}

/// What galaxies are seen through.
#[derive(ClapArgs)]
pub struct OpticsArgs {
    /// Point spread function: HSC-like ones, round profiles of --psf-fwhm, or images
    #[arg(long, value_enum, default_value = "hsc")]
    psf: PsfKind,
    /// Full widths at half maximum, arcsec: one for all bands, or one for each
    #[arg(long, value_name = "ARCSEC", value_delimiter = ',')]
    psf_fwhm: Vec<f64>,
    /// Exponent of the Moffat profile
    #[arg(long, default_value_t = 3.0)]
    psf_beta: f64,
    /// FITS images of the PSF, with pixels of 0.168 arcsec: one for all bands, or one for each (implies --psf file)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    psf_file: Vec<PathBuf>,
    /// Standard deviation of the sky noise, nJy per pixel, one or one for each band, in place of the depth's
    #[arg(long, value_name = "NJY", value_delimiter = ',')]
    noise: Vec<f64>,
    /// Sky level left in the images, nJy per pixel, one or one for each band
    #[arg(long, value_name = "NJY", value_delimiter = ',', allow_hyphen_values = true)]
    sky: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum PsfKind {
    /// Slightly elliptical Moffat profiles about HSC's median seeing, others for each object
    Hsc,
    Gaussian,
    Moffat,
    /// Images: see --psf-file
    File,
}

impl OpticsArgs {
    /// Seeing, noise and sky level; an option that the kind of PSF does not use is an error.
    pub fn optics(&self, depth: Depth) -> Result<Optics> {
        let (fwhm, files) = (self.psf_fwhm.clone(), self.psf_file.clone());
        let seeing = match self.psf {
            PsfKind::Hsc | PsfKind::File if !files.is_empty() && fwhm.is_empty() => Seeing::Files(files),
            PsfKind::Hsc if fwhm.is_empty() => Seeing::Hsc,
            PsfKind::Gaussian if files.is_empty() && !fwhm.is_empty() => Seeing::Gaussian { fwhm },
            PsfKind::Moffat if files.is_empty() && !fwhm.is_empty() => Seeing::Moffat { fwhm, beta: self.psf_beta },
            PsfKind::File => return Err(Error::usage("--psf file needs --psf-file, and no --psf-fwhm")),
            PsfKind::Gaussian | PsfKind::Moffat => {
                return Err(Error::usage("--psf gaussian and --psf moffat need --psf-fwhm, and no --psf-file"));
            }
            PsfKind::Hsc => return Err(Error::usage("--psf-fwhm is for --psf gaussian or --psf moffat")),
        };
        Ok(Optics { depth, seeing, noise: self.noise.clone(), sky: self.sky.clone() })
    }
}

/// Which galaxies are simulated.
#[derive(ClapArgs)]
pub struct GalaxyArgs {
    /// What is simulated
    #[arg(long, value_enum, default_value = "procedural")]
    galaxies: Galaxies,
    /// Images for `--galaxies image` (implied): one FITS file for each band (or one for all), FITS files with an extension
    /// SUBARU_HSC.G, SUBARU_HSC.R and so on for each band (TNG's `*_photo.fits`), or an npz file with `images`
    #[arg(long, value_name = "FILE", num_args = 1..)]
    image: Vec<PathBuf>,
    /// What their pixels hold; else what BUNIT tells, and flux without it
    #[arg(long, value_enum)]
    image_units: Option<Units>,
    /// Their pitch in kpc; else what the header tells
    #[arg(long)]
    image_kpc: Option<f64>,
}

impl GalaxyArgs {
    /// The kind of galaxies, and the images where they are read from files.
    pub fn galaxies(&self) -> Result<(Galaxies, Option<Images>)> {
        if self.image.is_empty() {
            return Ok((self.galaxies.clone(), None));
        }
        if let Some(pitch) = self.image_kpc
            && !(pitch > 0.0 && pitch.is_finite())
        {
            return Err(Error::usage(format!("--image-kpc {pitch}: expected a positive number")));
        }
        let (paths, units, pixel_kpc) = (self.image.clone(), self.image_units, self.image_kpc);
        Ok((Galaxies::Image, Some(Images { paths, units, pixel_kpc })))
    }
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    if args.survey != "hsc" {
        return Err(Error::usage(format!("--survey {}: only `hsc` is known", args.survey)));
    }
    let pair = |name: &str, values: &[f64]| match values {
        [low, high] => Ok([*low, *high]),
        _ => Err(Error::usage(format!("--{name}: expected LOW,HIGH"))),
    };
    let folder = args.folder.or(args.out).ok_or_else(|| Error::usage("simulate: which folder?"))?;
    // Truths are normalised in r where there is one; nothing that is written depends on it.
    let reference = args.bands.iter().position(|band| band == "r").unwrap_or(0);
    let (galaxies, images) = args.galaxies.galaxies()?;
    let options = SimulateOptions {
        folder,
        objects: args.objects,
        seed: args.seed,
        grid: Grid { size: args.size, pixel_kpc: args.pixel_kpc, bands: args.bands, reference },
        redshifts: pair("redshift", &args.redshift)?,
        redshift_error: args.redshift_error,
        magnitudes: pair("magnitude", &args.magnitude)?,
        optics: args.optics.optics(args.depth)?,
        correlated: !args.white,
        neighbours: args.neighbours,
        empty_planes: args.empty_planes,
        prior: args.prior,
        samples: args.samples,
        galaxies,
        images,
        shear: pair("shear", &args.shear)?,
        inject: args.inject.map(|part| Injection { part, fwhm_kpc: args.inject_fwhm }),
    };
    let mut objects = Vec::new();
    let config = simulate(&options, |object| {
        if !args.json {
            let known = object.truth.as_ref().map(|truth| {
                let kind = serde_json::to_value(truth.kind).unwrap_or_default();
                format!("{}, r50 {:.1} kpc, ", kind.as_str().unwrap_or_default(), truth.r50_kpc)
            });
            println!(
                "{}: {}z {:.3}, magnitudes {}",
                object.id,
                known.unwrap_or_default(),
                object.redshift,
                object.magnitudes.iter().map(|mag| format!("{mag:.2}")).collect::<Vec<_>>().join(" ")
            );
        }
        objects.push(serde_json::json!({
            "id": object.id, "redshift": object.redshift, "magnitudes": object.magnitudes, "truth": object.truth,
        }));
    })?;
    // Nothing here needs it, but what comes next does.
    if !options.prior.exists() {
        eprintln!(
            "note: the config names the prior {}, which is not there: --prior names one",
            options.prior.display()
        );
    }
    if args.json {
        println!("{}", serde_json::json!({ "config": config, "objects": objects }));
    } else {
        println!("{} objects; config: {}", options.objects, config.display());
    }
    Ok(DONE)
}
