//! Named places where tests make the program die, freeze or fail: before and after everything that is written, renamed,
//! claimed or received. `UNSEEING_FAILPOINT` holds what is to happen, as `NAME[:COUNT]=ACTION`, several with commas:
//!
//! ```text
//! UNSEEING_FAILPOINT=journal.append:3=kill,publish.renamed=freeze
//! ```
//!
//! `COUNT` is the passage at which it happens (1 if not given). Actions: `kill` (as by kill -9), `freeze` (as by a stop
//! signal, until it is woken), `exit` (with 1), `panic`, and, at this and every later passage, `error`, `full` and `quota`: the
//! input/output error, full disk or full quota that the operating system would report. For tests only. Without the
//! variable a passage costs one atomic load.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

const VARIABLE: &str = "UNSEEING_FAILPOINT";

/// Every failpoint, in the order in which a run comes to them.
pub const NAMES: [&str; 28] = [
    "run.joined",       // the rank is in its job, and has done nothing
    "publish.create",   // before a file to be published is begun
    "publish.written",  // it is written, not flushed
    "publish.flushed",  // it is flushed, not in place
    "publish.renamed",  // it is in place, the folder's entry is not flushed
    "publish.done",     // it is published
    "run.started",      // the rank has config and prior
    "claim.create",     // before the claim is made
    "claim.created",    // it is there, and empty
    "claim.written",    // it names its holder
    "journal.create",   // before a journal is begun
    "journal.created",  // it is there, and empty
    "journal.append",   // before a frame
    "journal.torn",     // half of the frame is written
    "journal.appended", // the frame is written
    "worker.step",      // before a step of the sampler, on the worker's thread
    "journal.sync",     // before the journal is flushed
    "journal.synced",   // it is flushed
    "claim.touch",      // before the claim is touched
    "receipt.before",   // the product is in place, and has no receipt
    "receipt.after",    // it has one
    "clean.claims",     // before the shard's claims are removed
    "clean.journals",   // they are; before its journals are removed
    "claim.release",    // before the claim is given back
    "claim.released",   // it is given back
    "retry.journaled",  // the journal says what to do again, the receipt is still there
    "retry.removed",    // the receipt is removed
    "run.leaving",      // the rank has said its last word
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Freeze,
    Exit,
    Panic,
    /// An error of the operating system.
    Fail(i32),
}

/// One entry of the variable.
#[derive(Debug)]
struct Trap {
    name: String,
    count: u32,
    action: Action,
    passages: AtomicU32,
}

static TRAPS: OnceLock<Vec<Trap>> = OnceLock::new();

/// Reads the variable; first of all, and once.
///
/// # Errors
/// A variable that cannot be understood, or that names no failpoint: a test with it would test nothing.
pub fn prepare() -> Result<()> {
    if let Some(text) = std::env::var_os(VARIABLE) {
        let text = text.to_string_lossy();
        let traps = text.split(',').map(parse).collect::<Option<Vec<_>>>().ok_or_else(|| {
            Error::usage(format!("{VARIABLE}={text}: not NAME[:COUNT]=ACTION; names are {}", NAMES.join(", ")))
        })?;
        // A second call in one process finds what the first one has set.
        let _ = TRAPS.set(traps);
    }
    Ok(())
}

fn parse(text: &str) -> Option<Trap> {
    let (place, action) = text.split_once('=')?;
    let (name, count) = place
        .split_once(':')
        .map_or(Some((place, 1)), |(name, count)| Some((name, count.parse().ok().filter(|&count: &u32| count > 0)?)))?;
    let action = match action {
        "kill" => Action::Kill,
        "freeze" => Action::Freeze,
        "exit" => Action::Exit,
        "panic" => Action::Panic,
        "error" => Action::Fail(libc::EIO),
        "full" => Action::Fail(libc::ENOSPC),
        "quota" => Action::Fail(libc::EDQUOT),
        _ => return None,
    };
    let known = NAMES.contains(&name);
    known.then(|| Trap { name: name.into(), count, action, passages: AtomicU32::new(0) })
}

/// A passage through the failpoint `name`, in code that deals with the operating system's errors.
pub fn io(name: &'static str) -> io::Result<()> {
    debug_assert!(NAMES.contains(&name), "{name} is not listed");
    match TRAPS.get() {
        None => Ok(()),
        Some(traps) => traps.iter().filter(|trap| trap.name == name).try_for_each(Trap::pass),
    }
}

/// Whether something is to happen at `name`: for places that have to prepare for it.
pub fn is_set(name: &str) -> bool {
    TRAPS.get().is_some_and(|traps| traps.iter().any(|trap| trap.name == name))
}

/// `io` where errors are the program's own.
pub fn at(name: &'static str) -> Result<()> {
    io(name).map_err(|error| Error::internal(format!("at the failpoint {name}: {error}")))
}

impl Trap {
    fn pass(&self) -> io::Result<()> {
        let passage = self.passages.fetch_add(1, Ordering::SeqCst) + 1;
        let signal = |signal: i32| {
            // Said first, so that a test can tell a failpoint from an accident.
            eprintln!("failpoint {}:{}", self.name, self.count);
            // SAFETY: a signal to this process.
            unsafe { libc::kill(libc::getpid(), signal) };
        };
        match self.action {
            Action::Fail(code) if passage >= self.count => Err(io::Error::from_raw_os_error(code)),
            Action::Kill if passage == self.count => {
                signal(libc::SIGKILL);
                // It comes at the latest when this returns to the program; nothing may be done until then.
                loop {
                    std::thread::park();
                }
            }
            Action::Freeze if passage == self.count => {
                signal(libc::SIGSTOP);
                Ok(())
            }
            Action::Exit if passage == self.count => std::process::exit(1),
            Action::Panic if passage == self.count => std::panic::panic_any(format!("at the failpoint {}", self.name)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_names_and_known_actions_are_taken() {
        let trap = parse("journal.append:3=full").unwrap();
        assert_eq!((trap.name.as_str(), trap.count, trap.action), ("journal.append", 3, Action::Fail(libc::ENOSPC)));
        assert_eq!(parse("run.leaving=freeze").unwrap().count, 1);
        for bad in ["journal.append", "journal.append:0=kill", "journal.append=die", "journal=kill", ""] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_error_comes_at_its_passage_and_stays() {
        let trap = parse("claim.touch:2=quota").unwrap();
        assert!(trap.pass().is_ok());
        for _ in 0..2 {
            assert_eq!(trap.pass().unwrap_err().raw_os_error(), Some(libc::EDQUOT));
        }
        // Without the variable nothing happens anywhere.
        NAMES.iter().for_each(|name| io(name).unwrap());
    }
}
