//! Points in three dimensions, seen along each axis.

use super::canvas::{BLACK, Canvas, Colour, GREY, WHITE, text_width};

/// Colours of the sets, in their order.
const COLOURS: [Colour; 4] = [[180, 180, 180], [0, 90, 181], [220, 50, 32], [0, 133, 90]];
const SIDE: i64 = 420;
const MARGIN: i64 = 24;
/// Room for the names above.
const TOP: i64 = 34;
/// Width of a point.
const POINT: i64 = 3;
const AXES: [&str; 3] = ["x", "y", "z"];

/// A picture of sets of points: three views side by side, later sets above earlier ones.
pub fn scatter_picture(sets: &[(&str, &[[f64; 3]])]) -> Canvas {
    let mut canvas = Canvas::new((3 * (SIDE + MARGIN) + MARGIN) as u32, (SIDE + TOP + MARGIN) as u32, WHITE);
    let mut left = MARGIN;
    for (index, (name, _)) in sets.iter().enumerate() {
        canvas.text(left, 10, name, 2, COLOURS[index % COLOURS.len()]);
        left += text_width(name, 2) + 30;
    }
    let all = || sets.iter().flat_map(|(_, points)| points.iter());
    let range = |axis: usize| {
        let low = all().map(|point| point[axis]).fold(f64::INFINITY, f64::min);
        let high = all().map(|point| point[axis]).fold(f64::NEG_INFINITY, f64::max);
        if high > low { (low, high) } else { (low - 0.5, low + 0.5) }
    };
    for (view, [across, up]) in [[0, 1], [0, 2], [1, 2]].into_iter().enumerate() {
        let left = MARGIN + view as i64 * (SIDE + MARGIN);
        canvas.frame(left, TOP, SIDE, SIDE, GREY);
        let place = |value: f64, axis: usize| {
            let (low, high) = range(axis);
            ((value - low) / (high - low) * (SIDE - 3 * POINT) as f64) as i64 + POINT
        };
        for (index, (_, points)) in sets.iter().enumerate() {
            for point in *points {
                let (x, y) = (place(point[across], across), place(point[up], up));
                canvas.fill(left + x, TOP + SIDE - y - POINT, POINT, POINT, COLOURS[index % COLOURS.len()]);
            }
        }
        canvas.text(left + SIDE - 24, TOP + SIDE + 4, AXES[across], 2, BLACK);
        canvas.text(left + 4, TOP + 4, AXES[up], 2, BLACK);
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_where_their_coordinates_say() {
        let canvas = scatter_picture(&[("a", &[[0.0, 0.0, 0.0]]), ("b", &[[1.0, 1.0, 1.0]])]);
        let at = |x: i64, y: i64| canvas.get(x as u32, y as u32);
        assert_eq!(at(MARGIN + POINT + 1, TOP + SIDE - POINT - 1), Some(COLOURS[0]));
        assert_eq!(at(MARGIN + SIDE - POINT - 1, TOP + POINT + 1), Some(COLOURS[1]));
        assert_eq!(at(MARGIN + SIDE / 2, TOP + SIDE / 2), Some(WHITE));
    }
}
