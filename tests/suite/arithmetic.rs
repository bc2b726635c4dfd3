//! No change of the arithmetic without a new `ARITHMETIC`: a tiny survey with the real engine and the shipped prior, against numbers
//! that were recorded. Its inputs are made here, so that a change of the simulator is none of the arithmetic.

use std::collections::BTreeMap;
use std::path::Path;

use unseeing::config::DeviceKind;
use unseeing::device::Compute;
use unseeing::io::digest;
use unseeing::io::fits::{Keyword, NewImage, Pixels, write_images};
use unseeing::sky::wcs::TanWcs;
use unseeing::survey::pins::ARITHMETIC;

use crate::bad_objects::split;
use crate::common::unseeing;

const PRIOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/priors/default.safetensors");

/// What was recorded: with which prior, which arithmetic, and the numbers of the summary catalogue.
const RECORDED_PRIOR: &str = "17bba7b5da40ae46bb5606ae2802a675ebb3dc516881c1eb7028cc6efe66b1e7";
const RECORDED_ARITHMETIC: u32 = 15;
const RECORDED: [(&str, f64); 23] = [
    ("kron_flux_r", 16590.052585432306),
    ("aperture_flux_i", 21350.607381224632),
    ("matched_flux_g", 9703.29416397214),
    ("amplitude", 17509.49853515625),
    ("sky_r", 0.5707427710294724),
    ("sky_sd_i", 0.2640723313132466),
    ("reduced_chi2", 0.9518514820241984),
    ("reduced_chi2_draws", 0.9542490392923355),
    ("predictive_p", 0.6813182213472646),
    ("variance_ratio_paper", 0.06963001998636056),
    ("variance_ratio_linear_r", 0.06824549083025495),
    ("prior_tail", 0.04594330400782014),
    ("flux_g_mean", 10587.992431640625),
    ("flux_r_mean", 17509.498046875),
    ("flux_3kpc_r_mean", 11137.03955078125),
    ("colour_r_i_mean", 0.2728203386068344),
    ("r20_mean", 0.7672826200723648),
    ("r50_mean", 1.8449205160140991),
    ("r80_p84", 4.279445590972901),
    ("concentration_mean", 3.7101359367370605),
    ("asymmetry_mean", 0.3934393599629402),
    ("e1_mean", 0.18604782968759537),
    ("e2_p84", 0.05997746556997299),
];
/// The content of the product, by machine. Bits are promised for one machine and its libraries only; on others the numbers are compared.
const BITS: [(&str, &str); 1] = [(
    "Intel(R) Xeon(R) Processor 6 207 2; libtorch 2.13.0; cpu AVX512; threads 1; DNNL_MAX_CPU_ISA default; MKL_CBWR default",
    "6b10016abe34b310260676a8ef66d97b21497d8fc09d51c8afebcec30db065b3",
)];

/// Rounding in another order moves the numbers by up to 1e-4 of their size (measured with ATEN_CPU_CAPABILITY=default, DNNL_MAX_CPU_ISA=SSE41
/// and MKL_CBWR=COMPATIBLE, and with ATEN_CPU_CAPABILITY=avx2). A tangent whose light is 1.0001 times as
/// bright moves fluxes by 1e-4, which only the bits tell; sweeps without their correction for curvature move them by 3e-3
/// (both with arithmetic 12).
const ROUNDING: f64 = 3e-4;

const BANDS: [(&str, f64); 3] = [("g", 0.6), ("r", 1.0), ("i", 1.3)];
const SIDE: usize = 64;
/// Arcsec a pixel, and sigma of the PSF in pixels.
const PITCH: f64 = 0.168;
const SEEING: f64 = 1.8;

/// A round galaxy with a bar of light beside it, on noise from a short recursion.
fn image(band: usize) -> Vec<f32> {
    let mut seed = 12_345 + band as u32;
    let mut noise = || {
        // The sum of twelve uniform numbers is nearly normal.
        let mut sum = -6.0;
        for _ in 0..12 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            sum += f64::from(seed >> 8) / f64::from(1u32 << 24);
        }
        sum
    };
    let middle = SIDE as f64 / 2.0;
    let light = |x: f64, y: f64| {
        let main = 9.0 / (1.0 + (x * x + 1.4 * y * y) / 12.0).powi(2);
        let bar = if (x - 5.0).abs() < 2.0 && y.abs() < 6.0 { 1.0 } else { 0.0 };
        BANDS[band].1 * (main + bar)
    };
    let pixels = (0..SIDE * SIDE).map(|index| {
        let (x, y) = ((index % SIDE) as f64 - middle, (index / SIDE) as f64 - middle);
        (light(x, y) + 0.35 * noise()) as f32
    });
    pixels.collect()
}

fn psf() -> Vec<f32> {
    let radius = |index: usize| [index % 21, index / 21].map(|place| (place as f64 - 10.0).powi(2)).iter().sum::<f64>();
    let values: Vec<f64> = (0..21 * 21).map(|index| (1.0 + radius(index) / (2.0 * SEEING * SEEING)).powi(-3)).collect();
    let sum: f64 = values.iter().sum();
    values.iter().map(|value| (value / sum) as f32).collect()
}

/// Writes the survey; gives its config.
fn survey(folder: &Path) -> std::path::PathBuf {
    let degrees = PITCH / 3600.0;
    let middle = SIDE as f64 / 2.0;
    let wcs = TanWcs { crval: [150.0, 2.0], crpix: [middle, middle], cd: [[-degrees, 0.0], [0.0, degrees]] };
    for (band, (name, _)) in BANDS.iter().enumerate() {
        let keywords = vec![Keyword::number("FLUXMAG0", 6.3e10, "")];
        let of = |pixels, shape, wcs, keywords| NewImage { name: "", shape, pixels, wcs, keywords };
        let (values, kernel) = (image(band), psf());
        let image = of(Pixels::Floats(&values), &[SIDE, SIDE], Some(wcs), keywords);
        write_images(&folder.join(format!("{name}.fits")), &[image]).unwrap();
        let kernel = of(Pixels::Floats(&kernel), &[21, 21], None, Vec::new());
        write_images(&folder.join(format!("{name}-psf.fits")), &[kernel]).unwrap();
    }
    std::fs::write(folder.join("catalog.csv"), "object_id,ra,dec,redshift\na,150.0,2.0,0.3\n").unwrap();
    // A solver that is exact does not stop a step earlier or later for a rounding.
    let text = format!(
        "[survey]\nname = \"arithmetic\"\nfolder = \"run\"\nseed = 3\n[catalog]\npaths = [\"catalog.csv\"]\n\
         [data]\nbands = [\"g\", \"r\", \"i\"]\nimage = \"{{band}}.fits\"\npsf = \"{{band}}-psf.fits\"\n\
         [prior]\npath = \"{PRIOR}\"\n[sampler]\nsteps = 12\ncg_tolerance = 0.001\ncg_iterations = 2000\n\
         [posterior]\nsamples = 4\nblock = 2\n[run]\ndevice = \"cpu\"\nthreads = 1\n"
    );
    let config = folder.join("survey.toml");
    std::fs::write(&config, text).unwrap();
    config
}

/// The processor, and all else that bits are known to depend on.
fn machine() -> String {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |wanted: &str| {
        let mut pairs = processors.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(name, _)| name.trim() == wanted).map_or("?", |(_, value)| value.trim()).to_string()
    };
    let processor = ["model name", "cpu family", "model", "stepping"].map(of).join(" ");
    let settings = std::thread::spawn(|| Compute::open(DeviceKind::Cpu, 0, 1, 1).unwrap().fingerprint().unwrap());
    format!("{processor}; {}", settings.join().unwrap())
}

#[test]
fn arithmetic_that_moves_numbers_has_a_new_version() {
    let folder = tempfile::tempdir().unwrap();
    let config = survey(folder.path());
    let call = |arguments: &[&str]| {
        let output = unseeing().args(arguments).arg(&config).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    call(&["run"]);
    let [table, joined] = ["table.csv", "survey.h5"].map(|name| folder.path().join(name));
    call(&["merge", "--out", joined.to_str().unwrap(), "--catalogue", table.to_str().unwrap()]);
    let text = std::fs::read_to_string(&table).unwrap();
    let mut lines = text.lines().map(split);
    let row: BTreeMap<String, String> = lines.next().unwrap().into_iter().zip(lines.next().unwrap()).collect();
    assert_eq!(row["status"], "done", "{}", row["reason"]);
    let found = RECORDED.map(|(name, _)| (name, row[name].parse::<f64>().unwrap()));
    let verified: serde_json::Value = serde_json::from_str(&call(&["verify", "--json"])).unwrap();
    let content = verified["shards"][0]["content_blake3"].as_str().unwrap();
    let (prior, machine) = (digest::file(Path::new(PRIOR)).unwrap(), machine());

    let record = format!("To be recorded here: {prior}; {ARITHMETIC}; {found:?}; {machine:?}, {content:?}");
    assert!(prior == RECORDED_PRIOR, "the shipped prior is another one, which asks for no new ARITHMETIC. {record}");
    assert_eq!(ARITHMETIC, RECORDED_ARITHMETIC, "ARITHMETIC is new. {record}");
    let moved: Vec<_> =
        RECORDED.iter().zip(found).filter(|(own, new)| (own.1 - new.1).abs() > ROUNDING * own.1.abs()).collect();
    let raise = "raise ARITHMETIC in src/survey/pins.rs";
    assert!(moved.is_empty(), "the arithmetic has changed, {raise}: {moved:#?}. {record}");
    match BITS.iter().find(|(known, _)| *known == machine) {
        Some((_, bits)) => assert!(
            *bits == content,
            "the numbers are the same but for rounding, the bits are not. If the program has changed, {raise}; if it is the \
             machine's libraries, only record the bits anew. {record}"
        ),
        None => println!("SKIPPED: no bits are recorded of this machine. {record}"),
    }
}
