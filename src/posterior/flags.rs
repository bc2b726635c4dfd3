//! Flags: trouble that does not prevent a result, but that whoever uses the result must know. One bit each.

/// One bit of an object's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Flag {
    UpsamplingBeyond3 = 1 << 0,
    NeighboursMasked = 1 << 1,
    EdgeDownWeighted = 1 << 2,
    HighChi2 = 1 << 3,
    RedshiftOutsidePrior = 1 << 4,
    AmplitudeAtEdge = 1 << 5,
    FewGoodPixels = 1 << 6,
    BadPixels = 1 << 7,
    SkyAtEdge = 1 << 8,
    CutoutIncomplete = 1 << 9,
    FewSamples = 1 << 10,
    NonFiniteDraws = 1 << 11,
    LostDraws = 1 << 12,
    PoorPrediction = 1 << 13,
    UnlikePrior = 1 << 14,
    ApertureMismatch = 1 << 15,
    ResidualStructure = 1 << 16,
    NotDetected = 1 << 17,
    CmodelMismatch = 1 << 18,
    ResidualPeak = 1 << 19,
    UnfinishedSolves = 1 << 20,
}

/// Which of some draws of an object, given by their reduced chi^2, are no fit to its data although others are: their chi^2 is
/// more than `times` that of the median draw. Those of a posterior differ by less than 2. What is not finite is not lost.
pub fn lost(reduced_chi2: &[f32], times: f64) -> Vec<bool> {
    let mut sorted: Vec<f32> = reduced_chi2.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f32::total_cmp);
    let Some(median) = sorted.get(sorted.len() / 2) else { return vec![false; reduced_chi2.len()] };
    let limit = times * f64::from(*median);
    reduced_chi2.iter().map(|&value| value.is_finite() && f64::from(value) > limit).collect()
}

impl Flag {
    /// All flags, from the lowest bit. The values are part of the file format: never reorder, only append.
    pub const ALL: [Flag; 21] = [
        Flag::UpsamplingBeyond3,
        Flag::NeighboursMasked,
        Flag::EdgeDownWeighted,
        Flag::HighChi2,
        Flag::RedshiftOutsidePrior,
        Flag::AmplitudeAtEdge,
        Flag::FewGoodPixels,
        Flag::BadPixels,
        Flag::SkyAtEdge,
        Flag::CutoutIncomplete,
        Flag::FewSamples,
        Flag::NonFiniteDraws,
        Flag::LostDraws,
        Flag::PoorPrediction,
        Flag::UnlikePrior,
        Flag::ApertureMismatch,
        Flag::ResidualStructure,
        Flag::NotDetected,
        Flag::CmodelMismatch,
        Flag::ResidualPeak,
        Flag::UnfinishedSolves,
    ];

    /// The bit.
    pub fn bit(self) -> u32 {
        self as u32
    }

    /// The name, as in the files' attributes.
    pub fn name(self) -> &'static str {
        match self {
            Flag::UpsamplingBeyond3 => "upsampling_beyond_3",
            Flag::NeighboursMasked => "neighbours_masked",
            Flag::EdgeDownWeighted => "edge_down_weighted",
            Flag::HighChi2 => "high_chi2",
            Flag::RedshiftOutsidePrior => "redshift_outside_prior",
            Flag::AmplitudeAtEdge => "amplitude_at_edge",
            Flag::FewGoodPixels => "few_good_pixels",
            Flag::BadPixels => "bad_pixels",
            Flag::SkyAtEdge => "sky_at_edge",
            Flag::CutoutIncomplete => "cutout_incomplete",
            Flag::FewSamples => "few_samples",
            Flag::NonFiniteDraws => "non_finite_draws",
            Flag::LostDraws => "lost_draws",
            Flag::PoorPrediction => "poor_prediction",
            Flag::UnlikePrior => "unlike_prior",
            Flag::ApertureMismatch => "aperture_mismatch",
            Flag::ResidualStructure => "residual_structure",
            Flag::NotDetected => "not_detected",
            Flag::CmodelMismatch => "cmodel_mismatch",
            Flag::ResidualPeak => "residual_peak",
            Flag::UnfinishedSolves => "unfinished_solves",
        }
    }

    /// What it means. Thresholds are keys of the config's section `flags`, with their defaults in parentheses.
    pub fn meaning(self) -> &'static str {
        match self {
            Flag::UpsamplingBeyond3 => {
                "a detector pixel is more than `upsampling` (3) prior pixels wide: more upsampling than data"
            }
            Flag::NeighboursMasked => "pixels of neighbours are masked: the posterior fills them from the prior",
            Flag::EdgeDownWeighted => "edge pixels have less weight, for they receive light from outside the field",
            Flag::HighChi2 => {
                "reduced_chi2 or reduced_chi2_galaxy is above `high_chi2` (1.5): the model does not describe the data"
            }
            Flag::RedshiftOutsidePrior => {
                "the redshift, or that of a draw, is outside the range that the prior is meant for"
            }
            Flag::AmplitudeAtEdge => {
                "the amplitude is more than `at_edge` (3) standard deviations from its prior's mean"
            }
            Flag::FewGoodPixels => "less than `good_pixels` (0.5) of the pixels are usable",
            Flag::BadPixels => "saturated, flagged or missing pixels are masked",
            Flag::SkyAtEdge => "a sky level is more than `at_edge` (3) standard deviations from zero",
            Flag::CutoutIncomplete => "the image does not cover the prior's field: missing pixels are masked",
            Flag::FewSamples => {
                "fewer samples than planned, or draws that are worth fewer than half of them (`effective_draws`)"
            }
            Flag::NonFiniteDraws => "some draws were not finite and are left out",
            Flag::LostDraws => {
                "draws whose reduced chi^2 is above `lost_draws` (10) times the median of their block are no fit, and left out"
            }
            Flag::PoorPrediction => {
                "predictive_p_galaxy is below `predictive_p` (0.001): noise does not explain the residuals in the galaxy"
            }
            Flag::UnlikePrior => {
                "prior_tail is below `unlike_prior` (0.005): the prior hardly knows such galaxies, do not trust the result"
            }
            Flag::ApertureMismatch => {
                "aperture_flux or matched_flux and its model differ by more than `aperture` (5) standard deviations and 2 %"
            }
            Flag::ResidualStructure => {
                "residual_power at the largest scales is above `residual_power` (3): there is light that the model lacks"
            }
            Flag::NotDetected => {
                "kron_flux is below `detection` (3) standard deviations in every band: the result is mostly the prior"
            }
            Flag::CmodelMismatch => {
                "cmodel_flux and its model differ by more than `cmodel` (5) standard deviations and 2 %"
            }
            Flag::ResidualPeak => {
                "residual_peak is beyond `residual_peak` (5) in a band: a companion or knot that the draws lack, or have too much of"
            }
            Flag::UnfinishedSolves => {
                "solve_residual is above `solve_residual` (10): raise `sampler.cg_iterations`, or do not rely on the draws' errors"
            }
        }
    }

    /// The flags that are set in `bits`.
    pub fn set_in(bits: u32) -> impl Iterator<Item = Flag> {
        Flag::ALL.into_iter().filter(move |flag| bits & flag.bit() != 0)
    }

    /// The names of the flags that are set in `bits`, separated by commas.
    pub fn names(bits: u32) -> String {
        Flag::set_in(bits).map(Flag::name).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_that_is_no_fit_is_noticed() {
        let any = |values: &[f32]| lost(values, 10.0).contains(&true);
        assert!(!any(&[0.9, 1.0, 1.1, 9.0]) && !any(&[]) && !any(&[f32::NAN]) && !any(&[0.9, 99.0]));
        // As found in a bright galaxy whose light one draw had put into a single pixel.
        assert_eq!(lost(&[0.98, 61.5, f32::NAN, 1.0, 1.03], 10.0), [false, true, false, false, false]);
    }

    #[test]
    fn every_flag_has_its_own_bit_in_order() {
        for (index, flag) in Flag::ALL.into_iter().enumerate() {
            assert_eq!(flag.bit(), 1 << index, "{}", flag.name());
        }
        assert_eq!(Flag::names(Flag::HighChi2.bit() | Flag::NeighboursMasked.bit()), "neighbours_masked,high_chi2");
    }
}
