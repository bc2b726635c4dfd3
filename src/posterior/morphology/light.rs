//! One band of an image, and its light within circles.

/// Apertures are resolved to this part of a pixel.
const BINS_PER_PIXEL: f64 = 8.0;
/// Pixels nearer to the centre than this are split finely for apertures.
const FINE_RADIUS: f64 = 8.0;
const FINE_PARTS: usize = 6;
const COARSE_PARTS: usize = 2;
/// The Petrosian radius is where the local surface brightness is this part of the mean within.
const PETROSIAN: f64 = 0.2;

/// One band. Positions are (column, row) in pixels; pixel centres are whole numbers.
pub(super) struct Plane {
    pub(super) size: usize,
    pub(super) values: Vec<f64>,
}

impl Plane {
    pub(super) fn total(&self) -> f64 {
        self.values.iter().sum()
    }

    /// Flux-weighted centre of the positive pixels.
    pub(super) fn centroid(&self) -> (f64, f64) {
        let (mut flux, mut x, mut y) = (0.0, 0.0, 0.0);
        for (index, value) in self.values.iter().enumerate() {
            let value = value.max(0.0);
            flux += value;
            x += value * (index % self.size) as f64;
            y += value * (index / self.size) as f64;
        }
        (x / flux, y / flux)
    }

    /// Flux within a circle (pixels); NaN where the circle leaves the field.
    pub(super) fn within(&self, centre: (f64, f64), radius: f64) -> f64 {
        let inside = |position: f64| position - radius >= -0.5 && position + radius <= self.size as f64 - 0.5;
        if inside(centre.0) && inside(centre.1) {
            Growth::of(self, centre, Ellipse::CIRCLE).within(radius)
        } else {
            f64::NAN
        }
    }

    /// The image at (column + u, row + v) for all whole columns and rows, 0 <= u, v < 1: bilinear; 0 where a neighbour is
    /// outside.
    pub(super) fn shifted(&self, u: f64, v: f64) -> Vec<f64> {
        let mut out = vec![0.0; self.values.len()];
        // A shift of zero needs no neighbour on that side.
        let (right, up) = (usize::from(u > 0.0), usize::from(v > 0.0));
        for row in 0..self.size - up {
            let lower = &self.values[row * self.size..(row + 1) * self.size];
            let upper = &self.values[(row + up) * self.size..(row + up + 1) * self.size];
            let line = &mut out[row * self.size..(row + 1) * self.size];
            for column in 0..self.size - right {
                let below = (1.0 - u) * lower[column] + u * lower[column + right];
                let above = (1.0 - u) * upper[column] + u * upper[column + right];
                line[column] = (1.0 - v) * below + v * above;
            }
        }
        out
    }
}

/// The form of the curves that light is summed within.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ellipse {
    /// Minor over major axis.
    pub(super) axis_ratio: f64,
    /// Direction of the major axis, cosine and sine.
    pub(super) direction: (f64, f64),
}

impl Ellipse {
    pub(super) const CIRCLE: Ellipse = Ellipse { axis_ratio: 1.0, direction: (1.0, 0.0) };

    /// The major half-axis of the ellipse through (x, y).
    pub(super) fn radius(&self, x: f64, y: f64) -> f64 {
        let (cosine, sine) = self.direction;
        (x * cosine + y * sine).hypot((y * cosine - x * sine) / self.axis_ratio)
    }
}

/// Flux within circles or ellipses (of major half-axes "radius"), from the pixels' flux spread evenly over each pixel.
pub(super) struct Growth {
    /// Flux in rings of 1 / BINS_PER_PIXEL pixels.
    rings: Vec<f64>,
    axis_ratio: f64,
}

impl Growth {
    pub(super) fn of(plane: &Plane, centre: (f64, f64), ellipse: Ellipse) -> Growth {
        let bins = (plane.size as f64 * 1.5 / ellipse.axis_ratio * BINS_PER_PIXEL) as usize + 16;
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
                    let bin = (ellipse.radius(x, y) * BINS_PER_PIXEL) as usize;
                    rings[bin.min(bins - 1)] += share;
                }
            }
        }
        Growth { rings, axis_ratio: ellipse.axis_ratio }
    }

    /// Flux within `radius`, what the field holds of it.
    pub(super) fn within(&self, radius: f64) -> f64 {
        let whole = ((radius * BINS_PER_PIXEL) as usize).min(self.rings.len());
        let (inner, outer) = (whole as f64, whole as f64 + 1.0);
        let part = ((radius * BINS_PER_PIXEL).powi(2) - inner * inner) / (outer * outer - inner * inner);
        let last = self.rings.get(whole).map_or(0.0, |ring| ring * part.clamp(0.0, 1.0));
        self.rings[..whole].iter().sum::<f64>() + last
    }

    /// The radius (pixels) that first holds the flux `target`.
    pub(super) fn radius(&self, target: f64) -> Option<f64> {
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
    pub(super) fn brightness(&self, radius: f64) -> f64 {
        let last = self.rings.len();
        let inner = (((radius - 0.5).max(0.0) * BINS_PER_PIXEL) as usize).min(last);
        let outer = (((radius + 0.5) * BINS_PER_PIXEL) as usize).clamp(inner, last);
        let bins = (outer * outer - inner * inner) as f64;
        let area = std::f64::consts::PI * self.axis_ratio * bins / (BINS_PER_PIXEL * BINS_PER_PIXEL);
        self.rings[inner..outer].iter().sum::<f64>() / area.max(f64::MIN_POSITIVE)
    }

    /// The radius (pixels) at which the surface brightness is PETROSIAN times the mean within.
    pub(super) fn petrosian(&self) -> Option<f64> {
        let mut within = 0.0;
        let mut before: Option<(f64, f64)> = None;
        for (bin, ring) in self.rings.iter().enumerate() {
            within += ring;
            let radius = (bin + 1) as f64 / BINS_PER_PIXEL;
            if radius < 1.0 {
                continue;
            }
            let mean = within / (std::f64::consts::PI * self.axis_ratio * radius * radius);
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
