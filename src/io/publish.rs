//! Publishing: a file appears under its name only when it is whole, and on the disk.

use std::fs::{self, File};
use std::path::Path;

use crate::{Error, Result};

/// Lets `write` fill a temporary file beside `path` (for libraries that want a path rather than an open file), then
/// fsyncs it, renames it to `path` and fsyncs the folder. On an error the temporary file is removed and whatever was
/// at `path` stays as it was.
pub fn publish_path<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::file(path, "cannot publish: the path has no file name"));
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(hidden);
    let outcome = write(&temporary).and_then(|value| {
        let sync = |step: &Path| File::open(step).and_then(|file| file.sync_all());
        sync(&temporary)
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| sync(folder))
            .map_err(|error| Error::file(path, format!("cannot publish: {error}")))?;
        Ok(value)
    });
    if outcome.is_err() {
        // Best effort: what matters is that nothing half-written carries the real name.
        let _ = fs::remove_file(&temporary);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let put = |text: &'static str| {
            move |temporary: &Path| fs::write(temporary, text).map_err(|error| Error::file(temporary, error))
        };
        publish_path(&path, put("old")).unwrap();
        let failed = publish_path(&path, |temporary| {
            put("half")(temporary)?;
            Err::<(), _>(Error::internal("stopped"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        publish_path(&path, put("new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
