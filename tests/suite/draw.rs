//! `unseeing draw` through the real program: kills, signals, ranks, more draws.

use std::path::Path;
use std::process::Command;

use unseeing::io::hdf5::Reader;

use crate::common::{Run, mpirun, squeue, unseeing};
use crate::prior::write_config;

/// Blocks of 16.
const BLOCKS: usize = 20;

/// A hardly trained prior of sixteen pixels.
fn trained() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), 2);
    let mut command = unseeing();
    command.args(["train", "train.toml", "--out", "run"]).current_dir(folder.path());
    assert!(command.output().unwrap().status.success());
    folder
}

fn start(mut program: Command, folder: &Path, out: &str, count: usize) -> Run {
    program.arg("draw").arg(folder.join("run/prior.safetensors")).args(["--count", &count.to_string(), "--out"]);
    program.arg(folder.join(out));
    Run::start(program, folder.join(format!("{out}.log")))
}

/// Finished blocks of an output that is not there yet.
fn blocks(folder: &Path, out: &str) -> usize {
    let Ok(mut keys) = std::fs::read_dir(folder.join(format!("{out}.parts"))) else { return 0 };
    let Some(Ok(key)) = keys.next() else { return 0 };
    let entries = std::fs::read_dir(key.path()).unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".safetensors")).count()
}

fn bytes(folder: &Path, out: &str) -> Vec<u8> {
    assert!(!folder.join(format!("{out}.parts")).exists(), "blocks are left behind");
    std::fs::read(folder.join(out)).unwrap()
}

#[test]
fn mpi_crash_draws_are_the_same_bytes_whatever_ranks_kills_and_signals() {
    let folder = trained();
    let folder = folder.path();
    let count = 16 * BLOCKS - 3;
    assert_eq!(start(unseeing(), folder, "alone.h5", count).code(), 0);
    let want = bytes(folder, "alone.h5");
    assert!(std::fs::read(folder.join("alone.png")).unwrap().starts_with(b"\x89PNG"));

    // Killed alone, stopped by a signal under three ranks, and ended by two.
    let mut run = start(unseeing(), folder, "other.h5", count);
    run.until("blocks", || blocks(folder, "other.h5") > 1);
    run.kill_all();
    assert!(blocks(folder, "other.h5") < BLOCKS, "it had ended before it was killed");
    let mut run = start(mpirun(3), folder, "other.h5", count);
    let before = blocks(folder, "other.h5");
    run.until("further blocks", || blocks(folder, "other.h5") > before);
    run.signal(libc::SIGUSR1);
    assert_eq!(run.code(), 75);
    assert!(!folder.join("other.h5").exists() && blocks(folder, "other.h5") < BLOCKS);
    assert_eq!(start(mpirun(2), folder, "other.h5", count).code(), 0);
    assert_eq!(bytes(folder, "other.h5"), want);

    // Rank 0 alone asks Slurm for the time, and all of them stop in it.
    let mut command = mpirun(3);
    command.env("PATH", squeue(&folder.join("tools"), 3)).env("SLURM_JOB_ID", "77");
    assert_eq!(start(command, folder, "many.h5", 16 * 5000).code(), 75);
    assert!(blocks(folder, "many.h5") > 0);
    assert_eq!(std::fs::read_to_string(folder.join("tools/asked")).unwrap().lines().count(), 1);

    // What is done is not done again; fewer draws are the first of more.
    let again = start(unseeing(), folder, "other.h5", count);
    assert_eq!(again.code(), 0);
    assert!(std::fs::read_to_string(folder.join("other.h5.log")).unwrap().contains("already"));
    assert_eq!(start(unseeing(), folder, "few.h5", 5).code(), 0);
    let images = |name: &str, rows| {
        let reader = Reader::open(&folder.join(name)).unwrap();
        reader.read_rows::<f32>("stretched", 0..rows).unwrap()
    };
    assert_eq!(images("few.h5", 5), images("alone.h5", 5));

    // A prior that is not there ends all ranks.
    std::fs::remove_file(folder.join("run/prior.safetensors")).unwrap();
    let run = start(mpirun(2), folder, "none.h5", 5);
    assert_eq!(run.code(), 2);
    assert!(std::fs::read_to_string(folder.join("none.h5.log")).unwrap().contains("prior.safetensors"));
}
