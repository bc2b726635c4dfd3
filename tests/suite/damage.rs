//! Damaged products of a real survey: packed inputs, shard files and the merged file, each cut, emptied, removed, replaced by
//! a foreign file of the same format, and with a flipped byte. Who reads them says which file it is and what helps.

use std::path::{Path, PathBuf};

use crate::common::unseeing;

const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    Half,
    Empty,
    Gone,
    Foreign,
    /// One bit of the byte at this part of the file.
    Flipped(f64),
}

/// Where bits are flipped: in the seal, in the library's own tables, in data, in the last byte.
const PARTS: [f64; 6] = [0.0, 0.002, 0.3, 0.5, 0.8, 0.999_999];

/// A real survey of three small galaxies in shards of two, packed, run and merged.
pub struct Survey {
    folder: tempfile::TempDir,
}

impl Survey {
    pub fn new() -> Survey {
        let survey = Survey { folder: tempfile::tempdir().unwrap() };
        let options = ["simulate", "--objects", "3", "--depth", "wide", "--samples", "2", "--prior", PRIOR, "--out"];
        let made = unseeing().args(options).arg(survey.path("survey")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = std::fs::read_to_string(survey.config()).unwrap();
        let text = text.replace("block = 16", "block = 2").replace("\nsteps = 28", "\nsteps = 2");
        std::fs::write(survey.config(), text.replace("shard_objects = 3", "shard_objects = 2")).unwrap();
        for command in ["pack", "run", "merge"] {
            let (code, said) = survey.call(command);
            assert_eq!(code, 0, "{command}: {said}");
        }
        survey
    }

    pub fn config(&self) -> PathBuf {
        self.path("survey/config.toml")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Calls a command (its words, of which `RUN` is the run folder and `FILE` the merged file) where it writes into a folder
    /// of its own; the exit code, and all that was said.
    pub fn call(&self, words: &str) -> (i32, String) {
        let (config, run, file) = (self.config(), self.path("survey/run"), self.path("survey/survey.h5"));
        let mut command = unseeing();
        for word in words.split_whitespace() {
            match word {
                "RUN" => command.arg(&run),
                "FILE" => command.arg(&file),
                word => command.arg(word),
            };
        }
        match words.split_whitespace().next().unwrap() {
            "merge" => command.arg(&run).arg("--out").arg(&file),
            "catalogue" => command.arg("--out").arg(self.path("catalogue.csv")),
            "export" => command.arg("--out").arg(self.path("fits")),
            "report" => command.arg("--no-pictures").arg("--out").arg(self.path("report")),
            "verify" if words.contains("FILE") => &mut command,
            _ => command.arg(&config),
        };
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!said.contains("panicked"), "{words}: {said}");
        (output.status.code().unwrap_or_else(|| panic!("{words} was killed: {said}")), said)
    }

    pub fn contents(&self) -> Vec<String> {
        let output = unseeing().args(["verify", "--json"]).arg(self.config()).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let shards = report["shards"].as_array().unwrap();
        shards.iter().map(|shard| shard["content_blake3"].as_str().unwrap().to_string()).collect()
    }
}

fn damage(path: &Path, whole: &[u8], foreign: &[u8], damage: Damage) {
    match damage {
        Damage::Half => std::fs::write(path, &whole[..whole.len() / 2]).unwrap(),
        Damage::Empty => std::fs::write(path, b"").unwrap(),
        Damage::Gone => std::fs::remove_file(path).unwrap(),
        Damage::Foreign => std::fs::write(path, foreign).unwrap(),
        Damage::Flipped(part) => {
            let mut bytes = whole.to_vec();
            bytes[(part * whole.len() as f64) as usize] ^= 4;
            std::fs::write(path, bytes).unwrap();
        }
    }
}

#[test]
fn crash_free_damaged_products_are_named_with_a_way_out() {
    use Damage::*;
    let survey = Survey::new();
    let want = survey.contents();
    let [shard, merged, bundle] =
        ["run/shards/00000.h5", "survey.h5", "run/inputs/00000.h5"].map(|name| survey.path("survey").join(name));
    let [shard_bytes, merged_bytes, bundle_bytes] = [&shard, &merged, &bundle].map(|path| std::fs::read(path).unwrap());
    let readers = ["merge", "verify", "catalogue RUN", "export RUN sim-0000", "report RUN"];
    for kind in [Gone, Flipped(0.5), Half, Empty, Foreign, Flipped(0.0)] {
        damage(&shard, &shard_bytes, &bundle_bytes, kind);
        // One look at the bytes serves them all: not every reader with every damage.
        for reader in &readers[..if matches!(kind, Gone | Flipped(_)) { 5 } else { 1 }] {
            let (code, said) = survey.call(reader);
            assert_eq!(code, 1, "{reader}, {kind:?}: {said}");
            let named = said.contains("shards/00000.h5: ");
            let helps = said.contains("remove its receipt ") && said.contains("receipts/00000.json");
            assert!(named && helps, "{reader}, {kind:?}: {said}");
        }
        // Reads receipts only, and must not mind.
        assert_eq!(survey.call("status").0, 0);
    }
    // What they say helps.
    std::fs::remove_file(survey.path("survey/run/receipts/00000.json")).unwrap();
    assert_eq!(survey.call("run").0, 0);
    assert_eq!(survey.contents(), want);
    assert_eq!(survey.call("merge").0, 0);
    assert_eq!(std::fs::read(&merged).unwrap(), merged_bytes, "a merge of the same shards has other bytes");

    let readers = ["verify FILE", "catalogue FILE", "export FILE sim-0002", "report FILE"];
    for kind in [Gone, Foreign, Half, Empty] {
        damage(&merged, &merged_bytes, &bundle_bytes, kind);
        for reader in &readers[..if matches!(kind, Gone | Foreign) { 4 } else { 2 }] {
            let (code, said) = survey.call(reader);
            assert!(code == 1 || code == 2, "{reader}, {kind:?}: {said}");
            let helps = said.contains("unseeing merge");
            assert!(said.contains("survey.h5: ") && helps, "{reader}, {kind:?}: {said}");
        }
    }
    // Its seal tells of any flipped bit.
    std::fs::write(&merged, &merged_bytes).unwrap();
    assert_eq!(survey.call("catalogue FILE").0, 0);
    for part in PARTS {
        damage(&merged, &merged_bytes, b"", Flipped(part));
        for reader in if part == 0.8 { &readers[..] } else { &readers[..2] } {
            let (code, said) = survey.call(reader);
            let named = code == 1 && said.contains("survey.h5: ") && said.contains("unseeing merge");
            assert!(named, "{reader}, {part}: {said}");
        }
    }
    std::fs::write(&merged, &merged_bytes).unwrap();

    // Packed inputs, where the shard is still to be done: they end the job, and no object is to blame.
    std::fs::remove_file(survey.path("survey/run/receipts/00000.json")).unwrap();
    for kind in [Half, Empty, Foreign].into_iter().chain(PARTS.map(Flipped)) {
        damage(&bundle, &bundle_bytes, &shard_bytes, kind);
        for reader in if kind == Half { &["run", "verify", "plan"] } else { &["run", "verify"][..] } {
            let (code, said) = survey.call(reader);
            assert_eq!(code, 1, "{reader}, {kind:?}: {said}");
            assert!(said.contains("inputs/00000.h5: ") && said.contains("remove it"), "{reader}, {kind:?}: {said}");
        }
        let (_, said) = survey.call("status --json");
        assert!(said.contains("\"failed\": 0,"), "{kind:?}: {said}");
    }
    std::fs::remove_file(&bundle).unwrap();
    assert_eq!(survey.call("pack").0, 0);
    assert_eq!(survey.call("run").0, 0);
    assert_eq!(survey.contents(), want);
}
