//! The invariants of ARCHITECTURE.md that a search through the sources can see, and that what documents link to is there.

use std::path::{Path, PathBuf};

/// Lines of a source file, tests included. Longer ones hold more than one job.
const MAX_LINES: usize = 400;
/// Files that may be longer, with the reason.
const LONG: [(&str, &str); 2] = [
    ("train/procedural/kinds.rs", "one recipe of a galaxy after the other"),
    ("train/real/clean.rs", "one chain of steps, not yet taken apart"),
];

/// Pure folders: values in, values out.
const PURE: [&str; 5] = ["sky", "forward", "prior", "sampler", "posterior"];

struct Source {
    /// Relative to src/, for example `io/about.rs`.
    path: String,
    /// Without comments and without the unit tests at the end.
    code: String,
    lines: usize,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        // A module's unit tests may also have a file of their own.
        let own_file = path.ends_with("/tests.rs") || path.ends_with("_tests.rs");
        let tested = if own_file { 0 } else { text.find("#[cfg(test)]\nmod ").unwrap_or(text.len()) };
        let code = text[..tested].lines().filter(|line| !line.trim_start().starts_with("//"));
        Source { path: path.into(), code: code.collect::<Vec<_>>().join("\n"), lines: text.lines().count() }
    }

    fn folder(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// Whether the file is the module `name`, or lies in it.
    fn within(&self, name: &str) -> bool {
        self.folder() == name || self.path == format!("{name}.rs")
    }

    /// Whether the code has `word` with no part of a longer name, and no path, before it.
    fn has(&self, word: &str) -> bool {
        self.code.match_indices(word).any(|(at, _)| {
            let before = self.code[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    }

    fn any(&self, words: &[&str]) -> Option<String> {
        words.iter().find(|word| self.has(word)).map(|word| format!("{}: `{word}`", self.path))
    }
}

fn sources() -> Vec<Source> {
    let root = root().join("src");
    let mut found = Vec::new();
    for path in files(&root, &["rs"]) {
        let text = std::fs::read_to_string(&path).unwrap();
        found.push(Source::new(&path.strip_prefix(&root).unwrap().to_string_lossy(), &text));
    }
    assert!(found.len() > 20, "the sources are not where they are looked for");
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with one of these endings (all, if none is given), hidden and built ones left out.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if ["target", ".git", ".cargo", ".stamps", "demo", "runs"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if endings.is_empty() || endings.iter().any(|ending| name.ends_with(&format!(".{ending}"))) {
            found.push(path);
        }
    }
    found.sort();
    found
}

type Rule = fn(&Source) -> Option<String>;

/// The invariants, each with what it says and the search for what breaks it.
const RULES: [(&str, Rule); 8] = [
    ("only io/ names hdf5 or fitsio", |source| match source.within("io") {
        true => None,
        false => source.any(&["hdf5::", "fitsio::", "use hdf5", "use fitsio"]),
    }),
    ("only io/ renames files", |source| match source.within("io") {
        true => None,
        false => source.code.contains("fs::rename").then(|| format!("{}: fs::rename", source.path)),
    }),
    ("only cluster/ names mpi and the variables of launchers", |source| match source.within("cluster") {
        true => None,
        false => source.any(&["mpi::", "use mpi", "\"SLURM_", "\"OMPI_COMM", "\"PMIX_", "\"PMI_"]),
    }),
    ("sky, forward, prior, sampler and posterior do no I/O and know no ranks", |source| {
        match PURE.iter().any(|folder| source.within(folder)) {
            true => source.any(&["std::fs", "std::net", "std::process", "fs::", "crate::cluster", "crate::survey"]),
            false => None,
        }
    }),
    ("of the pure folders only prior/ reads, and through io/", |source| {
        match PURE.iter().any(|folder| source.within(folder)) && !source.within("prior") {
            true => source.any(&["crate::io"]),
            false => None,
        }
    }),
    ("only survey/, train/ and the command line use cluster/", |source| {
        match ["cluster", "survey", "train", "cli"].iter().any(|folder| source.within(folder)) {
            true => None,
            false => source.any(&["crate::cluster", "cluster::"]),
        }
    }),
    ("no panic outside tests", |source| {
        let words = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!("];
        let found = words.iter().find(|word| source.code.contains(*word));
        found.map(|word| format!("{}: `{word}`", source.path))
    }),
    ("all random numbers come from random.rs", |source| {
        let words = [
            "rand::",
            "rand_",
            "::randn",
            "::f_randn",
            "::rand(",
            "::f_rand(",
            ".normal_(",
            ".uniform_(",
            "manual_seed",
        ];
        let found = words.iter().find(|word| source.code.contains(*word) && source.path != "random.rs");
        found.map(|word| format!("{}: `{word}`", source.path))
    }),
];

#[test]
fn layout_invariants_hold() {
    let sources = sources();
    let mut broken = Vec::new();
    for (says, rule) in RULES {
        broken.extend(sources.iter().filter_map(rule).map(|found| format!("{says}: {found}")));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// Every rule finds what it looks for.
#[test]
fn layout_rules_can_fail() {
    let bad = [
        ("survey/run.rs", "let file = hdf5::File::open(path)?;"),
        ("product/shard.rs", "std::fs::rename(&from, &to)?;"),
        ("survey/run.rs", "let universe = mpi::initialize();"),
        ("sampler/dps.rs", "use std::fs::File;"),
        ("sky/wcs.rs", "use crate::io::fits;"),
        ("observe/cutout.rs", "use crate::cluster::Comm;"),
        ("forward/psf.rs", "let value = found.unwrap();"),
        ("train/noise.rs", "let noise = Tensor::f_randn([3], FLOAT)?;"),
    ];
    for ((says, rule), (path, code)) in RULES.iter().zip(bad) {
        assert!(rule(&Source::new(path, code)).is_some(), "not found: {says}");
        let in_tests = format!("// {code}\n#[cfg(test)]\nmod tests {{\n{code}\n}}");
        assert!(rule(&Source::new(path, &in_tests)).is_none(), "found in comments or tests: {says}");
    }
    assert!(!Source::new("a.rs", "crate::io::hdf5::open()").has("hdf5::"), "a module of ours is not the crate");
}

#[test]
fn layout_files_have_one_job() {
    let mut long = Vec::new();
    for source in sources() {
        let excused = LONG.iter().any(|(path, _)| *path == source.path);
        if source.lines > MAX_LINES && !excused {
            long.push(format!("{}: {} lines", source.path, source.lines));
        }
        assert!(!excused || source.lines > MAX_LINES, "{} is short now: take it off the list", source.path);
    }
    assert!(long.is_empty(), "more than {MAX_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn layout_no_generator_with_a_state_is_among_the_dependencies() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let names = manifest.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim().to_string());
    let bad: Vec<String> =
        names.filter(|name| name == "rand" || name.starts_with("rand_") || name == "fastrand").collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn layout_nothing_names_a_machine_or_a_package_server() {
    // Written in two halves, so that this file does not hold them.
    let words = [
        ["/wo", "rk/"].concat(),
        ["/ro", "ot/"].concat(),
        ["pypi", ".org"].concat(),
        ["static.rust", "-lang"].concat(),
        ["deb.deb", "ian"].concat(),
        ["index.crates", ".io"].concat(),
        ["arti", "factory"].concat(),
    ];
    let mut found = Vec::new();
    for path in files(&root(), &[]) {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if name == "Cargo.lock" {
            continue;
        }
        found.extend(words.iter().filter(|word| text.contains(*word)).map(|word| format!("{name}: {word}")));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Targets of the links `[text](target)` of a Markdown text.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|target| !target.contains("://"))
}

/// The anchors that a reader makes of a text's headings: lower case, words joined by hyphens, without punctuation.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept =
            heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -".contains(*c)).collect::<String>();
        kept.replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn layout_links_in_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for document in ["README.md", "ARCHITECTURE.md", "docs/validation.md"] {
        let path = root.join(document);
        let text = std::fs::read_to_string(&path).unwrap();
        for target in links(&text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let other = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(other.is_file(), "{document}: [..]({target})");
            if !anchor.is_empty() {
                let known = anchors(&std::fs::read_to_string(&other).unwrap());
                assert!(known.iter().any(|one| one == anchor), "{document}: [..]({target}): of {known:?}");
            }
            found += 1;
        }
    }
    assert!(found > 50, "{found} links");
    assert_eq!(anchors("## Shears, points, blank sky\ntext\n# A `b`"), ["shears-points-blank-sky", "a-b"]);
}
