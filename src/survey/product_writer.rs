//! The writer of a survey's product files: HDF5, by `product/`.

use std::path::Path;

use super::receipt::{ShardContext, ShardWriter};
use crate::device::{Fact, describe};
use crate::io::about::hdf5_version;
use crate::posterior::morphology;
use crate::prior::card::Normalisation;
use crate::prior::file;
use crate::product::ObjectRecord;
use crate::product::meta::ShardMeta;
use crate::product::read::content_digest;
use crate::product::shard::write_file;
use crate::{Error, Result};

/// What product files say of redshifts that are drawn from their errors.
const PROPAGATED: &str = "propagated: each posterior sample has a redshift of its own, drawn from the catalogue's error \
    or quantiles (samples/redshift). This is a cut posterior: the images do not inform the redshift. mean, variance and draws are on the grid \
    of the catalogue's redshift; variance ratios compare draws on their own grids, in kpc";

/// Writes HDF5 shard files.
pub struct ProductWriter;

impl ShardWriter for ProductWriter {
    fn extension(&self) -> &'static str {
        "h5"
    }

    fn write(&self, path: &Path, records: &[ObjectRecord], context: &ShardContext) -> Result<String> {
        write_file(path, records, &meta(context)?)
    }

    fn content(&self, path: &Path) -> Result<String> {
        content_digest(path)
    }
}

fn meta(context: &ShardContext) -> Result<ShardMeta> {
    let (plan, config) = (context.plan, context.config);
    let card = file::card(context.prior)?;
    let text = |value: &serde_json::Value| {
        serde_json::to_string_pretty(value).map_err(|error| Error::internal(format!("config as JSON: {error}")))
    };
    let catalog: Vec<&str> = plan.catalog.iter().map(|file| file.blake3.as_str()).collect();
    Ok(ShardMeta {
        survey: plan.name.clone(),
        seed: plan.seed,
        bands: config.data.bands.clone(),
        reference: card.normalisation.reference(),
        size: card.size as usize,
        pixel_kpc: card.pixel_kpc,
        samples: plan.samples as usize,
        kept_draws: config.posterior.keep_draws as usize,
        amplitudes: match card.normalisation {
            Normalisation::ReferenceBand { .. } => 1,
            Normalisation::BandPeak => card.bands.len(),
        },
        config: text(&plan.config)?,
        digests: vec![("catalog".into(), catalog.join(",")), ("prior".into(), plan.prior.blake3.clone())],
        versions: vec![
            ("unseeing".into(), env!("CARGO_PKG_VERSION").into()),
            ("libtorch".into(), describe(Fact::Version)?),
            ("hdf5".into(), hdf5_version()),
        ],
        photo_z: if config.photo_z.propagated() { PROPAGATED.into() } else { String::new() },
        prior: card.name,
        prior_caution: card.caution,
        prior_samples: file::draw_samples(context.prior, &morphology::names(card.bands.len()))?,
    })
}
