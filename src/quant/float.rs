//! `F32`, `F16` and `BF16`, little-endian: blocks of one value.
//!
//! ```text
//!        bit 31       23                    0
//! F32    s   eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
//! F16    s      eeeee mmmmmmmmmm                 exponent less 112, mantissa rounded
//! BF16   s   eeeeeeee mmmmmmm                    the upper half of an F32, rounded
//! ```

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Values converted to F16 at a time.
const CHUNK: usize = 64;

/// The value of an F16, given in little-endian order; NaN keeps its payload. Branch-free, so that loops over it vectorise on any processor, which
/// the conversions of `half` do not.
#[inline(always)]
pub fn f16_to_f32(bits: [u8; 2]) -> f32 {
    const BIAS_DIFFERENCE: u32 = (127 - 15) << 23;
    const SMALLEST_NORMAL: u32 = (127 - 14) << 23;
    let bits = u32::from(u16::from_le_bytes(bits));
    let sign = (bits & 0x8000) << 16;
    let magnitude = (bits & 0x7fff) << 13;
    let rebiased = magnitude + BIAS_DIFFERENCE;
    let is_special = u32::from(magnitude >= 31 << 23);
    let normal_or_special = rebiased + is_special * BIAS_DIFFERENCE;
    // A subnormal is its mantissa put behind 2^-14, less that 2^-14.
    let subnormal = f32::from_bits(magnitude | SMALLEST_NORMAL) - f32::from_bits(SMALLEST_NORMAL);
    let widened = if magnitude < 1 << 23 {
        subnormal.to_bits()
    } else {
        normal_or_special
    };
    f32::from_bits(sign | widened)
}

/// The F16 nearest to `x`, ties to even, in little-endian order; infinite from 65520 on.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// The BF16 nearest to `x`, ties to even. NaN is made quiet, since a payload in the lower half
/// alone would otherwise vanish and leave an infinity.
#[inline(always)]
fn f32_to_bf16(x: f32) -> [u8; 2] {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    let upper = if x.is_nan() { quiet } else { rounded };
    (upper as u16).to_le_bytes()
}

#[inline(always)]
fn bf16_to_f32(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

#[inline(always)]
pub fn dequantize_f32(bytes: &[u8], out: &mut [f32]) {
    expand(bytes, out, f32::from_le_bytes);
}

#[inline(always)]
pub fn dequantize_f16(bytes: &[u8], out: &mut [f32]) {
    expand(bytes, out, f16_to_f32);
}

#[inline(always)]
pub fn dequantize_bf16(bytes: &[u8], out: &mut [f32]) {
    expand(bytes, out, bf16_to_f32);
}

#[inline(always)]
pub fn quantize_f32(values: &[f32], out: &mut [u8]) {
    narrow(values, out, f32::to_le_bytes);
}

#[inline(always)]
pub fn quantize_bf16(values: &[f32], out: &mut [u8]) {
    narrow(values, out, f32_to_bf16);
}

/// Through `half`, whose conversion of slices uses the processor's own instruction.
#[inline(always)]
pub fn quantize_f16(values: &[f32], out: &mut [u8]) {
    assert_eq!(out.len(), values.len() * 2);
    let mut converted = [f16::ZERO; CHUNK];
    for (values, out) in values.chunks(CHUNK).zip(out.chunks_mut(CHUNK * 2)) {
        let converted = &mut converted[..values.len()];
        converted.convert_from_f32_slice(values);
        let (out, _) = out.as_chunks_mut::<2>();
        for (bytes, value) in out.iter_mut().zip(converted) {
            *bytes = value.to_le_bytes();
        }
    }
}

#[inline(always)]
fn expand<const BYTES: usize>(bytes: &[u8], out: &mut [f32], to_f32: impl Fn([u8; BYTES]) -> f32) {
    let (bytes, rest) = bytes.as_chunks::<BYTES>();
    assert!(rest.is_empty() && bytes.len() == out.len());
    for (x, &bytes) in out.iter_mut().zip(bytes) {
        *x = to_f32(bytes);
    }
}

#[inline(always)]
fn narrow<const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    from_f32: impl Fn(f32) -> [u8; BYTES],
) {
    let (out, rest) = out.as_chunks_mut::<BYTES>();
    assert!(rest.is_empty() && out.len() == values.len());
    for (bytes, &x) in out.iter_mut().zip(values) {
        *bytes = from_f32(x);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn every_f16_is_read_as_half_reads_it() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32();
            let got = f16_to_f32(bits.to_le_bytes());
            assert!(
                got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan(),
                "{bits:#06x}: {got} not {expected}"
            );
        }
    }

    #[test]
    fn bf16_is_rounded_as_half_rounds_it() {
        for upper in 0..=u16::MAX {
            for lower in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(upper) << 16 | lower);
                assert_eq!(f32_to_bf16(x), bf16::from_f32(x).to_le_bytes(), "{x}");
            }
        }
    }
}
