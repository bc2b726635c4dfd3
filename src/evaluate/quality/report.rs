//! The whole judgement of a prior: numbers, a table for people, pictures.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use tch::Tensor;

use super::embedding::Embedding;
use super::features::{Features, Inception, Morphology, encoder};
use super::memorisation::{self, Memorisation};
use super::neighbours::{self, NEIGHBOURS, Neighbours};
use super::quantities::{self, Quantity};
use super::spectrum::{self, Spectrum};
use super::{Sets, frechet};
use crate::prior::Prior;
use crate::report::{Chart, Series, scatter_picture};
use crate::{Error, Result};

/// Draws are near training images more often than this: they repeat them.
const MOST_NEAREST_IS_TRAIN: f64 = 0.6;
/// Recall and coverage of draws, at least so much of those of held-out images.
const LEAST_OF_REFERENCE: f64 = 0.9;
/// Quantities that are drawn.
const SHOWN: [&str; 7] = ["colour_0", "r50", "concentration", "asymmetry", "gini", "m20", "colour_gradient"];
/// Bins of their histograms.
const BINS: usize = 24;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub prior: String,
    pub draws: i64,
    pub heldout: i64,
    /// Whether the images are those that the card says the prior was trained on.
    pub trained_on_these: bool,
    pub spaces: Vec<Space>,
    pub memorisation: Memorisation,
    pub spectra: Vec<Spectrum>,
    pub quantities: Vec<Quantity>,
    pub verdicts: Vec<Verdict>,
    /// The map of all images, for the picture and the table; none where there are few.
    #[serde(skip)]
    pub embedding: Option<Embedding>,
}

/// What was found in one space of features.
#[derive(Clone, Debug, Serialize)]
pub struct Space {
    pub name: String,
    pub features: i64,
    pub frechet: Frechet,
    pub neighbours: Neighbours,
}

/// Squared Fréchet distances from the training images.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Frechet {
    /// Of all draws from as many training images.
    pub all_draws: f64,
    /// Of as many draws as there are held-out images, and of those: both biased alike.
    pub draws: f64,
    pub heldout: f64,
}

/// One bar.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub bar: String,
    pub value: f64,
    pub limit: f64,
    pub met: bool,
}

impl Report {
    /// Judges `sets` of `prior`; `inception` as a further space where there is one.
    pub fn of(prior: &Prior, sets: &Sets, inception: Option<&Inception>, digest: &str, seed: u64) -> Result<Report> {
        let _guard = tch::no_grad_guard();
        let some = |set: &Tensor| -> Result<Tensor> { Ok(set.f_narrow(0, 0, sets.paired())?) };
        let (draws, train) = (some(&sets.draws)?, some(&sets.train)?);
        let measured = |set: &Tensor| Morphology::of(prior, set);
        let quantities = [measured(&sets.draws)?, measured(&sets.train)?, measured(&sets.heldout)?];
        let mut spaces = Vec::new();
        let all = feature_spaces(prior, sets, inception, &quantities)?;
        // A map of what the network sees, where there is a network of the prior's.
        let embedding = all.get(1).or(all.first()).map(|features| Embedding::of(features, seed)).transpose()?.flatten();
        for features in all {
            spaces.push(Space {
                frechet: Frechet {
                    all_draws: frechet::squared(&features.draws, &features.train)?,
                    draws: frechet::squared(&some(&features.draws)?, &features.train)?,
                    heldout: frechet::squared(&features.heldout, &features.train)?,
                },
                neighbours: neighbours::compare(
                    &some(&features.draws)?,
                    &features.heldout,
                    &some(&features.train)?,
                    seed,
                )?,
                features: features.train.size()[1],
                name: features.name,
            });
        }
        let memorisation = memorisation::measure(&draws, &train, &sets.heldout, seed)?;
        let [mine, trained, held] = &quantities;
        Ok(Report {
            prior: prior.card.name.clone(),
            draws: sets.draws.size()[0],
            heldout: sets.paired(),
            trained_on_these: prior.card.training_digest == digest,
            verdicts: verdicts(&spaces, &memorisation),
            spaces,
            memorisation,
            spectra: spectrum::spectra(&sets.draws, &sets.train, &sets.heldout, &prior.card.bands)?,
            quantities: quantities::compare(mine, trained, held),
            embedding,
        })
    }

    /// The table for people.
    pub fn text(&self) -> String {
        let mut text =
            format!("{}: {} draws, as many training images, {} held out\n", self.prior, self.draws, self.heldout);
        if !self.trained_on_these {
            text += "  note: these are not the images that the card names (another digest): \"training\" images were not trained on\n";
        }
        let _ = writeln!(text, "\nsquared Frechet distance from {} training images", self.draws);
        let _ = writeln!(
            text,
            "  {:<44}{:>11}{:>11}{:>11}",
            "features",
            format!("{} draws", self.draws),
            format!("{} draws", self.heldout),
            "held out"
        );
        for Space { name, features, frechet, .. } in &self.spaces {
            let Frechet { all_draws, draws, heldout } = frechet;
            let name = format!("{name} ({features})");
            let _ = writeln!(text, "  {name:<44}{all_draws:>11.4}{draws:>11.4}{heldout:>11.4}");
        }
        for Space { name, neighbours, .. } in &self.spaces {
            let _ = writeln!(text, "\n{name}: k = {NEIGHBOURS}, {} images of each set", neighbours.images);
            let _ = writeln!(text, "  {:<12}{:>23}{:>23}{:>23}", "", "draws", "held out", "ratio");
            for row in &neighbours.rows {
                let cells = [row.draws, row.heldout, row.ratio]
                    .map(|found| format!("{:.3} ({:.3}, {:.3})", found.value, found.interval[0], found.interval[1]));
                let _ = writeln!(text, "  {:<12}{:>23}{:>23}{:>23}", row.name, cells[0], cells[1], cells[2]);
            }
        }
        let Memorisation { images, probability, median_to_train, median_to_heldout } = &self.memorisation;
        let _ = writeln!(
            text,
            "\nnearest of {images} training and {images} held-out images, turned and shifted\n  P(training) {:.3} ({:.3}, \
             {:.3}); median distance {median_to_train:.4} to training, {median_to_heldout:.4} to held-out images",
            probability.value, probability.interval[0], probability.interval[1]
        );
        let _ = writeln!(text, "\npower over that of training images, by cycles over the field: draws (held out)");
        for spectrum in &self.spectra {
            let (draws, heldout) = (spectrum.ratio(), spectrum.heldout_ratio());
            let _ = write!(text, "  {:<6}", spectrum.band);
            let octaves = std::iter::successors(Some(1usize), |wave| Some(2 * wave));
            for wave in octaves.take_while(|&wave| wave <= draws.len()) {
                let _ = write!(text, "  {wave}: {:.2} ({:.2})", draws[wave - 1], heldout[wave - 1]);
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "\n{:<18}{:>20}{:>20}{:>20}{:>16}{:>16}",
            "quantity", "draws", "training", "held out", "KS draws (p)", "KS held (p)"
        );
        for quantity in &self.quantities {
            let pair = |[mean, sd]: [f64; 2]| format!("{mean:.3} +- {sd:.3}");
            let test = |distance: f64, p: f64| format!("{distance:.2} ({p:.0e})");
            let _ = writeln!(
                text,
                "{:<18}{:>20}{:>20}{:>20}{:>16}{:>16}",
                quantity.name,
                pair(quantity.draws),
                pair(quantity.train),
                pair(quantity.heldout),
                test(quantity.draws_distance, quantity.draws_p),
                test(quantity.heldout_distance, quantity.heldout_p)
            );
        }
        text.push('\n');
        for Verdict { bar, value, limit, met } in &self.verdicts {
            let _ = writeln!(text, "{}  {bar}: {value:.3} (limit {limit})", if *met { "met   " } else { "MISSED" });
        }
        text
    }

    /// Writes the pictures: the map, the power spectrum of each band, and distributions of quantities.
    pub fn draw(&self, folder: &Path) -> Result<()> {
        if let Some(embedding) = &self.embedding {
            scatter_picture(&embedding.sets()).save(&folder.join("umap.png"))?;
        }
        let line = |name: &str, points: Vec<(f64, f64)>| Series { name: name.into(), points };
        for spectrum in &self.spectra {
            let mut chart = Chart::new(&format!("power spectrum, {}", spectrum.band), "cycles over the field", "power");
            (chart.log_x, chart.log_y) = (true, true);
            let points = |values: &[f64]| {
                let waves = spectrum.wave_number.iter().map(|&wave| f64::from(wave));
                waves.zip(values.iter().copied()).collect()
            };
            let series = [
                line("draws", points(&spectrum.draws)),
                line("training", points(&spectrum.train)),
                line("held out", points(&spectrum.heldout)),
            ];
            chart.draw(&series)?.save(&folder.join(format!("power-{}.png", spectrum.band)))?;
        }
        for quantity in self.quantities.iter().filter(|quantity| SHOWN.contains(&quantity.name.as_str())) {
            let mut all: Vec<f64> = quantity.values.iter().flatten().copied().collect();
            all.sort_by(f64::total_cmp);
            // A few far ones would squeeze all others into one bin.
            let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
            let (low, high) = (at(0.005), at(0.995));
            if high <= low {
                continue;
            }
            let series = ["draws", "training", "held out"].iter().zip(&quantity.values);
            let series: Vec<Series> = series.map(|(name, values)| line(name, density(values, (low, high)))).collect();
            let chart = Chart::new(&quantity.name, &quantity.name, "density");
            chart.draw(&series)?.save(&folder.join(format!("quantity-{}.png", quantity.name)))?;
        }
        Ok(())
    }
}

fn feature_spaces(
    prior: &Prior,
    sets: &Sets,
    inception: Option<&Inception>,
    [draws, train, heldout]: &[Morphology; 3],
) -> Result<Vec<Features>> {
    let of = |set: &Morphology| set.features(train);
    let mut spaces = vec![Features::standardised("morphology", &of(draws)?, &of(train)?, &of(heldout)?)?];
    if let (Some(draws), Some(train), Some(heldout)) =
        (encoder(prior, &sets.draws)?, encoder(prior, &sets.train)?, encoder(prior, &sets.heldout)?)
    {
        spaces.push(Features::standardised("the prior's own encoder", &draws, &train, &heldout)?);
    }
    if let Some(network) = inception {
        let of = |set: &Tensor| network.features(set);
        // In its own units, as in published distances.
        spaces.push(Features::plain("Inception (FID)", of(&sets.draws)?, of(&sets.train)?, of(&sets.heldout)?));
    }
    Ok(spaces)
}

fn verdicts(spaces: &[Space], memorisation: &Memorisation) -> Vec<Verdict> {
    let value = memorisation.probability.value;
    let mut all = vec![Verdict {
        bar: "P(nearest is a training image), at most".into(),
        value,
        limit: MOST_NEAREST_IS_TRAIN,
        met: value <= MOST_NEAREST_IS_TRAIN,
    }];
    for space in spaces {
        for row in space.neighbours.rows.iter().filter(|row| ["recall", "coverage"].contains(&row.name)) {
            all.push(Verdict {
                bar: format!("{} of draws over held out, {}, at least", row.name, space.name),
                value: row.ratio.value,
                limit: LEAST_OF_REFERENCE,
                met: row.ratio.value >= LEAST_OF_REFERENCE,
            });
        }
    }
    all
}

/// A histogram as a line through the middles of its bins.
fn density(values: &[f64], (low, high): (f64, f64)) -> Vec<(f64, f64)> {
    let step = (high - low) / BINS as f64;
    let mut counts = [0.0; BINS];
    for value in values.iter().filter(|value| (low..=high).contains(*value)) {
        counts[(((value - low) / step) as usize).min(BINS - 1)] += 1.0;
    }
    let scale = 1.0 / (values.len() as f64 * step);
    counts.iter().enumerate().map(|(bin, count)| (low + (bin as f64 + 0.5) * step, count * scale)).collect()
}

/// The report as JSON.
pub fn json(report: &Report) -> Result<String> {
    serde_json::to_string_pretty(report).map_err(|error| Error::internal(error.to_string()))
}
