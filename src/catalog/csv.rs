//! CSV catalogues: a header that may stand behind `#`, comment lines, blank lines.
//!
//! One line is one row, so every message can name its line; a quoted field cannot hold a line break.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::Rows;
use super::row::Columns;
use crate::{Error, Result};

/// Rows of a CSV file (also gzipped).
pub(super) struct CsvRows {
    lines: Lines,
    /// Where the wanted columns are in a row, and how many fields it has.
    places: Vec<usize>,
    fields: usize,
}

impl CsvRows {
    pub(super) fn open(path: &Path, columns: &Columns) -> Result<CsvRows> {
        let failed = |error: std::io::Error| Error::usage(format!("{}: cannot read: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let source: Box<dyn BufRead + Send> = if path.extension().is_some_and(|ending| ending == "gz") {
            Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file)))
        } else {
            Box::new(BufReader::with_capacity(1 << 16, file))
        };
        let mut lines = Lines { path: path.to_path_buf(), source, bytes: Vec::new(), number: 0 };
        let header = loop {
            let Some(text) = lines.next()? else {
                let what = format!("{}: no header with a column `{}`", path.display(), columns.names[0]);
                return Err(Error::usage(what));
            };
            let text = text.trim_start_matches('\u{feff}');
            let names = split(text.trim_start_matches('#')).unwrap_or_default();
            // A comment is the header when it names the id column; the first line that is no comment is it anyway.
            let is_header = names.iter().any(|name| name.eq_ignore_ascii_case(&columns.names[0]));
            if is_header || !text.starts_with('#') {
                break names;
            }
        };
        let places = columns.locate(&lines.place(), &header)?;
        Ok(CsvRows { lines, places, fields: header.len() })
    }
}

impl Rows for CsvRows {
    fn next_row(&mut self) -> Result<Option<(u64, Vec<String>)>> {
        loop {
            let Some(text) = self.lines.next()? else { return Ok(None) };
            if text.starts_with('#') {
                continue;
            }
            let row = split(text);
            let failed = |what: String| Error::usage(format!("{}: {what}", self.lines.place()));
            let row = row.map_err(|why| failed(why.to_string()))?;
            if row.len() != self.fields {
                return Err(failed(format!("{} fields, but the header has {}", row.len(), self.fields)));
            }
            return Ok(Some((self.lines.number, self.places.iter().map(|&place| row[place].clone()).collect())));
        }
    }

    fn unit(&self) -> &'static str {
        "line"
    }
}

/// The lines of a file that are not blank.
struct Lines {
    path: PathBuf,
    source: Box<dyn BufRead + Send>,
    bytes: Vec<u8>,
    /// The line given last, from 1.
    number: u64,
}

impl Lines {
    fn next(&mut self) -> Result<Option<&str>> {
        loop {
            self.bytes.clear();
            let read = self.source.read_until(b'\n', &mut self.bytes);
            let count = read.map_err(|error| Error::usage(format!("{}: {error}", self.place())))?;
            if count == 0 {
                return Ok(None);
            }
            self.number += 1;
            if !self.bytes.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => Ok(Some(text.trim())),
            Err(_) => Err(Error::usage(format!("{}: the line is not UTF-8 text", self.place()))),
        }
    }

    fn place(&self) -> String {
        format!("{}, line {}", self.path.display(), self.number)
    }
}

/// The fields of one line (RFC 4180 quoting), blanks around them removed.
fn split(line: &str) -> std::result::Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        let field;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut text = String::new();
            let mut tail = quoted;
            loop {
                let (before, after) = tail.split_once('"').ok_or("a quoted field does not end on its line")?;
                text.push_str(before);
                // Two quotes inside a quoted field stand for one.
                match after.strip_prefix('"') {
                    Some(more) => {
                        text.push('"');
                        tail = more;
                    }
                    None => {
                        tail = after.trim_start();
                        break;
                    }
                }
            }
            field = text;
            rest = tail;
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err("there is text between a quoted field and the next comma");
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            field = rest[..end].trim().to_string();
            rest = &rest[end..];
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn fields_and_quotes() {
        assert_eq!(split("a, b ,,\"c, d\" ,\"say \"\"x\"\"\",").unwrap(), ["a", "b", "", "c, d", "say \"x\"", ""]);
        assert_eq!(split("").unwrap(), [""]);
        assert!(split("a,\"b").is_err() && split("a,\"b\"c,d").is_err());
    }
}
