use super::*;

const GOOD: &str = r#"[survey]
name = "demo"
folder = "runs/demo"
[catalog]
paths = ["a.csv"]
[catalog.columns]
id = "id"
redshift_error = "z_err"
[data]
bands = ["g", "r", "i"]
image = "{id}-{band}.fits"
psf = "psf-{band}.fits"
zero_point = 27.0
saturation = 1000.0
extinction_coefficients = [3.2, 2.3, 1.6]
[noise]
relative_error = 0.01
gain = [1.0, 1.0, 1.0]
[neighbours]
threshold = 2.0
grow = 0.5
[nuisance]
ln_amplitude_sd = 0.3
sky_sd = 0.2
[prior]
path = "prior.safetensors"
[sampler]
method = "perturb-map"
steps = 32
t_max = 40.0
t_min = 0.1
cg_tolerance = 1e-3
cg_iterations = 50
guidance = 1.0
[posterior]
samples = 256
block = 16
keep_draws = 0
[flags]
cmodel = 5.0
[run]
device = "cpu"
threads = 1
ranks_per_device = 1
journal_interval = 60.0
hang_timeout = 300.0
claim_timeout = 600.0
"#;

fn good() -> String {
    GOOD.replace("redshift_error =", "ebv = \"ebv\"\nredshift_error =")
}

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("some/config.toml"))
}

#[test]
fn the_good_config_is_good() {
    parse(&good()).unwrap();
}

/// Replaces one line of the good config and expects an error naming file, key and the line.
fn expect(line: &str, replacement: &str, key: &str, words: &str) {
    let good = good();
    let number = good.lines().position(|found| found == line).unwrap_or_else(|| panic!("no line {line}")) + 1;
    let text: String =
        good.lines().map(|l| if l == line { format!("{replacement}\n") } else { format!("{l}\n") }).collect();
    let error = parse(&text).expect_err(&format!("{replacement} was accepted"));
    assert_eq!(error.exit_code(), 2, "{replacement}");
    let message = error.to_string();
    let start = format!("some/config.toml, line {number}, `{key}`: ");
    assert!(message.starts_with(&start), "{replacement}\n  expected {start}\n  found    {message}");
    assert!(message.contains(words), "{replacement}: {message}");
}

#[test]
fn semantic_errors_name_file_line_and_key() {
    expect("name = \"demo\"", "name = \"a/b\"", "survey.name", "expected a name");
    expect("name = \"demo\"", "name = \"\"", "survey.name", "expected a name");
    expect("folder = \"runs/demo\"", "folder = \"\"", "survey.folder", "expected a folder");
    expect("paths = [\"a.csv\"]", "paths = []", "catalog.paths", "at least one");
    expect("paths = [\"a.csv\"]", "paths = [\"\"]", "catalog.paths", "empty");
    expect("id = \"id\"", "id = \" \"", "catalog.columns.id", "column");
    expect("id = \"id\"", "extinction = [\"a_g\"]", "catalog.columns.extinction", "(3), found 1");
    expect("bands = [\"g\", \"r\", \"i\"]", "bands = []", "data.bands", "at least one band");
    expect("bands = [\"g\", \"r\", \"i\"]", "bands = [\"g\", \"r\", \"g\"]", "data.bands", "twice");
    expect("bands = [\"g\", \"r\", \"i\"]", "bands = [\"g\", \"r\", \"../i\"]", "data.bands", "../i");
    expect("image = \"{id}-{band}.fits\"", "image = \"{id}.fits\"", "data.image", "{band}");
    expect("psf = \"psf-{band}.fits\"", "psf = \"psf-{band.fits\"", "data.psf", "braces");
    expect("zero_point = 27.0", "zero_point = nan", "data.zero_point", "NaN");
    expect("saturation = 1000.0", "saturation = -1.0", "data.saturation", "positive");
    let coefficients = "extinction_coefficients = [3.2, 2.3, 1.6]";
    expect(coefficients, "extinction_coefficients = [3.2]", "data.extinction_coefficients", "found 1");
    expect(coefficients, "extinction_coefficients = [3.2, -1.0, 1.6]", "data.extinction_coefficients", "-1");
    expect("relative_error = 0.01", "relative_error = -0.1", "noise.relative_error", "-0.1");
    expect("relative_error = 0.01", "relative_error = inf", "noise.relative_error", "inf");
    expect("gain = [1.0, 1.0, 1.0]", "gain = [1.0, 0.0, 1.0]", "noise.gain", "positive");
    expect("gain = [1.0, 1.0, 1.0]", "gain = [1.0]", "noise.gain", "found 1");
    expect("threshold = 2.0", "threshold = nan", "neighbours.threshold", "NaN");
    expect("grow = 0.5", "grow = -0.5", "neighbours.grow", "-0.5");
    expect("ln_amplitude_sd = 0.3", "ln_amplitude_sd = -1.0", "nuisance.ln_amplitude_sd", "-1");
    expect("sky_sd = 0.2", "sky_sd = nan", "nuisance.sky_sd", "NaN");
    expect("path = \"prior.safetensors\"", "path = \"\"", "prior.path", "safetensors");
    expect(
        "method = \"perturb-map\"",
        "method = \"magic\"",
        "sampler.method",
        "perturb-map, perturb-map-gradient, perturb-map-smc, dps, dps-paper",
    );
    expect("method = \"perturb-map\"", "method = \"magic\"", "sampler.method", "mmps, diffpir, daps, split-gibbs");
    expect("steps = 32", "steps = 1", "sampler.steps", "at least 2");
    expect("t_max = 40.0", "t_max = 0.0", "sampler.t_max", "positive");
    expect("t_min = 0.1", "t_min = 50.0", "sampler.t_min", "less than t_max");
    expect("cg_tolerance = 1e-3", "cg_tolerance = 1.5", "sampler.cg_tolerance", "1.5");
    expect("cg_iterations = 50", "cg_iterations = 0", "sampler.cg_iterations", "at least 1");
    expect("guidance = 1.0", "guidance = nan", "sampler.guidance", "NaN");
    expect("samples = 256", "samples = 1", "posterior.samples", "at least 2");
    expect("block = 16", "block = 0", "posterior.block", "at least 1");
    expect("keep_draws = 0", "keep_draws = 257", "posterior.keep_draws", "257 of 256");
    expect("cmodel = 5.0", "cmodel = 0.0", "flags.cmodel", "positive");
    expect("threads = 1", "threads = 0", "run.threads", "at least 1");
    expect("ranks_per_device = 1", "ranks_per_device = 0", "run.ranks_per_device", "at least 1");
    expect("journal_interval = 60.0", "journal_interval = 0.0", "run.journal_interval", "positive");
    expect("hang_timeout = 300.0", "hang_timeout = -1.0", "run.hang_timeout", "positive");
    expect("hang_timeout = 300.0", "time_limit = 0.0", "run.time_limit", "positive");
    expect("claim_timeout = 600.0", "claim_timeout = nan", "run.claim_timeout", "NaN");
}

#[test]
fn unknown_keys_and_wrong_types_name_file_line_and_key() {
    expect("samples = 256", "sample = 256", "posterior.sample", "unknown field `sample`, expected one of `samples`");
    expect("samples = 256", "samples = \"many\"", "posterior.samples", "invalid type: string \"many\"");
    expect("samples = 256", "samples = -3", "posterior.samples", "-3");
    expect("device = \"cpu\"", "device = \"gpu\"", "run.device", "expected `cpu` or `cuda`");
    expect("bands = [\"g\", \"r\", \"i\"]", "bands = [\"g\", 1]", "data.bands", "invalid type: integer `1`");
}

#[test]
fn missing_keys_sections_and_broken_syntax_are_named() {
    let without = |line: &str| good().replace(&format!("{line}\n"), "");
    for (line, words) in [
        ("folder = \"runs/demo\"", "`survey`: missing field `folder`"),
        ("path = \"prior.safetensors\"", "`prior`: missing field `path`"),
        ("paths = [\"a.csv\"]", "`catalog`: missing field `paths`"),
    ] {
        let message = parse(&without(line)).unwrap_err().to_string();
        assert!(message.contains("some/config.toml, line ") && message.contains(words), "{message}");
    }
    let message = parse(&good().replace("[prior]\npath = \"prior.safetensors\"\n", "")).unwrap_err().to_string();
    assert!(message.contains("missing field `prior`"), "{message}");
    let message = parse(&format!("{}[surprise]\nx = 1\n", good())).unwrap_err().to_string();
    assert!(message.contains("unknown field `surprise`"), "{message}");
    let message = parse("[survey\nname = 1").unwrap_err().to_string();
    assert!(message.contains("some/config.toml, line 1"), "{message}");
}

#[test]
fn keys_that_need_each_other() {
    let message = parse(&good().replace("ebv = \"ebv\"\n", "")).unwrap_err().to_string();
    assert!(message.contains("line 15, `data.extinction_coefficients`") && message.contains("ebv"), "{message}");
    let text = good().replace("extinction_coefficients = [3.2, 2.3, 1.6]\n", "");
    let message = parse(&text).unwrap_err().to_string();
    assert!(message.contains("line 8, `catalog.columns.ebv`"), "{message}");
}

#[test]
fn photo_z_is_point_or_propagated_and_the_latter_needs_errors() {
    let with = |mode: &str, text: &str| parse(&format!("{text}[photo_z]\nmode = \"{mode}\"\n"));
    let error = |mode: &str, text: &str| with(mode, text).unwrap_err().to_string();
    let point = parse(&good()).unwrap();
    assert!(!point.photo_z.propagated() && with("point", &good()).unwrap() == point);
    // What is not said is not written either: plans and products are what they were without the section.
    assert!(!toml::to_string(&point).unwrap().contains("photo_z"));
    let propagated = with("propagated", &good()).unwrap();
    assert!(propagated.photo_z.propagated() && toml::to_string(&propagated).unwrap().contains("photo_z"));
    let weighed = good().replace("method = \"perturb-map\"", "method = \"perturb-map-smc\"");
    let message = error("propagated", &weighed);
    assert!(message.contains("`sampler.method`: ") && message.contains("photo_z.mode = \"point\""), "{message}");
    assert!(with("point", &weighed).is_ok());
    let last = good().lines().count() + 2;
    let message = error("propagated", &good().replace("redshift_error = \"z_err\"\n", ""));
    let expected = format!("line {}, `photo_z.mode`: ", last - 1);
    assert!(message.contains(&expected) && message.contains("catalog.columns.redshift_error"), "{message}");
    // Quantiles do as well.
    let quantiles =
        |list: &str| good().replace("redshift_error = \"z_err\"\n", &format!("redshift_quantiles = {list}\n"));
    let two = quantiles("[[0.16, \"low\"], [0.84, \"high\"]]");
    let columns = with("propagated", &two).unwrap().catalog.columns;
    assert_eq!(columns.redshift_quantiles, Some(vec![(0.16, "low".to_string()), (0.84, "high".to_string())]));
    assert!(!toml::to_string(&point).unwrap().contains("quantiles"));
    for bad in ["[[0.5, \"z\"]]", "[[0.84, \"high\"], [0.16, \"low\"]]", "[[0.0, \"low\"], [0.84, \"high\"]]"] {
        let message = error("point", &quantiles(bad));
        assert!(message.contains("`catalog.columns.redshift_quantiles`") && message.contains("rising"), "{message}");
    }
    let message = error("point", &quantiles("[[0.16, \" \"], [0.84, \"high\"]]"));
    assert!(message.contains("column's name"), "{message}");
    let message = error("weighted", &good());
    assert!(message.contains(&format!("line {last}, `photo_z.mode`")), "{message}");
    assert!(message.contains("`weighted`, expected `point` or `propagated`"), "{message}");
}

#[test]
fn a_default_that_conflicts_is_reported_at_its_section() {
    let text = good().replace("keep_draws = 0\n", "").replace("samples = 256\n", "samples = 1\n");
    let message = parse(&text).unwrap_err().to_string();
    assert!(message.contains("`posterior.samples`"), "{message}");
}

#[test]
fn keys_in_inline_tables_have_lines_too() {
    let text = good().replace("[posterior]\nsamples = 256\nblock = 16\nkeep_draws = 0\n", "");
    let message = parse(&format!("posterior = {{ samples = 1 }}\n{text}")).unwrap_err().to_string();
    assert!(message.contains("line 1, `posterior.samples`"), "{message}");
}

#[test]
fn relative_paths_are_relative_to_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, good()).unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!(config.catalog.paths[0], folder.path().join("a.csv"));
    assert_eq!(config.data.image, folder.path().join("{id}-{band}.fits").to_string_lossy());
    let error = Config::read(&folder.path().join("none.toml")).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("none.toml"));
}

/// The keys of single methods: good ones, values out of range, and keys of another method.
#[test]
fn keys_of_a_method_are_checked() {
    let with = |method: &str, line: &str| {
        let text = good().replace("method = \"perturb-map\"", &format!("method = \"{method}\""));
        parse(&text.replace("guidance = 1.0", line)).map(|_| ()).map_err(|error| error.to_string())
    };
    for method in METHODS {
        with(method, "").unwrap();
    }
    with("perturb-map", "sweeps = 0").unwrap();
    with("mmps", "mmps_iterations = 2").unwrap();
    with("diffpir", "diffpir_lambda = 2.0\ndiffpir_zeta = 0.0").unwrap();
    with("daps", "daps_ode_steps = 8\ndaps_langevin_steps = 50\ndaps_langevin_rate = 0.5").unwrap();
    let gibbs = "gibbs_reverse_steps = 4\ngibbs_rho = 0.2\ngibbs_rho_max = 9.0\ngibbs_held = 1.0";
    with("split-gibbs", gibbs).unwrap();
    let bad = [
        ("mmps", "sweeps = 2", "only method `perturb-map` has this key, and the method is `mmps`"),
        ("perturb-map", "sweeps = 31", "`sampler.sweeps`: expected at most 30, found 31"),
        ("mmps", "mmps_iterations = 0", "`sampler.mmps_iterations`: expected a positive number, found 0"),
        ("mmps", "daps_ode_steps = 4", "only method `daps` has this key, and the method is `mmps`"),
        ("diffpir", "diffpir_zeta = 1.5", "`sampler.diffpir_zeta`: expected at most 1, found 1.5"),
        ("diffpir", "diffpir_lambda = nan", "`sampler.diffpir_lambda`: expected a positive number, found NaN"),
        ("daps", "daps_langevin_rate = 2.0", "`sampler.daps_langevin_rate`: expected at most"),
        ("daps", "daps_ode_steps = 17", "`sampler.steps`: expected at least 2 times 17 network evaluations"),
        ("split-gibbs", "gibbs_held = -0.1", "`sampler.gibbs_held`: expected 0 or a positive number"),
        ("split-gibbs", "gibbs_rho = 2.0\ngibbs_rho_max = 1.0", "expected at most gibbs_rho_max = 1"),
        ("split-gibbs", "gibbs_rounds = 2", "gibbs_reverse_steps"),
    ];
    for (method, line, words) in bad {
        let error = with(method, line).expect_err(line);
        assert!(error.contains(words) && error.contains(", line "), "{line}: {error}");
    }
}
