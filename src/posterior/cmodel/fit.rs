//! The fit of one profile to one band: Levenberg-Marquardt over the shape, with the flux that is best for each shape (Golub &
//! Pereyra 1973), under priors that matter only where the data say nothing.

use super::profile::{Profile, Shape};
use super::render::Renderer;
use crate::Result;

/// Standard deviations of the priors: of the centre about the target (pixels), of ln r about the PSF's width, of eta about
/// round. HSC's pipeline has priors on radius and ellipse too (Bosch et al. 2018, section 4.9.9).
const PRIOR_SD: [f64; 5] = [1.0, 1.0, 1.5, 1.0, 1.0];
/// Half-light radii that are tried first, in units of the PSF's width.
const RADII: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];
/// A step changes no parameter by more than this: a pixel, or a factor of two.
const LONGEST_STEP: [f64; 5] = [1.0, 1.0, 0.7, 0.7, 0.7];
/// A fit is done when a step would take less than this off chi^2, times the reduced chi^2 where that is above 1: parameters are
/// then within a hundredth of their errors.
const DECREASE: f64 = 1e-4;
const ITERATIONS: usize = 60;
/// Damping: where it starts, by what it changes, and where no step helps any more.
const DAMPING: f64 = 1e-3;
const DAMPING_STEP: f64 = 8.0;
const MOST_DAMPING: f64 = 1e8;
/// A matrix is singular where so small a part of a diagonal entry is its own.
const SINGULAR: f64 = 1e-13;

/// Pixels of one band: values without sky, nJy, and one over their variance, 0 where a pixel does not count.
pub(super) struct Pixels {
    pub values: Vec<f64>,
    pub weights: Vec<f64>,
}

impl Pixels {
    /// The weighted product of two images.
    pub fn product(&self, left: &[f64], right: &[f64]) -> f64 {
        self.weights.iter().zip(left.iter().zip(right)).map(|(weight, (left, right))| weight * left * right).sum()
    }
}

/// A fit that has converged.
pub(super) struct Fit {
    pub shape: Shape,
    /// Of the residual, by the shape's parameters, at the best flux.
    jacobian: Vec<Vec<f64>>,
    /// Inverse of the normal matrix.
    covariance: [[f64; 5]; 5],
}

impl Fit {
    /// The change of `direction . shape` with each pixel's value.
    pub fn response(&self, pixels: &Pixels, direction: [f64; 5]) -> Vec<f64> {
        let along = apply(&self.covariance, direction);
        let of = |pixel: usize| {
            let sum: f64 = along.iter().zip(&self.jacobian).map(|(by, column)| by * column[pixel]).sum();
            pixels.weights[pixel] * sum
        };
        (0..pixels.weights.len()).map(of).collect()
    }
}

/// The state at one shape.
struct Point {
    shape: Shape,
    flux: f64,
    objective: f64,
}

/// The problem: a profile, the pixels, and where the priors have their middle.
pub(super) struct Problem<'a> {
    pub profile: Profile,
    pub renderer: &'a Renderer,
    pub pixels: &'a Pixels,
    /// The target (x, y) and the PSF's full width at half maximum, pixels.
    pub target: [f64; 2],
    pub width: f64,
}

impl Problem<'_> {
    /// The best shape, from `start` or from round ones at the target; `None` where it is not found, or has no positive flux.
    pub fn solve(&self, start: Option<Shape>) -> Result<Option<Fit>> {
        let mut best: Option<Point> = None;
        let round = RADII.map(|radius| Shape([self.target[0], self.target[1], (radius * self.width).ln(), 0.0, 0.0]));
        for shape in start.map_or(round.to_vec(), |start| vec![start]) {
            let point = self.at(shape, &self.renderer.image(self.profile, &shape)?);
            if best.as_ref().is_none_or(|best| point.objective < best.objective) {
                best = Some(point);
            }
        }
        match best {
            Some(point) if point.flux > 0.0 => self.descend(point),
            _ => Ok(None),
        }
    }

    fn descend(&self, mut point: Point) -> Result<Option<Fit>> {
        let mut damping = DAMPING;
        let count = self.pixels.weights.iter().filter(|weight| **weight > 0.0).count() as f64;
        for _ in 0..ITERATIONS {
            let mut images = self.renderer.with_derivatives(self.profile, &point.shape)?;
            let image = images.remove(0);
            let (normal, gradient, jacobian) = self.normal(&point, &image, images);
            let Some(covariance) = inverse(normal) else { return Ok(None) };
            let gain: f64 = gradient.iter().zip(apply(&covariance, gradient)).map(|(left, right)| left * right).sum();
            if gain < DECREASE * (point.objective / count).max(1.0) {
                let fit = Fit { shape: point.shape, jacobian, covariance };
                return Ok((point.flux > 0.0).then_some(fit));
            }
            loop {
                let mut damped = normal;
                (0..5).for_each(|index| damped[index][index] *= 1.0 + damping);
                let Some(inverse) = inverse(damped) else { return Ok(None) };
                let step = shortened(apply(&inverse, gradient));
                let shape = Shape(std::array::from_fn(|index| point.shape.0[index] + step[index]));
                let next = self.at(shape, &self.renderer.image(self.profile, &shape)?);
                if next.objective < point.objective {
                    point = next;
                    damping /= DAMPING_STEP;
                    break;
                }
                damping *= DAMPING_STEP;
                // Not a number, or no way down.
                if damping > MOST_DAMPING {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// The best flux for a shape, whose image of unit flux is given, and chi^2 with the priors' part.
    fn at(&self, shape: Shape, image: &[f64]) -> Point {
        let pixels = self.pixels;
        let norm = pixels.product(image, image);
        let flux = if norm > 0.0 { (pixels.product(image, &pixels.values) / norm).max(0.0) } else { 0.0 };
        let square = |index: usize| pixels.weights[index] * (pixels.values[index] - flux * image[index]).powi(2);
        let chi_squared: f64 = (0..image.len()).map(square).sum();
        let prior: f64 = (0..5).map(|index| (self.away(&shape)[index] / PRIOR_SD[index]).powi(2)).sum();
        Point { shape, flux, objective: chi_squared + prior }
    }

    /// How far a shape is from the middle of the priors.
    fn away(&self, shape: &Shape) -> [f64; 5] {
        let middle = [self.target[0], self.target[1], self.width.ln(), 0.0, 0.0];
        std::array::from_fn(|index| shape.0[index] - middle[index])
    }

    /// Normal matrix, gradient (down) and Jacobian: the derivatives without what a change of flux makes up for.
    fn normal(
        &self,
        point: &Point,
        image: &[f64],
        mut derivatives: Vec<Vec<f64>>,
    ) -> ([[f64; 5]; 5], [f64; 5], Vec<Vec<f64>>) {
        let pixels = self.pixels;
        let norm = pixels.product(image, image);
        for column in &mut derivatives {
            let part = pixels.product(image, column) / norm;
            column.iter_mut().zip(image).for_each(|(value, image)| *value = point.flux * (*value - part * image));
        }
        let residual: Vec<f64> =
            pixels.values.iter().zip(image).map(|(value, image)| value - point.flux * image).collect();
        let away = self.away(&point.shape);
        let prior = |index: usize| PRIOR_SD[index].powi(-2);
        let gradient =
            std::array::from_fn(|index| pixels.product(&derivatives[index], &residual) - prior(index) * away[index]);
        let entry = |row: usize, column: usize| {
            pixels.product(&derivatives[row], &derivatives[column]) + if row == column { prior(row) } else { 0.0 }
        };
        (std::array::from_fn(|row| std::array::from_fn(|column| entry(row, column))), gradient, derivatives)
    }
}

/// A step in the same direction that no parameter takes too far.
fn shortened(step: [f64; 5]) -> [f64; 5] {
    let longest = (0..5).map(|index| step[index].abs() / LONGEST_STEP[index]).fold(1.0, f64::max);
    step.map(|value| value / longest)
}

fn apply(matrix: &[[f64; 5]; 5], vector: [f64; 5]) -> [f64; 5] {
    matrix.map(|row| row.iter().zip(vector).map(|(entry, value)| entry * value).sum())
}

/// The inverse of a symmetric positive matrix (Gauss-Jordan: no pivots are needed); `None` where it is not one.
fn inverse(mut matrix: [[f64; 5]; 5]) -> Option<[[f64; 5]; 5]> {
    let mut inverse = [[0.0; 5]; 5];
    (0..5).for_each(|index| inverse[index][index] = 1.0);
    let first = matrix;
    for pivot in 0..5 {
        let scale = matrix[pivot][pivot];
        // What is left of a diagonal entry when others explain it is rounding error.
        if !(scale > SINGULAR * first[pivot][pivot] && scale.is_finite()) {
            return None;
        }
        for column in 0..5 {
            matrix[pivot][column] /= scale;
            inverse[pivot][column] /= scale;
        }
        for row in (0..5).filter(|&row| row != pivot) {
            let factor = matrix[row][pivot];
            for column in 0..5 {
                matrix[row][column] -= factor * matrix[pivot][column];
                inverse[row][column] -= factor * inverse[pivot][column];
            }
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverses_are_of_positive_matrices() {
        let matrix: [[f64; 5]; 5] = std::array::from_fn(|row| {
            std::array::from_fn(
                |column| if row == column { 3.0 + row as f64 } else { 1.0 / (1.0 + (row + column) as f64) },
            )
        });
        let found = inverse(matrix).unwrap();
        // The inverse is symmetric: its rows are its columns.
        for (row, column) in found.into_iter().enumerate() {
            let unit = apply(&matrix, column);
            (0..5).for_each(|index| assert!((unit[index] - f64::from(u8::from(index == row))).abs() < 1e-12));
        }
        let mut singular = matrix;
        singular[4] = singular[3];
        (0..5).for_each(|row| singular[row][4] = singular[row][3]);
        assert!(inverse(singular).is_none() && inverse([[f64::NAN; 5]; 5]).is_none());
    }
}
