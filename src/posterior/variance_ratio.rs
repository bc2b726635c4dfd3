//! Variance ratios: how much of what the prior leaves open the data decide.

use crate::{Error, Result};

/// Radius of the paper's scalar ratio, pixels.
pub const PAPER_RADIUS: f64 = 30.0;

/// Posterior / prior variance, pixel by pixel, of the flux at amplitude one (so the amplitude's own spread, which the
/// prior does not know, does not enter). Both in the same units; NaN where the prior has no variance.
///
/// Errors: different lengths.
pub fn variance_ratio(posterior: &[f64], prior: &[f64]) -> Result<Vec<f32>> {
    same_length(posterior, prior)?;
    let ratio = |(&posterior, &prior): (&f64, &f64)| if prior > 0.0 { (posterior / prior) as f32 } else { f32::NAN };
    Ok(posterior.iter().zip(prior).map(ratio).collect())
}

/// One number for an object, after Spagnoletti et al. 2024 (arXiv:2411.19158): variances in the stretched space of the
/// prior, averaged over bands and over the pixels within 30 pixels of the image's centre, posterior over prior. Images
/// are `[C, n, n]`.
///
/// Errors: lengths that are not C n n.
pub fn variance_ratio_paper(posterior: &[f64], prior: &[f64], bands: usize, size: usize) -> Result<f64> {
    same_length(posterior, prior)?;
    if posterior.len() != bands * size * size {
        return Err(Error::internal(format!("{} variances for {bands} bands of {size} pixels", posterior.len())));
    }
    let centre = (size as f64 - 1.0) / 2.0;
    let inside = |index: usize| {
        let (row, column) = ((index / size % size) as f64, (index % size) as f64);
        (row - centre).powi(2) + (column - centre).powi(2) <= PAPER_RADIUS * PAPER_RADIUS
    };
    let total = |values: &[f64]| -> f64 {
        values.iter().enumerate().filter(|(index, _)| inside(*index)).map(|(_, value)| value).sum()
    };
    Ok(total(posterior) / total(prior))
}

/// Posterior / prior variance of each band, summed over the pixels within 30 pixels of the image's centre, as in
/// `variance_ratio_paper` but band by band; for variances in linear flux.
///
/// Errors: lengths that are not C n n.
pub fn by_band(posterior: &[f64], prior: &[f64], bands: usize, size: usize) -> Result<Vec<f64>> {
    let rings = in_rings(posterior, prior, bands, size, &|radius| (radius <= PAPER_RADIUS).then_some(0), 1)?;
    Ok(rings.into_iter().flatten().collect())
}

/// Pixels of a ring of `profile`.
pub const RING: usize = 2;

/// The radial profile of prior dominance: posterior / prior variance of each band, summed over rings two pixels wide about
/// the image's centre, the first from 0 to 2 pixels, `size / 4` of them.
///
/// Errors: lengths that are not C n n.
pub fn profile(posterior: &[f64], prior: &[f64], bands: usize, size: usize) -> Result<Vec<Vec<f64>>> {
    in_rings(posterior, prior, bands, size, &|radius| Some((radius / RING as f64) as usize), size / (2 * RING))
}

/// Ratios of sums over the pixels that `ring` puts into each of `count` rings, band by band.
fn in_rings(
    posterior: &[f64],
    prior: &[f64],
    bands: usize,
    size: usize,
    ring: &dyn Fn(f64) -> Option<usize>,
    count: usize,
) -> Result<Vec<Vec<f64>>> {
    same_length(posterior, prior)?;
    if posterior.len() != bands * size * size {
        return Err(Error::internal(format!("{} variances for {bands} bands of {size} pixels", posterior.len())));
    }
    let centre = (size as f64 - 1.0) / 2.0;
    let mut out = Vec::with_capacity(bands);
    for (own, known) in posterior.chunks(size * size).zip(prior.chunks(size * size)) {
        let mut sums = vec![(0.0, 0.0); count];
        for (index, (own, known)) in own.iter().zip(known).enumerate() {
            let radius = ((index / size) as f64 - centre).hypot((index % size) as f64 - centre);
            if let Some(sum) = ring(radius).and_then(|ring| sums.get_mut(ring)) {
                *sum = (sum.0 + own, sum.1 + known);
            }
        }
        out.push(sums.into_iter().map(|(own, known)| if known > 0.0 { own / known } else { f64::NAN }).collect());
    }
    Ok(out)
}

fn same_length(posterior: &[f64], prior: &[f64]) -> Result<()> {
    if posterior.len() == prior.len() {
        return Ok(());
    }
    let (posterior, prior) = (posterior.len(), prior.len());
    Err(Error::internal(format!("a posterior variance of {posterior} values and a prior variance of {prior}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_posterior_over_prior() {
        let ratio = variance_ratio(&[1.0, 2.0, 3.0], &[4.0, 2.0, 0.0]).unwrap();
        assert_eq!(ratio[..2], [0.25, 1.0]);
        assert!(ratio[2].is_nan());
        assert!(variance_ratio(&[1.0], &[1.0, 2.0]).is_err());
    }

    #[test]
    fn profiles_are_ratios_of_sums_in_rings() {
        let (size, bands) = (16, 2);
        let prior = vec![2.0; bands * size * size];
        let radius = |index: usize| ((index / size % size) as f64 - 7.5).hypot((index % size) as f64 - 7.5);
        // The ratio is 1/2 in the first band, and 1 beyond 4 pixels of the second, 0 within.
        let posterior: Vec<f64> = (0..bands * size * size)
            .map(|index| if index < size * size { 1.0 } else { 2.0 * f64::from(u8::from(radius(index) >= 4.0)) })
            .collect();
        let found = profile(&posterior, &prior, bands, size).unwrap();
        assert_eq!(found, [[0.5; 4], [0.0, 0.0, 1.0, 1.0]]);
        let total = by_band(&posterior, &prior, bands, size).unwrap();
        assert_eq!(total[0], 0.5);
        assert!((total[1] - (1.0 - 52.0 / 256.0)).abs() < 1e-12, "{total:?}");
        assert!(profile(&posterior, &prior, 3, size).is_err());
    }

    #[test]
    fn the_papers_ratio_sees_the_centre_only() {
        let size = 96;
        let prior = vec![2.0; 3 * size * size];
        let mut posterior = vec![1.0; 3 * size * size];
        // The first row is 47 pixels from the centre.
        posterior[..size].fill(1e6);
        assert_eq!(variance_ratio_paper(&posterior, &prior, 3, size).unwrap(), 0.5);
        assert!(variance_ratio_paper(&posterior, &prior, 2, size).is_err());
    }
}
