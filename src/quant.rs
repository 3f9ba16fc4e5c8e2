//! What the bytes of a tensor mean: every format both ways, exactly in ggml's layout.
//!
//! A format is a [`Block`]: a struct without padding or alignment, so that mapped bytes can be
//! seen as blocks in place, with the two directions between bytes and `f32`. These are the
//! specification; [`crate::kernels`] multiplies with the same blocks without expanding them.
//!
//! Everything here is plain code over arrays of fixed size that the compiler vectorises, without
//! any operation that rounds differently from one instruction set to another. So the same values
//! give the same bytes on every machine.
//!
//! # Limits
//! All formats but `F32` and `BF16` keep 16-bit scales or values, hence a range: see
//! [`quantize`].

mod float;
mod lanes;
mod q4_0;
mod q4_k;
mod q6_k;
mod q8_0;

use bytemuck::Pod;
use pulp::{Simd, WithSimd};

use crate::gguf::DType;

pub use float::{f16_to_f32, f32_to_f16};
pub use q4_0::BlockQ4_0;
pub use q4_k::BlockQ4K;
pub use q6_k::BlockQ6K;
pub use q8_0::BlockQ8_0;

/// `LEN` values that are stored together.
pub trait Block<const LEN: usize>: Pod {
    /// Writes the blocks that stand for `values`, of which there are as many.
    fn quantize<S: Simd>(simd: S, values: &[[f32; LEN]], out: &mut [Self]);

    /// Writes the values that this block stands for.
    fn dequantize_to(&self, out: &mut [f32; LEN]);

    /// The values that this block stands for.
    #[inline(always)]
    fn dequantize(&self) -> [f32; LEN] {
        let mut out = [0.0; LEN];
        self.dequantize_to(&mut out);
        out
    }
}

/// Writes the values of `bytes`, whole blocks of `dtype`, to `out`, which has as many values.
///
/// It is always inlined, to be compiled for the instruction set of the kernel that calls it.
///
/// # Panics
/// Where the lengths do not match. No content of `bytes` makes it panic.
#[inline(always)]
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => float::dequantize_f32(bytes, out),
        DType::F16 => float::dequantize_f16(bytes, out),
        DType::BF16 => float::dequantize_bf16(bytes, out),
        DType::Q8_0 => dequantize_blocks::<BlockQ8_0, 32>(bytes, out),
        DType::Q4_0 => dequantize_blocks::<BlockQ4_0, 32>(bytes, out),
        DType::Q4_K => dequantize_blocks::<BlockQ4K, 256>(bytes, out),
        DType::Q6_K => dequantize_blocks::<BlockQ6K, 256>(bytes, out),
    }
}

/// Writes `values` as whole blocks of `dtype` to `out`. The bytes depend on nothing but the values.
///
/// Finite values whose block scale exceeds the range of an F16 get an infinite scale, as in ggml:
/// above 65504 in magnitude for `F16`, about 5e5 for `Q4_0`, 8e6 for `Q8_0` and for a span of 6e7
/// in `Q4_K`, 2e8 in `Q6_K`. Scales below its range become zero, and so do the values.
/// NaN and infinity keep their meaning in the float formats. Elsewhere the block that holds them
/// comes back as arbitrary values, so callers reject them first.
///
/// # Panics
/// Where the lengths do not match. No value makes it panic.
pub fn quantize(dtype: DType, values: &[f32], out: &mut [u8]) {
    pulp::Arch::new().dispatch(Quantize { dtype, values, out });
}

/// A struct, since a closure of this size would not be inlined into the code for the processor.
struct Quantize<'a, 'b> {
    dtype: DType,
    values: &'a [f32],
    out: &'b mut [u8],
}

impl WithSimd for Quantize<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Quantize { dtype, values, out } = self;
        match dtype {
            DType::F32 => float::quantize_f32(values, out),
            DType::F16 => float::quantize_f16(values, out),
            DType::BF16 => float::quantize_bf16(values, out),
            DType::Q8_0 => quantize_blocks::<_, BlockQ8_0, 32>(simd, values, out),
            DType::Q4_0 => quantize_blocks::<_, BlockQ4_0, 32>(simd, values, out),
            DType::Q4_K => quantize_blocks::<_, BlockQ4K, 256>(simd, values, out),
            DType::Q6_K => quantize_blocks::<_, BlockQ6K, 256>(simd, values, out),
        }
    }
}

#[inline(always)]
fn dequantize_blocks<B: Block<LEN>, const LEN: usize>(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    let (chunks, rest) = out.as_chunks_mut::<LEN>();
    assert!(rest.is_empty() && blocks.len() == chunks.len());
    for (block, chunk) in blocks.iter().zip(chunks) {
        // Else the compiler takes one value of each of several blocks into a register, which
        // needs gathers and scatters, rather than several values of one block.
        std::hint::black_box(block).dequantize_to(chunk);
    }
}

#[inline(always)]
fn quantize_blocks<S: Simd, B: Block<LEN>, const LEN: usize>(
    simd: S,
    values: &[f32],
    out: &mut [u8],
) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(out);
    let (chunks, rest) = values.as_chunks::<LEN>();
    assert!(rest.is_empty() && blocks.len() == chunks.len());
    B::quantize(simd, chunks, blocks);
}

/// Adding and subtracting this rounds to the nearest integer, ties to even, up to `2^22`.
const ROUND: f32 = 12_582_912.0;

/// The integer nearest to `x` within `[low, high]`, as a float; NaN gives `low`.
#[inline(always)]
fn round_within(x: f32, low: f32, high: f32) -> f32 {
    // Comparisons rather than `clamp`, which lets NaN through.
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    (x + ROUND) - ROUND
}

/// The low byte of an integer from -128 to 255, without the saturation of a cast, which does not
/// vectorise.
#[inline(always)]
fn low_byte(integer: f32) -> u8 {
    (integer + ROUND).to_bits() as u8
}

/// `1 / x`, or zero where that is not finite.
#[inline(always)]
fn reciprocal(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Smallest and largest of `values` and zero; NaN is passed over.
#[inline(always)]
fn range_with_zero<const N: usize>(values: &[f32; N]) -> (f32, f32) {
    let mut low = [0.0; N];
    let mut high = [0.0; N];
    for i in 0..N {
        low[i] = if values[i] < 0.0 { values[i] } else { 0.0 };
        high[i] = if values[i] > 0.0 { values[i] } else { 0.0 };
    }
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            low[i] = if low[i + width] < low[i] {
                low[i + width]
            } else {
                low[i]
            };
            high[i] = if high[i + width] > high[i] {
                high[i + width]
            } else {
                high[i]
            };
        }
        width /= 2;
    }
    (low[0], high[0])
}
