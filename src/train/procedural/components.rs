//! The components of a galaxy and how each is painted: Sersic spheroids, discs seen at any inclination, bars, knots.

use super::canvas::{Canvas, Shade};
use super::texture::Texture;

/// Where a component is on the sky and how it is turned and flattened there.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Centre, kpc from the centre of the grid.
    pub x: f32,
    pub y: f32,
    /// Position angle of the major axis, radians from the x axis.
    pub angle: f32,
    /// Apparent axis ratio.
    pub axis_ratio: f32,
}

impl Frame {
    /// Coordinates along the major and the minor axis, kpc, not deprojected.
    pub fn along(&self, x: f32, y: f32) -> (f32, f32) {
        let (sine, cosine) = self.angle.sin_cos();
        let (dx, dy) = (x - self.x, y - self.y);
        (dx * cosine + dy * sine, dy * cosine - dx * sine)
    }

    /// The place on the sky of a point in the plane of the disc.
    pub fn project(&self, radius: f32, azimuth: f32) -> (f32, f32) {
        let (sine, cosine) = self.angle.sin_cos();
        let (u, v) = (radius * azimuth.cos(), radius * azimuth.sin() * self.axis_ratio);
        (self.x + u * cosine - v * sine, self.y + u * sine + v * cosine)
    }
}

/// A Sersic profile: I(R) = exp(-b_n (R / r50)^(1/n)) on ellipses (Sersic 1963; b_n of Ciotti & Bertin 1999).
#[derive(Clone, Copy, Debug)]
pub struct Sersic {
    pub frame: Frame,
    /// Half-light radius along the major axis, kpc.
    pub r50: f32,
    pub index: f32,
    /// Exponent of the generalised ellipse: 2 is an ellipse, less is discy, more is boxy.
    pub boxiness: f32,
}

/// b_n of the Sersic profile, to better than 1e-4 for n > 0.36 (Ciotti & Bertin 1999, eq. 18).
pub fn sersic_b(n: f32) -> f32 {
    2.0 * n - 1.0 / 3.0 + 4.0 / (405.0 * n) + 46.0 / (25515.0 * n * n)
}

impl Sersic {
    /// Paints it with a colour that goes from `seds[0]` inside to `seds[1]` beyond a few half-light radii.
    pub fn paint(&self, canvas: &mut Canvas, flux: f64, seds: [&[f32]; 2], extinction: &[f32]) {
        let b = sersic_b(self.index);
        let (power, shape) = (1.0 / self.index, self.boxiness);
        // Beyond this radius (in half-light radii) the light is under 1e-8 of the centre's and not worth a power.
        let end = (18.0 / b).powf(self.index);
        let steep = [self.frame.x, self.frame.y, 2.5 * canvas.cell_kpc()];
        canvas.add(flux, seds, extinction, Some(steep), |x, y| {
            let (u, v) = self.frame.along(x, y);
            let v = v / self.frame.axis_ratio;
            let radius =
                if shape == 2.0 { u.hypot(v) } else { (u.abs().powf(shape) + v.abs().powf(shape)).powf(1.0 / shape) }
                    / self.r50;
            if radius > end {
                return Shade::default();
            }
            Shade { light: (-b * radius.powf(power)).exp(), mix: (0.4 * radius).min(1.0), dust: 0.0 }
        });
    }
}

/// A disc: exponential with a break, textured, seen at an inclination.
#[derive(Clone, Copy, Debug)]
pub struct Disc {
    pub frame: Frame,
    /// Scale length, kpc.
    pub scale: f32,
    /// The profile bends at this radius (kpc) to this scale length (kpc).
    pub break_radius: f32,
    pub outer_scale: f32,
    /// Share of young light, inside and far outside.
    pub young: [f32; 2],
    /// Seen so nearly edge-on that its pattern no longer shows.
    pub edge_on: bool,
    /// Curvature of the plane (kpc of offset at two scale lengths), a warp or a tidal bend.
    pub bend: f32,
}

impl Disc {
    /// ln of the radial profile, with a smooth break (Erwin et al. 2008, in softplus form).
    pub fn ln_profile(&self, radius: f32) -> f32 {
        let width = 0.25 * self.scale;
        let t = (radius - self.break_radius) / width;
        let beyond = width * if t > 15.0 { t } else { t.exp().ln_1p() };
        -radius / self.scale - beyond * (1.0 / self.outer_scale - 1.0 / self.scale)
    }

    /// Paints it: `seds[0]` for the old, `seds[1]` for the young stars.
    pub fn paint(
        &self,
        canvas: &mut Canvas,
        flux: f64,
        seds: [&[f32]; 2],
        extinction: &[f32],
        texture: Option<&Texture>,
    ) {
        let bend = self.bend / (2.0 * self.scale).powi(2);
        let steep = [self.frame.x, self.frame.y, 1.5 * canvas.cell_kpc()];
        canvas.add(flux, seds, extinction, Some(steep), |x, y| {
            let (u, v) = self.frame.along(x, y);
            let v = v - bend * u * u.abs().min(8.0 * self.scale);
            let (light, radius) = if self.edge_on {
                // Line of sight through an exponential disc, (1 + u/h) exp(-u/h) to a few per cent, times sech(z).
                let height = self.frame.axis_ratio * self.scale;
                let radius = (u * u + 0.05 * self.scale * self.scale).sqrt();
                let radial = self.ln_profile(radius) + (radius / self.scale).ln_1p();
                (radial.exp() / (v / height).clamp(-30.0, 30.0).cosh(), radius)
            } else {
                let radius = u.hypot(v / self.frame.axis_ratio);
                (self.ln_profile(radius).exp(), radius)
            };
            if light < 1e-9 {
                return Shade::default();
            }
            let share = (self.young[0] + (self.young[1] - self.young[0]) * radius / (4.0 * self.scale)).clamp(0.0, 1.0);
            let [old, young, dust] = match texture {
                Some(texture) if self.edge_on => texture.edge_on(radius, u < 0.0),
                Some(texture) => texture.at(radius, (v / self.frame.axis_ratio).atan2(u)),
                None => [1.0, 1.0, 0.0],
            };
            let (old, young) = ((1.0 - share) * old, share * young);
            Shade { light: light * (old + young), mix: young / (old + young).max(1e-6), dust }
        });
    }
}

/// A bar: a generalised ellipse in the plane of the disc.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// The disc's frame.
    pub frame: Frame,
    /// Azimuth in the plane.
    pub azimuth: f32,
    /// Half length, kpc.
    pub length: f32,
    /// Width over length.
    pub width: f32,
}

impl Bar {
    /// Paints it in one colour.
    pub fn paint(&self, canvas: &mut Canvas, flux: f64, sed: &[f32], extinction: &[f32]) {
        let (sine, cosine) = self.azimuth.sin_cos();
        // A bar is thicker than the disc, so it never gets thinner than this on the sky.
        let axis_ratio = self.frame.axis_ratio.max(0.25);
        canvas.add(flux, [sed, sed], extinction, None, |x, y| {
            let (u, v) = self.frame.along(x, y);
            let v = v / axis_ratio;
            let a = ((u * cosine + v * sine) / self.length).abs();
            let b = ((v * cosine - u * sine) / (self.length * self.width)).abs();
            if a > 2.0 || b > 5.0 {
                return Shade::default();
            }
            // Flat along the bar and falling off at its ends; exponential across.
            let across = (b * b + a.powi(4)).sqrt();
            Shade { light: (-1.8 * across).exp() / (1.0 + (12.0 * (a - 1.0)).exp()), ..Shade::default() }
        });
    }
}
