//! CSV catalogues: a header that may stand behind `#`, comment lines, blank lines.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::Rows;
use super::row::Columns;
use crate::{Error, Result};

/// Rows of a CSV file (also gzipped).
pub(super) struct CsvRows {
    path: PathBuf,
    reader: csv::Reader<Box<dyn BufRead + Send>>,
    record: csv::StringRecord,
    /// Where the wanted columns are in a record, and how many fields it has.
    places: Vec<usize>,
    fields: usize,
    /// Lines before the first record.
    offset: u64,
}

impl CsvRows {
    pub(super) fn open(path: &Path, columns: &Columns) -> Result<CsvRows> {
        let failed = |error: std::io::Error| Error::usage(format!("{}: cannot read: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let mut source: Box<dyn BufRead + Send> = if path.extension().is_some_and(|ending| ending == "gz") {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file)))
        } else {
            Box::new(BufReader::with_capacity(1 << 16, file))
        };
        let (mut offset, mut line) = (0, Vec::new());
        let header = loop {
            line.clear();
            if source.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                let what = format!("{}: no header with a column `{}`", path.display(), columns.names[0]);
                return Err(Error::usage(what));
            }
            offset += 1;
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_start_matches('\u{feff}').trim();
            let names = fields(text.trim_start_matches('#'));
            // A comment is the header when it names the id column; the first line that is no comment is it anyway.
            let is_header = names.iter().any(|name| name.eq_ignore_ascii_case(&columns.names[0]));
            if !text.is_empty() && (is_header || !text.starts_with('#')) {
                break names;
            }
        };
        let places = columns.locate(&format!("{}, line {offset}", path.display()), &header)?;
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .comment(Some(b'#'))
            .trim(csv::Trim::All)
            .from_reader(source);
        let record = csv::StringRecord::new();
        Ok(CsvRows { path: path.to_path_buf(), reader, record, places, fields: header.len(), offset })
    }
}

/// The fields of one line.
fn fields(line: &str) -> Vec<String> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(line.trim().as_bytes());
    match reader.records().next() {
        Some(Ok(record)) => record.iter().map(str::to_string).collect(),
        _ => Vec::new(),
    }
}

impl Rows for CsvRows {
    fn next_row(&mut self) -> Result<Option<(u64, Vec<String>)>> {
        loop {
            let more = self.reader.read_record(&mut self.record).map_err(|error| {
                let line = error.position().map_or(0, |position| position.line()) + self.offset;
                Error::usage(format!("{}, line {line}: cannot read the row: {error}", self.path.display()))
            })?;
            if !more {
                return Ok(None);
            }
            let line = self.record.position().map_or(0, |position| position.line()) + self.offset;
            // A line of blanks.
            if self.record.len() == 1 && self.record[0].is_empty() {
                continue;
            }
            if self.record.len() != self.fields {
                let (found, expected) = (self.record.len(), self.fields);
                let what = format!("{found} fields, but the header has {expected}");
                return Err(Error::usage(format!("{}, line {line}: {what}", self.path.display())));
            }
            return Ok(Some((line, self.places.iter().map(|&place| self.record[place].to_string()).collect())));
        }
    }

    fn unit(&self) -> &'static str {
        "line"
    }
}
