//! From a row's cells, as text, to a target: numbers, angles, and what is wrong with them.

use std::collections::BTreeMap;

use super::Target;
use crate::config::ColumnsConfig;
use crate::{Error, Result};

/// The largest redshift that is accepted.
pub const Z_MAX: f64 = 6.0;

/// Longest id, in bytes: ids become parts of file names, whose limit is 255.
const LONGEST_ID: usize = 128;

/// The columns that are read, and where each is among a row's cells.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub(super) names: Vec<String>,
    redshift_error: Option<usize>,
    redshift_quantiles: Option<Vec<String>>,
    ebv: Option<usize>,
    extinction: Option<Vec<usize>>,
    extra: Vec<(String, usize)>,
    /// Whether a row whose redshift cannot be drawn is unusable.
    needs_error: bool,
}

impl Columns {
    /// The columns that the config names, for `bands` bands. With `needs_error`, each row must have quantiles or an error of its
    /// redshift.
    pub(super) fn new(config: &ColumnsConfig, bands: usize, extra: Vec<String>, needs_error: bool) -> Result<Columns> {
        let mut names = vec![config.id.clone(), config.ra.clone(), config.dec.clone(), config.redshift.clone()];
        let mut place = |name: &String| {
            let found = names.iter().position(|known| known == name);
            found.unwrap_or_else(|| {
                names.push(name.clone());
                names.len() - 1
            })
        };
        let redshift_error = config.redshift_error.as_ref().map(&mut place);
        let quantiles = config.redshift_quantiles.as_ref();
        let redshift_quantiles = quantiles.map(|list| list.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>());
        let ebv = config.ebv.as_ref().map(&mut place);
        let extinction = config.extinction.as_ref().map(|list| list.iter().map(&mut place).collect::<Vec<_>>());
        if extinction.as_ref().is_some_and(|list| list.len() != bands) {
            return Err(Error::usage(format!("catalog.columns.extinction needs one column for each of {bands} bands")));
        }
        let extra = extra.into_iter().chain(redshift_quantiles.iter().flatten().cloned());
        let extra = extra.map(|name| (name.clone(), place(&name))).collect();
        Ok(Columns { names, redshift_error, redshift_quantiles, ebv, extinction, extra, needs_error })
    }

    /// Finds every wanted column among `present`: exactly, or else whatever the case.
    pub(super) fn locate(&self, place: &str, present: &[String]) -> Result<Vec<usize>> {
        let find = |name: &String| {
            let exact = present.iter().position(|column| column == name);
            let found = exact.or_else(|| present.iter().position(|column| column.eq_ignore_ascii_case(name)));
            found.ok_or_else(|| {
                let listing = present.join(", ");
                let of_pattern = self.extra.iter().any(|(extra, _)| extra == name);
                let mend = match of_pattern && !self.redshift_quantiles.iter().flatten().any(|known| known == name) {
                    true => "the path patterns of [data] may name `{id}`, `{band}` and these",
                    false => "names are mapped in [catalog.columns] of the config",
                };
                Error::usage(format!("{place}: no column `{name}`; the columns are {listing} ({mend})"))
            })
        };
        self.names.iter().map(find).collect()
    }

    /// The target of a row. What cannot be used is NaN, and the reason is in `trouble`; `place` names the row in it.
    pub(super) fn target(&self, cells: &[String], place: &str) -> Target {
        let mut trouble: Option<String> = None;
        let mut note = |reason: Option<String>| trouble = trouble.take().or(reason);
        let cell = |index: usize| cells.get(index).map_or("", |cell| cell.trim());
        let (ra, dec) = (parse_ra(cell(1)), parse_dec(cell(2)));
        note(ra.as_ref().err().cloned());
        note(dec.as_ref().err().cloned());
        let redshift = number(cell(3));
        note(match redshift {
            Err(()) => Some(format!("the redshift `{}` is not a number", cell(3))),
            Ok(None) => Some("the redshift is missing".to_string()),
            Ok(Some(z)) if z <= 0.0 => Some(format!("the redshift {z} is not positive")),
            Ok(Some(z)) if z > Z_MAX => Some(format!("the redshift {z} is beyond {Z_MAX}")),
            Ok(Some(_)) => None,
        });
        let redshift_error = self.redshift_error.map(|index| number(cell(index)));
        let columns: BTreeMap<_, _> =
            self.extra.iter().map(|(name, index)| (name.clone(), cell(*index).to_string())).collect();
        if let (true, Some(names)) = (self.needs_error, &self.redshift_quantiles) {
            note(quantiles(&columns, names).err().map(|why| format!("{place}: {why}")));
        }
        // Where there are quantiles, the error is not drawn from.
        let drawn_from = self.redshift_error.filter(|_| self.redshift_quantiles.is_none());
        if let (true, Some(index)) = (self.needs_error, drawn_from) {
            note(unusable_error(cell(index)).map(|why| {
                format!(
                    "{place}, column `{}`: the error of the redshift {why}; photo_z.mode = \"propagated\" needs its \
                     standard deviation, or 0 for a redshift that is exact",
                    self.names[index]
                )
            }));
        }
        note(match redshift_error {
            Some(Err(())) => Some("the error of the redshift is not a number".to_string()),
            Some(Ok(Some(error))) if error < 0.0 => Some(format!("the error of the redshift, {error}, is negative")),
            _ => None,
        });
        // A missing extinction would otherwise pass for none at all.
        let mut magnitude = |index: usize| {
            let value = number(cell(index)).ok().flatten();
            if value.is_none() {
                note(Some(format!("column `{}` (extinction) holds no number", self.names[index])));
            }
            value
        };
        let ebv = self.ebv.and_then(&mut magnitude);
        let extinction = self.extinction.as_ref().and_then(|list| list.iter().map(|&i| magnitude(i)).collect());
        Target {
            id: cell(0).to_string(),
            ra: ra.unwrap_or(f64::NAN),
            dec: dec.unwrap_or(f64::NAN),
            redshift: redshift.ok().flatten().unwrap_or(f64::NAN),
            redshift_error: redshift_error.and_then(|error| error.ok().flatten()),
            ebv,
            extinction,
            columns,
            trouble,
        }
    }
}

/// The quantiles of a redshift in these columns, or what is wrong with them.
pub(super) fn quantiles(cells: &BTreeMap<String, String>, names: &[String]) -> std::result::Result<Vec<f64>, String> {
    let texts: Vec<&str> = names.iter().map(|name| cells.get(name).map_or("", String::as_str)).collect();
    let values: Option<Vec<f64>> = texts.iter().map(|text| number(text).ok().flatten()).collect();
    let possible = |values: &Vec<f64>| {
        let inside = values.iter().all(|&z| z > 0.0 && z <= Z_MAX);
        inside && values.windows(2).all(|pair| pair[0] <= pair[1])
    };
    values.filter(possible).ok_or_else(|| {
        format!(
            "the quantiles of the redshift are {}; photo_z.mode = \"propagated\" needs numbers above 0, none beyond {Z_MAX}, and \
             none below the one before",
            texts.join(", ")
        )
    })
}

/// What is wrong with a standard deviation of the redshift; `None` when it can be drawn from.
fn unusable_error(text: &str) -> Option<String> {
    match number(text) {
        Ok(None) => Some("is missing".into()),
        Err(()) => Some(format!("is `{text}`, not a number")),
        Ok(Some(error)) if error < 0.0 => Some(format!("is {error}, negative")),
        Ok(Some(_)) => None,
    }
}

/// Why an id cannot be used as a file name; `None` when it can.
pub fn unsafe_id(id: &str) -> Option<String> {
    if id.is_empty() {
        return Some("is empty".into());
    }
    if id.len() > LONGEST_ID {
        return Some(format!("is longer than {LONGEST_ID} bytes"));
    }
    if id.starts_with('.') {
        return Some("begins with a dot".into());
    }
    if id.contains("..") {
        return Some("holds `..`".into());
    }
    if id.contains(['/', '\\']) {
        return Some("holds a path separator".into());
    }
    if id.chars().any(char::is_control) {
        return Some("holds a control character".into());
    }
    None
}

/// `Ok(None)` for what stands for a missing number.
fn number(text: &str) -> std::result::Result<Option<f64>, ()> {
    if text.is_empty() || ["nan", "null", "none", "n/a", "--"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Ok(None);
    }
    text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Some).ok_or(())
}

/// Right ascension in degrees: decimal degrees, or hours, minutes and seconds (`10:01:49.3`, `10 01 49.3`,
/// `10h01m49.3s`). The error says what is wrong.
pub fn parse_ra(text: &str) -> std::result::Result<f64, String> {
    let value = match number(text) {
        Ok(None) => return Err("the right ascension is missing".into()),
        Ok(Some(value)) => value,
        Err(()) => 15.0 * sexagesimal(text, ['h', 'm', 's'], "right ascension")?,
    };
    let inside = (0.0..=360.0).contains(&value);
    if inside { Ok(value % 360.0) } else { Err(format!("the right ascension {text} is not between 0 and 360 degrees")) }
}

/// Declination in degrees: decimal, or degrees, minutes and seconds (`+02:23:18.7`).
pub fn parse_dec(text: &str) -> std::result::Result<f64, String> {
    let value = match number(text) {
        Ok(None) => return Err("the declination is missing".into()),
        Ok(Some(value)) => value,
        Err(()) => sexagesimal(text, ['d', 'm', 's'], "declination")?,
    };
    let inside = (-90.0..=90.0).contains(&value);
    if inside { Ok(value) } else { Err(format!("the declination {text} is not between -90 and 90 degrees")) }
}

/// Value of `a:b:c` in units of `a`. The sign belongs to the whole (-00:30:00 is negative).
fn sexagesimal(text: &str, units: [char; 3], what: &str) -> std::result::Result<f64, String> {
    let bad = || format!("the {what} `{text}` is neither decimal degrees nor sexagesimal");
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let parts: Vec<&str> = rest
        .split(|c: char| c == ':' || c.is_whitespace() || units.contains(&c))
        .filter(|part| !part.is_empty())
        .collect();
    if !(2..=3).contains(&parts.len()) {
        return Err(bad());
    }
    let mut value = 0.0;
    for (index, part) in parts.iter().enumerate() {
        // Digits and a point only: no signs or exponents inside.
        let plain = part.chars().all(|c| c.is_ascii_digit() || (c == '.' && index + 1 == parts.len()));
        let number = part.parse::<f64>().ok().filter(|_| plain).ok_or_else(bad)?;
        if index > 0 && number >= 60.0 {
            return Err(format!("the {what} `{text}` has {part} where less than 60 was expected"));
        }
        value += number / 60f64.powi(index as i32);
    }
    Ok(sign * value)
}
