//! Activations as 8-bit integers with scales, and their sums, which weights with an offset or a
//! minimum need.
//!
//! A batch is a sequence of records of equal size. For [`gemv`](super::gemv) a record is one token. For
//! [`gemm`](super::gemm) it is a tile of tokens, interleaved: a register holds as many columns as one
//! product takes, the same of each of several neighbouring tokens.
//!
//! A scale serves 32 columns, or 128 ([`ScaleSpan`]). If the columns of the weights are rotated, those of
//! the tokens are rotated before they are rounded: see [`Rotation`].
//!
//! A value that is not finite makes the scale of its block not finite, and so every product with it.

use crate::kernels::Isa;
use crate::kernels::int8::{HALF, Int8, Int8Op, UNIT};
use crate::kernels::role::RowRole;
use crate::kernels::rotate::rotate;
use crate::quant::Rotation;
use crate::quant::rotation::{self, BLOCK_LEN};

/// The most tokens of a record: two registers of 16 lanes.
pub const MAX_WIDTH: usize = 32;
/// Units that share one of the coarser scales.
pub const COARSE_UNITS: usize = 4;
/// Floats of a cache line.
const LINE: usize = 16;

/// Columns of a token that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleSpan {
    /// 32, as in the formats whose blocks are as long. Answers have these where weights have scales for
    /// as many columns: [`gemv`](super::gemv) multiplies each unit with a scale anyway. So do all inputs
    /// that are not rotated: an outlier among 128 columns would leave few steps to the others.
    Unit,
    /// 128, for rotated columns. Each scale costs a multiplication of all its sums, so that four times
    /// fewer are much faster.
    Coarse,
}

impl ScaleSpan {
    /// What an input has in a role, with columns that are rotated or not, for weights that all have one
    /// scale for 128 columns or not.
    pub fn of(role: RowRole, is_rotated: bool, is_for_coarse: bool) -> Self {
        match role {
            RowRole::Prompt if is_rotated => ScaleSpan::Coarse,
            RowRole::Answer if is_rotated && is_for_coarse => ScaleSpan::Coarse,
            RowRole::Prompt | RowRole::Answer => ScaleSpan::Unit,
        }
    }

    /// How many units.
    #[inline(always)]
    pub const fn units(self) -> usize {
        match self {
            ScaleSpan::Unit => 1,
            ScaleSpan::Coarse => COARSE_UNITS,
        }
    }
}

/// The shape of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLayout {
    /// Tokens of a record; 1 keeps each token's columns together.
    pub width: usize,
    /// Columns of a token, a multiple of [`UNIT`].
    pub n_cols: usize,
    /// Columns that share a scale.
    pub span: ScaleSpan,
}

impl PackedLayout {
    /// Units that share a scale.
    #[inline]
    pub fn block_units(self) -> usize {
        self.span.units()
    }

    /// 32-bit words of a record: its parts in the order of [`PackedTokens`].
    pub fn record_words(self) -> usize {
        let n_units = self.n_cols / UNIT;
        let per_token = self.n_cols / 4 + 4 * n_units + 3 * n_units.div_ceil(self.block_units());
        (self.width * per_token).next_multiple_of(16)
    }

    /// The parts of a record.
    #[inline]
    pub fn view(self, record: &[f32]) -> PackedTokens<'_> {
        let n_units = self.n_cols / UNIT;
        let (quants, rest) = record.split_at(self.width * self.n_cols / 4);
        let (scales, rest) = rest.split_at(self.width * n_units);
        let (sums, rest) = rest.split_at(self.width * 2 * n_units);
        let (unit_sums, rest) = rest.split_at(self.width * n_units);
        let n_of_blocks = self.width * n_units.div_ceil(self.block_units());
        let (ratios, rest) = rest.split_at(n_of_blocks);
        let (block_scales, rest) = rest.split_at(n_of_blocks);
        PackedTokens {
            quants: bytemuck::cast_slice(quants),
            scales,
            sums: bytemuck::cast_slice(sums),
            unit_sums,
            ratios,
            block_scales,
            starts: bytemuck::cast_slice(&rest[..n_of_blocks]),
            span: self.span,
        }
    }
}

/// The parts of a record. `width` tokens stand side by side. Some kernels
/// read one kind of sums and some another; one layout serves them all.
#[derive(Clone, Copy, Debug)]
pub struct PackedTokens<'a> {
    /// `[n_cols / COLUMNS, width, COLUMNS]` integers, [`Int8::COLUMNS`] being those that an
    /// instruction set wants together.
    pub quants: &'a [i8],
    /// `[n_cols / 32, width]`: what an integer is worth, the same in all units of a block.
    pub scales: &'a [f32],
    /// `[n_cols / 16, width]`: negated sums of the integers. Not written where coarse scales meet
    /// regrouped weights alone; nor are those of units.
    pub sums: &'a [i32],
    /// `[n_cols / 32, width]`: sums of the integers.
    pub unit_sums: &'a [f32],
    /// `[blocks, width]`: the scale of the block before over that of this one.
    pub ratios: &'a [f32],
    /// `[blocks, width]`: what an integer of a block is worth.
    pub block_scales: &'a [f32],
    /// `[blocks, width]`: sums of the integers, times -128.
    pub starts: &'a [i32],
    /// Columns of a block.
    pub span: ScaleSpan,
}

/// Quantizes tokens to a record.
#[derive(Clone, Copy, Debug)]
pub struct Quantize<'a> {
    /// The record's shape.
    pub layout: PackedLayout,
    /// `[n, stride]`: tokens, at most the layout's width. Tokens that are missing become zeros.
    pub x: &'a [f32],
    /// Distance of one token to the next, of which the first columns count.
    pub stride: usize,
    /// How columns are rotated first, if they are.
    pub rotation: Option<&'a Rotation>,
}

impl<'a> Quantize<'a> {
    /// Writes the record, which only the same instruction set can use.
    pub fn run(self, isa: Isa, record: &mut [f32]) {
        isa.run_int8(self.writing(record));
    }

    /// [`Quantize::run`] as an operation.
    pub(super) fn writing(self, record: &mut [f32]) -> WriteRecord<'a, '_> {
        let PackedLayout { width, n_cols, .. } = self.layout;
        let n_tokens = self.x.len() / self.stride;
        assert!(n_cols <= self.stride && n_tokens <= width && width <= MAX_WIDTH);
        assert!(self.x.len() == n_tokens * self.stride && n_cols.is_multiple_of(UNIT));
        assert!(record.len() == self.layout.record_words());
        if n_tokens < width {
            record.fill(0.0);
        }
        WriteRecord {
            tokens: self,
            record,
        }
    }
}

/// [`Quantize::run`], to be compiled for an instruction set.
pub(super) struct WriteRecord<'a, 'b> {
    tokens: Quantize<'a>,
    record: &'b mut [f32],
}

/// The columns of a block of a rotation.
#[repr(align(64))]
struct Columns([f32; BLOCK_LEN]);

impl Int8Op for WriteRecord<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        let Quantize {
            layout,
            x,
            stride,
            rotation,
        } = self.tokens;
        let n_cols = layout.n_cols;
        let mut record = RecordMut::new(layout, self.record);
        let mut rotated = Columns([0.0; BLOCK_LEN]);
        let mut largest = [0.0; MAX_WIDTH];
        let block_units = layout.block_units();
        // Window by window, so that what neighbouring tokens write lies close together.
        for start in (0..n_cols).step_by(BLOCK_LEN) {
            let columns = start..n_cols.min(start + BLOCK_LEN);
            for (token, row) in x.chunks_exact(stride).enumerate() {
                // Rows are far apart, so the processor does not see what comes next.
                for line in (0..BLOCK_LEN).step_by(LINE) {
                    isa.prefetch(row.as_ptr().wrapping_add(columns.end + line).cast());
                }
                let mut values = &row[columns.clone()];
                if let Some(rotation) = rotation {
                    values = rotate_window(isa, rotation, values, &mut rotated);
                }
                for (i, block) in values.chunks(block_units * UNIT).enumerate() {
                    let first = start / UNIT + i * block_units;
                    let halves = block.as_chunks().0;
                    record.write_block(isa, first, token, halves, &mut largest[token]);
                }
            }
        }
    }
}

/// Rotates up to [`BLOCK_LEN`] values, at the end of a row perhaps in several blocks, to `out`.
#[inline(always)]
fn rotate_window<'a, I: Int8>(
    isa: I,
    rotation: &Rotation,
    values: &[f32],
    out: &'a mut Columns,
) -> &'a [f32] {
    let out = &mut out.0[..values.len()];
    let mut start = 0;
    while start < values.len() {
        let len = rotation::block_len(values.len() - start);
        let block = start..start + len;
        let (values, out) = (&values[block.clone()], &mut out[block]);
        rotate(isa, values, 1.0, rotation.factors(len), out);
        start += len;
    }
    out
}

/// The parts of a record to be written, shaped as in [`PackedTokens`].
struct RecordMut<'a> {
    width: usize,
    block_units: usize,
    quants: &'a mut [[i8; 4]],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    unit_sums: &'a mut [f32],
    ratios: &'a mut [f32],
    block_scales: &'a mut [f32],
    starts: &'a mut [i32],
}

impl<'a> RecordMut<'a> {
    #[inline(always)]
    fn new(layout: PackedLayout, record: &'a mut [f32]) -> Self {
        let PackedLayout { width, n_cols, .. } = layout;
        let n_units = n_cols / UNIT;
        let (quants, rest) = record.split_at_mut(width * n_cols / 4);
        let (scales, rest) = rest.split_at_mut(width * n_units);
        let (sums, rest) = rest.split_at_mut(width * 2 * n_units);
        let (unit_sums, rest) = rest.split_at_mut(width * n_units);
        let n_blocks = n_units.div_ceil(layout.block_units());
        let (ratios, rest) = rest.split_at_mut(width * n_blocks);
        let (block_scales, starts) = rest.split_at_mut(width * n_blocks);
        RecordMut {
            width,
            block_units: layout.block_units(),
            quants: bytemuck::cast_slice_mut(quants),
            scales,
            sums: bytemuck::cast_slice_mut(sums),
            unit_sums,
            ratios,
            block_scales,
            starts: bytemuck::cast_slice_mut(starts),
        }
    }

    /// Quantizes a token's block, which begins at unit `first`. `largest_scale` is the largest of
    /// the token so far.
    #[inline(always)]
    fn write_block<I: Int8>(
        &mut self,
        isa: I,
        first: usize,
        token: usize,
        halves: &[[f32; HALF]],
        largest_scale: &mut f32,
    ) {
        let width = self.width;
        let previous = match first {
            0 => 0.0,
            _ => self.scales[(first - 1) * width + token],
        };
        let Step { scale, inverse } = Step::new(isa.largest(halves), *largest_scale, previous);
        if scale > *largest_scale {
            *largest_scale = scale;
        }
        let of_block = first / self.block_units * width + token;
        self.ratios[of_block] = previous * inverse;
        self.block_scales[of_block] = scale;
        // Where coarse scales meet regrouped weights alone, nobody reads the sums of less than a block.
        let has_short_sums = self.block_units < COARSE_UNITS || !I::WHOLE_BYTES;
        let mut block_sum = 0;
        for (i, [lower, upper]) in halves.as_chunks().0.iter().enumerate() {
            let unit = first + i;
            let lower_sum = self.write_half(isa, 2 * unit, token, lower, inverse);
            let upper_sum = self.write_half(isa, 2 * unit + 1, token, upper, inverse);
            self.scales[unit * width + token] = scale;
            if has_short_sums {
                self.sums[2 * unit * width + token] = -lower_sum;
                self.sums[(2 * unit + 1) * width + token] = -upper_sum;
                self.unit_sums[unit * width + token] = (lower_sum + upper_sum) as f32;
            }
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
        sum
    }
}

/// What an integer of a block is worth, and one over it.
struct Step {
    scale: f32,
    inverse: f32,
}

impl Step {
    /// The scale that the largest value of a block asks for, but not so far below the largest of
    /// the token's scales so far that a sum could overflow when it is brought from that to this one.
    /// Where all have been next to nothing, `previous`, the scale of the block before.
    #[inline(always)]
    fn new(largest: f32, largest_scale: f32, previous: f32) -> Self {
        /// Below this the inverse of a scale is not finite.
        const TINY: f32 = 1e-37;
        /// In units of the largest scale, a sum is below 2^52: 2^7 for a token's integers, 2^28 for
        /// the largest weights that a format can stand for, 2^17 columns. In units of one that is
        /// so much smaller it is finite still.
        const LEAST_RATIO: f32 = 1.0 / (1u64 << 60) as f32;

        let (mut scale, least) = (largest / 127.0, largest_scale * LEAST_RATIO);
        // Comparisons rather than `max`, which would pass over NaN; likewise below.
        if scale < least {
            scale = least;
        }
        if scale <= TINY {
            scale = previous;
        }
        let inverse = match scale == 0.0 {
            true => 0.0,
            false => 1.0 / scale,
        };
        Step { scale, inverse }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Data, FINITE, NOT_FINITE};

    fn quantize(isa: Isa, layout: PackedLayout, x: &[f32], record: &mut [f32]) {
        let tokens = Quantize {
            layout,
            x,
            stride: layout.n_cols,
            rotation: None,
        };
        tokens.run(isa, record);
    }

    /// [`Int8::COLUMNS`] of an instruction set.
    struct Columns;

    impl Int8Op for Columns {
        type Output = usize;

        fn run<I: Int8>(self, _: I) -> usize {
            I::COLUMNS
        }
    }

    /// The integers of a token in the order of columns.
    fn quants(isa: Isa, layout: PackedLayout, view: PackedTokens, token: usize) -> Vec<i8> {
        let together = isa.run_int8(Columns);
        let steps = view.quants.chunks_exact(layout.width * together);
        let of_token = steps.map(|step| &step[token * together..][..together]);
        of_token.flatten().copied().collect()
    }

    #[test]
    fn integers_times_scales_are_near_the_values() {
        for (width, n_cols) in [(1, 32), (4, 96), (16, 64), (32, 4096)] {
            let layout = PackedLayout {
                width,
                n_cols,
                span: ScaleSpan::Unit,
            };
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
        let layout = PackedLayout {
            width: 1,
            n_cols: 64,
            span: ScaleSpan::Unit,
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
        let layout = PackedLayout {
            width,
            n_cols,
            span: ScaleSpan::Coarse,
        };
        let x: Vec<f32> = (0..width * n_cols)
            .map(|i| ((i * 7919) % 2003) as f32 - 900.0)
            .collect();
        for isa in Isa::available() {
            let mut record = vec![0.0; layout.record_words()];
            quantize(isa, layout, &x, &mut record);
            let view = layout.view(&record);
            for token in 0..width {
                let quants = quants(isa, layout, view, token);
                for (block, quants) in quants.chunks(COARSE_UNITS * UNIT).enumerate() {
                    let sum: i32 = quants.iter().map(|&quant| i32::from(quant)).sum();
                    assert_eq!(view.starts[block * width + token], -128 * sum, "{isa}");
                }
            }
        }
    }

    /// One token, quantized by scalar code.
    fn record_of(layout: PackedLayout, x: &[f32]) -> Vec<f32> {
        let mut record = vec![0.0; layout.record_words()];
        quantize(Isa::scalar(), layout, x, &mut record);
        record
    }

    #[test]
    fn ratios_never_undo_or_overflow_what_was_summed() {
        for span in [ScaleSpan::Unit, ScaleSpan::Coarse] {
            for data in FINITE {
                let n_cols = 1024;
                let layout = PackedLayout {
                    width: 8,
                    n_cols,
                    span,
                };
                let x = data.values(n_cols, 1);
                let record = record_of(layout, &x);
                let view = layout.view(&record);
                let n_blocks = n_cols / UNIT / span.units();
                let scale_of = |block: usize| view.scales[block * span.units() * 8];
                let mut largest = 0f32;
                for block in 0..n_blocks {
                    let (scale, ratio) = (scale_of(block), view.ratios[block * 8]);
                    let columns = &x[block * UNIT * span.units()..][..UNIT * span.units()];
                    let size = columns.iter().fold(0f32, |max, x| max.max(x.abs()));
                    // Smaller ones have no scale of their own.
                    assert!(size <= scale * 127.5 || size < 1.3e-35, "{data:?} {block}");
                    let before = if block == 0 { 0.0 } else { scale_of(block - 1) };
                    if before > 0.0 {
                        assert!(
                            (ratio * scale / before - 1.0).abs() < 1e-6,
                            "{data:?} {block}"
                        );
                    }
                    largest = largest.max(scale);
                    assert!(largest / scale <= 60f32.exp2() * 1.01 || largest < 1e-18);
                }
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_make_scales_that_are_not() {
        for isa in Isa::available() {
            for bad in NOT_FINITE {
                for at in 0..160 {
                    let layout = PackedLayout {
                        width: 1,
                        n_cols: 160,
                        span: ScaleSpan::Unit,
                    };
                    let mut x = vec![0.5; 160];
                    x[at] = bad;
                    let mut record = vec![0.0; layout.record_words()];
                    quantize(isa, layout, &x, &mut record);
                    let view = layout.view(&record);
                    assert!(!view.scales[at / UNIT].is_finite(), "{isa} {bad} {at}");
                    assert!(
                        view.scales[..at / UNIT]
                            .iter()
                            .all(|scale| scale.is_finite())
                    );
                }
            }
        }
    }

    #[test]
    fn rotated_columns_are_those_of_the_definition() {
        let rotation = Rotation::default();
        for isa in Isa::available() {
            for n_cols in [32, 64, 96, 128, 224, 576] {
                for span in [ScaleSpan::Unit, ScaleSpan::Coarse] {
                    let layout = PackedLayout {
                        width: 8,
                        n_cols,
                        span,
                    };
                    let x = Data::Spikes(100.0).values(5 * n_cols, 3);
                    let mut record = vec![0.0; layout.record_words()];
                    let tokens = Quantize {
                        layout,
                        x: &x,
                        stride: n_cols,
                        rotation: Some(&rotation),
                    };
                    tokens.run(isa, &mut record);
                    let mut rotated = x.clone();
                    for row in rotated.chunks_mut(n_cols) {
                        rotation.apply(row);
                    }
                    let mut wanted = vec![0.0; layout.record_words()];
                    quantize(isa, layout, &rotated, &mut wanted);
                    let bits = |record: &[f32]| -> Vec<u32> {
                        record.iter().map(|word| word.to_bits()).collect()
                    };
                    assert!(bits(&record) == bits(&wanted), "{isa} {n_cols} {span:?}");
                }
            }
        }
    }
}
