//! The summary catalogue of a survey: one row an object, with the mean, standard deviation and percentiles of every
//! per-sample quantity, and the covariances of the main ones. For TOPCAT, astropy and spreadsheets.

use std::path::Path;

use super::schema::{self, Axis, Dataset, Source};
use super::statistics::{Summary, covariance, summary, summary_of_angles};
use super::{ObjectRecord, ShardMeta, Status};
use crate::io::fits::{Cells, Keyword, NewColumn, write_table};
use crate::io::publish::publish_path;
use crate::posterior::Flag;
use crate::{Error, Result};

/// The statistics of each quantity, with what they are called in descriptions.
const STATISTICS: [(&str, &str); 5] = [
    ("mean", "posterior mean"),
    ("sd", "posterior standard deviation"),
    ("p16", "posterior 16th percentile"),
    ("p50", "posterior median"),
    ("p84", "posterior 84th percentile"),
];
/// Per-sample quantities that are not summarised: they are in the scalars already, or the same in all samples.
const LEFT_OUT: [&str; 4] = ["reduced_chi2", "amplitude", "sky", "redshift"];
/// Scalars of images, not of galaxies.
const OF_IMAGES: [&str; 3] = ["wcs_", "observation_wcs_", "observation_shape"];

/// Flags with which a posterior is mostly the prior's: its summary would be read as a measurement, and is not given.
const UNMEASURED: [Flag; 2] = [Flag::NotDetected, Flag::FewGoodPixels];
/// Scalars that are of the posterior alone, and so are not given either.
const OF_POSTERIORS: [&str; 2] = ["amplitude", "amplitude_sd"];

/// One column.
#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub unit: String,
    pub description: String,
    pub cells: Cells,
}

/// A per-sample quantity: its name in records, its name in the catalogue.
struct Quantity {
    key: String,
    name: String,
    dataset: &'static Dataset,
}

/// A catalogue that objects are added to.
pub struct Catalogue {
    columns: Vec<Column>,
    scalars: Vec<String>,
    quantities: Vec<Quantity>,
    /// Indices of the quantities whose covariances are kept.
    main: Vec<usize>,
}

impl Catalogue {
    /// An empty catalogue of a survey's products.
    pub fn new(meta: &ShardMeta) -> Catalogue {
        let mut catalogue =
            Catalogue { columns: Vec::new(), scalars: Vec::new(), quantities: Vec::new(), main: Vec::new() };
        for dataset in schema::DATASETS.iter().filter(|dataset| dataset.source == Source::Field) {
            let cells = if dataset.name == "flags" { Cells::Integers(Vec::new()) } else { Cells::Texts(Vec::new()) };
            let meaning = match dataset.name {
                "reason" => "why it failed, or why its posterior is not summarised; else empty",
                _ => dataset.meaning,
            };
            catalogue.add(dataset.name, "", meaning, cells);
        }
        catalogue.add("flag_names", "", "names of the bits that are set in flags", Cells::Texts(Vec::new()));
        let of_galaxies = |dataset: &&Dataset| {
            dataset.source == Source::Scalar && !OF_IMAGES.iter().any(|start| dataset.name.starts_with(start))
        };
        for dataset in schema::DATASETS.iter().filter(of_galaxies) {
            // Profiles stay in the product files.
            if dataset.axes.len() > 1 {
                continue;
            }
            for (suffix, label) in parts(dataset.axes.first(), meta) {
                let name = format!("{}{label}", dataset.name);
                catalogue.add(&name, &units(dataset.units), dataset.meaning, Cells::Floats(Vec::new()));
                catalogue.scalars.push(format!("{}{suffix}", dataset.name));
            }
        }
        for dataset in schema::DATASETS.iter().filter(|dataset| dataset.source == Source::Sample) {
            if LEFT_OUT.contains(&dataset.name) {
                continue;
            }
            for (suffix, label) in parts(dataset.axes.get(1), meta) {
                let (key, name) = (format!("{}{suffix}", dataset.name), format!("{}{label}", dataset.name));
                for (statistic, words) in STATISTICS {
                    let description = format!("{words}: {}", dataset.meaning);
                    let column = format!("{name}_{statistic}");
                    catalogue.add(&column, &units(dataset.units), &description, Cells::Floats(Vec::new()));
                }
                catalogue.quantities.push(Quantity { key, name, dataset });
            }
        }
        // The magnitude in the reference band, all colours, size, concentration and shape.
        let magnitude = format!("magnitude_{}", meta.reference);
        let is_main = |quantity: &Quantity| {
            let name = quantity.dataset.name;
            quantity.key == magnitude || ["colour", "r50", "concentration", "e1", "e2"].contains(&name)
        };
        catalogue.main = (0..catalogue.quantities.len()).filter(|&at| is_main(&catalogue.quantities[at])).collect();
        for (a, b) in pairs(&catalogue.main.clone()) {
            let (a, b) = (&catalogue.quantities[a], &catalogue.quantities[b]);
            let unit =
                [a.dataset.units, b.dataset.units].iter().filter(|unit| !unit.is_empty()).copied().collect::<Vec<_>>();
            let (name, unit) = (format!("cov_{}_{}", a.name, b.name), unit.join(" "));
            let description = format!("posterior covariance of {} and {}", a.name, b.name);
            catalogue.add(&name, &unit, &description, Cells::Floats(Vec::new()));
        }
        catalogue
    }

    /// A column; names that differ in nothing but case or punctuation are told apart by a number.
    fn add(&mut self, name: &str, unit: &str, description: &str, cells: Cells) {
        let taken = |name: &str| self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let again = (2..).map(|number| format!("{name}_{number}"));
        let name = std::iter::once(name.to_string()).chain(again).find(|name| !taken(name)).unwrap_or_default();
        let (unit, description) = (unit.to_string(), description.to_string());
        self.columns.push(Column { name, unit, description, cells });
    }

    /// Adds an object. What is not known of it is NaN; so is the summary of a posterior that the data say next to nothing
    /// about (the flags `not_detected` and `few_good_pixels`), with the reason. Its samples stay in the product files.
    pub fn push(&mut self, record: &ObjectRecord) {
        let status = if record.status == Status::Done { "done" } else { "failed" };
        let unmeasured = UNMEASURED.into_iter().find(|flag| record.flags & flag.bit() != 0);
        let reason = match unmeasured {
            Some(flag) if record.status == Status::Done => format!("not summarised: {}", flag.meaning()),
            _ => record.reason.clone(),
        };
        let texts = [record.id.clone(), status.to_string(), reason];
        let scalar = |name: &String| {
            let left_out = unmeasured.is_some() && OF_POSTERIORS.iter().any(|own| is_part(name, own));
            record.scalar(name).filter(|_| !left_out).unwrap_or(f64::NAN)
        };
        let mut values: Vec<f64> = self.scalars.iter().map(scalar).collect();
        let known = |quantity: &Quantity| record.sample(&quantity.key).filter(|_| unmeasured.is_none());
        let samples: Vec<&[f32]> = self.quantities.iter().map(|quantity| known(quantity).unwrap_or_default()).collect();
        for (quantity, samples) in self.quantities.iter().zip(&samples) {
            let Summary { mean, sd, p16, p50, p84 } =
                if quantity.dataset.units == "deg" { summary_of_angles(samples) } else { summary(samples) };
            values.extend([mean, sd, p16, p50, p84]);
        }
        values.extend(pairs(&self.main).map(|(a, b)| covariance(samples[a], samples[b])));
        let (mut texts, mut values) = (texts.into_iter(), values.into_iter());
        for column in &mut self.columns {
            match &mut column.cells {
                Cells::Integers(cells) => cells.push(Some(i64::from(record.flags))),
                Cells::Floats(cells) => cells.push(values.next().unwrap_or(f64::NAN)),
                Cells::Texts(cells) if column.name == "flag_names" => cells.push(Flag::names(record.flags)),
                // FITS text is ASCII without line breaks.
                Cells::Texts(cells) => cells.push(texts.next().unwrap_or_default().replace(['\n', '\r', '\0'], " ")),
            }
        }
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Writes a FITS binary table or CSV, as the name's ending says.
    ///
    /// Errors: another ending; a file that cannot be written.
    pub fn write(&self, path: &Path, meta: &ShardMeta) -> Result<()> {
        match path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).as_deref() {
            Some("fits" | "fit") => self.write_fits(path, meta),
            Some("csv") => publish_path(path, |temporary| {
                std::fs::write(temporary, self.csv()).map_err(|error| Error::file(path, error))
            }),
            _ => Err(Error::usage(format!("{}: expected a name that ends in .fits or .csv", path.display()))),
        }
    }

    fn write_fits(&self, path: &Path, meta: &ShardMeta) -> Result<()> {
        let ascii = |text: &str| text.chars().map(|c| if c.is_ascii() && !c.is_control() { c } else { '?' }).collect();
        let columns: Vec<NewColumn> = self
            .columns
            .iter()
            .map(|column| {
                let cells = match &column.cells {
                    Cells::Texts(cells) => Cells::Texts(cells.iter().map(|text| ascii(text)).collect()),
                    other => other.clone(),
                };
                NewColumn { name: &column.name, cells, unit: &column.unit, description: &column.description }
            })
            .collect();
        let mut keywords = vec![
            Keyword::text("EXTNAME", "CATALOGUE", ""),
            Keyword::text("SURVEY", &ascii(&meta.survey), ""),
            Keyword::text("PRIOR", &ascii(&meta.prior), ""),
            Keyword::text("CAUTION", "not for lensing", "shapes are of draws under the prior"),
        ];
        for flag in Flag::ALL {
            let bit = flag.bit().trailing_zeros();
            keywords.push(Keyword::text(&format!("FLAG{bit}"), flag.name(), flag.meaning()));
        }
        write_table(path, &columns, &keywords)
    }

    /// The same as CSV; NaN is an empty cell.
    pub fn csv(&self) -> String {
        let quote = |text: &str| {
            if text.contains(['"', ',']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
        };
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let mut text = names.join(",") + "\n";
        let rows = self.columns.first().map_or(0, |column| match &column.cells {
            Cells::Integers(cells) => cells.len(),
            Cells::Floats(cells) => cells.len(),
            Cells::Texts(cells) => cells.len(),
        });
        for row in 0..rows {
            let cells = self.columns.iter().map(|column| match &column.cells {
                Cells::Integers(cells) => cells[row].map_or(String::new(), |value| value.to_string()),
                Cells::Floats(cells) if cells[row].is_finite() => cells[row].to_string(),
                Cells::Floats(_) => String::new(),
                Cells::Texts(cells) => quote(&cells[row]),
            });
            text += &(cells.collect::<Vec<_>>().join(",") + "\n");
        }
        text
    }
}

/// Whether a scalar is `whole` or one of its parts, which are numbered.
fn is_part(name: &str, whole: &str) -> bool {
    let rest = name.strip_prefix(whole);
    rest.is_some_and(|rest| rest.strip_prefix('_').unwrap_or(rest).chars().all(|c| c.is_ascii_digit()))
}

/// All pairs of different elements.
fn pairs(of: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    of.iter().enumerate().flat_map(|(index, &a)| of[index + 1..].iter().map(move |&b| (a, b)))
}

/// The parts of a quantity along an axis: what follows its name in records, and in the catalogue's columns.
fn parts(axis: Option<&Axis>, meta: &ShardMeta) -> Vec<(String, String)> {
    let plain =
        |band: &String| band.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>();
    let bands: Vec<String> = meta.bands.iter().map(plain).collect();
    let labels: Vec<String> = match axis {
        Some(Axis::Band) => bands.iter().map(|band| format!("_{band}")).collect(),
        Some(Axis::Colour) => bands.windows(2).map(|pair| format!("_{}_{}", pair[0], pair[1])).collect(),
        Some(Axis::Amplitude) if meta.amplitudes > 1 => bands.iter().map(|band| format!("_{band}")).collect(),
        Some(Axis::Amplitude) => vec![String::new()],
        Some(_) => Vec::new(),
        None => return vec![(String::new(), String::new())],
    };
    labels.into_iter().enumerate().map(|(index, label)| (format!("_{index}"), label)).collect()
}

/// Units as FITS writes them: a pixel is a `pix`.
fn units(units: &str) -> String {
    match units {
        "pixel" => "pix".into(),
        other => other.replace(" / pixel", "/pix"),
    }
}
