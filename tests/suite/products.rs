//! Product files: what is written is read back, by this program and by h5py; digests notice changes.

use std::path::Path;
use std::process::Command;

use unseeing::posterior::Flag;
use unseeing::product::merge::{Merged, Part, merge};
use unseeing::product::{ObjectRecord, Shard, ShardMeta, Status, write_shard};
use unseeing::random::{Key, Purpose};
use unseeing::sky::TanWcs;

const BANDS: usize = 3;
const SIZE: usize = 32;
const SAMPLES: usize = 8;

pub fn meta() -> ShardMeta {
    ShardMeta {
        survey: "test".into(),
        seed: 7,
        bands: vec!["g".into(), "r".into(), "i".into()],
        reference: 1,
        size: SIZE,
        pixel_kpc: 0.4,
        samples: SAMPLES,
        kept_draws: 2,
        amplitudes: 1,
        config: "[survey]\nname = \"test\"\n".into(),
        digests: vec![("config".into(), "c0".into()), ("prior".into(), "p0".into())],
        versions: vec![("unseeing".into(), "0.1.0".into())],
        photo_z: "propagated: a cut posterior".into(),
        prior: "a prior".into(),
        prior_caution: "a caution".into(),
        prior_samples: vec![("flux_0".into(), vec![0.5; 3]), ("r50".into(), vec![1.0, 2.0, 3.0])],
    }
}

/// A galaxy-like record with an observation of `rows x columns` pixels.
pub fn record(id: &str, rows: usize, columns: usize) -> ObjectRecord {
    let noise = |step: u32, count: usize| Key::new(1, id, 0, Purpose::Evaluation, step).normal(count);
    let disc = |rows: usize, columns: usize, scale: f32| -> Vec<f32> {
        (0..BANDS * rows * columns)
            .map(|index| {
                let (y, x) = ((index / columns % rows) as f32, (index % columns) as f32);
                let radius = (y - rows as f32 / 2.0).hypot(x - columns as f32 / 2.0) / rows as f32;
                let colour = 1.0 + (index / (rows * columns)) as f32;
                scale * colour * (-radius * 10.0).exp()
            })
            .collect()
    };
    let product = [BANDS, SIZE, SIZE];
    let observed = [BANDS, rows, columns];
    let pixels = BANDS * rows * columns;
    let mut record = ObjectRecord::done(id);
    record.flag(Flag::NeighboursMasked);
    record.set_scalar("ra", 150.123456789);
    record.set_scalar("dec", 2.2);
    record.set_scalar("redshift", 0.22);
    record.set_scalar("sample_count", SAMPLES as f64);
    record.set_scalar("pixel_scale", 0.109);
    record.set_scalar("observation_pixel_scale", 0.168);
    let crval = [150.123456789, 2.2];
    record.set_wcs("wcs", &TanWcs::from_header(crval, [16.5, 16.5], [[-3e-5, 0.0], [0.0, 3e-5]]).unwrap());
    record.set_wcs("observation_wcs", &TanWcs::from_header(crval, [10.0, 12.0], [[-5e-5, 0.0], [0.0, 5e-5]]).unwrap());
    record.set_vector("amplitude", &[1234.5]);
    record.set_vector("sky", &[0.1, 0.2, 0.3]);
    record.set_scalar("reduced_chi2", 1.02);
    let mean = disc(SIZE, SIZE, 100.0);
    let sd: Vec<f32> = mean.iter().zip(noise(1, mean.len())).map(|(m, e)| 0.1 * m + 0.5 + 0.1 * e.abs()).collect();
    record.set_array("variance_ratio", &product, sd.iter().map(|sd| sd / (sd + 4.0)).collect());
    record.set_array("draws", &[2, BANDS, SIZE, SIZE], mean.iter().chain(&mean).map(|m| m * 1.01).collect());
    record.set_array("mean", &product, mean);
    record.set_array("variance", &product, sd.iter().map(|sd| sd * sd).collect());
    let model = disc(rows, columns, 60.0);
    let observation = model.iter().zip(noise(2, pixels)).map(|(m, e)| m + 2.0 * e).collect();
    record.set_array("observation", &observed, observation);
    record.set_array("observation_variance", &observed, vec![4.0; pixels]);
    record.set_array("residual", &observed, noise(2, pixels));
    record.set_array("mask", &observed, (0..pixels).map(|index| f32::from(u8::from(index % 7 != 0))).collect());
    record.set_array("model", &observed, model);
    record.samples.push(("r50".into(), noise(3, SAMPLES)));
    for band in 0..BANDS {
        record.samples.push((format!("flux_{band}"), vec![band as f32; SAMPLES]));
    }
    record
}

pub fn records() -> Vec<ObjectRecord> {
    let mut failed = ObjectRecord::failed("b", "the PSF is zero everywhere");
    failed.set_scalar("ra", 10.0);
    vec![record("a", 20, 24), failed, record("c", 23, 21)]
}

/// HDF5 keeps what is written in memory for a while: its errors come late, and must come nevertheless.
#[test]
fn a_full_disk_of_any_size_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut full = 0;
    for size in (8..).step_by(40) {
        let Some(disk) = crate::disk::SmallDisk::mount(&folder.path().join(size.to_string()), size) else { return };
        let path = folder.path().join(size.to_string()).join("00000.h5");
        match write_shard(&path, &records(), &meta()) {
            Ok(digest) => {
                assert_eq!(Shard::open(&path).unwrap().verify().unwrap(), digest, "{size} KiB");
                break;
            }
            Err(error) => assert!(error.to_string().contains("00000.h5"), "{size} KiB: {error}"),
        }
        full += 1;
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "{size} KiB");
        drop(disk);
    }
    assert!(full > 2, "the disks were hardly ever full");
}

#[test]
fn a_shard_reads_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("00000.h5");
    let digest = write_shard(&path, &records(), &meta()).unwrap();
    let shard = Shard::open(&path).unwrap();
    assert_eq!(shard.verify().unwrap(), digest);
    assert_eq!(shard.meta, meta());
    for (found, want) in shard.records().unwrap().iter().zip(records()) {
        assert_eq!((&found.id, found.status, &found.reason), (&want.id, want.status, &want.reason));
        assert_eq!(found.flags, want.flags);
        for (name, value) in &want.scalars {
            assert_eq!(found.scalar(name), Some(*value), "{name}");
        }
        let mut names: Vec<_> = want.samples.clone();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        let mut have = found.samples.clone();
        have.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(have, names);
        assert_eq!(found.arrays.len(), want.arrays.len());
        for (name, array) in &want.arrays {
            let got = found.array(name).unwrap();
            assert_eq!(got.shape, array.shape, "{name}");
            for (index, (got, want_value)) in got.values.iter().zip(&array.values).enumerate() {
                // Half a rounding step is at most 1/128 of what the schema names.
                let scale = match name.as_str() {
                    "mean" | "draws" => {
                        let variance = &want.array("variance").unwrap().values;
                        variance[index % variance.len()].sqrt()
                    }
                    "observation" | "model" => 2.0,
                    "residual" => 1.0,
                    "mask" => 0.0,
                    _ => want_value.abs(),
                };
                assert!((got - want_value).abs() <= scale / 127.0, "{name}[{index}]: {got} for {want_value}");
            }
        }
    }
    assert_eq!(shard.record(1).unwrap().status, Status::Failed);
}

#[test]
fn the_digest_is_of_the_content_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let digest = write_shard(&path("1.h5"), &records(), &meta()).unwrap();
    let other_meta = ShardMeta { versions: vec![("host".into(), "elsewhere".into())], ..meta() };
    assert_eq!(write_shard(&path("2.h5"), &records(), &other_meta).unwrap(), digest);
    let mut changed = records();
    changed[2].set_scalar("reduced_chi2_draws", 1.0);
    assert_ne!(write_shard(&path("3.h5"), &changed, &meta()).unwrap(), digest);
    changed = records();
    changed[1].reason.push('!');
    assert_ne!(write_shard(&path("4.h5"), &changed, &meta()).unwrap(), digest);
}

#[test]
fn faulty_records_are_errors_not_losses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.h5");
    let fails = |change: &dyn Fn(&mut Vec<ObjectRecord>), word: &str| {
        let mut list = records();
        change(&mut list);
        let message = write_shard(&path, &list, &meta()).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
        assert!(!path.exists());
    };
    fails(&|list| list[0].set_scalar("no_such_thing", 1.0), "no_such_thing");
    fails(&|list| list[0].id = "c".into(), "two records of object c");
    fails(&|list| list[0].set_array("psf", &[1], vec![0.0]), "psf");
    fails(&|list| list[1].set_array("mean", &[3, 4, 4], vec![0.0; 48]), "[3, 4, 4]");
    fails(&|list| list[1].samples.push(("r50".into(), vec![0.0; 9])), "9 samples");
}

/// Runs Python with h5py and astropy; `None` (and a note) where they are not installed.
fn python(script: &str, path: &Path) -> Option<String> {
    let python = crate::common::python("h5py, astropy")?;
    let output = Command::new(python).arg("-c").arg(script).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn h5py_reads_values_units_and_flags() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("00000.h5");
    let digest = write_shard(&path, &records(), &meta()).unwrap();
    let script = r#"
import sys, h5py, numpy as np
f = h5py.File(sys.argv[1], "r")
assert f.attrs["format"] == "unseeing products" and f.attrs["format_version"] == 4
assert list(f.attrs["bands"]) == ["g", "r", "i"] and f.attrs["pixel_kpc"] == 0.4 and f.attrs["seed"] == 7
assert f.attrs["config"].startswith("[survey]")
assert list(f["id"].asstr()) == ["a", "b", "c"] and list(f["status"].asstr()) == ["done", "failed", "done"]
assert f["reason"].asstr()[1] == "the PSF is zero everywhere" and f["reason"].asstr()[0] == ""
assert f["mean"].shape == (3, 3, 32, 32) and f["mean"].dtype == np.float32
assert f["mean"].chunks == (1, 3, 32, 32) and f["mean"].shuffle and f["mean"].compression == "gzip"
assert f["mean"].attrs["units"] == "nJy / pixel" and f["mean"].attrs["axes"] == "object, band, pixel, pixel"
# The peak is exp(0) * 100 nJy, times 1, 2, 3 in the bands; sd is at least 0.5.
assert np.allclose(f["mean"][0, :, 16, 16], [100, 200, 300], atol=30 / 128)
assert np.isnan(f["mean"][1]).all() and np.isfinite(f["mean"][2]).all()
assert f["observation"].shape == (3, 3, 23, 24) and tuple(f["observation_shape"][2]) == (23, 21)
assert np.isnan(f["observation"][2, :, :, 21:]).all() and np.isfinite(f["observation"][2, :, :, :21]).all()
assert np.isnan(f["observation"][0, :, 20:]).all() and f["mask"].dtype == np.uint8 and f["mask"][0, :, 20:].max() == 0
assert f["ra"].dtype == np.float64 and f["ra"][0] == 150.123456789 and f["ra"][1] == 10.0
assert f["wcs_cd"].shape == (3, 2, 2) and f["wcs_cd"][0, 1, 1] == 3e-5
assert f["amplitude"].shape == (3, 1) and f["amplitude"].attrs["units"] == "nJy"
assert f["samples/flux"].shape == (3, 8, 3) and (f["samples/flux"][0] == [0, 1, 2]).all()
assert f["samples/r50"].attrs["units"] == "kpc" and f["draws"].shape == (3, 2, 3, 32, 32)
assert list(f["prior/r50"]) == [1, 2, 3] and f["prior/r50"].attrs["units"] == "kpc"
flags = dict(zip(f["flags"].attrs["flag_names"], f["flags"].attrs["flag_masks"]))
assert f["flags"][0] == flags["neighbours_masked"] and f["flags"].dtype == np.uint32
for name in ("mean", "redshift", "id", "samples/e1"): assert f[name].attrs["meaning"]
print(f.attrs["content_blake3"])
"#;
    let Some(output) = python(script, &path) else { return };
    assert_eq!(output.trim(), digest);
    // A change made behind the program's back is noticed.
    let damage = "import sys, h5py; f = h5py.File(sys.argv[1], 'r+'); f['mean'][0, 0, 0, 0] += 1; f.close()";
    python(damage, &path);
    let message = Shard::open(&path).unwrap().verify().unwrap_err().to_string();
    assert!(message.contains("changed or damaged"), "{message}");
}

#[test]
fn merging_gives_the_file_that_one_shard_would_have_been() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let all = records();
    let whole = write_shard(&path("whole.h5"), &all, &meta()).unwrap();
    let part = |name: &str, records: &[ObjectRecord]| Part {
        path: path(name),
        content_blake3: write_shard(&path(name), records, &meta()).unwrap(),
    };
    let parts = [part("0.h5", &all[..1]), part("1.h5", &all[1..])];
    let merged = merge(&parts, &path("survey.h5")).unwrap();
    assert_eq!(merged, Merged { objects: 3, failed: 1, content_blake3: whole.clone() });
    assert_eq!(Shard::open(&path("survey.h5")).unwrap().verify().unwrap(), whole);

    let fails = |parts: &[Part], word: &str| {
        let message = merge(parts, &path("no.h5")).unwrap_err().to_string();
        assert!(message.contains(word) && !path("no.h5").exists(), "{message}");
    };
    fails(&[], "no shards");
    fails(&[parts[0].clone(), parts[0].clone()], "object a is also in");
    fails(&[Part { content_blake3: whole, ..parts[0].clone() }], "the receipt says");
    let other = ShardMeta { survey: "other".into(), ..meta() };
    let foreign = Part { content_blake3: write_shard(&path("2.h5"), &[], &other).unwrap(), path: path("2.h5") };
    fails(&[parts[0].clone(), foreign], "not one survey");
    fails(&[Part { path: path("gone.h5"), ..parts[0].clone() }], "no such file");
}

#[test]
fn a_report_has_a_picture_for_each_object_and_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for name in ["shards", "receipts"] {
        std::fs::create_dir_all(run.join(name)).unwrap();
    }
    let digest = write_shard(&run.join("shards/00000.h5"), &records(), &meta()).unwrap();
    let receipt = serde_json::json!({
        "file": "shards/00000.h5", "content_blake3": digest, "objects": 3, "worker_seconds": 30.0, "shard": 0
    });
    std::fs::write(run.join("receipts/00000.json"), unseeing::io::seal::json(&receipt).unwrap()).unwrap();
    let unseeing = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_unseeing")).args(arguments).output().unwrap();
        let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (output.status.code(), texts)
    };
    let run = run.to_str().unwrap();
    let out = folder.path().join("out");
    let (code, [stdout, stderr]) = unseeing(&["report", run, "--out", out.to_str().unwrap(), "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let table: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(table.as_array().unwrap().len(), 3);
    assert_eq!((&table[0]["id"], &table[0]["picture"]), (&"a".into(), &"a.png".into()));
    assert_eq!((&table[0]["flux"], &table[0]["seconds"]), (&1.0.into(), &10.0.into()));
    assert_eq!((&table[1]["status"], &table[1]["picture"]), (&"failed".into(), &serde_json::Value::Null));
    let pictures = ["a.png", "c.png"].map(|name| std::fs::read(out.join(name)).unwrap());
    assert!(pictures.iter().all(|png| png.starts_with(b"\x89PNG")) && !out.join("b.png").exists());
    assert_eq!(std::fs::read_to_string(out.join("table.csv")).unwrap().lines().count(), 4);

    // What has no receipt is not done: a file on the disk alone is not reported.
    write_shard(&folder.path().join("run/shards/00001.h5"), &[record("d", 9, 9)], &meta()).unwrap();
    let (code, [stdout, _]) = unseeing(&["report", run, "--no-pictures", "--only", "a"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("1 objects, 0 failed"), "{stdout}");
    let (code, [_, stderr]) = unseeing(&["report", run, "--no-pictures", "--only", "d"]);
    assert!(code == Some(2) && stderr.contains("no such objects: d"), "{stderr}");
    let (code, [_, stderr]) = unseeing(&["report", "nowhere"]);
    let told = stderr.contains("neither a product file") && stderr.contains("nor a run folder");
    assert!(code == Some(2) && told, "{stderr}");
    // A folder whose survey could not be planned has no products, and no success either.
    let unplanned = folder.path().join("unplanned");
    std::fs::create_dir_all(unplanned.join("receipts")).unwrap();
    let (unplanned, images) = (unplanned.to_str().unwrap(), folder.path().join("fits"));
    let export: &[&str] = &["export", unplanned, "--out", images.to_str().unwrap()];
    for arguments in [&["report", unplanned], export] {
        let (code, [_, stderr]) = unseeing(arguments);
        assert!(code == Some(2) && stderr.contains("plan.json") && stderr.contains("could not be planned"), "{stderr}");
    }
    let (code, [stdout, _]) = unseeing(&["report", "--schema"]);
    assert!(code == Some(0) && stdout.contains("| `mean` | object, band, pixel, pixel | float32 | nJy / pixel |"));

    let survey = folder.path().join("survey.h5");
    let (code, [stdout, stderr]) = unseeing(&["merge", run, "--out", survey.to_str().unwrap(), "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["content_blake3"], digest.as_str());
}

/// The exported file as astropy sees it.
#[test]
fn exported_images_have_values_units_and_a_wcs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("00000.h5");
    write_shard(&path, &records(), &meta()).unwrap();
    let export = |ids: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unseeing"));
        command.arg("export").arg(&path).args(ids).arg("--out").arg(folder.path().join("fits"));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, stderr) = export(&["a"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, stderr) = export(&["nobody"]);
    assert!(code == Some(2) && stderr.contains("no such objects: nobody"), "{stderr}");
    let (code, stderr) = export(&["b"]);
    assert!(code == Some(3) && stderr.contains("the PSF is zero everywhere"), "{stderr}");
    let script = r#"
import sys, numpy as np
from astropy.io import fits
from astropy.wcs import WCS
f = fits.open(sys.argv[1])
assert f[0].data.shape == (3, 32, 32) and f[0].header["BUNIT"] == "nJy" and f[0].header["OBJECT"] == "a"
assert np.allclose(f["MEAN"].data[:, 16, 16], [100, 200, 300], atol=30 / 128)
assert f["OBSERVATION"].data.shape == (3, 20, 24) and f["MASK"].data.max() == 1
assert f[0].header["REDSHIFT"] == 0.22 and f[0].header["BAND1"] == "g" and f[0].header["FLAGS"] == 2
at = WCS(f["MEAN"].header, naxis=2).pixel_to_world(15.5, 15.5)
assert abs(at.ra.deg - 150.123456789) < 1e-9 and abs(at.dec.deg - 2.2) < 1e-9
at = WCS(f["OBSERVATION"].header, naxis=2).pixel_to_world(9.0, 11.0)
assert abs(at.ra.deg - 150.123456789) < 1e-9
"#;
    python(script, &folder.path().join("fits/a.fits"));
}
