//! The posterior mean against its rivals over many objects, by observed S/N: in PSNR (linear flux) and in SSIM, each rival
//! with the setting that is best for it in that number, object by object.

use serde::Serialize;

use super::Entry;
use crate::evaluate::recovery::Measured;

/// Lower edges of the bins of observed S/N (Kron flux over its error, in the band of the comparison).
const BINS: [f64; 5] = [0.0, 10.0, 30.0, 100.0, 300.0];
/// The methods that the posterior mean is held against.
const RIVALS: [&str; 2] = ["Richardson-Lucy", "Wiener"];

/// The posterior mean against one rival in one bin.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub rival: &'static str,
    pub low: f64,
    /// `None`: no upper edge.
    pub high: Option<f64>,
    pub objects: usize,
    /// Objects for which the posterior mean has the higher number.
    pub psnr_wins: usize,
    pub ssim_wins: usize,
    /// Posterior mean less rival, mean over objects: dB, and SSIM.
    pub psnr_gain: Measured,
    pub ssim_gain: Measured,
}

/// Rows for each rival and bin that has objects, each given by its observed S/N and the entries of its comparison.
pub fn rows(objects: &[(f64, &[Entry])]) -> Vec<Row> {
    let mut rows = Vec::new();
    for rival in RIVALS {
        for (index, &low) in BINS.iter().enumerate() {
            let high = BINS.get(index + 1).copied();
            let inside = objects.iter().filter(|(value, _)| *value >= low && high.is_none_or(|high| *value < high));
            let pairs: Vec<[f64; 2]> = inside
                .filter_map(|(_, entries)| {
                    let of = |method: &str| entries.iter().find(|entry| entry.method == method);
                    let (own, other) = (of("posterior mean")?, of(rival)?);
                    Some([own.best_psnr - other.best_psnr, own.best_ssim - other.best_ssim])
                })
                .collect();
            if pairs.is_empty() {
                continue;
            }
            let gains = |which: usize| pairs.iter().map(|pair| pair[which]).collect::<Vec<f64>>();
            let wins = |which: usize| pairs.iter().filter(|pair| pair[which] > 0.0).count();
            rows.push(Row {
                rival,
                low,
                high,
                objects: pairs.len(),
                psnr_wins: wins(0),
                ssim_wins: wins(1),
                psnr_gain: Measured::mean(&gains(0)),
                ssim_gain: Measured::mean(&gains(1)),
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::compare::Score;

    fn entry(method: &str, psnr: f64, ssim: f64) -> Entry {
        let score = Score { psnr, psnr_stretched: psnr, ssim, flux_ratio: 1.0 };
        // A rival may have had a better SSIM with another setting.
        let best_ssim = if method == "posterior mean" { ssim } else { ssim + 0.05 };
        Entry { method: method.into(), score, chosen: None, best_psnr: psnr, best_ssim, image: Vec::new() }
    }

    #[test]
    fn gains_are_against_the_rivals_best_in_each_number() {
        let first =
            [entry("posterior mean", 30.0, 0.9), entry("draw 1", 99.0, 1.0), entry("Richardson-Lucy", 28.0, 0.88)];
        let second =
            [entry("posterior mean", 29.0, 0.9), entry("Wiener", 20.0, 0.5), entry("Richardson-Lucy", 30.0, 0.8)];
        let rows = rows(&[(50.0, &first), (99.0, &second), (500.0, &second)]);
        let lucy = &rows[0];
        assert_eq!((lucy.rival, lucy.low, lucy.high, lucy.objects), ("Richardson-Lucy", 30.0, Some(100.0), 2));
        assert_eq!((lucy.psnr_wins, lucy.ssim_wins), (1, 1));
        assert!((lucy.psnr_gain.value - 0.5).abs() < 1e-9 && (lucy.ssim_gain.value - 0.01).abs() < 1e-9, "{lucy:?}");
        // An object without a rival is left out of its rows.
        assert!(rows.len() == 4 && rows[2].rival == "Wiener" && rows[2].objects == 1);
    }
}
