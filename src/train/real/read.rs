//! Images and their numbers from npz and HDF5 files, and from folders of FITS files.

use std::path::{Path, PathBuf};

use super::{Format, RealSource};
use crate::io::fits::Fits;
use crate::io::hdf5::{Kind, Reader};
use crate::io::npz::{Npz, Values};
use crate::{Error, Result};

/// The images of a source, in C order: `[count, channels, height, width]`.
pub(super) struct Images {
    pub count: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub values: Vec<f32>,
    file: Opened,
    path: PathBuf,
}

enum Opened {
    Npz(Npz),
    Hdf5(Reader),
    /// The files of the folder, sorted by name: one galaxy each.
    Fits(Vec<PathBuf>),
}

impl Images {
    /// Reads all images of a source.
    pub fn read(source: &RealSource) -> Result<Images> {
        let path = source.path.clone();
        let (shape, values, file) = match source.format {
            Format::Npz => {
                let mut file = Npz::open(&path)?;
                let array = file.array(&source.key)?;
                (array.shape.clone(), array.to_f32(&path, &source.key)?, Opened::Npz(file))
            }
            Format::Hdf5 => {
                let file = Reader::open(&path)?;
                let (shape, values) = file.read::<f32>(&source.key)?;
                (shape, values, Opened::Hdf5(file))
            }
            Format::Fits => {
                let files = fits_files(&path)?;
                let (shape, values) = read_fits(&files)?;
                (shape, values, Opened::Fits(files))
            }
        };
        let (count, channels, height, width) = match shape[..] {
            [count, height, width] => (count, 1, height, width),
            [count, channels, height, width] => (count, channels, height, width),
            _ => {
                let what = "expected [N, height, width] or [N, channels, height, width]";
                return Err(Error::file(path, format!("array `{}` has shape {shape:?}: {what}", source.key)));
            }
        };
        Ok(Images { count, channels, height, width, values, file, path })
    }

    /// One channel of one image.
    pub fn plane(&self, index: usize, channel: usize) -> &[f32] {
        let area = self.height * self.width;
        &self.values[(index * self.channels + channel) * area..][..area]
    }

    /// A number for each image: an array of the file, or a header keyword of the FITS files.
    pub fn numbers(&mut self, key: &str) -> Result<Vec<f64>> {
        let values = match &mut self.file {
            Opened::Npz(file) => file.array(key)?.to_f64(&self.path, key)?,
            Opened::Hdf5(file) => file.read::<f64>(key)?.1,
            Opened::Fits(files) => files.iter().map(|path| keyword(path, key)).collect::<Result<_>>()?,
        };
        self.per_image(key, values)
    }

    /// A text for each image, likewise (numbers as Rust prints them).
    pub fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let values = match &mut self.file {
            Opened::Npz(file) => {
                let array = file.array(key)?;
                match array.values {
                    Values::Text(values) => values,
                    _ => array.to_text(),
                }
            }
            Opened::Hdf5(file) if file.info(key)?.1 == Kind::Text => file.read_texts(key)?,
            _ => self.numbers(key)?.iter().map(f64::to_string).collect(),
        };
        self.per_image(key, values)
    }

    fn per_image<T>(&self, key: &str, values: Vec<T>) -> Result<Vec<T>> {
        if values.len() == self.count {
            return Ok(values);
        }
        let what = format!("`{key}` has {} values for {} images", values.len(), self.count);
        Err(Error::file(&self.path, what))
    }
}

fn fits_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |error: std::io::Error| Error::file(folder, format!("expected a folder of FITS files: {error}"));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if [".fits", ".fits.gz", ".fit"].iter().any(|ending| name.ends_with(ending)) {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(Error::file(folder, "holds no FITS files (*.fits, *.fits.gz)")) } else { Ok(files) }
}

/// All two-dimensional images of each file, in their order, as the channels of one galaxy.
fn read_fits(files: &[PathBuf]) -> Result<(Vec<usize>, Vec<f32>)> {
    let mut shape: Option<[usize; 3]> = None;
    let mut values = Vec::new();
    for path in files {
        let mut fits = Fits::open(path)?;
        let planes: Vec<_> = fits.hdus().iter().filter(|hdu| hdu.is_plane()).cloned().collect();
        let first = fits.first_image()?.shape;
        let own = [planes.len(), first[0], first[1]];
        let expected = *shape.get_or_insert(own);
        if own != expected || planes.iter().any(|hdu| hdu.shape != first) {
            let what = format!("its images are {own:?}, those of the files before it {expected:?}: all must be alike");
            return Err(Error::file(path, what));
        }
        for hdu in &planes {
            values.extend(fits.section(hdu, (0, first[0]), (0, first[1]))?.values);
        }
    }
    let [channels, height, width] = shape.unwrap_or_default();
    Ok((vec![files.len(), channels, height, width], values))
}

fn keyword(path: &Path, key: &str) -> Result<f64> {
    let mut fits = Fits::open(path)?;
    let image = fits.first_image()?.number;
    for number in [image, 0] {
        if let Some(value) = fits.header(number).number(key)? {
            return Ok(value);
        }
    }
    Err(Error::file(path, format!("no keyword {key} in its header")))
}
