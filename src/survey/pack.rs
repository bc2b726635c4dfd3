//! Packing the inputs of a survey, shard by shard, and looking at inputs before a survey is begun.

use std::path::PathBuf;

use serde::Serialize;

use super::folder::Folder;
use super::plan::Plan;
use crate::catalog::Target;
use crate::config::Config;
use crate::io::publish;
use crate::observe::Inputs;
use crate::observe::bundle::{Bundle, BundleWriter};
use crate::prior::file;
use crate::random::{Key, Purpose};
use crate::sky::cosmology;
use crate::{Error, Result};

/// Bad rows that a report names.
const NAMED: usize = 10;

/// The bundle of a shard, if it was packed; one of another plan is an error.
pub fn bundle(folder: &Folder, plan: &Plan, shard: u32) -> Result<Option<PathBuf>> {
    let path = folder.bundle(shard);
    if !path.exists() {
        return Ok(None);
    }
    Bundle::open(&path)?.check(&plan.digest()?, shard, plan.range(shard)?.count)?;
    Ok(Some(path))
}

/// The same, once every byte of it has been read against its seal.
pub fn sound_bundle(folder: &Folder, plan: &Plan, shard: u32) -> Result<Option<PathBuf>> {
    let found = bundle(folder, plan, shard)?;
    found.as_deref().map_or(Ok(()), |path| Bundle::open(path)?.check_bytes())?;
    Ok(found)
}

/// What was packed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Shards packed now, and those that were packed before or are done already.
    pub packed: usize,
    pub skipped: usize,
    pub objects: u64,
    pub bytes: u64,
    /// Objects whose inputs cannot be used, and the reasons of the first of them.
    pub bad: u64,
    pub reasons: Vec<(String, String)>,
}

/// Packs every shard that has neither a bundle nor a product. `stop` is asked between objects: what is unfinished then is
/// left out, and the next call goes on.
pub fn pack(config: &Config, folder: &Folder, plan: &Plan, stop: &dyn Fn() -> bool) -> Result<Report> {
    let inputs = folder.inputs();
    std::fs::create_dir_all(&inputs).map_err(|error| Error::file(&inputs, format!("cannot create: {error}")))?;
    let (reader, digest) = (InputReader::new(config)?, plan.digest()?);
    let mut report = Report::default();
    for shard in 0..plan.shards.len() as u32 {
        if bundle(folder, plan, shard)?.is_some() || folder.receipt(shard).exists() {
            report.skipped += 1;
            continue;
        }
        let path = folder.bundle(shard);
        let targets = plan.targets(folder, shard)?;
        let mut bad = Vec::new();
        let mut stopped = false;
        let written = publish::publish_path(&path, |temporary| {
            let mut writer = BundleWriter::create(temporary, &digest, shard)?;
            for target in &targets {
                stopped = stop();
                if stopped {
                    return Err(Error::internal("stopped"));
                }
                let inputs = reader.read(target)?;
                bad.extend(inputs.as_ref().err().map(|reason| (target.id.clone(), reason.clone())));
                writer.add(&target.id, &inputs)?;
            }
            writer.close()
        });
        if stopped {
            return Ok(report);
        }
        report.bad += written? as u64;
        report.packed += 1;
        report.objects += targets.len() as u64;
        report.bytes += std::fs::metadata(&path).map_or(0, |data| data.len());
        report.reasons.extend(bad);
        report.reasons.truncate(NAMED);
    }
    Ok(report)
}

/// Reads the indexes of all bundles against the plan and its targets; the number of shards that are packed.
pub fn check_indexes(folder: &Folder, plan: &Plan) -> Result<usize> {
    let mut packed = 0;
    for shard in 0..plan.shards.len() as u32 {
        if let Some(path) = bundle(folder, plan, shard)? {
            let targets = plan.targets(folder, shard)?;
            Bundle::open(&path)?.check_ids(targets.iter().map(|target| target.id.as_str()))?;
            packed += 1;
        }
    }
    Ok(packed)
}

/// Reads everything in a shard's bundle, against its digests; false if there is no bundle.
pub fn verify(folder: &Folder, plan: &Plan, shard: u32) -> Result<bool> {
    let Some(path) = sound_bundle(folder, plan, shard)? else { return Ok(false) };
    let bundle = Bundle::open(&path)?;
    for (place, id) in bundle.ids().iter().enumerate() {
        match bundle.inputs(place, id) {
            Ok(_) | Err(Error::Object { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// What a look at inputs has found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    pub rows: u64,
    pub bad: u64,
    pub reasons: Vec<(String, String)>,
    /// Bytes of the source files of those that can be used, and of what `pack` would keep of them, before compression.
    pub file_bytes: u64,
    pub packed_bytes: u64,
    /// Rows and columns of the largest window that the prior's field has on the images.
    pub observed: [usize; 2],
}

impl Checked {
    fn add(&mut self, inputs: &Inputs, field_arcsec: f64) {
        let mut files: Vec<_> = inputs.bands.iter().flat_map(|band| &band.files).collect();
        files.sort();
        files.dedup();
        self.file_bytes += files.iter().filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum::<u64>();
        for band in &inputs.bands {
            let of_pixel = 5 + if band.section.variance.is_some() { 4 } else { 0 };
            self.packed_bytes += (of_pixel * band.section.image.len() + 4 * band.psf.values.len()) as u64;
        }
        let middle = |range: (usize, usize)| (range.0 + range.1) as f64 / 2.0;
        let Ok(local) = inputs.wcs.at([middle(inputs.columns), middle(inputs.rows)]) else { return };
        // One more, since the field begins and ends within pixels.
        let side = (field_arcsec / local.pixel_scale()).ceil() as usize + 1;
        let section = inputs.bands.first().map_or([0, 0], |band| band.section.shape);
        self.observed = [0, 1].map(|axis| self.observed[axis].max(side.min(section[axis])));
    }
}

/// Reads the inputs of `rows` rows, chosen by the survey's seed, or of all (`None`), where a run would: in the bundles of
/// shards that are packed.
pub fn check_inputs(config: &Config, folder: &Folder, plan: &Plan, rows: Option<u64>) -> Result<Checked> {
    let reader = InputReader::new(config)?;
    let rows = rows.unwrap_or(u64::MAX).min(plan.objects);
    // By their keys, those with the smallest: whatever the order of the catalogue, and the same each time.
    let mut keyed: Vec<(f64, u64)> = Vec::new();
    if rows < plan.objects {
        let key = |object: u64| Key::new(plan.seed, &format!("check {object}"), 0, Purpose::Evaluation, 0).uniform(1);
        keyed = (0..plan.objects).map(|object| (key(object).first().copied().unwrap_or(0.0), object)).collect();
        keyed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        keyed.truncate(rows as usize);
    }
    let mut chosen: Vec<u64> = keyed.into_iter().map(|(_, object)| object).collect();
    chosen.sort_unstable();
    let mut checked = Checked::default();
    for shard in 0..plan.shards.len() as u32 {
        let range = plan.range(shard)?;
        let wanted = |object: u64| rows == plan.objects || chosen.binary_search(&object).is_ok();
        let places: Vec<u64> = (0..u64::from(range.count)).filter(|place| wanted(range.first + place)).collect();
        if places.is_empty() {
            continue;
        }
        let packed = bundle(folder, plan, shard)?.map(|path| Bundle::open(&path)).transpose()?;
        let targets = plan.targets(folder, shard)?;
        for (place, target) in places.into_iter().filter_map(|place| Some((place, targets.get(place as usize)?))) {
            checked.rows += 1;
            let inputs = match &packed {
                Some(packed) => or_reason(packed.inputs(place as usize, &target.id))?,
                None => reader.read(target)?,
            };
            match inputs {
                Ok(inputs) => checked.add(&inputs, reader.size * reader.pitch(target)?),
                Err(reason) => {
                    checked.bad += 1;
                    checked.reasons.push((target.id.clone(), reason));
                    checked.reasons.truncate(NAMED);
                }
            }
        }
    }
    Ok(checked)
}

/// Reads inputs of targets as a run would.
struct InputReader<'a> {
    config: &'a Config,
    size: f64,
    pixel_kpc: f64,
}

impl<'a> InputReader<'a> {
    fn new(config: &'a Config) -> Result<InputReader<'a>> {
        let path = &config.prior.path;
        let bytes = std::fs::read(path)
            .map_err(|error| Error::usage(format!("{}: cannot read the prior: {error}", path.display())))?;
        let card = file::card(&bytes)?;
        Ok(InputReader { config, size: card.size as f64, pixel_kpc: card.pixel_kpc })
    }

    /// Pitch of the prior's pixels at the target's redshift, arcsec.
    fn pitch(&self, target: &Target) -> Result<f64> {
        cosmology::theta_arcsec(self.pixel_kpc, target.redshift).map_err(|error| Error::object(&target.id, error))
    }

    /// The inputs, or the object's own trouble.
    fn read(&self, target: &Target) -> Result<std::result::Result<Inputs, String>> {
        let read = || {
            if let Some(trouble) = &target.trouble {
                return Err(Error::object(&target.id, trouble));
            }
            Inputs::read(target, self.config, self.size * self.pitch(target)?)
        };
        or_reason(read())
    }
}

/// Inputs, or the object's own trouble.
fn or_reason(read: Result<Inputs>) -> Result<std::result::Result<Inputs, String>> {
    match read {
        Ok(inputs) => Ok(Ok(inputs)),
        Err(Error::Object { what, .. }) => Ok(Err(what)),
        Err(other) => Err(other),
    }
}
