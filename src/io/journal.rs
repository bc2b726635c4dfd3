//! Journals: files of frames that are appended to while work goes on, and read after a kill. A frame is
//!
//! ```text
//! magic 8 | kind u32 | length u64 | key 16 | header check 8 | payload | blake3 of header and payload 32
//! ```
//!
//! (little-endian). A frame that is torn or damaged is skipped: the reader goes on at the next magic. A journal is
//! written by one process only and is never opened for writing again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result, failpoint};

const MAGIC: [u8; 8] = [0xf5, b'u', b'n', b's', b'j', 0x0d, 0x0a, 0x01];
const CHECKED: usize = 8 + 4 + 8 + 16;
const HEADER: usize = CHECKED + 8;
const TRAILER: usize = 32;

/// What a frame is about; its meaning belongs to the writer.
pub type Key = [u8; 16];

/// A journal being written.
pub struct Writer {
    path: PathBuf,
    file: File,
    unsynced: bool,
}

impl Writer {
    /// Starts a journal. A file of that name must not exist: nobody appends to another's journal.
    pub fn create(path: &Path) -> Result<Writer> {
        let file = failpoint::io("journal.create")
            .and_then(|()| OpenOptions::new().append(true).create_new(true).open(path))
            .and_then(|file| failpoint::io("journal.created").map(|()| file))
            .map_err(|error| Error::file(path, format!("cannot start the journal: {error}")))?;
        Ok(Writer { path: path.to_path_buf(), file, unsynced: false })
    }

    /// Appends a frame with a single write: a kill of this process loses nothing that was appended.
    pub fn append(&mut self, kind: u32, key: Key, payload: &[u8]) -> Result<()> {
        let frame = encode(kind, key, payload);
        self.write(&frame).map_err(|error| {
            Error::file(&self.path, format!("cannot write the journal (disk or quota full?): {error}"))
        })?;
        self.unsynced = true;
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> std::io::Result<()> {
        failpoint::io("journal.append")?;
        let mut written = 0;
        if failpoint::is_set("journal.torn") {
            // A frame is one write; only here it is two, to be torn between them as on a disk that becomes full.
            written = frame.len() / 2;
            self.file.write_all(&frame[..written])?;
            failpoint::io("journal.torn")?;
        }
        self.file.write_all(&frame[written..])?;
        failpoint::io("journal.appended")
    }

    /// Forces the frames to the disk: then a failure of the machine loses nothing either.
    pub fn sync(&mut self) -> Result<()> {
        if self.unsynced {
            failpoint::io("journal.sync")
                .and_then(|()| self.file.sync_data())
                .and_then(|()| failpoint::io("journal.synced"))
                .map_err(|error| Error::file(&self.path, format!("cannot write the journal to the disk: {error}")))?;
            self.unsynced = false;
        }
        Ok(())
    }
}

/// A frame found in a journal.
#[derive(Debug, PartialEq)]
pub struct Frame<'a> {
    pub kind: u32,
    pub key: Key,
    pub payload: &'a [u8],
    /// Digest of the payload, to compare frames of the same key.
    pub digest: [u8; 32],
}

/// Hands every whole frame to `visit`, in order; returns the number of bytes that were skipped as damaged. A journal that is
/// not there any more holds nothing: another job has just finished its shard, and tidied up.
pub fn read(path: &Path, mut visit: impl FnMut(Frame) -> Result<()>) -> Result<u64> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => {
            return Err(Error::file(
                path,
                format!("cannot read the journal (without it, what it holds is done again): {error}"),
            ));
        }
    };
    let mut position = 0;
    let mut skipped = 0;
    while position < bytes.len() {
        if let Some((frame, length)) = decode(&bytes[position..]) {
            visit(frame)?;
            position += length;
        } else {
            let next = find(&bytes[position + 1..], &MAGIC).map_or(bytes.len(), |offset| position + 1 + offset);
            skipped += (next - position) as u64;
            position = next;
        }
    }
    Ok(skipped)
}

fn encode(kind: u32, key: Key, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len() + TRAILER);
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&kind.to_le_bytes());
    frame.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    frame.extend_from_slice(&key);
    let check = header_check(&frame);
    frame.extend_from_slice(&check);
    frame.extend_from_slice(payload);
    let digest = blake3::hash(&frame);
    frame.extend_from_slice(digest.as_bytes());
    frame
}

/// The frame at the start of `bytes` and its length, or nothing if it is not whole.
fn decode(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let header = bytes.get(..HEADER)?;
    if header[..8] != MAGIC || header[CHECKED..] != header_check(&header[..CHECKED]) {
        return None;
    }
    let kind = u32::from_le_bytes(header[8..12].try_into().ok()?);
    let length = usize::try_from(u64::from_le_bytes(header[12..20].try_into().ok()?)).ok()?;
    let key: Key = header[20..36].try_into().ok()?;
    let end = HEADER.checked_add(length)?;
    let body = bytes.get(..end)?;
    let total = end.checked_add(TRAILER)?;
    if bytes.get(end..total)? != blake3::hash(body).as_bytes() {
        return None;
    }
    let payload = &body[HEADER..];
    Some((Frame { kind, key, payload, digest: *blake3::hash(payload).as_bytes() }, total))
}

/// Eight bytes of a digest: enough to tell a header from noise before its length is believed.
fn header_check(header: &[u8]) -> [u8; 8] {
    let mut check = [0; 8];
    check.copy_from_slice(&blake3::hash(header).as_bytes()[..8]);
    check
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(path: &Path) -> (Vec<(u32, u8, Vec<u8>)>, u64) {
        let mut found = Vec::new();
        let skipped = read(path, |frame| {
            found.push((frame.kind, frame.key[0], frame.payload.to_vec()));
            Ok(())
        })
        .unwrap();
        (found, skipped)
    }

    fn written(folder: &Path) -> (PathBuf, Vec<(u32, u8, Vec<u8>)>) {
        let path = folder.join("j");
        let mut writer = Writer::create(&path).unwrap();
        // The second payload holds the magic itself: it must not be taken for a frame.
        let payloads = [vec![1u8; 100], [MAGIC.to_vec(), vec![0; 60]].concat(), Vec::new()];
        let mut want = Vec::new();
        for (index, payload) in payloads.into_iter().enumerate() {
            let mut key = [0; 16];
            key[0] = index as u8;
            writer.append(index as u32 + 7, key, &payload).unwrap();
            want.push((index as u32 + 7, index as u8, payload));
        }
        writer.sync().unwrap();
        (path, want)
    }

    #[test]
    fn frames_come_back_and_a_journal_has_one_writer() {
        let folder = tempfile::tempdir().unwrap();
        let (path, want) = written(folder.path());
        assert_eq!(frames(&path), (want, 0));
        assert!(Writer::create(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(frames(&path), (Vec::new(), 0));
    }

    #[test]
    fn a_cut_at_any_byte_loses_what_lies_behind_it_only() {
        let folder = tempfile::tempdir().unwrap();
        let (path, want) = written(folder.path());
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let (whole, end) = whole_frames(&want, cut);
            assert_eq!(frames(&path), (want[..whole].to_vec(), (cut - end) as u64), "cut at {cut}");
        }
    }

    /// How many frames end at or before `position`, and where the last of them does.
    fn whole_frames(frames: &[(u32, u8, Vec<u8>)], position: usize) -> (usize, usize) {
        let mut end = 0;
        for (index, (_, _, payload)) in frames.iter().enumerate() {
            let next = end + HEADER + payload.len() + TRAILER;
            if next > position {
                return (index, end);
            }
            end = next;
        }
        (frames.len(), end)
    }

    #[test]
    fn any_damaged_byte_loses_its_own_frame_only() {
        let folder = tempfile::tempdir().unwrap();
        let (path, want) = written(folder.path());
        let bytes = std::fs::read(&path).unwrap();
        for position in 0..bytes.len() {
            let (lost, _) = whole_frames(&want, position);
            let length = HEADER + want[lost].2.len() + TRAILER;
            let mut left = want.clone();
            left.remove(lost);
            for bits in [0x01, 0x40, 0xff] {
                let mut damaged = bytes.clone();
                damaged[position] ^= bits;
                std::fs::write(&path, &damaged).unwrap();
                assert_eq!(frames(&path), (left.clone(), length as u64), "byte {position}");
            }
        }
    }
}
