//! Collections of simulated images: many FITS files, checked, brought to the prior's grid and split once, in one HDF5
//! file from which a training streams.
//!
//! ```text
//! images           [N, C, S, S]  linear flux per pixel, the reference band's total is one; S = size + 2 shift
//! file, subhalo    [N]           where an image comes from, and what it shows
//! digest           [N]           blake3 of the image's little-endian bytes
//! heldout          [N]           1 where it is not trained on
//! skipped/file     [M]           files that could not be used      skipped/reason [M]
//! ```

pub mod build;
pub mod cache;
pub mod config;
mod read;
#[cfg(test)]
mod tests;

/// The file's attribute `format`, which changes with its layout.
const FORMAT: &str = "unseeing images 1";
