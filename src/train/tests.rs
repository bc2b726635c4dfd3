//! The training as a whole, on quick toy images.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tch::{Device, Kind, Tensor};

use crate::cluster::Solo;
use crate::prior::Prior;
use crate::prior::card::LeanConfig;
use crate::train::batches::BatchMaker;
use crate::train::checkpoint::{checkpoint_bytes, resume_bytes, shipped_bytes};
use crate::train::config::{Precision, TrainConfig};
use crate::train::heldout::Heldout;
use crate::train::parameters::Layout;
use crate::train::session::{Options, Outcome, run};
use crate::train::setup::Setup;
use crate::train::source::{ImageSource, Toy};
use crate::train::trainer::Trainer;

const SIZE: i64 = 16;

fn config(steps: u64) -> TrainConfig {
    let text = format!(
        r#"
        [prior]
        name = "toy"
        redshift_range = [0.1, 1.0]
        caution = "none"
        [data]
        size = {SIZE}
        [network]
        channels = [16, 32]
        unshuffle = 2
        blocks = 1
        heads = 2
        [covariance]
        images = 256
        rank = 8
        [optimizer]
        steps = {steps}
        batch = 8
        learning_rate = 2e-3
        warmup = 20
        ema = 0.98
        [run]
        threads = 1
        heldout = 32
        "#
    );
    let config: TrainConfig = toml::from_str(&text).unwrap();
    config.check().unwrap();
    config
}

fn source() -> Arc<dyn ImageSource> {
    Arc::new(Toy { bands: 3, size: SIZE, seed: 1 })
}

fn trainer(config: &TrainConfig) -> Trainer {
    Trainer::new(config, Setup::measure(source().as_ref(), config).unwrap()).unwrap()
}

fn advance(trainer: &mut Trainer, to: u64) {
    let maker = BatchMaker::new(source(), &trainer.config, trainer.setup.sigma_max);
    while trainer.step < to {
        trainer.train(&maker.make(trainer.step).unwrap()).unwrap();
    }
}

#[test]
fn a_resumed_run_gives_the_same_bytes() {
    tch::set_num_threads(1);
    let config = config(12);
    let mut whole = trainer(&config);
    let start = checkpoint_bytes(&whole, "d").unwrap();
    advance(&mut whole, 12);
    let expected = checkpoint_bytes(&whole, "d").unwrap();
    assert_ne!(start, expected);
    for stop in [0, 1, 7] {
        let mut first = trainer(&config);
        advance(&mut first, stop);
        let saved = checkpoint_bytes(&first, "d").unwrap();
        let mut second = resume_bytes(&saved, &config, "d", [3, SIZE, SIZE], Device::Cpu).unwrap();
        assert_eq!(second.step, stop);
        advance(&mut second, 12);
        assert!(checkpoint_bytes(&second, "d").unwrap() == expected, "stopped at {stop}");
    }
}

#[test]
fn another_config_or_other_images_are_not_resumed() {
    let ours = config(12);
    let saved = checkpoint_bytes(&trainer(&ours), "d").unwrap();
    let message = |config: &TrainConfig, digest| {
        resume_bytes(&saved, config, digest, [3, SIZE, SIZE], Device::Cpu)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert!(message(&config(13), "d").contains("config has changed"));
    let mut other = ours.clone();
    other.network = other.network.map(|network| LeanConfig { channels: vec![16], ..network });
    assert!(message(&other, "d").contains("config has changed"));
    other = ours.clone();
    other.run.seed = 2;
    assert!(message(&other, "d").contains("config has changed"));
    assert!(message(&ours, "e").contains("images have changed"));
    // How the machine is used may change.
    other = ours.clone();
    other.run.checkpoint_interval = 1.0;
    assert_eq!(message(&other, "d"), "");
}

#[test]
fn batches_are_a_function_of_their_step() {
    let config = config(12);
    let maker = BatchMaker::new(source(), &config, 30.0);
    let fifth = maker.make(5).unwrap();
    // Whoever makes them, they come in order.
    for makers in [1, 3] {
        let mut batches = BatchMaker::new(source(), &config, 30.0).start(4, makers);
        let steps: Vec<_> = batches.by_ref().take(5).map(Result::unwrap).collect();
        assert_eq!(steps.iter().map(|batch| batch.step).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
        assert_eq!(steps[1], fifth);
    }
    let sixth = maker.make(6).unwrap();
    assert!(fifth.flux != sixth.flux && fifth.noise != sixth.noise && fifth.levels != sixth.levels);
    let levels: Vec<i64> = (0..200).flat_map(|step| maker.make(step).unwrap().levels).collect();
    let last = config.levels.count as i64 - 1;
    assert!(levels.iter().all(|level| (0..=last).contains(level)));
    // A log-uniform share of 0.35 puts 3.5 % into the top tenth of the grid, where the normal part hardly reaches.
    let top = levels.iter().filter(|&&level| level > last * 9 / 10).count() as f64 / levels.len() as f64;
    assert!((0.02..0.07).contains(&top), "{top}");
}

#[test]
fn nobody_to_make_batches_is_a_bad_config() {
    let mut config = config(12);
    config.run.makers = 0;
    assert!(config.check().unwrap_err().to_string().contains("run.makers"));
}

/// Eight or eleven bits: a step differs by some thousandths, what is learned hardly.
#[test]
fn half_precision_learns_what_f32_learns() {
    tch::set_num_threads(1);
    let losses = |precision| {
        let mut config = config(40);
        config.run.precision = precision;
        let mut trainer = trainer(&config);
        let maker = BatchMaker::new(source(), &config, trainer.setup.sigma_max);
        (0..40).map(|step| trainer.train(&maker.make(step).unwrap()).unwrap().loss).collect::<Vec<_>>()
    };
    let full = losses(Precision::F32);
    for precision in [Precision::Bf16, Precision::F16] {
        let half = losses(precision);
        assert_ne!(full, half);
        for (step, (full, half)) in full.iter().zip(&half).enumerate() {
            assert!((half / full - 1.0).abs() < 0.03, "{precision:?}, step {step}: {full} {half}");
        }
    }
    // What comes after it computes in f32 again.
    let x = Tensor::ones([1, 8], (Kind::Float, Device::Cpu));
    assert_eq!(x.matmul(&x.tr()).kind(), Kind::Float);
}

/// A gradient that overflows f16 moves nothing but the scale of the loss, which the checkpoint keeps.
#[test]
fn an_overflow_of_f16_is_left_out() {
    tch::set_num_threads(1);
    let mut config = config(12);
    config.run.precision = Precision::F16;
    let mut trainer = trainer(&config);
    let before = trainer.optimizer.weights.copy();
    let levels = vec![5i64; config.optimizer.batch];
    let total = |value: f64| {
        let all = Tensor::zeros([trainer.layout.length() + 1 + levels.len() as i64], (Kind::Float, Device::Cpu));
        let _ = all.get(3).fill_(value);
        all
    };
    let (overflowed, good) = (total(f64::INFINITY), total(1.0));
    assert_eq!(trainer.apply(&overflowed, &levels).unwrap().gradient_norm, None);
    assert_eq!((trainer.step, trainer.scale.factor()), (1, 32768.0));
    assert_eq!(trainer.optimizer.weights, before);
    let bytes = checkpoint_bytes(&trainer, "d").unwrap();
    let again = resume_bytes(&bytes, &config, "d", source().shape(), Device::Cpu).unwrap();
    assert_eq!((again.step, again.scale), (trainer.step, trainer.scale));
    assert_eq!(trainer.apply(&good, &levels).unwrap().gradient_norm, Some(1.0));
    assert_ne!(trainer.optimizer.weights, before);
}

#[test]
fn training_beats_the_wiener_denoiser() {
    let config = config(250);
    let mut trainer = trainer(&config);
    let heldout = Heldout::new(source().as_ref(), &trainer, 32).unwrap();
    for loss in heldout.losses(&trainer).unwrap() {
        // The last layer starts at zero.
        assert!((loss.ratio() - 1.0).abs() < 1e-6, "{loss:?}");
    }
    advance(&mut trainer, 250);
    let losses = heldout.losses(&trainer).unwrap();
    for loss in losses.iter().filter(|loss| (0.1..1.0).contains(&loss.sigma)) {
        // Blobs are far from Gaussian: even this small network takes a quarter off (0.72 at 0.2 when this was written).
        assert!(loss.ratio() < 0.85, "{loss:?}");
    }
}

fn options(folder: &Path, stop_at: Option<u64>) -> Options {
    Options { folder: folder.into(), stop_at, minutes: None, stop: Arc::new(AtomicBool::new(false)) }
}

#[test]
fn a_session_continues_its_folder_and_leaves_a_prior() {
    tch::set_num_threads(1);
    let config = config(60);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [whole, parts] = folders.each_ref().map(|folder| folder.path());
    assert_eq!(run(&config, source(), &options(whole, None), &Solo, Device::Cpu).unwrap(), Outcome::Finished);
    assert_eq!(run(&config, source(), &options(parts, Some(50)), &Solo, Device::Cpu).unwrap(), Outcome::Stopped);
    assert_eq!(run(&config, source(), &options(parts, None), &Solo, Device::Cpu).unwrap(), Outcome::Finished);
    let read = |folder: &Path, name: &str| std::fs::read(folder.join(name)).unwrap();
    for name in ["checkpoint.safetensors", "prior.safetensors"] {
        assert!(read(whole, name) == read(parts, name), "{name} differs");
    }
    let rows = String::from_utf8(read(parts, "log.csv")).unwrap();
    let steps: Vec<&str> = rows.lines().filter_map(|line| line.split(',').next()).collect();
    assert_eq!(steps, ["50", "60"]);
    assert!(read(whole, "draws.png") == read(parts, "draws.png"), "draws differ");
    let bytes = read(whole, "prior.safetensors");
    let prior = Prior::from_bytes(&bytes, Device::Cpu).unwrap();
    assert_eq!(prior.shape(), [3, SIZE, SIZE]);
    assert!(prior.card.recipe.contains("60 of 60 steps"), "{}", prior.card.recipe);
    let x = prior.covariance.mean.view([1, 3, SIZE, SIZE]);
    assert_eq!(prior.denoiser.denoise(&x, 0.3).unwrap().size(), x.size());
}

/// The U-Net learns to predict noise, with and without its variance, and its prior is one that can be used.
#[test]
fn the_u_net_is_trained_as_published() {
    tch::set_num_threads(1);
    for (learn_sigma, precision) in [(false, Precision::F32), (true, Precision::F32), (true, Precision::Bf16)] {
        let mut config = config(12);
        config.run.precision = precision;
        config.network = None;
        config.data.size = 32;
        config.optimizer.batch = 4;
        config.optimizer.micro_batch = Some(2);
        config.unet = Some(
            toml::from_str(&format!(
                "num_channels = 32\nnum_res_blocks = 1\nnum_heads = 2\nattention_resolutions = '8'\nlearn_sigma = {learn_sigma}"
            ))
            .unwrap(),
        );
        config.check().unwrap();
        let source: Arc<dyn ImageSource> = Arc::new(Toy { bands: 3, size: 32, seed: 1 });
        let mut trainer = Trainer::new(&config, Setup::measure(source.as_ref(), &config).unwrap()).unwrap();
        let maker = BatchMaker::new(source.clone(), &config, trainer.setup.sigma_max);
        let mut losses = Vec::new();
        while trainer.step < 12 {
            losses.push(trainer.train(&maker.make(trainer.step).unwrap()).unwrap().loss);
        }
        // It starts by predicting nothing: a loss of one, and what the variance costs.
        assert!(learn_sigma || (losses[0] - 1.0).abs() < 0.05, "{losses:?}");
        assert!(losses[11] < 0.8 * losses[0], "{losses:?}");
        let bytes = shipped_bytes(&trainer, source.as_ref()).unwrap();
        let prior = Prior::from_bytes(&bytes, Device::Cpu).unwrap();
        let x = prior.covariance.mean.view([1, 3, 32, 32]);
        assert_eq!(prior.denoiser.denoise(&x, 0.3).unwrap().size(), x.size());
        assert!(prior.card.recipe.contains("noise prediction"), "{}", prior.card.recipe);
        let heldout = Heldout::new(source.as_ref(), &trainer, 4).unwrap();
        assert!(heldout.losses(&trainer).unwrap().iter().all(|loss| loss.ratio() > 0.0 && loss.ratio().is_finite()));
    }
}

/// The paper's recipe: its network, stages, and the size of both.
#[test]
fn the_papers_recipe_is_read_and_has_its_size() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/train-paper.toml");
    let config = TrainConfig::read(&path).unwrap();
    let layout = Layout::new(&config.architecture().unwrap(), [3, 256, 256]).unwrap();
    assert_eq!(layout.length(), 369_547_779);
    assert_eq!(config.optimizer.batch_at(0), (64, 0));
    assert_eq!(config.optimizer.batch_at(299_999), (64, 299_999 * 64));
    assert_eq!(config.optimizer.batch_at(300_001), (128, 300_000 * 64 + 128));
    assert_eq!(config.optimizer.steps, 525_000);
    assert_eq!(config.optimizer.shifts(0), [(0, 0), (300_000 * 64, 10)]);
}
