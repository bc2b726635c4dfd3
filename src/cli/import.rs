//! `unseeing import`: reads a network trained elsewhere and checks it against recorded outputs.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde_json::{Value, json};
use tch::Device;

use crate::io::publish::publish_bytes;
use crate::prior::card::{Architecture, Card, UnetConfig};
use crate::prior::import::{Description, HYPERPARAMETERS, network_file, network_of, prior_file};
use crate::prior::unet::Unet;
use crate::prior::unet_check::{Check, Difference, check, infer_config, refuse_classes};
use crate::prior::unet_layout::Layout;
use crate::prior::weights::Weights;
use crate::{Error, Result};

/// Exit code: the network does not give the recorded numbers.
const MISMATCH: i32 = 1;

/// Arguments of `unseeing import`.
#[derive(ClapArgs)]
pub struct Args {
    /// The weights: a `torch.save`d state dict (.pt) or safetensors. Hyperparameters are read from the .json beside it,
    /// or off the shapes
    weights: PathBuf,
    /// Recorded numbers to reproduce: safetensors with x, t, out and optionally cotangent, vjp
    #[arg(long, value_name = "IO.safetensors")]
    check: Option<PathBuf>,
    /// Largest difference, relative to the largest recorded value, that agrees
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f64,
    /// Writes a prior that commands can use. Its moments must be measured with `unseeing moments` before the first survey
    #[arg(long, value_name = "PRIOR.safetensors")]
    write: Option<PathBuf>,
    /// With --write: what the prior is (TOML: name, pixel_kpc, bands, stretch, normalisation, redshift_range, resolution_kpc,
    /// caution)
    #[arg(long, value_name = "CARD.toml", requires = "write")]
    card: Option<PathBuf>,
    /// Writes the network alone, under the names of the published code, with its hyperparameters in the metadata
    #[arg(long, value_name = "W.safetensors")]
    export: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code.
pub fn run(args: Args) -> Result<i32> {
    if !(args.tolerance > 0.0 && args.tolerance.is_finite()) {
        return Err(Error::usage(format!("--tolerance is {}, expected a number above 0", args.tolerance)));
    }
    let (weights, card) = Weights::read(&args.weights).and_then(network_of).map_err(input)?;
    refuse_classes(&weights).map_err(input)?;
    let (config, bands, source) = hyperparameters(&weights, card).map_err(input)?;
    let description = match (&args.write, &args.card) {
        (Some(path), None) => {
            return Err(Error::usage(format!(
                "--write {}: also give --card CARD.toml, which says what the prior is (bands, pixel_kpc, stretch, ...)",
                path.display()
            )));
        }
        (Some(_), Some(path)) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Error::usage(format!("{}: cannot read: {error}", path.display())))?;
            Some(Description::parse(path, &text)?)
        }
        _ => None,
    };
    let layout = Layout::new(&config, bands).map_err(|error| input(Error::file(&source, error)))?;
    let network = Unet::load(&config, bands, &weights, Device::Cpu).map_err(input)?;
    let mut report = json!({
        "weights": args.weights,
        "tensors": weights.tensors().len(),
        "parameters": weights.parameters(),
        "bands": bands,
        "hyperparameters": config,
        "hyperparameters_from": source,
        "flops": layout.flops(),
    });
    let outcome = match &args.check {
        Some(path) => {
            let recorded = Weights::read(path).map_err(input)?;
            Some((path, check(&network, &recorded, Device::Cpu).map_err(input)?))
        }
        None => None,
    };
    let agrees = outcome.as_ref().is_none_or(|(_, found)| agree(found, args.tolerance));
    if args.json {
        if let Some((path, found)) = &outcome {
            report["check"] = json!({
                "recorded": path,
                "tolerance": args.tolerance,
                "out": difference_json(&found.output, args.tolerance),
                "vjp": found.vjp.map(|vjp| difference_json(&vjp, args.tolerance)),
                "agrees": agrees,
            });
        }
        println!("{report:#}");
    } else {
        print_network(&report, &config);
        if let Some((path, found)) = &outcome {
            println!("check against {}:", path.display());
            print_difference("out", &found.output, args.tolerance);
            match &found.vjp {
                Some(vjp) => print_difference("vjp", vjp, args.tolerance),
                None => println!("  vjp  not recorded (no cotangent)"),
            }
        }
    }
    if !agrees {
        return Ok(MISMATCH);
    }
    if let (Some(path), Some(description)) = (&args.write, &description) {
        publish_bytes(path, &prior_file(&weights, &config, bands, description)?)?;
        eprintln!("{}: written; its moments are not measured yet: unseeing moments {0}", path.display());
    }
    if let Some(path) = &args.export {
        publish_bytes(path, &network_file(&weights, &config)?)?;
    }
    Ok(super::DONE)
}

/// A file that was given and cannot be used is an error of the input: nothing has been done yet.
fn input(error: Error) -> Error {
    match error {
        Error::File { .. } => Error::usage(error.to_string()),
        other => other,
    }
}

/// Hyperparameters, number of bands, and the file that they were read from.
fn hyperparameters(weights: &Weights, card: Option<Card>) -> Result<(UnetConfig, i64, PathBuf)> {
    let inferred = infer_config(weights);
    let sibling = weights.path().with_extension("json");
    let own = weights.path().to_path_buf();
    let (config, sibling) = match (card.map(|card| card.architecture), weights.metadata().get(HYPERPARAMETERS)) {
        (Some(Architecture::Unet(config)), _) => (config, own),
        _ if sibling.exists() => (read_config(&sibling)?, sibling),
        (_, Some(text)) => (parse_config(&own, text)?, own),
        _ => {
            let (config, bands) = inferred?;
            return Ok((config, bands, own));
        }
    };
    let stem = weights.find("input_blocks.0.0.weight").map(|tensor| tensor.size());
    match stem.as_deref() {
        Some(&[_, bands, _, _]) => Ok((config, bands, sibling)),
        _ => Err(inferred.err().unwrap_or_else(|| Error::file(weights.path(), "has no first convolution"))),
    }
}

fn read_config(path: &Path) -> Result<UnetConfig> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, format!("cannot read: {error}")))?;
    parse_config(path, &text)
}

fn parse_config(path: &Path, text: &str) -> Result<UnetConfig> {
    serde_json::from_str(text).map_err(|error| Error::file(path, format!("not hyperparameters of the U-Net: {error}")))
}

fn agree(found: &Check, tolerance: f64) -> bool {
    within(&found.output, tolerance) && found.vjp.is_none_or(|vjp| within(&vjp, tolerance))
}

/// False for NaN.
fn within(difference: &Difference, tolerance: f64) -> bool {
    difference.difference <= tolerance * difference.largest
}

fn difference_json(difference: &Difference, tolerance: f64) -> Value {
    json!({
        "max_difference": difference.difference,
        "max_value": difference.largest,
        "relative": difference.relative(),
        "agrees": within(difference, tolerance),
    })
}

fn print_difference(name: &str, difference: &Difference, tolerance: f64) {
    let verdict = if within(difference, tolerance) { "agrees" } else { "DIFFERS" };
    println!(
        "  {name}  max |difference| {:.2e}, max |value| {:.4}, relative {:.2e} (at most {tolerance:.0e}): {verdict}",
        difference.difference,
        difference.largest,
        difference.relative()
    );
}

fn print_network(report: &Value, config: &UnetConfig) {
    println!("{}: U-Net of improved-diffusion or guided-diffusion", report["weights"].as_str().unwrap_or_default());
    println!("  {} tensors, {} parameters", report["tensors"], report["parameters"]);
    println!("  {} bands, {} px", report["bands"], config.image_size);
    println!(
        "  {} channels, {} residual blocks a level, {} heads, attention at {} px",
        config.num_channels, config.num_res_blocks, config.num_heads, config.attention_resolutions
    );
    println!(
        "  {} schedule, {} steps; learn_sigma {}, scale-shift norm {}, rescaled times {}",
        config.noise_schedule,
        config.diffusion_steps,
        config.learn_sigma,
        config.use_scale_shift_norm,
        config.rescale_timesteps
    );
    println!("  hyperparameters from {}", report["hyperparameters_from"].as_str().unwrap_or_default());
    println!("  {:.3e} floating-point operations a forward of one image", report["flops"].as_f64().unwrap_or(f64::NAN));
}
