//! Stacking objects: writes the datasets of the schema over many objects, a few rows at a time, and digests them on the
//! way.

use super::digest::{Content, Values, batch_rows};
use super::schema::{self, Axis, Dataset, Source};
use crate::io::hdf5::{Attribute, Element, Kind, Writer};
use crate::posterior::Flag;
use crate::posterior::residual::BINS;
use crate::posterior::variance_ratio::RING;
use crate::{Error, Result};

/// Bytes that a text (an id, a reason) takes in a file, on average: its characters and HDF5's reference to them.
const TEXT: u64 = 48;

/// The lengths of the axes in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    pub objects: usize,
    pub bands: usize,
    /// Pixels on a side of the product images.
    pub size: usize,
    /// Rows and columns of the largest observation.
    pub observed: [usize; 2],
    pub samples: usize,
    pub draws: usize,
    pub amplitudes: usize,
}

impl Lengths {
    fn of(&self, axis: Axis) -> usize {
        match axis {
            Axis::Band => self.bands,
            Axis::Pixel => self.size,
            Axis::ObservedY => self.observed[0],
            Axis::ObservedX => self.observed[1],
            Axis::Sample => self.samples,
            Axis::Draw => self.draws,
            Axis::Amplitude => self.amplitudes,
            Axis::Coordinate => 2,
            Axis::Colour => self.bands.saturating_sub(1),
            Axis::Ring => self.size / (2 * RING),
            Axis::Frequency => BINS,
        }
    }

    /// Bytes of all rows of all datasets, before compression; a text counts as `TEXT` bytes.
    pub fn bytes(&self) -> u64 {
        let of = |dataset: &Dataset| {
            let size = match dataset.kind {
                Kind::Text => TEXT,
                Kind::U8 => 1,
                Kind::U32 | Kind::F32 => 4,
                Kind::F64 | Kind::Other => 8,
            };
            size * self.row(dataset).iter().product::<usize>() as u64
        };
        self.objects as u64 * schema::DATASETS.iter().map(of).sum::<u64>()
    }

    /// The shape of one object's row of a dataset.
    pub fn row(&self, dataset: &Dataset) -> Vec<usize> {
        dataset.axes.iter().map(|&axis| self.of(axis)).collect()
    }
}

/// A file in which objects are being stacked.
pub struct Stack<'a> {
    writer: &'a Writer,
    lengths: Lengths,
    content: Content,
}

impl<'a> Stack<'a> {
    pub fn new(writer: &'a Writer, lengths: Lengths) -> Self {
        Stack { writer, lengths, content: Content::default() }
    }

    /// Writes a dataset of numbers. `fill(index, out)` appends row `index` to `out`. A dataset with an empty axis (no
    /// kept draws) is left out.
    pub fn numbers<T: Element>(
        &mut self,
        dataset: &Dataset,
        mut fill: impl FnMut(usize, &mut Vec<T>) -> Result<()>,
    ) -> Result<()> {
        let row = self.lengths.row(dataset);
        let mut shape = vec![self.lengths.objects];
        shape.extend(&row);
        let row_length: usize = row.iter().product();
        if row_length == 0 {
            return Ok(());
        }
        let path = dataset.path();
        let rows = self.writer.rows::<T>(&path, &shape)?;
        let mut values = Values::default();
        let batch = batch_rows::<T>(&shape);
        let mut buffer: Vec<T> = Vec::new();
        for first in (0..self.lengths.objects).step_by(batch) {
            let count = batch.min(self.lengths.objects - first);
            buffer.clear();
            for index in first..first + count {
                fill(index, &mut buffer)?;
                let want = (index - first + 1) * row_length;
                if buffer.len() != want {
                    let got = buffer.len() + row_length - want;
                    return Err(Error::internal(format!("dataset `{path}`: a row of {got}, not {row_length} values")));
                }
            }
            rows.write(first, count, &buffer)?;
            values.numbers(&buffer);
        }
        for (name, value) in attributes(dataset) {
            rows.attribute(name, &value)?;
        }
        self.content.add(&path, T::KIND, &shape, values);
        Ok(())
    }

    /// Writes a dataset of strings, one an object.
    pub fn texts(&mut self, dataset: &Dataset, texts: &[String]) -> Result<()> {
        let rows = self.writer.texts(&dataset.path(), texts)?;
        for (name, value) in attributes(dataset) {
            rows.attribute(name, &value)?;
        }
        let mut values = Values::default();
        values.texts(texts);
        self.content.add(&dataset.path(), Kind::Text, &[texts.len()], values);
        Ok(())
    }

    /// Writes the interim prior's per-draw quantities, which are not stacked over objects.
    pub fn prior(&mut self, quantities: &[(String, Vec<f32>)]) -> Result<()> {
        for (name, numbers) in quantities {
            let path = format!("{}/{name}", schema::PRIOR_GROUP);
            let rows = self.writer.numbers(&path, &[numbers.len()], numbers)?;
            // A quantity of each band (`flux_0`) has the units of its dataset (`flux`).
            let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
            let known = schema::find(Source::Sample, name).or_else(|| schema::find(Source::Sample, stem));
            rows.attribute("units", &known.map_or("", |dataset| dataset.units).into())?;
            rows.attribute("meaning", &schema::PRIOR_MEANING.into())?;
            rows.attribute("axes", &"draw".into())?;
            let mut values = Values::default();
            values.numbers(numbers);
            self.content.add(&path, Kind::F32, &[numbers.len()], values);
        }
        Ok(())
    }

    /// The digest of what was written, which is also stored in the file.
    pub fn finish(self) -> Result<String> {
        let digest = self.content.finish();
        self.writer.attribute("content_blake3", &Attribute::Text(digest.clone()))?;
        Ok(digest)
    }
}

/// What the schema says of a dataset, as its attributes.
fn attributes(dataset: &Dataset) -> Vec<(&'static str, Attribute)> {
    let mut attributes = vec![
        ("units", dataset.units.into()),
        ("meaning", dataset.meaning.into()),
        ("axes", Attribute::Text(dataset.axes_in_words())),
    ];
    if dataset.rounding != schema::Rounding::Exact {
        attributes.push(("rounding", dataset.rounding.words().into()));
    }
    if dataset.name == "flags" {
        let texts = |text: fn(Flag) -> &'static str| Flag::ALL.into_iter().map(|flag| text(flag).to_string()).collect();
        attributes.push(("flag_masks", Attribute::Integers(Flag::ALL.iter().map(|flag| flag.bit().into()).collect())));
        attributes.push(("flag_names", Attribute::Texts(texts(Flag::name))));
        attributes.push(("flag_meanings", Attribute::Texts(texts(Flag::meaning))));
    }
    attributes
}
