//! The picture of one object: what was observed, what the posterior says, how sure it is, and what is left over.

use super::canvas::{BLACK, Canvas, Colour, GREY, LIGHT, WHITE, label, text_width};
use super::colour::{Asinh, Map, quantile};
use crate::posterior::Flag;
use crate::product::{ObjectRecord, RecordArray};
use crate::{Error, Result};

/// Side of a panel, and the space around it, in picture pixels.
const PANEL: i64 = 288;
const GAP: i64 = 12;
/// Space above the panels (title and labels) and below (colour bars).
const TOP: i64 = 64;
const BOTTOM: i64 = 48;
/// Residuals are shown from -RANGE to RANGE standard deviations.
const RANGE: f64 = 4.0;
/// As many draws are shown, if so many are kept.
const DRAWS: usize = 3;
/// A survey's stretch is linear up to SOFTENING times the sky noise, and white at BRIGHTEST times that: from the outskirts to the
/// middle of bright galaxies.
const SOFTENING: f64 = 2.0;
const BRIGHTEST: f64 = 500.0;

/// One stretch for all objects of a survey, so that their pictures can be compared, from the sky noise of each in the middle band
/// (nJy per square arcsec); `None` when there is none.
pub fn survey_stretch(mut noise: Vec<f64>) -> Option<Asinh> {
    noise.retain(|value| value.is_finite() && *value > 0.0);
    noise.sort_by(f64::total_cmp);
    let softening = SOFTENING * noise.get(noise.len() / 2)?;
    Some(Asinh { softening: softening as f32, white: (BRIGHTEST * softening) as f32 })
}

/// One panel: a function from (column, row) to a colour, and what is written around it.
struct Panel<'a> {
    title: String,
    /// Columns and rows.
    pixels: (usize, usize),
    colour: Box<dyn Fn(usize, usize) -> Colour + 'a>,
    /// Colour map with the labels of its low and high end.
    bar: Option<(Map, String, String)>,
    /// Pitch in arcsec, for the scale bar.
    pitch: Option<f64>,
}

/// Panels side by side: observation, posterior mean, standard deviation, variance ratio, residual in standard deviations,
/// draws that are kept and, if given, the truth (nJy per product pixel, `[C, n, n]`). Composites share one asinh stretch of surface
/// brightness, that of the survey or else one of the object's own; single quantities are shown for the middle band, which `bands`
/// names.
///
/// Errors: the record lacks its images (a failed object).
pub fn object_picture(
    record: &ObjectRecord,
    bands: &[String],
    truth: Option<&RecordArray>,
    stretch: Option<Asinh>,
) -> Result<Canvas> {
    let need = |name: &str| {
        let array = record.array(name).filter(|array| array.shape.len() == 3 && !array.values.is_empty());
        array.ok_or_else(|| Error::object(&record.id, format!("there is no picture without `{name}`")))
    };
    let (mean, variance, observation) = (need("mean")?, need("variance")?, need("observation")?);
    let middle = mean.shape[0] / 2;
    let band = bands.get(middle).map_or_else(|| format!("band {middle}"), String::clone);
    let product_pitch = record.scalar("pixel_scale");
    let observed_pitch = record.scalar("observation_pixel_scale");
    // Surface brightness, nJy per square arcsec, makes pixels of different sizes comparable.
    let area = |pitch: Option<f64>| pitch.map_or(1.0, |pitch| (pitch * pitch) as f32).max(f32::MIN_POSITIVE);
    let (product_area, observed_area) = (area(product_pitch), area(observed_pitch));
    let noise = record.array("observation_variance").and_then(|array| quantile(array.values.iter().copied(), 0.1));
    let peak = quantile(mean.values.iter().map(|value| value / product_area), 0.998).unwrap_or(1.0);
    let softening = noise.map_or(peak / 50.0, |variance| 2.0 * variance.sqrt() / observed_area).min(peak / 3.0);
    let stretch = stretch.unwrap_or(Asinh { softening, white: peak });

    // Dropped after the panels that borrow them.
    let kept = record.array("draws").filter(|draws| draws.shape.len() == 4 && draws.shape[1..] == mean.shape);
    let one = |values: &[f32]| RecordArray { shape: mean.shape.clone(), values: values.to_vec() };
    let kept: Vec<RecordArray> =
        kept.map_or(Vec::new(), |draws| draws.values.chunks_exact(mean.values.len()).take(DRAWS).map(one).collect());

    let mut panels = vec![
        composite("observation", observation, observed_area, stretch, observed_pitch),
        composite("posterior mean", mean, product_area, stretch, product_pitch),
        logarithmic(format!("sd, {band}"), variance, middle, product_area),
    ];
    if let Some(ratio) = record.array("variance_ratio") {
        panels.push(linear(format!("variance ratio, {band}"), ratio, middle, (0.0, 1.0), Map::Sequential, ""));
    }
    if let Some(residual) = record.array("residual") {
        let title = format!("residual, {band}");
        panels.push(linear(title, residual, middle, (-RANGE, RANGE), Map::Diverging, " sd"));
    }
    for (index, draw) in kept.iter().enumerate() {
        panels.push(composite(&format!("draw {}", index + 1), draw, product_area, stretch, product_pitch));
    }
    if let Some(truth) = truth {
        if truth.shape.len() != 3 || truth.shape[0] != mean.shape[0] {
            let what = format!("the truth has shape {:?}, the mean {:?}", truth.shape, mean.shape);
            return Err(Error::object(&record.id, what));
        }
        // The truth covers the same field, perhaps with other pixels.
        let shrink = mean.shape[2] as f32 / truth.shape[2].max(1) as f32;
        panels.push(composite("truth", truth, product_area * shrink * shrink, stretch, None));
    }

    let width = GAP + panels.len() as i64 * (PANEL + GAP);
    let mut canvas = Canvas::new(width as u32, (TOP + PANEL + BOTTOM) as u32, WHITE);
    canvas.text(GAP, 10, &title(record), 2, BLACK);
    for (index, panel) in panels.iter().enumerate() {
        draw(&mut canvas, GAP + index as i64 * (PANEL + GAP), panel);
    }
    Ok(canvas)
}

/// The line above the panels.
fn title(record: &ObjectRecord) -> String {
    let mut title = record.id.clone();
    for (name, text) in [
        ("redshift", "z"),
        ("reduced_chi2", "chi2"),
        ("reduced_chi2_galaxy", "chi2 in the galaxy"),
        ("sample_count", "samples"),
    ] {
        if let Some(value) = record.scalar(name) {
            title += &format!("   {text} {}", label(value));
        }
    }
    let flags = Flag::names(record.flags);
    if !flags.is_empty() {
        title += &format!("   [{flags}]");
    }
    title
}

fn composite<'a>(title: &str, array: &'a RecordArray, area: f32, stretch: Asinh, pitch: Option<f64>) -> Panel<'a> {
    let (rows, columns) = (array.shape[1], array.shape[2]);
    let colour = move |x: usize, y: usize| {
        let bands: Vec<f32> = array.values.chunks(rows * columns).map(|band| band[y * columns + x] / area).collect();
        stretch.colour(&bands)
    };
    Panel { title: title.into(), pixels: (columns, rows), colour: Box::new(colour), bar: None, pitch }
}

/// One band of an array on a linear scale; `unit` follows the numbers of the colour bar.
fn linear<'a>(
    title: String,
    array: &'a RecordArray,
    band: usize,
    (low, high): (f64, f64),
    map: Map,
    unit: &str,
) -> Panel<'a> {
    let (rows, columns) = (array.shape[1], array.shape[2]);
    let plane = &array.values[band * rows * columns..(band + 1) * rows * columns];
    let colour = move |x: usize, y: usize| map.colour((f64::from(plane[y * columns + x]) - low) / (high - low));
    let bar = (map, format!("{}{unit}", label(low)), format!("{}{unit}", label(high)));
    Panel { title, pixels: (columns, rows), colour: Box::new(colour), bar: Some(bar), pitch: None }
}

/// The standard deviation of one band in surface brightness, on a logarithmic scale: it spans orders of magnitude.
fn logarithmic<'a>(title: String, variance: &'a RecordArray, band: usize, area: f32) -> Panel<'a> {
    let (rows, columns) = (variance.shape[1], variance.shape[2]);
    let plane = &variance.values[band * rows * columns..(band + 1) * rows * columns];
    let sd = move |index: usize| plane[index].sqrt() / area;
    let sds = || (0..plane.len()).map(sd);
    let high = f64::from(quantile(sds(), 0.998).unwrap_or(1.0)).max(f64::from(f32::MIN_POSITIVE));
    let low = f64::from(quantile(sds(), 0.02).unwrap_or(0.0)).max(high / 1e3).min(high / 2.0);
    let colour = move |x: usize, y: usize| {
        Map::Sequential.colour((f64::from(sd(y * columns + x)).max(low) / low).ln() / (high / low).ln())
    };
    let unit = "nJy/arcsec2";
    let bar = Some((Map::Sequential, label(low), format!("{} {unit}", label(high))));
    Panel { title, pixels: (columns, rows), colour: Box::new(colour), bar, pitch: None }
}

fn draw(canvas: &mut Canvas, left: i64, panel: &Panel) {
    canvas.text(left, TOP - 22, &panel.title, 2, BLACK);
    canvas.paste((left, TOP), (PANEL, PANEL), panel.pixels, &panel.colour);
    canvas.frame(left - 1, TOP - 1, PANEL + 2, PANEL + 2, GREY);
    let bottom = TOP + PANEL;
    if let Some((map, low, high)) = &panel.bar {
        for x in 0..PANEL {
            canvas.fill(left + x, bottom + 8, 1, 10, map.colour(x as f64 / (PANEL - 1) as f64));
        }
        canvas.text(left, bottom + 24, low, 2, BLACK);
        canvas.text(left + PANEL - text_width(high, 2), bottom + 24, high, 2, BLACK);
    }
    if let Some(pitch) = panel.pitch.filter(|pitch| *pitch > 0.0) {
        // The longest round length that takes at most a third of the panel.
        let field = pitch * panel.pixels.0 as f64;
        let lengths = [10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1];
        let length = lengths.into_iter().find(|length| *length < field / 3.0).unwrap_or(0.05);
        let bar = (length / field * PANEL as f64).round() as i64;
        canvas.fill(left + 10, bottom - 12, bar, 3, LIGHT);
        canvas.text(left + 10, bottom - 30, &format!("{length}\""), 2, LIGHT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(brightness: f32, draws: usize) -> ObjectRecord {
        let mut record = ObjectRecord::done("a");
        let plane =
            |shape: &[usize]| RecordArray { shape: shape.to_vec(), values: vec![brightness; shape.iter().product()] };
        for name in ["mean", "variance", "observation"] {
            record.arrays.push((name.into(), plane(&[3, 8, 8])));
        }
        record.arrays.push(("draws".into(), plane(&[draws, 3, 8, 8])));
        record
    }

    #[test]
    fn all_objects_of_a_survey_have_one_stretch() {
        let bands = ["g", "r", "i"].map(String::from);
        let stretch = survey_stretch(vec![f64::NAN, 3.0, 1.0, 2.0]).unwrap();
        assert_eq!((stretch.softening, stretch.white), (4.0, 2000.0));
        assert!(survey_stretch(vec![f64::NAN, 0.0]).is_none());
        let png = |brightness: f32, draws: usize, stretch: Option<Asinh>| {
            object_picture(&record(brightness, draws), &bands, None, stretch).unwrap().png().unwrap()
        };
        // By its own stretch a bright object looks like a faint one, by the survey's it is brighter.
        let first = |stretch: Option<Asinh>, brightness: f32| {
            let image = record(brightness, 1);
            let own = stretch.unwrap_or(Asinh { softening: brightness / 3.0, white: brightness });
            own.colour(&image.array("mean").unwrap().values[..3])
        };
        assert_eq!(first(None, 10.0), first(None, 1000.0));
        assert!(first(Some(stretch), 10.0) < first(Some(stretch), 1000.0));
        assert_ne!(png(10.0, 1, Some(stretch)), png(10.0, 1, None));
        // As many draws as are kept, up to three: the picture grows.
        let width = |draws: usize| object_picture(&record(10.0, draws), &bands, None, None).unwrap().width();
        assert_eq!(
            [width(0), width(1), width(3), width(5)].map(|own| (own - width(0)) / (PANEL + GAP) as u32),
            [0, 1, 3, 3]
        );
    }
}
