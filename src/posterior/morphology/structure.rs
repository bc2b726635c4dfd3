//! How the light is spread: asymmetry, Gini, M20, colour gradient.

use super::light::Plane;

/// Asymmetry and segmentation reach out to this many Petrosian radii.
pub(super) const REACH: f64 = 1.5;

/// sum |I(c + d) - I(c - d)| / (2 sum |I|) over the circle of `radius` about c, at its least over c near `centre`. Both
/// images are interpolated alike, so a point-symmetric galaxy has none wherever its centre is in a pixel.
pub(super) fn asymmetry(plane: &Plane, centre: (f64, f64), radius: f64) -> f64 {
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
        if total > 0.0 { difference / total } else { f64::NAN }
    };
    let (mut best, mut least) = (centre, value(centre));
    let mut step = 0.5;
    // A walk to lower values, with ever smaller steps; the limit bounds the cost of odd galaxies.
    for _ in 0..12 {
        let neighbours = [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)];
        let tried = neighbours.map(|(dx, dy)| (best.0 + dx, best.1 + dy)).map(|centre| (value(centre), centre));
        match tried.into_iter().filter(|(found, _)| *found < least).min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((found, centre)) => (least, best) = (found, centre),
            None if step > 0.1 => step /= 2.0,
            None => break,
        }
    }
    least
}

/// Gini and M20 over the pixels within 1.5 Petrosian radii that are brighter than the ring at the Petrosian radius.
pub(super) fn gini_m20(plane: &Plane, centre: (f64, f64), petrosian: f64, threshold: f64) -> (f64, f64) {
    let limit = (REACH * petrosian).powi(2);
    let mut pixels: Vec<(f64, f64, f64)> = Vec::new();
    for (index, &value) in plane.values.iter().enumerate() {
        let (x, y) = ((index % plane.size) as f64, (index / plane.size) as f64);
        let distance = (x - centre.0).powi(2) + (y - centre.1).powi(2);
        if value >= threshold.max(f64::MIN_POSITIVE) && distance <= limit {
            pixels.push((value, x, y));
        }
    }
    if pixels.len() < 2 {
        return (f64::NAN, f64::NAN);
    }
    pixels.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (count, total) = (pixels.len() as f64, pixels.iter().map(|pixel| pixel.0).sum::<f64>());
    let ranked: f64 =
        (pixels.iter().enumerate()).map(|(i, pixel)| (2.0 * (i + 1) as f64 - count - 1.0) * pixel.0).sum();
    let gini = ranked / (total * (count - 1.0));
    // The total second moment is least about the segment's own centroid.
    let x = pixels.iter().map(|pixel| pixel.0 * pixel.1).sum::<f64>() / total;
    let y = pixels.iter().map(|pixel| pixel.0 * pixel.2).sum::<f64>() / total;
    let second = |pixel: &(f64, f64, f64)| pixel.0 * ((pixel.1 - x).powi(2) + (pixel.2 - y).powi(2));
    let whole: f64 = pixels.iter().map(second).sum();
    let (mut flux, mut bright) = (0.0, 0.0);
    for pixel in pixels.iter().rev() {
        if flux >= 0.2 * total {
            break;
        }
        flux += pixel.0;
        bright += second(pixel);
    }
    (gini, (bright / whole).log10())
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
