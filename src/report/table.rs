//! The table of a survey: one line an object.

use serde::Serialize;

use super::canvas::label;
use crate::posterior::Flag;
use crate::product::{ObjectRecord, Status};

/// One line of the table. What is not known is left empty.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub id: String,
    pub status: &'static str,
    pub reason: String,
    pub flags: Vec<&'static str>,
    pub redshift: Option<f64>,
    pub reduced_chi2: Option<f64>,
    pub reduced_chi2_galaxy: Option<f64>,
    /// Posterior mean and standard deviation of the flux in the middle band, nJy.
    pub flux: Option<f64>,
    pub flux_sd: Option<f64>,
    /// cModel flux of the observation in that band, its error, and that of the predicted observation, nJy.
    pub cmodel_flux: Option<f64>,
    pub cmodel_flux_error: Option<f64>,
    pub cmodel_flux_model: Option<f64>,
    /// The same of the half-light radius, kpc.
    pub r50: Option<f64>,
    pub r50_sd: Option<f64>,
    pub variance_ratio_paper: Option<f64>,
    /// Seconds of work, on average over the object's shard.
    pub seconds: Option<f64>,
    pub picture: Option<String>,
}

impl Line {
    /// The line of an object; `band` is the index of the band whose flux is shown.
    pub fn of(record: &ObjectRecord, band: usize, seconds: Option<f64>, picture: Option<String>) -> Line {
        let flux = record.sample(&format!("flux_{band}")).and_then(mean_and_sd);
        // Without per-sample fluxes, the mean image still has a sum.
        let summed = record.array("mean").and_then(|mean| {
            let plane: usize = mean.shape.iter().skip(1).product();
            let values = mean.values.get(band * plane..(band + 1) * plane)?;
            Some(values.iter().map(|&value| f64::from(value)).sum::<f64>())
        });
        let r50 = record.sample("r50").and_then(mean_and_sd);
        // What was not measured is NaN in the products, and nothing in a table.
        let cmodel = |name: &str| record.vector(name).get(band).copied().filter(|value| value.is_finite());
        Line {
            id: record.id.clone(),
            status: if record.status == Status::Done { "done" } else { "failed" },
            reason: record.reason.clone(),
            flags: Flag::set_in(record.flags).map(Flag::name).collect(),
            redshift: record.scalar("redshift"),
            reduced_chi2: record.scalar("reduced_chi2"),
            reduced_chi2_galaxy: record.scalar("reduced_chi2_galaxy"),
            flux: flux.map(|(mean, _)| mean).or(summed),
            flux_sd: flux.map(|(_, sd)| sd),
            cmodel_flux: cmodel("cmodel_flux"),
            cmodel_flux_error: cmodel("cmodel_flux_error"),
            cmodel_flux_model: cmodel("cmodel_flux_model"),
            r50: r50.map(|(mean, _)| mean),
            r50_sd: r50.map(|(_, sd)| sd),
            variance_ratio_paper: record.scalar("variance_ratio_paper"),
            seconds,
            picture,
        }
    }

    /// The columns' names.
    pub const HEADER: [&'static str; 17] = [
        "id",
        "status",
        "redshift",
        "reduced_chi2",
        "reduced_chi2_galaxy",
        "flux_nJy",
        "flux_sd_nJy",
        "cmodel_flux_nJy",
        "cmodel_flux_error_nJy",
        "cmodel_flux_model_nJy",
        "r50_kpc",
        "r50_sd_kpc",
        "variance_ratio_paper",
        "seconds",
        "flags",
        "reason",
        "picture",
    ];

    /// The line's cells, numbers as `format` writes them.
    fn cells(&self, format: fn(f64) -> String) -> [String; 17] {
        let number = |value: Option<f64>| value.filter(|value| value.is_finite()).map(format).unwrap_or_default();
        [
            self.id.clone(),
            self.status.into(),
            number(self.redshift),
            number(self.reduced_chi2),
            number(self.reduced_chi2_galaxy),
            number(self.flux),
            number(self.flux_sd),
            number(self.cmodel_flux),
            number(self.cmodel_flux_error),
            number(self.cmodel_flux_model),
            number(self.r50),
            number(self.r50_sd),
            number(self.variance_ratio_paper),
            number(self.seconds),
            self.flags.join(" "),
            self.reason.clone(),
            self.picture.clone().unwrap_or_default(),
        ]
    }
}

/// Mean and standard deviation of the finite values.
fn mean_and_sd(values: &[f32]) -> Option<(f64, f64)> {
    let values: Vec<f64> = values.iter().map(|&value| f64::from(value)).filter(|value| value.is_finite()).collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (!values.is_empty()).then(|| (mean, variance.sqrt()))
}

/// The table as CSV.
pub fn csv(lines: &[Line]) -> String {
    let quote = |cell: &String| {
        if cell.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.clone() }
    };
    let mut text = Line::HEADER.join(",") + "\n";
    for line in lines {
        text += &(line.cells(|value| value.to_string()).iter().map(quote).collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

/// The table as aligned text for a terminal, without the pictures' names.
pub fn text(lines: &[Line]) -> String {
    let mut rows = vec![Line::HEADER.map(String::from)];
    rows.extend(lines.iter().map(|line| line.cells(label)));
    let shown = Line::HEADER.len() - 1;
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..shown).map(width).collect();
    let line = |row: &[String; 17]| {
        let cells: Vec<String> = (0..shown).map(|column| format!("{:<1$}", row[column], widths[column])).collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_quote_and_align() {
        let mut record = ObjectRecord::failed("a", "a reason, with \"quotes\"");
        record.samples.push(("flux_1".into(), vec![1.0, 3.0, f32::NAN]));
        for (band, flux) in [5.0, 7.0, f64::NAN].into_iter().enumerate() {
            record.set_scalar(&format!("cmodel_flux_{band}"), flux);
        }
        assert_eq!(Line::of(&record, 2, None, None).cmodel_flux, None, "no fit");
        let line = Line::of(&record, 1, Some(2.0), None);
        assert_eq!((line.flux, line.flux_sd), (Some(2.0), Some(2f64.sqrt())));
        assert!(
            csv(std::slice::from_ref(&line))
                .ends_with("a,failed,,,,2,1.4142135623730951,7,,,,,,2,,\"a reason, with \"\"quotes\"\"\",\n")
        );
        let table = text(&[line]);
        let columns: Vec<_> = table.lines().map(|row| row.find("failed").or_else(|| row.find("status"))).collect();
        assert_eq!(columns, [Some(4), Some(4)]);
    }
}
