//! Cleaning of one real galaxy: sky and neighbours removed, noise damped where it would be learned, and the light that the
//! detection isophote cut off put back as a smooth extrapolation of the measured profile.

use super::RealSource;

/// Border that is taken for sky, pixels.
const BORDER: usize = 8;
/// Detection threshold in units of the smoothed sky noise.
const THRESHOLD: f32 = 3.0;
/// A neighbour is what rises by more than this factor above the saddle between it and the galaxy: near the centre, where
/// the galaxy's own knots are, and further out.
const RISE: [f32; 2] = [2.5, 1.3];
/// Up to here it is near the centre, pixels.
const NEAR: f32 = 13.0;
/// Neighbours are cut out with this margin, pixels.
const GROW: f32 = 3.0;
/// Galaxies that lose more than one in this many pixels to neighbours are dropped.
const CROWDED: usize = 25;
/// Fewest pixels of a galaxy.
const SMALLEST: usize = 120;
/// Signal-to-noise ratio (of the smoothed image) at which data and smoothed data have equal weight.
const DAMPING: f32 = 6.0;

/// A cleaned galaxy on a frame large enough to be rotated and zoomed.
pub struct Cleaned {
    /// One plane per band; or light, and light times the share of the outer colour, for single-band images.
    pub planes: Vec<Vec<f32>>,
    pub width: usize,
    /// Where the galaxy's centre is, pixels.
    pub centre: [f64; 2],
    /// Half-light radius of the part above the isophote, pixels.
    pub r50: f64,
}

/// Cleans the planes of one galaxy (each `width` wide). None when there is no galaxy to be had: too faint, too small, or
/// cut by the frame. `side` is the least side of the frame that comes out; `element` the resolution in pixels at which
/// the signal-to-noise ratio counts.
pub fn clean(
    bands: &[&[f32]],
    width: usize,
    reference: usize,
    source: &RealSource,
    side: usize,
    element: f64,
) -> Option<Cleaned> {
    if source.complete {
        return complete(bands, width, reference);
    }
    let isolated = source.isolated;
    let height = bands[0].len() / width;
    let mut planes: Vec<Vec<f32>> = bands.iter().map(|plane| plane.to_vec()).collect();
    if planes.iter().flatten().any(|value| !value.is_finite()) || width < 32 || height < 32 {
        return None;
    }
    // Exact zeros where there should be sky are missing pixels.
    let missing = |plane: &Vec<f32>| plane.iter().filter(|value| **value == 0.0).count() > 30;
    if !isolated && planes.iter().any(missing) {
        return None;
    }
    let mut noise: Vec<f32> = Vec::new();
    for plane in &mut planes {
        let (sky, sigma) = if isolated { (0.0, faint_noise(plane, width)) } else { border_sky(plane, width) };
        plane.iter_mut().for_each(|value| *value -= sky);
        noise.push(sigma.max(f32::MIN_POSITIVE));
    }
    let Segment { lit, neighbour } = segment(&planes, &noise, width, isolated)?;
    let shape = Shape::measure(&planes[reference], &lit, width)?;
    let profile = Profile::measure(&planes[reference], &lit, width, &shape)?;
    let at_r50 = profile.at(shape.r50 / shape.axis_ratio.sqrt());
    if f64::from(at_r50 / noise[reference]) * element < source.min_signal_to_noise {
        return None;
    }
    let planes = damp(&planes, &noise, &lit, width, element as f32);
    let smoothed = masked_blur(&planes[reference], &lit, width, 2.0);
    let side = side.max(width).max(height);
    let offset = [side as f64 / 2.0 - shape.centre[0], side as f64 / 2.0 - shape.centre[1]].map(|v| v.round() as i64);
    let inside = |column: usize, row: usize| {
        let (x, y) = (column as i64 - offset[0], row as i64 - offset[1]);
        (x >= 0 && y >= 0 && x < width as i64 && y < height as i64).then(|| y as usize * width + x as usize)
    };
    // The body is the galaxy's pixels without ragged edges; wings start from its outline.
    let large: Vec<bool> = (0..side * side).map(|at| inside(at % side, at / side).is_some_and(|at| lit[at])).collect();
    let large: Vec<f32> = large.iter().map(|lit| f32::from(u8::from(*lit))).collect();
    let (cover, round) = (blur(&large, side, 1.5), blur(&large, side, 3.5));
    let distance = distance(&round.iter().map(|cover| *cover > 0.5).collect::<Vec<_>>(), side);
    let mut out = vec![vec![0.0f32; side * side]; planes.len()];
    let mut share = vec![0.0f32; side * side];
    let outer: Vec<(f32, f32)> = planes.iter().map(|plane| profile.scaled(plane, &lit, width, &shape)).collect();
    for at in 0..side * side {
        let (column, row) = (at % side, at / side);
        let (x, y) = ((column as i64 - offset[0]) as f64, (row as i64 - offset[1]) as f64);
        let radius = shape.radius(x, y);
        let fall = (-distance[at] / (profile.scale * shape.axis_ratio.sqrt())).exp() as f32;
        let own = inside(column, row);
        let t = ((cover[at] - 0.4) / 0.55).clamp(0.0, 1.0);
        let weight = if own.is_some_and(|at| !neighbour[at]) { t * t * (3.0 - 2.0 * t) } else { 0.0 };
        for (band, plane) in out.iter_mut().enumerate() {
            let (ratio, edge) = outer[band];
            let mut wing = edge * fall;
            if own.is_some_and(|at| neighbour[at]) && radius < 1.8 * profile.end {
                wing = wing.max(profile.at(radius) * ratio);
            }
            let data = own.map_or(0.0, |at| planes[band][at]);
            plane[at] = (weight * data + (1.0 - weight) * wing).max(0.0);
        }
        // Outskirts, and what is brighter than its surroundings (arms, knots), get the outer, bluer colour.
        let outskirts = 1.0 - (-(radius / (1.3 * shape.r50)) as f32).exp();
        let knot = own
            .filter(|&at| lit[at])
            .map_or(0.0, |at| 0.5 * (smoothed[at] / profile.at(radius).max(f32::MIN_POSITIVE) - 1.0));
        share[at] = (outskirts + knot.clamp(-0.25, 0.5)).clamp(0.0, 1.0);
    }
    if planes.len() == 1 {
        let mixed = out[0].iter().zip(&share).map(|(light, share)| light * share).collect();
        out.push(mixed);
    }
    let centre = [shape.centre[0] + offset[0] as f64, shape.centre[1] + offset[1] as f64];
    Some(Cleaned { planes: out, width: side, centre, r50: shape.r50 })
}

/// Images that need nothing: the centre is the frame's, the light all there is.
fn complete(bands: &[&[f32]], width: usize, reference: usize) -> Option<Cleaned> {
    let height = bands[0].len() / width;
    let centre = [(width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0];
    let mut planes: Vec<Vec<f32>> =
        bands.iter().map(|plane| plane.iter().map(|value| value.max(0.0)).collect()).collect();
    if planes.iter().flatten().any(|value| !value.is_finite()) {
        return None;
    }
    let shape = Shape::around(&planes[reference], &vec![true; width * height], width, centre)?;
    if planes.len() == 1 {
        let outskirts = |at: usize| {
            let radius = ((at % width) as f64 - centre[0]).hypot((at / width) as f64 - centre[1]);
            1.0 - (-(radius / (1.3 * shape.r50)) as f32).exp()
        };
        planes.push(planes[0].iter().enumerate().map(|(at, light)| light * outskirts(at)).collect());
    }
    Some(Cleaned { planes, width, centre, r50: shape.r50 })
}

/// Damps noise inside the galaxy: detail from all bands together, weighted by its significance; colours from smoothed
/// bands, drawn towards the mean colour where there is little light.
fn damp(planes: &[Vec<f32>], noise: &[f32], lit: &[bool], width: usize, element: f32) -> Vec<Vec<f32>> {
    let weights: Vec<f32> = noise.iter().map(|sigma| 1.0 / (sigma * sigma)).collect();
    let total: f32 = weights.iter().sum();
    let white: Vec<f32> = (0..lit.len())
        .map(|at| planes.iter().zip(&weights).map(|(plane, weight)| plane[at] * weight).sum::<f32>() / total)
        .collect();
    let sigma = 1.0 / total.sqrt();
    // Well below the resolution of the views (a Gaussian of 0.42 elements), so that smoothing costs no detail.
    let narrow = (0.3 * element).clamp(1.0, 2.5);
    let smooth = masked_blur(&white, lit, width, narrow);
    let wide = masked_blur(&white, lit, width, 2.0 * narrow);
    let detail: Vec<f32> = (0..lit.len())
        .map(|at| {
            let certainty = (smooth[at] / sigma / DAMPING).max(0.0).powi(2);
            let data = if white[at] == 0.0 { smooth[at] } else { white[at] };
            ((data * certainty + smooth[at]) / (1.0 + certainty)).max(0.0)
        })
        .collect();
    let light = |plane: &[f32]| plane.iter().zip(lit).filter(|(_, lit)| **lit).map(|(v, _)| f64::from(*v)).sum::<f64>();
    let all = light(&white);
    planes
        .iter()
        .zip(noise)
        .map(|(plane, band_noise)| {
            if planes.len() == 1 {
                return detail.clone();
            }
            let mean = (light(plane) / all).max(0.0) as f32;
            let band = masked_blur(plane, lit, width, 2.0 * narrow);
            let doubt = band_noise.max(sigma);
            (0..lit.len())
                .map(|at| detail[at] * ((band[at] + doubt * mean) / (wide[at].max(0.0) + doubt)).max(0.0))
                .collect()
        })
        .collect()
}

fn median(values: &mut [f32]) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

/// Level and noise of the sky from the border, clipped at 2.5 sigma against neighbours.
fn border_sky(plane: &[f32], width: usize) -> (f32, f32) {
    let height = plane.len() / width;
    let border = |at: &usize| {
        let (x, y) = (at % width, at / width);
        x < BORDER || y < BORDER || x + BORDER >= width || y + BORDER >= height
    };
    let mut values: Vec<f32> = (0..plane.len()).filter(border).map(|at| plane[at]).collect();
    let mut level = (0.0, 0.0);
    for _ in 0..5 {
        let sky = median(&mut values);
        let sigma = 1.4826 * median(&mut values.iter().map(|value| (value - sky).abs()).collect::<Vec<_>>());
        level = (sky, sigma);
        values.retain(|value| (value - sky).abs() <= 2.5 * sigma.max(f32::MIN_POSITIVE));
    }
    level
}

/// Noise of an image with zero sky: the scatter of its faintest pixels around their neighbours' mean.
fn faint_noise(plane: &[f32], width: usize) -> f32 {
    let mut lit: Vec<f32> = plane.iter().copied().filter(|value| *value > 0.0).collect();
    let faint = median(&mut lit);
    let mut scatter = Vec::new();
    for at in width + 1..plane.len().saturating_sub(width + 1) {
        let around = [at - 1, at + 1, at - width, at + width].map(|k| plane[k]);
        if plane[at] > 0.0 && plane[at] < faint && around.iter().all(|value| *value > 0.0) {
            // The difference to the mean of four has 5/4 of the variance of one.
            scatter.push((plane[at] - around.iter().sum::<f32>() / 4.0).abs() / 1.118);
        }
    }
    1.4826 * median(&mut scatter)
}

/// The pixels of the galaxy, and those of neighbours that were cut out of it.
struct Segment {
    lit: Vec<bool>,
    neighbour: Vec<bool>,
}

/// Floods from the peak near the centre, brightest pixels first, down to the threshold, and not up again into neighbours.
/// None when there is no galaxy, or when the frame cuts it.
fn segment(planes: &[Vec<f32>], noise: &[f32], width: usize, isolated: bool) -> Option<Segment> {
    let area = planes[0].len();
    let height = area / width;
    let mut detection = vec![0.0f32; area];
    for (plane, sigma) in planes.iter().zip(noise) {
        detection.iter_mut().zip(plane).for_each(|(sum, value)| *sum += value / sigma);
    }
    let smoothed = blur(&detection, width, if isolated { 1.0 } else { 1.5 });
    let threshold = if isolated { 0.0 } else { THRESHOLD * border_sky(&smoothed, width).1 };
    let flooded = if isolated { &detection } else { &smoothed };
    let from = |at: usize, x: f32, y: f32| ((at % width) as f32 - x).hypot((at / width) as f32 - y);
    let near = |at: &usize| isolated || from(*at, width as f32 / 2.0, height as f32 / 2.0) < 12.0;
    let peak = (0..area).filter(near).max_by(|&a, &b| smoothed[a].total_cmp(&smoothed[b]))?;
    let (peak_x, peak_y) = ((peak % width) as f32, (peak / width) as f32);
    let mut lit = vec![false; area];
    let mut neighbour = vec![false; area];
    // Brightness as ordered bits: positive floats sort like their bit patterns.
    let mut queue =
        std::collections::BinaryHeap::from([(smoothed[peak].max(0.0).to_bits(), peak, f32::INFINITY)].map(Item));
    let (mut count, mut cut) = (0usize, 0usize);
    while let Some(Item((_, at, lowest))) = queue.pop() {
        if lit[at] || neighbour[at] || flooded[at] <= threshold {
            continue;
        }
        let rise = if from(at, peak_x, peak_y) < NEAR { RISE[0] } else { RISE[1] };
        if !isolated && smoothed[at] > rise * lowest + threshold {
            neighbour[at] = true;
            continue;
        }
        lit[at] = true;
        count += 1;
        let (x, y) = (at % width, at / width);
        if x == 0 || y == 0 || x + 1 == width || y + 1 == height {
            cut += 1;
            continue;
        }
        let lowest = lowest.min(smoothed[at]);
        for next in [at - 1, at + 1, at - width, at + width] {
            queue.push(Item((smoothed[next].max(0.0).to_bits(), next, lowest)));
        }
    }
    if neighbour.contains(&true) {
        let grown = distance(&neighbour, width);
        for at in 0..area {
            neighbour[at] |= grown[at] <= f64::from(GROW);
            lit[at] &= !neighbour[at];
        }
    }
    let crowded = neighbour.iter().filter(|pixel| **pixel).count() * CROWDED > count;
    (count >= SMALLEST && cut * 60 < count && !crowded).then_some(Segment { lit, neighbour })
}

/// A pixel to flood: its brightness as ordered bits, its index, and the lowest brightness on the way to it.
struct Item((u32, usize, f32));

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0.0, self.0.1).cmp(&(other.0.0, other.0.1))
    }
}

/// Euclidean distance of every pixel to the nearest `true` one (Felzenszwalb & Huttenlocher 2012: lower envelopes of
/// parabolas, first along columns, then along rows).
fn distance(set: &[bool], width: usize) -> Vec<f64> {
    const FAR: f64 = 1e12;
    let height = set.len() / width;
    let mut squares: Vec<f64> = set.iter().map(|&inside| if inside { 0.0 } else { FAR }).collect();
    let mut line = Vec::new();
    for column in 0..width {
        line.clear();
        line.extend((0..height).map(|row| squares[row * width + column]));
        for (row, value) in envelope(&line).into_iter().enumerate() {
            squares[row * width + column] = value;
        }
    }
    squares.chunks_exact(width).flat_map(envelope).map(f64::sqrt).collect()
}

/// min over k of (i - k)^2 + values[k], for every i.
fn envelope(values: &[f64]) -> Vec<f64> {
    let mut centres: Vec<usize> = vec![0];
    let mut starts = vec![f64::NEG_INFINITY];
    for k in 1..values.len() {
        loop {
            let last = centres[centres.len() - 1];
            let (a, b) = (last as f64, k as f64);
            let start = ((values[k] + b * b) - (values[last] + a * a)) / (2.0 * (b - a));
            if start > starts[starts.len() - 1] {
                centres.push(k);
                starts.push(start);
                break;
            }
            centres.pop();
            starts.pop();
            if centres.is_empty() {
                centres.push(k);
                starts.push(f64::NEG_INFINITY);
                break;
            }
        }
    }
    let mut at = 0;
    (0..values.len())
        .map(|i| {
            while at + 1 < starts.len() && starts[at + 1] < i as f64 {
                at += 1;
            }
            (i as f64 - centres[at] as f64).powi(2) + values[centres[at]]
        })
        .collect()
}

/// Centre, orientation and half-light radius of the galaxy's pixels.
struct Shape {
    centre: [f64; 2],
    angle: f64,
    axis_ratio: f64,
    r50: f64,
}

impl Shape {
    fn measure(plane: &[f32], segment: &[bool], width: usize) -> Option<Shape> {
        let lit = |at: &usize| segment[*at] && plane[*at] > 0.0;
        let pixels: Vec<(f64, f64, f64)> = (0..plane.len())
            .filter(lit)
            .map(|at| ((at % width) as f64, (at / width) as f64, f64::from(plane[at])))
            .collect();
        // Weighting by the square of the light puts the centre near the nucleus, but not on one knot.
        let square: f64 = pixels.iter().map(|p| p.2 * p.2).sum();
        let mean = |pick: fn(&(f64, f64, f64)) -> f64| pixels.iter().map(|p| pick(p) * p.2 * p.2).sum::<f64>() / square;
        Shape::around(plane, segment, width, [mean(|p| p.0), mean(|p| p.1)])
    }

    /// The shape of the galaxy's pixels around a centre that is known.
    fn around(plane: &[f32], segment: &[bool], width: usize, centre: [f64; 2]) -> Option<Shape> {
        let lit = |at: &usize| segment[*at] && plane[*at] > 0.0;
        let pixels: Vec<(f64, f64, f64)> = (0..plane.len())
            .filter(lit)
            .map(|at| ((at % width) as f64, (at / width) as f64, f64::from(plane[at])))
            .collect();
        let light: f64 = pixels.iter().map(|p| p.2).sum();
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for (x, y, value) in &pixels {
            let (dx, dy) = (x - centre[0], y - centre[1]);
            xx += value * dx * dx / light;
            xy += value * dx * dy / light;
            yy += value * dy * dy / light;
        }
        let angle = 0.5 * (2.0 * xy).atan2(xx - yy);
        let root = (0.25 * (xx - yy).powi(2) + xy * xy).sqrt();
        let (major, minor) = (0.5 * (xx + yy) + root, 0.5 * (xx + yy) - root);
        let axis_ratio = (minor.max(0.0) / major).sqrt().clamp(0.15, 1.0);
        let mut by_radius: Vec<(f64, f64)> =
            pixels.iter().map(|(x, y, value)| ((x - centre[0]).hypot(y - centre[1]), *value)).collect();
        by_radius.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0.0;
        let r50 = by_radius.iter().find_map(|(radius, value)| {
            sum += value;
            (sum >= light / 2.0).then_some(*radius)
        })?;
        (r50 > 1.0 && light.is_finite()).then_some(Shape { centre, angle, axis_ratio, r50 })
    }

    /// Radius along the major axis of the ellipse through a point.
    fn radius(&self, x: f64, y: f64) -> f64 {
        let (sine, cosine) = self.angle.sin_cos();
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        (dx * cosine + dy * sine).hypot((dy * cosine - dx * sine) / self.axis_ratio)
    }
}

/// Mean surface brightness on ellipses, and the scale length of its exponential extrapolation.
struct Profile {
    rings: Vec<f32>,
    scale: f64,
    /// Ellipses from here to `end` define the colours of the wing.
    start: f64,
    end: f64,
}

impl Profile {
    fn measure(plane: &[f32], segment: &[bool], width: usize, shape: &Shape) -> Option<Profile> {
        let count = 2 * width;
        let (mut sum, mut lit, mut all) = (vec![0.0f64; count], vec![0.0f64; count], vec![0.0f64; count]);
        for at in 0..plane.len() {
            let ring = shape.radius((at % width) as f64, (at / width) as f64).round() as usize;
            if ring < count {
                all[ring] += 1.0;
                if segment[at] {
                    lit[ring] += 1.0;
                    sum[ring] += f64::from(plane[at]);
                }
            }
        }
        let covered = |ring: usize| all[ring] > 0.0 && lit[ring] >= 0.8 * all[ring];
        let end = (1..count).take_while(|&ring| covered(ring) || ring < 3).last()?.max(6);
        let start = (end as f64 * 0.5).floor().max(2.0) as usize;
        // ln I = intercept - R / scale, least squares over the outer half of the covered ellipses.
        let points: Vec<(f64, f64)> = (start..=end)
            .filter(|&ring| lit[ring] > 0.0 && sum[ring] > 0.0)
            .map(|ring| (ring as f64, (sum[ring] / lit[ring]).ln()))
            .collect();
        if points.len() < 3 {
            return None;
        }
        let n = points.len() as f64;
        let (mr, mi) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let slope = points.iter().map(|p| (p.0 - mr) * (p.1 - mi)).sum::<f64>()
            / points.iter().map(|p| (p.0 - mr).powi(2)).sum::<f64>();
        // A rising or nearly flat outer profile is structure, not a wing: it then falls at a typical rate.
        let scale = if slope < 0.0 { -1.0 / slope } else { f64::INFINITY };
        let scale = scale.clamp(0.08 * end as f64, 0.26 * end as f64);
        let rings = (0..count).map(|ring| if lit[ring] > 0.0 { (sum[ring] / lit[ring]) as f32 } else { 0.0 }).collect();
        Some(Profile { rings, scale, start: start as f64, end: end as f64 })
    }

    fn at(&self, radius: f64) -> f32 {
        let low = (radius.max(0.0) as usize).min(self.rings.len() - 2);
        let share = (radius - low as f64).clamp(0.0, 1.0) as f32;
        self.rings[low] + (self.rings[low + 1] - self.rings[low]) * share
    }

    /// The band's light relative to the reference profile in the outer part, and the brightest that a wing may be there:
    /// the level of the segment's edge.
    fn scaled(&self, plane: &[f32], segment: &[bool], width: usize, shape: &Shape) -> (f32, f32) {
        let (mut light, mut expected, mut edge) = (0.0f64, 0.0f64, Vec::new());
        for at in width..plane.len() - width {
            if !segment[at] {
                continue;
            }
            let radius = shape.radius((at % width) as f64, (at / width) as f64);
            if (self.start..=self.end).contains(&radius) {
                light += f64::from(plane[at]);
                expected += f64::from(self.at(radius));
            }
            if [at - 1, at + 1, at - width, at + width].iter().any(|&next| !segment[next]) {
                edge.push(plane[at].max(0.0));
            }
        }
        let ratio = if expected > 0.0 { (light / expected).max(0.0) } else { 1.0 };
        (ratio as f32, median(&mut edge))
    }
}

/// Gaussian blur, zero outside.
fn blur(plane: &[f32], width: usize, sigma: f32) -> Vec<f32> {
    let height = plane.len() / width;
    let reach = (3.0 * sigma).ceil() as i64;
    let kernel: Vec<f32> = (-reach..=reach).map(|k| (-0.5 * (k as f32 / sigma).powi(2)).exp()).collect();
    let sum: f32 = kernel.iter().sum();
    let pass = |input: &[f32], along_x: bool| -> Vec<f32> {
        (0..input.len())
            .map(|at| {
                let (x, y) = ((at % width) as i64, (at / width) as i64);
                let mut value = 0.0;
                for (k, weight) in kernel.iter().enumerate() {
                    let step = k as i64 - reach;
                    let (u, v) = if along_x { (x + step, y) } else { (x, y + step) };
                    if u >= 0 && v >= 0 && u < width as i64 && v < height as i64 {
                        value += weight * input[v as usize * width + u as usize];
                    }
                }
                value / sum
            })
            .collect()
    };
    pass(&pass(plane, true), false)
}

/// Blur within the segment only: outside pixels have no say.
fn masked_blur(plane: &[f32], segment: &[bool], width: usize, sigma: f32) -> Vec<f32> {
    let masked: Vec<f32> = plane.iter().zip(segment).map(|(value, lit)| if *lit { *value } else { 0.0 }).collect();
    let mask: Vec<f32> = segment.iter().map(|lit| f32::from(u8::from(*lit))).collect();
    let (light, weight) = (blur(&masked, width, sigma), blur(&mask, width, sigma));
    light.iter().zip(&weight).map(|(light, weight)| if *weight > 1e-3 { light / weight } else { 0.0 }).collect()
}
