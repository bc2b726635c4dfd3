//! The tangent-plane (gnomonic, TAN) projection: Calabretta & Greisen 2002 (A&A 395, 1077), section 5.1.3.

/// World coordinates of an image: a TAN projection with a linear part, no distortion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TanWcs {
    /// Right ascension and declination of the reference point, degrees.
    pub crval: [f64; 2],
    /// Pixel `[x, y]` of the reference point, 0-based.
    pub crpix: [f64; 2],
    /// Degrees per pixel: `[[dxi/dx, dxi/dy], [deta/dx, deta/dy]]`.
    pub cd: [[f64; 2]; 2],
}

impl TanWcs {
    /// The 0-based pixel `[x, y]` of a position in degrees; `None` where it cannot be projected.
    pub fn world_to_pixel(&self, ra: f64, dec: f64) -> Option<[f64; 2]> {
        let (sin0, cos0) = self.crval[1].to_radians().sin_cos();
        let (sin, cos) = dec.to_radians().sin_cos();
        let (sin_ra, cos_ra) = (ra - self.crval[0]).to_radians().sin_cos();
        let cos_distance = sin * sin0 + cos * cos0 * cos_ra;
        if cos_distance <= 0.0 {
            return None;
        }
        let xi = (cos * sin_ra / cos_distance).to_degrees();
        let eta = ((sin * cos0 - cos * sin0 * cos_ra) / cos_distance).to_degrees();
        let [[a, b], [c, d]] = self.cd;
        let det = a * d - b * c;
        let pixel = [self.crpix[0] + (d * xi - b * eta) / det, self.crpix[1] + (a * eta - c * xi) / det];
        pixel.iter().all(|value| value.is_finite()).then_some(pixel)
    }

    /// Right ascension (0 to 360) and declination in degrees of a 0-based pixel `[x, y]`.
    pub fn pixel_to_world(&self, x: f64, y: f64) -> [f64; 2] {
        let (dx, dy) = (x - self.crpix[0], y - self.crpix[1]);
        let xi = (self.cd[0][0] * dx + self.cd[0][1] * dy).to_radians();
        let eta = (self.cd[1][0] * dx + self.cd[1][1] * dy).to_radians();
        let (sin0, cos0) = self.crval[1].to_radians().sin_cos();
        let denominator = cos0 - eta * sin0;
        let ra = self.crval[0] + xi.atan2(denominator).to_degrees();
        let dec = (sin0 + eta * cos0).atan2(xi.hypot(denominator)).to_degrees();
        [ra.rem_euclid(360.0), dec]
    }

    /// Geometric mean of the pixel's sides, arcsec.
    pub fn pixel_scale_arcsec(&self) -> f64 {
        let [[a, b], [c, d]] = self.cd;
        (a * d - b * c).abs().sqrt() * 3600.0
    }
}
