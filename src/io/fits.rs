//! FITS files through cfitsio: image sections, header keywords, binary tables in chunks of rows, and writing.
//!
//! This module alone names `fitsio`. It uses the crate's raw bindings: the safe layer panics on some malformed files
//! and interprets brackets in file names (cfitsio's extended syntax), and catalogue ids may hold brackets.

mod image;
mod raw;
mod table;
mod write;

pub use image::{Fits, Hdu, Header, Plane, read_image};
pub use raw::version;
pub use table::{Cells, Table};
pub use write::{Keyword, NewColumn, NewImage, Pixels, Value, write_images, write_table};

#[cfg(test)]
mod tests;
