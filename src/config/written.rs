//! A config's paths, as they are used and as they were written. Relative ones are relative to the config's own folder. What is
//! kept of them for long (the plan, reasons of failures) is as written, so that a survey can be moved with its folder, and
//! commands can be called from anywhere.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Config;

/// The paths as the config's file has them, and the folder of that file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    place: PathBuf,
    folder: PathBuf,
    prior: PathBuf,
    catalog: Vec<PathBuf>,
    image: String,
    psf: String,
}

impl Config {
    /// Makes relative paths relative to `place`, the folder of the config's file.
    pub(super) fn resolved(mut self, place: &Path) -> Config {
        self.written = Some(Written {
            place: place.to_path_buf(),
            folder: self.survey.folder.clone(),
            prior: self.prior.path.clone(),
            catalog: self.catalog.paths.clone(),
            image: self.data.image.clone(),
            psf: self.data.psf.clone(),
        });
        let join = |path: &Path| if path.is_absolute() { path.to_path_buf() } else { place.join(path) };
        self.survey.folder = join(&self.survey.folder);
        self.prior.path = join(&self.prior.path);
        for path in &mut self.catalog.paths {
            *path = join(path);
        }
        for pattern in [&mut self.data.image, &mut self.data.psf] {
            *pattern = join(Path::new(pattern.as_str())).to_string_lossy().into_owned();
        }
        self
    }

    /// The config with its paths as they were written.
    pub fn as_written(&self) -> Config {
        let mut config = self.clone();
        if let Some(written) = config.written.take() {
            config.survey.folder = written.folder;
            config.prior.path = written.prior;
            config.catalog.paths = written.catalog;
            config.data.image = written.image;
            config.data.psf = written.psf;
        }
        config
    }

    /// The name of an object's file that does not tell from where the config was read: that relative to the config's folder,
    /// where the patterns are.
    pub fn name_of<'a>(&self, file: &'a Path) -> &'a Path {
        let Some(written) = &self.written else { return file };
        let relative = [&written.image, &written.psf].iter().any(|pattern| Path::new(pattern.as_str()).is_relative());
        if relative { file.strip_prefix(&written.place).unwrap_or(file) } else { file }
    }
}
