//! The pattern of a disc in polar coordinates (ln R, azimuth): spiral arms, flocculence, rings and lopsidedness. It is
//! computed once per galaxy on a table and looked up per cell, which keeps the drawing fast.

use crate::train::stream::Stream;

const ROWS: usize = 96;
const COLUMNS: usize = 192;
/// Waves of the flocculent field.
const WAVES: usize = 9;
/// Range of the table in units of the disc's scale length.
const INNER: f32 = 0.08;
const OUTER: f32 = 12.0;

/// Spiral arms: logarithmic, phase = arms * (azimuth - ln(R / start) / tan(pitch)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Arms {
    pub number: f32,
    pub pitch: f32,
    /// Contrast in the old and in the young stars.
    pub strength: [f32; 2],
    /// Sharpness of the young arms (the exponent of a von Mises profile).
    pub sharpness: f32,
    /// The arms start at this radius, in scale lengths, at this azimuth.
    pub start: f32,
    pub azimuth: f32,
    /// They fade beyond this radius, in scale lengths.
    pub end: f32,
    /// +1 or -1: the sense of winding.
    pub sense: f32,
    /// Optical depth of the dust on the arms' inner edges.
    pub dust: f32,
}

/// A ring: radius and width in scale lengths, contrast in old and young stars.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    pub radius: f32,
    pub width: f32,
    pub strength: [f32; 2],
}

/// Everything the table is made from.
#[derive(Clone, Debug, Default)]
pub struct Pattern {
    pub arms: Option<Arms>,
    pub rings: Vec<Ring>,
    /// Standard deviation of ln(young light) of the flocculent field.
    pub flocculence: f32,
    /// Azimuthal frequency around which the flocculent field has its power.
    pub floccules: f32,
    /// Amplitude and azimuth of the m = 1 asymmetry.
    pub lopsided: [f32; 2],
    /// Scale length of the disc, kpc.
    pub scale: f32,
}

/// Factors at one place of the disc: old light, young light, and optical depth of dust.
pub type Factors = [f32; 3];

/// The table.
pub struct Texture {
    scale: f32,
    values: Vec<Factors>,
    /// Azimuthal means.
    means: Vec<Factors>,
}

impl Texture {
    /// Computes the table; the flocculent field's waves are drawn from `stream`.
    pub fn new(pattern: &Pattern, stream: &mut Stream) -> Self {
        let waves = waves(pattern, stream);
        let mut values = Vec::with_capacity(ROWS * COLUMNS);
        for row in 0..ROWS {
            let ln_radius = INNER.ln() + (OUTER / INNER).ln() * row as f32 / (ROWS - 1) as f32;
            for column in 0..COLUMNS {
                let azimuth = std::f32::consts::TAU * column as f32 / COLUMNS as f32;
                values.push(factors(pattern, &waves, ln_radius, azimuth));
            }
        }
        let mean = |row: &[Factors]| std::array::from_fn(|k| row.iter().map(|v| v[k]).sum::<f32>() / COLUMNS as f32);
        let means = values.chunks_exact(COLUMNS).map(mean).collect();
        Texture { scale: pattern.scale, values, means }
    }

    /// What is seen from the disc's edge on either side: the azimuthal mean (the line of sight crosses all azimuths),
    /// with a fifth of the pattern at the tangent point.
    pub fn edge_on(&self, radius: f32, far_side: bool) -> Factors {
        let ln_radius = (radius / self.scale).clamp(INNER, OUTER).ln();
        let row = (ln_radius - INNER.ln()) / (OUTER / INNER).ln() * (ROWS - 1) as f32;
        let low = (row as usize).min(ROWS - 2);
        let local = self.at(radius, if far_side { std::f32::consts::PI } else { 0.0 });
        std::array::from_fn(|k| {
            let mean = self.means[low][k] + (self.means[low + 1][k] - self.means[low][k]) * (row - low as f32);
            0.8 * mean + 0.2 * local[k]
        })
    }

    /// Bilinear interpolation at (radius in kpc, azimuth in radians).
    pub fn at(&self, radius: f32, azimuth: f32) -> Factors {
        let ln_radius = (radius / self.scale).clamp(INNER, OUTER).ln();
        let row = (ln_radius - INNER.ln()) / (OUTER / INNER).ln() * (ROWS - 1) as f32;
        let column = azimuth.rem_euclid(std::f32::consts::TAU) / std::f32::consts::TAU * COLUMNS as f32;
        let (r0, c0) = ((row as usize).min(ROWS - 2), column as usize % COLUMNS);
        let (fr, fc) = (row - r0 as f32, column - column.floor());
        let c1 = (c0 + 1) % COLUMNS;
        let get = |r: usize, c: usize| self.values[r * COLUMNS + c];
        let (a, b, c, d) = (get(r0, c0), get(r0, c1), get(r0 + 1, c0), get(r0 + 1, c1));
        std::array::from_fn(|k| {
            let low = a[k] + (b[k] - a[k]) * fc;
            let high = c[k] + (d[k] - c[k]) * fc;
            low + (high - low) * fr
        })
    }
}

/// One wave of the flocculent field: frequencies in azimuth and in ln R, phase.
type Wave = [f32; 3];

fn waves(pattern: &Pattern, stream: &mut Stream) -> Vec<Wave> {
    if pattern.flocculence <= 0.0 {
        return Vec::new();
    }
    let sense = pattern.arms.map_or(1.0, |arms| arms.sense);
    (0..WAVES)
        .map(|_| {
            let m = (f64::from(pattern.floccules) * stream.log_range(0.35, 2.6)).round().max(1.0) as f32;
            // Sheared like loose arms of 15 to 40 degrees pitch.
            let pitch = stream.range(0.26, 0.7) as f32;
            [m * sense, -m / pitch.tan(), stream.angle() as f32]
        })
        .collect()
}

fn factors(pattern: &Pattern, waves: &[Wave], ln_radius: f32, azimuth: f32) -> Factors {
    let radius = ln_radius.exp();
    let (mut old, mut young, mut dust) = (1.0f32, 1.0f32, 0.0f32);
    let sum: f32 = waves.iter().map(|[m, k, phase]| (m * azimuth + k * ln_radius + phase).cos()).sum();
    let field = sum * (2.0 / waves.len().max(1) as f32).sqrt() * smooth_step(radius / 0.7);
    // The first waves also bend the arms and vary their strength, so that no arm is a perfect logarithmic spiral.
    let slow: f32 =
        waves.iter().take(2).map(|[m, k, phase]| (m.signum() * azimuth + 0.3 * k * ln_radius + phase).sin()).sum();
    if let Some(arms) = pattern.arms {
        let phase = arms.number
            * (arms.sense * (azimuth - arms.azimuth) - (ln_radius - arms.start.ln()) / arms.pitch.tan())
            + 0.5 * slow
            + pattern.flocculence * 0.35 * field;
        let varied = (1.0 + 0.3 * slow).max(0.2);
        let on = smooth_step((radius / arms.start - 0.75) / 0.5) * (1.0 - smooth_step((radius / arms.end - 0.8) / 0.6));
        old += on * varied * arms.strength[0] * (1.5 * (phase.cos() - 1.0)).exp();
        young += on * varied * arms.strength[1] * (arms.sharpness * ((phase - 0.25).cos() - 1.0)).exp();
        dust += on * arms.dust * (6.0 * ((phase + 0.45).cos() - 1.0)).exp() * (-0.4 * radius).exp();
    }
    for ring in &pattern.rings {
        let profile = (-0.5 * ((radius - ring.radius) / ring.width).powi(2)).exp();
        old += ring.strength[0] * profile;
        young += ring.strength[1] * profile;
    }
    if !waves.is_empty() {
        young *= (pattern.flocculence * field - 0.5 * pattern.flocculence.powi(2)).exp();
        old *= (0.35 * pattern.flocculence * field).exp();
        dust *= (-0.3 * field).exp();
    }
    let [amplitude, towards] = pattern.lopsided;
    let lopsided = (1.0 + amplitude * (radius / 2.0).min(1.5) * (azimuth - towards).cos()).max(0.05);
    [old * lopsided, young * lopsided, dust]
}

/// 0 below 0, 1 above 1, smooth between.
pub fn smooth_step(t: f32) -> f32 {
    let t = t.clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}
