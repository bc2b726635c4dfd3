//! Our measurements against those of statmorph (PyPI), on the same noise-free images.

use std::process::Command;

use serde_json::Value;
use unseeing::posterior::morphology::morphology;
use unseeing::train::procedural::{self, Grid};

/// Pixels on a side, and their pitch in kpc: twice the shipped prior's field, so that Petrosian radii fit.
const SIZE: usize = 128;
const PITCH: f64 = 0.8;
const GALAXIES: u64 = 16;

/// What may differ: the median absolute difference over the galaxies, and that which three quarters of them stay below.
/// Radii are relative. Both programs measure the same sums; they differ in how circles cut pixels (exact there, subdivided
/// here), in interpolating both images for A (we do, which takes a little from it), and in the ellipse and the centre that
/// the pixels of Gini and M20 are chosen by (unweighted moments of a segmentation map there, adaptive moments here). The
/// last quarter is of mergers and clumpy galaxies, which have more than one centre and no one ellipse.
const TOLERANCES: [(&str, f64, f64); 8] = [
    ("r20", 0.01, 0.03),
    ("r50", 0.01, 0.02),
    ("r80", 0.01, 0.02),
    ("concentration", 0.02, 0.05),
    ("asymmetry", 0.03, 0.05),
    ("gini", 0.015, 0.04),
    ("m20", 0.03, 0.1),
    // Of galaxies with an axis ratio below 0.8, degrees.
    ("position_angle", 3.0, 25.0),
];

const SCRIPT: &str = r#"
import json, sys, warnings
import numpy as np
import statmorph
warnings.simplefilter("ignore")
images = np.fromfile(sys.argv[1], dtype="<f4").reshape(-1, int(sys.argv[2]), int(sys.argv[2])).astype(float)
out = []
for image in images:
    # Empty sky around, so that a sky box is found; its mean and rms are zero.
    image = np.pad(image, 48)
    segmap = (image > 1e-3 * image.max()).astype(int)
    m = statmorph.SourceMorphology(image, segmap, 1, weightmap=np.full(image.shape, 1e-6 * image.max()))
    out.append({name: float(value) for name, value in dict(
        r20=m.r20, r50=m.r50, r80=m.r80, concentration=m.concentration, asymmetry=m.asymmetry, gini=m.gini, m20=m.m20,
        position_angle=np.degrees(m.orientation_asymmetry), axis_ratio=1 / m.elongation_asymmetry, flag=m.flag).items()})
print(json.dumps(out))
"#;

#[test]
fn measurements_are_those_of_statmorph() {
    let Some(python) = crate::common::python("statmorph") else { return };
    let grid = Grid { size: SIZE, pixel_kpc: PITCH, bands: vec!["r".into()], reference: 0 };
    let images: Vec<Vec<f32>> = (0..GALAXIES).map(|index| procedural::draw(11, index, &grid).image).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images");
    std::fs::write(&path, images.concat().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let output =
        Command::new(python).args(["-c", SCRIPT]).arg(&path).arg(SIZE.to_string()).env("OMP_NUM_THREADS", "1").output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut faults = Vec::new();
    for (name, median, most) in TOLERANCES {
        let mut differences = Vec::new();
        for (image, theirs) in images.iter().zip(&theirs) {
            // Flag 2 and above: statmorph itself calls the measurement bad.
            if theirs["flag"].as_f64().unwrap() >= 2.0 {
                continue;
            }
            let ours = morphology(image, 1, 1.0, 0).unwrap();
            let ours = f64::from(ours.iter().find(|(key, _)| key == name).unwrap().1);
            let reference = theirs[name].as_f64().unwrap();
            let difference = match name {
                "r20" | "r50" | "r80" => ours / reference - 1.0,
                "position_angle" if theirs["axis_ratio"].as_f64().unwrap() > 0.8 => continue,
                "position_angle" => (ours - reference + 90.0).rem_euclid(180.0) - 90.0,
                _ => ours - reference,
            };
            differences.push(difference.abs());
        }
        assert!(differences.len() >= 6, "{name}: only {} galaxies could be compared", differences.len());
        differences.sort_by(f64::total_cmp);
        let found = (differences[differences.len() / 2], differences[3 * differences.len() / 4]);
        println!("{name}: median {:.4}, three quarters {:.4} of {}", found.0, found.1, differences.len());
        // NaN must not pass.
        if !(found.0 <= median && found.1 <= most) {
            faults.push(format!("{name}: {found:?}, allowed {:?}; all {differences:.3?}", (median, most)));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
