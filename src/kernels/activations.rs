//! Activations as 8-bit integers: a scale for each 32 columns of a token, and the sums that
//! weights with an offset or a minimum need.
//!
//! A batch is a sequence of records of equal size. For [`gemv`](super::gemv) a record is a token,
//! for [`gemm`](super::gemm) it is a tile of tokens, interleaved so that a register holds the
//! same four columns of neighbouring tokens.

use pulp::{Simd, WithSimd};

use crate::kernels::Isa;
use crate::kernels::int8::UNIT;

/// The most tokens of a record: two registers of 16 lanes.
pub const MAX_WIDTH: usize = 32;
/// Columns of a partial sum: the shortest group of weights that share a scale.
const SUM_LEN: usize = 16;

/// The shape of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens of a record; 1 keeps each token's columns together.
    pub width: usize,
    /// Columns of a token, a multiple of [`UNIT`].
    pub n_cols: usize,
}

impl Layout {
    /// 32-bit words of a record: its quants, then scales, sums and scaled sums.
    pub fn record_words(self) -> usize {
        let per_token = self.n_cols / 4 + 4 * (self.n_cols / UNIT);
        (self.width * per_token).next_multiple_of(16)
    }

    /// The parts of a record.
    #[inline]
    pub fn view(self, record: &[f32]) -> View<'_> {
        let n_units = self.n_cols / UNIT;
        let (quants, rest) = record.split_at(self.width * self.n_cols / 4);
        let (scales, rest) = rest.split_at(self.width * n_units);
        let (sums, rest) = rest.split_at(self.width * 2 * n_units);
        View {
            quants: bytemuck::cast_slice(quants),
            scales,
            sums: bytemuck::cast_slice(sums),
            scaled_sums: &rest[..self.width * n_units],
        }
    }
}

/// The parts of a record. `width` tokens stand side by side.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// `[n_cols / 4, width, 4]` integers.
    pub quants: &'a [i8],
    /// `[n_cols / 32, width]`: what an integer is worth.
    pub scales: &'a [f32],
    /// `[n_cols / 16, width]`: negated sums of the integers.
    pub sums: &'a [i32],
    /// `[n_cols / 32, width]`: sums of the integers times their scale.
    pub scaled_sums: &'a [f32],
}

/// 32 quantized columns of a token.
struct QuantizedUnit {
    quants: [i8; UNIT],
    scale: f32,
    /// Negated sums of either half.
    sums: [i32; UNIT / SUM_LEN],
}

/// Quantizes tokens `x: [n, n_cols]`, `n` at most the layout's width, to a record. Tokens that
/// are missing become zeros.
pub fn quantize(isa: Isa, layout: Layout, x: &[f32], record: &mut [f32]) {
    let Layout { width, n_cols } = layout;
    let n_tokens = x.len() / n_cols;
    assert!(n_tokens <= width && x.len() == n_tokens * n_cols);
    assert!(n_cols.is_multiple_of(UNIT) && record.len() == layout.record_words());
    if n_tokens < width {
        record.fill(0.0);
    }
    isa.run(Quantize { layout, x, record });
}

/// [`quantize`], to be compiled for an instruction set.
struct Quantize<'a, 'b> {
    layout: Layout,
    x: &'a [f32],
    record: &'b mut [f32],
}

impl WithSimd for Quantize<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Layout { width, n_cols } = self.layout;
        let n_units = n_cols / UNIT;
        let (quants, rest) = self.record.split_at_mut(width * n_cols / 4);
        let (scales, rest) = rest.split_at_mut(width * n_units);
        let (sums, scaled_sums) = rest.split_at_mut(width * 2 * n_units);
        let (quants, _) = bytemuck::cast_slice_mut::<f32, i8>(quants).as_chunks_mut::<4>();
        let sums: &mut [i32] = bytemuck::cast_slice_mut(sums);
        // Unit by unit, so that what neighbouring tokens write lies close together.
        for unit in 0..n_units {
            for (token, row) in self.x.chunks_exact(n_cols).enumerate() {
                let quantized = quantize_unit(simd, &row.as_chunks::<UNIT>().0[unit]);
                let fours = quantized.quants.as_chunks::<4>().0;
                for (i, four) in fours.iter().enumerate() {
                    quants[(unit * (UNIT / 4) + i) * width + token] = *four;
                }
                scales[unit * width + token] = quantized.scale;
                let [first, second] = quantized.sums;
                sums[2 * unit * width + token] = first;
                sums[(2 * unit + 1) * width + token] = second;
                let sum = first.wrapping_add(second).wrapping_neg();
                scaled_sums[unit * width + token] = sum as f32 * quantized.scale;
            }
        }
    }
}

#[inline(always)]
fn quantize_unit<S: Simd>(simd: S, values: &[f32; UNIT]) -> QuantizedUnit {
    /// Adding this rounds to the nearest integer, to even where two are as near.
    const ROUND: f32 = 12_582_912.0;
    /// Below this the inverse of a scale is not finite.
    const TINY: f32 = 1e-35;

    let largest = largest(simd, values);
    let inverse = if largest > TINY { 127.0 / largest } else { 0.0 };

    let mut integers = [0i32; UNIT];
    for (integer, value) in integers.iter_mut().zip(values) {
        let shifted = value * inverse + ROUND;
        *integer = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    }
    let mut quants = [0i8; UNIT];
    for (quant, integer) in quants.iter_mut().zip(integers) {
        *quant = integer as i8;
    }
    let mut sums = [0i32; UNIT / SUM_LEN];
    for (sum, half) in sums.iter_mut().zip(integers.as_chunks::<SUM_LEN>().0) {
        *sum = half
            .iter()
            .fold(0i32, |sum, &integer| sum.wrapping_sub(integer));
    }
    QuantizedUnit {
        quants,
        scale: if largest > TINY { largest / 127.0 } else { 0.0 },
        sums,
    }
}

/// The largest size of a value.
#[inline(always)]
fn largest<S: Simd>(simd: S, values: &[f32; UNIT]) -> f32 {
    let (vectors, _) = S::as_simd_f32s(values);
    let zero = simd.splat_f32s(0.0);
    let largest = vectors
        .iter()
        .fold(zero, |largest, &x| simd.max_f32s(simd.abs_f32s(x), largest));
    simd.reduce_max_f32s(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_times_scales_are_near_the_values() {
        for (width, n_cols) in [(1, 32), (4, 96), (16, 64), (32, 4096)] {
            let layout = Layout { width, n_cols };
            for n_tokens in [1, width] {
                let x: Vec<f32> = (0..n_tokens * n_cols)
                    .map(|i| ((i * 7919) % 2003) as f32 / 100.0 - 10.0)
                    .collect();
                let mut reference = None;
                for isa in Isa::available() {
                    let mut record = vec![f32::NAN; layout.record_words()];
                    // The padding is not written to.
                    record.fill(1.0);
                    quantize(isa, layout, &x, &mut record);
                    let view = layout.view(&record);
                    for token in 0..n_tokens {
                        for column in 0..n_cols {
                            let quant = view.quants[(column / 4 * width + token) * 4 + column % 4];
                            let scale = view.scales[column / UNIT * width + token];
                            let value = f32::from(quant) * scale;
                            let exact = x[token * n_cols + column];
                            assert!((value - exact).abs() <= 0.501 * scale);
                        }
                    }
                    let bytes = (view.quants.to_vec(), view.sums.to_vec());
                    assert_eq!(*reference.get_or_insert(bytes.clone()), bytes, "{isa}");
                }
            }
        }
    }

    #[test]
    fn sums_are_those_of_the_integers() {
        let layout = Layout {
            width: 1,
            n_cols: 64,
        };
        let x: Vec<f32> = (0..64).map(|i| i as f32 - 20.0).collect();
        let mut record = vec![0.0; layout.record_words()];
        quantize(Isa::scalar(), layout, &x, &mut record);
        let view = layout.view(&record);
        for (sum, quants) in view.sums.iter().zip(view.quants.chunks(16)) {
            assert_eq!(*sum, -quants.iter().map(|&q| i32::from(q)).sum::<i32>());
        }
        for (unit, scaled) in view.scaled_sums.iter().enumerate() {
            let sum = -(view.sums[2 * unit] + view.sums[2 * unit + 1]);
            assert_eq!(*scaled, sum as f32 * view.scales[unit]);
        }
    }

    #[test]
    fn odd_values_do_no_harm() {
        let layout = Layout {
            width: 1,
            n_cols: 32,
        };
        for value in [
            0.0,
            1e-40,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
        ] {
            let mut record = vec![0.0; layout.record_words()];
            quantize(Isa::scalar(), layout, &[value; 32], &mut record);
        }
    }
}
