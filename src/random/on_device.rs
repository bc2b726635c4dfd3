//! The same numbers made where they are wanted. A step of 256 samples takes some ten million normal numbers, a third of a
//! second on one CPU thread and another for the copy: far more than the step itself on a GPU. Philox is integer arithmetic
//! with 32-bit words, here in the lower halves of 64-bit ones, and gives the same bits anywhere; logarithm, sine and cosine
//! round as the device does.

use tch::{Device, Kind, Tensor};

use super::{MULTIPLIERS, WEYL};
use crate::Result;

const WORD: i64 = 0xFFFF_FFFF;

/// Standard normal numbers `[count, per_sample]` of samples `first ..`, with the key's other words.
pub fn normal(
    key: [u32; 2],
    [purpose, step]: [u32; 2],
    first: u32,
    [count, per_sample]: [i64; 2],
    device: Device,
) -> Result<Tensor> {
    let blocks = (per_sample + 3) / 4;
    let whole = (Kind::Int64, device);
    let samples =
        Tensor::f_arange(count, whole)?.f_add_scalar(i64::from(first))?.f_bitwise_and(WORD)?.f_unsqueeze(1)?;
    let constant = |value: u32| Tensor::f_full([1, 1], i64::from(value), whole);
    let counter = [Tensor::f_arange(blocks, whole)?.f_unsqueeze(0)?, samples, constant(purpose)?, constant(step)?];
    let [a, b, c, d] = philox4x32_10(counter, key)?;
    let (first, second) = box_muller(&a, &b)?;
    let (third, fourth) = box_muller(&c, &d)?;
    let all = Tensor::f_stack(&[first, second, third, fourth], -1)?.f_view([count, 4 * blocks])?;
    Ok(all.f_narrow(1, 0, per_sample)?.f_contiguous()?)
}

/// Philox4x32 with ten rounds on words in tensors that broadcast against each other.
fn philox4x32_10(mut counter: [Tensor; 4], key: [u32; 2]) -> Result<[Tensor; 4]> {
    let mut key = key;
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        // The product of two words fills 64 bits; that the highest is a sign changes none of them.
        let first = counter[0].f_mul_scalar(i64::from(MULTIPLIERS[0]))?;
        let second = counter[2].f_mul_scalar(i64::from(MULTIPLIERS[1]))?;
        let high = |product: &Tensor| -> Result<Tensor> {
            Ok(product.f_bitwise_right_shift_tensor_scalar(32)?.f_bitwise_and(WORD)?)
        };
        let mixed = |product: &Tensor, word: &Tensor, key: u32| -> Result<Tensor> {
            Ok(high(product)?.f_bitwise_xor_tensor(word)?.f_bitwise_xor(i64::from(key))?)
        };
        counter = [
            mixed(&second, &counter[1], key[0])?,
            second.f_bitwise_and(WORD)?,
            mixed(&first, &counter[3], key[1])?,
            first.f_bitwise_and(WORD)?,
        ];
    }
    Ok(counter)
}

/// As `super::box_muller`.
fn box_muller(first: &Tensor, second: &Tensor) -> Result<(Tensor, Tensor)> {
    let scale = 4_294_967_296.0;
    let u = first.f_to_kind(Kind::Double)?.f_add_scalar(1.0)?.f_div_scalar(scale)?;
    let turn = second.f_to_kind(Kind::Double)?.f_div_scalar(scale)?.f_mul_scalar(std::f64::consts::TAU)?;
    let angle = turn.f_to_kind(Kind::Float)?;
    let radius = u.f_log()?.f_mul_scalar(-2.0)?.f_sqrt()?.f_to_kind(Kind::Float)?;
    Ok((angle.f_cos()?.f_mul(&radius)?, angle.f_sin()?.f_mul(&radius)?))
}

#[cfg(test)]
mod tests {
    use crate::random::{BlockNoise, Purpose, object_seed};
    use tch::{Device, Tensor};

    /// The normal numbers themselves round in f32; ten roundings are allowed.
    const F32_TOLERANCE: f64 = 1e-6;

    fn difference(device: Device) -> f64 {
        // The last sample's number goes beyond 32 bits, and the row is no multiple of four.
        let (first, shape) = (u32::MAX - 1, [3, 7]);
        let noise = BlockNoise::new(3, "object", first, 2);
        let expected = noise.normal(Purpose::Renoise, 5, &shape, Device::Cpu).unwrap();
        let seed = object_seed(3, "object");
        let key = [seed as u32, (seed >> 32) as u32];
        let found = super::normal(key, [Purpose::Renoise as u32, 5], first, [2, 21], device).unwrap();
        let found: Tensor = found.view([2, 3, 7]).to_device(Device::Cpu);
        (found - expected).abs().max().double_value(&[])
    }

    #[test]
    fn numbers_are_those_of_the_scalar_generator() {
        let found = difference(Device::Cpu);
        assert!(found < F32_TOLERANCE, "{found}");
    }
}
