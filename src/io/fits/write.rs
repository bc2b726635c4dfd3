//! Writing images and tables: to a temporary name first, so that a half-written file is never found.

use std::ffi::{CString, c_char, c_int};
use std::path::Path;

use fitsio::sys;

use super::raw::{File, to_c};
use crate::sky::wcs::TanWcs;
use crate::{Error, Result};

/// A keyword to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyword {
    pub name: String,
    pub value: Value,
    pub comment: String,
}

/// The value of a keyword.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Number(f64),
    Integer(i64),
}

impl Keyword {
    pub fn text(name: &str, value: &str, comment: &str) -> Self {
        Keyword { name: name.into(), value: Value::Text(value.into()), comment: comment.into() }
    }

    pub fn number(name: &str, value: f64, comment: &str) -> Self {
        Keyword { name: name.into(), value: Value::Number(value), comment: comment.into() }
    }

    pub fn integer(name: &str, value: i64, comment: &str) -> Self {
        Keyword { name: name.into(), value: Value::Integer(value), comment: comment.into() }
    }
}

/// The pixels of an image to be written, row by row.
#[derive(Clone, Copy, Debug)]
pub enum Pixels<'a> {
    Floats(&'a [f32]),
    Integers(&'a [i32]),
}

/// An image to be written.
#[derive(Clone, Debug)]
pub struct NewImage<'a> {
    /// EXTNAME; none when empty.
    pub name: &'a str,
    /// Axes, the slowest first (rows, columns); none for an HDU without data.
    pub shape: &'a [usize],
    pub pixels: Pixels<'a>,
    pub wcs: Option<TanWcs>,
    pub keywords: Vec<Keyword>,
}

/// A column of a table to be written.
pub struct NewColumn<'a> {
    pub name: &'a str,
    pub cells: super::Cells,
    /// TUNIT, where not empty.
    pub unit: &'a str,
    /// TCOMM, where not empty: what programs such as TOPCAT show as the column's description.
    pub description: &'a str,
}

impl<'a> NewColumn<'a> {
    /// A column without unit and description.
    pub fn new(name: &'a str, cells: super::Cells) -> Self {
        NewColumn { name, cells, unit: "", description: "" }
    }
}

/// Writes images into a new file, one HDU each, the first as the primary HDU. An existing file is replaced.
pub fn write_images(path: &Path, images: &[NewImage]) -> Result<()> {
    publish(path, |file| images.iter().try_for_each(|image| write_image(file, image)))
}

/// Writes a binary table, with keywords of its own, into a new file. An existing file is replaced.
pub fn write_table(path: &Path, columns: &[NewColumn], keywords: &[Keyword]) -> Result<()> {
    publish(path, |file| {
        write_columns(file, columns)?;
        keywords.iter().try_for_each(|keyword| write_keyword(file, keyword))
    })
}

fn publish(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| Error::file(path, "not the name of a file"))?;
    let temporary = folder.join(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
    // Left behind by a process of the same number that was killed.
    let _ = std::fs::remove_file(&temporary);
    let outcome = write_and_rename(&temporary, path, folder, fill);
    if outcome.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

fn write_and_rename(
    temporary: &Path,
    path: &Path,
    folder: &Path,
    fill: impl FnOnce(&mut File) -> Result<()>,
) -> Result<()> {
    let mut file = File::create(temporary)?;
    fill(&mut file)?;
    file.close()?;
    let failed = |error: std::io::Error| Error::file(path, format!("cannot be published: {error}"));
    std::fs::File::open(temporary).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(temporary, path).map_err(failed)?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn write_image(file: &mut File, image: &NewImage) -> Result<()> {
    let count: usize = if image.shape.is_empty() { 0 } else { image.shape.iter().product() };
    let (given, bitpix) = match image.pixels {
        Pixels::Floats(values) => (values.len(), -32),
        Pixels::Integers(values) => (values.len(), 32),
    };
    if given != count {
        let what = format!("image `{}`: {given} pixels for the shape {:?}", image.name, image.shape);
        return Err(Error::internal(what));
    }
    let mut axes: Vec<i64> = image.shape.iter().rev().map(|&size| size as i64).collect();
    let (dimensions, pointer) = (axes.len() as c_int, axes.as_mut_ptr());
    // SAFETY (here and below): pointers to values that outlive the call; cfitsio does not write through them.
    file.call("cannot create the image", |fits, status| unsafe {
        sys::ffcrimll(fits, bitpix, dimensions, pointer, status)
    })?;
    if !image.name.is_empty() {
        write_keyword(file, &Keyword::text("EXTNAME", image.name, ""))?;
    }
    for keyword in image.wcs.iter().flat_map(wcs_keywords).chain(image.keywords.iter().cloned()) {
        write_keyword(file, &keyword)?;
    }
    if count == 0 {
        return Ok(());
    }
    file.call("cannot write the pixels", |fits, status| unsafe {
        match image.pixels {
            Pixels::Floats(values) => sys::ffppr(fits, 42, 1, count as i64, values.as_ptr().cast_mut().cast(), status),
            Pixels::Integers(values) => {
                sys::ffppr(fits, 31, 1, count as i64, values.as_ptr().cast_mut().cast(), status)
            }
        }
    })
}

fn write_keyword(file: &mut File, keyword: &Keyword) -> Result<()> {
    let (name, comment) = (to_c(&keyword.name)?, to_c(&keyword.comment)?);
    let what = format!("cannot write the keyword {}", keyword.name);
    let (name, comment) = (name.as_ptr(), comment.as_ptr());
    match &keyword.value {
        Value::Text(text) => {
            let text = to_c(text)?;
            // Text beyond one card goes on in CONTINUE cards.
            file.call(&what, |fits, status| unsafe { sys::ffpkls(fits, name, text.as_ptr(), comment, status) })
        }
        // A negative number of decimals asks for significant digits: 17 of them bring back every f64.
        Value::Number(value) => {
            file.call(&what, |fits, status| unsafe { sys::ffpkyd(fits, name, *value, -17, comment, status) })
        }
        Value::Integer(value) => {
            file.call(&what, |fits, status| unsafe { sys::ffpkyj(fits, name, *value, comment, status) })
        }
    }
}

fn wcs_keywords(wcs: &TanWcs) -> Vec<Keyword> {
    let number = |name: &str, value: f64| Keyword::number(name, value, "");
    vec![
        Keyword::text("CTYPE1", "RA---TAN", ""),
        Keyword::text("CTYPE2", "DEC--TAN", ""),
        Keyword::text("CUNIT1", "deg", ""),
        Keyword::text("CUNIT2", "deg", ""),
        number("CRVAL1", wcs.crval[0]),
        number("CRVAL2", wcs.crval[1]),
        number("CRPIX1", wcs.crpix[0] + 1.0),
        number("CRPIX2", wcs.crpix[1] + 1.0),
        number("CD1_1", wcs.cd[0][0]),
        number("CD1_2", wcs.cd[0][1]),
        number("CD2_1", wcs.cd[1][0]),
        number("CD2_2", wcs.cd[1][1]),
        Keyword::text("RADESYS", "ICRS", ""),
    ]
}

fn write_columns(file: &mut File, columns: &[NewColumn]) -> Result<()> {
    use super::Cells;
    let (mut names, mut formats, mut rows) = (Vec::<CString>::new(), Vec::<CString>::new(), 0);
    for column in columns {
        let (format, length) = match &column.cells {
            Cells::Integers(values) => ("1K".to_string(), values.len()),
            Cells::Floats(values) => ("1D".to_string(), values.len()),
            Cells::Texts(values) => {
                (format!("{}A", values.iter().map(String::len).max().unwrap_or(0).max(1)), values.len())
            }
        };
        names.push(to_c(column.name)?);
        formats.push(to_c(&format)?);
        rows = length;
    }
    let mut name_pointers: Vec<*mut c_char> = names.iter().map(|name| name.as_ptr().cast_mut()).collect();
    let mut format_pointers: Vec<*mut c_char> = formats.iter().map(|format| format.as_ptr().cast_mut()).collect();
    let (count, name_pointer) = (columns.len() as c_int, name_pointers.as_mut_ptr());
    let format_pointer = format_pointers.as_mut_ptr();
    let null = std::ptr::null_mut();
    file.call("cannot create the table", |fits, status| unsafe {
        sys::ffcrtb(fits, 2, rows as i64, count, name_pointer, format_pointer, null, std::ptr::null(), status)
    })?;
    for (index, column) in columns.iter().enumerate() {
        for (name, text) in [("TUNIT", column.unit), ("TCOMM", column.description)] {
            if !text.is_empty() {
                write_keyword(file, &Keyword::text(&format!("{name}{}", index + 1), text, ""))?;
            }
        }
        let what = format!("cannot write column `{}`", column.name);
        let number = index as c_int + 1;
        match &column.cells {
            Cells::Integers(values) => {
                // The null of the table is the smallest integer.
                let null = Keyword::integer(&format!("TNULL{number}"), i64::MIN, "");
                write_keyword(file, &null)?;
                file.call("cannot take the header in", |fits, status| unsafe { sys::ffrdef(fits, status) })?;
                let mut values: Vec<i64> = values.iter().map(|value| value.unwrap_or(i64::MIN)).collect();
                let (pointer, length) = (values.as_mut_ptr(), values.len() as i64);
                file.call(&what, |fits, status| unsafe { sys::ffpcljj(fits, number, 1, 1, length, pointer, status) })?;
            }
            Cells::Floats(values) => {
                let (pointer, length) = (values.as_ptr().cast_mut(), values.len() as i64);
                file.call(&what, |fits, status| unsafe { sys::ffpcld(fits, number, 1, 1, length, pointer, status) })?;
            }
            Cells::Texts(values) => {
                let texts: Vec<CString> = values.iter().map(|value| to_c(value)).collect::<Result<_>>()?;
                let mut pointers: Vec<*mut c_char> = texts.iter().map(|text| text.as_ptr().cast_mut()).collect();
                let (pointer, length) = (pointers.as_mut_ptr(), pointers.len() as i64);
                file.call(&what, |fits, status| unsafe { sys::ffpcls(fits, number, 1, 1, length, pointer, status) })?;
            }
        }
    }
    Ok(())
}
