//! Claims: which job works on which shard. A claim is a file that is created exclusively, touched while the job lives,
//! and stale when it has not been touched for the claim timeout by the file system's own clock. A stale claim is not
//! removed: the next attempt creates the claim of the next number, which only one job can. The claim with the highest
//! number counts; an older holder that was only asleep sees at its next touch that it has lost the shard.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::cluster;
use crate::io::publish;
use crate::{Error, Result, failpoint};

/// Content of a claim that was given back.
const RELEASED: &[u8] = b"released\n";

/// Who holds a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub host: String,
    pub pid: u32,
    /// Which start of which machine, and which namespace of process numbers: `pid` means something only there.
    pub boot: String,
    /// When the process started, in ticks since that boot: process numbers are used again.
    pub started: u64,
    /// When it took the claim, in seconds since 1970; 0 if it does not tell. For people: staleness goes by touches.
    #[serde(default)]
    pub since: u64,
}

impl Holder {
    /// This process.
    pub fn this() -> Holder {
        let pid = std::process::id();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Holder { host: cluster::host(), pid, boot: boot(), started: start_ticks(pid).unwrap_or(0), since }
    }

    /// Whether the process is known to be dead. Of processes on other machines nothing is known.
    pub fn is_dead(&self) -> bool {
        !self.boot.is_empty() && self.boot == boot() && start_ticks(self.pid) != Some(self.started)
    }
}

/// This machine's boot and process namespace; empty where there is no /proc.
fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
    if boot.is_empty() || namespace.is_empty() { String::new() } else { format!("{} {namespace}", boot.trim()) }
}

/// When a process started, in clock ticks since boot (field 22 of its stat); `None` if there is no such process.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything, so fields are counted from its closing bracket. A zombie has ended.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What one look at a shard's claims found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody works on it.
    Free,
    /// Somebody does; `touched` by the file system's clock.
    Held { holder: Option<Holder>, touched: SystemTime },
    /// Somebody did, and has died or been silent for too long.
    Stale { holder: Option<Holder> },
}

/// Looks at the newest claim of a shard.
pub fn look(folder: &Folder, shard: u32, attempts: &[u32], now: SystemTime, timeout: Duration) -> State {
    let Some(&attempt) = attempts.last() else { return State::Free };
    let path = folder.claim(shard, attempt);
    // A claim that vanishes while it is looked at belongs to a shard that has just been finished.
    let (Ok(data), Ok(content)) = (fs::metadata(&path), fs::read(&path)) else { return State::Free };
    if content.starts_with(RELEASED) {
        return State::Free;
    }
    let holder: Option<Holder> = serde_json::from_slice(&content).ok();
    let touched = data.modified().unwrap_or(now);
    let silent = now.duration_since(touched).is_ok_and(|age| age > timeout);
    if silent || holder.as_ref().is_some_and(Holder::is_dead) {
        return State::Stale { holder };
    }
    State::Held { holder, touched }
}

/// Whether an attempt ended by giving its claim back: then its process did not die of what was in flight.
pub fn was_released(folder: &Folder, shard: u32, attempt: u32) -> bool {
    fs::read(folder.claim(shard, attempt)).is_ok_and(|content| content.starts_with(RELEASED))
}

/// `look` by the file system's clock and the timeout that the survey was planned with.
pub fn look_now(folder: &Folder, shard: u32, attempts: &[u32], plan: &super::plan::Plan) -> Result<State> {
    let seconds = plan.config["run"]["claim_timeout"].as_f64().unwrap_or(600.0);
    let now = file_system_now(&folder.claims())?;
    Ok(look(folder, shard, attempts, now, Duration::from_secs_f64(seconds)))
}

/// The time by the file system's clock: that of a file written just now in `folder`.
pub fn file_system_now(folder: &Path) -> Result<SystemTime> {
    let probe = publish::temporary(folder, &format!("{}-{}-clock", cluster::host(), std::process::id()));
    let time = File::create(&probe)
        .and_then(|mut file| file.write_all(b"now").and_then(|()| file.sync_all()).and_then(|()| file.metadata()))
        .and_then(|data| data.modified())
        .map_err(|error| Error::file(folder, format!("cannot write in the run folder: {error}")));
    let _ = fs::remove_file(&probe);
    time
}

/// A claim that this process holds.
#[derive(Debug)]
pub struct Claim {
    folder: Folder,
    shard: u32,
    attempt: u32,
    path: PathBuf,
}

impl Claim {
    /// Takes the claim number `attempt` of a shard; `None` if another job was quicker.
    pub fn take(folder: &Folder, shard: u32, attempt: u32) -> Result<Option<Claim>> {
        let path = folder.claim(shard, attempt);
        let created = failpoint::io("claim.create")
            .and_then(|()| OpenOptions::new().write(true).create_new(true).open(&path))
            .and_then(|file| failpoint::io("claim.created").map(|()| file));
        let mut file = match created {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(Error::file(&path, format!("cannot claim the shard: {error}"))),
        };
        let text = serde_json::to_vec(&Holder::this()).map_err(|error| Error::internal(error.to_string()))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .and_then(|()| failpoint::io("claim.written"))
            .map_err(|error| Error::file(&path, format!("cannot claim the shard (disk or quota full?): {error}")))?;
        Ok(Some(Claim { folder: folder.clone(), shard, attempt, path }))
    }

    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Says that this job lives. False if the shard is no longer its own.
    pub fn touch(&self) -> Result<bool> {
        use std::os::unix::ffi::OsStrExt;
        if !self.is_mine()? {
            return Ok(false);
        }
        failpoint::io("claim.touch")
            .map_err(|error| Error::file(&self.path, format!("cannot touch the claim: {error}")))?;
        let name = std::ffi::CString::new(self.path.as_os_str().as_bytes())
            .map_err(|_| Error::file(&self.path, "the path holds a zero byte"))?;
        // Without a time, so that the file system's own clock is used, on a network file system its server's.
        // SAFETY: the name is a C string that lives through the call; a null pointer stands for "now".
        let status = unsafe { libc::utimensat(libc::AT_FDCWD, name.as_ptr(), std::ptr::null(), 0) };
        if status != 0 {
            let error = std::io::Error::last_os_error();
            return if error.kind() == std::io::ErrorKind::NotFound {
                Ok(false)
            } else {
                Err(Error::file(&self.path, format!("cannot touch the claim: {error}")))
            };
        }
        Ok(true)
    }

    /// Whether no other job has taken the shard.
    pub fn is_mine(&self) -> Result<bool> {
        if !self.path.exists() {
            return Ok(false);
        }
        // Claim numbers rise by one, so the next one is the first that a thief would have made.
        Ok(!self.folder.claim(self.shard, self.attempt + 1).exists())
    }

    /// Gives the shard back, unfinished.
    pub fn release(self) -> Result<()> {
        let fault = |error: std::io::Error| Error::file(&self.path, format!("cannot give the claim back: {error}"));
        failpoint::io("claim.release").map_err(fault)?;
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(mut file) => file
                .write_all(RELEASED)
                .and_then(|()| file.sync_all())
                .and_then(|()| failpoint::io("claim.released"))
                .map_err(fault),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(fault(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(600);

    fn folder() -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        folder.create().unwrap();
        (root, folder)
    }

    fn state(folder: &Folder, later: Duration) -> State {
        let attempts = Folder::attempts(&folder.claims(), "claim").unwrap();
        let now = file_system_now(&folder.claims()).unwrap() + later;
        look(folder, 3, attempts.get(&3).map_or(&[], Vec::as_slice), now, TIMEOUT)
    }

    #[test]
    fn a_claim_has_one_holder_until_it_is_given_back() {
        let (_root, folder) = folder();
        assert_eq!(state(&folder, Duration::ZERO), State::Free);
        let claim = Claim::take(&folder, 3, 1).unwrap().unwrap();
        assert!(Claim::take(&folder, 3, 1).unwrap().is_none());
        assert!(matches!(state(&folder, Duration::ZERO), State::Held { holder: Some(_), .. }));
        assert!(claim.touch().unwrap());
        claim.release().unwrap();
        assert_eq!(state(&folder, Duration::ZERO), State::Free);
    }

    #[test]
    fn a_stale_claim_is_taken_over_and_its_holder_sees_it() {
        let (_root, folder) = folder();
        let sleeper = Claim::take(&folder, 3, 1).unwrap().unwrap();
        assert!(matches!(state(&folder, TIMEOUT / 2), State::Held { .. }));
        assert!(matches!(state(&folder, TIMEOUT * 2), State::Stale { .. }));
        let thief = Claim::take(&folder, 3, 2).unwrap().unwrap();
        assert!(!sleeper.touch().unwrap() && thief.touch().unwrap());
    }

    #[test]
    fn the_claim_of_a_dead_process_is_stale_at_once() {
        let (_root, folder) = folder();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let holder = Holder { pid, started: start_ticks(pid).unwrap(), ..Holder::this() };
        fs::write(folder.claim(3, 1), serde_json::to_vec(&holder).unwrap()).unwrap();
        assert!(matches!(state(&folder, Duration::ZERO), State::Held { .. }));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(state(&folder, Duration::ZERO), State::Stale { .. }));
        // A process of the same number on another machine may well be alive.
        let elsewhere = Holder { boot: "another machine".into(), ..holder };
        fs::write(folder.claim(3, 1), serde_json::to_vec(&elsewhere).unwrap()).unwrap();
        assert!(matches!(state(&folder, Duration::ZERO), State::Held { .. }));
    }
}
