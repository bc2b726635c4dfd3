//! What a product file says of itself, as attributes of the file.

use super::schema;
use super::stack::Lengths;
use crate::io::hdf5::{Attribute, Reader, Writer};
use crate::{Error, Result};

/// What a file says of itself. Nothing here may differ between two runs of one plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardMeta {
    /// The survey's name.
    pub survey: String,
    /// The survey's random seed.
    pub seed: u64,
    /// Bands in the order of the channels.
    pub bands: Vec<String>,
    /// Index of the reference band, in which sizes and shapes are measured.
    pub reference: usize,
    /// Pixels on a side of the product images.
    pub size: usize,
    /// Pitch of the product images, kpc.
    pub pixel_kpc: f64,
    /// Posterior samples of each object.
    pub samples: usize,
    /// Draws kept as images.
    pub kept_draws: usize,
    /// Amplitudes of an object: 1, or one for each band.
    pub amplitudes: usize,
    /// The config's text.
    pub config: String,
    /// Digests by name (`config`, `catalog`, `prior`), stored as `NAME_blake3`.
    pub digests: Vec<(String, String)>,
    /// Versions by name (`unseeing`, `libtorch`, ...), stored as `version_NAME`.
    pub versions: Vec<(String, String)>,
    /// What draws of the redshift are, where each posterior sample has one; empty where the catalogue's is taken for exact.
    pub photo_z: String,
    /// The prior's name and what its card warns of.
    pub prior: String,
    pub prior_caution: String,
    /// Per-draw quantities of the interim prior, for reweighting populations, in the order of their names.
    pub prior_samples: Vec<(String, Vec<f32>)>,
}

impl ShardMeta {
    /// Whether both are files of one survey: all is equal. A quantity that a draw of the prior has none of is NaN, and equal to
    /// itself here.
    pub fn same_survey(&self, other: &ShardMeta) -> bool {
        let rest = |meta: &ShardMeta| ShardMeta { prior_samples: Vec::new(), ..meta.clone() };
        let same = |left: &(String, Vec<f32>), right: &(String, Vec<f32>)| {
            left.0 == right.0
                && left.1.len() == right.1.len()
                && left.1.iter().zip(&right.1).all(|(left, right)| left.to_bits() == right.to_bits())
        };
        self.prior_samples.len() == other.prior_samples.len()
            && self.prior_samples.iter().zip(&other.prior_samples).all(|(left, right)| same(left, right))
            && rest(self) == rest(other)
    }

    /// Lengths of the axes for `objects` objects with observations of at most `observed` pixels.
    pub fn lengths(&self, objects: usize, observed: [usize; 2]) -> Lengths {
        Lengths {
            objects,
            bands: self.bands.len(),
            size: self.size,
            observed,
            samples: self.samples,
            draws: self.kept_draws,
            amplitudes: self.amplitudes,
        }
    }

    /// Stores all but the prior's quantities as attributes of the file.
    pub fn write(&self, writer: &Writer) -> Result<()> {
        let text = |text: &str| Attribute::Text(text.to_string());
        writer.attribute("format", &schema::FORMAT.into())?;
        writer.attribute("format_version", &Attribute::Integer(schema::FORMAT_VERSION))?;
        writer.attribute("survey", &text(&self.survey))?;
        writer.attribute("seed", &Attribute::Integer(self.seed))?;
        writer.attribute("bands", &Attribute::Texts(self.bands.clone()))?;
        writer.attribute("reference_band", &Attribute::Integer(self.reference as u64))?;
        writer.attribute("size", &Attribute::Integer(self.size as u64))?;
        writer.attribute("pixel_kpc", &Attribute::Number(self.pixel_kpc))?;
        writer.attribute("samples", &Attribute::Integer(self.samples as u64))?;
        writer.attribute("kept_draws", &Attribute::Integer(self.kept_draws as u64))?;
        writer.attribute("amplitudes", &Attribute::Integer(self.amplitudes as u64))?;
        writer.attribute("config", &text(&self.config))?;
        writer.attribute("prior", &text(&self.prior))?;
        writer.attribute("prior_caution", &text(&self.prior_caution))?;
        if !self.photo_z.is_empty() {
            writer.attribute("photo_z", &text(&self.photo_z))?;
        }
        for (name, digest) in &self.digests {
            writer.attribute(&format!("{name}_blake3"), &text(digest))?;
        }
        for (name, version) in &self.versions {
            writer.attribute(&format!("version_{name}"), &text(version))?;
        }
        Ok(())
    }

    /// Reads what `write` stored, and the prior's quantities.
    pub fn read(reader: &Reader) -> Result<ShardMeta> {
        let fail = |what: String| Error::file(reader.path(), what);
        let format = reader.text_attribute("format").unwrap_or_default();
        if format != schema::FORMAT {
            return Err(fail(format!("not a product file: its `format` is {format:?}, not {:?}", schema::FORMAT)));
        }
        let integer = |name: &str| match reader.attribute("", name)? {
            Some(Attribute::Integer(value)) => Ok(value),
            _ => Err(fail(format!("the file has no integer attribute `{name}`"))),
        };
        let version = integer("format_version")?;
        if version != schema::FORMAT_VERSION {
            let ours = schema::FORMAT_VERSION;
            return Err(fail(format!("format version {version}, but this program reads version {ours}")));
        }
        let Some(Attribute::Texts(bands)) = reader.attribute("", "bands")? else {
            return Err(fail("the file has no attribute `bands`".into()));
        };
        let pixel_kpc = match reader.attribute("", "pixel_kpc")? {
            Some(Attribute::Number(value)) => value,
            _ => return Err(fail("the file has no attribute `pixel_kpc`".into())),
        };
        let (mut digests, mut versions) = (Vec::new(), Vec::new());
        for name in reader.attribute_names("")? {
            if let (Some(stem), true) = (name.strip_suffix("_blake3"), name != "content_blake3") {
                digests.push((stem.to_string(), reader.text_attribute(&name)?));
            } else if let Some(stem) = name.strip_prefix("version_") {
                versions.push((stem.to_string(), reader.text_attribute(&name)?));
            }
        }
        let photo_z = match reader.attribute("", "photo_z")? {
            Some(Attribute::Text(text)) => text,
            _ => String::new(),
        };
        let mut prior_samples = Vec::new();
        for path in reader.names()? {
            if let Some(name) = path.strip_prefix(schema::PRIOR_GROUP).and_then(|rest| rest.strip_prefix('/')) {
                prior_samples.push((name.to_string(), reader.read::<f32>(&path)?.1));
            }
        }
        Ok(ShardMeta {
            survey: reader.text_attribute("survey")?,
            seed: integer("seed")?,
            bands,
            reference: integer("reference_band")? as usize,
            size: integer("size")? as usize,
            pixel_kpc,
            samples: integer("samples")? as usize,
            kept_draws: integer("kept_draws")? as usize,
            amplitudes: integer("amplitudes")? as usize,
            config: reader.text_attribute("config")?,
            digests,
            versions,
            photo_z,
            prior: reader.text_attribute("prior")?,
            prior_caution: reader.text_attribute("prior_caution")?,
            prior_samples,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_without_a_value_does_not_part_a_survey() {
        let meta =
            |values: &[f32]| ShardMeta { prior_samples: vec![("r20".into(), values.to_vec())], ..ShardMeta::default() };
        let first = meta(&[1.0, f32::NAN]);
        assert!(first.same_survey(&first.clone()));
        assert!(!first.same_survey(&meta(&[1.0, 2.0])));
        assert!(!first.same_survey(&meta(&[1.0])));
        assert!(!first.same_survey(&ShardMeta { seed: 1, ..first.clone() }));
        assert!(!first.same_survey(&ShardMeta { photo_z: "propagated".into(), ..first.clone() }));
    }
}
