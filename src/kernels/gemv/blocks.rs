//! Rows of the coarse formats, with tokens that have a scale for as many columns.
//!
//! All products of a block of 128 columns are summed as integers; they become floats once, where other
//! formats' do four times. Several rows are multiplied together with several tokens, so that loads of
//! tokens and the unpacking of weights are shared; each output is the same sequence of operations however
//! many there are.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::kernels::activations::{COARSE_UNITS as BLOCK_UNITS, PackedTokens, ScaleSpan};
use crate::kernels::formats::{AHEAD_BYTES, Format};
use crate::kernels::gemv::{Gemv, sum_lanes};
use crate::kernels::int8::{BLOCK, Int8, UNIT, UNIT_LANES};

/// Rows that are multiplied together, where [`Int8::ROWS_TOGETHER`] says so.
const ROWS: usize = 4;
/// Tokens that rows are multiplied with together: their sums leave registers to work with.
const TOKENS: usize = 4;
/// Blocks whose scales are read together.
const EIGHT: usize = 8;
const LINE_BYTES: usize = 64;

impl Gemv<'_, '_, '_> {
    /// All products of the tile.
    #[inline(always)]
    pub(super) fn multiply_by_blocks<I: Int8, F: Format>(&mut self, isa: I) {
        // No other format has such tokens, and none shall be compiled for them.
        if !F::IS_COARSE {
            unreachable!("tokens have scales that weights have not");
        }
        let mut first = 0;
        while first + TOKENS <= self.tokens.len() {
            self.multiply_tokens_by_blocks::<I, F, TOKENS>(isa, first);
            first += TOKENS;
        }
        while first < self.tokens.len() {
            self.multiply_tokens_by_blocks::<I, F, 1>(isa, first);
            first += 1;
        }
    }

    /// Computes rows `first..first + T` of `y`.
    #[inline(always)]
    fn multiply_tokens_by_blocks<I: Int8, F: Format, const T: usize>(
        &mut self,
        isa: I,
        first: usize,
    ) {
        let tokens = self.views(first);
        let row_bytes = self.weight.bytes_per_row();
        let rows = self.out.cols();
        let bytes = &self.weight.bytes[rows.start * row_bytes..rows.end * row_bytes];
        let (fours, rest) = match I::ROWS_TOGETHER[usize::from(T > 1)] {
            true => bytes.split_at(rows.len() / ROWS * ROWS * row_bytes),
            false => (&[][..], bytes),
        };
        let n_in_fours = fours.len() / row_bytes;
        for (i, four) in fours.chunks_exact(ROWS * row_bytes).enumerate() {
            let mut rows = [four; ROWS];
            for (row, bytes) in rows.iter_mut().zip(four.chunks_exact(row_bytes)) {
                *row = bytes;
            }
            let products = dot_rows::<I, F, ROWS, T>(isa, rows, &tokens);
            for (r, products) in products.into_iter().enumerate() {
                self.write(i * ROWS + r, first, products);
            }
        }
        for (i, row) in rest.chunks_exact(row_bytes).enumerate() {
            let [products] = dot_rows::<I, F, 1, T>(isa, [row], &tokens);
            self.write(n_in_fours + i, first, products);
        }
    }
}

/// The products of `R` rows with `T` tokens.
#[inline(always)]
fn dot_rows<I: Int8, F: Format, const R: usize, const T: usize>(
    isa: I,
    rows: [&[u8]; R],
    tokens: &[PackedTokens; T],
) -> [[f32; T]; R] {
    assert!(F::IS_COARSE && F::DTYPE.block_len() == BLOCK);
    let n_blocks = rows[0].len() / F::DTYPE.block_bytes();
    for row in rows {
        assert!(row.len() == n_blocks * F::DTYPE.block_bytes());
    }
    for token in tokens {
        assert!(token.span == ScaleSpan::Coarse && token.quants.len() == n_blocks * BLOCK);
        assert!(token.block_scales.len() == n_blocks && token.starts.len() == n_blocks);
    }
    let mut sums = [[isa.pair_zero(); T]; R];
    let in_full = n_blocks - n_blocks % EIGHT;
    for first in (0..in_full).step_by(EIGHT) {
        sums = add_blocks::<I, F, R, T, true>(isa, rows, tokens, first..first + EIGHT, sums);
    }
    if in_full < n_blocks {
        sums = add_blocks::<I, F, R, T, false>(isa, rows, tokens, in_full..n_blocks, sums);
    }
    let mut results = [[0.0; T]; R];
    for (results, sums) in results.iter_mut().zip(sums) {
        for (result, sums) in results.iter_mut().zip(sums) {
            let both = isa.pair_lanes(sums);
            let mut lanes = [0.0; UNIT_LANES];
            for (i, lane) in lanes.iter_mut().enumerate() {
                *lane = both[i] + both[UNIT_LANES + i];
            }
            *result = sum_lanes(lanes);
        }
    }
    results
}

/// Scales of some blocks of rows times those of tokens.
type Scales<const R: usize, const T: usize> = [[[f32; EIGHT]; T]; R];

/// Adds the products of some blocks, eight if they are `FULL`, else fewer.
#[allow(
    clippy::needless_range_loop,
    reason = "constant bounds keep the sums in registers"
)]
#[inline(always)]
fn add_blocks<I: Int8, F: Format, const R: usize, const T: usize, const FULL: bool>(
    isa: I,
    rows: [&[u8]; R],
    tokens: &[PackedTokens; T],
    blocks: Range<usize>,
    mut sums: [[I::PairF32; T]; R],
) -> [[I::PairF32; T]; R] {
    let block_bytes = F::DTYPE.block_bytes();
    let n_blocks = blocks.len();
    assert!(n_blocks == EIGHT || !FULL && n_blocks < EIGHT);
    let mut scales: Scales<R, T> = [[[0.0; EIGHT]; T]; R];
    let mut pointers = [std::ptr::null(); R];
    for r in 0..R {
        let row = &rows[r][blocks.start * block_bytes..blocks.end * block_bytes];
        // SAFETY: the row has these blocks, which begin with their scales and are longer than four bytes.
        unsafe {
            if FULL {
                let of_weights = isa.load_eight_f16(row.as_ptr(), block_bytes);
                for t in 0..T {
                    let of_token = &tokens[t].block_scales[blocks.clone()][..EIGHT];
                    let of_token = isa.load_eight(of_token.as_ptr());
                    scales[r][t] = isa.eight_values(isa.mul_eight(of_weights, of_token));
                }
            } else {
                for i in 0..n_blocks {
                    let of_weights = isa.load_two_f16(row.as_ptr().add(i * block_bytes))[0];
                    let of_weights = isa.eight_values(of_weights)[0];
                    for t in 0..T {
                        scales[r][t][i] = of_weights * tokens[t].block_scales[blocks.start + i];
                    }
                }
            }
        }
        pointers[r] = row.as_ptr();
    }
    let ahead = bytes_ahead::<R>(rows[0].len(), blocks.start * block_bytes);
    for i in 0..if FULL { EIGHT } else { n_blocks } {
        let index = blocks.start + i;
        // SAFETY: the rows have this block, and `dot_rows` has checked that so have the tokens.
        unsafe {
            // A block at a time: so many lines at once would have to wait for one another.
            for pointer in pointers {
                for line in (0..block_bytes - LINE_BYTES / 2).step_by(LINE_BYTES) {
                    isa.prefetch(pointer.wrapping_add(ahead + i * block_bytes + line));
                }
            }
            let bits = if I::WHOLE_BYTES { 8 } else { F::BITS };
            if T == 1 {
                // The token's columns stay in registers, and a row after the other is unpacked.
                let (activations, start) = columns_of::<I, F>(isa, &tokens[0], index);
                for r in 0..R {
                    let weights = block_of::<I, F>(isa, pointers[r].add(i * block_bytes));
                    let products = isa.dot_block(bits, start, weights, activations);
                    sums[r][0] = isa.add_block(products, scales[r][0][i], sums[r][0]);
                }
                continue;
            }
            let mut weights = [block_of::<I, F>(isa, pointers[0].add(i * block_bytes)); R];
            for r in 1..R {
                weights[r] = block_of::<I, F>(isa, pointers[r].add(i * block_bytes));
            }
            for t in 0..T {
                let (activations, start) = columns_of::<I, F>(isa, &tokens[t], index);
                for r in 0..R {
                    let products = isa.dot_block(bits, start, weights[r], activations);
                    sums[r][t] = isa.add_block(products, scales[r][t][i], sums[r][t]);
                }
            }
        }
    }
    sums
}

/// How far ahead the bytes of `R` adjacent rows from `at` on are asked for: as much later in all of them
/// together, behind their ends in the next ones.
#[inline(always)]
fn bytes_ahead<const R: usize>(row_bytes: usize, at: usize) -> usize {
    let ahead = AHEAD_BYTES / R;
    match at + ahead < row_bytes {
        true => ahead,
        false => ahead + (R - 1) * row_bytes,
    }
}

/// The integers of a block; where products of bytes take no longer than others, with the offset that the
/// tokens' starts are for.
///
/// # Safety
/// There must be a block at `block`.
#[inline(always)]
unsafe fn block_of<I: Int8, F: Format>(isa: I, block: *const u8) -> [I::Pair; 2] {
    // No closures, which might not be compiled for the instruction set.
    // SAFETY: passed on.
    unsafe {
        match I::WHOLE_BYTES {
            true => [
                F::byte_pair(isa, block, 0, BLOCK_UNITS),
                F::byte_pair(isa, block, 1, BLOCK_UNITS),
            ],
            false => [
                F::pair(isa, block, 0, BLOCK_UNITS),
                F::pair(isa, block, 1, BLOCK_UNITS),
            ],
        }
    }
}

/// The integers of block `index` of a token, and what the sums of products with [`block_of`] begin with.
///
/// # Safety
/// The token must have this block.
#[inline(always)]
unsafe fn columns_of<I: Int8, F: Format>(
    isa: I,
    token: &PackedTokens,
    index: usize,
) -> ([I::Pair; 2], i32) {
    // SAFETY: the caller vouches for the block.
    unsafe {
        let quants = token.quants.as_ptr().add(index * BLOCK).cast::<u8>();
        let activations = [
            isa.load_pair(quants, quants.add(UNIT)),
            isa.load_pair(quants.add(2 * UNIT), quants.add(3 * UNIT)),
        ];
        let start = *token.starts.as_ptr().add(index);
        // It is for an offset of 128, and a multiple of what a smaller one needs.
        let start = match I::WHOLE_BYTES {
            true => start,
            false => start >> F::OFFSET.leading_zeros(),
        };
        (activations, start)
    }
}
