//! Morphology of one noise-free galaxy image: sizes, concentration, asymmetry, Gini, M20, shape and colour gradient.
//! The same code measures posterior and interim-prior draws, so that populations can be reweighted.
//!
//! Definitions follow Conselice (2003, ApJS 147, 1) for C and A, Lotz et al. (2004, AJ 128, 163) for Gini, M20 and the
//! Petrosian segmentation, and Bernstein & Jarvis (2002, AJ 123, 583) for adaptive moments. Draws have no noise and no
//! background, so none is subtracted. Shapes are of the deconvolved draw under the prior: not for lensing.

use crate::{Error, Result};

/// Apertures are resolved to this part of a pixel.
const BINS_PER_PIXEL: f64 = 8.0;
/// Pixels nearer to the centre than this are split finely for apertures.
const FINE_RADIUS: f64 = 8.0;
const FINE_PARTS: usize = 6;
const COARSE_PARTS: usize = 2;
/// The Petrosian radius is where the local surface brightness is this part of the mean within.
const PETROSIAN: f64 = 0.2;
/// Asymmetry and segmentation reach out to this many Petrosian radii.
const REACH: f64 = 1.5;
/// Adaptive moments stop when the moments change by less than this part, or after so many iterations.
const MOMENT_TOLERANCE: f64 = 1e-4;
const MOMENT_ITERATIONS: usize = 60;

/// Measures an image `[C, n, n]` of flux per pixel (nJy). `pixel_kpc` is the pitch; sizes and shapes are measured in
/// band `reference`. Returns (name, value) pairs in a fixed order: `flux_0` ... `flux_{C-1}` (the units of the image),
/// `r20`, `r50`, `r80` (kpc), `concentration`, `asymmetry`, `gini`, `m20`, `e1`, `e2`, `position_angle` (degrees),
/// `colour_gradient` (magnitudes). What cannot be measured (no flux) is NaN.
///
/// Errors: an image that is not of C square bands; a reference band that it does not have.
pub fn morphology(image: &[f32], bands: usize, pixel_kpc: f64, reference: usize) -> Result<Vec<(String, f32)>> {
    let size = ((image.len() / bands.max(1)) as f64).sqrt().round() as usize;
    if bands == 0 || size == 0 || image.len() != bands * size * size || reference >= bands {
        let length = image.len();
        return Err(Error::internal(format!("morphology of {length} values, {bands} bands, reference {reference}")));
    }
    let planes: Vec<Plane> = image
        .chunks(size * size)
        .map(|plane| Plane { size, values: plane.iter().map(|&value| f64::from(value)).collect() })
        .collect();
    let mut out: Vec<(String, f32)> =
        planes.iter().enumerate().map(|(band, plane)| (format!("flux_{band}"), plane.total() as f32)).collect();
    let galaxy = &planes[reference];
    let measured = measure(galaxy, &planes).unwrap_or([f64::NAN; 11]);
    for ((name, scale), value) in NAMES.iter().zip(measured) {
        let unit = if *scale { pixel_kpc } else { 1.0 };
        out.push((name.to_string(), (value * unit) as f32));
    }
    Ok(out)
}

/// The names of what `morphology` returns, in order.
pub fn names(bands: usize) -> Vec<String> {
    let fluxes = (0..bands).map(|band| format!("flux_{band}"));
    fluxes.chain(NAMES.iter().map(|(name, _)| name.to_string())).collect()
}

/// Names after the fluxes, and whether the value is a length.
const NAMES: [(&str, bool); 11] = [
    ("r20", true),
    ("r50", true),
    ("r80", true),
    ("concentration", false),
    ("asymmetry", false),
    ("gini", false),
    ("m20", false),
    ("e1", false),
    ("e2", false),
    ("position_angle", false),
    ("colour_gradient", false),
];

fn measure(galaxy: &Plane, planes: &[Plane]) -> Option<[f64; 11]> {
    if !(galaxy.total() > 0.0) {
        return None;
    }
    let moments = adaptive_moments(galaxy);
    let centre = moments.map_or_else(|| galaxy.centroid(), |moments| moments.centre);
    let growth = Growth::of(galaxy, centre);
    let radius = |part: f64| growth.radius(part).unwrap_or(f64::NAN);
    let (r20, r50, r80) = (radius(0.2), radius(0.5), radius(0.8));
    // Without a Petrosian radius inside the field (a flat or negative profile) the field itself is the limit.
    let petrosian = growth.petrosian().unwrap_or(galaxy.size as f64 / 2.0 / REACH);
    let (gini, m20) = gini_m20(galaxy, centre, petrosian, growth.brightness(petrosian));
    let (e1, e2, angle) = moments.map_or((f64::NAN, f64::NAN, f64::NAN), |moments| moments.shape());
    let asymmetry = asymmetry(galaxy, centre, REACH * petrosian);
    let gradient = match planes {
        [first, .., last] => colour_gradient(first, last, centre, r50),
        _ => f64::NAN,
    };
    Some([r20, r50, r80, 5.0 * (r80 / r20).log10(), asymmetry, gini, m20, e1, e2, angle, gradient])
}

/// One band. Positions are (column, row) in pixels; pixel centres are whole numbers.
struct Plane {
    size: usize,
    values: Vec<f64>,
}

impl Plane {
    fn total(&self) -> f64 {
        self.values.iter().sum()
    }

    /// Flux-weighted centre of the positive pixels.
    fn centroid(&self) -> (f64, f64) {
        let (mut flux, mut x, mut y) = (0.0, 0.0, 0.0);
        for (index, value) in self.values.iter().enumerate() {
            let value = value.max(0.0);
            flux += value;
            x += value * (index % self.size) as f64;
            y += value * (index / self.size) as f64;
        }
        (x / flux, y / flux)
    }

    /// Bilinear interpolation; 0 outside.
    fn at(&self, x: f64, y: f64) -> f64 {
        let last = (self.size - 1) as f64;
        if !(x >= 0.0 && y >= 0.0 && x <= last && y <= last) {
            return 0.0;
        }
        let (column, row) =
            ((x as usize).min(self.size.saturating_sub(2)), (y as usize).min(self.size.saturating_sub(2)));
        let (u, v) = (x - column as f64, y - row as f64);
        let next = usize::from(self.size > 1);
        let lower = row * self.size + column;
        let upper = (row + next) * self.size + column;
        (1.0 - v) * ((1.0 - u) * self.values[lower] + u * self.values[lower + next])
            + v * ((1.0 - u) * self.values[upper] + u * self.values[upper + next])
    }
}

/// Flux within circles, from the pixels' flux spread evenly over each pixel.
struct Growth {
    /// Flux in rings of 1 / BINS_PER_PIXEL pixels.
    rings: Vec<f64>,
    total: f64,
}

impl Growth {
    fn of(plane: &Plane, centre: (f64, f64)) -> Growth {
        let bins = (plane.size as f64 * 1.5 * BINS_PER_PIXEL) as usize + 16;
        let mut rings = vec![0.0; bins];
        for (index, &value) in plane.values.iter().enumerate() {
            let (dx, dy) = ((index % plane.size) as f64 - centre.0, (index / plane.size) as f64 - centre.1);
            let near = dx * dx + dy * dy < FINE_RADIUS * FINE_RADIUS;
            let parts = if near { FINE_PARTS } else { COARSE_PARTS };
            let share = value / (parts * parts) as f64;
            let offset = |part: usize| (part as f64 + 0.5) / parts as f64 - 0.5;
            for part_y in 0..parts {
                let y = dy + offset(part_y);
                for part_x in 0..parts {
                    let x = dx + offset(part_x);
                    let bin = ((x * x + y * y).sqrt() * BINS_PER_PIXEL) as usize;
                    rings[bin.min(bins - 1)] += share;
                }
            }
        }
        Growth { rings, total: plane.total() }
    }

    /// The radius (pixels) of the circle that first holds `part` of the total flux.
    fn radius(&self, part: f64) -> Option<f64> {
        let target = part * self.total;
        let mut within = 0.0;
        for (bin, ring) in self.rings.iter().enumerate() {
            if within + ring >= target && *ring > 0.0 {
                // Within a ring the flux grows with the area.
                let (inner, outer) = (bin as f64, bin as f64 + 1.0);
                let area = inner * inner + (outer * outer - inner * inner) * ((target - within) / ring).clamp(0.0, 1.0);
                return Some(area.sqrt() / BINS_PER_PIXEL);
            }
            within += ring;
        }
        None
    }

    /// Mean surface brightness (flux per pixel) in a ring one pixel wide around `radius`.
    fn brightness(&self, radius: f64) -> f64 {
        let last = self.rings.len();
        let inner = (((radius - 0.5).max(0.0) * BINS_PER_PIXEL) as usize).min(last);
        let outer = (((radius + 0.5) * BINS_PER_PIXEL) as usize).clamp(inner, last);
        let area = std::f64::consts::PI * ((outer * outer - inner * inner) as f64) / (BINS_PER_PIXEL * BINS_PER_PIXEL);
        self.rings[inner..outer].iter().sum::<f64>() / area.max(f64::MIN_POSITIVE)
    }

    /// The radius (pixels) at which the surface brightness is PETROSIAN times the mean within.
    fn petrosian(&self) -> Option<f64> {
        let mut within = 0.0;
        let mut before: Option<(f64, f64)> = None;
        for (bin, ring) in self.rings.iter().enumerate() {
            within += ring;
            let radius = (bin + 1) as f64 / BINS_PER_PIXEL;
            if radius < 1.0 {
                continue;
            }
            let mean = within / (std::f64::consts::PI * radius * radius);
            let ratio = self.brightness(radius) / mean;
            match before {
                Some((last_radius, last_ratio)) if ratio <= PETROSIAN => {
                    let part = (last_ratio - PETROSIAN) / (last_ratio - ratio).max(f64::MIN_POSITIVE);
                    return Some(last_radius + (radius - last_radius) * part.clamp(0.0, 1.0));
                }
                None if ratio <= PETROSIAN => return Some(radius),
                _ => before = Some((radius, ratio)),
            }
        }
        None
    }
}

/// Centre and second moments (pixels^2) under the Gaussian weight that matches them.
#[derive(Clone, Copy)]
struct Moments {
    centre: (f64, f64),
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Moments {
    /// Distortion (xx - yy, 2 xy) / (xx + yy), and the major axis' angle in degrees from +x towards +y.
    fn shape(&self) -> (f64, f64, f64) {
        let size = self.xx + self.yy;
        let angle = 0.5 * (2.0 * self.xy).atan2(self.xx - self.yy).to_degrees();
        ((self.xx - self.yy) / size, 2.0 * self.xy / size, angle)
    }
}

/// Iterates w = exp(-1/2 d^T M^-1 d), M <- 2 sum(w f d d^T) / sum(w f), centre <- centre + 2 sum(w f d) / sum(w f):
/// for a Gaussian galaxy the fixed point is its own covariance. `None` when it does not converge to an ellipse.
fn adaptive_moments(plane: &Plane) -> Option<Moments> {
    let start = plane.centroid();
    let r50 = Growth::of(plane, start).radius(0.5)?;
    // A Gaussian's half-light radius is 1.177 standard deviations.
    let variance = (r50 / 1.177).max(0.5).powi(2);
    let mut moments = Moments { centre: start, xx: variance, yy: variance, xy: 0.0 };
    for _ in 0..MOMENT_ITERATIONS {
        let determinant = moments.xx * moments.yy - moments.xy * moments.xy;
        if !(determinant > 1e-6) {
            return None;
        }
        let (ixx, iyy, ixy) = (moments.yy / determinant, moments.xx / determinant, -moments.xy / determinant);
        let last = plane.size as f64 - 1.0;
        // Four standard deviations along each axis hold all that counts of the weight.
        let range = |centre: f64, variance: f64| {
            let reach = 4.0 * variance.sqrt() + 1.0;
            ((centre - reach).clamp(0.0, last) as usize, (centre + reach).clamp(0.0, last) as usize)
        };
        let (first_x, last_x) = range(moments.centre.0, moments.xx);
        let (first_y, last_y) = range(moments.centre.1, moments.yy);
        let [mut flux, mut sx, mut sy, mut sxx, mut syy, mut sxy] = [0.0; 6];
        for row in first_y..=last_y {
            let y = row as f64 - moments.centre.1;
            for column in first_x..=last_x {
                let x = column as f64 - moments.centre.0;
                let distance = ixx * x * x + iyy * y * y + 2.0 * ixy * x * y;
                let weighted = (-0.5 * distance).exp() * plane.values[row * plane.size + column];
                flux += weighted;
                sx += weighted * x;
                sy += weighted * y;
                sxx += weighted * x * x;
                syy += weighted * y * y;
                sxy += weighted * x * y;
            }
        }
        if !(flux > 0.0) {
            return None;
        }
        let (dx, dy) = (sx / flux, sy / flux);
        let next = Moments {
            centre: (moments.centre.0 + 2.0 * dx, moments.centre.1 + 2.0 * dy),
            xx: 2.0 * (sxx / flux - dx * dx),
            yy: 2.0 * (syy / flux - dy * dy),
            xy: 2.0 * (sxy / flux - dx * dy),
        };
        let inside = |position: f64| (0.0..=last).contains(&position);
        if !(next.xx > 0.0 && next.yy > 0.0) || !inside(next.centre.0) || !inside(next.centre.1) {
            return None;
        }
        let size = next.xx + next.yy;
        let change = (next.xx - moments.xx).abs().max((next.yy - moments.yy).abs()).max((next.xy - moments.xy).abs());
        moments = next;
        if change < MOMENT_TOLERANCE * size && dx.abs().max(dy.abs()) < MOMENT_TOLERANCE * size.sqrt() {
            break;
        }
    }
    (moments.xx * moments.yy > moments.xy * moments.xy).then_some(moments)
}

/// sum |I(c + d) - I(c - d)| / (2 sum |I|) over the circle of `radius` about c, at its least over c near `centre`. Both
/// images are interpolated alike, so a point-symmetric galaxy has none wherever its centre is in a pixel.
fn asymmetry(plane: &Plane, centre: (f64, f64), radius: f64) -> f64 {
    let reach = radius.min(plane.size as f64).floor() as i64;
    let value = |centre: (f64, f64)| {
        let (mut difference, mut total) = (0.0, 0.0);
        // Half of the plane: d and -d are one pair.
        for row in 0..=reach {
            let width = ((radius * radius - (row * row) as f64).max(0.0).sqrt()) as i64;
            for column in if row == 0 { 1 } else { -width }..=width {
                let (x, y) = (column as f64, row as f64);
                let here = plane.at(centre.0 + x, centre.1 + y);
                let there = plane.at(centre.0 - x, centre.1 - y);
                difference += (here - there).abs();
                total += here.abs() + there.abs();
            }
        }
        total += plane.at(centre.0, centre.1).abs();
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
fn gini_m20(plane: &Plane, centre: (f64, f64), petrosian: f64, threshold: f64) -> (f64, f64) {
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
fn colour_gradient(first: &Plane, last: &Plane, centre: (f64, f64), r50: f64) -> f64 {
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

#[cfg(test)]
#[path = "morphology_tests.rs"]
mod tests;
