//! Draws that are kept on the disk, block by block, so that an experiment that is stopped goes on where it was. A block is a
//! file of its own, published whole, under a name that holds a digest of all that its draws depend on.

use std::path::{Path, PathBuf};

use crate::io::hdf5::{Attribute, Reader, Writer};
use crate::io::{digest, publish};
use crate::{Error, Result};

/// Draws of one block, one image of `[C, n, n]` after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Block {
    /// In linear flux at amplitude one, and in the prior's stretch.
    pub unit: Vec<f32>,
    pub stretched: Vec<f32>,
    /// Amplitude of each draw, nJy.
    pub amplitude: Vec<f32>,
}

/// The folder, and what all blocks of an experiment depend on.
#[derive(Clone, Debug)]
pub struct Kept {
    folder: PathBuf,
    identity: serde_json::Value,
}

impl Kept {
    /// `identity`: program, prior, sampler, seed, arithmetic of the machine. The folder is made where it is missing.
    pub fn new(folder: &Path, identity: serde_json::Value) -> Result<Kept> {
        let fail = |error| Error::usage(format!("{}: cannot create the folder: {error}", folder.display()));
        std::fs::create_dir_all(folder).map_err(fail)?;
        Ok(Kept { folder: folder.to_path_buf(), identity })
    }

    /// The file of draws `first .. first + count` of a galaxy at a magnitude, given the bytes of its data.
    pub fn place(&self, magnitude: f64, data: &str, first: u32, count: u32) -> PathBuf {
        let whole = serde_json::json!({ "experiment": self.identity, "data": data, "first": first, "count": count });
        let key = digest::bytes(whole.to_string().as_bytes());
        self.folder.join(format!("magnitude-{magnitude:.3}-{first:05}-{}.hdf5", &key[..16]))
    }
}

/// Publishes a block.
pub fn write(path: &Path, block: &Block) -> Result<()> {
    publish::publish_path(path, |temporary| {
        let file = Writer::create(temporary)?;
        let about = "Draws of one block of `unseeing evaluate dominance`";
        file.attribute("about", &Attribute::Text(about.into()))?;
        let count = block.amplitude.len();
        for (name, values) in [("unit", &block.unit), ("stretched", &block.stretched), ("amplitude", &block.amplitude)]
        {
            file.numbers(name, &[count, values.len() / count.max(1)], values)?;
        }
        file.close()
    })
}

/// Reads a block of `count` draws of `pixels` values; `None` when it is not there.
///
/// Errors: a file that cannot be read or that holds another number of draws: it is named, to be removed.
pub fn read(path: &Path, count: usize, pixels: usize) -> Result<Option<Block>> {
    if !path.exists() {
        return Ok(None);
    }
    let reader = Reader::open(path)?;
    let of = |name: &str, pixels: usize| -> Result<Vec<f32>> {
        let (shape, values) = reader.read::<f32>(name)?;
        if shape != [count, pixels] {
            let what =
                format!("`{name}` has shape {shape:?}, expected [{count}, {pixels}]: remove the file, run again");
            return Err(Error::file(path, what));
        }
        Ok(values)
    };
    Ok(Some(Block { unit: of("unit", pixels)?, stretched: of("stretched", pixels)?, amplitude: of("amplitude", 1)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_and_another_experiment_does_not_see_it() {
        let folder = tempfile::tempdir().unwrap();
        let kept = |seed: u64| Kept::new(&folder.path().join("kept"), serde_json::json!({ "seed": seed })).unwrap();
        let block = Block { unit: vec![1.0, 2.0, 3.0, 4.0], stretched: vec![5.0; 4], amplitude: vec![6.0, 7.0] };
        let place = kept(1).place(18.0, "data", 0, 2);
        assert_eq!(read(&place, 2, 2).unwrap(), None);
        write(&place, &block).unwrap();
        assert_eq!(read(&place, 2, 2).unwrap(), Some(block));
        let others = [kept(2).place(18.0, "data", 0, 2), kept(1).place(18.0, "other", 0, 2)];
        assert!(others.iter().all(|other| *other != place));
        let error = read(&place, 3, 2).unwrap_err().to_string();
        assert!(error.contains("magnitude-18.000-00000") && error.contains("remove the file"), "{error}");
        std::fs::write(&place, b"damaged").unwrap();
        assert!(read(&place, 2, 2).is_err());
    }
}
