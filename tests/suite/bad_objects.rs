//! Objects that cannot be measured, in one real survey with one that can: what the catalogue, the report and the exit code
//! say of them. Never a made-up number.

use std::collections::HashMap;
use std::path::Path;

use unseeing::io::fits::{Fits, Keyword, NewImage, Pixels, write_images};

use crate::common::unseeing;

const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");
const BANDS: [&str; 3] = ["g", "r", "i"];

fn simulate(folder: &Path, galaxies: &str) {
    let options =
        ["--objects", "5", "--samples", "4", "--redshift", "0.3,0.4", "--magnitude", "19,20", "--prior", PRIOR];
    let mut command = unseeing();
    command.args(["simulate", "--galaxies", galaxies, "--neighbours", "0", "--depth", "wide"]).args(options);
    let made = command.arg(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Writes an image again with the pixels (column, row from the middle) that `bad` names marked as bad in its mask plane.
fn mask(path: &Path, bad: impl Fn(f64, f64) -> bool) {
    let mut fits = Fits::open(path).unwrap();
    let image = fits.first_image().unwrap();
    let shape = [image.shape[0], image.shape[1]];
    let values = fits.section(&image, (0, shape[0]), (0, shape[1])).unwrap().values;
    let plane = fits.hdus()[2].clone();
    let variance = fits.section(&plane, (0, shape[0]), (0, shape[1])).unwrap().values;
    let mut header = fits.header(0);
    let (wcs, scale) = (header.wcs().unwrap(), header.number("FLUXMAG0").unwrap().unwrap());
    drop(fits);
    let middle = (shape[1] / 2) as f64;
    let at = |index: usize| bad((index % shape[1]) as f64 - middle, (index / shape[1]) as f64 - middle);
    // The lowest bit of HSC's mask planes is BAD.
    let bits: Vec<i32> = (0..values.len()).map(|index| i32::from(at(index))).collect();
    let keywords = vec![Keyword::number("FLUXMAG0", scale, "")];
    let of = |name, pixels| NewImage { name, shape: &shape, pixels, wcs: None, keywords: Vec::new() };
    let image = NewImage { wcs: Some(wcs), keywords, ..of("IMAGE", Pixels::Floats(&values)) };
    write_images(path, &[image, of("MASK", Pixels::Integers(&bits)), of("VARIANCE", Pixels::Floats(&variance))])
        .unwrap();
}

/// The cells of a line of CSV; what is in quotes may hold commas.
pub fn split(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            other => cells.last_mut().unwrap().push(other),
        }
    }
    cells
}

#[test]
fn bad_objects_get_a_reason_and_no_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let [survey, empty] = ["survey", "empty"].map(|name| folder.path().join(name));
    simulate(&survey, "prior");
    simulate(&empty, "blank");
    for band in BANDS {
        let path = |folder: &Path, id: &str| folder.join(format!("cutouts/{id}-{band}.fits"));
        // No flux: the same frame with nothing but sky.
        std::fs::copy(path(&empty, "sim-0001"), path(&survey, "sim-0001")).unwrap();
        // Half masked, the target with it; and most of the frame, but not the target's middle.
        mask(&path(&survey, "sim-0002"), |x, _| x < 3.0);
        mask(&path(&survey, "sim-0003"), |x, y| x > 5.0 || y > 5.0);
    }
    let catalog = survey.join("catalog.csv");
    let text = std::fs::read_to_string(&catalog).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    // Centred off the field; and a name that is markup, of which there is no image.
    let last = lines.len() - 1;
    let mut cells: Vec<String> = lines[last].split(',').map(str::to_string).collect();
    assert_eq!(cells[0], "sim-0004");
    cells[1] = (cells[1].parse::<f64>().unwrap() + 0.05).to_string();
    lines[last] = cells.join(",");
    cells[0] = "<img src=x onerror=alert(1)>".into();
    lines.push(cells.join(","));
    std::fs::write(&catalog, lines.join("\n")).unwrap();
    let config = survey.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("\nsteps = 28", "\nsteps = 8").replace("shard_objects = 5", "shard_objects = 6");
    std::fs::write(&config, text).unwrap();
    let run = unseeing().arg("run").arg(&config).output().unwrap();
    assert_eq!(run.status.code(), Some(3), "{}", String::from_utf8_lossy(&run.stderr));

    let csv = folder.path().join("c.csv");
    let run = survey.join("run");
    let made = unseeing().arg("catalogue").arg(&run).arg("--out").arg(&csv).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(&csv).unwrap();
    let mut lines = text.lines().map(split);
    let names = lines.next().unwrap();
    let rows: HashMap<String, HashMap<String, String>> = lines
        .map(|row| names.iter().cloned().zip(row).collect::<HashMap<_, _>>())
        .map(|row| (row["id"].clone(), row))
        .collect();
    assert_eq!(rows.len(), 6);
    let numbers = ["flux_r_mean", "magnitude_i_p50", "r50_mean", "e1_sd", "cov_r50_e1", "amplitude"];
    let good = &rows["sim-0000"];
    assert!(numbers.iter().all(|name| good[*name].parse::<f64>().is_ok()), "{good:?}");
    assert_eq!((good["status"].as_str(), good["reason"].as_str()), ("done", ""));
    // Photometry of the input is measured where there is an input, and never else.
    let cmodel = ["cmodel_flux_r", "cmodel_flux_error_r", "cmodel_flux_model_r"];
    assert!(cmodel.iter().all(|name| good[*name].parse::<f64>().unwrap() > 0.0), "{good:?}");
    let failed = rows.values().filter(|row| row["status"] == "failed");
    assert_eq!(failed.filter(|row| cmodel.iter().all(|name| row[*name].is_empty())).count(), 3);
    for (id, status, flag, reason) in [
        ("sim-0001", "done", "not_detected", "not summarised: kron_flux is below"),
        ("sim-0002", "failed", "", "pixels at the target's position are saturated, masked"),
        ("sim-0003", "done", "few_good_pixels", "not summarised: less than"),
        ("sim-0004", "failed", "", "outside the image"),
        ("<img src=x onerror=alert(1)>", "failed", "", ""),
    ] {
        let row = &rows[id];
        assert!(numbers.iter().all(|name| row[*name].is_empty()), "{row:?}");
        assert_eq!(row["status"], status, "{id}: {}", row["reason"]);
        assert!(row["flag_names"].contains(flag) && row["reason"].contains(reason), "{id}: {row:?}");
        assert!(!row["reason"].is_empty(), "{id}");
    }

    let out = folder.path().join("report");
    let made = unseeing().args(["report", "--no-pictures"]).arg(&run).arg("--out").arg(&out).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = std::fs::read_to_string(out.join("index.html")).unwrap();
    assert!(!page.contains("<img src=x"), "an id became markup");
    assert!(page.contains("src=x onerror=alert(1)"), "the object is not in the report");
}
