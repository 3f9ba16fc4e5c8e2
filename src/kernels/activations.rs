//! Activations as 8-bit integers with scales, and the sums that weights with an offset or a
//! minimum need.
//!
//! A batch is a sequence of records of equal size. For [`gemv`](super::gemv) a record is a token,
//! for [`gemm`](super::gemm) it is a tile of tokens, interleaved so that a register holds the
//! same columns, as many as a product takes, of neighbouring tokens.

use crate::kernels::Isa;
use crate::kernels::int8::{HALF, Int8, Int8Op, UNIT};

/// The most tokens of a record: two registers of 16 lanes.
pub const MAX_WIDTH: usize = 32;
/// Units that share a scale where tokens are side by side: each scale costs
/// [`gemm`](super::gemm) a multiplication of all its sums. Weights that it regroups have scales as coarse.
pub const BATCH_BLOCK_UNITS: usize = 4;
/// Floats of a cache line.
const LINE: usize = 16;
/// The shape of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tokens of a record; 1 keeps each token's columns together.
    pub width: usize,
    /// Columns of a token, a multiple of [`UNIT`].
    pub n_cols: usize,
}

impl Layout {
    /// Units that share a scale. A single token can have the finest scales:
    /// [`gemv`](super::gemv) multiplies each unit with one anyway.
    #[inline]
    pub fn block_units(self) -> usize {
        match self.width {
            1 => 1,
            _ => BATCH_BLOCK_UNITS,
        }
    }

    /// 32-bit words of a record: its parts in the order of [`View`].
    pub fn record_words(self) -> usize {
        let n_units = self.n_cols / UNIT;
        let per_token = self.n_cols / 4 + 4 * n_units + 2 * n_units.div_ceil(self.block_units());
        (self.width * per_token).next_multiple_of(16)
    }

    /// The parts of a record.
    #[inline]
    pub fn view(self, record: &[f32]) -> View<'_> {
        let n_units = self.n_cols / UNIT;
        let (quants, rest) = record.split_at(self.width * self.n_cols / 4);
        let (scales, rest) = rest.split_at(self.width * n_units);
        let (sums, rest) = rest.split_at(self.width * 2 * n_units);
        let (unit_sums, rest) = rest.split_at(self.width * n_units);
        let n_of_blocks = self.width * n_units.div_ceil(self.block_units());
        let (ratios, rest) = rest.split_at(n_of_blocks);
        View {
            quants: bytemuck::cast_slice(quants),
            scales,
            sums: bytemuck::cast_slice(sums),
            unit_sums,
            ratios,
            starts: bytemuck::cast_slice(&rest[..n_of_blocks]),
        }
    }
}

/// The parts of a record. `width` tokens stand side by side. Some kernels
/// read one kind of sums and some another; one layout serves them all.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// `[n_cols / COLUMNS, width, COLUMNS]` integers, [`Int8::COLUMNS`] being those that an
    /// instruction set wants together.
    pub quants: &'a [i8],
    /// `[n_cols / 32, width]`: what an integer is worth, the same in all units of a block.
    pub scales: &'a [f32],
    /// `[n_cols / 16, width]`: negated sums of the integers.
    pub sums: &'a [i32],
    /// `[n_cols / 32, width]`: sums of the integers.
    pub unit_sums: &'a [f32],
    /// `[blocks, width]`: the scale of the block before over that of this one.
    pub ratios: &'a [f32],
    /// `[blocks, width]`: sums of the integers, times -128.
    pub starts: &'a [i32],
}

/// Quantizes tokens `x: [n, n_cols]`, `n` at most the layout's width, to a record. Tokens that
/// are missing become zeros.
pub fn quantize(isa: Isa, layout: Layout, x: &[f32], record: &mut [f32]) {
    quantize_strided(isa, layout, x, layout.n_cols, record);
}

/// [`quantize`] for tokens that are `stride` apart.
pub fn quantize_strided(isa: Isa, layout: Layout, x: &[f32], stride: usize, record: &mut [f32]) {
    let Layout { width, n_cols } = layout;
    let n_tokens = x.len() / stride;
    assert!(n_cols <= stride && n_tokens <= width && x.len() == n_tokens * stride);
    assert!(n_cols.is_multiple_of(UNIT) && record.len() == layout.record_words());
    if n_tokens < width {
        record.fill(0.0);
    }
    isa.run_int8(Quantize {
        layout,
        x,
        stride,
        record,
    });
}

/// [`quantize`], to be compiled for an instruction set.
struct Quantize<'a, 'b> {
    layout: Layout,
    x: &'a [f32],
    stride: usize,
    record: &'b mut [f32],
}

impl Int8Op for Quantize<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        let n_cols = self.layout.n_cols;
        let mut record = RecordMut::new(self.layout, self.record);
        // Block by block, so that what neighbouring tokens write lies close together.
        let block_units = self.layout.block_units();
        for first in (0..n_cols / UNIT).step_by(block_units) {
            let columns = first * UNIT..n_cols.min((first + block_units) * UNIT);
            for (token, row) in self.x.chunks_exact(self.stride).enumerate() {
                // Rows are far apart, so the processor does not see what comes next.
                for line in (0..block_units * UNIT).step_by(LINE) {
                    isa.prefetch(row.as_ptr().wrapping_add(columns.end + line).cast());
                }
                let halves = row[columns.clone()].as_chunks().0;
                record.write_block(isa, first, token, halves);
            }
        }
    }
}

/// The parts of a record to be written, shaped as in [`View`].
struct RecordMut<'a> {
    width: usize,
    block_units: usize,
    quants: &'a mut [[i8; 4]],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    unit_sums: &'a mut [f32],
    ratios: &'a mut [f32],
    starts: &'a mut [i32],
}

impl<'a> RecordMut<'a> {
    #[inline(always)]
    fn new(layout: Layout, record: &'a mut [f32]) -> Self {
        let Layout { width, n_cols } = layout;
        let n_units = n_cols / UNIT;
        let (quants, rest) = record.split_at_mut(width * n_cols / 4);
        let (scales, rest) = rest.split_at_mut(width * n_units);
        let (sums, rest) = rest.split_at_mut(width * 2 * n_units);
        let (unit_sums, rest) = rest.split_at_mut(width * n_units);
        let n_blocks = n_units.div_ceil(layout.block_units());
        let (ratios, starts) = rest.split_at_mut(width * n_blocks);
        RecordMut {
            width,
            block_units: layout.block_units(),
            quants: bytemuck::cast_slice_mut(quants),
            scales,
            sums: bytemuck::cast_slice_mut(sums),
            unit_sums,
            ratios,
            starts: bytemuck::cast_slice_mut(starts),
        }
    }

    /// Quantizes a token's block, which begins at unit `first`.
    #[inline(always)]
    fn write_block<I: Int8>(&mut self, isa: I, first: usize, token: usize, halves: &[[f32; HALF]]) {
        let width = self.width;
        let previous = match first {
            0 => 0.0,
            _ => self.scales[(first - 1) * width + token],
        };
        let Step { scale, inverse } = Step::new(isa.largest(halves), previous);
        let of_block = first / self.block_units * width + token;
        self.ratios[of_block] = previous * inverse;
        let mut block_sum = 0;
        for (i, [lower, upper]) in halves.as_chunks().0.iter().enumerate() {
            let unit = first + i;
            let lower_sum = self.write_half(isa, 2 * unit, token, lower, inverse);
            let upper_sum = self.write_half(isa, 2 * unit + 1, token, upper, inverse);
            self.scales[unit * width + token] = scale;
            self.unit_sums[unit * width + token] = (lower_sum + upper_sum) as f32;
            block_sum += lower_sum + upper_sum;
        }
        self.starts[of_block] = -128 * block_sum;
    }

    /// Quantizes half `half` of a token's columns; returns the sum.
    #[inline(always)]
    fn write_half<I: Int8>(
        &mut self,
        isa: I,
        half: usize,
        token: usize,
        values: &[f32; HALF],
        inverse: f32,
    ) -> i32 {
        let (quants, sum) = isa.quantize(values, inverse);
        let width = self.width;
        let n_fours = I::COLUMNS / 4;
        let fours = &mut self.quants[half * HALF / 4 * width..][..HALF / 4 * width];
        for (i, four) in quants.as_chunks().0.iter().enumerate() {
            fours[(i / n_fours * width + token) * n_fours + i % n_fours] = *four;
        }
        self.sums[half * width + token] = -sum;
        sum
    }
}

/// What an integer of a block is worth, and one over it.
struct Step {
    scale: f32,
    inverse: f32,
}

impl Step {
    /// The scale that the largest value of a block asks for, but not so far below the one of the
    /// block before that their ratio could overflow a sum.
    #[inline(always)]
    fn new(largest: f32, previous: f32) -> Self {
        /// Below this the inverse of a scale is not finite.
        const TINY: f32 = 1e-37;
        const LEAST_RATIO: f32 = 1.0 / (1u64 << 60) as f32;

        let scale = (largest / 127.0).max(previous * LEAST_RATIO);
        match scale > TINY {
            true => Step {
                scale,
                inverse: 1.0 / scale,
            },
            false => Step {
                scale: 0.0,
                inverse: 0.0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`Int8::COLUMNS`] of an instruction set.
    struct Columns;

    impl Int8Op for Columns {
        type Output = usize;

        fn run<I: Int8>(self, _: I) -> usize {
            I::COLUMNS
        }
    }

    /// The integers of a token in the order of columns.
    fn quants(isa: Isa, layout: Layout, view: View, token: usize) -> Vec<i8> {
        let together = isa.run_int8(Columns);
        let steps = view.quants.chunks_exact(layout.width * together);
        let of_token = steps.map(|step| &step[token * together..][..together]);
        of_token.flatten().copied().collect()
    }

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
                    let of_tokens: Vec<_> = (0..n_tokens)
                        .map(|token| quants(isa, layout, view, token))
                        .collect();
                    for token in 0..n_tokens {
                        for column in 0..n_cols {
                            let quant = of_tokens[token][column];
                            let scale = view.scales[column / UNIT * width + token];
                            let value = f32::from(quant) * scale;
                            let exact = x[token * n_cols + column];
                            assert!((value - exact).abs() <= 0.501 * scale);
                        }
                    }
                    let integers = (of_tokens, view.sums.to_vec());
                    assert_eq!(
                        *reference.get_or_insert(integers.clone()),
                        integers,
                        "{isa}"
                    );
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
        for (unit, unit_sum) in view.unit_sums.iter().enumerate() {
            let sum = -(view.sums[2 * unit] + view.sums[2 * unit + 1]);
            assert_eq!(*unit_sum, sum as f32);
        }
    }

    #[test]
    fn products_start_with_what_unsigned_weights_add() {
        let (width, n_cols) = (8, 160);
        let layout = Layout { width, n_cols };
        let x: Vec<f32> = (0..width * n_cols)
            .map(|i| ((i * 7919) % 2003) as f32 - 900.0)
            .collect();
        for isa in Isa::available() {
            let mut record = vec![0.0; layout.record_words()];
            quantize(isa, layout, &x, &mut record);
            let view = layout.view(&record);
            for token in 0..width {
                let quants = quants(isa, layout, view, token);
                for (block, quants) in quants.chunks(BATCH_BLOCK_UNITS * UNIT).enumerate() {
                    let sum: i32 = quants.iter().map(|&quant| i32::from(quant)).sum();
                    assert_eq!(view.starts[block * width + token], -128 * sum, "{isa}");
                }
            }
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
