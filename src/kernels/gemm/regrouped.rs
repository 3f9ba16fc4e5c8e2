//! Products with weights that have one scale for each 128 columns of a row, as the activations of a
//! rotated prompt have.
//!
//! A format's own groups are of 32 or 16 columns, and after each of them all sums would have to
//! become floats. Where an instruction multiplies and adds four bytes at once, that costs a quarter
//! of the time or more. So, as a row is unpacked, its groups are brought to one scale for each 128
//! columns, the columns that share a scale in a batch: rounded to 8 bits once more, minimums and all.
//!
//! The new step is 1/127 of the largest weight that the groups' integers could stand for. A group
//! that reaches as far had steps of 1/8 or 1/15 of twice that with 4 bits, 1/32 with 6 and 1/127 with
//! 8. So rounding adds 1/250 to the variance of its error with 4 bits, 1/16 with 6, and nothing with 8,
//! where the group stays as it is; where other groups are smaller, it adds more, by the square of the
//! ratio. What comes of it for answers is measured in models/tiny/README.md.
#![allow(unsafe_code)]

use crate::kernels::activations::{COARSE_UNITS as BLOCK_UNITS, PackedTokens};
use crate::kernels::formats::{Format, Scales, prefetch_ahead};
use crate::kernels::gemm::coarse;
use crate::kernels::gemm::panel::{Panel, place_together};
use crate::kernels::gemm::write_products;
use crate::kernels::int8::{BLOCK, CHUNK_UNITS, Group, HALF, Int8, UNIT};

/// 3 * 2^22: a float that it is added to is rounded to an integer, which are the sum's lower bits.
const MAGIC: f32 = 12_582_912.0;

const HALF_BLOCK: usize = BLOCK / 2;

/// How the weights of a chunk become those of its blocks: `(u * factor + offset) >> 8`, in 16 bits,
/// for unsigned `u`.
#[derive(Clone, Copy)]
struct Regrouping<I: Int8> {
    /// One for each half of a unit.
    factors: I::Words,
    /// Likewise.
    offsets: I::Words,
    /// One for each block.
    scales: [f32; CHUNK_UNITS / BLOCK_UNITS],
}

impl<I: Int8> Regrouping<I> {
    /// That of the chunk of `n_units` that begins with unit `first`.
    ///
    /// # Safety
    /// The row must have these units.
    #[inline(always)]
    unsafe fn at<F: Format>(isa: I, row: &[u8], first: usize, n_units: usize) -> Self {
        prefetch_ahead::<I, F>(isa, row, first);
        // SAFETY: the caller vouches for the units.
        let chunk = unsafe { F::scales(isa, row.as_ptr(), first, n_units) };
        Self::new::<F>(isa, chunk)
    }

    #[inline(always)]
    fn new<F: Format>(isa: I, chunk: Scales<I>) -> Self {
        // Halves of units share a group, or have one each.
        if F::GROUPS_PER_UNIT == 1 {
            let largest = isa.largest_of_fours(bounds::<I, F>(isa, chunk.groups[0], chunk.mins));
            let scales = block_scales(isa, largest);
            let steps = Steps::new::<F>(isa, largest, chunk.groups[0], chunk.mins);
            Regrouping {
                factors: isa.low_words_twice(steps.factors),
                offsets: isa.low_words_twice(steps.offsets),
                scales: [scales[0], scales[BLOCK_UNITS]],
            }
        } else {
            let (first, lower) = steps_of_block::<I, F>(isa, chunk.groups[0], chunk.mins);
            let (second, upper) = steps_of_block::<I, F>(isa, chunk.groups[1], chunk.mins);
            Regrouping {
                factors: isa.low_words([lower.factors, upper.factors]),
                offsets: isa.low_words([lower.offsets, upper.offsets]),
                scales: [first, second],
            }
        }
    }

    /// Unpacks the chunk of `n_units` that begins with unit `first`.
    ///
    /// # Safety
    /// The row must have these units, in whole groups of `together` columns, and `r` be below `R`.
    #[allow(clippy::too_many_arguments, reason = "they are a row's and a place's")]
    #[inline(always)]
    unsafe fn unpack<F: Format, const R: usize>(
        &self,
        isa: I,
        row: &[u8],
        r: usize,
        first: usize,
        n_units: usize,
        together: usize,
        weights: &mut [u8],
        scales: &mut [f32],
    ) {
        let n_blocks = n_units.div_ceil(BLOCK_UNITS);
        let scales = &mut scales[first / BLOCK_UNITS * R..][..n_blocks * R];
        for (i, &scale) in self.scales[..n_blocks].iter().enumerate() {
            scales[i * R + r] = scale;
        }
        let unit_bytes = UNIT * R * I::BYTE_WEIGHT_BYTES;
        let weights = &mut weights[first * unit_bytes..][..n_units * unit_bytes];
        let half_at =
            |half: usize| place_together(together, R, r, half * HALF) * I::BYTE_WEIGHT_BYTES;
        // A whole chunk needs no thought about where the row ends.
        let end = match n_units {
            CHUNK_UNITS => usize::MAX,
            _ => first + n_units,
        };
        for pair in 0..n_units.div_ceil(2) {
            // A pair without a second unit has the first one twice, with its scale, which goes where
            // it was.
            let second = (2 * pair + 1).min(n_units - 1);
            let halves = [4 * pair, 4 * pair + 1, 2 * second, 2 * second + 1];
            // SAFETY: the caller vouches for the units; the tile has room for all of them.
            unsafe {
                let integers = F::unsigned_pair(isa, row.as_ptr(), first / 2 + pair, end);
                let integers = isa.regroup(integers, pair, self.factors, self.offsets);
                let mut to = [weights.as_mut_ptr(); 4];
                for (to, half) in to.iter_mut().zip(halves) {
                    *to = to.add(half_at(half));
                }
                let apart = R * I::PANEL_COLUMNS * I::BYTE_WEIGHT_BYTES;
                isa.store_byte_weights(to, apart, integers);
            }
        }
    }
}

/// The scale and the steps of a block of eight groups.
#[inline(always)]
fn steps_of_block<I: Int8, F: Format>(isa: I, groups: I::Eight, mins: I::Eight) -> (f32, Steps<I>) {
    let fours = isa.largest_of_fours(bounds::<I, F>(isa, groups, mins));
    let largest = isa.larger_sizes(fours, isa.exchange_fours(fours));
    let steps = Steps::new::<F>(isa, largest, groups, mins);
    (block_scales(isa, largest)[0], steps)
}

/// What no weight of a group exceeds.
#[inline(always)]
fn bounds<I: Int8, F: Format>(isa: I, groups: I::Eight, mins: I::Eight) -> I::Eight {
    let largest = isa.mul_eight(groups, isa.splat_eight(F::LARGEST));
    if !F::HAS_MINS {
        return isa.larger_sizes(largest, largest);
    }
    let negated = isa.mul_eight(mins, isa.splat_eight(-1.0));
    isa.larger_sizes(
        isa.mul_add_eight(isa.splat_eight(1.0), largest, negated),
        negated,
    )
}

#[inline(always)]
fn block_scales<I: Int8>(isa: I, largest: I::Eight) -> [f32; CHUNK_UNITS] {
    isa.eight_values(isa.mul_eight(largest, isa.splat_eight(1.0 / 127.0)))
}

/// Factors and offsets of eight groups, each plus [`MAGIC`].
struct Steps<I: Int8> {
    factors: I::Eight,
    offsets: I::Eight,
}

impl<I: Int8> Steps<I> {
    /// Given the largest weight of each group's block.
    #[inline(always)]
    fn new<F: Format>(isa: I, largest: I::Eight, groups: I::Eight, mins: I::Eight) -> Self {
        /// Where all weights are zeros.
        const TINY: f32 = 1e-30;
        /// Makes the shift round to nearest.
        const HALF_STEP: f32 = 128.0;
        /// Makes signed bytes unsigned ones.
        const TO_UNSIGNED: f32 = 32768.0;

        let per_step = isa.larger_sizes(largest, isa.splat_eight(TINY));
        let per_step = isa.div_eight(isa.splat_eight(127.0 * 256.0), per_step);
        let factors = isa.mul_add_eight(groups, per_step, isa.splat_eight(MAGIC));
        let integers = isa.mul_add_eight(factors, isa.splat_eight(1.0), isa.splat_eight(-MAGIC));
        let constant = match I::UNSIGNED_WEIGHTS {
            true => HALF_STEP + TO_UNSIGNED,
            false => HALF_STEP,
        };
        let offset = isa.splat_eight(-f32::from(F::OFFSET));
        let mut offsets = isa.mul_add_eight(integers, offset, isa.splat_eight(MAGIC + constant));
        if F::HAS_MINS {
            let mins = isa.mul_add_eight(mins, per_step, isa.splat_eight(MAGIC));
            let mins = isa.mul_add_eight(mins, isa.splat_eight(1.0), isa.splat_eight(-MAGIC));
            offsets = isa.mul_add_eight(mins, isa.splat_eight(-1.0), offsets);
        }
        Steps { factors, offsets }
    }
}

/// Puts four weights that lie side by side, as bytes, to where they belong.
#[inline(always)]
pub(in crate::kernels) fn store_four<I: Int8>(four: [i8; 4], to: &mut [u8]) {
    const { assert!(I::BYTE_WEIGHT_BYTES == 1 || I::UNSIGNED_WEIGHTS) };
    let words = four.map(|weight| u16::from(weight as u8).to_le());
    match I::BYTE_WEIGHT_BYTES {
        1 => to[..4].copy_from_slice(bytemuck::bytes_of(&four)),
        _ => to[..8].copy_from_slice(bytemuck::bytes_of(&words)),
    }
}

/// Makes room for `n_tiles` tiles.
#[inline(always)]
pub(super) fn resize<I: Int8, const R: usize>(panel: &mut Panel, n_tiles: usize, n_units: usize) {
    let n_blocks = n_units.div_ceil(BLOCK_UNITS);
    let n_bytes = n_tiles * R * n_units * UNIT * I::BYTE_WEIGHT_BYTES;
    panel.weights.resize(n_bytes / size_of::<f32>());
    panel.scales.resize(n_tiles * R * n_blocks);
}

/// Unpacks a row of `n_units` to row `r` of tile `tile` of a panel, in which `together` of its columns
/// lie side by side.
#[inline(always)]
pub(super) fn unpack_row<I: Int8, F: Format, const R: usize>(
    isa: I,
    row: &[u8],
    (tile, r): (usize, usize),
    n_units: usize,
    together: usize,
    panel: &mut Panel,
) {
    // However short the last block is, it has whole units; and whole groups of columns that lie together.
    assert!((n_units * UNIT).is_multiple_of(together) && BLOCK.is_multiple_of(together));
    // Half a unit is stored as one piece, or in pieces of the instruction set's own.
    assert!(together == I::PANEL_COLUMNS || together >= HALF && I::PANEL_COLUMNS >= HALF);
    assert!(r < R && row.len() * F::DTYPE.block_len() == n_units * UNIT * F::DTYPE.block_bytes());
    let part = |len: usize| tile * R * len..(tile + 1) * R * len;
    let weights = bytemuck::cast_slice_mut::<f32, u8>(&mut panel.weights);
    let weights = &mut weights[part(n_units * UNIT * I::BYTE_WEIGHT_BYTES)];
    let scales = &mut panel.scales[part(n_units.div_ceil(BLOCK_UNITS))];
    if F::IS_COARSE {
        return coarse::unpack_row::<I, F, R>(isa, row, r, together, weights, scales);
    }
    let in_full = n_units - n_units % CHUNK_UNITS;
    // SAFETY: there are such units in all three places, as the length of the row says.
    unsafe {
        if in_full > 0 {
            let mut regrouping = Regrouping::at::<F>(isa, row, 0, CHUNK_UNITS);
            for first in (0..in_full).step_by(CHUNK_UNITS) {
                // Of the next chunk, since so long a computation had better begin early.
                let after = first + CHUNK_UNITS;
                let next = match after < in_full {
                    true => Regrouping::at::<F>(isa, row, after, CHUNK_UNITS),
                    false => regrouping,
                };
                regrouping.unpack::<F, R>(
                    isa,
                    row,
                    r,
                    first,
                    CHUNK_UNITS,
                    together,
                    weights,
                    scales,
                );
                regrouping = next;
            }
        }
        if in_full < n_units {
            let n_left = n_units - in_full;
            let regrouping = Regrouping::at::<F>(isa, row, in_full, n_left);
            regrouping.unpack::<F, R>(isa, row, r, in_full, n_left, together, weights, scales);
        }
    }
}

/// Some rows of a panel: a tile.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct RegroupedRows<'a> {
    /// `[columns / together, R, together]` of [`Int8::BYTE_WEIGHT_BYTES`] each, with as many columns
    /// together as the rows were unpacked with.
    pub weights: &'a [u8],
    /// `[blocks, R]`.
    pub scales: &'a [f32],
}

impl<'a> RegroupedRows<'a> {
    #[inline(always)]
    pub(super) fn new<I: Int8, const R: usize>(
        panel: &'a Panel,
        index: usize,
        n_units: usize,
    ) -> Self {
        let part = |len: usize| index * R * len..(index + 1) * R * len;
        let weights: &[u8] = bytemuck::cast_slice(&panel.weights);
        RegroupedRows {
            weights: &weights[part(n_units * UNIT * I::BYTE_WEIGHT_BYTES)],
            scales: &panel.scales[part(n_units.div_ceil(BLOCK_UNITS))],
        }
    }

    /// The products of `R` rows with `V` registers of tokens from lane `first_lane` of a record on,
    /// over all columns, to those lanes of `products`, whose `R` rows are `stride` apart.
    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    pub(in crate::kernels) fn dot<I: Int8, const R: usize, const V: usize>(
        self,
        isa: I,
        tokens: PackedTokens,
        first_lane: usize,
        biases: [f32; R],
        products: &mut [f32],
        stride: usize,
    ) {
        let width = I::TILE_VECTORS * I::LANES;
        let unit_bytes = R * UNIT * I::BYTE_WEIGHT_BYTES;
        let n_units = self.weights.len() / unit_bytes;
        let n_blocks = n_units.div_ceil(BLOCK_UNITS);
        assert!(R == I::TILE_ROWS && first_lane + V * I::LANES <= width && n_units > 0);
        assert!(self.weights.len() == n_units * unit_bytes && self.scales.len() == R * n_blocks);
        assert!(tokens.quants.len() == n_units * UNIT * width);
        assert!(tokens.scales.len() == n_units * width && tokens.starts.len() == n_blocks * width);
        assert!(stride >= width && products.len() >= (R - 1) * stride + width);
        let operands = Operands {
            rows: self,
            tokens,
            first_lane,
        };
        let mut totals = [[isa.splat_f32(0.0); V]; R];
        let n_full = n_units / BLOCK_UNITS;
        for block in 0..n_full {
            // SAFETY: the block is there, whole; all lengths were just checked.
            totals = unsafe { operands.add_block(isa, block, BLOCK, totals) };
        }
        if n_full < n_blocks {
            // SAFETY: as above, but for its length, which is what is left. Half a block is a head of
            // the ViT, and faster if the compiler knows.
            totals = unsafe {
                match n_units * UNIT - n_full * BLOCK {
                    HALF_BLOCK => operands.add_block(isa, n_full, HALF_BLOCK, totals),
                    len => operands.add_block(isa, n_full, len, totals),
                }
            };
        }
        let totals = isa.by_rows(totals);
        write_products(isa, totals, first_lane, biases, products, stride);
    }
}

/// The operands of [`RegroupedRows::dot`], whose lengths it has checked.
struct Operands<'a> {
    rows: RegroupedRows<'a>,
    tokens: PackedTokens<'a>,
    first_lane: usize,
}

impl Operands<'_> {
    /// Adds the products of a block's columns, times its scales.
    ///
    /// # Safety
    /// There must be such a block of `len` columns, `R` rows, and lanes for `V` registers.
    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    unsafe fn add_block<I: Int8, const R: usize, const V: usize>(
        &self,
        isa: I,
        block: usize,
        len: usize,
        mut totals: [[I::F32; V]; R],
    ) -> [[I::F32; V]; R] {
        const { assert!(BLOCK * 128 * 128 < 1 << 22, "for `sum_to_f32`") };
        let width = I::TILE_VECTORS * I::LANES;
        // SAFETY: the caller vouches for the block, the rows and the lanes.
        unsafe {
            let at = block * width + self.first_lane;
            let sums = isa.dot_group::<R, V>(
                Group { len, bits: 8 },
                self.rows
                    .weights
                    .as_ptr()
                    .add(block * R * BLOCK * I::BYTE_WEIGHT_BYTES),
                self.tokens
                    .quants
                    .as_ptr()
                    .add(block * BLOCK * width + I::COLUMNS * self.first_lane),
                I::COLUMNS * width,
                self.start::<I, R, V>(isa, at),
            );
            let scales = self.rows.scales.as_ptr().add(block * R);
            for v in 0..V {
                // All units of a block have the block's scale.
                let of_tokens = block * BLOCK_UNITS * width + self.first_lane + v * I::LANES;
                let of_tokens = isa.load_f32(self.tokens.scales.as_ptr().add(of_tokens));
                for r in 0..R {
                    let scale = isa.row_value(scales, r);
                    let sum = match I::UNSIGNED_WEIGHTS {
                        true => isa.to_f32(sums[r][v]),
                        false => isa.sum_to_f32(sums[r][v]),
                    };
                    let sum = isa.mul(sum, isa.token_values(r, of_tokens));
                    totals[r][v] = isa.mul_add(sum, scale, totals[r][v]);
                }
            }
        }
        totals
    }

    /// What the integer sums of a block begin with: where weights are unsigned, what their products
    /// with the tokens will exceed those of the true weights by, negated.
    ///
    /// # Safety
    /// `V` registers of the tokens' starts must be readable from `at` on.
    #[inline(always)]
    unsafe fn start<I: Int8, const R: usize, const V: usize>(
        &self,
        isa: I,
        at: usize,
    ) -> [[I::I32; V]; R] {
        if !I::UNSIGNED_WEIGHTS {
            return isa.zero_sums();
        }
        let mut starts = [isa.zero_i32(); V];
        for (v, start) in starts.iter_mut().enumerate() {
            // SAFETY: the caller vouches for them.
            *start = unsafe { isa.load_i32(self.tokens.starts.as_ptr().add(at + v * I::LANES)) };
        }
        [starts; R]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::DType;
    use crate::kernels::Isa;
    use crate::kernels::activations::ScaleSpan;
    use crate::kernels::formats::with_format;
    use crate::kernels::gemm::Kind;
    use crate::kernels::gemm::panel::unpack;
    use crate::kernels::int8::Int8Op;
    use crate::kernels::matmul::WeightView;
    use crate::kernels::tests::products::quantized;
    use crate::quant;

    const ROWS: usize = 6;

    /// Weights as they were unpacked, each with its scale.
    struct Unpacked<'a>(WeightView<'a>);

    impl Int8Op for Unpacked<'_> {
        type Output = Option<Vec<(f32, f32)>>;

        fn run<I: Int8>(self, isa: I) -> Self::Output {
            with_format!(self.0.dtype, F => self.unpack::<I, F>(isa))
        }
    }

    impl Unpacked<'_> {
        fn unpack<I: Int8, F: Format>(self, isa: I) -> Option<Vec<(f32, f32)>> {
            if Kind::of::<I, F>(ScaleSpan::Coarse) != Kind::Regrouped {
                return None;
            }
            let n_cols = self.0.n_cols;
            let mut panel = Panel::default();
            let together = I::PANEL_COLUMNS;
            unpack::<I, F, ROWS>(isa, self.0, 0..ROWS, Kind::Regrouped, together, &mut panel);
            let weights: &[u8] = bytemuck::cast_slice(&panel.weights);
            let of_row = |row: usize| {
                let panel = &panel;
                (0..n_cols).map(move |column| {
                    let at = place_together(together, ROWS, row, column);
                    let stored = match I::BYTE_WEIGHT_BYTES {
                        1 => weights[at],
                        _ => {
                            assert_eq!(weights[2 * at + 1], 0, "{row} {column}");
                            weights[2 * at]
                        }
                    };
                    let integer = match I::UNSIGNED_WEIGHTS {
                        true => i16::from(stored) - 128,
                        false => i16::from(stored as i8),
                    };
                    (
                        f32::from(integer),
                        panel.scales[column / BLOCK * ROWS + row],
                    )
                })
            };
            Some((0..ROWS).flat_map(of_row).collect())
        }
    }

    /// Rows with groups of very different sizes, some of zeros, and one row of nothing else.
    fn weights(dtype: DType, n_cols: usize) -> Vec<u8> {
        let sizes = [1.0, 0.01, -30.0, 0.0, 3.0, 0.2, 1e-6];
        let values: Vec<f32> = (0..ROWS * n_cols)
            .map(|i| {
                let value = ((i * 7919) % 2003) as f32 / 1001.0 - 1.0;
                match i / n_cols {
                    3 => 0.0,
                    _ => sizes[i / 16 % sizes.len()] * value + sizes[i / 80 % sizes.len()] * 0.3,
                }
            })
            .collect();
        let mut bytes = vec![0; values.len() / dtype.block_len() * dtype.block_bytes()];
        quant::quantize(dtype, &values, &mut bytes);
        bytes
    }

    #[test]
    fn every_weight_is_the_nearest_step_or_almost() {
        for dtype in quantized() {
            // Half a step, and what comes of rounding factors and minimums to 1/256 of one.
            let bits = [4.0, 6.0, 8.0].map(|bits: f32| bits.exp2() / 2.0);
            let [four, six, eight] = bits.map(|largest| 0.505 + largest / 512.0);
            let bound = match dtype {
                DType::Q8_0 => eight,
                DType::Q6_K => six,
                // Theirs are scales of blocks already.
                DType::H8 | DType::H4 => 0.0,
                // Those of Q4_K are unsigned.
                _ => four + 8.0 / 512.0,
            };
            for n_cols in [32_usize, 96, 128, 160, 256, 288, 1024] {
                if !n_cols.is_multiple_of(dtype.block_len()) {
                    continue;
                }
                let bytes = weights(dtype, n_cols);
                let mut stored = vec![0.0; ROWS * n_cols];
                quant::dequantize(dtype, &bytes, &mut stored);
                let view = WeightView {
                    bytes: &bytes,
                    dtype,
                    n_cols,
                };
                let scalar = Isa::scalar().run_int8(Unpacked(view)).unwrap();
                for (i, (&(integer, scale), &weight)) in scalar.iter().zip(&stored).enumerate() {
                    let error = (integer * scale - weight).abs();
                    assert!(
                        error <= bound * scale,
                        "{dtype} {n_cols} [{i}]: {integer} x {scale} for {weight}"
                    );
                }
                for isa in Isa::available() {
                    if let Some(unpacked) = isa.run_int8(Unpacked(view)) {
                        assert!(unpacked == scalar, "{isa} {dtype} {n_cols}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_group_of_bytes_stays_as_it_is() {
        let values: Vec<f32> = (0..ROWS * BLOCK)
            .map(|i| ((i * 31) % 255) as f32 - 127.0)
            .collect();
        let mut bytes = vec![0; values.len() / 32 * 34];
        quant::quantize(DType::Q8_0, &values, &mut bytes);
        let view = WeightView {
            bytes: &bytes,
            dtype: DType::Q8_0,
            n_cols: BLOCK,
        };
        let scalar = Isa::scalar().run_int8(Unpacked(view)).unwrap();
        let mut stored = vec![0.0; values.len()];
        quant::dequantize(DType::Q8_0, &bytes, &mut stored);
        for (row, stored) in scalar.chunks(BLOCK).zip(stored.chunks(BLOCK)) {
            let largest = stored.iter().fold(0.0, |m: f32, w| m.max(w.abs()));
            for (unit, stored) in row.chunks(UNIT).zip(stored.chunks(UNIT)) {
                if stored.iter().any(|w| w.abs() == largest) {
                    for (&(integer, scale), &weight) in unit.iter().zip(stored) {
                        assert!((integer * scale - weight).abs() <= 1e-5 * largest);
                    }
                }
            }
        }
    }
}
