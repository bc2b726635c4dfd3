//! The gnomonic (TAN) world coordinate system of an image (Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3), and
//! the one of a product. Pixel coordinates are 0-based here, (x, y); FITS headers are 1-based.

/// What makes a WCS unusable.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WcsError {
    #[error("WCS {0} is not a finite number")]
    NotFinite(&'static str),
    #[error("the WCS matrix has determinant {0:e}, expected one that can be inverted")]
    Singular(f64),
    #[error("RA {ra}, Dec {dec} degrees: more than 90 degrees from the image's reference point, or not finite")]
    FarAway { ra: f64, dec: f64 },
}

/// A TAN projection: intermediate world coordinates = cd (pixel - crpix), in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TanWcs {
    /// RA and Dec of the reference point, degrees.
    pub crval: [f64; 2],
    /// Its pixel coordinates, 0-based (one less than the header's CRPIX).
    pub crpix: [f64; 2],
    /// Degrees per pixel: `cd[i][j]` is CD(i+1)_(j+1).
    pub cd: [[f64; 2]; 2],
}

impl TanWcs {
    /// From a header's values: CRVAL, the 1-based CRPIX, and the CD matrix.
    pub fn from_header(crval: [f64; 2], crpix: [f64; 2], cd: [[f64; 2]; 2]) -> Result<Self, WcsError> {
        let finite = |name, values: [f64; 2]| {
            if values.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(WcsError::NotFinite(name)) }
        };
        finite("CRVAL", crval)?;
        finite("CRPIX", crpix)?;
        finite("CD1_j", cd[0])?;
        finite("CD2_j", cd[1])?;
        let determinant = determinant(cd);
        if determinant.abs() < 1e-20 {
            return Err(WcsError::Singular(determinant));
        }
        Ok(TanWcs { crval, crpix: [crpix[0] - 1.0, crpix[1] - 1.0], cd })
    }

    /// The same for a header with CDELT and PC: CD(i,j) = CDELT(i) PC(i,j).
    pub fn from_pc(crval: [f64; 2], crpix: [f64; 2], cdelt: [f64; 2], pc: [[f64; 2]; 2]) -> Result<Self, WcsError> {
        let cd = [[cdelt[0] * pc[0][0], cdelt[0] * pc[0][1]], [cdelt[1] * pc[1][0], cdelt[1] * pc[1][1]]];
        TanWcs::from_header(crval, crpix, cd)
    }

    /// CRPIX as a header has it, 1-based.
    pub fn header_crpix(&self) -> [f64; 2] {
        [self.crpix[0] + 1.0, self.crpix[1] + 1.0]
    }

    /// RA (0 to 360) and Dec in degrees of a 0-based pixel position.
    pub fn pixel_to_sky(&self, pixel: [f64; 2]) -> [f64; 2] {
        let (dx, dy) = (pixel[0] - self.crpix[0], pixel[1] - self.crpix[1]);
        let xi = (self.cd[0][0] * dx + self.cd[0][1] * dy).to_radians();
        let eta = (self.cd[1][0] * dx + self.cd[1][1] * dy).to_radians();
        let (sin0, cos0) = self.crval[1].to_radians().sin_cos();
        // The tangent plane's point as a vector: one along the reference direction, eta to the north, xi to the east.
        let forward = cos0 - eta * sin0;
        let dec = (sin0 + eta * cos0).atan2(xi.hypot(forward));
        let ra = self.crval[0] + xi.atan2(forward).to_degrees();
        [ra.rem_euclid(360.0), dec.to_degrees()]
    }

    /// The 0-based pixel position of RA and Dec in degrees.
    pub fn sky_to_pixel(&self, sky: [f64; 2]) -> Result<[f64; 2], WcsError> {
        let (sin0, cos0) = self.crval[1].to_radians().sin_cos();
        let (sin, cos) = sky[1].to_radians().sin_cos();
        let (sin_ra, cos_ra) = (sky[0] - self.crval[0]).to_radians().sin_cos();
        let along = sin * sin0 + cos * cos0 * cos_ra;
        let in_front = along > 0.0;
        if !in_front {
            return Err(WcsError::FarAway { ra: sky[0], dec: sky[1] });
        }
        let xi = (cos * sin_ra / along).to_degrees();
        let eta = ((sin * cos0 - cos * sin0 * cos_ra) / along).to_degrees();
        let determinant = determinant(self.cd);
        let dx = (self.cd[1][1] * xi - self.cd[0][1] * eta) / determinant;
        let dy = (self.cd[0][0] * eta - self.cd[1][0] * xi) / determinant;
        Ok([self.crpix[0] + dx, self.crpix[1] + dy])
    }

    /// The same sky with its reference point moved to a pixel: to first order around it the two agree. Far from the
    /// original reference point the scale and the orientation of the axes differ from the header's CD.
    pub fn at(&self, pixel: [f64; 2]) -> Result<TanWcs, WcsError> {
        let crval = self.pixel_to_sky(pixel);
        let plane = TanWcs { crval, crpix: [0.0, 0.0], cd: [[1.0, 0.0], [0.0, 1.0]] };
        let mut cd = [[0.0; 2]; 2];
        for axis in 0..2 {
            // Central difference over two pixels: its error is of the order of (pixel / radian)^2, 1e-12 and less.
            let (mut up, mut down) = (pixel, pixel);
            up[axis] += 1.0;
            down[axis] -= 1.0;
            let (high, low) =
                (plane.sky_to_pixel(self.pixel_to_sky(up))?, plane.sky_to_pixel(self.pixel_to_sky(down))?);
            cd[0][axis] = 0.5 * (high[0] - low[0]);
            cd[1][axis] = 0.5 * (high[1] - low[1]);
        }
        Ok(TanWcs { crval, crpix: pixel, cd })
    }

    /// Arcsec per pixel along x and along y at the reference point.
    pub fn pixel_scales(&self) -> [f64; 2] {
        [0, 1].map(|axis| 3600.0 * self.cd[0][axis].hypot(self.cd[1][axis]))
    }

    /// Arcsec per pixel: the side of a square of the pixel's area.
    pub fn pixel_scale(&self) -> f64 {
        3600.0 * determinant(self.cd).abs().sqrt()
    }

    /// Position angle of the y axis, degrees from north towards east.
    pub fn orientation(&self) -> f64 {
        self.cd[0][1].atan2(self.cd[1][1]).to_degrees()
    }

    /// How far pixels are from squares: the largest of the relative difference of the two scales and the cosine of the
    /// angle between the axes. The forward model wants square pixels.
    pub fn distortion(&self) -> f64 {
        let [x, y] = self.pixel_scales();
        let dot = 3600.0f64.powi(2) * (self.cd[0][0] * self.cd[0][1] + self.cd[1][0] * self.cd[1][1]);
        (x / y - 1.0).abs().max((dot / (x * y)).abs())
    }

    /// The WCS of a product: `size` x `size` pixels of `theta` arcsec with the axes of this image, the target in the
    /// middle ((size - 1) / 2 along both axes). `target` is the target's pixel position in this image.
    pub fn product(&self, target: [f64; 2], size: i64, theta: f64) -> Result<TanWcs, WcsError> {
        let local = self.at(target)?;
        let factor = theta / local.pixel_scale();
        let centre = (size - 1) as f64 / 2.0;
        Ok(TanWcs { crval: local.crval, crpix: [centre; 2], cd: local.cd.map(|row| row.map(|value| value * factor)) })
    }
}

fn determinant(cd: [[f64; 2]; 2]) -> f64 {
    cd[0][0] * cd[1][1] - cd[0][1] * cd[1][0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HSC: 0.168 arcsec.
    const P: f64 = 0.168 / 3600.0;

    fn cases() -> [TanWcs; 3] {
        let (s, c) = (P * 0.3f64.sin(), P * 0.3f64.cos());
        [
            TanWcs::from_header([150.116, 2.205], [18000.5, 18000.5], [[-P, 0.0], [0.0, P]]).unwrap(),
            TanWcs::from_pc([359.99, -45.3], [100.0, 50.0], [-1.0, 1.0], [[c, -s], [s, c]]).unwrap(),
            TanWcs::from_header([10.0, 89.9], [512.0, 512.0], [[-2.0 * P, 1e-6], [2e-6, 1.9 * P]]).unwrap(),
        ]
    }

    /// Positions by astropy 8 (wcslib): pixel (0-based) and RA, Dec. Cases: an HSC tract, a rotated image across RA 0,
    /// a sheared one next to the pole.
    const ASTROPY: [[([f64; 2], [f64; 2]); 3]; 3] = [
        [
            ([0.0, 0.0], [150.95606464608292, 1.3649368345756123]),
            ([1234.5, -321.25], [150.89844816150543, 1.3499692717091067]),
            ([3000.0, 4100.0], [150.81615527570247, 1.5562682276009634]),
        ],
        [
            ([0.0, 0.0], [359.99531441648264, -45.30354971622883]),
            ([1234.5, -321.25], [359.91076969873905, -45.300819617553095]),
            ([3000.0, 4100.0], [359.88595952365694, -45.07934315552596]),
        ],
        [
            ([0.0, 0.0], [27.8712244525888, 89.84625076803988]),
            ([1234.5, -321.25], [348.364820540388, 89.81459237199057]),
            ([3000.0, 4100.0], [235.69922974651044, 89.68042655564436]),
        ],
    ];

    #[test]
    fn positions_agree_with_astropy() {
        for (wcs, positions) in cases().iter().zip(ASTROPY) {
            for (pixel, sky) in positions {
                let got = wcs.pixel_to_sky(pixel);
                let across = (got[0] - sky[0]) * sky[1].to_radians().cos();
                // A few micro-arcsec: rounding of degrees near 360.
                assert!(across.hypot(got[1] - sky[1]) < 1e-12, "{pixel:?}: {got:?}, want {sky:?}");
                let back = wcs.sky_to_pixel(sky).unwrap();
                // The same in pixels of 5e-5 degrees.
                assert!((back[0] - pixel[0]).hypot(back[1] - pixel[1]) < 1e-7, "{back:?}");
            }
        }
    }

    #[test]
    fn scale_and_orientation() {
        let [plain, rotated, _] = cases();
        assert!((plain.pixel_scale() - 0.168).abs() < 1e-12 && plain.orientation().abs() < 1e-12);
        assert!((rotated.pixel_scales()[1] - 0.168).abs() < 1e-12 && rotated.distortion() < 1e-12);
        assert!((rotated.orientation() - 0.3f64.to_degrees()).abs() < 1e-9);
        assert!(cases()[2].distortion() > 0.04);
    }

    #[test]
    fn a_product_has_the_axes_of_its_image_and_the_target_in_the_middle() {
        for (wcs, positions) in cases().iter().zip(ASTROPY) {
            for (target, sky) in positions {
                let theta = 0.1;
                let product = wcs.product(target, 64, theta).unwrap();
                assert_eq!(product.header_crpix(), [32.5, 32.5]);
                assert!((product.pixel_scale() - theta).abs() < 1e-9);
                let middle = product.pixel_to_sky([31.5, 31.5]);
                assert!((middle[1] - sky[1]).abs() < 1e-12);
                // A product pixel lies where the image has it: theta / p image pixels from the target per pixel.
                let local = wcs.at(target).unwrap();
                let step = theta / local.pixel_scale();
                let image = wcs.sky_to_pixel(product.pixel_to_sky([0.0, 50.0])).unwrap();
                let want = [target[0] - 31.5 * step, target[1] + 18.5 * step];
                // The curvature of the projection over 3 arcsec, up to a degree from its reference point.
                assert!((image[0] - want[0]).hypot(image[1] - want[1]) < 1e-4, "{image:?}, want {want:?}");
            }
        }
    }

    #[test]
    fn unusable_numbers_are_errors() {
        let cd = [[-P, 0.0], [0.0, P]];
        assert_eq!(TanWcs::from_header([f64::NAN, 0.0], [1.0, 1.0], cd), Err(WcsError::NotFinite("CRVAL")));
        assert!(matches!(TanWcs::from_header([1.0, 0.0], [1.0, 1.0], [[P, P], [P, P]]), Err(WcsError::Singular(_))));
        let wcs = TanWcs::from_header([150.0, 2.0], [1.0, 1.0], cd).unwrap();
        assert!(wcs.sky_to_pixel([330.0, 2.0]).is_err() && wcs.sky_to_pixel([f64::NAN, 2.0]).is_err());
    }
}
