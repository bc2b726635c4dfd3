//! Makes the HDF5 file of a collection: finds the files, reads one galaxy after the other, and keeps what can be used.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Serialize;

use super::FORMAT;
use super::config::CollectionConfig;
use super::read::{Image, Item, read};
use crate::io::hdf5::{Attribute, Element, Writer};
use crate::io::publish::publish_path;
use crate::random::Purpose;
use crate::train::stream::Stream;
use crate::{Error, Result};

/// What was made.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub file: PathBuf,
    pub digest: String,
    /// Images to train on, and held out.
    pub training: usize,
    pub heldout: usize,
    pub subhalos: usize,
    pub skipped: Vec<Skipped>,
}

/// A file that was not used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Skipped {
    pub file: String,
    pub reason: String,
}

/// Makes the file; `told` hears of each image (done, of all) as it comes. No image in memory but one. A killed run leaves
/// nothing under the file's name.
pub fn build(config: &CollectionConfig, told: &dyn Fn(usize, usize)) -> Result<Summary> {
    let pattern = config.check()?;
    let mut skipped = Vec::new();
    let items = find(config, &pattern, &mut skipped)?;
    if items.is_empty() {
        let folders: Vec<String> = config.from.iter().map(|folder| folder.display().to_string()).collect();
        let what = format!("no file below {} is called like `{}`", folders.join(", "), config.file_name);
        return Err(Error::usage(format!("dataset: {what}: mend `from` or `file_name`")));
    }
    publish_path(&config.out, |path| write(config, &items, skipped, path, told))
}

fn write(
    config: &CollectionConfig,
    items: &[Item],
    mut skipped: Vec<Skipped>,
    path: &Path,
    told: &dyn Fn(usize, usize),
) -> Result<Summary> {
    let grid = config.grid()?;
    let writer = Writer::create(path)?;
    let side = config.stored_size();
    let mut rows = writer.rows_up_to::<f32>("images", &[items.len(), config.bands.len(), side, side])?;
    let mut kept: Vec<(&Item, String, bool)> = Vec::new();
    let mut known: HashMap<String, &str> = HashMap::new();
    let mut native_kpc = 0.0f64;
    for (number, item) in items.iter().enumerate() {
        let skip = |reason: String| Skipped { file: item.name.clone(), reason };
        match read(item, config, grid.reference) {
            Err(reason) => skipped.push(skip(reason)),
            Ok(Image { flux, native_kpc: pitch }) => {
                let digest = digest(&flux);
                match known.get(&digest) {
                    Some(first) => skipped.push(skip(format!("the same image as {first}"))),
                    None => {
                        rows.write(kept.len(), 1, &flux)?;
                        known.insert(digest.clone(), &item.name);
                        kept.push((item, digest, held_out(config, &item.subhalo)));
                        native_kpc = native_kpc.max(pitch);
                    }
                }
            }
        }
        told(number + 1, items.len());
    }
    if kept.is_empty() {
        let first = skipped.first().map(|one| format!("{}: {}", one.file, one.reason)).unwrap_or_default();
        return Err(Error::usage(format!("dataset: none of {} images can be used; the first: {first}", items.len())));
    }
    rows.truncate(kept.len())?;
    drop(rows);
    let column = |pick: &dyn Fn(&(&Item, String, bool)) -> String| kept.iter().map(pick).collect::<Vec<_>>();
    writer.texts("file", &column(&|one| one.0.name.clone()))?;
    writer.texts("subhalo", &column(&|one| one.0.subhalo.clone()))?;
    writer.texts("digest", &column(&|one| one.1.clone()))?;
    let flags: Vec<u8> = kept.iter().map(|one| u8::from(one.2)).collect();
    writer.numbers("heldout", &[flags.len()], &flags)?;
    writer.texts("skipped/file", &skipped.iter().map(|one| one.file.clone()).collect::<Vec<_>>())?;
    writer.texts("skipped/reason", &skipped.iter().map(|one| one.reason.clone()).collect::<Vec<_>>())?;

    let mut hasher = blake3::Hasher::new();
    let what = (FORMAT, config.size, config.shift, &grid);
    hasher.update(&serde_json::to_vec(&what).map_err(|error| Error::internal(format!("dataset digest: {error}")))?);
    for (_, digest, heldout) in &kept {
        hasher.update(digest.as_bytes());
        hasher.update(&[u8::from(*heldout)]);
    }
    let total = hasher.finalize().to_hex().to_string();
    let text = toml::to_string(config).map_err(|error| Error::internal(format!("dataset config: {error}")))?;
    let attributes = [
        ("format", Attribute::Text(FORMAT.into())),
        ("config", Attribute::Text(text)),
        ("digest", Attribute::Text(total.clone())),
        ("bands", Attribute::Texts(grid.bands.clone())),
        ("reference_band", Attribute::Text(config.reference_band.clone())),
        ("size", Attribute::Integer(config.size as u64)),
        ("shift", Attribute::Integer(config.shift as u64)),
        ("pixel_kpc", Attribute::Number(config.pixel_kpc)),
        ("native_kpc", Attribute::Number(native_kpc)),
    ];
    attributes.iter().try_for_each(|(name, value)| writer.attribute(name, value))?;
    writer.close()?;
    let heldout = kept.iter().filter(|one| one.2).count();
    let mut subhalos = column(&|one| one.0.subhalo.clone());
    subhalos.sort_unstable();
    subhalos.dedup();
    Ok(Summary {
        file: config.out.clone(),
        digest: total,
        training: kept.len() - heldout,
        heldout,
        subhalos: subhalos.len(),
        skipped,
    })
}

/// The digest of an image: of its little-endian bytes.
pub fn digest(flux: &[f32]) -> String {
    let mut bytes = Vec::with_capacity(4 * flux.len());
    f32::append_bytes(flux, &mut bytes);
    crate::io::digest::bytes(&bytes)
}

/// A subhalo's side is a function of the seed and its name: other images change nothing.
fn held_out(config: &CollectionConfig, subhalo: &str) -> bool {
    Stream::new(config.seed, &format!("split/{subhalo}"), 0, Purpose::TrainingChoice).chance(config.heldout_fraction)
}

/// The images below the folders, by name. With a file for each band, those that belong together are joined; a band that is
/// missing is a reason to skip.
fn find(config: &CollectionConfig, pattern: &Regex, skipped: &mut Vec<Skipped>) -> Result<Vec<Item>> {
    // By name without the band: subhalo, and the file of each band.
    let mut found: BTreeMap<String, (String, Vec<Option<PathBuf>>)> = BTreeMap::new();
    let separate = config.bands.iter().any(|band| band.file.is_some());
    for folder in &config.from {
        let mut paths = Vec::new();
        list(folder, &mut paths)?;
        paths.sort();
        for path in paths {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Some(groups) = pattern.captures(name) else { continue };
            let subhalo = groups.name("subhalo").map(|group| group.as_str().to_string()).unwrap_or_default();
            let below = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            let (key, slot) = match groups.name("band").filter(|_| separate) {
                None => (below.clone(), 0),
                Some(group) => {
                    let Some(slot) = config.bands.iter().position(|band| band.file.as_deref() == Some(group.as_str()))
                    else {
                        continue;
                    };
                    let start = below.len() - name.len();
                    let (before, after) = (&below[..start + group.start()], &below[start + group.end()..]);
                    (format!("{before}*{after}"), slot)
                }
            };
            let wanted = if separate { config.bands.len() } else { 1 };
            let entry = found.entry(key).or_insert_with(|| (subhalo, vec![None; wanted]));
            match &mut entry.1[slot] {
                Some(first) => {
                    let reason = format!("another file of this name was found before: {}", first.display());
                    skipped.push(Skipped { file: path.display().to_string(), reason });
                }
                empty => *empty = Some(path),
            }
        }
    }
    let mut items = Vec::new();
    for (name, (subhalo, paths)) in found {
        match paths.iter().position(Option::is_none) {
            Some(missing) => {
                skipped.push(Skipped { file: name, reason: format!("no file for band {}", config.bands[missing].name) })
            }
            None => items.push(Item { name, subhalo, paths: paths.into_iter().flatten().collect() }),
        }
    }
    Ok(items)
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let fail = |error: std::io::Error| {
        let folder = folder.display();
        Error::usage(format!(
            "{folder}: cannot list: {error}: `from` in the config, or --from, names folders with images"
        ))
    };
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() { list(&path, found)? } else { found.push(path) }
    }
    Ok(())
}
