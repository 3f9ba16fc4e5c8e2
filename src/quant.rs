//! What the bytes of a tensor mean: every format both ways, exactly in ggml's layout but for two of our
//! own, [`h4`] and H8.
//!
//! A format is a [`QuantBlock`]: a struct without padding or alignment, so that mapped bytes can be
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
pub mod h4;
mod h8;
mod lanes;
mod q4_0;
mod q4_k;
mod q6_k;
mod q8_0;
pub mod rotation;

use bytemuck::Pod;
use pulp::{Simd, WithSimd};

use crate::gguf::DType;

pub use float::{f16_to_f32, f32_to_f16};
pub use h4::BlockH4;
pub use h8::BlockH8;
pub use q4_0::BlockQ4_0;
pub use q4_k::BlockQ4K;
pub use q6_k::BlockQ6K;
pub use q8_0::BlockQ8_0;
pub use rotation::Rotation;

/// `LEN` values that are stored together.
pub trait QuantBlock<const LEN: usize>: Pod {
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
        DType::H8 => dequantize_blocks::<BlockH8, 128>(bytes, out),
        DType::H4 => dequantize_blocks::<BlockH4, 128>(bytes, out),
    }
}

/// Writes `values` as whole blocks of `dtype` to `out`. The bytes depend on nothing but the values.
///
/// Finite values whose block scale exceeds the range of an F16 get an infinite scale, as in ggml:
/// above 65504 in magnitude for `F16`, about 5e5 for `Q4_0`, 8e6 for `Q8_0` and for a span of 6e7
/// in `Q4_K`, 2e8 in `Q6_K`, 8e6 in `H8` and 1e6 in `H4`. Scales below its range become zero, and so do the values.
/// NaN and infinity keep their meaning in the float formats. Elsewhere the block that holds them
/// comes back as arbitrary values, so callers reject them first.
///
/// # Panics
/// Where the lengths do not match. No value makes it panic.
pub fn quantize(dtype: DType, values: &[f32], out: &mut [u8]) {
    pulp::Arch::new().dispatch(Quantize { dtype, values, out });
}

/// Writes `rows` of `row_len` values each that are [rotated](Rotation) as whole blocks of `dtype` to
/// `out`: as [`quantize`] does, but for two formats. Blocks of Q8_0 get a scale for each
/// [`rotation::BLOCK_LEN`] columns, and those of Q4_0 the scale that leaves the least error.
///
/// # Panics
/// Where the lengths do not match.
pub fn quantize_rotated(dtype: DType, rows: &[f32], row_len: usize, out: &mut [u8]) {
    assert!(row_len.is_multiple_of(dtype.block_len()) && rows.len().is_multiple_of(row_len));
    assert_eq!(Some(out.len()), dtype.row_bytes(rows.len()));
    pulp::Arch::new().dispatch(QuantizeRotated {
        dtype,
        rows,
        row_len,
        out,
    });
}

/// [`quantize_rotated`], to be compiled for the processor.
struct QuantizeRotated<'a, 'b> {
    dtype: DType,
    rows: &'a [f32],
    row_len: usize,
    out: &'b mut [u8],
}

impl WithSimd for QuantizeRotated<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let QuantizeRotated {
            dtype,
            rows,
            row_len,
            out,
        } = self;
        match dtype {
            DType::Q8_0 => {
                let blocks: &mut [BlockQ8_0] = bytemuck::cast_slice_mut(out);
                let of_rows = blocks.chunks_exact_mut(row_len / dtype.block_len());
                for (row, blocks) in rows.chunks_exact(row_len).zip(of_rows) {
                    q8_0::quantize_rotated(row, blocks);
                }
            }
            DType::Q4_0 => q4_0::quantize_rotated(rows, bytemuck::cast_slice_mut(out)),
            _ => quantize(dtype, rows, out),
        }
    }
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
            DType::H8 => quantize_blocks::<_, BlockH8, 128>(simd, values, out),
            DType::H4 => quantize_blocks::<_, BlockH4, 128>(simd, values, out),
        }
    }
}

#[inline(always)]
fn dequantize_blocks<B: QuantBlock<LEN>, const LEN: usize>(bytes: &[u8], out: &mut [f32]) {
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
fn quantize_blocks<S: Simd, B: QuantBlock<LEN>, const LEN: usize>(
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

/// The F16 nearest to `scale`, as it will be read.
#[inline(always)]
fn as_stored(scale: f32) -> f32 {
    f16_to_f32(f32_to_f16(scale))
}

/// The sum in the order of a tree, which registers of any width agree on.
#[inline(always)]
fn tree_sum<const N: usize>(mut values: [f32; N]) -> f32 {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            values[i] += values[i + width];
        }
        width /= 2;
    }
    values[0]
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::Isa;

    fn there_and_back(dtype: DType, values: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0; dtype.row_bytes(values.len()).unwrap()];
        quantize(dtype, values, &mut bytes);
        let mut back = vec![0.0; values.len()];
        dequantize(dtype, &bytes, &mut back);
        back
    }

    fn root_mean_square_error(a: &[f32], b: &[f32]) -> f64 {
        let squares = a.iter().zip(b).map(|(&a, &b)| {
            let error = f64::from(a) - f64::from(b);
            error * error
        });
        (squares.sum::<f64>() / a.len() as f64).sqrt()
    }

    /// Nearly Gaussian values of unit variance: sums of twelve uniform ones.
    fn gaussian(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n)
            .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
            .collect()
    }

    /// The bounds are what llama.cpp's `quantize_row_q4_K_ref` and `quantize_row_q6_K_ref` leave
    /// of the same values.
    #[test]
    fn searches_leave_less_error_than_llama_cpp() {
        let values = gaussian(256 * 256);
        for (dtype, theirs) in [(DType::Q4_K, 7.038497e-2), (DType::Q6_K, 1.745471e-2)] {
            let ours = root_mean_square_error(&values, &there_and_back(dtype, &values));
            assert!(ours < theirs, "{dtype}: {ours}, theirs {theirs}");
        }
    }

    /// Blocks of every kind: plain, tiny, huge, constant, with outliers, not finite.
    fn difficult_values() -> Vec<f32> {
        let plain = gaussian(256);
        let mut values = plain.clone();
        for scale in [1e-45, 1e-40, 1e-9, 3e-5, 0.02, 1e4, 1e8, 1e25, 3e37] {
            values.extend(plain.iter().map(|x| x * scale));
        }
        for constant in [0.0, -0.0, 0.3, -0.3, 1e-45, f32::MAX, f32::MIN] {
            values.extend([constant; 256]);
        }
        for odd_one in [1e3, -1e3, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values.extend(&plain[..255]);
            values.push(odd_one);
        }
        values
    }

    #[test]
    fn bytes_and_values_are_the_same_on_every_instruction_set() {
        let values = difficult_values();
        for dtype in DType::ALL {
            let mut expected = vec![0; dtype.row_bytes(values.len()).unwrap()];
            quantize(dtype, &values, &mut expected);
            let mut expanded = vec![0.0; values.len()];
            dequantize(dtype, &expected, &mut expanded);
            for isa in Isa::available() {
                let mut out = vec![0; expected.len()];
                isa.run(Quantize {
                    dtype,
                    values: &values,
                    out: &mut out,
                });
                assert_eq!(out, expected, "{dtype} {isa}");
                let mut back = vec![0.0; values.len()];
                isa.run(|| dequantize(dtype, &out, &mut back));
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&back), bits(&expanded), "{dtype} {isa}");
            }
        }
    }

    #[test]
    fn a_block_does_not_depend_on_its_neighbours() {
        let values = difficult_values();
        for dtype in DType::ALL {
            let mut together = vec![0; dtype.row_bytes(values.len()).unwrap()];
            quantize(dtype, &values, &mut together);
            let bytes_of_256 = dtype.row_bytes(256).unwrap();
            for (values, expected) in values.chunks(256).zip(together.chunks(bytes_of_256)) {
                let mut alone = vec![0; bytes_of_256];
                quantize(dtype, values, &mut alone);
                assert_eq!(alone, expected, "{dtype}");
            }
        }
    }

    #[test]
    fn sizes_of_blocks_are_those_of_the_types() {
        assert_eq!(size_of::<BlockQ8_0>(), DType::Q8_0.block_bytes());
        assert_eq!(size_of::<BlockQ4_0>(), DType::Q4_0.block_bytes());
        assert_eq!(size_of::<BlockQ4K>(), DType::Q4_K.block_bytes());
        assert_eq!(size_of::<BlockQ6K>(), DType::Q6_K.block_bytes());
        assert_eq!(size_of::<BlockH8>(), DType::H8.block_bytes());
        assert_eq!(size_of::<BlockH4>(), DType::H4.block_bytes());
    }

    /// Finite values of one magnitude, within the range of every format.
    fn finite(n: usize) -> impl Strategy<Value = Vec<f32>> {
        (vec(-1f32..=1.0, n), -20..=18).prop_map(|(values, exponent)| {
            let scale = 2f32.powi(exponent);
            values.into_iter().map(|x| x * scale).collect()
        })
    }

    /// How far an F16 may be from `x`.
    fn f16_error(x: f32) -> f32 {
        (x * 2f32.powi(-11)).max(2f32.powi(-25))
    }

    #[test]
    fn rotated_bytes_share_a_scale_and_lose_little() {
        let row_len = 352;
        let rows = gaussian(4 * row_len);
        let n_bytes = DType::Q8_0.row_bytes(rows.len()).unwrap();
        let (mut shared, mut own) = (vec![0; n_bytes], vec![0; n_bytes]);
        quantize_rotated(DType::Q8_0, &rows, row_len, &mut shared);
        quantize(DType::Q8_0, &rows, &mut own);
        let blocks: &[BlockQ8_0] = bytemuck::cast_slice(&shared);
        for row in blocks.chunks(row_len / 32) {
            for span in row.chunks(4) {
                assert!(span.iter().all(|block| block.scale == span[0].scale));
                let largest = span
                    .iter()
                    .flat_map(|block| block.quants)
                    .map(i8::unsigned_abs);
                assert_eq!(largest.max(), Some(127));
            }
        }
        let error = |bytes: &[u8]| {
            let mut back = vec![0.0; rows.len()];
            dequantize(DType::Q8_0, bytes, &mut back);
            root_mean_square_error(&rows, &back)
        };
        assert!(error(&shared) < 1.35 * error(&own));
    }

    /// With 4.125 bits, of Gaussian values, what the issue of the format asks for: 1.06 times the error
    /// of Q4_0's 4.5 bits, and no more than 1.02 times what the best 16 levels leave.
    #[test]
    fn h4_is_worth_its_bits() {
        let values = gaussian(256 * 256);
        let error = |dtype| root_mean_square_error(&values, &there_and_back(dtype, &values));
        let (h4, q4_0) = (error(DType::H4), error(DType::Q4_0));
        assert!(h4 < 1.06 * q4_0, "{h4} beside {q4_0}");
        // Max, 1960: 0.009497 of the variance.
        assert!(h4 < 1.02 * 0.009497_f64.sqrt(), "{h4}");
        let h8 = error(DType::H8);
        assert!(h8 < 1.3 * error(DType::Q8_0), "{h8}");
    }

    #[test]
    fn rotated_q4_0_leaves_less_error_than_ggml() {
        let rows = gaussian(64 * 256);
        let n_bytes = DType::Q4_0.row_bytes(rows.len()).unwrap();
        let (mut searched, mut plain) = (vec![0; n_bytes], vec![0; n_bytes]);
        quantize_rotated(DType::Q4_0, &rows, 256, &mut searched);
        quantize(DType::Q4_0, &rows, &mut plain);
        let error = |bytes: &[u8]| {
            let mut back = vec![0.0; rows.len()];
            dequantize(DType::Q4_0, bytes, &mut back);
            root_mean_square_error(&rows, &back)
        };
        let ratio = error(&searched) / error(&plain);
        assert!(ratio < 0.96, "{ratio}");
        // Zeros stay zeros, and formats with a search of their own keep it.
        quantize_rotated(DType::Q4_0, &[0.0; 32], 32, &mut searched[..18]);
        assert_eq!(searched[..2], [0, 0x80]);
        let n_bytes = DType::Q4_K.row_bytes(rows.len()).unwrap();
        let (mut rotated, mut plain) = (vec![0; n_bytes], vec![0; n_bytes]);
        quantize_rotated(DType::Q4_K, &rows, 256, &mut rotated);
        quantize(DType::Q4_K, &rows, &mut plain);
        assert_eq!(rotated, plain);
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(bits in vec(any::<u32>(), 256)) {
            let values: Vec<_> = bits.into_iter().map(f32::from_bits).collect();
            for dtype in DType::ALL {
                there_and_back(dtype, &values);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 1024)) {
            for dtype in DType::ALL {
                let n_blocks = bytes.len() / dtype.block_bytes();
                let mut out = vec![0.0; n_blocks * dtype.block_len()];
                dequantize(dtype, &bytes[..n_blocks * dtype.block_bytes()], &mut out);
            }
        }

        #[test]
        fn q8_0_is_within_half_a_step(values in finite(32)) {
            let largest = values.iter().fold(0f32, |a, x| a.max(x.abs()));
            let step = largest / 127.0;
            let bound = 0.501 * step + 127.0 * f16_error(step);
            for (x, y) in values.iter().zip(there_and_back(DType::Q8_0, &values)) {
                prop_assert!((x - y).abs() <= bound, "{x} became {y}, bound {bound}");
            }
        }

        #[test]
        fn q4_0_is_within_a_step(values in finite(32)) {
            let largest = values.iter().fold(0f32, |a, x| a.max(x.abs()));
            let step = largest / 8.0;
            let bound = 1.001 * step + 8.0 * f16_error(step);
            for (x, y) in values.iter().zip(there_and_back(DType::Q4_0, &values)) {
                prop_assert!((x - y).abs() <= bound, "{x} became {y}, bound {bound}");
            }
        }

        /// Half a step of the nibbles, and of the six-bit numbers of both scales.
        #[test]
        fn q4_k_is_within_its_steps(values in finite(256)) {
            let range = values.iter().fold(0f32, |a, x| a.max(x.abs())) * 2.0;
            let outer = range / 15.0 / 63.0;
            let bound = range * (0.5 / 15.0 + 0.5 / 63.0 + 0.5 / 63.0)
                + 15.0 * 63.0 * f16_error(outer)
                + 63.0 * f16_error(range / 63.0);
            let error = root_mean_square_error(&values, &there_and_back(DType::Q4_K, &values));
            prop_assert!(error <= f64::from(bound), "{error}, bound {bound}");
        }

        /// Half a step of the six-bit numbers, and of the 8-bit scales.
        #[test]
        fn q6_k_is_within_its_steps(values in finite(256)) {
            let largest = values.iter().fold(0f32, |a, x| a.max(x.abs()));
            let outer = largest / 32.0 / 128.0;
            let bound = largest * (0.5 / 32.0 + 0.5 / 128.0) + 32.0 * 128.0 * f16_error(outer);
            let error = root_mean_square_error(&values, &there_and_back(DType::Q6_K, &values));
            prop_assert!(error <= f64::from(bound), "{error}, bound {bound}");
        }

        #[test]
        fn six_bit_scales_come_back(bytes in proptest::array::uniform12(any::<u8>())) {
            let block = BlockQ4K { packed_scales: bytes, ..bytemuck::Zeroable::zeroed() };
            let (scales, mins) = block.scales_and_mins();
            prop_assert_eq!(q4_k::pack_scales(scales, mins), bytes);
        }
    }
}
