//! Input bundles: what is read of the targets of one shard, in one HDF5 file, so that a survey opens one file where it would
//! open several for each object. Cutouts are kept as calibrated, in nJy, without loss; PSFs that are equal are kept once.
//!
//! ```text
//! id[object], reason[object]      why the object's inputs cannot be used; empty where they can
//! object/NNNNN/image[band, row, column], good[...], variance[...] (where there is a variance plane)
//! psf/NNNNN[row, column]
//! ```
//!
//! Attributes of `image`: the WCS of the whole image, which section of it this is, each band's PSF, the source files, and
//! a digest of all that is used of the object, which is checked at reading. The file is sealed as a whole besides (`io::seal`).

use std::collections::HashMap;
use std::path::Path;

use super::cutout::Section;
use super::{BandInputs, Inputs, Psf};
use crate::io::digest;
use crate::io::hdf5::{Attribute, Element, Reader, Writer};
use crate::io::seal;
use crate::sky::wcs::TanWcs;
use crate::{Error, Result};

/// The format of these files. A program refuses others.
const FORMAT: u64 = 2;

/// A bundle being written: objects one by one, in the order of the shard.
pub struct BundleWriter {
    writer: Writer,
    ids: Vec<String>,
    reasons: Vec<String>,
    /// Numbers of the PSFs, by digest.
    psfs: HashMap<String, u64>,
}

impl BundleWriter {
    /// Starts the bundle of a shard of the plan with this digest.
    pub fn create(path: &Path, plan: &str, shard: u32) -> Result<BundleWriter> {
        let writer = Writer::create_sealed(path)?;
        writer.attribute("format", &Attribute::Integer(FORMAT))?;
        writer.attribute("plan", &plan.into())?;
        writer.attribute("shard", &Attribute::Integer(u64::from(shard)))?;
        Ok(BundleWriter { writer, ids: Vec::new(), reasons: Vec::new(), psfs: HashMap::new() })
    }

    /// Adds an object: its inputs, or why there are none.
    pub fn add(&mut self, id: &str, inputs: &std::result::Result<Inputs, String>) -> Result<()> {
        let place = self.ids.len();
        self.ids.push(id.into());
        self.reasons.push(inputs.as_ref().err().map(|reason| reason.replace('\0', " ")).unwrap_or_default());
        let Ok(inputs) = inputs else { return Ok(()) };
        let mut psfs = Vec::new();
        for band in &inputs.bands {
            let digest = digest::bytes(&psf_bytes(&band.psf));
            let next = self.psfs.len() as u64;
            if !self.psfs.contains_key(&digest) {
                self.writer.numbers::<f32>(&format!("psf/{next:05}"), &band.psf.shape, &band.psf.values)?;
            }
            psfs.push(*self.psfs.entry(digest).or_insert(next));
        }
        let [rows, columns] = inputs.bands.first().map_or([0, 0], |band| band.section.shape);
        let shape = [inputs.bands.len(), rows, columns];
        let name = |what: &str| format!("object/{place:05}/{what}");
        let image: Vec<f32> = inputs.bands.iter().flat_map(|band| band.section.image.iter().copied()).collect();
        let good: Vec<u8> =
            inputs.bands.iter().flat_map(|band| band.section.good.iter().map(|&good| u8::from(good))).collect();
        let planes: Vec<u64> = inputs.bands.iter().map(|band| u64::from(band.section.variance.is_some())).collect();
        if planes.contains(&1) {
            let plane =
                |band: &BandInputs| band.section.variance.clone().unwrap_or_else(|| vec![f32::NAN; rows * columns]);
            let variance: Vec<f32> = inputs.bands.iter().flat_map(plane).collect();
            self.writer.numbers::<f32>(&name("variance"), &shape, &variance)?;
        }
        self.writer.numbers::<u8>(&name("good"), &shape, &good)?;
        let data = self.writer.numbers::<f32>(&name("image"), &shape, &image)?;
        let numbers = |values: &[usize]| Attribute::Integers(values.iter().map(|&value| value as u64).collect());
        data.attribute("units", &"nJy / pixel".into())?;
        data.attribute("wcs", &Attribute::Numbers(wcs_numbers(&inputs.wcs).to_vec()))?;
        data.attribute("section", &numbers(&[inputs.rows.0, inputs.rows.1, inputs.columns.0, inputs.columns.1]))?;
        data.attribute("psf", &Attribute::Integers(psfs))?;
        data.attribute("has_variance", &Attribute::Integers(planes))?;
        let files = inputs.bands.iter().flat_map(|band| &band.files);
        data.attribute("files", &Attribute::Texts(files.map(|file| file.display().to_string()).collect()))?;
        data.attribute("blake3", &digest_of(inputs).as_str().into())
    }

    /// Ends the file; returns how many objects have no inputs.
    pub fn close(self) -> Result<usize> {
        self.writer.texts("id", &self.ids)?;
        self.writer.texts("reason", &self.reasons)?;
        self.writer.close()?;
        Ok(self.reasons.iter().filter(|reason| !reason.is_empty()).count())
    }
}

/// A bundle to read from.
pub struct Bundle {
    reader: Reader,
    ids: Vec<String>,
    reasons: Vec<String>,
}

impl Bundle {
    /// Opens a bundle.
    ///
    /// # Errors
    /// A file that is no bundle, with the way out.
    pub fn open(path: &Path) -> Result<Bundle> {
        let broken = |error: Error| {
            Error::file(path, format!("is no bundle of inputs (remove it; `unseeing pack` makes it again): {error}"))
        };
        let reader = Reader::open(path).map_err(broken)?;
        let format = reader.attribute("", "format").map_err(broken)?;
        if format != Some(Attribute::Integer(FORMAT)) {
            return Err(broken(Error::internal(format!("its format is {format:?}, this program knows {FORMAT}"))));
        }
        let (ids, reasons) = (reader.read_texts("id").map_err(broken)?, reader.read_texts("reason").map_err(broken)?);
        Ok(Bundle { reader, ids, reasons })
    }

    /// An error unless the bundle was packed for the plan with this digest, for this shard.
    pub fn check(&self, plan: &str, shard: u32, objects: u32) -> Result<()> {
        let attributes =
            self.reader.text_attribute("plan").and_then(|plan| Ok((plan, self.reader.attribute("", "shard")?)));
        let (own_plan, own_shard) = attributes.map_err(|error| self.broken(error))?;
        let own = (own_plan, own_shard, self.ids.len());
        if own != (plan.to_string(), Some(Attribute::Integer(u64::from(shard))), objects as usize) {
            let what = "was packed for another plan or shard; remove it and pack again";
            return Err(Error::file(self.reader.path(), what));
        }
        Ok(())
    }

    /// An error unless every byte of the file is as it was written.
    pub fn check_bytes(&self) -> Result<()> {
        match seal::file_is_whole(self.path())? {
            true => Ok(()),
            false => Err(self.broken(Error::internal("its bytes are not those that were written"))),
        }
    }

    /// An error unless these are the objects of the bundle, in this order.
    pub fn check_ids<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Result<()> {
        match ids.eq(self.ids.iter().map(String::as_str)) {
            true => Ok(()),
            false => Err(self.broken(Error::internal("its objects are not those of the shard"))),
        }
    }

    pub fn path(&self) -> &Path {
        self.reader.path()
    }

    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The inputs of an object, given by its place in the shard; the object's own trouble as it was found at packing.
    pub fn inputs(&self, place: usize, id: &str) -> Result<Inputs> {
        if self.ids.get(place).is_none_or(|own| own != id) {
            return Err(Error::file(
                self.path(),
                format!("object {place} is not {id}: it was packed for another plan; remove it and pack again"),
            ));
        }
        if !self.reasons[place].is_empty() {
            return Err(Error::object(id, &self.reasons[place]));
        }
        let inputs = self.read(place).map_err(|error| self.broken(error))?;
        let want = self.reader.attribute(&format!("object/{place:05}/image"), "blake3");
        let want = want.map_err(|error| self.broken(error))?;
        if want != Some(Attribute::Text(digest_of(&inputs))) {
            let what = format!("the inputs of object {id} are damaged; remove the file and pack again");
            return Err(Error::file(self.path(), what));
        }
        Ok(inputs)
    }

    fn broken(&self, error: Error) -> Error {
        let what = match error {
            Error::File { what, .. } => what,
            other => other.to_string(),
        };
        Error::file(self.path(), format!("is damaged (remove it; `unseeing pack` makes it again): {what}"))
    }

    fn read(&self, place: usize) -> Result<Inputs> {
        let name = |what: &str| format!("object/{place:05}/{what}");
        let fault = |what: &str| Error::file(self.path(), format!("{}: {what}", name("image")));
        let (shape, image) = self.reader.read::<f32>(&name("image"))?;
        let (_, good) = self.reader.read::<u8>(&name("good"))?;
        let integers = |attribute: &str, count: usize| match self.reader.attribute(&name("image"), attribute)? {
            Some(Attribute::Integers(values)) if values.len() == count => Ok(values),
            other => Err(fault(&format!("attribute `{attribute}` is {other:?}"))),
        };
        let &[bands, rows, columns] = shape.as_slice() else { return Err(fault("is not an image of three axes")) };
        let section = integers("section", 4)?;
        let (psfs, planes) = (integers("psf", bands)?, integers("has_variance", bands)?);
        let Some(Attribute::Numbers(wcs)) = self.reader.attribute(&name("image"), "wcs")? else {
            return Err(fault("has no WCS"));
        };
        let wcs = wcs_of(&wcs).ok_or_else(|| fault("its WCS is not eight numbers"))?;
        let Some(Attribute::Texts(files)) = self.reader.attribute(&name("image"), "files")? else {
            return Err(fault("does not name its files"));
        };
        let variance = if planes.contains(&1) { self.reader.read::<f32>(&name("variance"))?.1 } else { Vec::new() };
        let pixels = rows * columns;
        let expected = bands * pixels;
        let lengths = [good.len(), if planes.contains(&1) { variance.len() } else { expected }];
        if lengths != [expected; 2] || files.len() != 2 * bands {
            return Err(fault("its planes do not fit together"));
        }
        let mut read = Vec::with_capacity(bands);
        for band in 0..bands {
            let (plane, file) =
                (band * pixels..(band + 1) * pixels, |index: usize| files[2 * band + index].as_str().into());
            let (psf_shape, values) = self.reader.read::<f32>(&format!("psf/{:05}", psfs[band]))?;
            let &[psf_rows, psf_columns] = psf_shape.as_slice() else { return Err(fault("its PSF is no image")) };
            read.push(BandInputs {
                section: Section {
                    shape: [rows, columns],
                    image: image[plane.clone()].to_vec(),
                    variance: (planes[band] == 1).then(|| variance[plane.clone()].to_vec()),
                    good: good[plane].iter().map(|&value| value != 0).collect(),
                },
                psf: Psf { shape: [psf_rows, psf_columns], values },
                files: [file(0), file(1)],
            });
        }
        let place = |index: usize| section[index] as usize;
        Ok(Inputs { wcs, rows: (place(0), place(1)), columns: (place(2), place(3)), bands: read })
    }
}

fn wcs_numbers(wcs: &TanWcs) -> [f64; 8] {
    let ([a, b], [c, d], [[e, f], [g, h]]) = (wcs.crval, wcs.crpix, wcs.cd);
    [a, b, c, d, e, f, g, h]
}

fn wcs_of(numbers: &[f64]) -> Option<TanWcs> {
    let &[a, b, c, d, e, f, g, h] = numbers else { return None };
    Some(TanWcs { crval: [a, b], crpix: [c, d], cd: [[e, f], [g, h]] })
}

fn psf_bytes(psf: &Psf) -> Vec<u8> {
    let mut bytes: Vec<u8> = psf.shape.iter().flat_map(|&side| (side as u64).to_le_bytes()).collect();
    f32::append_bytes(&psf.values, &mut bytes);
    bytes
}

/// Digest of everything that an observation is made from.
fn digest_of(inputs: &Inputs) -> String {
    let mut bytes = Vec::new();
    f64::append_bytes(&wcs_numbers(&inputs.wcs), &mut bytes);
    for (from, to) in [inputs.rows, inputs.columns] {
        bytes.extend([from, to].iter().flat_map(|&value| (value as u64).to_le_bytes()));
    }
    for BandInputs { section, psf, .. } in &inputs.bands {
        bytes.extend(section.shape.iter().flat_map(|&side| (side as u64).to_le_bytes()));
        f32::append_bytes(&section.image, &mut bytes);
        bytes.extend(section.good.iter().map(|&good| u8::from(good)));
        bytes.push(u8::from(section.variance.is_some()));
        f32::append_bytes(section.variance.as_deref().unwrap_or_default(), &mut bytes);
        bytes.extend(psf_bytes(psf));
    }
    digest::bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(seed: f32, with_variance: bool) -> Inputs {
        let band = |index: usize| {
            let image = (0..12).map(|pixel| if pixel == 5 { f32::NAN } else { seed + pixel as f32 }).collect();
            BandInputs {
                section: Section {
                    shape: [3, 4],
                    image,
                    variance: (with_variance && index == 1).then(|| vec![0.25; 12]),
                    good: (0..12).map(|pixel| pixel != 5).collect(),
                },
                psf: Psf { shape: [3, 3], values: vec![index as f32; 9] },
                files: ["a.fits".into(), "b.fits".into()],
            }
        };
        let wcs = TanWcs { crval: [150.1, 2.2], crpix: [0.1, 7.0], cd: [[-4e-5, 0.0], [1e-9, 4e-5]] };
        Inputs { wcs, rows: (3, 6), columns: (10, 14), bands: (0..2).map(band).collect() }
    }

    #[test]
    fn inputs_come_back_to_the_bit_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("00003.h5");
        let mut writer = BundleWriter::create(&path, "a plan", 3).unwrap();
        let all = [Ok(inputs(0.1, true)), Err("no such file".to_string()), Ok(inputs(0.7, false))];
        for (id, inputs) in ["a", "b", "c"].into_iter().zip(&all) {
            writer.add(id, inputs).unwrap();
        }
        assert_eq!(writer.close().unwrap(), 1);
        let bundle = Bundle::open(&path).unwrap();
        bundle.check("a plan", 3, 3).unwrap();
        for (plan, shard, objects) in [("b plan", 3, 3), ("a plan", 2, 3), ("a plan", 3, 4)] {
            assert!(bundle.check(plan, shard, objects).unwrap_err().to_string().contains("another plan"));
        }
        for (place, id) in [(0, "a"), (2, "c")] {
            let found = bundle.inputs(place, id).unwrap();
            // NaN is not equal to itself, its digest is.
            assert_eq!(digest_of(&found), digest_of(all[place].as_ref().unwrap()));
            assert_eq!(found.bands[1].files, all[place].as_ref().unwrap().bands[1].files);
        }
        assert!(bundle.inputs(1, "b").unwrap_err().to_string().contains("no such file"));
        assert!(bundle.inputs(0, "c").is_err());
        // Two objects of two bands, and only two PSFs.
        let names = Reader::open(&path).unwrap().names().unwrap();
        assert_eq!(names.iter().filter(|name| name.starts_with("psf/")).count(), 2, "{names:?}");

        drop(bundle);
        std::fs::write(&path, b"half").unwrap();
        assert!(Bundle::open(&path).err().unwrap().to_string().contains("unseeing pack"));
    }

    #[test]
    fn equal_inputs_only_have_equal_digests() {
        let one = inputs(0.1, true);
        assert_eq!(digest_of(&one), digest_of(&inputs(0.1, true)));
        let mut others = vec![inputs(0.2, true), inputs(0.1, false)];
        others.push(Inputs { rows: (4, 7), ..one.clone() });
        let mut other = one.clone();
        other.bands[0].section.good[0] = false;
        others.push(other);
        let mut other = one.clone();
        other.bands[1].psf.values[0] += 1e-6;
        others.push(other);
        assert!(others.iter().all(|other| digest_of(other) != digest_of(&one)));
    }
}
