//! `H8`: 128 values as one scale and 128 signed bytes. Our own format, for weights whose columns are
//! [rotated](super::rotation).
//!
//! ```text
//! byte 0       2                      130
//!      | scale | q0 | q1 | ... | q127 |      value i = qi * scale
//!      |  F16  |     signed bytes     |
//! ```
//!
//! The largest value becomes 127 or -127.

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use super::h4::LEN;
use super::{
    QuantBlock, f16_to_f32, f32_to_f16, low_byte, range_with_zero, reciprocal, round_within,
};

/// 128 values of `H8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockH8 {
    /// The scale, an F16 in little-endian order.
    pub scale: [u8; 2],
    /// The integers.
    pub quants: [i8; LEN],
}

impl BlockH8 {
    #[inline(always)]
    fn of(values: &[f32; LEN]) -> Self {
        let (low, high) = range_with_zero(values);
        let largest = if high > -low { high } else { -low };
        let scale = largest / 127.0;
        let inverse = reciprocal(scale);
        let mut quants = [0; LEN];
        for (quant, &value) in quants.iter_mut().zip(values) {
            *quant = low_byte(round_within(value * inverse, -127.0, 127.0)) as i8;
        }
        BlockH8 {
            scale: f32_to_f16(scale),
            quants,
        }
    }
}

impl QuantBlock<LEN> for BlockH8 {
    #[inline(always)]
    fn quantize<S: Simd>(_: S, values: &[[f32; LEN]], out: &mut [Self]) {
        for (values, block) in values.iter().zip(out) {
            *block = Self::of(values);
        }
    }

    #[inline(always)]
    fn dequantize_to(&self, out: &mut [f32; LEN]) {
        let scale = f16_to_f32(self.scale);
        for (x, &quant) in out.iter_mut().zip(&self.quants) {
            *x = f32::from(quant) * scale;
        }
    }
}
