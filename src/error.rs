//! The library's error type. Every variant names the thing that is wrong, what was expected, and how to mend it.

use std::path::{Path, PathBuf};

/// Exit codes of the program, beyond 1 (failed) and 2 (a usage error, before any work).
pub mod exit {
    /// All done.
    pub const DONE: i32 = 0;
    /// Done, but some objects failed.
    pub const SOME_FAILED: i32 = 3;
    /// Stopped early, run again to go on.
    pub const RESUMABLE: i32 = 75;
}

/// What can go wrong. `exit_code` tells the command line what to answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments, the config or a file named in it cannot be used: nothing has been done yet.
    #[error("{0}")]
    Usage(String),
    /// A file that cannot be read, written or understood.
    #[error("{}: {what}", path.display())]
    File { path: PathBuf, what: String },
    /// One object's input is unusable. It never stops a survey: the object gets this as its reason.
    #[error("object {object}: {what}")]
    Object { object: String, what: String },
    /// libtorch refused an operation: a shape, a device, a kind, or no memory left.
    #[error("libtorch: {}", without_trace(.0))]
    Torch(#[from] tch::TchError),
    /// Something that should not happen whatever the input: a fault of the program, or of the machine.
    #[error("internal error: {0}")]
    Internal(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A usage error (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Error::Usage(message.into())
    }

    /// An error of the file at `path`; `what` says what was expected and how to mend it.
    pub fn file(path: impl AsRef<Path>, what: impl std::fmt::Display) -> Self {
        Error::File { path: path.as_ref().to_path_buf(), what: what.to_string() }
    }

    /// An error of one object.
    pub fn object(object: impl Into<String>, what: impl std::fmt::Display) -> Self {
        Error::Object { object: object.into(), what: what.to_string() }
    }

    /// A fault of the program itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::Internal(message.into())
    }

    /// 2 for what the user can mend before any work is done, 1 for the rest (the exit codes are in the README).
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Usage(_) => 2,
            _ => 1,
        }
    }
}

/// What libtorch says, in one line. The stack behind it has addresses of this process: no user can mend anything with them, and
/// the reason of a failed object, which is content of a product, would never be the same twice.
fn without_trace(error: &tch::TchError) -> String {
    let text = error.to_string();
    let said = text.split("Exception raised from").next().unwrap_or(&text);
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn errors_of_libtorch_are_one_line_and_repeat() {
        let said = || {
            let matrix = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
            Error::from(matrix.f_matmul(&matrix).unwrap_err()).to_string()
        };
        let first = said();
        assert!(first.starts_with("libtorch: ") && first.contains("2x3"), "{first}");
        assert!(!first.contains('\n') && !first.contains("frame") && !first.contains("0x7"), "{first}");
        assert_eq!(first, said());
    }
}
