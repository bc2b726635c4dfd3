//! Recovery: how well the products of a simulated survey give back its truths. Bias and pull of fluxes, size, shape and
//! colours, in bins of what was *observed* (flux S/N, size over PSF), never of the truth: bins of truths would be biased by
//! the selection alone.
//!
//! A pull is (posterior mean - truth) / posterior standard deviation, both of n draws. Of a Gaussian posterior that is right, the
//! draws' mean is off by a further 1/n of the variance, and their standard deviation is not the posterior's, so that this
//! quotient over (1 + 1/n)^(1/2) is Student's t with n - 1 degrees of freedom: its standard deviation is 1.21 for 8 draws and
//! 1.11 for 16, not 1. Pulls are therefore divided by what it is for their own n, which is infinite below 4 draws: those have none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::evaluate::calibration::probability::var_z_expected;
use crate::posterior::morphology::morphology;
use crate::product::statistics::summary;
use crate::product::{ObjectRecord, RecordArray, ShardMeta, Status};

/// Lower edges of the bins of observed S/N (Kron flux over its error, reference band).
pub const SIGNAL_BINS: [f64; 5] = [0.0, 20.0, 50.0, 100.0, 200.0];
/// Lower edges of the bins of the posterior's half-light radius over the PSF's (half its FWHM).
pub const SIZE_BINS: [f64; 4] = [0.0, 1.0, 2.0, 4.0];

/// With fewer objects a bin has no row.
const FEWEST_OBJECTS: usize = 3;

/// With fewer draws the variance of a pull is infinite.
const FEWEST_DRAWS: u32 = 4;

/// What is compared for an object.
#[derive(Clone, Debug, Serialize)]
pub struct Object {
    pub id: String,
    pub flags: u32,
    /// Observed S/N in the reference band, and size over PSF.
    pub signal_to_noise: f64,
    pub size_over_psf: f64,
    pub quantities: BTreeMap<String, Compared>,
}

/// A quantity of one object: its truth, and mean and standard deviation of the posterior's draws that have it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Compared {
    pub truth: f64,
    pub mean: f64,
    pub sd: f64,
    pub draws: u32,
}

impl Compared {
    /// Between a truth and the draws.
    pub fn of(truth: f64, draws: &[f32]) -> Compared {
        let posterior = summary(draws);
        let draws = draws.iter().filter(|value| value.is_finite()).count() as u32;
        Compared { truth, mean: posterior.mean, sd: posterior.sd, draws }
    }

    /// The pull, of unit variance where the posterior is a Gaussian and right; `None` where so few draws have none.
    pub fn pull(&self) -> Option<f64> {
        let known = self.draws >= FEWEST_DRAWS && self.sd > 0.0;
        let pull = (self.mean - self.truth) / self.sd / var_z_expected(self.draws).sqrt();
        Some(pull).filter(|pull| known && pull.is_finite())
    }

    /// Whether the truth is within one standard deviation of the draws, and how often it is when the posterior is a Gaussian and
    /// right: 0.68 for many draws.
    fn within(&self) -> [f64; 2] {
        let (draws, inside) = (f64::from(self.draws), (self.mean - self.truth).abs() < self.sd);
        [f64::from(u8::from(inside)), student_within((1.0 + 1.0 / draws).powf(-0.5), draws - 1.0)]
    }

    /// Excess kurtosis of a right pull, by which the standard deviation of some pulls is known less well than that of normal
    /// numbers. Infinite below 6 draws.
    fn kurtosis(&self) -> f64 {
        if self.draws > 5 { 6.0 / (f64::from(self.draws) - 5.0) } else { f64::INFINITY }
    }
}

/// P(|t| < x) for Student's t: with t = freedom^(1/2) tan(phi) its density is that of cos(phi)^(freedom - 1), by the midpoint rule.
pub fn student_within(x: f64, freedom: f64) -> f64 {
    const STEPS: usize = 1000;
    // With more it is normal, and its peak narrower than a step.
    let freedom = freedom.min(1e4);
    let integral = |end: f64| {
        let step = end / STEPS as f64;
        (0..STEPS).map(|index| ((index as f64 + 0.5) * step).cos().powf(freedom - 1.0) * step).sum::<f64>()
    };
    integral((x / freedom.sqrt()).atan()) / integral(std::f64::consts::FRAC_PI_2)
}

impl Object {
    /// Compares a record with its truth (`[C, n, n]`, nJy per pixel of the product's grid). `None` for failed objects.
    ///
    /// Errors: a truth of another shape than the product's.
    pub fn of(record: &ObjectRecord, truth: &RecordArray, meta: &ShardMeta) -> Result<Option<Object>> {
        if record.status != Status::Done {
            return Ok(None);
        }
        let bands = meta.bands.len();
        let pitch = meta.pixel_kpc * meta.size as f64 / truth.shape.last().copied().unwrap_or(1).max(1) as f64;
        let known = morphology(&truth.values, bands, pitch, meta.reference)?;
        let mut quantities = BTreeMap::new();
        for (name, truth) in known {
            let compared = Compared::of(f64::from(truth), record.sample(&name).unwrap_or_default());
            quantities.insert(name, compared);
        }
        let vector = |name: &str| record.vector(name).get(meta.reference).copied().unwrap_or(f64::NAN);
        let arcsec = record.scalar("pixel_scale").unwrap_or(f64::NAN) / meta.pixel_kpc;
        let r50 = quantities.get("r50").map_or(f64::NAN, |values| values.mean);
        Ok(Some(Object {
            id: record.id.clone(),
            flags: record.flags,
            signal_to_noise: vector("kron_flux") / vector("kron_flux_error"),
            size_over_psf: r50 * arcsec / (0.5 * vector("psf_fwhm")),
            quantities,
        }))
    }
}

/// A number with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub value: f64,
    pub error: f64,
}

impl Measured {
    /// The mean; its error is that of independent values, and none for a single one.
    pub fn mean(values: &[f64]) -> Measured {
        let count = values.len() as f64;
        let (mean, sd) = mean_sd(values);
        Measured { value: mean, error: sd / count.sqrt() }
    }

    /// The standard deviation; its error is that of values of this excess kurtosis (0: normal ones).
    fn sd(values: &[f64], kurtosis: f64) -> Measured {
        let ((_, sd), count) = (mean_sd(values), values.len() as f64);
        Measured { value: sd, error: 0.5 * sd * (2.0 / (count - 1.0) + kurtosis / count).sqrt() }
    }
}

fn mean_sd(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, variance.sqrt())
}

/// One quantity in one bin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub quantity: String,
    /// What is binned, and the bin's edges (no upper one for the last).
    pub binned_by: String,
    pub low: f64,
    pub high: Option<f64>,
    pub objects: usize,
    /// Mean of (posterior mean - truth), over the truth for fluxes and radii.
    pub bias: Measured,
    /// Mean and standard deviation of the pulls, for their numbers of draws: 0 and 1 when the posterior is right.
    pub pull: Measured,
    pub pull_sd: Measured,
    /// Truths within one standard deviation of the draws' mean, and what that is expected to be for so many draws.
    pub within_1_sd: f64,
    pub within_1_sd_expected: f64,
}

/// Quantities whose bias is relative.
pub fn relative(name: &str) -> bool {
    name.starts_with("flux") || ["r20", "r50", "r80"].contains(&name)
}

/// What objects are binned by: its name, the bins' lower edges, and its value.
type Binning = (&'static str, &'static [f64], fn(&Object) -> f64);

const BINNINGS: [Binning; 2] = [
    ("observed S/N", &SIGNAL_BINS, |object| object.signal_to_noise),
    ("size / PSF", &SIZE_BINS, |object| object.size_over_psf),
];

/// The bin of a value among those with these lower edges; `None` below the first, and for NaN.
fn bin(value: f64, edges: &[f64]) -> Option<usize> {
    edges.iter().rposition(|&low| value >= low)
}

/// Objects that no row can be made of, by what they are binned by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unbinned {
    pub binned_by: &'static str,
    /// In bins of fewer than three objects.
    pub too_few: usize,
    /// Without the number that they would be binned by (not detected, say), or with one below all bins.
    pub no_bin: usize,
}

/// How many of the objects without `flagged` are in no row.
pub fn unbinned(objects: &[Object], flagged: u32) -> Vec<Unbinned> {
    let count = |(binned_by, edges, value): Binning| {
        let mut counts = vec![0usize; edges.len()];
        let mut no_bin = 0;
        for object in objects.iter().filter(|object| object.flags & flagged == 0) {
            match bin(value(object), edges) {
                Some(index) => counts[index] += 1,
                None => no_bin += 1,
            }
        }
        Unbinned { binned_by, too_few: counts.into_iter().filter(|&count| count < FEWEST_OBJECTS).sum(), no_bin }
    };
    BINNINGS.map(count).to_vec()
}

/// Rows for every quantity that was compared, by observed S/N and by size over PSF; bins with fewer than three objects are
/// left out (`unbinned` counts them). `flagged` are flags whose objects are left out.
pub fn rows(objects: &[Object], flagged: u32) -> Vec<Row> {
    let kept: Vec<&Object> = objects.iter().filter(|object| object.flags & flagged == 0).collect();
    let mut rows = Vec::new();
    let names: Vec<&String> = kept.first().map_or(Vec::new(), |object| object.quantities.keys().collect());
    for (binned_by, edges, value) in BINNINGS {
        for name in &names {
            for (index, &low) in edges.iter().enumerate() {
                let high = edges.get(index + 1).copied();
                let found: Vec<(Compared, f64)> = kept
                    .iter()
                    .filter(|object| bin(value(object), edges) == Some(index))
                    .filter_map(|object| object.quantities.get(*name))
                    .filter_map(|compared| Some((*compared, compared.pull()?)))
                    // Nothing is relative to nothing: blank sky has a summary of its own.
                    .filter(|(compared, _)| !relative(name) || compared.truth > 0.0)
                    .collect();
                if found.len() < FEWEST_OBJECTS {
                    continue;
                }
                let of =
                    |value: &dyn Fn(&Compared) -> f64| found.iter().map(|(own, _)| value(own)).collect::<Vec<f64>>();
                let bias = |own: &Compared| (own.mean - own.truth) / if relative(name) { own.truth } else { 1.0 };
                let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
                let pulls: Vec<f64> = found.iter().map(|(_, pull)| *pull).collect();
                rows.push(Row {
                    quantity: name.to_string(),
                    binned_by: binned_by.into(),
                    low,
                    high,
                    objects: found.len(),
                    bias: Measured::mean(&of(&bias)),
                    pull: Measured::mean(&pulls),
                    pull_sd: Measured::sd(&pulls, mean(of(&Compared::kurtosis))),
                    within_1_sd: mean(of(&|own| own.within()[0])),
                    within_1_sd_expected: mean(of(&|own| own.within()[1])),
                });
            }
        }
    }
    rows
}

/// Response of an ellipticity to shear: mean of (e(+g) - e(-g)) / 2g over the objects of both surveys, for the posterior
/// mean and for the truth.
#[derive(Clone, Debug, Serialize)]
pub struct Response {
    pub component: &'static str,
    pub shear: f64,
    pub objects: usize,
    pub posterior: Measured,
    pub truth: Measured,
    /// Mean of the differences of both.
    pub difference: Measured,
}

/// The response of two surveys of the same galaxies under opposite shears; a component without shear is left out.
pub fn responses(plus: &[Object], minus: &[Object], shear: [f64; 2]) -> Vec<Response> {
    let others: BTreeMap<&str, &Object> = minus.iter().map(|object| (object.id.as_str(), object)).collect();
    let mut out = Vec::new();
    for (component, shear) in ["e1", "e2"].into_iter().zip(shear) {
        let pairs: Vec<[f64; 2]> = plus
            .iter()
            .filter_map(|object| {
                let (own, other) =
                    (object.quantities.get(component)?, others.get(object.id.as_str())?.quantities.get(component)?);
                Some([own.mean - other.mean, own.truth - other.truth].map(|difference| difference / (2.0 * shear)))
            })
            .filter(|pair| pair.iter().all(|value| value.is_finite()))
            .collect();
        if shear == 0.0 || pairs.len() < 3 {
            continue;
        }
        let of = |value: fn(&[f64; 2]) -> f64| Measured::mean(&pairs.iter().map(value).collect::<Vec<_>>());
        let (posterior, truth, difference) = (of(|pair| pair[0]), of(|pair| pair[1]), of(|pair| pair[0] - pair[1]));
        out.push(Response { component, shear, objects: pairs.len(), posterior, truth, difference });
    }
    out
}

/// What a survey of blank sky gave: fluxes of the reference band in units of their posterior standard deviation, and of
/// the standard deviation of the Kron flux.
#[derive(Clone, Debug, Serialize)]
pub struct Blank {
    pub objects: usize,
    pub flux_over_sd: Measured,
    pub flux_over_kron_error: Measured,
    /// Part of the objects that have the flag `not_detected`.
    pub not_detected: f64,
}

/// Of the objects whose truth has no light; `None` without any.
pub fn blank(records: &[(&Object, f64)], reference: usize, not_detected: u32) -> Option<Blank> {
    let name = format!("flux_{reference}");
    let empty: Vec<(&Object, Compared, f64)> = records
        .iter()
        .filter_map(|(object, error)| Some((*object, *object.quantities.get(&name)?, *error)))
        .filter(|(_, flux, _)| flux.truth == 0.0 && flux.mean.is_finite())
        .collect();
    if empty.len() < 2 {
        return None;
    }
    let sd: Vec<f64> = empty.iter().map(|(_, flux, _)| flux.mean / flux.sd).collect();
    let kron: Vec<f64> = empty.iter().map(|(_, flux, error)| flux.mean / error).collect();
    let flagged = empty.iter().filter(|(object, _, _)| object.flags & not_detected != 0).count() as f64;
    Some(Blank {
        objects: empty.len(),
        flux_over_sd: Measured::mean(&sd),
        flux_over_kron_error: Measured::mean(&kron),
        not_detected: flagged / empty.len() as f64,
    })
}

#[cfg(test)]
mod tests;
