//! Variance ratios: how much of what the prior leaves open the data decide.

use crate::{Error, Result};

/// Radius of the paper's scalar ratio, pixels.
const PAPER_RADIUS: f64 = 30.0;

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
