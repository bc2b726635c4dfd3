//! `unseeing simulate`: makes a small survey with known truth.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::cli::DONE;
use crate::evaluate::simulate::{Depth, Galaxies, Images, SimulateOptions, Units, simulate};
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
    /// Independent noise in every pixel instead of a coadd's correlated noise
    #[arg(long)]
    white: bool,
    /// Redshifts, LOW,HIGH
    #[arg(long, value_delimiter = ',', default_value = "0.1,0.6")]
    redshift: Vec<f64>,
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
    /// Prints what was made as JSON
    #[arg(long)]
    json: bool,
}

/// Which galaxies are simulated.
#[derive(ClapArgs)]
pub struct GalaxyArgs {
    /// What is simulated
    #[arg(long, value_enum, default_value = "procedural")]
    galaxies: Galaxies,
    /// Images for `--galaxies image` (implied): one FITS file for each band (or one for all), or an npz file with `images`
    #[arg(long, value_name = "FILE", num_args = 1..)]
    image: Vec<PathBuf>,
    /// What their pixels hold
    #[arg(long, value_enum, default_value = "flux")]
    image_units: Units,
    /// Their pitch in kpc
    #[arg(long)]
    image_kpc: Option<f64>,
}

impl GalaxyArgs {
    /// The kind of galaxies, and the images where they are read from files.
    pub fn galaxies(&self) -> Result<(Galaxies, Option<Images>)> {
        match (self.image.is_empty(), self.image_kpc) {
            (true, _) => Ok((self.galaxies.clone(), None)),
            (false, Some(pixel_kpc)) if pixel_kpc > 0.0 && pixel_kpc.is_finite() => {
                let images = Images { paths: self.image.clone(), units: self.image_units, pixel_kpc };
                Ok((Galaxies::Image, Some(images)))
            }
            _ => Err(Error::usage("--image needs --image-kpc, the pitch of its pixels in kpc")),
        }
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
        magnitudes: pair("magnitude", &args.magnitude)?,
        depth: args.depth,
        correlated: !args.white,
        neighbours: args.neighbours,
        empty_planes: args.empty_planes,
        prior: args.prior,
        samples: args.samples,
        galaxies,
        images,
        shear: pair("shear", &args.shear)?,
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
    if args.json {
        println!("{}", serde_json::json!({ "config": config, "objects": objects }));
    } else {
        println!("{} objects; config: {}", options.objects, config.display());
    }
    Ok(DONE)
}
