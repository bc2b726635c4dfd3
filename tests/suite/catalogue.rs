//! The summary catalogue, through the real binary, as astropy reads it; and what is said of unfinished runs.

use std::process::Command;

use crate::common::{python, unseeing};
use crate::products::{meta, record, records};
use unseeing::io::seal;
use unseeing::product::write_shard;

const SCRIPT: &str = r#"
import sys, csv, numpy as np
from astropy.table import Table
t = Table.read(sys.argv[1], mask_invalid=False)
assert list(t["id"]) == ["a", "b", "c"] and list(t["status"]) == ["done", "failed", "done"]
assert t["reason"][1] == "the PSF is zero everywhere" and t["flags"][0] == 2 and t["flag_names"][0] == "neighbours_masked"
assert str(t["ra"].unit) == "deg" and t["ra"][0] == 150.123456789 and t["ra"][1] == 10.0
assert str(t["r50_mean"].unit) == "kpc" and str(t["flux_r_mean"].unit) == "nJy" and str(t["magnitude_i_sd"].unit) == "mag"
from astropy.io import fits
header = fits.getheader(sys.argv[1], 1)
# TOPCAT takes descriptions from TCOMM.
comment = {header[f"TTYPE{n}"]: header.get(f"TCOMM{n}", "") for n in range(1, header["TFIELDS"] + 1)}
assert "half-light" in comment["r50_p16"] and "median" in comment["r50_p50"] and all(comment.values())
samples = np.frombuffer(bytes.fromhex(sys.argv[3]), "<f4").astype(float)
want = [samples.mean(), samples.std(ddof=1), *np.percentile(samples, [16, 50, 84])]
found = [t["r50_" + name][0] for name in ("mean", "sd", "p16", "p50", "p84")]
assert np.allclose(found, want, rtol=1e-6), (found, want)
assert t["flux_i_mean"][0] == 2 and t["flux_i_sd"][0] == 0
# A failed object has no numbers, and quantities that were not measured are unknown.
assert np.isnan(t["r50_mean"][1]) and np.isnan(t["flux_r_p50"][1]) and np.isnan(t["gini_mean"][0])
assert np.isnan(t["cov_r50_e1"][0]) and np.allclose(t["cov_magnitude_r_r50"][0], float(sys.argv[4]), rtol=1e-5)
with open(sys.argv[2]) as file:
    rows = list(csv.DictReader(file))
assert list(rows[0]) == t.colnames and rows[1]["r50_mean"] == "" and float(rows[0]["r50_sd"]) == t["r50_sd"][0]
assert rows[1]["reason"] == "the PSF is zero everywhere"
assert header["FLAG1"] == "neighbours_masked" and header["SURVEY"] == "test"
"#;

#[test]
fn catalogues_have_values_units_and_descriptions() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut list = records();
    let magnitudes: Vec<f32> = (0..8).map(|index| 20.0 + 0.1 * (index * index % 5) as f32).collect();
    list[0].samples.push(("magnitude_1".into(), magnitudes.clone()));
    let sizes = list[0].sample("r50").unwrap().to_vec();
    write_shard(&path("survey.h5"), &list, &meta()).unwrap();
    let [fits, csv] = ["c.fits", "c.csv"].map(path);
    let mut command = unseeing();
    command.arg("catalogue").arg(path("survey.h5")).arg("--out").arg(&fits).arg("--out").arg(&csv).arg("--json");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["objects"], &report["failed"]), (&3.into(), &1.into()));
    let Some(python) = python("h5py, astropy") else { return };
    let hex: String = sizes.iter().flat_map(|value| value.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect();
    let mean = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
    let (a, b) = (mean(&magnitudes), mean(&sizes));
    let pairs = magnitudes.iter().zip(&sizes);
    let covariance = pairs.map(|(&x, &y)| (f64::from(x) - a) * (f64::from(y) - b)).sum::<f64>() / 7.0;
    let output =
        Command::new(python).args(["-c", SCRIPT]).args([&fits, &csv]).args([hex, covariance.to_string()]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn unfinished_runs_say_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for name in ["shards", "receipts"] {
        std::fs::create_dir_all(run.join(name)).unwrap();
    }
    let plan = serde_json::json!({ "objects": 5, "shards": [{}, {}] });
    std::fs::write(run.join("plan.json"), seal::json(&plan).unwrap()).unwrap();
    let out = folder.path().join("out");
    let say = |arguments: &[&str]| {
        let output = unseeing().args(arguments).arg("--out").arg(out.join("c.csv")).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let run_name = run.to_str().unwrap();
    std::fs::create_dir(&out).unwrap();
    let (code, said) = say(&["catalogue", run_name]);
    assert!(code == Some(2) && said.contains("nothing is finished yet"), "{said}");
    let digest = write_shard(&run.join("shards/00000.h5"), &[record("a", 9, 9), record("b", 9, 9)], &meta()).unwrap();
    let receipt = serde_json::json!({ "file": "shards/00000.h5", "content_blake3": digest });
    std::fs::write(run.join("receipts/00000.json"), seal::json(&receipt).unwrap()).unwrap();
    for command in [vec!["catalogue", run_name], vec!["export", run_name], vec!["report", run_name, "--no-pictures"]] {
        // The folder of export and report may be called like a file.
        std::fs::remove_file(out.join("c.csv")).ok();
        let (code, said) = say(&command);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("1 of 2 shards (3 of 5 objects) have no receipt yet"), "{command:?}: {said}");
    }
    let (code, said) = say(&["catalogue", "nowhere"]);
    assert!(code == Some(2) && said.contains("neither a product file") && said.contains("nor a run folder"), "{said}");
}
