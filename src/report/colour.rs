//! From fluxes to colours: composites of three bands, and colour maps for single quantities.

use super::canvas::{Colour, GREY};

/// Weights of blue, green and red: in these, a typical galaxy at z = 0.2 (g - r = 0.5, r - i = 0.28) is neutral.
const BALANCE: [f32; 3] = [1.6, 1.0, 0.77];

/// An asinh stretch of surface brightness that keeps colours (Lupton et al. 2004, PASP 116, 133): the intensity, the
/// mean of the bands, is stretched, and the bands keep their ratios.
#[derive(Clone, Copy, Debug)]
pub struct Asinh {
    /// Intensity at which the stretch goes from linear to logarithmic.
    pub softening: f32,
    /// Intensity that is shown at full brightness.
    pub white: f32,
}

impl Asinh {
    /// The colour of one pixel of `bands` (blue first; one band, or another number of them, is shown in grey).
    pub fn colour(&self, bands: &[f32]) -> Colour {
        if bands.iter().any(|value| !value.is_finite()) {
            return GREY;
        }
        let balanced: [f32; 3] = match *bands {
            [blue, green, red] => [red * BALANCE[2], green * BALANCE[1], blue * BALANCE[0]],
            _ => [bands.iter().sum::<f32>() / bands.len().max(1) as f32; 3],
        };
        let intensity = balanced.iter().sum::<f32>() / 3.0;
        let softening = self.softening.max(f32::MIN_POSITIVE);
        // A little below zero is still shown, so that noise does not look cut off.
        let shown = ((intensity / softening).asinh() + 0.5) / ((self.white / softening).asinh() + 0.5);
        if shown <= 0.0 {
            return [0; 3];
        }
        // Ratios of noise around zero would be wild colours: the softening tames them.
        let floor = intensity.max(0.0) + softening;
        let mut rgb = balanced.map(|value| shown.min(1.0) * (value + softening) / floor);
        let largest = rgb.iter().copied().fold(1.0, f32::max);
        rgb = rgb.map(|value| value / largest);
        rgb.map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8)
    }
}

/// Dark blue over green to yellow, evenly brighter: like viridis, at nine points of a smooth curve.
const SEQUENTIAL: [Colour; 9] = [
    [68, 2, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// Blue over white to red.
const DIVERGING: [Colour; 5] = [[33, 84, 172], [130, 177, 216], [247, 247, 247], [236, 142, 114], [170, 20, 40]];

/// A colour map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    Sequential,
    Diverging,
}

impl Map {
    /// The colour at `part` of the way (0 to 1, clamped); NaN is grey.
    pub fn colour(self, part: f64) -> Colour {
        if part.is_nan() {
            return GREY;
        }
        let table: &[Colour] = match self {
            Map::Sequential => &SEQUENTIAL,
            Map::Diverging => &DIVERGING,
        };
        let position = part.clamp(0.0, 1.0) * (table.len() - 1) as f64;
        let low = (position as usize).min(table.len() - 2);
        let weight = position - low as f64;
        std::array::from_fn(|channel| {
            let (from, to) = (f64::from(table[low][channel]), f64::from(table[low + 1][channel]));
            (from + (to - from) * weight).round() as u8
        })
    }
}

/// The value below which `part` of the finite values lie; `None` when there are none.
pub fn quantile(values: impl Iterator<Item = f32>, part: f64) -> Option<f32> {
    let mut values: Vec<f32> = values.filter(|value| value.is_finite()).collect();
    let last = values.len().checked_sub(1)?;
    let index = (part.clamp(0.0, 1.0) * last as f64).round() as usize;
    Some(*values.select_nth_unstable_by(index, f32::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn red_galaxies_are_red_and_brightness_rises() {
        let stretch = Asinh { softening: 1.0, white: 100.0 };
        let [red, _, blue] = stretch.colour(&[5.0, 20.0, 60.0]);
        assert!(red > blue);
        let [red, _, blue] = stretch.colour(&[30.0, 20.0, 15.0]);
        assert!(blue > red);
        let greys: Vec<u8> = [0.0, 1.0, 10.0, 50.0, 100.0].iter().map(|&v| stretch.colour(&[v])[0]).collect();
        assert!(greys.windows(2).all(|pair| pair[0] < pair[1]), "{greys:?}");
        assert_eq!(stretch.colour(&[f32::NAN, 1.0, 1.0]), GREY);
        assert_eq!(stretch.colour(&[-100.0; 3]), [0; 3]);
    }

    #[test]
    fn maps_and_quantiles_have_the_right_ends() {
        assert_eq!(Map::Sequential.colour(-1.0), SEQUENTIAL[0]);
        assert_eq!(Map::Sequential.colour(2.0), SEQUENTIAL[8]);
        assert_eq!(Map::Diverging.colour(0.5), DIVERGING[2]);
        assert_eq!(Map::Diverging.colour(f64::NAN), GREY);
        let values = [3.0, f32::NAN, 1.0, 2.0];
        assert_eq!(quantile(values.into_iter(), 0.5), Some(2.0));
        assert_eq!(quantile([f32::NAN].into_iter(), 0.5), None);
    }
}
