//! How the light is spread: asymmetry, Gini, M20, colour gradient.

use super::light::Plane;
use super::segment::Pixel;

/// Asymmetry and segmentation reach out to this many Petrosian radii.
pub(super) const REACH: f64 = 1.5;

/// The walk to the centre of least asymmetry ends with steps of this many pixels, or after so many of them.
const LEAST_STEP: f64 = 0.03;
const STEPS: usize = 30;

/// sum |I(c + d) - I(c - d)| / sum |I(c + d)| over the circle of `radius` about c, at its least over c near `centre`; and
/// that c. Both images are interpolated alike, so a point-symmetric galaxy has none wherever its centre is in a pixel.
pub(super) fn asymmetry(plane: &Plane, centre: (f64, f64), radius: f64) -> (f64, (f64, f64)) {
    let reach = radius.min(plane.size as f64).floor() as i64;
    let size = plane.size as i64;
    let value = |centre: (f64, f64)| {
        let (x, y) = (centre.0.floor(), centre.1.floor());
        let image = plane.shifted(centre.0 - x, centre.1 - y);
        let (x, y) = (x as i64, y as i64);
        let at = |column: i64, row: i64| {
            let inside = (0..size).contains(&column) && (0..size).contains(&row);
            if inside { image[(row * size + column) as usize] } else { 0.0 }
        };
        let (mut difference, mut total) = (0.0, at(x, y).abs());
        // Half of the plane: d and -d are one pair.
        for row in 0..=reach {
            let width = ((radius * radius - (row * row) as f64).max(0.0).sqrt()) as i64;
            for column in if row == 0 { 1 } else { -width }..=width {
                let (here, there) = (at(x + column, y + row), at(x - column, y - row));
                difference += (here - there).abs();
                total += here.abs() + there.abs();
            }
        }
        // Each pair is looked at once, but its two differences are both in the sum.
        if total > 0.0 { 2.0 * difference / total } else { f64::NAN }
    };
    let (mut best, mut least) = (centre, value(centre));
    let mut step = 0.5;
    // A walk to lower values, with ever smaller steps; the limit bounds the cost of odd galaxies.
    for _ in 0..STEPS {
        let neighbours = [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)];
        let tried = neighbours.map(|(dx, dy)| (best.0 + dx, best.1 + dy)).map(|centre| (value(centre), centre));
        match tried.into_iter().filter(|(found, _)| *found < least).min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((found, centre)) => (least, best) = (found, centre),
            None if step > LEAST_STEP => step /= 2.0,
            None => break,
        }
    }
    (least, best)
}

/// Gini coefficient of the pixels' absolute values (Lotz et al. 2004, eq. 6).
pub(super) fn gini(pixels: &[Pixel]) -> f64 {
    let mut values: Vec<f64> = pixels.iter().map(|pixel| pixel.0.abs()).collect();
    values.sort_unstable_by(f64::total_cmp);
    let (count, total) = (values.len() as f64, values.iter().sum::<f64>());
    let ranked: f64 = values.iter().enumerate().map(|(i, value)| (2.0 * (i + 1) as f64 - count - 1.0) * value).sum();
    if values.len() < 2 || total <= 0.0 { f64::NAN } else { ranked / (total * (count - 1.0)) }
}

/// M20: the second moment, about the pixels' centroid, of the brightest pixels that hold 20 % of the flux, log10, relative
/// to that of all (Lotz et al. 2004, eq. 8).
pub(super) fn m20(pixels: &[Pixel]) -> f64 {
    let mut pixels = pixels.to_vec();
    pixels.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = pixels.iter().map(|pixel| pixel.0).sum();
    if pixels.len() < 2 || total.is_nan() || total <= 0.0 {
        return f64::NAN;
    }
    let x = pixels.iter().map(|pixel| pixel.0 * pixel.1).sum::<f64>() / total;
    let y = pixels.iter().map(|pixel| pixel.0 * pixel.2).sum::<f64>() / total;
    let second = |pixel: &Pixel| pixel.0 * ((pixel.1 - x).powi(2) + (pixel.2 - y).powi(2));
    let whole: f64 = pixels.iter().map(second).sum();
    // The faintest of the bright pixels is the first at which 80 % of the flux are reached from below.
    let mut below = 0.0;
    let first = pixels.iter().position(|pixel| {
        below += pixel.0;
        below >= 0.8 * total
    });
    let Some(threshold) = first.map(|index| pixels[index].0) else { return f64::NAN };
    let bright: f64 = pixels.iter().filter(|pixel| pixel.0 >= threshold).map(second).sum();
    if bright > 0.0 && whole > 0.0 { (bright / whole).log10() } else { f64::NAN }
}

/// The colour first - last (magnitudes) between r50 and 3 r50, minus that within r50.
pub(super) fn colour_gradient(first: &Plane, last: &Plane, centre: (f64, f64), r50: f64) -> f64 {
    let mut flux = [[0.0; 2]; 2];
    for index in 0..first.values.len() {
        let (x, y) = ((index % first.size) as f64 - centre.0, (index / first.size) as f64 - centre.1);
        let radius = x.hypot(y);
        if radius <= 3.0 * r50 {
            let ring = &mut flux[usize::from(radius > r50)];
            ring[0] += first.values[index];
            ring[1] += last.values[index];
        }
    }
    // Fluxes that are not positive have no magnitude: NaN.
    let colour = |[first, last]: [f64; 2]| -2.5 * (first.log10() - last.log10());
    colour(flux[1]) - colour(flux[0])
}
