//! Products with [regrouped](super::regrouped) weights in registers of whole tiles, as AMX and SME have
//! them.
//!
//! Such registers are loaded from memory and stored to it, and hold nothing but integers. So the sums of
//! a block's columns go through a small buffer, from which the usual registers take them, turn them into
//! floats and add them to totals that lie in memory too. While they do, the next block is multiplied.
//!
//! The integers are exact, and the floats are computed as in [`regrouped`](super::regrouped), so that the
//! results are the same.
#![allow(unsafe_code)]

use crate::kernels::activations::{COARSE_UNITS as BLOCK_UNITS, PackedTokens, ScaleSpan};
use crate::kernels::formats::Format;
use crate::kernels::gemm::regrouped::RegroupedRows;
use crate::kernels::gemm::{Block, GemmTile, Kind, multiply_blocks};
use crate::kernels::int8::{BLOCK, HALF, Int8, Int8Op};

/// Columns of a weight row that lie side by side: those of a tile register.
pub const COLUMNS: usize = 64;

/// Blocks ahead of the one whose sums become floats, to be asked for: the next one is being read already.
const BLOCKS_AHEAD: usize = 2;

/// Registers of whole tiles.
///
/// # Safety
/// A value is proof that the processor has them and that the thread has set them up. A product reads and
/// writes what it documents and nothing else; [`TileRegisters::ROWS`] is not 0.
pub unsafe trait TileRegisters {
    /// Weight rows of a product.
    const ROWS: usize;
    /// Tokens of a register of the instruction set that it is used with.
    const LANES: usize;
    /// Tokens of a record of that instruction set.
    const WIDTH: usize;
    /// Whether weights are unsigned, with an offset of 128.
    const UNSIGNED_WEIGHTS: bool;

    /// Writes the sums over a [`BLOCK`]'s columns for [`TileRegisters::ROWS`] rows and `V` times
    /// [`TileRegisters::LANES`] tokens.
    ///
    /// # Safety
    /// `weights: [BLOCK / COLUMNS, ROWS, COLUMNS]` must be readable. So must the first `V * LANES` tokens from
    /// `tokens: [BLOCK / 4, WIDTH, 4]` on, and as many sums be writable of each row of `sums: [ROWS, WIDTH]`.
    unsafe fn dot_block<const V: usize>(
        &self,
        weights: *const u8,
        tokens: *const i8,
        sums: *mut i32,
    );
}

/// Whether weights of so many columns are multiplied here with activations of such scales.
#[inline(always)]
pub fn takes(span: ScaleSpan, n_cols: usize) -> bool {
    span == ScaleSpan::Coarse && n_cols.is_multiple_of(BLOCK)
}

/// [`Gemm`](super::Gemm) for one format by tile registers, of a batch that [`takes`] agrees to.
#[inline(always)]
pub fn multiply_tiled<I: Int8, T: TileRegisters, F: Format, const R: usize, const V: usize>(
    isa: I,
    tiles: &T,
    work: GemmTile,
) {
    assert!(takes(work.batch.layout.span, work.weight.n_cols));
    let kind = Kind::of::<I, F>(work.batch.layout.span);
    assert!(kind == Kind::Regrouped);
    multiply_blocks::<I, F, R>(
        isa,
        work,
        kind,
        COLUMNS,
        #[inline(always)]
        |block, sums, narrow| {
            sums.resize(2 * R * T::WIDTH);
            let sums: &mut [i32] = bytemuck::cast_slice_mut(sums);
            match narrow {
                true => isa.vectorize(Tiled::<T, F, R, 1> { tiles, block, sums }),
                false => isa.vectorize(Tiled::<T, F, R, V> { tiles, block, sums }),
            }
        },
    );
}

/// The products of `R` rows with `V` registers of tokens.
struct Tiled<'a, 'b, T, F, const R: usize, const V: usize> {
    tiles: &'a T,
    block: Block<'b, 'b, F, R>,
    /// `[2, R, WIDTH]`, in turn for one block and the next.
    sums: &'a mut [i32],
}

impl<T: TileRegisters, F: Format, const R: usize, const V: usize> Int8Op
    for Tiled<'_, '_, T, F, R, V>
{
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        const {
            assert!(T::WIDTH == I::TILE_VECTORS * I::LANES && V <= I::TILE_VECTORS);
            assert!(T::LANES == I::LANES && I::PANEL_COLUMNS >= HALF);
            assert!(T::ROWS == R && T::UNSIGNED_WEIGHTS == I::UNSIGNED_WEIGHTS);
            assert!(I::COLUMNS == 4 && I::BYTE_WEIGHT_BYTES == 1);
        }
        let Tiled { tiles, block, sums } = self;
        let n_units = block.n_units::<I>();
        let n_blocks = n_units / BLOCK_UNITS;
        let Block {
            panel,
            index,
            tokens,
            first_lane,
            biases,
            products,
            ..
        } = block;
        let rows = RegroupedRows::new::<I, R>(panel, index, n_units);
        assert!(n_blocks > 0 && n_units == n_blocks * BLOCK_UNITS);
        assert!(first_lane + V * I::LANES <= T::WIDTH);
        assert!(rows.weights.len() == n_blocks * R * BLOCK && rows.scales.len() == n_blocks * R);
        assert!(tokens.quants.len() == n_blocks * BLOCK * T::WIDTH);
        assert!(tokens.scales.len() == n_units * T::WIDTH);
        assert!(tokens.starts.len() == n_blocks * T::WIDTH);
        assert!(sums.len() == 2 * R * T::WIDTH && products.len() == R * T::WIDTH);
        let (of_even, of_odd) = sums.split_at_mut(R * T::WIDTH);
        let operands = Operands {
            tiles,
            rows,
            tokens,
            first_lane,
        };
        products.fill(0.0);
        // SAFETY: there is a first block; all lengths were just checked.
        unsafe { operands.dot_block::<R, V>(0, of_even) };
        for at in 0..n_blocks {
            let (these, next) = match at % 2 {
                0 => (&mut *of_even, &mut *of_odd),
                _ => (&mut *of_odd, &mut *of_even),
            };
            // SAFETY: the blocks are there; all lengths were just checked.
            unsafe {
                if at + 1 < n_blocks {
                    operands.dot_block::<R, V>(at + 1, next);
                }
                operands.add_block::<I, R, V>(isa, at, these, products);
            }
        }
        add_biases::<I, R, V>(isa, biases, T::WIDTH, first_lane, products);
    }
}

/// The operands of [`Tiled`], whose lengths it has checked.
struct Operands<'a, T> {
    tiles: &'a T,
    rows: RegroupedRows<'a>,
    tokens: PackedTokens<'a>,
    first_lane: usize,
}

impl<T: TileRegisters> Operands<'_, T> {
    /// Writes the integer sums of a block's columns to the wanted lanes of `sums: [R, WIDTH]`.
    ///
    /// # Safety
    /// There must be such a block, `R` rows, and lanes for `V` registers.
    #[inline(always)]
    unsafe fn dot_block<const R: usize, const V: usize>(&self, block: usize, sums: &mut [i32]) {
        // SAFETY: the caller vouches for the block, the rows and the lanes.
        unsafe {
            let weights = self.rows.weights.as_ptr().add(block * R * BLOCK);
            let tokens = self.tokens.quants.as_ptr().add(block * BLOCK * T::WIDTH);
            let (tokens, sums) = (tokens.add(4 * self.first_lane), sums.as_mut_ptr());
            self.tiles
                .dot_block::<V>(weights, tokens, sums.add(self.first_lane));
        }
    }

    /// Adds the sums of a block, times its scales, to `totals: [R, WIDTH]`.
    ///
    /// # Safety
    /// As [`Operands::dot_block`].
    #[inline(always)]
    unsafe fn add_block<I: Int8, const R: usize, const V: usize>(
        &self,
        isa: I,
        block: usize,
        sums: &[i32],
        totals: &mut [f32],
    ) {
        const LINE_BYTES: usize = 64;

        let ahead = block + BLOCKS_AHEAD;
        let weights_ahead = self.rows.weights.as_ptr().wrapping_add(ahead * R * BLOCK);
        let tokens_ahead = self
            .tokens
            .quants
            .as_ptr()
            .wrapping_add(ahead * BLOCK * T::WIDTH);
        // SAFETY: the caller vouches for the block, the rows and the lanes.
        unsafe {
            let mut scales = [isa.splat_f32(0.0); V];
            let mut starts = [isa.zero_i32(); V];
            for v in 0..V {
                let at = block * T::WIDTH + self.first_lane + v * I::LANES;
                starts[v] = isa.load_i32(self.tokens.starts.as_ptr().add(at));
                // All units of a block have the block's scale.
                let at = block * BLOCK_UNITS * T::WIDTH + self.first_lane + v * I::LANES;
                scales[v] = isa.load_f32(self.tokens.scales.as_ptr().add(at));
            }
            for r in 0..R {
                // As many bytes of tokens as of weights: the record's where it has as many tokens.
                for line in (0..BLOCK).step_by(LINE_BYTES) {
                    isa.prefetch(weights_ahead.wrapping_add(r * BLOCK + line));
                    isa.prefetch(tokens_ahead.wrapping_add(r * BLOCK + line).cast());
                }
                let scale = isa.splat_f32(self.rows.scales.as_ptr().add(block * R + r).read());
                for v in 0..V {
                    let at = r * T::WIDTH + self.first_lane + v * I::LANES;
                    let mut sum = isa.load_i32(sums.as_ptr().add(at));
                    if T::UNSIGNED_WEIGHTS {
                        sum = isa.add_i32(sum, starts[v]);
                    }
                    let sum = isa.mul(isa.to_f32(sum), scales[v]);
                    let total = totals.as_mut_ptr().add(at);
                    isa.store_f32(total, isa.mul_add(sum, scale, isa.load_f32(total)));
                }
            }
        }
    }
}

/// Adds biases to `V` registers from lane `first_lane` on of each of `R` rows of totals, as
/// [`write_products`](super::write_products) does.
#[inline(always)]
fn add_biases<I: Int8, const R: usize, const V: usize>(
    isa: I,
    biases: [f32; R],
    width: usize,
    first_lane: usize,
    totals: &mut [f32],
) {
    assert!(first_lane + V * I::LANES <= width && totals.len() == R * width);
    let one = isa.splat_f32(1.0);
    for (bias, totals) in biases.into_iter().zip(totals.chunks_exact_mut(width)) {
        let bias = isa.splat_f32(bias);
        for v in 0..V {
            // SAFETY: lanes are below `width`.
            unsafe {
                let total = totals.as_mut_ptr().add(first_lane + v * I::LANES);
                isa.store_f32(total, isa.mul_add(isa.load_f32(total), one, bias));
            }
        }
    }
}
