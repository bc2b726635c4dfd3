//! The schema of the product files: every dataset's name, shape, type, units and meaning. The writer takes the shapes
//! and the attributes from here, the reader checks against it, and the README's table is printed from it.

use crate::io::hdf5::Kind;

/// What the format is called in a file's `format` attribute.
pub const FORMAT: &str = "unseeing products";
/// Raised when a dataset changes its meaning; new datasets alone do not raise it.
pub const FORMAT_VERSION: u64 = 4;

/// An axis of a dataset. All but the first axis of a dataset are of these; the first is the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Bands, in the order of the file's `bands` attribute.
    Band,
    /// Rows or columns of the product images.
    Pixel,
    /// Rows of the observation, padded to the largest of the file.
    ObservedY,
    /// Columns of the observation, padded to the largest of the file.
    ObservedX,
    /// Posterior samples.
    Sample,
    /// Draws that are kept as images.
    Draw,
    /// Amplitudes: 1, or one for each band.
    Amplitude,
    /// The two coordinates of a WCS.
    Coordinate,
    /// Colours: one less than the bands.
    Colour,
    /// Rings about the centre of the product images, two pixels wide.
    Ring,
    /// Bins of equal width in spatial frequency, from 0 to 1/2 cycle per pixel.
    Frequency,
}

impl Axis {
    /// The axis in the words of the README and of the `axes` attribute.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Band => "band",
            Axis::Pixel => "pixel",
            Axis::ObservedY => "observed_y",
            Axis::ObservedX => "observed_x",
            Axis::Sample => "sample",
            Axis::Draw => "draw",
            Axis::Amplitude => "amplitude",
            Axis::Coordinate => "coordinate",
            Axis::Colour => "colour",
            Axis::Ring => "ring",
            Axis::Frequency => "frequency",
        }
    }
}

/// Where a dataset's values come from, and so where in the file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A field of the record itself.
    Field,
    /// The record's scalars: `name`, or `name_0`, `name_1`, ... when there are axes.
    Scalar,
    /// An array of the record.
    Array,
    /// The record's per-sample quantities: `name`, or `name_0`, `name_1`, ... when there are axes beyond the sample.
    Sample,
}

/// To what step values are rounded before they are stored; bits below carry no information and do not compress.
/// The step is the power of two at or below the quantity named here, so the error is at most half of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Stored as computed.
    Exact,
    /// 1/64 of the posterior standard deviation of the same pixel (`variance`).
    PosteriorSd,
    /// 1/64 of the noise of the same pixel (`observation_variance`).
    NoiseSd,
    /// 1/64 of the value itself.
    Relative,
    /// 1/64 (for quantities in standard deviations).
    Absolute,
}

impl Rounding {
    /// The rule in words, for the `rounding` attribute.
    pub fn words(self) -> &'static str {
        match self {
            Rounding::Exact => "none",
            Rounding::PosteriorSd => "posterior sd / 64",
            Rounding::NoiseSd => "noise sd / 64",
            Rounding::Relative => "value / 64",
            Rounding::Absolute => "1 / 64",
        }
    }
}

/// One dataset of a product file.
#[derive(Clone, Copy, Debug)]
pub struct Dataset {
    pub name: &'static str,
    pub source: Source,
    pub kind: Kind,
    /// Axes after the object.
    pub axes: &'static [Axis],
    pub units: &'static str,
    pub meaning: &'static str,
    pub rounding: Rounding,
}

impl Dataset {
    /// The dataset's path in the file.
    pub fn path(&self) -> String {
        match self.source {
            Source::Sample => format!("samples/{}", self.name),
            _ => self.name.to_string(),
        }
    }

    /// The axes in words, the object's first.
    pub fn axes_in_words(&self) -> String {
        std::iter::once("object").chain(self.axes.iter().map(|axis| axis.name())).collect::<Vec<_>>().join(", ")
    }
}

const fn field(name: &'static str, kind: Kind, meaning: &'static str) -> Dataset {
    Dataset { name, source: Source::Field, kind, axes: &[], units: "", meaning, rounding: Rounding::Exact }
}

const fn scalar(name: &'static str, axes: &'static [Axis], units: &'static str, meaning: &'static str) -> Dataset {
    Dataset { name, source: Source::Scalar, kind: Kind::F64, axes, units, meaning, rounding: Rounding::Exact }
}

const fn image(
    name: &'static str,
    axes: &'static [Axis],
    rounding: Rounding,
    units: &'static str,
    meaning: &'static str,
) -> Dataset {
    Dataset { name, source: Source::Array, kind: Kind::F32, axes, units, meaning, rounding }
}

const fn sample(name: &'static str, axes: &'static [Axis], units: &'static str, meaning: &'static str) -> Dataset {
    Dataset { name, source: Source::Sample, kind: Kind::F32, axes, units, meaning, rounding: Rounding::Exact }
}

const NONE: &[Axis] = &[];
const BAND: &[Axis] = &[Axis::Band];
const AMPLITUDE: &[Axis] = &[Axis::Amplitude];
const PAIR: &[Axis] = &[Axis::Coordinate];
const MATRIX: &[Axis] = &[Axis::Coordinate, Axis::Coordinate];
const PRODUCT: &[Axis] = &[Axis::Band, Axis::Pixel, Axis::Pixel];
const OBSERVED: &[Axis] = &[Axis::Band, Axis::ObservedY, Axis::ObservedX];
const SAMPLE: &[Axis] = &[Axis::Sample];
const SAMPLE_BAND: &[Axis] = &[Axis::Sample, Axis::Band];

/// Every dataset that is stacked over objects, in the order in which files hold them.
pub const DATASETS: &[Dataset] = &[
    field("id", Kind::Text, "the object's name in the catalogue"),
    field("status", Kind::Text, "`done`, or `failed`: then what could not be computed is NaN"),
    field("reason", Kind::Text, "why it failed; empty when done"),
    field("flags", Kind::U32, "bits of trouble that does not prevent a result; see `flag_masks` and `flag_names`"),
    scalar("ra", NONE, "deg", "right ascension in the catalogue, ICRS"),
    scalar("dec", NONE, "deg", "declination in the catalogue, ICRS"),
    scalar("redshift", NONE, "", "redshift in the catalogue; it fixes the scale of the product images"),
    scalar("redshift_error", NONE, "", "standard deviation of the redshift, if the catalogue has one"),
    scalar("sample_count", NONE, "", "posterior samples that went into the moments"),
    scalar(
        "effective_draws",
        NONE,
        "",
        "how many independent ones the samples are worth at least, where `sampler.method` is `perturb-map-smc`",
    ),
    scalar(
        "solve_residual",
        NONE,
        "",
        "what the worst linear solve of any draw was left with, over what ends a solve (`sampler.cg_tolerance`): above 1, `sampler.cg_iterations` ended it; NaN for methods that do not tell",
    ),
    scalar("pixel_scale", NONE, "arcsec", "pitch of the product images"),
    scalar("observation_pixel_scale", NONE, "arcsec", "pitch of the observation"),
    scalar("observation_shape", PAIR, "pixel", "rows and columns of the observation before padding"),
    scalar("wcs_crval", PAIR, "deg", "right ascension and declination of the reference point, product images (TAN)"),
    scalar("wcs_crpix", PAIR, "pixel", "column and row of the reference point, product images, counted from 1"),
    scalar("wcs_cd", MATRIX, "deg / pixel", "CD matrix of the product images"),
    scalar("observation_wcs_crval", PAIR, "deg", "the same for the observation (TAN)"),
    scalar("observation_wcs_crpix", PAIR, "pixel", "the same for the observation, counted from 1"),
    scalar("observation_wcs_cd", MATRIX, "deg / pixel", "the same for the observation"),
    scalar("psf_fwhm", BAND, "arcsec", "full width at half maximum of the point-spread function"),
    scalar("noise_sd", BAND, "nJy / pixel", "standard deviation of the sky noise in one detector pixel"),
    scalar("good_pixels", NONE, "pixel", "pixels of the observation that count, all bands"),
    scalar("amplitude", AMPLITUDE, "nJy", "posterior mean of the amplitude (the flux scale of the prior's images)"),
    scalar("amplitude_sd", AMPLITUDE, "nJy", "posterior standard deviation of the amplitude"),
    scalar("sky", BAND, "nJy / pixel", "posterior mean of the sky level that the calibration left behind"),
    scalar("sky_sd", BAND, "nJy / pixel", "posterior standard deviation of that sky level"),
    scalar("reduced_chi2", NONE, "", "mean of residual^2 / variance of the posterior mean, over the pixels that count"),
    scalar("reduced_chi2_galaxy", NONE, "", "the same over the pixels where the galaxy outshines the sky noise"),
    scalar("reduced_chi2_draws", NONE, "", "mean over draws of the reduced chi^2 of each draw"),
    scalar(
        "variance_ratio_paper",
        NONE,
        "",
        "posterior / prior variance as in Spagnoletti et al. 2024: stretched space, mean of bands, r <= 30 pixels",
    ),
    scalar("variance_ratio_linear", BAND, "", "the same in linear flux at the mean amplitude, band by band"),
    scalar(
        "variance_ratio_profile",
        &[Axis::Band, Axis::Ring],
        "",
        "the same in rings about the image's centre, 2 pixels wide, from the middle outwards; 1 where the prior decides",
    ),
    scalar(
        "predictive_p",
        NONE,
        "",
        "posterior-predictive p: how often fresh noise would exceed the draws' mean chi^2; away from the field's edge",
    ),
    scalar(
        "predictive_p_galaxy",
        NONE,
        "",
        "the same where the galaxy outshines the sky noise, at the mean chi^2 of draws",
    ),
    scalar(
        "residual_power",
        &[Axis::Band, Axis::Frequency],
        "",
        "power of the residuals over that of the noise, in 8 equal bins from 0 to 1/2 cycle per pixel; 1 or a little less",
    ),
    scalar(
        "residual_peak",
        BAND,
        "",
        "most significant place of the residuals at the scale of the seeing, in standard deviations; negative: the model is too bright",
    ),
    scalar(
        "prior_tail",
        NONE,
        "",
        "part of the interim prior's draws that are at least as unusual in colours, size and structure; small: unlike the prior",
    ),
    scalar("kron_flux", BAND, "nJy", "flux of the observation in a Kron aperture, at least kron_flux_error"),
    scalar("kron_flux_error", BAND, "nJy", "standard deviation of that flux"),
    scalar(
        "aperture_flux",
        BAND,
        "nJy",
        "flux of the observation within 1.5 arcsec of the target, without masked pixels and the field's edge",
    ),
    scalar("aperture_flux_error", BAND, "nJy", "standard deviation of that flux from the sky noise"),
    scalar("aperture_flux_model", BAND, "nJy", "flux of the predicted observation on the same pixels"),
    scalar(
        "matched_flux",
        BAND,
        "nJy",
        "aperture_flux with each band brought to the broadest of the bands' PSFs (by a Gaussian): for the input's colours",
    ),
    scalar("matched_flux_error", BAND, "nJy", "standard deviation of that flux from the sky noise"),
    scalar("matched_flux_model", BAND, "nJy", "the same of the predicted observation"),
    scalar(
        "cmodel_flux",
        BAND,
        "nJy",
        "cModel flux of the observation: an exponential and a de Vaucouleurs profile through the PSF; NaN where no fit converges",
    ),
    scalar("cmodel_flux_error", BAND, "nJy", "standard deviation of that flux from the noise, with the shapes free"),
    scalar("cmodel_flux_model", BAND, "nJy", "the same measurement of the predicted observation"),
    image("mean", PRODUCT, Rounding::PosteriorSd, "nJy / pixel", "posterior mean of the sharp, noise-free galaxy"),
    image("variance", PRODUCT, Rounding::Relative, "(nJy / pixel)^2", "posterior variance of the same"),
    image(
        "variance_ratio",
        PRODUCT,
        Rounding::Relative,
        "",
        "posterior / prior variance in linear flux at the object's mean amplitude; near 0 where the data decide",
    ),
    image("observation", OBSERVED, Rounding::NoiseSd, "nJy / pixel", "what was observed; NaN in the padding"),
    image(
        "observation_variance",
        OBSERVED,
        Rounding::Relative,
        "(nJy / pixel)^2",
        "variance of the observation under the noise model at the posterior mean; NaN in the padding",
    ),
    Dataset {
        name: "mask",
        source: Source::Array,
        kind: Kind::U8,
        axes: OBSERVED,
        units: "",
        meaning: "1 where a pixel counts, 0 where it is masked or padding",
        rounding: Rounding::Exact,
    },
    image("model", OBSERVED, Rounding::NoiseSd, "nJy / pixel", "posterior mean of the predicted observation"),
    image("residual", OBSERVED, Rounding::Absolute, "", "(observation - model) / noise sd; NaN where masked"),
    image(
        "draws",
        &[Axis::Draw, Axis::Band, Axis::Pixel, Axis::Pixel],
        Rounding::PosteriorSd,
        "nJy / pixel",
        "the first posterior samples as images, as many as the config keeps",
    ),
    sample("reduced_chi2", SAMPLE, "", "reduced chi^2 of each draw"),
    sample("amplitude", &[Axis::Sample, Axis::Amplitude], "nJy", "amplitude of each draw"),
    sample("sky", SAMPLE_BAND, "nJy / pixel", "sky level of each draw"),
    sample(
        "redshift",
        SAMPLE,
        "",
        "redshift of each draw: the catalogue's, or where photo_z is propagated a draw from its error or quantiles",
    ),
    sample("flux", SAMPLE_BAND, "nJy", "flux within the field"),
    sample("magnitude", SAMPLE_BAND, "mag", "AB magnitude of that flux"),
    sample("colour", &[Axis::Sample, Axis::Colour], "mag", "AB colour: each band minus the next"),
    sample("flux_3kpc", SAMPLE_BAND, "nJy", "flux within 3 kpc of the reference band's centre; NaN beyond the field"),
    sample("flux_10kpc", SAMPLE_BAND, "nJy", "the same within 10 kpc"),
    sample("flux_20kpc", SAMPLE_BAND, "nJy", "the same within 20 kpc"),
    sample("r20", SAMPLE, "kpc", "radius that holds 20 % of the reference band's flux within 1.5 Petrosian radii"),
    sample("r50", SAMPLE, "kpc", "half-light radius: the same with 50 %"),
    sample("r80", SAMPLE, "kpc", "the same with 80 %"),
    sample("concentration", SAMPLE, "", "5 log10(r80 / r20)"),
    sample("asymmetry", SAMPLE, "", "rotational asymmetry within 1.5 Petrosian radii, at its least over centres"),
    sample("gini", SAMPLE, "", "Gini coefficient of the pixels above the brightness at the Petrosian half-axis"),
    sample("m20", SAMPLE, "", "second moment of the brightest 20 % of the flux, log10, relative to the total"),
    sample("e1", SAMPLE, "", "ellipticity along the columns, from adaptive moments; not for lensing"),
    sample("e2", SAMPLE, "", "ellipticity along the diagonal, from adaptive moments; not for lensing"),
    sample("position_angle", SAMPLE, "deg", "major axis, from the columns (+x) towards the rows (+y), -90 to 90"),
    sample("colour_gradient", SAMPLE, "mag", "colour (first - last band) outside r50 minus the colour inside it"),
];

/// The dataset of this source and name.
pub fn find(source: Source, name: &str) -> Option<&'static Dataset> {
    DATASETS.iter().find(|dataset| dataset.source == source && dataset.name == name)
}

/// Per-draw quantities of the interim prior are in this group, for whoever reweights populations.
pub const PRIOR_GROUP: &str = "prior";
pub const PRIOR_MEANING: &str =
    "the same quantity for draws of the interim prior, at amplitude 1 in flux, to reweight populations";

/// The schema as a table in Markdown.
pub fn markdown() -> String {
    let mut text =
        String::from("| dataset | axes | type | units | rounded to | meaning |\n|---|---|---|---|---|---|\n");
    for dataset in DATASETS {
        text += &format!(
            "| `{}` | {} | {} | {} | {} | {} |\n",
            dataset.path(),
            dataset.axes_in_words(),
            dataset.kind.name(),
            dataset.units,
            if dataset.rounding == Rounding::Exact { "" } else { dataset.rounding.words() },
            dataset.meaning.replace('|', "\\|")
        );
    }
    text += &format!("| `{PRIOR_GROUP}/*` | draw | float32 | | | {PRIOR_MEANING} |\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_described() {
        let mut paths: Vec<_> = DATASETS.iter().map(Dataset::path).collect();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), DATASETS.len());
        assert!(DATASETS.iter().all(|dataset| !dataset.meaning.is_empty()));
        assert!(markdown().contains("| `samples/r50` | object, sample | float32 | kpc |"));
    }
}
