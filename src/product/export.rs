//! Export of single objects: their images as FITS, with units and WCS, for other programs.

use std::collections::HashMap;
use std::path::Path;

use super::schema::{self, Axis, Source};
use super::{ObjectRecord, ShardMeta};
use crate::io::fits::{Keyword, NewImage, Pixels, write_images};
use crate::{Error, Result};

/// File names for objects: the id with what file systems may refuse replaced, and a number where two become the same.
#[derive(Default)]
pub struct Names {
    used: HashMap<String, u32>,
}

impl Names {
    /// The file name of an object that has not been named before.
    pub fn name(&mut self, id: &str, ending: &str) -> String {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' };
        let stem = id.chars().map(safe).collect::<String>().trim_start_matches('.').to_string();
        // Some file systems do not tell upper from lower case.
        let count = self.used.entry(stem.to_lowercase()).or_insert(0);
        *count += 1;
        if *count == 1 { format!("{stem}.{ending}") } else { format!("{stem}~{count}.{ending}") }
    }
}

/// Writes every image that the record has, one HDU each, `MEAN` first; the header of the first tells of the object.
///
/// Errors: a record without a mean (a failed object); a file that cannot be written.
pub fn export_fits(path: &Path, record: &ObjectRecord, meta: &ShardMeta) -> Result<()> {
    if record.array("mean").is_none() {
        let reason = if record.reason.is_empty() { "it has no images" } else { &record.reason };
        return Err(Error::object(&record.id, format!("cannot be exported: {reason}")));
    }
    let mut images = Vec::new();
    let names: Vec<String> = schema::DATASETS.iter().map(|dataset| dataset.name.to_uppercase()).collect();
    let datasets = schema::DATASETS.iter().zip(&names).filter(|(dataset, _)| dataset.source == Source::Array);
    for (dataset, name) in datasets {
        let Some(array) = record.array(dataset.name) else { continue };
        let prefix = if dataset.axes.contains(&Axis::ObservedY) { "observation_wcs" } else { "wcs" };
        let mut keywords = if images.is_empty() { object_keywords(record, meta) } else { Vec::new() };
        if !dataset.units.is_empty() {
            // FITS units have a grammar; "per pixel" is not in it, and what a pixel is the WCS says.
            let units = dataset.units.replace(" / pixel", "").replace("(nJy)^2", "nJy2");
            keywords.push(Keyword::text("BUNIT", &units, "per pixel"));
        }
        let bands = meta.bands.iter().enumerate();
        keywords.extend(bands.map(|(index, band)| Keyword::text(&format!("BAND{}", index + 1), band, "")));
        let wcs = record.wcs(prefix);
        images.push(NewImage { name, shape: &array.shape, pixels: Pixels::Floats(&array.values), wcs, keywords });
    }
    write_images(path, &images)
}

fn object_keywords(record: &ObjectRecord, meta: &ShardMeta) -> Vec<Keyword> {
    let mut keywords = vec![
        Keyword::text("OBJECT", &record.id, ""),
        Keyword::text("SURVEY", &meta.survey, ""),
        Keyword::text("PRIOR", &meta.prior, ""),
        Keyword::number("PIXKPC", meta.pixel_kpc, "kpc per product pixel"),
        Keyword::integer("FLAGS", i64::from(record.flags), "bits; see the schema"),
    ];
    let scalars = [
        ("REDSHIFT", "redshift", ""),
        ("CHI2", "reduced_chi2", "reduced chi^2 of the posterior mean"),
        ("CHI2GAL", "reduced_chi2_galaxy", "the same in the galaxy"),
        ("NSAMPLE", "sample_count", "posterior samples"),
        ("VRATIO", "variance_ratio_paper", "posterior / prior variance, stretched, r <= 30"),
    ];
    for (keyword, name, comment) in scalars {
        keywords.extend(record.scalar(name).map(|value| Keyword::number(keyword, value, comment)));
    }
    keywords
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_different() {
        let mut names = Names::default();
        let made = ["../a b", "A", "a", "__a b"].map(|id| names.name(id, "png"));
        assert_eq!(made, ["_a_b.png", "A.png", "a~2.png", "__a_b.png"]);
    }
}
