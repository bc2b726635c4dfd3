//! Catalogues: from CSV and FITS tables to targets, streamed row by row.
//!
//! Two kinds of trouble are told apart. What makes the catalogue itself ambiguous or dangerous (a duplicate id, an id
//! that is not safe as a file name, a missing column, a broken row) is an error of the whole run, before any work. What
//! makes one row unusable (no redshift, coordinates out of range) becomes the target's `trouble`: it fails alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::{Error, Result};

mod csv;
mod row;
mod table;

pub use row::{Z_MAX, parse_dec, parse_ra, unsafe_id};

/// One object to be sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// As in the catalogue. Unique within a survey, and safe as a file name.
    pub id: String,
    /// Right ascension, degrees, ICRS.
    pub ra: f64,
    /// Declination, degrees, ICRS.
    pub dec: f64,
    pub redshift: f64,
    /// One standard deviation of the redshift, if the catalogue has it.
    pub redshift_error: Option<f64>,
    /// E(B-V) of the Milky Way, magnitudes, if the catalogue has it.
    pub ebv: Option<f64>,
    /// Extinction per band in magnitudes, if the catalogue has it (in the order of the config's bands).
    pub extinction: Option<Vec<f64>>,
    /// Further columns, as text: those that path patterns name, and quantiles of the redshift.
    pub columns: BTreeMap<String, String>,
    /// What makes the row unusable (no redshift, ...): the object fails with this reason, the survey goes on.
    pub trouble: Option<String>,
}

impl Target {
    /// The quantiles of the redshift from the columns of these names, rising; or what is wrong with them.
    pub fn redshift_quantiles(&self, names: &[String]) -> std::result::Result<Vec<f64>, String> {
        row::quantiles(&self.columns, names)
    }
}

/// Streams the targets of a config's catalogue, in the order of files and rows.
///
/// Memory does not grow with the catalogue but for 40 bytes a row, which find duplicate ids.
pub fn targets(config: &Config) -> Result<Targets> {
    let extra = crate::observe::pattern::columns(&config.data)?;
    let needs_error = config.photo_z.propagated();
    let columns = row::Columns::new(&config.catalog.columns, config.data.bands.len(), extra, needs_error)?;
    let mut files = VecDeque::new();
    for path in &config.catalog.paths {
        // All headers are checked before the first row is given out.
        open(path, &columns)?;
        files.push_back(path.clone());
    }
    Ok(Targets { columns, files, current: None, seen: HashMap::new(), opened: Vec::new() })
}

/// The targets of a catalogue, one by one. After an error nothing more comes.
pub struct Targets {
    columns: row::Columns,
    files: VecDeque<PathBuf>,
    current: Option<Box<dyn Rows>>,
    /// Where each id was seen: digest of the id to file and line.
    seen: HashMap<[u8; 16], (u32, u32)>,
    opened: Vec<PathBuf>,
}

/// Rows of one file as text: the cells of the wanted columns, in their order, and the line (or row) number.
trait Rows: Send {
    fn next_row(&mut self) -> Result<Option<(u64, Vec<String>)>>;
    /// What a row's number counts: `line` or `row`.
    fn unit(&self) -> &'static str;
}

fn open(path: &Path, columns: &row::Columns) -> Result<Box<dyn Rows>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let stem = name.strip_suffix(".gz").unwrap_or(&name);
    if stem.ends_with(".fits") || stem.ends_with(".fit") {
        // A catalogue that cannot be read is an error of the input, before any work.
        let rows = table::TableRows::open(path, columns).map_err(|error| Error::usage(error.to_string()))?;
        return Ok(Box::new(rows));
    }
    Ok(Box::new(csv::CsvRows::open(path, columns)?))
}

impl Targets {
    fn advance(&mut self) -> Result<Option<Target>> {
        loop {
            if self.current.is_none() {
                let Some(path) = self.files.pop_front() else { return Ok(None) };
                self.current = Some(open(&path, &self.columns)?);
                self.opened.push(path);
            }
            let Some(rows) = &mut self.current else { continue };
            let unit = rows.unit();
            match rows.next_row()? {
                None => self.current = None,
                Some((line, cells)) => return self.target(unit, line, &cells).map(Some),
            }
        }
    }

    fn target(&mut self, unit: &str, line: u64, cells: &[String]) -> Result<Target> {
        let file = self.opened.len().saturating_sub(1);
        let place = format!("{}, {unit} {line}", self.opened[file].display());
        // Reasons of failures are content, which must not tell where the catalogue lies.
        let name = self.opened[file].file_name().unwrap_or_default().to_string_lossy();
        let target = self.columns.target(cells, &format!("{name}, {unit} {line}"));
        if let Some(why) = unsafe_id(&target.id) {
            let mend = "ids become file names: letters, digits, `_`, `-`, `.`, `+` are safe";
            return Err(Error::usage(format!("{place}: id {:?} {why} ({mend})", target.id)));
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&blake3::hash(target.id.as_bytes()).as_bytes()[..16]);
        if let Some((first, earlier)) = self.seen.insert(digest, (file as u32, line as u32)) {
            let first = self.opened[first as usize].display();
            let what = format!("{place}: duplicate id `{}`, first seen in {first}, {unit} {earlier}", target.id);
            return Err(Error::usage(what));
        }
        Ok(target)
    }
}

impl Iterator for Targets {
    type Item = Result<Target>;

    fn next(&mut self) -> Option<Self::Item> {
        let outcome = self.advance();
        if outcome.is_err() {
            (self.files, self.current) = (VecDeque::new(), None);
        }
        outcome.transpose()
    }
}

#[cfg(test)]
mod tests;
