//! `Q8_0`: 32 values as one scale and 32 signed bytes.
//!
//! ```text
//! byte 0       2                        34
//!      | scale | q0 | q1 | ...    | q31 |        value i = qi * scale
//!      |  F16  |       32 x i8          |
//! ```
//!
//! The same bytes as ggml's quantizer: the scale is the largest magnitude over 127, and values
//! are rounded to the nearest multiple of it before it is rounded to F16, ties away from zero.

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use super::rotation::BLOCK_LEN;
use super::{
    QuantBlock, f16_to_f32, f32_to_f16, low_byte, range_with_zero, reciprocal, round_within,
};

/// 32 values of `Q8_0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// The scale, an F16 in little-endian order.
    pub scale: [u8; 2],
    /// The values over the scale.
    pub quants: [i8; 32],
}

impl BlockQ8_0 {
    /// The scale as a number.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        f16_to_f32(self.scale)
    }

    /// The block that stands for `values`.
    #[inline(always)]
    fn of(values: &[f32; 32]) -> Self {
        Self::with_largest(values, largest(values))
    }

    /// The block that stands for `values` with the scale that a value of the size `largest` asks for.
    #[inline(always)]
    fn with_largest(values: &[f32; 32], largest: f32) -> Self {
        let scale = largest / 127.0;
        let inverse = reciprocal(scale);
        let mut quants = [0; 32];
        for (q, &x) in quants.iter_mut().zip(values) {
            *q = round_half_away(x * inverse);
        }
        BlockQ8_0 {
            scale: f32_to_f16(scale),
            quants,
        }
    }
}

/// Writes blocks of the rotated `row`, all of a rotation's block with the same scale.
///
/// Values of such a block are of like size, so one scale serves them nearly as well as four. Prompts
/// meet weights with a scale for as many columns, and these need not be rounded once more for it.
#[inline(always)]
pub(super) fn quantize_rotated(row: &[f32], out: &mut [BlockQ8_0]) {
    const BLOCKS: usize = BLOCK_LEN / 32;
    let values = row.as_chunks::<32>().0;
    for (values, blocks) in values.chunks(BLOCKS).zip(out.chunks_mut(BLOCKS)) {
        let largest = values.iter().map(largest).fold(0.0, f32::max);
        for (values, block) in values.iter().zip(blocks) {
            *block = BlockQ8_0::with_largest(values, largest);
        }
    }
}

/// The largest magnitude; NaN is passed over.
#[inline(always)]
fn largest(values: &[f32; 32]) -> f32 {
    let (low, high) = range_with_zero(values);
    high.max(-low)
}

impl QuantBlock<32> for BlockQ8_0 {
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
        for (x, &q) in values.iter_mut().zip(&self.quants) {
            *x = f32::from(q) * scale;
        }
        *out = values;
    }
}

/// `x` rounded to the nearest integer, ties away from zero, and clamped; NaN gives -127.
#[inline(always)]
fn round_half_away(x: f32) -> i8 {
    let x = if x > -127.0 { x } else { -127.0 };
    let magnitude = x.abs();
    let to_even = round_within(magnitude, 0.0, 127.0);
    let is_tie_down = magnitude - to_even == 0.5;
    let rounded = to_even + if is_tie_down { 1.0 } else { 0.0 };
    low_byte(if x < 0.0 { -rounded } else { rounded }) as i8
}
