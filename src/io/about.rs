//! Versions of the file libraries, and whether a folder's file system keeps the promises that publishing needs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::{Error, Result};

/// Version of the HDF5 library.
pub fn hdf5_version() -> String {
    let (major, minor, micro) = hdf5::library_version();
    format!("{major}.{minor}.{micro}")
}

/// Version of the cfitsio library, as it says itself (two or three decimals).
pub fn cfitsio_version() -> String {
    let mut version = 0.0f32;
    // SAFETY: the function writes one float.
    unsafe { fitsio::sys::ffvers(&mut version) };
    format!("{version:.3}")
}

/// One property of a file system.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub good: bool,
    pub note: String,
}

/// Clocks of the file server and of this machine further apart than this make file dates hard to read.
const CLOCK_LIMIT: Duration = Duration::from_secs(30);

/// Tries, in a temporary folder below `folder` (made if absent), what a run will do there: exclusive creation, rename over an
/// existing file, flush of file and folder, file dates.
pub fn check_folder(folder: &Path) -> Result<Vec<Check>> {
    fs::create_dir_all(folder).map_err(|error| Error::file(folder, format!("cannot make the folder: {error}")))?;
    let probe = folder.join(format!(".doctor-{}", std::process::id()));
    fs::create_dir(&probe).map_err(|error| Error::file(&probe, format!("cannot write here: {error}")))?;
    let checks = vec![
        judge("kind", kind(folder)),
        judge("free space", free_space(folder)),
        judge("exclusive creation", exclusive(&probe)),
        judge("rename over an existing file", rename(&probe)),
        judge("flush of a file and its folder", flush(&probe)),
        judge("clock of the file server", clock(&probe)),
    ];
    fs::remove_dir_all(&probe).map_err(|error| Error::file(&probe, format!("cannot be removed: {error}")))?;
    Ok(checks)
}

fn judge(name: &'static str, outcome: std::io::Result<String>) -> Check {
    match outcome {
        Ok(note) => Check { name, good: true, note },
        Err(error) => Check { name, good: false, note: error.to_string() },
    }
}

fn statfs(folder: &Path) -> std::io::Result<libc::statfs> {
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).map_err(std::io::Error::other)?;
    let mut out = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: a zero-terminated path, and a buffer of the right type that is valid when the call returns 0.
    match unsafe { libc::statfs(path.as_ptr(), out.as_mut_ptr()) } {
        0 => Ok(unsafe { out.assume_init() }),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Name of the file system, from its magic number (statfs(2)).
fn kind(folder: &Path) -> std::io::Result<String> {
    let name = match statfs(folder)?.f_type as u32 {
        0x0BD0_0BD0 => "Lustre",
        0x6969 => "NFS",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x00C3_6400 => "Ceph",
        0xEF53 => "ext",
        0x5846_5342 => "XFS",
        0x9123_683E => "Btrfs",
        0x794C_7630 => "overlay",
        0x0102_1994 => "tmpfs (in memory: gone when the machine stops)",
        other => return Ok(format!("magic {other:#x}")),
    };
    Ok(name.into())
}

fn free_space(folder: &Path) -> std::io::Result<String> {
    let found = statfs(folder)?;
    let free = found.f_bavail as f64 * found.f_bsize as f64 / 1e9;
    match free {
        free if free < 1.0 => Err(std::io::Error::other(format!("{free:.2} GB: too little"))),
        free => Ok(format!("{free:.0} GB, {} inodes", found.f_ffree)),
    }
}

fn exclusive(probe: &Path) -> std::io::Result<String> {
    let path = probe.join("claim");
    OpenOptions::new().write(true).create_new(true).open(&path)?;
    match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok("holds".into()),
        Err(error) => Err(error),
        Ok(_) => Err(std::io::Error::other("the same file was created twice: two jobs could claim one shard")),
    }
}

fn rename(probe: &Path) -> std::io::Result<String> {
    let (from, to) = (probe.join("new"), probe.join("old"));
    fs::write(&to, "old")?;
    fs::write(&from, "new")?;
    fs::rename(&from, &to)?;
    match fs::read(&to)? == b"new" && !from.exists() {
        true => Ok("holds".into()),
        false => Err(std::io::Error::other("the old file is still there")),
    }
}

fn flush(probe: &Path) -> std::io::Result<String> {
    let start = std::time::Instant::now();
    let mut file = File::create(probe.join("flushed"))?;
    file.write_all(&vec![0; 1 << 20])?;
    file.sync_all()?;
    File::open(probe)?.sync_all()?;
    Ok(format!("{:.0} ms for 1 MiB", start.elapsed().as_secs_f64() * 1e3))
}

fn clock(probe: &Path) -> std::io::Result<String> {
    let path = probe.join("dated");
    fs::write(&path, "")?;
    let stamp = fs::metadata(&path)?.modified()?;
    let here = SystemTime::now();
    let apart = here.duration_since(stamp).or_else(|_| stamp.duration_since(here)).unwrap_or_default();
    match apart > CLOCK_LIMIT {
        true => Err(std::io::Error::other(format!("{:.0} s away from this machine's", apart.as_secs_f64()))),
        false => Ok(format!("within {:.1} s", apart.as_secs_f64())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_passes_and_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let checks = check_folder(folder.path()).unwrap();
        for name in ["exclusive creation", "rename over an existing file", "flush of a file and its folder"] {
            assert!(checks.iter().any(|check| check.name == name && check.good), "{checks:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_the_folders_place_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(check_folder(file.path()).is_err());
    }

    #[test]
    fn libraries_say_their_versions() {
        assert!(hdf5_version().starts_with("1.") || hdf5_version().starts_with("2."));
        assert!(cfitsio_version().parse::<f32>().unwrap() > 3.0);
    }
}
