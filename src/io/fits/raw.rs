//! The one place with unsafe calls' common part: an open file, its lifetime, and cfitsio's errors.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fitsio::sys;

use crate::{Error, Result};

/// cfitsio keeps a table of open files and a stack of messages for the whole process, and not every build of it guards
/// them. One lock around each call costs nothing beside the call.
static LIBRARY: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open FITS file; closed when dropped.
pub(super) struct File {
    pointer: NonNull<sys::fitsfile>,
    pub(super) path: PathBuf,
}

// SAFETY: cfitsio binds no file to a thread, and every call holds the lock.
unsafe impl Send for File {}

impl File {
    /// Opens an existing file for reading. The name is taken literally.
    pub(super) fn open(path: &Path) -> Result<File> {
        let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::file(path, "no such file"),
            _ => Error::file(path, error),
        })?;
        if !metadata.is_file() {
            return Err(Error::file(path, "expected a FITS file, found something that is not a file"));
        }
        if metadata.len() == 0 {
            return Err(Error::file(path, "the file is empty (expected FITS)"));
        }
        let name = c_path(path)?;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: `name` and `pointer` outlive the call.
        let status = |status: &mut c_int| unsafe { sys::ffdkopn(&mut pointer, name.as_ptr(), 0, status) };
        check(path, "cannot open as FITS", status)?;
        File::owned(pointer, path)
    }

    /// Creates a file that must not exist yet.
    pub(super) fn create(path: &Path) -> Result<File> {
        let name = c_path(path)?;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: `name` and `pointer` outlive the call.
        let status = |status: &mut c_int| unsafe { sys::ffdkinit(&mut pointer, name.as_ptr(), status) };
        check(path, "cannot create the file", status)?;
        File::owned(pointer, path)
    }

    fn owned(pointer: *mut sys::fitsfile, path: &Path) -> Result<File> {
        let pointer = NonNull::new(pointer)
            .ok_or_else(|| Error::internal(format!("{}: cfitsio gave no file and no error", path.display())))?;
        Ok(File { pointer, path: path.to_path_buf() })
    }

    /// One call of cfitsio on this file. `what` says in words what failed.
    pub(super) fn call(
        &mut self,
        what: &str,
        call: impl FnOnce(*mut sys::fitsfile, &mut c_int) -> c_int,
    ) -> Result<()> {
        let pointer = self.pointer.as_ptr();
        check(&self.path, what, |status| call(pointer, status))
    }

    /// The same for a header keyword that may be absent: false when it is.
    pub(super) fn call_keyword(
        &mut self,
        what: &str,
        call: impl FnOnce(*mut sys::fitsfile, &mut c_int) -> c_int,
    ) -> Result<bool> {
        let guard = lock();
        let mut status = 0;
        call(self.pointer.as_ptr(), &mut status);
        match status {
            0 => Ok(true),
            // Absent, or present without a value.
            202 | 204 => {
                // SAFETY: no arguments.
                unsafe { sys::ffcmsg() };
                Ok(false)
            }
            _ => Err(failure(&self.path, what, status, &guard)),
        }
    }

    /// Closes the file and tells whether that worked: what was written is complete only then.
    pub(super) fn close(self) -> Result<()> {
        let file = std::mem::ManuallyDrop::new(self);
        let pointer = file.pointer.as_ptr();
        // SAFETY: the pointer is valid, and `ManuallyDrop` keeps it from being closed twice.
        let outcome = check(&file.path, "cannot finish the file", |status| unsafe { sys::ffclos(pointer, status) });
        // SAFETY: the path is dropped once, here, since `Drop` does not run.
        drop(unsafe { std::ptr::read(&file.path) });
        outcome
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let guard = lock();
        let mut status = 0;
        // SAFETY: the pointer is valid until here. A file that was only read has nothing to report.
        unsafe {
            sys::ffclos(self.pointer.as_ptr(), &mut status);
            sys::ffcmsg();
        }
        drop(guard);
    }
}

/// The version of cfitsio, as `major.minor`.
pub fn version() -> String {
    let mut version = 0.0;
    // SAFETY: writes one f32.
    unsafe { sys::ffvers(&mut version) };
    format!("{version:.2}")
}

fn check(path: &Path, what: &str, call: impl FnOnce(&mut c_int) -> c_int) -> Result<()> {
    let guard = lock();
    let mut status = 0;
    call(&mut status);
    if status == 0 { Ok(()) } else { Err(failure(path, what, status, &guard)) }
}

/// The error of a status: cfitsio's words, and its first message where it left one.
fn failure(path: &Path, what: &str, status: c_int, _lock: &MutexGuard<()>) -> Error {
    let mut buffer = [0 as c_char; 128];
    // SAFETY: the texts have at most 31 and 80 characters.
    unsafe { sys::ffgerr(status, buffer.as_mut_ptr()) };
    let text = from_c(&buffer);
    let mut detail = String::new();
    // SAFETY: as above.
    if unsafe { sys::ffgmsg(buffer.as_mut_ptr()) } != 0 {
        detail = format!("; {}", from_c(&buffer));
    }
    // SAFETY: no arguments.
    unsafe { sys::ffcmsg() };
    let hint = match status {
        // Reading or seeking beyond the end.
        104 | 106 | 107 | 108 | 116 => "; the file is truncated or damaged",
        _ => "",
    };
    Error::file(path, format!("{what} (cfitsio: {text}{detail}){hint}"))
}

/// A Rust string from a zero-terminated buffer; what is not UTF-8 is replaced.
pub(super) fn from_c(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> = buffer.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).trim_end().to_string()
}

/// The same from a pointer that cfitsio allocated.
pub(super) fn from_c_pointer(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: cfitsio terminates its strings.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().trim_end().to_string()
}

/// A C string, for keyword names and values.
pub(super) fn to_c(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::internal(format!("text with a NUL character for a FITS header: {text:?}")))
}

fn c_path(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    // cfitsio copies names into fixed buffers of 1025 characters.
    if bytes.len() > 1000 {
        return Err(Error::file(path, "the path is longer than the 1000 characters that cfitsio can take"));
    }
    CString::new(bytes).map_err(|_| Error::file(path, "the path holds a NUL character"))
}
