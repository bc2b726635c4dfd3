//! Filling and reading an object's record by the names of the schema.

use super::{ObjectRecord, RecordArray, Status};
use crate::posterior::Flag;
use crate::sky::TanWcs;

impl ObjectRecord {
    /// The record of an object that was sampled; its numbers are still to be set.
    pub fn done(id: &str) -> Self {
        ObjectRecord { status: Status::Done, ..ObjectRecord::failed(id, "") }
    }

    /// Sets a flag.
    pub fn flag(&mut self, flag: Flag) {
        self.flags |= flag.bit();
    }

    /// Adds a scalar.
    pub fn set_scalar(&mut self, name: &str, value: f64) {
        self.scalars.push((name.to_string(), value));
    }

    /// Adds a short vector (or a matrix, row by row) in full precision, as the scalars `name_0`, `name_1`, ...
    pub fn set_vector(&mut self, name: &str, values: &[f64]) {
        let named = values.iter().enumerate().map(|(index, &value)| (format!("{name}_{index}"), value));
        self.scalars.extend(named);
    }

    /// Adds a WCS as `prefix_crval`, `prefix_crpix` (counted from 1, as in headers) and `prefix_cd`. The prefix is `wcs`
    /// for the product images and `observation_wcs` for the observation.
    pub fn set_wcs(&mut self, prefix: &str, wcs: &TanWcs) {
        self.set_vector(&format!("{prefix}_crval"), &wcs.crval);
        self.set_vector(&format!("{prefix}_crpix"), &wcs.header_crpix());
        self.set_vector(&format!("{prefix}_cd"), &wcs.cd.concat());
    }

    /// The WCS that `set_wcs` added; `None` when it is not there or of no use.
    pub fn wcs(&self, prefix: &str) -> Option<TanWcs> {
        let pair = |name: &str| <[f64; 2]>::try_from(self.vector(&format!("{prefix}_{name}"))).ok();
        let [a, b, c, d] = <[f64; 4]>::try_from(self.vector(&format!("{prefix}_cd"))).ok()?;
        TanWcs::from_header(pair("crval")?, pair("crpix")?, [[a, b], [c, d]]).ok()
    }

    /// Adds an array; `values` in C order.
    pub fn set_array(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        self.arrays.push((name.to_string(), RecordArray { shape: shape.to_vec(), values }));
    }

    /// The scalar called `name`.
    pub fn scalar(&self, name: &str) -> Option<f64> {
        self.scalars.iter().find(|(key, _)| key == name).map(|&(_, value)| value)
    }

    /// The scalars `name_0`, `name_1`, ..., as many as there are.
    pub fn vector(&self, name: &str) -> Vec<f64> {
        (0..).map_while(|index| self.scalar(&format!("{name}_{index}"))).collect()
    }

    /// The array called `name`.
    pub fn array(&self, name: &str) -> Option<&RecordArray> {
        self.arrays.iter().find(|(key, _)| key == name).map(|(_, array)| array)
    }

    /// The per-sample quantity called `name`.
    pub fn sample(&self, name: &str) -> Option<&[f32]> {
        self.samples.iter().find(|(key, _)| key == name).map(|(_, values)| values.as_slice())
    }
}
