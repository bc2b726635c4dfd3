//! Adaptive moments: the ellipse that a Gaussian weight and the galaxy agree on.

use super::light::{Ellipse, Growth, Plane};

/// The thinnest ellipse that light is summed within.
const THINNEST: f64 = 0.1;

/// Adaptive moments stop when the moments change by less than this part, or after so many iterations.
const MOMENT_TOLERANCE: f64 = 1e-4;
const MOMENT_ITERATIONS: usize = 60;

/// Centre and second moments (pixels^2) under the Gaussian weight that matches them.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    pub(super) centre: (f64, f64),
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Moments {
    /// Distortion (xx - yy, 2 xy) / (xx + yy), and the major axis' angle in degrees from +x towards +y.
    pub(super) fn shape(&self) -> (f64, f64, f64) {
        let size = self.xx + self.yy;
        let angle = 0.5 * (2.0 * self.xy).atan2(self.xx - self.yy).to_degrees();
        ((self.xx - self.yy) / size, 2.0 * self.xy / size, angle)
    }

    /// Axis ratio and direction of the major axis.
    pub(super) fn ellipse(&self) -> Ellipse {
        let (e1, e2, angle) = self.shape();
        let distortion = e1.hypot(e2).min(1.0);
        let axis_ratio = ((1.0 - distortion) / (1.0 + distortion)).sqrt().max(THINNEST);
        let (sine, cosine) = angle.to_radians().sin_cos();
        Ellipse { axis_ratio, direction: (cosine, sine) }
    }
}

/// Iterates w = exp(-1/2 d^T M^-1 d), M <- 2 sum(w f d d^T) / sum(w f), centre <- centre + 2 sum(w f d) / sum(w f):
/// for a Gaussian galaxy the fixed point is its own covariance. `None` when it does not converge to an ellipse.
pub(super) fn adaptive_moments(plane: &Plane) -> Option<Moments> {
    let start = plane.centroid();
    let r50 = Growth::of(plane, start, Ellipse::CIRCLE).radius(0.5 * plane.total())?;
    // A Gaussian's half-light radius is 1.177 standard deviations.
    let variance = (r50 / 1.177).max(0.5).powi(2);
    let mut moments = Moments { centre: start, xx: variance, yy: variance, xy: 0.0 };
    for _ in 0..MOMENT_ITERATIONS {
        let determinant = moments.xx * moments.yy - moments.xy * moments.xy;
        if determinant.is_nan() || determinant <= 1e-6 {
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
        if flux.is_nan() || flux <= 0.0 {
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
        let sound = next.xx > 0.0 && next.yy > 0.0 && inside(next.centre.0) && inside(next.centre.1);
        if !sound {
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
