//! `H4`: 128 values as one scale and 128 nibbles, each of which names one of 16 [`LEVELS`]. Our own
//! format, for weights whose columns are [rotated](super::rotation).
//!
//! ```text
//! byte 0       2                                       66
//!      | scale | q64 q0 | q65 q1 | ... | q127 q63 |      value i = LEVELS[qi] * scale
//!      |  F16  |      high nibble, low nibble     |
//! ```
//!
//! Rotated weights are nearly Gaussian, all columns alike, so that one scale serves 128 of them and
//! levels lie closer where there are more of them. Levels are integers of seven bits, so that products
//! with activations are sums of integers over the whole block, which needs one conversion to float.

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use super::{QuantBlock, f16_to_f32, f32_to_f16, range_with_zero, reciprocal, tree_sum};

/// Values of a block: those of a block of the rotation, and of activations that share a scale.
pub const LEN: usize = 128;

/// What nibbles stand for, in units of the scale: the levels that leave the least mean square error of
/// Gaussian values (Max, "Quantizing for minimum distortion", 1960, table I, N = 16: 0.1284, 0.3881,
/// 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733), times 23.05 and rounded to integers, which adds 0.6% to
/// that error.
pub const LEVELS: [i8; 16] = [
    -63, -48, -37, -29, -22, -15, -9, -3, 3, 9, 15, 22, 29, 37, 48, 63,
];

/// Halfway between neighbours of the positive levels.
const BOUNDS: [f32; 7] = [6.0, 12.0, 18.5, 25.5, 33.0, 42.5, 55.5];
/// The root mean square of values for which the levels are best, in units of the scale.
const SPREAD: f32 = 23.05;
/// Scales that are tried, as parts of the one that [`SPREAD`] suggests.
const TRIED: [f32; 13] = [
    0.79, 0.83, 0.87, 0.90, 0.93, 0.96, 1.0, 1.04, 1.07, 1.10, 1.14, 1.18, 1.23,
];

/// 128 values of `H4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockH4 {
    /// The scale, an F16 in little-endian order.
    pub scale: [u8; 2],
    /// Values 0 to 63 in the low nibbles, 64 to 127 in the high ones.
    pub quants: [u8; LEN / 2],
}

impl BlockH4 {
    /// The block that stands for `values` with this scale, but for rounding the scale.
    #[inline(always)]
    fn levels(values: &[f32; LEN], scale: f32) -> [f32; LEN] {
        let inverse = reciprocal(scale);
        let mut levels = [0.0; LEN];
        for (level, &value) in levels.iter_mut().zip(values) {
            *level = nearest_level(value * inverse);
        }
        levels
    }

    #[inline(always)]
    fn of(values: &[f32; LEN]) -> Self {
        // Of a size whose squares neither overflow nor vanish.
        let (low, high) = range_with_zero(values);
        let largest = if high > -low { high } else { -low };
        let to_one = reciprocal(largest);
        let mut scaled = *values;
        for value in &mut scaled {
            *value *= to_one;
        }
        let values = &scaled;
        let squares = sum_of_products(values, values);
        let suggested = (squares / LEN as f32).sqrt() / SPREAD;
        let (mut best, mut least) = (0.0, f32::INFINITY);
        for part in TRIED {
            let levels = Self::levels(values, suggested * part);
            // The scale of least error for these levels, and that error but for a constant.
            let product = sum_of_products(values, &levels);
            let size = sum_of_products(&levels, &levels);
            let scale = product / size;
            let error = -product * scale;
            if error < least {
                (best, least) = (scale, error);
            }
        }
        let levels = Self::levels(values, best);
        let scale = if best.is_finite() {
            best * largest
        } else {
            0.0
        };
        BlockH4 {
            scale: f32_to_f16(scale),
            quants: pack(&levels),
        }
    }

    /// The scale as a number.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        f16_to_f32(self.scale)
    }

    /// The nibbles in the order of the values.
    #[inline(always)]
    pub fn nibbles(&self) -> [u8; LEN] {
        let mut nibbles = [0; LEN];
        let (low, high) = nibbles.split_at_mut(LEN / 2);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(self.quants) {
            (*low, *high) = (byte & 0x0f, byte >> 4);
        }
        nibbles
    }
}

impl QuantBlock<LEN> for BlockH4 {
    #[inline(always)]
    fn quantize<S: Simd>(_: S, values: &[[f32; LEN]], out: &mut [Self]) {
        for (values, block) in values.iter().zip(out) {
            *block = Self::of(values);
        }
    }

    #[inline(always)]
    fn dequantize_to(&self, out: &mut [f32; LEN]) {
        let scale = self.scale();
        for (x, nibble) in out.iter_mut().zip(self.nibbles()) {
            *x = f32::from(LEVELS[usize::from(nibble & 0x0f)]) * scale;
        }
    }
}

/// The level nearest to `x`; NaN gives a small one.
#[inline(always)]
fn nearest_level(x: f32) -> f32 {
    let size = x.abs();
    let mut level = f32::from(LEVELS[8]);
    for (bound, pair) in BOUNDS.into_iter().zip(LEVELS[8..].windows(2)) {
        level += if size > bound {
            f32::from(pair[1] - pair[0])
        } else {
            0.0
        };
    }
    if x < 0.0 { -level } else { level }
}

/// The nibbles of levels.
#[inline(always)]
fn pack(levels: &[f32; LEN]) -> [u8; LEN / 2] {
    let mut nibbles = [0; LEN];
    for (nibble, &level) in nibbles.iter_mut().zip(levels) {
        let mut above = 0;
        for other in &LEVELS[1..] {
            above += u8::from(level >= f32::from(*other));
        }
        *nibble = above;
    }
    let mut bytes = [0; LEN / 2];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = nibbles[i] | nibbles[i + LEN / 2] << 4;
    }
    bytes
}

/// The sum of products, in the order of a tree.
#[inline(always)]
fn sum_of_products(a: &[f32; LEN], b: &[f32; LEN]) -> f32 {
    let mut products = *a;
    for (product, b) in products.iter_mut().zip(b) {
        *product *= b;
    }
    tree_sum(products)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_lie_halfway() {
        for (bound, pair) in BOUNDS.into_iter().zip(LEVELS[8..].windows(2)) {
            assert_eq!(bound, (f32::from(pair[0]) + f32::from(pair[1])) / 2.0);
        }
        for i in 0..8 {
            assert_eq!(LEVELS[i], -LEVELS[15 - i]);
        }
    }

    #[test]
    fn levels_come_back_as_they_were() {
        let mut values = [0.0; LEN];
        for (i, value) in values.iter_mut().enumerate() {
            *value = f32::from(LEVELS[i * 7 % 16]) * 0.25;
        }
        let block = BlockH4 {
            scale: f32_to_f16(0.25),
            quants: pack(&BlockH4::levels(&values, 0.25)),
        };
        assert_eq!(block.dequantize(), values);
        for (i, nibble) in block.nibbles().into_iter().enumerate() {
            assert_eq!(usize::from(nibble), i * 7 % 16);
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        assert_eq!(BlockH4::of(&[0.0; LEN]).dequantize(), [0.0; LEN]);
    }
}
