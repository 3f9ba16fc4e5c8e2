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

use super::{
    QuantBlock, f16_to_f32, f32_to_f16, low_byte, range_with_zero, reciprocal, round_within,
    tree_sum,
};

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

    /// The nibbles in the order of the values.
    #[inline(always)]
    pub fn nibbles(&self) -> [u8; 32] {
        let mut nibbles = [0; 32];
        let (low, high) = nibbles.split_at_mut(16);
        for (nibble, &byte) in low.iter_mut().zip(&self.quants) {
            *nibble = byte & 0xf;
        }
        for (nibble, &byte) in high.iter_mut().zip(&self.quants) {
            *nibble = byte >> 4;
        }
        nibbles
    }

    /// The block that stands for `values`.
    #[inline(always)]
    fn of(values: &[f32; 32]) -> Self {
        Self::with_scale(values, largest(values) / -8.0)
    }

    /// The block that stands for `values` with this scale.
    #[inline(always)]
    fn with_scale(values: &[f32; 32], scale: f32) -> Self {
        let inverse = reciprocal(scale);
        let mut quants = [0; 16];
        for (i, q) in quants.iter_mut().enumerate() {
            *q = nibble(values[i] * inverse) | nibble(values[i + 16] * inverse) << 4;
        }
        BlockQ4_0 {
            scale: f32_to_f16(scale),
            quants,
        }
    }
}

/// Writes blocks of rotated `values`, each with the scale that leaves the least error.
///
/// ggml's scale makes the largest value exact. Rotated values are nearly Gaussian; of 32 such, most
/// gain more by finer steps than the largest loses when it is cut off a little: a tenth of the squared
/// error.
#[inline(always)]
pub(super) fn quantize_rotated(values: &[f32], out: &mut [BlockQ4_0]) {
    for (values, block) in values.as_chunks::<32>().0.iter().zip(out) {
        let widest = largest(values) / -8.0;
        // The first and the last are next to never the best.
        let scales = (0..SCALES).map(|i| widest * (LEAST + i as f32 * STEP));
        // Either way, since one end of the range reaches further than the other.
        let scales = scales.flat_map(|scale| [scale, -scale]);
        *block = BlockQ4_0::with_scale(values, widest);
        let mut least = block.squared_error(values);
        for scale in scales {
            let other = BlockQ4_0::with_scale(values, scale);
            let error = other.squared_error(values);
            if error < least {
                (*block, least) = (other, error);
            }
        }
        block.restore_size(values);
    }
}

/// Scales that are tried, as parts of the widest one.
const SCALES: usize = 16;
const LEAST: f32 = 0.75;
const STEP: f32 = 0.025;

impl BlockQ4_0 {
    /// Changes the scale so that the block's product with `values` is that of these with themselves.
    ///
    /// The scale of least error makes blocks a little too small in their own direction, all alike, and
    /// what is too small in each layer adds up; what is rounded up and down does not.
    #[inline(always)]
    fn restore_size(&mut self, values: &[f32; 32]) {
        let stored = self.dequantize();
        let sum_with = |others: &[f32; 32]| {
            let mut products = *values;
            for (product, other) in products.iter_mut().zip(others) {
                *product *= other;
            }
            tree_sum(products)
        };
        let ratio = sum_with(values) / sum_with(&stored);
        if ratio.is_finite() {
            self.scale = f32_to_f16(self.scale() * ratio);
        }
    }

    /// The sum of the squared errors of all values.
    #[inline(always)]
    fn squared_error(&self, values: &[f32; 32]) -> f32 {
        let mut errors = self.dequantize();
        for (error, value) in errors.iter_mut().zip(values) {
            *error = (*error - value) * (*error - value);
        }
        tree_sum(errors)
    }
}

impl QuantBlock<32> for BlockQ4_0 {
    #[inline(always)]
    fn quantize<S: Simd>(_: S, values: &[[f32; 32]], out: &mut [Self]) {
        for (values, block) in values.iter().zip(out) {
            *block = Self::of(values);
        }
    }

    #[inline(always)]
    fn dequantize_to(&self, out: &mut [f32; 32]) {
        let scale = self.scale();
        // By way of a local array: with stores to `out` between the loads from the block, which
        // might overlap for all the compiler knows, this would not vectorise.
        let mut values = [0.0; 32];
        for (x, nibble) in values.iter_mut().zip(self.nibbles()) {
            *x = (f32::from(nibble) - 8.0) * scale;
        }
        *out = values;
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
    let x = x + 8.5;
    let x = if x < 15.5 { x } else { 15.5 };
    let nearest = round_within(x, 0.0, 15.5);
    low_byte(nearest - if nearest > x { 1.0 } else { 0.0 })
}
