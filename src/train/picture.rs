//! A contact sheet of three-band images.

use std::path::Path;

use tch::Tensor;

use crate::Result;
use crate::report::{BLACK, Canvas};
use crate::sampler::to_vec;

/// Pixels of the sheet for one pixel of an image.
const ZOOM: usize = 2;
/// Stretched value that is shown as white.
const WHITE: f32 = 5.0;

/// Writes stretched images `[N, C, n, n]` as a PNG with `columns` in a row: the last band is red, the first blue.
pub fn write_grid(path: &Path, images: &Tensor, columns: usize) -> Result<()> {
    let (count, channels, height, width) = images.size4()?;
    let (count, channels, n, width) = (count as usize, channels as usize, height as usize, width as usize);
    let values = to_vec(images)?;
    let rows = count.div_ceil(columns);
    let cell = n * ZOOM + 2;
    let mut sheet = Canvas::new((columns * cell) as u32, (rows * cell) as u32, BLACK);
    for index in 0..count {
        let (left, top) = ((index % columns) * cell, (index / columns) * cell);
        for y in 0..n * ZOOM {
            for x in 0..width * ZOOM {
                let shade = |band: usize| {
                    let value = values[((index * channels + band) * n + y / ZOOM) * width + x / ZOOM];
                    (255.0 * (value / WHITE).clamp(0.0, 1.0)) as u8
                };
                let colour = [shade(channels - 1), shade(channels / 2), shade(0)];
                sheet.set((left + x) as i64, (top + y) as i64, colour);
            }
        }
    }
    sheet.save(path)
}
