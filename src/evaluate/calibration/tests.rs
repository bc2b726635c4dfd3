//! Tests of the harness as a whole, with samplers whose faults are known.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use tch::Device;

use super::config::CalibrationConfig;
use super::report::Report;
use super::run::{Outcome, Plan};
use super::verdict::{Judged, Verdict};

fn config(text: &str, out: &Path) -> CalibrationConfig {
    let text = format!("out = \"{}\"\n{text}", out.display());
    CalibrationConfig::parse(&text, Path::new("test.toml")).unwrap()
}

fn work(config: &CalibrationConfig, ranks: usize) -> Report {
    let stop = AtomicBool::new(false);
    for rank in 0..ranks {
        let plan = Plan::new(config, Device::Cpu, "test").unwrap();
        assert_eq!(plan.work((rank, ranks), &stop, &|_| {}).unwrap(), Outcome::Finished);
    }
    without_seconds(Report::of(&Plan::new(config, Device::Cpu, "test").unwrap(), config).unwrap())
}

/// Seconds are the only numbers that another run may change.
fn without_seconds(mut report: Report) -> Report {
    report.results.iter_mut().for_each(|one| one.summary.cost.seconds = 0.0);
    report
}

fn find<'a>(report: &'a Report, problem: &'a str, sampler: &str) -> &'a Judged {
    report.on(problem).find(|one| one.summary.subject.sampler == sampler).unwrap()
}

const SMALL: &str = r#"
seed = 11
draws = 16
slices = 16
[[problems]]
name = "field"
simulations = 50
[problems.gaussian-field]
size = 6
psf_fwhm = 2.0
[[problems]]
name = "galaxies"
simulations = 50
[problems.galaxy-mixture]
size = [8]
components = 4
[[samplers]]
sampler = { method = "exact" }
[[samplers]]
name = "prior"
control = true
sampler = { method = "prior" }
[[samplers]]
name = "inflated"
control = true
inflate = 1.4
sampler = { method = "exact" }
[[samplers]]
name = "dps"
control = true
sampler = { method = "dps", steps = 30 }
"#;

#[test]
fn exact_draws_are_not_rejected_and_controls_are() {
    let folder = tempfile::tempdir().unwrap();
    let report = work(&config(SMALL, folder.path()), 1);
    for problem in ["field", "galaxies"] {
        let exact = find(&report, problem, "exact");
        assert_ne!(exact.verdict, Verdict::Fail, "{}", report.text());
        assert_eq!(exact.summary.cost.forwards, 0.0);
        for control in ["prior", "inflated", "dps"] {
            assert_eq!(find(&report, problem, control).verdict, Verdict::Fail, "{}", report.text());
        }
        // What TARP is for: a sampler that ignores the data has perfect ranks in no data-dependent distance.
        let tarp = |sampler: &str| find(&report, problem, sampler).summary.tarp.p;
        assert!(tarp("exact") > 1e-3 && tarp("prior") < 1e-4, "{} {}", tarp("exact"), tarp("prior"));
        let ratio = |sampler: &str| find(&report, problem, sampler).summary.bins[0].variance_ratio.unwrap();
        assert!((ratio("inflated").value / ratio("exact").value / 1.4 - 1.0).abs() < 0.25);
        let distance = find(&report, problem, "exact").summary.wasserstein.unwrap();
        assert!((distance.value / distance.floor - 1.0).abs() < 0.1, "{distance:?}");
    }
    // 30 steps of DPS cost 30 forwards, each with a gradient.
    let cost = find(&report, "field", "dps").summary.cost;
    assert_eq!((cost.forwards, cost.gradients), (30.0, 30.0));
    assert!(report.as_expected && report.controls_not_failed.is_empty());
}

#[test]
fn records_do_not_depend_on_ranks_or_interruptions() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let text = SMALL.replace("simulations = 50", "simulations = 5").replace("steps = 30", "steps = 4");
    let [one, three, stopped] = folders.each_ref().map(|folder| config(&text, folder.path()));
    let reference = work(&one, 1);
    assert_eq!(work(&three, 3), reference);
    // Interrupted after every few tasks, and a torn file beside: what is there is kept, the rest is done.
    let plan = Plan::new(&stopped, Device::Cpu, "test").unwrap();
    let stop = AtomicBool::new(false);
    let told = |number: usize| stop.store(number % 7 == 6, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(plan.work((0, 1), &stop, &told).unwrap(), Outcome::Stopped);
    let first = folders[2].path().join("records/field");
    let folder = std::fs::read_dir(first).unwrap().next().unwrap().unwrap().path();
    let torn = folder.join(".unfinished-1-1-1-000099.json");
    std::fs::write(&torn, "{\"fail").unwrap();
    let kept = std::fs::metadata(folder.join("000000.json")).unwrap().modified().unwrap();
    assert_eq!(work(&stopped, 2), reference);
    assert_eq!(std::fs::metadata(folder.join("000000.json")).unwrap().modified().unwrap(), kept);
    // A record that is not whole is an error that names the file, not a number.
    std::fs::write(folder.join("000000.json"), "{").unwrap();
    let said =
        Plan::new(&stopped, Device::Cpu, "test").unwrap().work((0, 1), &AtomicBool::new(false), &|_| {}).unwrap_err();
    assert!(said.to_string().contains("000000.json"), "{said}");
}

/// The null distribution of the whole procedure: how often a perfect sampler is failed.
#[test]
fn a_perfect_sampler_is_failed_no_more_often_than_the_significance_says() {
    let only_exact = SMALL.split("[[samplers]]\nname").next().unwrap().replace("simulations = 50", "simulations = 20");
    let mut failed = 0;
    for seed in 0..30 {
        let folder = tempfile::tempdir().unwrap();
        let report = work(&config(&only_exact.replace("seed = 11", &format!("seed = {seed}")), folder.path()), 1);
        failed += usize::from(report.results.iter().any(|one| one.verdict == Verdict::Fail));
    }
    // 5 % of 30 is 1.5; six or more happen once in 300.
    assert!(failed <= 5, "{failed} of 30");
}

#[test]
fn hopeless_problems_give_flags_and_never_nan() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
seed = 3
draws = 8
[[problems]]
name = "masked"
simulations = 4
[problems.gaussian-field]
size = 6
masked = 1.0
[[problems]]
name = "bright"
simulations = 4
[problems.gaussian-field]
size = 6
noise = 1e-5
[[problems]]
name = "wide"
simulations = 4
[problems.gaussian-field]
size = 6
psf_fwhm = 60.0
[[problems]]
name = "bright-galaxies"
simulations = 4
[problems.galaxy-mixture]
size = [8]
noise = [2e-5]
[[problems]]
name = "diverging"
simulations = 4
[problems.mixture-25]
dimension = [4]
[[samplers]]
sampler = { method = "perturb-map", steps = 6 }
[[samplers]]
name = "huge"
problems = ["diverging"]
sampler = { method = "dps", steps = 6, guidance = 3e38 }
"#;
    let report = work(&config(text, folder.path()), 1);
    let diverged = &find(&report, "diverging", "huge");
    assert_eq!((diverged.summary.failures, diverged.verdict), (4, Verdict::Fail));
    assert!(diverged.summary.first_failure.as_ref().unwrap().contains("diverging/huge/0"));
    let json = serde_json::to_value(&report).unwrap();
    // A number that is not finite would come out as null, which only optional parts may be.
    let back: Report = serde_json::from_value(json).unwrap();
    assert_eq!(back, report);
    assert!(!report.text().contains("NaN") && !report.text().contains("inf "), "{}", report.text());
    let masked = find(&report, "masked", "perturb-map");
    assert_eq!(masked.summary.failures, 0);
    // Without data, the posterior is the prior: all directions are in the last bin.
    assert_eq!((masked.summary.bins.len(), masked.summary.bins[0].name.as_str()), (1, ">0.5"));
}

/// What the figure of cost needs: every gradient is counted, problems with the same statistics are compared, and exact draws and the
/// bar have their lines.
#[test]
fn cost_is_counted_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"
seed = 5
draws = 16
slices = 4
[[problems]]
name = "galaxies"
simulations = 6
[problems.galaxy-mixture]
size = [8]
noise = [0.3, 1.0]
components = 4
[[samplers]]
sampler = { method = "exact" }
[[samplers]]
sampler = { method = "perturb-map" }
steps = [4, 8]
[[samplers]]
sampler = { method = "perturb-map-gradient", steps = 8 }
[[samplers]]
sampler = { method = "mmps", steps = 8, mmps_iterations = 3 }
"#;
    let report = work(&config(text, folder.path()), 1);
    let cost = |sampler: &str| {
        let cost = find(&report, "galaxies-8px-0.3", sampler).summary.cost;
        (cost.forwards, cost.gradients, cost.evaluations())
    };
    assert_eq!(cost("exact"), (0.0, 0.0, 0.0));
    assert_eq!(cost("perturb-map-4"), (4.0, 0.0, 4.0));
    assert_eq!(cost("perturb-map-gradient"), (8.0, 8.0, 24.0));
    // Three iterations of the solver, and the step that they give.
    assert_eq!(cost("mmps"), (8.0, 32.0, 72.0));
    let error = |sampler: &str| find(&report, "galaxies-8px-0.3", sampler).summary.calibration_error.unwrap();
    assert!(error("exact") > 0.0 && error("exact") < error("perturb-map-4"));
    let pictures = super::figures::draw(&report, folder.path()).unwrap();
    let drawn = |name: &str| pictures.iter().any(|path| path.file_name().unwrap().to_str() == Some(name));
    for name in ["cost-galaxies-8px-0.3.png", "cost-all.png", "problems-galaxies-8px-0.3-mmps.png"] {
        assert!(drawn(name), "{name}: {pictures:?}");
    }
    assert!(report.text().contains("mmps: coverage, and mean z, var z of each statistic"), "{}", report.text());
}

/// Draws of a reference posterior are galaxies of the problem's own amplitude: they fit their data as truths do.
#[test]
fn reference_draws_and_the_default_fit_stretched_data() {
    let text = r#"
seed = 5
draws = 16
slices = 8
[[problems]]
name = "stretched"
simulations = 8
[problems.stretched-field]
size = 8
radius = 1.0
signal_to_noise = [50.0]
[[samplers]]
sampler = { method = "exact" }
[[samplers]]
sampler = { method = "perturb-map" }
"#;
    let folder = tempfile::tempdir().unwrap();
    let report = work(&config(text, folder.path()), 1);
    for sampler in ["exact", "perturb-map"] {
        let summary = &find(&report, "stretched", sampler).summary;
        assert_eq!(summary.failures, 0, "{sampler}");
        let fit = summary.statistics.iter().find(|row| row.name == super::record::LOG_P).unwrap();
        // Four standard errors of eight; of another amplitude it was thousands.
        let mean = fit.mean_z.unwrap().value;
        assert!(mean.abs() < 4.0 / 8f64.sqrt(), "{sampler}: {mean}");
    }
}
