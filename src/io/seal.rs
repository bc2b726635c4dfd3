//! Seals: what lets a file that nothing else vouches for tell that it was damaged. A seal is the digest of all bytes but its
//! own. Of a JSON text it is the last field, of a TOML text a comment at
//! its end; of an HDF5 file it stands in the user block, the first bytes, which readers of HDF5
//! pass over.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;

use crate::{Error, Result};

/// Hexadecimal digits of a digest.
const DIGITS: usize = 64;
/// The name of the field in a JSON text.
const FIELD: &str = "\"seal\": \"";
/// What the digits stand behind in a text of lines.
const COMMENT: &str = "\n# blake3 of all above this line: ";
/// What a sealed user block begins with; then the digits, then zeros.
const TITLE: &[u8] = b"blake3 of all that follows this block: ";
/// Bytes of the user block: the least that HDF5 has.
pub const BLOCK: u64 = 512;

/// The JSON text of a value that has fields, with the seal as one more.
pub fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::internal(error.to_string()))?;
    let Some(fields) = text.strip_suffix("\n}") else { return Err(Error::internal("only what has fields is sealed")) };
    let (before, behind) = (format!("{fields},\n  {FIELD}"), "\"\n}\n");
    let seal = digest(before.as_bytes(), behind.as_bytes());
    Ok([before.as_bytes(), seal.as_bytes(), behind.as_bytes()].concat())
}

/// Whether a JSON text is as it was sealed.
pub fn json_is_whole(text: &[u8]) -> bool {
    let Some(place) = text.windows(FIELD.len()).rposition(|part| part == FIELD.as_bytes()) else { return false };
    let (before, rest) = text.split_at(place + FIELD.len());
    rest.split_at_checked(DIGITS).is_some_and(|(seal, behind)| seal == digest(before, behind).as_bytes())
}

/// A text of lines, with the seal as one more, which is a comment in TOML.
pub fn lines(text: &str) -> String {
    format!("{text}{COMMENT}{}\n", digest(text.as_bytes(), b""))
}

/// Whether such a text is as it was sealed.
pub fn lines_are_whole(text: &[u8]) -> bool {
    let place = text.len().saturating_sub(COMMENT.len() + DIGITS + 1);
    text == lines(&String::from_utf8_lossy(&text[..place])).as_bytes()
}

fn digest(before: &[u8], behind: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(behind);
    hasher.finalize().to_hex().to_string()
}

/// Seals a file that was written with a user block, and is closed.
pub fn file(path: &Path) -> Result<()> {
    let fault = |error: std::io::Error| Error::file(path, format!("cannot be sealed (disk or quota full?): {error}"));
    let mut file = File::options().read(true).write(true).open(path).map_err(fault)?;
    let block = block(&mut file).map_err(fault)?;
    file.rewind().and_then(|()| file.write_all(&block)).map_err(fault)
}

/// Whether an HDF5 file has a user block, or is not even that: what begins with HDF5's own signature has none.
pub fn has_block(path: &Path) -> bool {
    let mut start = [0; 8];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start != *b"\x89HDF\r\n\x1a\n"
}

/// Whether a file is as it was sealed. One without a seal is not.
pub fn file_is_whole(path: &Path) -> Result<bool> {
    let fault = |error: std::io::Error| Error::file(path, format!("cannot read: {error}"));
    let mut file = File::open(path).map_err(fault)?;
    let mut found = Vec::new();
    (&mut file).take(BLOCK).read_to_end(&mut found).map_err(fault)?;
    Ok(found == block(&mut file).map_err(fault)?)
}

/// The user block that a file should have.
fn block(file: &mut File) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(BLOCK))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    let mut block = [TITLE, hasher.finalize().to_hex().as_bytes()].concat();
    block.resize(BLOCK as usize, 0);
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_breaks_the_seal_of_a_text() {
        let text = json(&serde_json::json!({ "a": [1, 2], "b": "\"seal\": \"" })).unwrap();
        assert!(json_is_whole(&text), "{}", String::from_utf8_lossy(&text));
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&value["a"][1], value["seal"].as_str().unwrap().len()), (&2.into(), DIGITS));
        for bit in 0..8 * text.len() {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!json_is_whole(&flipped), "bit {bit}");
        }
        (0..text.len()).for_each(|length| assert!(!json_is_whole(&text[..length]), "cut at {length}"));
        assert!(json(&3).is_err());

        let text = lines("a = 1\nb = 2").into_bytes();
        assert!(lines_are_whole(&text) && !lines_are_whole(b"") && !lines_are_whole(b"a = 1\n"));
        for bit in 0..8 * text.len() {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!lines_are_whole(&flipped), "bit {bit} of lines");
        }
    }

    #[test]
    fn any_flipped_byte_breaks_the_seal_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let whole = || file_is_whole(&path).unwrap();
        for length in [0, 3, BLOCK as usize, BLOCK as usize + 9] {
            std::fs::write(&path, vec![7; length]).unwrap();
            assert!(!whole(), "{length}");
        }
        file(&path).unwrap();
        assert!(whole());
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"blake3 of all") && bytes[BLOCK as usize..] == [7; 9]);
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 0x10;
            std::fs::write(&path, flipped).unwrap();
            assert!(!whole(), "byte {place}");
        }
    }
}
