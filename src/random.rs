//! All randomness of the program. Numbers are a pure function of a key: there is no generator state to save, share or
//! advance, so the same plan gives the same numbers whatever the ranks, the order of work, the kills or the retries.
//!
//! The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11), which maps
//! a 128-bit counter and a 64-bit key to 128 random bits. The key is made of the survey's seed and the object; the
//! counter of the position in the array, the sample, the purpose and the step.

use tch::{Device, Kind, Tensor};

use crate::Result;

pub mod normal;
mod on_device;

/// What a number is for. Numbers of different purposes are independent. The values are part of the file formats'
/// promise of equal bytes: never reorder, only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// The sampler's starting point.
    Start = 0,
    /// Latent perturbation, the `a ~ N(0, C0)` of perturb-and-MAP: its PCA part.
    PerturbPca = 1,
    /// The diagonal part of the same.
    PerturbDiagonal = 2,
    /// Latent perturbation, the `e ~ N(0, I)`.
    PerturbWhite = 3,
    /// Data perturbation, `v ~ N(0, Sigma)`.
    PerturbData = 4,
    /// Perturbation of the amplitude's logarithm.
    PerturbAmplitude = 5,
    /// Perturbation of the sky level.
    PerturbSky = 6,
    /// Renoising between sampler steps.
    Renoise = 7,
    /// Redshift drawn for one posterior sample.
    Redshift = 8,
    /// Truths and draws of the prior itself.
    PriorDraw = 9,
    /// Noise of a simulated observation.
    ObservationNoise = 10,
    /// Parameters of a procedurally drawn galaxy.
    Galaxy = 11,
    /// The choice of a training image.
    TrainingChoice = 12,
    /// Augmentation of a training image.
    Augmentation = 13,
    /// Noise level of a training image.
    TrainingLevel = 14,
    /// Noise of a training image.
    TrainingNoise = 15,
    /// Initial weights of a network.
    Weights = 16,
    /// Second-part data perturbation: the correlated part of the noise.
    PerturbCorrelated = 17,
    /// Evaluation: references, resampling.
    Evaluation = 18,
    /// The tolerance of a constraint in perturb-and-MAP.
    PerturbConstraint = 19,
    /// The sampler's starting point: its PCA part.
    StartPca = 20,
    /// Draws that are taken anew by their weights.
    Resample = 21,
}

/// Names one stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    seed: u64,
    sample: u32,
    purpose: Purpose,
    step: u32,
}

impl Key {
    /// The stream of an object (by its id) in a survey (by its seed).
    pub fn new(seed: u64, object: &str, sample: u32, purpose: Purpose, step: u32) -> Self {
        Key { seed: object_seed(seed, object), sample, purpose, step }
    }

    /// The same with the mixed seed of `object_seed`, for loops that make many keys of one object.
    pub fn of_seed(object_seed: u64, sample: u32, purpose: Purpose, step: u32) -> Self {
        Key { seed: object_seed, sample, purpose, step }
    }

    /// Fills `out` with independent standard normal numbers (Box-Muller on 32-bit uniforms).
    pub fn fill_normal(&self, out: &mut [f32]) {
        for (block, chunk) in out.chunks_mut(4).enumerate() {
            let bits = self.bits(block as u32);
            let (a, b) = box_muller(bits[0], bits[1]);
            let (c, d) = box_muller(bits[2], bits[3]);
            chunk.copy_from_slice(&[a, b, c, d][..chunk.len()]);
        }
    }

    /// `count` independent numbers, uniform in [0, 1).
    pub fn uniform(&self, count: usize) -> Vec<f64> {
        let mut out = Vec::with_capacity(count);
        for block in 0..count.div_ceil(2) as u32 {
            let bits = self.bits(block);
            out.push(uniform53(bits[0], bits[1]));
            out.push(uniform53(bits[2], bits[3]));
        }
        out.truncate(count);
        out
    }

    /// `count` independent standard normal numbers.
    pub fn normal(&self, count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count];
        self.fill_normal(&mut out);
        out
    }

    fn bits(&self, block: u32) -> [u32; 4] {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        philox4x32_10([block, self.sample, self.purpose as u32, self.step], key)
    }
}

/// Mixes a survey's seed and an object's id into the 64-bit key of the generator.
pub fn object_seed(seed: u64, object: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(object.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// The random numbers of one block of samples of one object: the only source that samplers see.
#[derive(Clone, Debug)]
pub struct BlockNoise {
    object_seed: u64,
    first_sample: u32,
    count: u32,
}

impl BlockNoise {
    /// Samples `first_sample .. first_sample + count` of the object.
    pub fn new(seed: u64, object: &str, first_sample: u32, count: u32) -> Self {
        BlockNoise { object_seed: object_seed(seed, object), first_sample, count }
    }

    /// The number of samples in the block.
    pub fn count(&self) -> i64 {
        i64::from(self.count)
    }

    /// Standard normal numbers of shape `[count, shape...]`, f32, on `device`. A sample's numbers depend on its own
    /// index, not on the block that it is in.
    pub fn normal(&self, purpose: Purpose, step: u32, shape: &[i64], device: Device) -> Result<Tensor> {
        let per_sample: usize = shape.iter().product::<i64>() as usize;
        let mut full = vec![self.count()];
        full.extend_from_slice(shape);
        if device.is_cuda() {
            let key = [self.object_seed as u32, (self.object_seed >> 32) as u32];
            let size = [self.count(), per_sample as i64];
            let numbers = on_device::normal(key, [purpose as u32, step], self.first_sample, size, device)?;
            return Ok(numbers.f_view(full.as_slice())?);
        }
        let mut values = vec![0.0f32; per_sample * self.count as usize];
        for (index, sample) in values.chunks_mut(per_sample.max(1)).enumerate() {
            Key::of_seed(self.object_seed, self.first_sample + index as u32, purpose, step).fill_normal(sample);
        }
        Ok(Tensor::f_from_slice(&values)?.f_view(full.as_slice())?.f_to_device(device)?.to_kind(Kind::Float))
    }
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox4x32 with ten rounds.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(WEYL[0]);
            key[1] = key[1].wrapping_add(WEYL[1]);
        }
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

/// Two independent standard normal numbers from two 32-bit words. The radius uses (0, 1], so its logarithm is finite;
/// the largest value is 6.7.
fn box_muller(first: u32, second: u32) -> (f32, f32) {
    let u = (f64::from(first) + 1.0) / 4_294_967_296.0;
    let angle = (f64::from(second) / 4_294_967_296.0 * std::f64::consts::TAU) as f32;
    let radius = (-2.0 * u.ln()).sqrt() as f32;
    let (sine, cosine) = angle.sin_cos();
    (radius * cosine, radius * sine)
}

fn uniform53(high: u32, low: u32) -> f64 {
    (((u64::from(high) << 32) | u64::from(low)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn normals_have_unit_variance_and_depend_on_every_part_of_the_key() {
        let base = Key::new(1, "a", 0, Purpose::Start, 0);
        let values = base.normal(100_000);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 1e5;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 1e5;
        let fourth = values.iter().map(|&v| f64::from(v).powi(4)).sum::<f64>() / 1e5;
        // Five standard errors of each moment for 1e5 normals.
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.023 && (fourth - 3.0).abs() < 0.16);
        let others = [
            Key::new(2, "a", 0, Purpose::Start, 0),
            Key::new(1, "b", 0, Purpose::Start, 0),
            Key::new(1, "a", 1, Purpose::Start, 0),
            Key::new(1, "a", 0, Purpose::Renoise, 0),
            Key::new(1, "a", 0, Purpose::Start, 1),
        ];
        for other in others {
            assert_ne!(values[..8], other.normal(8)[..], "{other:?}");
        }
    }

    #[test]
    fn a_sample_does_not_depend_on_its_block() {
        let whole = BlockNoise::new(7, "x", 0, 4).normal(Purpose::Start, 3, &[5], Device::Cpu).unwrap();
        let half = BlockNoise::new(7, "x", 2, 2).normal(Purpose::Start, 3, &[5], Device::Cpu).unwrap();
        assert_eq!(whole.narrow(0, 2, 2), half);
    }
}
