//! The files of a simulated survey: cutouts, PSFs, catalogue, truths, and a config that `unseeing run` takes as it is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::optics::PITCH;
use super::{Feature, SimulateOptions, SimulatedObject};
use crate::config::{
    CatalogConfig, ColumnsConfig, Config, DataConfig, DeviceKind, FlagsConfig, NeighbourConfig, NoiseConfig,
    NoiseModel, NuisanceConfig, PhotoZConfig, PhotoZMode, PosteriorConfig, PriorConfig, RunConfig, SamplerConfig,
    SurveyConfig,
};
use crate::io::fits::{Keyword, NewImage, Pixels, write_images};
use crate::io::hdf5::Writer;
use crate::io::publish::publish_path;
use crate::sky::wcs::TanWcs;
use crate::{Error, Result};

/// The catalogue's column of the redshifts' standard deviation.
const REDSHIFT_ERROR: &str = "redshift_err";
/// Zero point of the images, as HSC's coadds have it; and FLUXMAG0, the same thing in counts.
const ZERO_POINT: f64 = 27.0;
const FLUXMAG0: f64 = 6.309_573_444_801_93e10;
/// Counts per nJy.
const COUNTS_PER_NJY: f64 = FLUXMAG0 / 3631e9;

/// A survey that is being written.
pub struct Survey<'a> {
    options: &'a SimulateOptions,
    catalog: String,
    truths: String,
    ids: Vec<String>,
    flux: Vec<f32>,
    redshifts: Vec<f64>,
    features: Vec<Feature>,
}

impl<'a> Survey<'a> {
    /// Makes the folders. A folder that holds a survey already is left alone, with an error.
    pub fn create(options: &'a SimulateOptions) -> Result<Self> {
        let folder = &options.folder;
        if folder.join("config.toml").exists() {
            let what = "there is a config.toml in it already: give another folder, or remove this one";
            return Err(Error::usage(format!("{}: {what}", folder.display())));
        }
        for name in ["cutouts", "psfs", "truth"] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(|error| Error::file(&path, format!("cannot create: {error}")))?;
        }
        let mags = |suffix: &str| options.grid.bands.iter().map(|band| format!(",{band}_{suffix}")).collect::<String>();
        let catalog = format!(
            "# Simulated survey: {} objects, seed {}, depth {:?}, {} noise\nobject_id,ra,dec,redshift{}{}\n",
            options.objects,
            options.seed,
            options.optics.depth,
            if options.correlated { "correlated" } else { "white" },
            if options.redshift_error.is_some() { format!(",{REDSHIFT_ERROR}") } else { String::new() },
            mags("mag")
        );
        let truths = format!(
            "object_id,kind,redshift,size_kpc,r50_kpc,axis_ratio,bulge_fraction,arms,companions,neighbour{}\n",
            mags("mag")
        );
        Ok(Survey {
            options,
            catalog,
            truths,
            ids: Vec::new(),
            flux: Vec::new(),
            redshifts: Vec::new(),
            features: Vec::new(),
        })
    }

    /// Writes one object's images and notes it in the tables.
    pub fn add(&mut self, object: &SimulatedObject) -> Result<()> {
        let SimulatedObject { id, ra, dec, redshift, catalogued, truth, .. } = object;
        let folder = &self.options.folder;
        for (index, band) in self.options.grid.bands.iter().enumerate() {
            self.write_cutout(&folder.join(format!("cutouts/{id}-{band}.fits")), object, index, band)?;
            let psf = &object.psfs[index];
            let values: Vec<f32> = psf.values().iter().map(|&value| value as f32).collect();
            let image = NewImage {
                name: "",
                shape: &psf.shape(),
                pixels: Pixels::Floats(&values),
                wcs: None,
                keywords: vec![Keyword::text("FILTER", band, "")],
            };
            write_images(&folder.join(format!("psfs/{id}-{band}.fits")), &[image])?;
        }
        self.write_truth(&folder.join(format!("truth/{id}.fits")), object)?;
        // Without light there is no magnitude: an empty cell.
        let cell = |mag: &f64| if mag.is_finite() { format!(",{mag:.4}") } else { ",".into() };
        let mags: String = object.magnitudes.iter().map(cell).collect();
        let error = self.options.redshift_error.map(|error| format!(",{error}")).unwrap_or_default();
        let _ = writeln!(self.catalog, "{id},{ra:.9},{dec:.9},{catalogued:.6}{error}{mags}");
        let known = truth.as_ref().map(|truth| {
            let kind = serde_json::to_string(&truth.kind).unwrap_or_default().replace('"', "");
            let numbers = [truth.size_kpc, truth.r50_kpc, truth.axis_ratio, truth.bulge_fraction];
            let numbers: String = numbers.iter().map(|number| format!("{number:.3},")).collect();
            format!("{kind},{redshift:.6},{numbers}{},{}", truth.arms, truth.companions)
        });
        let kind = format!("{:?}", self.options.galaxies).to_lowercase();
        let known = known.unwrap_or_else(|| format!("{kind},{redshift:.6},,,,,,"));
        let _ = writeln!(self.truths, "{id},{known},{}{mags}", u8::from(object.neighbour));
        self.ids.push(id.clone());
        self.flux.extend_from_slice(&object.flux);
        self.redshifts.push(*redshift);
        self.features.extend(object.feature.clone());
        Ok(())
    }

    /// Writes the tables, and the config last: a folder with a config is whole. Gives the config's path.
    pub fn finish(self) -> Result<PathBuf> {
        let folder = &self.options.folder;
        write_text(&folder.join("catalog.csv"), &self.catalog)?;
        write_text(&folder.join("truth.csv"), &self.truths)?;
        let grid = &self.options.grid;
        publish_path(&folder.join("truth.hdf5"), |temporary| {
            let file = Writer::create(temporary)?;
            file.attribute("about", &"Truth of a simulated survey: flux [object, band, y, x] in nJy per pixel".into())?;
            file.attribute("bands", &crate::io::hdf5::Attribute::Texts(grid.bands.clone()))?;
            file.attribute("pixel_kpc", &crate::io::hdf5::Attribute::Number(grid.pixel_kpc))?;
            file.texts("id", &self.ids)?;
            let shape = [self.ids.len(), grid.bands.len(), grid.size, grid.size];
            file.rows::<f32>("flux", &shape)?.write(0, shape[0], &self.flux)?;
            file.numbers("redshift", &[self.redshifts.len()], &self.redshifts)?;
            if let Some(inject) = self.options.inject {
                let (count, features) = (self.features.len(), &self.features);
                let places: Vec<f64> = features.iter().flat_map(|feature| feature.place).collect();
                let flux: Vec<f64> = features.iter().flat_map(|feature| feature.flux.clone()).collect();
                let added: Vec<u8> = features.iter().map(|feature| u8::from(feature.added)).collect();
                file.attribute("feature_fwhm_kpc", &crate::io::hdf5::Attribute::Number(inject.fwhm_kpc))?;
                file.numbers("feature/place", &[count, 2], &places)?;
                file.numbers("feature/flux", &[count, grid.bands.len()], &flux)?;
                file.numbers("feature/added", &[count], &added)?;
            }
            let bands = grid.bands.iter().enumerate();
            let noise = bands.map(|(index, band)| self.options.optics.noise_of(band, index)).collect();
            let sky = (0..grid.bands.len()).map(|band| self.options.optics.sky_of(band)).collect();
            file.attribute("noise_sd", &crate::io::hdf5::Attribute::Numbers(noise))?;
            file.attribute("sky", &crate::io::hdf5::Attribute::Numbers(sky))?;
            file.close()
        })?;
        let path = folder.join("config.toml");
        let text = toml::to_string(&self.config()?).map_err(|error| Error::internal(format!("config: {error}")))?;
        let head = "# Written by `unseeing simulate`. Run it with `unseeing run`, alone or under mpirun.\n\n";
        write_text(&path, &format!("{head}{text}"))?;
        Ok(path)
    }

    fn write_cutout(&self, path: &Path, object: &SimulatedObject, index: usize, band: &str) -> Result<()> {
        let counts: Vec<f32> =
            object.images[index].iter().map(|&flux| (f64::from(flux) * COUNTS_PER_NJY) as f32).collect();
        let variance = vec![(object.noise[index] * COUNTS_PER_NJY).powi(2) as f32; counts.len()];
        let mask = vec![0i32; counts.len()];
        let degrees = PITCH / 3600.0;
        let cd = [[-degrees, 0.0], [0.0, degrees]];
        let wcs = Some(TanWcs { crval: [object.ra, object.dec], crpix: object.target, cd });
        let empty: &[usize] = &[0];
        let planes = if self.options.empty_planes { empty } else { &object.shape };
        let some = if self.options.empty_planes { 0 } else { counts.len() };
        let keywords = vec![
            Keyword::text("FILTER", band, ""),
            Keyword::number("FLUXMAG0", FLUXMAG0, "counts of AB magnitude 0"),
            Keyword::number("ZEROPT", ZERO_POINT, "AB magnitude of one count"),
            Keyword::text("ORIGIN", "simulated", "no real sky"),
        ];
        let image = NewImage { name: "IMAGE", shape: &object.shape, pixels: Pixels::Floats(&counts), wcs, keywords };
        let plane = |name, pixels| NewImage { name, shape: planes, pixels, wcs: None, keywords: Vec::new() };
        let mask = plane("MASK", Pixels::Integers(&mask[..some]));
        let variance = plane("VARIANCE", Pixels::Floats(&variance[..some]));
        write_images(path, &[image, mask, variance])
    }

    fn write_truth(&self, path: &Path, object: &SimulatedObject) -> Result<()> {
        let grid = &self.options.grid;
        let shape = [grid.size, grid.size];
        let degrees = object.theta / 3600.0;
        let centre = (grid.size as f64 - 1.0) / 2.0;
        let wcs = TanWcs { crval: [object.ra, object.dec], crpix: [centre; 2], cd: [[-degrees, 0.0], [0.0, degrees]] };
        let images: Vec<NewImage> = object
            .flux
            .chunks_exact(grid.size * grid.size)
            .zip(&grid.bands)
            .map(|(plane, band)| NewImage {
                name: band,
                shape: &shape,
                pixels: Pixels::Floats(plane),
                wcs: Some(wcs),
                keywords: vec![
                    Keyword::text("BUNIT", "nJy", "per pixel"),
                    Keyword::text("FILTER", band, ""),
                    Keyword::number("REDSHIFT", object.redshift, ""),
                    Keyword::number("PIXKPC", grid.pixel_kpc, "kpc per pixel"),
                ],
            })
            .collect();
        write_images(path, &images)
    }

    fn config(&self) -> Result<Config> {
        let options = self.options;
        // Relative paths in a config are relative to its own folder; the option's is relative to the working folder.
        let prior = std::path::absolute(&options.prior)
            .map_err(|error| Error::usage(format!("{}: not a path: {error}", options.prior.display())))?;
        Ok(Config {
            survey: SurveyConfig {
                name: "simulated".into(),
                folder: "run".into(),
                seed: options.seed,
                shard_objects: options.objects.clamp(1, 256),
            },
            catalog: CatalogConfig {
                paths: vec!["catalog.csv".into()],
                columns: ColumnsConfig {
                    redshift_error: options.redshift_error.map(|_| REDSHIFT_ERROR.into()),
                    ..ColumnsConfig::default()
                },
            },
            data: DataConfig {
                bands: options.grid.bands.clone(),
                image: "cutouts/{id}-{band}.fits".into(),
                psf: "psfs/{id}-{band}.fits".into(),
                psf_includes_pixel: true,
                zero_point: None,
                saturation: None,
                mask_bits: None,
                extinction_coefficients: None,
            },
            noise: NoiseConfig {
                model: if options.correlated { NoiseModel::Correlated } else { NoiseModel::White },
                ..NoiseConfig::default()
            },
            neighbours: NeighbourConfig::default(),
            nuisance: NuisanceConfig::default(),
            photo_z: PhotoZConfig {
                mode: if options.redshift_error.is_some() { PhotoZMode::Propagated } else { PhotoZMode::Point },
            },
            prior: PriorConfig { path: prior },
            sampler: SamplerConfig::default(),
            posterior: PosteriorConfig {
                samples: options.samples,
                // Features are looked for in draws.
                keep_draws: if options.inject.is_some() { options.samples } else { 0 },
                ..PosteriorConfig::default()
            },
            flags: FlagsConfig::default(),
            run: RunConfig { device: DeviceKind::Cpu, threads: 1, ..RunConfig::default() },
            written: None,
        })
    }
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    publish_path(path, |temporary| std::fs::write(temporary, text).map_err(|error| Error::file(path, error)))
}
