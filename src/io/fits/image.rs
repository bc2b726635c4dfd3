//! Reading images: HDUs, header keywords, sections.

use std::ffi::{c_char, c_int, c_long};
use std::path::Path;

use fitsio::sys;

use super::raw::{File, from_c_pointer, to_c};
use crate::sky::wcs::TanWcs;
use crate::{Error, Result};

/// More pixels than this are not read at once: a damaged header must not ask for all memory.
const MOST_PIXELS: usize = 1 << 28;

/// A FITS file open for reading.
pub struct Fits {
    pub(super) file: File,
    hdus: Vec<Hdu>,
}

/// What an HDU is.
#[derive(Clone, Debug, PartialEq)]
pub struct Hdu {
    /// Position in the file, from 0.
    pub number: usize,
    /// EXTNAME, or EXTTYPE (as in HSC's files), in capitals; empty when there is neither.
    pub name: String,
    pub is_table: bool,
    /// Axes of an image, the slowest first (rows, columns); empty for an HDU without data and for a table.
    pub shape: Vec<usize>,
    /// Whether the pixels of an image are whole numbers.
    pub is_integer: bool,
}

/// A rectangle of an image, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane<T> {
    /// Rows and columns.
    pub shape: [usize; 2],
    pub values: Vec<T>,
}

/// Gives access to the keywords of one HDU.
pub struct Header<'a> {
    fits: &'a mut Fits,
    number: usize,
}

impl Fits {
    /// Opens a file (plain or gzipped) and lists its HDUs.
    pub fn open(path: &Path) -> Result<Fits> {
        let mut file = File::open(path)?;
        let mut count: c_int = 0;
        // SAFETY (here and below): pointers to locals that outlive the call.
        file.call("cannot count the HDUs", |fits, status| unsafe { sys::ffthdu(fits, &mut count, status) })?;
        let mut fits = Fits { file, hdus: Vec::new() };
        for number in 0..count.max(0) as usize {
            let hdu = fits.describe(number)?;
            fits.hdus.push(hdu);
        }
        Ok(fits)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// All HDUs.
    pub fn hdus(&self) -> &[Hdu] {
        &self.hdus
    }

    /// The first HDU with a two-dimensional image that holds data.
    pub fn first_image(&self) -> Result<Hdu> {
        let found = self.hdus.iter().find(|hdu| hdu.is_plane());
        found.cloned().ok_or_else(|| {
            let what = format!("no HDU holds a two-dimensional image; it has {}", self.listing());
            Error::file(self.path(), what)
        })
    }

    /// The HDUs in words, for messages.
    pub fn listing(&self) -> String {
        let words = self.hdus.iter().map(|hdu| {
            let name = if hdu.name.is_empty() { String::new() } else { format!(" `{}`", hdu.name) };
            let content = match (hdu.is_table, hdu.shape.is_empty()) {
                (true, _) => "table".to_string(),
                (false, true) => "empty".to_string(),
                (false, false) => format!("image {:?}", hdu.shape),
            };
            format!("HDU {}{name} ({content})", hdu.number)
        });
        words.collect::<Vec<_>>().join(", ")
    }

    /// The keywords of the HDU at `number`.
    pub fn header(&mut self, number: usize) -> Header<'_> {
        Header { fits: self, number }
    }

    /// The pixels of rows `y0..y1` and columns `x0..x1` of an image HDU, in the file's units (BSCALE and BZERO
    /// applied, BLANK as NaN).
    pub fn section(&mut self, hdu: &Hdu, rows: (usize, usize), columns: (usize, usize)) -> Result<Plane<f32>> {
        let (shape, mut values) = self.section_buffer(hdu, rows, columns, f32::NAN)?;
        let mut corner = Corners::new(hdu, rows, columns);
        let mut any_null = 0;
        let pixels = values.as_mut_ptr();
        self.file.call(&format!("cannot read the image in HDU {}", hdu.number), |fits, status| unsafe {
            let Corners { axes, low, high, step } = &mut corner;
            let (axes, low, high, step) = (axes.as_mut_ptr(), low.as_mut_ptr(), high.as_mut_ptr(), step.as_mut_ptr());
            sys::ffgsve(fits, 0, 2, axes, low, high, step, f32::NAN, pixels, &mut any_null, status)
        })?;
        Ok(Plane { shape, values })
    }

    /// The same in double precision, with infinite pixels as they are in the file: `section` makes NaN of them, but an infinite
    /// magnitude says something.
    pub fn exact_section(&mut self, hdu: &Hdu, rows: (usize, usize), columns: (usize, usize)) -> Result<Plane<f64>> {
        let (shape, mut values) = self.section_buffer(hdu, rows, columns, f64::NAN)?;
        let mut corner = Corners::new(hdu, rows, columns);
        let mut any_null = 0;
        let pixels = values.as_mut_ptr();
        // Zero asks for no test: pixels then come as they are. Whole numbers have a BLANK instead, which needs it.
        let null = if hdu.is_integer { f64::NAN } else { 0.0 };
        self.file.call(&format!("cannot read the image in HDU {}", hdu.number), |fits, status| unsafe {
            let Corners { axes, low, high, step } = &mut corner;
            let (axes, low, high, step) = (axes.as_mut_ptr(), low.as_mut_ptr(), high.as_mut_ptr(), step.as_mut_ptr());
            sys::ffgsvd(fits, 0, 2, axes, low, high, step, null, pixels, &mut any_null, status)
        })?;
        Ok(Plane { shape, values })
    }

    /// The same for whole numbers (mask planes).
    pub fn integer_section(&mut self, hdu: &Hdu, rows: (usize, usize), columns: (usize, usize)) -> Result<Plane<i64>> {
        let (shape, mut values) = self.section_buffer(hdu, rows, columns, 0i64)?;
        let mut corner = Corners::new(hdu, rows, columns);
        let mut any_null = 0;
        let pixels = values.as_mut_ptr();
        self.file.call(&format!("cannot read the image in HDU {}", hdu.number), |fits, status| unsafe {
            let Corners { axes, low, high, step } = &mut corner;
            let (axes, low, high, step) = (axes.as_mut_ptr(), low.as_mut_ptr(), high.as_mut_ptr(), step.as_mut_ptr());
            sys::ffgsvjj(fits, 0, 2, axes, low, high, step, 0, pixels, &mut any_null, status)
        })?;
        Ok(Plane { shape, values })
    }

    /// Checks the rectangle, makes `hdu` current, and allocates.
    fn section_buffer<T: Clone>(
        &mut self,
        hdu: &Hdu,
        (y0, y1): (usize, usize),
        (x0, x1): (usize, usize),
        fill: T,
    ) -> Result<([usize; 2], Vec<T>)> {
        let inside = hdu.is_plane() && y0 < y1 && x0 < x1 && y1 <= hdu.shape[0] && x1 <= hdu.shape[1];
        if !inside {
            let what = format!("rows {y0}..{y1}, columns {x0}..{x1} are not inside HDU {} {:?}", hdu.number, hdu.shape);
            return Err(Error::file(self.path(), what));
        }
        let shape = [y1 - y0, x1 - x0];
        let count = shape[0].checked_mul(shape[1]).filter(|&count| count <= MOST_PIXELS);
        let too_large = || Error::file(self.path(), format!("an image of {shape:?} pixels is too large to be read"));
        let count = count.ok_or_else(too_large)?;
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| too_large())?;
        values.resize(count, fill);
        self.select(hdu.number)?;
        Ok((shape, values))
    }

    pub(super) fn select(&mut self, number: usize) -> Result<c_int> {
        let mut kind = 0;
        self.file.call(&format!("cannot go to HDU {number}"), |fits, status| unsafe {
            sys::ffmahd(fits, number as c_int + 1, &mut kind, status)
        })?;
        Ok(kind)
    }

    fn describe(&mut self, number: usize) -> Result<Hdu> {
        let is_table = self.select(number)? != 0;
        let mut name = String::new();
        for key in ["EXTNAME", "EXTTYPE"] {
            if name.is_empty() {
                name = self.header(number).text(key)?.unwrap_or_default().to_uppercase();
            }
        }
        let (mut shape, mut is_integer) = (Vec::new(), false);
        if !is_table {
            let (mut axes, mut kind) = (0, 0);
            self.file.call("cannot read NAXIS", |fits, status| unsafe { sys::ffgidm(fits, &mut axes, status) })?;
            self.file.call("cannot read BITPIX", |fits, status| unsafe { sys::ffgidt(fits, &mut kind, status) })?;
            let mut sizes = vec![0; axes.max(0) as usize];
            let pointer = sizes.as_mut_ptr();
            self.file
                .call("cannot read NAXISn", |fits, status| unsafe { sys::ffgiszll(fits, axes, pointer, status) })?;
            shape = sizes.iter().rev().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
            if shape.contains(&0) {
                shape.clear();
            }
            is_integer = kind > 0;
        }
        Ok(Hdu { number, name, is_table, shape, is_integer })
    }
}

impl Hdu {
    /// Whether this is a two-dimensional image that holds data.
    pub fn is_plane(&self) -> bool {
        !self.is_table && self.shape.len() == 2
    }
}

/// cfitsio's way of naming a rectangle: axes the fastest first, corners counted from 1 and inclusive.
struct Corners {
    axes: [c_long; 2],
    low: [c_long; 2],
    high: [c_long; 2],
    step: [c_long; 2],
}

impl Corners {
    fn new(hdu: &Hdu, (y0, y1): (usize, usize), (x0, x1): (usize, usize)) -> Self {
        Corners {
            axes: [hdu.shape[1] as c_long, hdu.shape[0] as c_long],
            low: [x0 as c_long + 1, y0 as c_long + 1],
            high: [x1 as c_long, y1 as c_long],
            step: [1, 1],
        }
    }
}

impl Header<'_> {
    /// A number, or `None` when the keyword is absent.
    pub fn number(&mut self, key: &str) -> Result<Option<f64>> {
        self.fits.select(self.number)?;
        let name = to_c(key)?;
        let mut value = 0.0;
        let what = format!("keyword {key} of HDU {} is not a number", self.number);
        let found = self.fits.file.call_keyword(&what, |fits, status| unsafe {
            sys::ffgkyd(fits, name.as_ptr(), &mut value, std::ptr::null_mut(), status)
        })?;
        Ok(found.then_some(value))
    }

    /// A text (a number is returned as it is written), or `None` when the keyword is absent.
    pub fn text(&mut self, key: &str) -> Result<Option<String>> {
        self.fits.select(self.number)?;
        let name = to_c(key)?;
        let mut pointer: *mut c_char = std::ptr::null_mut();
        let what = format!("keyword {key} of HDU {} cannot be read", self.number);
        let found = self.fits.file.call_keyword(&what, |fits, status| unsafe {
            sys::ffgkls(fits, name.as_ptr(), &mut pointer, std::ptr::null_mut(), status)
        })?;
        let value = from_c_pointer(pointer);
        if !pointer.is_null() {
            let mut status = 0;
            // SAFETY: cfitsio allocated it in the call above, and asks to be given it back.
            unsafe { sys::fffree(pointer.cast(), &mut status) };
        }
        Ok(found.then_some(value))
    }

    /// The TAN projection of the HDU: CRVAL, CRPIX, and CD or PC with CDELT (and CROTA2).
    pub fn wcs(&mut self) -> Result<TanWcs> {
        let path = self.fits.path().to_path_buf();
        let place = format!("HDU {}", self.number);
        for (key, expected) in [("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN")] {
            let value = self.text(key)?.unwrap_or_default();
            // The tangent plane with distortion polynomials is a different projection for our purposes.
            if value != expected {
                let what = format!("{place}: {key} is `{value}`, expected `{expected}` (a TAN projection, RA first)");
                return Err(Error::file(path, what));
            }
        }
        let mut needed = |key: &str| {
            let value = self.number(key)?;
            let missing = || Error::file(&path, format!("{place}: no keyword {key}, so positions are unknown"));
            value.ok_or_else(missing)
        };
        let crval = [needed("CRVAL1")?, needed("CRVAL2")?];
        let crpix = [needed("CRPIX1")? - 1.0, needed("CRPIX2")? - 1.0];
        let cd = self.linear_part(&path, &place)?;
        let determinant = cd[0][0] * cd[1][1] - cd[0][1] * cd[1][0];
        let numbers = crval.iter().chain(&crpix).chain(cd.as_flattened());
        if !numbers.clone().all(|value| value.is_finite()) || determinant == 0.0 {
            return Err(Error::file(path, format!("{place}: the WCS is not invertible: CD = {cd:?}")));
        }
        Ok(TanWcs { crval, crpix, cd })
    }

    fn linear_part(&mut self, path: &Path, place: &str) -> Result<[[f64; 2]; 2]> {
        let mut cd = [[0.0; 2]; 2];
        let mut any = false;
        for (i, row) in cd.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                if let Some(found) = self.number(&format!("CD{}_{}", i + 1, j + 1))? {
                    (*value, any) = (found, true);
                }
            }
        }
        if any {
            return Ok(cd);
        }
        let missing = || Error::file(path, format!("{place}: neither CDi_j nor CDELTi, so the pixel scale is unknown"));
        let delta = [self.number("CDELT1")?.ok_or_else(missing)?, self.number("CDELT2")?.ok_or_else(missing)?];
        let angle = self.number("CROTA2")?.unwrap_or(0.0).to_radians();
        // CROTA2 and PC exclude each other (Calabretta & Greisen 2002, section 6.1).
        let mut pc =
            [[angle.cos(), -angle.sin() * delta[1] / delta[0]], [angle.sin() * delta[0] / delta[1], angle.cos()]];
        for (i, row) in pc.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                if let Some(found) = self.number(&format!("PC{}_{}", i + 1, j + 1))? {
                    *value = found;
                }
                *value *= delta[i];
            }
        }
        Ok(pc)
    }
}

/// The first two-dimensional image of a file, whole.
pub fn read_image(path: &Path) -> Result<Plane<f32>> {
    let mut fits = Fits::open(path)?;
    let hdu = fits.first_image()?;
    fits.section(&hdu, (0, hdu.shape[0]), (0, hdu.shape[1]))
}
