//! Simple charts: lines over linear or logarithmic axes, and histograms.

use super::canvas::{BLACK, Canvas, Colour, LIGHT, WHITE, label, text_width};
use crate::{Error, Result};

/// Line colours: the first six are told apart in print and by most eyes, the others are for charts of many lines.
const COLOURS: [Colour; 12] = [
    [0, 90, 181],
    [220, 50, 32],
    [0, 133, 90],
    [230, 159, 0],
    [120, 60, 160],
    [90, 90, 90],
    [0, 190, 220],
    [230, 100, 170],
    [140, 90, 40],
    [120, 150, 0],
    [0, 0, 0],
    [255, 150, 120],
];
const LEFT: f64 = 92.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 56.0;
/// Height of a row of names, and the space between two.
const ROW: f64 = 20.0;
const BETWEEN: f64 = 24.0;

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// (x, y); points that are not finite (or not positive on a logarithmic axis) leave a gap.
    pub points: Vec<(f64, f64)>,
}

/// A chart that is drawn with `draw` or `histogram`.
#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub log_x: bool,
    pub log_y: bool,
    /// Values up to about one on a linear axis, and beyond on a logarithmic one, both ways: asinh.
    pub asinh_y: bool,
    /// What stands at x = 0, 1, 2 ..., where x is not a number.
    pub names: Vec<String>,
    pub width: u32,
    pub height: u32,
}

impl Chart {
    /// A chart of 800 x 500 pixels with linear axes.
    pub fn new(title: &str, x_label: &str, y_label: &str) -> Self {
        Chart {
            title: title.into(),
            x_label: x_label.into(),
            y_label: y_label.into(),
            log_x: false,
            log_y: false,
            asinh_y: false,
            names: Vec::new(),
            width: 800,
            height: 500,
        }
    }

    /// Lines. An error when there is nothing to draw.
    pub fn draw(&self, series: &[Series]) -> Result<Canvas> {
        let shown: Vec<Vec<Option<(f64, f64)>>> = series
            .iter()
            .map(|line| {
                let place = |&(x, y): &(f64, f64)| Some((self.x_scale().place(x)?, self.y_scale().place(y)?));
                line.points.iter().map(place).collect()
            })
            .collect();
        let points: Vec<(f64, f64)> = shown.iter().flatten().flatten().copied().collect();
        let range = |values: &dyn Fn(&(f64, f64)) -> f64| {
            let low = points.iter().map(values).fold(f64::INFINITY, f64::min);
            let high = points.iter().map(values).fold(f64::NEG_INFINITY, f64::max);
            // A constant still needs an axis.
            if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
        };
        if points.is_empty() {
            return Err(Error::internal(format!("the chart `{}` has no points", self.title)));
        }
        let (x, y) = (range(&|point| point.0), range(&|point| point.1));
        let margin = 0.04 * (y.1 - y.0);
        let (rows, places) = self.legend(series);
        let frame = Frame { chart: self, top: TOP + ROW * rows as f64, x, y: (y.0 - margin, y.1 + margin) };
        let mut canvas = frame.axes();
        for (index, line) in shown.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            for pair in line.windows(2) {
                if let [Some(from), Some(to)] = pair {
                    canvas.line(frame.place(*from), frame.place(*to), 2, colour);
                }
            }
            for point in line.iter().flatten().filter(|_| line.len() < 40) {
                let (px, py) = frame.place(*point);
                canvas.fill(px as i64 - 3, py as i64 - 3, 6, 6, colour);
            }
            let (left, row) = places[index];
            canvas.text(left as i64, (TOP + ROW * row as f64) as i64 - 6, &series[index].name, 2, colour);
        }
        Ok(canvas)
    }

    /// Where the lines' names stand, above the frame where no line can cross them: rows, then left side and row of each.
    fn legend(&self, series: &[Series]) -> (usize, Vec<(f64, usize)>) {
        let (mut left, mut row) = (LEFT, 0);
        let mut places = Vec::with_capacity(series.len());
        for line in series {
            let width = text_width(&line.name, 2) as f64;
            if left > LEFT && left + width > f64::from(self.width) - RIGHT {
                (left, row) = (LEFT, row + 1);
            }
            places.push((left, row));
            left += if line.name.is_empty() { 0.0 } else { width + BETWEEN };
        }
        let named = series.iter().any(|line| !line.name.is_empty());
        (if named { row + 1 } else { 0 }, places)
    }

    fn x_scale(&self) -> Scale {
        if self.log_x { Scale::Log } else { Scale::Linear }
    }

    fn y_scale(&self) -> Scale {
        match (self.log_y, self.asinh_y) {
            (true, _) => Scale::Log,
            (_, true) => Scale::Asinh,
            _ => Scale::Linear,
        }
    }

    /// Bars of equal width from `range.0` to `range.1`; `expected` is drawn as a line across (flat ranks).
    pub fn histogram(&self, counts: &[f64], range: (f64, f64), expected: Option<f64>) -> Result<Canvas> {
        let high = counts.iter().copied().chain(expected).fold(0.0, f64::max);
        if counts.is_empty() || !high.is_finite() || range.1 <= range.0 {
            return Err(Error::internal(format!("the histogram `{}` has nothing to show", self.title)));
        }
        let plain = Chart { log_x: false, log_y: false, asinh_y: false, ..self.clone() };
        let frame = Frame { chart: &plain, top: TOP, x: range, y: (0.0, if high > 0.0 { 1.08 * high } else { 1.0 }) };
        let mut canvas = frame.axes();
        let step = (range.1 - range.0) / counts.len() as f64;
        for (index, &count) in counts.iter().enumerate() {
            let (left, top) = frame.place((range.0 + step * index as f64, count));
            let (right, bottom) = frame.place((range.0 + step * (index + 1) as f64, 0.0));
            let (width, height) = ((right - left) as i64 - 1, (bottom - top) as i64);
            canvas.fill(left as i64 + 1, top as i64, width.max(1), height, COLOURS[0]);
        }
        if let Some(expected) = expected {
            canvas.line(frame.place((range.0, expected)), frame.place((range.1, expected)), 2, COLOURS[1]);
        }
        Ok(canvas)
    }
}

/// Charts beside and below each other, `columns` in a line. An error when there is nothing to draw.
pub fn small_multiples(panels: &[(Chart, Vec<Series>)], columns: usize) -> Result<Canvas> {
    let (Some(width), Some(height)) =
        (panels.iter().map(|(chart, _)| chart.width).max(), panels.iter().map(|(chart, _)| chart.height).max())
    else {
        return Err(Error::internal("a picture of no charts"));
    };
    let columns = columns.clamp(1, panels.len());
    let mut canvas = Canvas::new(columns as u32 * width, panels.len().div_ceil(columns) as u32 * height, WHITE);
    for (index, (chart, series)) in panels.iter().enumerate() {
        let (column, row) = ((index % columns) as i64, (index / columns) as i64);
        canvas.copy(column * i64::from(width), row * i64::from(height), &chart.draw(series)?);
    }
    Ok(canvas)
}

/// A chart's axes, with ranges in scaled units (decades on a logarithmic axis).
struct Frame<'a> {
    chart: &'a Chart,
    /// Its upper side.
    top: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame<'_> {
    /// From scaled values to picture pixels.
    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (width, height) = (f64::from(self.chart.width), f64::from(self.chart.height));
        let part = |value: f64, range: (f64, f64)| (value - range.0) / (range.1 - range.0);
        (
            LEFT + part(x, self.x) * (width - LEFT - RIGHT),
            height - BOTTOM - part(y, self.y) * (height - self.top - BOTTOM),
        )
    }

    fn axes(&self) -> Canvas {
        let chart = self.chart;
        let mut canvas = Canvas::new(chart.width, chart.height, WHITE);
        let named = || chart.names.iter().enumerate().map(|(place, name)| (place as f64, name.clone())).collect();
        let labelled = |scale: Scale, range| {
            scale.ticks(range).into_iter().map(move |at| (at, label(scale.value(at)))).collect::<Vec<_>>()
        };
        let numbers = || labelled(chart.x_scale(), self.x);
        let marks: Vec<(f64, String)> = if chart.names.is_empty() { numbers() } else { named() };
        for (value, text) in marks {
            let (px, bottom) = self.place((value, self.y.0));
            canvas.line((px, self.top), (px, bottom), 1, LIGHT);
            canvas.text(px as i64 - text_width(&text, 2) / 2, bottom as i64 + 8, &text, 2, BLACK);
        }
        for (value, text) in labelled(chart.y_scale(), self.y) {
            let (left, py) = self.place((self.x.0, value));
            canvas.line((left, py), (f64::from(chart.width) - RIGHT, py), 1, LIGHT);
            canvas.text(left as i64 - 8 - text_width(&text, 2), py as i64 - 7, &text, 2, BLACK);
        }
        let (left, top) = self.place((self.x.0, self.y.1));
        let (right, bottom) = self.place((self.x.1, self.y.0));
        canvas.frame(left as i64, top as i64, (right - left) as i64 + 1, (bottom - top) as i64 + 1, BLACK);
        canvas.text(LEFT as i64, 12, &chart.title, 2, BLACK);
        let x_label = right as i64 - text_width(&chart.x_label, 2);
        canvas.text(x_label, chart.height as i64 - 22, &chart.x_label, 2, BLACK);
        // The y label lies flat at the upper left: upright text would be hard to read in this font.
        let y_label = right as i64 - text_width(&chart.y_label, 2);
        canvas.text(y_label, 12, &chart.y_label, 2, BLACK);
        canvas
    }
}

/// How values are laid along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Linear,
    Log,
    Asinh,
}

impl Scale {
    /// The place of a value; `None` where it has none.
    fn place(self, value: f64) -> Option<f64> {
        let place = match self {
            Scale::Linear => value,
            Scale::Log => value.log10(),
            Scale::Asinh => value.asinh(),
        };
        place.is_finite().then_some(place)
    }

    /// The value at a place.
    fn value(self, place: f64) -> f64 {
        match self {
            Scale::Linear => place,
            Scale::Log => 10f64.powf(place),
            // What was a round number is one again.
            Scale::Asinh => (place.sinh() * 1e6).round() / 1e6,
        }
    }

    /// Places of round values for at most about seven ticks; whole decades on a logarithmic axis when there are enough of
    /// them.
    fn ticks(self, (low, high): (f64, f64)) -> Vec<f64> {
        let span = high - low;
        let within = |mark: &f64| (low..=high).contains(mark);
        match self {
            Scale::Log if span >= 2.0 => multiples(low, high, (span / 7.0).ceil()),
            Scale::Log => (low.floor() as i32..=high.ceil() as i32)
                .flat_map(|decade| [1.0, 2.0, 5.0].map(|part: f64| f64::from(decade) + part.log10()))
                .filter(within)
                .collect(),
            Scale::Asinh if span > 4.0 => {
                let decades = |sign: f64| (0..=6).map(move |decade| (sign * 10f64.powi(decade)).asinh());
                let marks = decades(-1.0).rev().chain([0.0]).chain(decades(1.0));
                marks.filter(within).collect()
            }
            Scale::Asinh => {
                multiples(low.sinh(), high.sinh(), step(high.sinh() - low.sinh())).into_iter().map(f64::asinh).collect()
            }
            Scale::Linear => multiples(low, high, step(span)),
        }
    }
}

/// A round number, of which a span holds about six.
fn step(span: f64) -> f64 {
    let rough = span / 6.0;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * decade).into_iter().find(|step| *step >= rough);
    step.unwrap_or(rough)
}

fn multiples(low: f64, high: f64, step: f64) -> Vec<f64> {
    let (first, last) = ((low / step).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|index| index as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(Scale::Linear.ticks((0.0, 10.0)), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(Scale::Log.ticks((-2.0, 2.0)), [-2.0, -1.0, 0.0, 1.0, 2.0]);
        assert_eq!(Scale::Log.ticks((0.0, 1.0)).len(), 4);
        let values = |range| Scale::Asinh.ticks(range).into_iter().map(|at| Scale::Asinh.value(at)).collect::<Vec<_>>();
        assert_eq!(values(((-150f64).asinh(), 20f64.asinh())), [-100.0, -10.0, -1.0, 0.0, 1.0, 10.0]);
        assert_eq!(values(((-0.5f64).asinh(), 0.5f64.asinh())), [-0.4, -0.2, 0.0, 0.2, 0.4]);
    }

    #[test]
    fn names_stand_above_the_frame_in_as_many_rows_as_they_need() {
        let line = |name: &str| Series { name: name.into(), points: vec![(0.0, 0.0), (1.0, 1.0)] };
        let chart = Chart { width: 300, ..Chart::new("t", "x", "y") };
        let (rows, places) = chart.legend(&[line("first"), line("second"), line("a third, and a long one")]);
        assert_eq!((rows, places[0], places[2]), (2, (LEFT, 0), (LEFT, 1)));
        assert!(places[1].0 > LEFT && places[1].1 == 0);
        assert_eq!(chart.legend(&[line(""), line("")]).0, 0);
    }

    #[test]
    fn small_multiples_do_not_share_their_places() {
        let panel = |value: f64| {
            let chart = Chart { width: 200, height: 150, ..Chart::new("t", "", "") };
            (chart, vec![Series { name: String::new(), points: vec![(0.0, value), (1.0, value)] }])
        };
        let canvas = small_multiples(&[panel(1.0), panel(2.0), panel(3.0), panel(4.0)], 3).unwrap();
        assert_eq!((canvas.width(), canvas.height()), (600, 300));
        // Each has its constant in the middle of its axes; where the fifth would be there is nothing.
        let middle = |column: u32, row: u32| canvas.get(column * 200 + 130, row * 150 + 67);
        assert!([(0, 0), (2, 0), (0, 1)].iter().all(|&(column, row)| middle(column, row) == Some(COLOURS[0])));
        assert_eq!(middle(1, 1), Some(WHITE));
        assert!(small_multiples(&[], 3).is_err());
    }

    #[test]
    fn lines_and_bars_are_where_the_numbers_say() {
        let chart = Chart::new("t", "x", "y");
        let line = Series { name: "a".into(), points: vec![(0.0, 0.0), (1.0, 1.0), (2.0, f64::NAN)] };
        let canvas = chart.draw(&[line]).unwrap();
        // The middle of a line from corner to corner.
        let (x, y) = ((LEFT + (800.0 - RIGHT)) / 2.0, (TOP + ROW + (500.0 - BOTTOM)) / 2.0);
        assert_eq!(canvas.get(x as u32, y as u32), Some(COLOURS[0]));
        assert!(chart.draw(&[Series { name: "a".into(), points: vec![(1.0, f64::NAN)] }]).is_err());
        let canvas = chart.histogram(&[4.0, 0.0], (0.0, 1.0), Some(2.0)).unwrap();
        assert_eq!(canvas.get(200, 400), Some(COLOURS[0]));
        assert_eq!(canvas.get(700, 400), Some(WHITE));
    }
}
