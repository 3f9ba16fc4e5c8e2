//! `Q4_0`: 32 values as one scale and 32 nibbles that are offset by 8.
//!
//! ```text
//! byte 0       2                                  18
//!      | scale | q16 q0 | q17 q1 | ... | q31 q15 |      value i = (qi - 8) * scale
//!      |  F16  |   high nibble, low nibble       |
//! ```
//!
//! The same bytes as ggml's quantizer: the value of largest magnitude, the first of them where
//! there are several, becomes exactly -8, which fixes the scale and its sign.

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use super::{Block, f16_to_f32, f32_to_f16, range_with_zero, reciprocal};

/// 32 values of `Q4_0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// The scale, an F16 in little-endian order. It may be negative.
    pub scale: [u8; 2],
    /// Values 0 to 15 in the low nibbles, 16 to 31 in the high ones; 8 stands for zero.
    pub quants: [u8; 16],
}

impl BlockQ4_0 {
    /// The scale as a number.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        f16_to_f32(self.scale)
    }

    /// The block that stands for `values`.
    #[inline(always)]
    fn of(values: &[f32; 32]) -> Self {
        let scale = largest(values) / -8.0;
        let inverse = reciprocal(scale);
        let nibbles = values.map(|x| nibble(x * inverse));
        BlockQ4_0 {
            scale: f32_to_f16(scale),
            quants: std::array::from_fn(|i| nibbles[i] | nibbles[i + 16] << 4),
        }
    }
}

impl Block<32> for BlockQ4_0 {
    #[inline(always)]
    fn quantize<S: Simd>(_: S, values: &[[f32; 32]], out: &mut [Self]) {
        for (values, block) in values.iter().zip(out) {
            *block = Self::of(values);
        }
    }

    #[inline(always)]
    fn dequantize_to(&self, out: &mut [f32; 32]) {
        let scale = self.scale();
        let (low, high) = out.split_at_mut(16);
        for i in 0..16 {
            low[i] = (f32::from(self.quants[i] & 0xf) - 8.0) * scale;
            high[i] = (f32::from(self.quants[i] >> 4) - 8.0) * scale;
        }
    }
}

/// The first of the values with the largest magnitude.
#[inline(always)]
fn largest(values: &[f32; 32]) -> f32 {
    let (low, high) = range_with_zero(values);
    if high > -low {
        high
    } else if high < -low {
        low
    } else {
        let first = values.iter().find(|x| x.abs() == high);
        first.copied().unwrap_or(0.0)
    }
}

/// `x + 8`, where `-8 <= x <= 8`, rounded half up and clamped to a nibble; NaN gives zero.
#[inline(always)]
fn nibble(x: f32) -> u8 {
    ((x + 8.5) as i32).clamp(0, 15) as u8
}
