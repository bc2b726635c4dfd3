//! Path patterns: `{id}`, `{band}` and `{column}` become a target's own file names.

use std::path::PathBuf;

use crate::catalog::Target;
use crate::config::DataConfig;
use crate::{Error, Result};

/// The placeholders of a pattern, in order. `Err` names what is malformed.
pub fn placeholders(pattern: &str) -> std::result::Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut rest = pattern;
    while let Some(open) = rest.find(['{', '}']) {
        let tail = &rest[open..];
        let closed = tail.find('}').filter(|_| tail.starts_with('{'));
        let Some(close) = closed else { return Err("its braces do not match".into()) };
        let name = &tail[1..close];
        if name.is_empty() || name.contains('{') {
            return Err("its braces do not match, or are empty".into());
        }
        names.push(name.to_string());
        rest = &tail[close + 1..];
    }
    Ok(names)
}

/// The catalogue columns that the config's patterns name, each once.
pub fn columns(data: &DataConfig) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for pattern in [&data.image, &data.psf] {
        for name in placeholders(pattern).map_err(|why| Error::usage(format!("pattern `{pattern}`: {why}")))? {
            if name != "id" && name != "band" && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    Ok(names)
}

/// The path of a target's file in one band. A value cannot leave the pattern's folder: it may hold no separator, and no
/// part of the path that was filled in may be `.`, `..` or empty.
pub fn fill(pattern: &str, target: &Target, band: &str) -> Result<PathBuf> {
    let mut parts = Vec::new();
    for part in pattern.split('/') {
        let names = placeholders(part).map_err(|why| Error::usage(format!("pattern `{pattern}`: {why}")))?;
        let (mut filled, mut rest) = (String::new(), part);
        for name in &names {
            let value = match name.as_str() {
                "id" => &target.id,
                "band" => band,
                _ => target.columns.get(name).ok_or_else(|| unknown(pattern, name, target))?,
            };
            if value.contains(['/', '\\', '\0']) {
                let what = format!("the value {value:?} of `{name}` in the pattern `{pattern}` holds a path separator");
                return Err(Error::object(&target.id, what));
            }
            let token = format!("{{{name}}}");
            let (before, after) = rest.split_once(&token).unwrap_or((rest, ""));
            filled.push_str(before);
            filled.push_str(value);
            rest = after;
        }
        filled.push_str(rest);
        if !names.is_empty() && ["", ".", ".."].contains(&filled.as_str()) {
            let what = format!("the part `{part}` of the pattern `{pattern}` becomes {filled:?}, which names no file");
            return Err(Error::object(&target.id, what));
        }
        parts.push(filled);
    }
    Ok(PathBuf::from(parts.join("/")))
}

fn unknown(pattern: &str, name: &str, target: &Target) -> Error {
    let known: Vec<&str> = ["id", "band"].into_iter().chain(target.columns.keys().map(String::as_str)).collect();
    Error::usage(format!("pattern `{pattern}`: unknown name `{{{name}}}`; known are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(columns: &[(&str, &str)]) -> Target {
        Target {
            id: "7".into(),
            ra: 0.0,
            dec: 0.0,
            redshift: 0.1,
            redshift_error: None,
            ebv: None,
            extinction: None,
            columns: columns.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            trouble: None,
        }
    }

    #[test]
    fn fills_names_and_allows_an_empty_suffix() {
        let target = target(&[("folder", "test1"), ("suffix", "")]);
        let path = fill("/data/{folder}/cutout-{band}-{id}{suffix}.fits", &target, "HSC-G").unwrap();
        assert_eq!(path, PathBuf::from("/data/test1/cutout-HSC-G-7.fits"));
    }

    #[test]
    fn values_cannot_escape() {
        for value in ["../x", "a/b", "..", ".", "", "a\0b"] {
            let error = fill("/data/{folder}/x.fits", &target(&[("folder", value)]), "g").unwrap_err();
            assert!(matches!(&error, Error::Object { .. }), "{value:?}: {error}");
        }
        // Two harmless values that become `..` together.
        let dots = target(&[("a", "."), ("b", ".")]);
        assert!(matches!(fill("/data/{a}{b}/x.fits", &dots, "g"), Err(Error::Object { .. })));
    }

    #[test]
    fn unknown_and_malformed_names_are_usage_errors() {
        let error = fill("/data/{folderr}.fits", &target(&[("folder", "x")]), "g").unwrap_err();
        assert!(matches!(error, Error::Usage(_)));
        let text = error.to_string();
        assert!(text.contains("{folderr}") && text.contains("id, band, folder"), "{text}");
        for pattern in ["{id", "id}", "{}", "{{id}}"] {
            assert!(placeholders(pattern).is_err(), "{pattern}");
        }
    }
}
