//! Disks that are full, read-only or littered: errors that name the file, and nothing lost or blamed. The full disks are
//! real ones, small file systems in memory, which only root can mount.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::{ToySurvey, unseeing};
use crate::damage::Survey;

/// A file system of its own, as long as this lives.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many KiB at `place`; `None`, said aloud, where that cannot be.
    pub fn mount(place: &Path, size: u32) -> Option<SmallDisk> {
        std::fs::create_dir_all(place).unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}k"), "unseeing-test"])
            .arg(place)
            .output();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(place.to_path_buf()));
        }
        println!("SKIPPED: needs to be allowed to mount a small file system");
        None
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status();
        assert!(status.unwrap().success(), "remount {options}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn crash_free_disk_that_fills_stops_the_run_which_goes_on_with_more_room() {
    let want = {
        let survey = ToySurvey::new(&["sleep=1"; 3], 2);
        assert_eq!(survey.run(0), 0);
        survey.digests()
    };
    let mut full = 0;
    for size in (4..).step_by(8) {
        let survey = ToySurvey::new(&["sleep=1"; 3], 2);
        let Some(disk) = SmallDisk::mount(&survey.path("run"), size) else { return };
        let ranks = if size % 3 == 0 { 2 } else { 0 };
        let code = survey.run(ranks);
        if code != 0 {
            full += 1;
            assert_eq!(code, 1, "{size} KiB: {}", survey.said());
            assert!(survey.said().contains("No space left on device"), "{size} KiB: {}", survey.said());
            // Once more on the full disk: no object may be blamed for it.
            assert_eq!(survey.run(0), 1, "{size} KiB: {}", survey.said());
            disk.remount("size=64m");
            assert_eq!(survey.run(0), 0, "{size} KiB: {}", survey.said());
        }
        assert_eq!(survey.digests(), want, "{size} KiB");
        drop(disk);
        if code == 0 {
            break;
        }
    }
    assert!(full > 3, "the disks were hardly ever full");
}

#[test]
fn crash_free_read_only_folder_is_named_and_can_be_looked_at() {
    let survey = ToySurvey::new(&[""; 2], 1);
    let Some(disk) = SmallDisk::mount(&survey.path("run"), 10_000) else { return };
    survey.report("plan");
    disk.remount("ro");
    for command in [&["run", "--engine", "toy"][..], &["retry", "--claims"]] {
        let output = unseeing().args(command).arg(survey.path("survey.toml")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if command[0] == "run" {
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("Read-only file system") && said.contains("/run"), "{said}");
        }
    }
    assert_eq!(survey.report("status")["done"], 0);
    disk.remount("rw");
    assert_eq!(survey.run(0), 0);
    assert!(survey.report("status")["complete"].as_bool().unwrap());
    drop(disk);
}

#[test]
fn crash_free_leftovers_of_killed_writers_do_no_harm_and_are_swept_when_old() {
    let survey = ToySurvey::new(&[""; 2], 1);
    survey.report("plan");
    let places = ["", "claims", "shards", "receipts"];
    for place in places {
        for (name, days) in [(".unfinished-1-1-1-old", 2), (".unfinished-2-2-2-new", 0), ("README", 9)] {
            let path = survey.path("run").join(place).join(name);
            std::fs::write(&path, "half a file").unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400)).unwrap();
        }
    }
    std::fs::write(survey.path("run/claims/00000.claim.x"), "").unwrap();
    std::fs::write(survey.path("run/journals/00000.journal.1.bak"), "").unwrap();
    assert_eq!(survey.run(2), 0, "{}", survey.said());
    for place in places {
        let has = |name: &str| survey.path("run").join(place).join(name).exists();
        assert!(!has(".unfinished-1-1-1-old") && has(".unfinished-2-2-2-new") && has("README"), "{place}");
    }
    assert_eq!(survey.digests().len(), 2);
}

/// Packed inputs and merged files, which are HDF5: they come whole or not at all, and the next call makes the same.
#[test]
fn crash_free_packing_and_merging_need_room_and_leave_nothing_half() {
    let survey = Survey::new();
    let (run, receipts) = (survey.path("survey/run"), survey.path("survey/run/receipts"));
    let merged = survey.path("survey/merged");
    std::fs::create_dir(&merged).unwrap();
    for name in ["survey.h5", "survey.fits"] {
        std::fs::rename(survey.path("survey").join(name), merged.join(name)).unwrap();
    }
    let call = |command: &str, failpoint: &str| {
        let mut program = unseeing();
        match command {
            "pack" => program.arg("pack").arg(survey.config()),
            _ => program.args(["merge", "--out"]).arg(merged.join("survey.h5")).arg(&run),
        };
        program.envs((!failpoint.is_empty()).then_some(("UNSEEING_FAILPOINT", failpoint)));
        let output = program.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (command, folder, name) in [("merge", &merged, "survey.h5"), ("pack", &run.join("inputs"), "00000.h5")] {
        if command == "pack" {
            // What is done is not packed.
            std::fs::rename(&receipts, survey.path("receipts")).unwrap();
            std::fs::create_dir(&receipts).unwrap();
        }
        let files = || -> BTreeMap<PathBuf, Vec<u8>> {
            let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
        };
        let want = files();
        want.keys().for_each(|path| std::fs::remove_file(path).unwrap());
        let refused = |what: &str, failpoint: &str, words: &str| {
            let (code, said) = call(command, failpoint);
            assert!(
                code == Some(1) && said.contains(words) && said.contains(name),
                "{command}, {what}: {code:?} {said}"
            );
            // What is there is whole; nothing else is.
            assert!(files().iter().all(|(path, bytes)| want[path] == *bytes), "{command}, {what}");
        };
        refused("a full quota", "publish.written=quota", "Disk quota exceeded");
        assert!(files().is_empty());
        let mut full = 0;
        for size in (60..).step_by(400) {
            let Some(disk) = SmallDisk::mount(folder, size) else { return };
            if size == 60 {
                disk.remount("ro");
                refused("a read-only folder", "", "Read-only file system");
                disk.remount("rw");
            }
            let room = call(command, "").0 == Some(0);
            if !room {
                full += 1;
                let (code, said) = call(command, "");
                let named = said.contains("No space left on device")
                    && [".h5: ", ".fits: "].iter().any(|file| said.contains(file));
                assert!(code == Some(1) && named, "{command}, {size} KiB: {code:?} {said}");
                assert!(files().iter().all(|(path, bytes)| want[path] == *bytes), "{command}, {size} KiB");
                disk.remount("size=64m");
                assert_eq!(call(command, "").0, Some(0), "{command}, {size} KiB");
            }
            assert_eq!(files(), want, "{command}, {size} KiB");
            if room {
                break;
            }
        }
        assert!(full > 1, "{command}: the disks were hardly ever full");
    }
}

/// No work depends on the event log: where it cannot be written, the run goes on, and says so once.
#[test]
fn crash_free_event_log_that_cannot_be_written_stops_nothing() {
    let want = {
        let survey = ToySurvey::new(&[""; 12], 1);
        assert_eq!(survey.run(0), 0);
        survey.digests()
    };
    for place in ["full", "read-only"] {
        let survey = ToySurvey::new(&[""; 12], 1);
        // One page, which twelve shards' receipts do not fit in.
        let Some(disk) = SmallDisk::mount(&survey.path("run/events"), 4) else { return };
        if place == "read-only" {
            disk.remount("ro");
        }
        assert_eq!(survey.run(2), 0, "{place}: {}", survey.said());
        assert_eq!(survey.said().matches("the event log cannot be written").count(), 1, "{place}: {}", survey.said());
        assert_eq!(survey.digests(), want, "{place}");
        let logs = survey.files("events");
        assert_eq!(logs.len(), usize::from(place == "full"), "{place}");
        for log in logs {
            let text = std::fs::read_to_string(log).unwrap();
            assert!(text.ends_with('\n') && text.len() > 2000, "{text}");
            // Whole lines. After what was too long, a shorter event may have found room: then the gap is told.
            let events =
                text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].clone());
            let events: Vec<_> = events.collect();
            assert!(events.contains(&"published".into()), "{events:?}");
        }
    }
}

/// What is done to a file: cut in half, emptied, removed, or replaced by something else.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    Half,
    Empty,
    Gone,
    Foreign,
    /// One bit, where it does not spoil the file's syntax: of a digit or a letter.
    Flipped,
}

/// Every kind of file of a run folder, damaged in every way: who notices, what is said, and what helps. Where nothing is to
/// be said, the run goes on and its content is the same.
#[test]
fn crash_free_corrupted_files_are_named_with_a_way_out() {
    use Damage::*;
    let survey = ToySurvey::new(&["", "stumble=2.3"], 1);
    assert_eq!(survey.run(0), 3);
    let want = survey.digests();
    let run = |command: &[&str]| {
        let output = unseeing().args(command).arg(survey.path("survey.toml")).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().unwrap(), said)
    };
    let toy: &[&str] = &["run", "--engine", "toy"];
    // The file; the damage; who notices; a word of what is said ("" where the run just goes on).
    let table: [(&str, &[Damage], &[&str], &str); 12] = [
        ("plan.json", &[Half, Empty, Foreign, Flipped], toy, "Put the whole file back, or plan in another folder"),
        ("plan.json", &[Half, Empty, Gone, Foreign], &["verify"], "plan"),
        ("config.toml", &[Half, Empty, Gone, Foreign], toy, ""),
        ("config.toml", &[Half, Empty, Foreign, Flipped], &["verify"], "Remove it"),
        ("targets.bin", &[Half, Empty, Gone, Foreign, Flipped], &["verify"], "put the whole file back"),
        ("receipts/00000.json", &[Half, Empty, Foreign, Flipped], toy, "remove it, and its shard is done again"),
        ("receipts/00000.json", &[Flipped], &["status"], "remove it, and its shard is done again"),
        ("receipts/00000.json", &[Gone], toy, ""),
        ("shards/00000.records", &[Half, Empty, Gone, Foreign, Flipped], &["verify"], "remove its receipt"),
        ("journals/00001.journal.1", &[Half, Empty, Gone, Foreign], toy, ""),
        ("claims/00001.claim.7", &[Empty, Foreign], toy, ""),
        (".unfinished-1-1-1-plan.json", &[Empty, Foreign], toy, ""),
    ];
    for (file, damages, command, words) in table {
        let path = survey.path("run").join(file);
        let whole = std::fs::read(&path).ok();
        for &damage in damages {
            let bytes = whole.clone().unwrap_or_default();
            match damage {
                Half => std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                Empty => std::fs::write(&path, b"").unwrap(),
                Gone => std::fs::remove_file(&path).unwrap(),
                Foreign => std::fs::write(&path, b"{\"a letter\": \"of somebody else\"}").unwrap(),
                Flipped => {
                    let mut bytes = bytes;
                    let place = bytes.iter().rposition(u8::is_ascii_digit).unwrap();
                    bytes[place] ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                }
            }
            let (code, said) = run(command);
            if words.is_empty() {
                assert_eq!(code, 3, "{file} {damage:?}: {said}");
            } else {
                let named = said.contains(file) || (file == "plan.json" && said.contains("/run: has no plan"));
                assert!(code == 1 || code == 2, "{file} {damage:?}: {code}: {said}");
                assert!(said.contains(words) && named, "{file} {damage:?}: {said}");
            }
            match &whole {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => _ = std::fs::remove_file(&path),
            }
            if words.is_empty() {
                assert_eq!(survey.digests(), want, "after {file} {damage:?}");
            }
        }
    }
    // The table of targets is needed where a shard is still to be done.
    let (path, receipt) = (survey.path("run/targets.bin"), survey.path("run/receipts/00001.json"));
    let (whole, proof) = (std::fs::read(&path).unwrap(), std::fs::read(&receipt).unwrap());
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, words) in
        [(Some(&flipped[..]), "damaged"), (Some(b"".as_slice()), "cannot read"), (None, "cannot read")]
    {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        std::fs::remove_file(&receipt).unwrap();
        let (code, said) = run(toy);
        assert!(code == 1 && said.contains(words) && said.contains("targets.bin"), "{code}: {said}");
        assert!(said.contains("plan in another folder"), "{said}");
        std::fs::write(&path, &whole).unwrap();
        std::fs::write(&receipt, &proof).unwrap();
    }
    assert_eq!(run(toy).0, 3);
    assert_eq!(survey.digests(), want);
}
