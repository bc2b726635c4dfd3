//! Where the detector's pixels lie relative to the prior's grid.
//!
//! The target sits at prior coordinate ((n-1)/2, (n-1)/2): the middle of the grid, between four pixels for an even n,
//! where the training images have their centroid. All coordinates are 0-based, x first; arrays have y first.

/// Geometry of one observation: the prior's n x n grid and a window of detector pixels with parallel axes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// Prior pixels on a side, n.
    pub size: i64,
    /// theta, arcsec per prior pixel.
    pub prior_pitch: f64,
    /// p, arcsec per detector pixel.
    pub detector_pitch: f64,
    /// The target's position in the window, detector pixels (x, y), 0 = centre of the window's first pixel.
    pub target: [f64; 2],
    /// Detector pixels of the window: height my, width mx.
    pub shape: [i64; 2],
}

/// The window of a cutout that a field covers: first column and row, and the field's geometry inside it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    pub x: i64,
    pub y: i64,
    pub field: Field,
}

/// Prior coordinate of the target along each axis: (n - 1) / 2.
pub fn prior_centre(size: i64) -> f64 {
    (size - 1) as f64 / 2.0
}

impl Field {
    /// The window of a cutout of `cutout` = (height, width) pixels whose pixel centres lie inside the prior's field
    /// (a square of n theta around the target at `target` = (x, y) in the cutout). `None` when the cutout has no such
    /// pixel, or when the numbers are not usable.
    pub fn window(
        target: [f64; 2],
        cutout: [i64; 2],
        size: i64,
        prior_pitch: f64,
        detector_pitch: f64,
    ) -> Option<Window> {
        let half = 0.5 * size as f64 * prior_pitch / detector_pitch;
        if !(half.is_finite() && half > 0.0 && target[0].is_finite() && target[1].is_finite()) {
            return None;
        }
        let range = |centre: f64, count: i64| {
            let first = (centre - half).ceil().max(0.0) as i64;
            let last = (centre + half).floor().min((count - 1) as f64) as i64;
            (first <= last).then_some((first, last - first + 1))
        };
        let (x, width) = range(target[0], cutout[1])?;
        let (y, height) = range(target[1], cutout[0])?;
        let target = [target[0] - x as f64, target[1] - y as f64];
        let field = Field { size, prior_pitch, detector_pitch, target, shape: [height, width] };
        Some(Window { x, y, field })
    }

    /// Whether the window covers the whole field: no row or column of pixel centres inside the field is missing.
    pub fn is_whole(&self) -> bool {
        let half = 0.5 * self.size as f64 * self.prior_pitch / self.detector_pitch;
        self.target[0] - half > -1.0
            && self.target[1] - half > -1.0
            && self.target[0] + half < self.shape[1] as f64
            && self.target[1] + half < self.shape[0] as f64
    }

    /// Positions of the window's columns in arcsec, relative to the centre of the prior's first pixel.
    pub fn columns(&self) -> Vec<f64> {
        self.positions(self.target[0], self.shape[1])
    }

    /// Positions of the window's rows, likewise.
    pub fn rows(&self) -> Vec<f64> {
        self.positions(self.target[1], self.shape[0])
    }

    /// Where the field begins and ends along each axis, in arcsec, relative to the centre of the prior's first pixel.
    pub fn span(&self) -> [f64; 2] {
        [-0.5 * self.prior_pitch, (self.size as f64 - 0.5) * self.prior_pitch]
    }

    /// Which of the window's columns, and which of its rows, have their centres in the field. All of them, unless the window
    /// was made for a larger field.
    pub fn covers(&self) -> [Vec<bool>; 2] {
        let [low, high] = self.span();
        [self.columns(), self.rows()].map(|line| line.iter().map(|at| (low..=high).contains(at)).collect())
    }

    /// p / theta: how many prior pixels a detector pixel spans. Above 3 the result is more prior than data.
    pub fn upsampling(&self) -> f64 {
        self.detector_pitch / self.prior_pitch
    }

    fn positions(&self, target: f64, count: i64) -> Vec<f64> {
        let origin = prior_centre(self.size) * self.prior_pitch;
        (0..count).map(|index| origin + (index as f64 - target) * self.detector_pitch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pixels_whose_centres_lie_inside() {
        // 64 x 0.1 arcsec = 6.4 arcsec = 38.1 detector pixels of 0.168: 19.05 on each side.
        let window = Field::window([50.3, 40.0], [100, 120], 64, 0.1, 0.168).unwrap();
        assert_eq!((window.x, window.y), (32, 21));
        assert_eq!(window.field.shape, [39, 38]);
        assert!((window.field.target[0] - 18.3).abs() < 1e-12 && window.field.target[1] == 19.0);
        assert!(window.field.is_whole());
        let rows = window.field.rows();
        // The target's own row is at the middle of the prior's grid.
        assert!((rows[19] - 31.5 * 0.1).abs() < 1e-12 && rows[0] > -0.05 && rows[38] < 6.35);
    }

    #[test]
    fn a_target_near_the_edge_or_outside() {
        let window = Field::window([3.0, 40.0], [100, 120], 64, 0.1, 0.168).unwrap();
        assert_eq!((window.x, window.field.shape[1]), (0, 23));
        assert!(!window.field.is_whole());
        assert_eq!(Field::window([-30.0, 40.0], [100, 120], 64, 0.1, 0.168), None);
        assert_eq!(Field::window([f64::NAN, 40.0], [100, 120], 64, 0.1, 0.168), None);
    }
}
