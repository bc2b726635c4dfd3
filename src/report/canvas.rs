//! A picture to draw on: pixels, lines, boxes and text, and how it becomes a PNG file.

use std::path::Path;

use super::font;
use crate::io::publish::publish_path;
use crate::{Error, Result};

/// Red, green, blue.
pub type Colour = [u8; 3];

pub const WHITE: Colour = [255, 255, 255];
pub const BLACK: Colour = [0, 0, 0];
pub const GREY: Colour = [128, 128, 128];
pub const LIGHT: Colour = [220, 220, 220];

/// A picture that is being drawn. What lies outside is not drawn.
pub struct Canvas {
    width: u32,
    height: u32,
    /// Row by row from the top.
    pixels: Vec<Colour>,
}

impl Canvas {
    pub fn new(width: u32, height: u32, background: Colour) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Canvas { width, height, pixels: vec![background; width as usize * height as usize] }
    }

    pub fn width(&self) -> u32 {
        self.width
    }

    pub fn height(&self) -> u32 {
        self.height
    }

    /// The colour of a pixel, counted from the upper left.
    pub fn get(&self, x: u32, y: u32) -> Option<Colour> {
        self.place(i64::from(x), i64::from(y)).map(|place| self.pixels[place])
    }

    pub fn set(&mut self, x: i64, y: i64, colour: Colour) {
        if let Some(place) = self.place(x, y) {
            self.pixels[place] = colour;
        }
    }

    fn place(&self, x: i64, y: i64) -> Option<usize> {
        let inside = (0..i64::from(self.width)).contains(&x) && (0..i64::from(self.height)).contains(&y);
        inside.then_some(y as usize * self.width as usize + x as usize)
    }

    pub fn fill(&mut self, x: i64, y: i64, width: i64, height: i64, colour: Colour) {
        for row in y..y + height {
            for column in x..x + width {
                self.set(column, row, colour);
            }
        }
    }

    /// The outline of a box.
    pub fn frame(&mut self, x: i64, y: i64, width: i64, height: i64, colour: Colour) {
        self.fill(x, y, width, 1, colour);
        self.fill(x, y + height - 1, width, 1, colour);
        self.fill(x, y, 1, height, colour);
        self.fill(x + width - 1, y, 1, height, colour);
    }

    /// A straight line, `thickness` pixels wide.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), thickness: i64, colour: Colour) {
        let steps = (to.0 - from.0).abs().max((to.1 - from.1).abs()).ceil().clamp(1.0, 1e5);
        for step in 0..=steps as i64 {
            let part = step as f64 / steps;
            let x = (from.0 + (to.0 - from.0) * part).round() as i64 - thickness / 2;
            let y = (from.1 + (to.1 - from.1) * part).round() as i64 - thickness / 2;
            self.fill(x, y, thickness, thickness, colour);
        }
    }

    /// Text with its upper left corner at (x, y); `scale` picture pixels to a font pixel.
    pub fn text(&mut self, x: i64, y: i64, text: &str, scale: i64, colour: Colour) {
        for (position, character) in text.chars().enumerate() {
            let left = x + position as i64 * i64::from(font::WIDTH + 1) * scale;
            let top = y + font::descent(character) * scale;
            for (row, bits) in font::glyph(character).into_iter().enumerate() {
                for column in (0..i64::from(font::WIDTH)).filter(|column| bits >> (4 - column) & 1 == 1) {
                    self.fill(left + column * scale, top + row as i64 * scale, scale, scale, colour);
                }
            }
        }
    }

    /// Pastes an image's pixels into a box, each pixel as the nearest one of the `columns x rows` given by `colour`.
    /// Row 0 is at the bottom, as astronomical images are shown.
    pub fn paste(
        &mut self,
        place: (i64, i64),
        side: (i64, i64),
        pixels: (usize, usize),
        colour: impl Fn(usize, usize) -> Colour,
    ) {
        for y in 0..side.1 {
            let row = (side.1 - 1 - y) as usize * pixels.1 / side.1.max(1) as usize;
            for x in 0..side.0 {
                let column = x as usize * pixels.0 / side.0.max(1) as usize;
                self.set(place.0 + x, place.1 + y, colour(column, row));
            }
        }
    }

    /// Copies another picture, its upper left corner to (x, y).
    pub fn copy(&mut self, x: i64, y: i64, other: &Canvas) {
        for (row, line) in (y..).zip(other.pixels.chunks_exact(other.width as usize)) {
            for (column, &colour) in (x..).zip(line) {
                self.set(column, row, colour);
            }
        }
    }

    /// The picture as the bytes of a PNG file.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes).map_err(|error| Error::internal(format!("cannot encode a PNG: {error}")))?;
        Ok(bytes)
    }

    fn encode(&self, into: &mut Vec<u8>) -> std::result::Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(into, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(self.pixels.as_flattened())?;
        writer.finish()
    }

    /// Writes the picture as a PNG file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = self.png()?;
        publish_path(path, |temporary| std::fs::write(temporary, &bytes).map_err(|error| Error::file(path, error)))
    }
}

/// The width of a text in picture pixels.
pub fn text_width(text: &str, scale: i64) -> i64 {
    (text.chars().count() as i64 * i64::from(font::WIDTH + 1) - 1).max(0) * scale
}

/// A number as a short label: about three digits.
pub fn label(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".into()
    } else if !value.is_finite() {
        value.to_string()
    } else if !(1e-3..1e5).contains(&size) {
        format!("{value:.1e}")
    } else {
        let decimals = (2 - size.log10().floor() as i64).clamp(0, 5) as usize;
        let text = format!("{value:.decimals$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_drawn_where_it_is_asked_for_and_edges_are_safe() {
        let mut canvas = Canvas::new(20, 10, WHITE);
        canvas.text(1, 1, "T", 1, BLACK);
        // The bar of the T, and its stem.
        assert!((1..6).all(|x| canvas.get(x, 1) == Some(BLACK)));
        assert!((1..8).all(|y| canvas.get(3, y) == Some(BLACK)));
        assert_eq!(canvas.get(1, 3), Some(WHITE));
        canvas.text(-3, 8, "long text that does not fit \u{3b4}", 2, BLACK);
        canvas.line((-50.0, 3.0), (50.0, 4.0), 3, GREY);
        assert!(canvas.png().unwrap().starts_with(b"\x89PNG"));
        assert_eq!(text_width("ab", 2), 22);
    }

    #[test]
    fn images_stand_on_their_first_row() {
        let mut canvas = Canvas::new(4, 4, WHITE);
        canvas.paste((0, 0), (4, 4), (2, 2), |x, y| if (x, y) == (0, 0) { BLACK } else { GREY });
        assert_eq!(canvas.get(0, 3), Some(BLACK));
        assert_eq!(canvas.get(0, 1), Some(GREY));
    }

    #[test]
    fn labels_are_short() {
        let cases = [(0.0, "0"), (1.0, "1"), (0.25, "0.25"), (123.4, "123"), (1e6, "1.0e6"), (-2.5e-5, "-2.5e-5")];
        for (value, want) in cases {
            assert_eq!(label(value), want);
        }
    }
}
