//! Scalar statistics of an image, by which draws are compared with truths.

/// The statistics that the self-consistency tests look at, in the order of `measure`.
pub const NAMES: [&str; 6] = ["flux", "aperture", "peak", "r50", "outskirts", "colour"];

/// Statistics of one image `[C, n, n]` of flux per pixel, band by band and row by row:
/// total flux, flux within n/16 pixels of the centre, largest pixel, half-light radius in pixels (circles about the
/// grid's centre), flux beyond n/4 pixels - all of the reference band - and the flux ratio of first to last band.
pub fn measure(flux: &[f32], channels: usize, size: usize, reference: usize) -> [f64; 6] {
    let plane = size * size;
    let band = &flux[reference * plane..(reference + 1) * plane];
    let centre = (size as f64 - 1.0) / 2.0;
    let mut rings: Vec<(f64, f64)> = Vec::with_capacity(plane);
    for (index, &value) in band.iter().enumerate() {
        let (dy, dx) = ((index / size) as f64 - centre, (index % size) as f64 - centre);
        rings.push(((dy * dy + dx * dx).sqrt(), f64::from(value)));
    }
    let within = |radius: f64| rings.iter().filter(|(r, _)| *r <= radius).map(|(_, value)| value).sum::<f64>();
    let total: f64 = rings.iter().map(|(_, value)| value).sum();
    let peak = band.iter().copied().fold(f32::MIN, f32::max);
    let aperture = within(size as f64 / 16.0);
    let outskirts = total - within(size as f64 / 4.0);
    rings.sort_by(|left, right| left.0.total_cmp(&right.0));
    let band_total = |index: usize| flux[index * plane..(index + 1) * plane].iter().map(|&v| f64::from(v)).sum::<f64>();
    let colour = band_total(0) / band_total(channels - 1);
    [total, aperture, f64::from(peak), half_light_radius(&rings, total), outskirts, colour]
}

/// Ellipticity (e1, e2) of one plane `[n, n]`: the quadrupole moments of the light under a Gaussian window of standard
/// deviation n/8 about the grid's centre, over their trace. The window keeps noise at the edges from mattering; the
/// numbers are comparable with each other and not with a catalogue's.
pub fn ellipticity(flux: &[f32], size: usize) -> [f64; 2] {
    let (centre, width) = ((size as f64 - 1.0) / 2.0, size as f64 / 8.0);
    let (mut plus, mut cross, mut trace) = (0.0, 0.0, 0.0);
    for (index, &value) in flux.iter().enumerate() {
        let (dy, dx) = ((index / size) as f64 - centre, (index % size) as f64 - centre);
        let weight = f64::from(value) * (-(dx * dx + dy * dy) / (2.0 * width * width)).exp();
        plus += weight * (dx * dx - dy * dy);
        cross += weight * 2.0 * dx * dy;
        trace += weight * (dx * dx + dy * dy);
    }
    // No light at all has no shape: round.
    if trace == 0.0 { [0.0, 0.0] } else { [plus / trace, cross / trace] }
}

/// The radius at which the growing sum passes half of `total`, interpolated between pixels of different radius.
fn half_light_radius(rings: &[(f64, f64)], total: f64) -> f64 {
    let (mut sum, mut index) = (0.0, 0);
    let (mut radius_before, mut sum_before) = (0.0, 0.0);
    while index < rings.len() {
        let radius = rings[index].0;
        while index < rings.len() && rings[index].0 - radius < 1e-9 {
            sum += rings[index].1;
            index += 1;
        }
        if sum >= total / 2.0 && sum > sum_before {
            let fraction = ((total / 2.0 - sum_before) / (sum - sum_before)).clamp(0.0, 1.0);
            return radius_before + fraction * (radius - radius_before);
        }
        (radius_before, sum_before) = (radius, sum);
    }
    radius_before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ellipticity_has_the_sign_of_the_long_axis() {
        let image = |angle: f64| -> Vec<f32> {
            let at = |index: usize| {
                let (dy, dx) = ((index / 32) as f64 - 15.5, (index % 32) as f64 - 15.5);
                let (u, v) = (dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin());
                (-(u * u / 18.0 + v * v / 8.0)).exp() as f32
            };
            (0..32 * 32).map(at).collect()
        };
        let [e1, e2] = ellipticity(&image(0.0), 32);
        assert!(e1 > 0.1 && e2.abs() < 1e-6);
        let [e1, e2] = ellipticity(&image(std::f64::consts::FRAC_PI_4), 32);
        assert!(e2 > 0.1 && e1.abs() < 1e-6);
        assert_eq!(ellipticity(&[0.0; 16], 4), [0.0, 0.0]);
    }

    #[test]
    fn statistics_of_a_gaussian() {
        let (size, sigma) = (64, 4.0);
        let mut flux = Vec::new();
        for scale in [0.5f32, 1.0, 2.0] {
            for index in 0..size * size {
                let (dy, dx) = ((index / size) as f64 - 31.5, (index % size) as f64 - 31.5);
                let value =
                    (-(dx * dx + dy * dy) / (2.0 * sigma * sigma)).exp() / (std::f64::consts::TAU * sigma * sigma);
                flux.push(scale * value as f32);
            }
        }
        let [total, aperture, peak, r50, outskirts, colour] = measure(&flux, 3, size, 1);
        assert!((total - 1.0).abs() < 1e-4); // What lies outside of 7.9 sigma, and f32 sums.
        assert!((aperture - (1.0 - (-0.5f64).exp())).abs() < 0.02); // The edge of a 4-pixel circle on pixels.
        assert!((peak * std::f64::consts::TAU * 16.0 - (-0.5f64 * 0.5 / 16.0).exp()).abs() < 1e-5);
        assert!((r50 - sigma * (2.0f64 * 2.0f64.ln()).sqrt()).abs() < 0.15); // Rings of pixels.
        assert!(outskirts < 1e-3 && (colour - 0.25).abs() < 1e-6);
    }
}
