//! Publishing: a file appears under its name whole or not at all. It is written under a temporary name in the same
//! folder, closed, forced to the disk, renamed, and the folder's entry is forced to the disk. This is the only place of
//! the program that renames.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::{Error, Result, failpoint};

/// Temporary names start with this, so that they are known for what they are when a kill leaves them behind.
const PREFIX: &str = ".unfinished-";

/// Writes `path` through an open file. What `write` returns is returned once the file is in place.
pub fn publish<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    publish_path(path, |temporary| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(temporary)
            .map_err(|error| Error::file(path, format!("cannot create {}: {error}", temporary.display())))?;
        write(&mut file)
    })
}

/// The same for libraries that open files by name (HDF5): `write` creates the path that it is given, and closes it.
pub fn publish_path<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let folder = parent(path);
    if !folder.is_dir() {
        return Err(Error::file(path, format!("cannot write: there is no folder {}", folder.display())));
    }
    let temporary = temporary_name(path)?;
    let fault =
        |what: &str, error: std::io::Error| Error::file(path, format!("cannot {what} (disk or quota full?): {error}"));
    let begun = failpoint::io("publish.create").map_err(|error| fault("write", error));
    let outcome = begun.and_then(|()| write(&temporary)).and_then(|value| {
        failpoint::io("publish.written")
            .and_then(|()| File::open(&temporary))
            .and_then(|file| file.sync_all())
            .and_then(|()| failpoint::io("publish.flushed"))
            .map_err(|error| fault("write it to the disk", error))?;
        fs::rename(&temporary, path)
            .and_then(|()| failpoint::io("publish.renamed"))
            .map_err(|error| fault("put it in place", error))?;
        sync_folder(&folder)?;
        failpoint::io("publish.done").map_err(|error| fault("write the folder's entry", error))?;
        Ok(value)
    });
    if outcome.is_err() {
        // The error that brought us here is the one to report; a leftover is swept later.
        let _ = fs::remove_file(&temporary);
    }
    outcome
}

/// Publishes `bytes` as the whole content of `path`.
pub fn publish_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    publish(path, |file| file.write_all(bytes).map_err(|error| Error::file(path, format!("cannot write: {error}"))))
}

/// Forces a folder's entries to the disk.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| Error::file(folder, format!("cannot write the folder's entries to the disk: {error}")))
}

/// Removes what killed writers left in `folder`, if it is older than `age` before `now` (by the file system's clock).
/// Returns the number of files removed; a file that vanishes meanwhile is no error.
pub fn sweep(folder: &Path, now: SystemTime, age: Duration) -> Result<usize> {
    let entries = fs::read_dir(folder).map_err(|error| Error::file(folder, format!("cannot list: {error}")))?;
    let mut removed = 0;
    for entry in entries.flatten() {
        let unfinished = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let old = entry.metadata().and_then(|data| data.modified()).is_ok_and(|time| time + age < now);
        if unfinished && old && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// A name in the same folder that no other process uses, on this host or another.
fn temporary_name(path: &Path) -> Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| Error::file(path, "is not the name of a file"))?;
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let unique = format!("{}-{}-{}", std::process::id(), time.as_nanos(), count);
    Ok(temporary(&parent(path), &format!("{unique}-{}", name.to_string_lossy())))
}

/// A name in `folder` that `sweep` removes if it is left behind.
pub fn temporary(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{PREFIX}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let error = publish_bytes(&root.path().join("nowhere/file"), b"").unwrap_err().to_string();
        assert!(error.contains("there is no folder") && error.contains("nowhere/file"), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        publish_bytes(&path, b"old").unwrap();
        let failed: Result<()> = publish(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Error::internal("disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        publish_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn only_old_leftovers_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".unfinished-1-2-3-x"), b"half").unwrap();
        fs::write(folder.path().join("product"), b"whole").unwrap();
        let now = SystemTime::now();
        assert_eq!(sweep(folder.path(), now, Duration::from_secs(60)).unwrap(), 0);
        assert_eq!(sweep(folder.path(), now + Duration::from_secs(120), Duration::from_secs(60)).unwrap(), 1);
        assert!(folder.path().join("product").exists());
    }
}
