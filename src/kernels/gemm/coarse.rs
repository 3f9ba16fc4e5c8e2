//! Unpacking formats whose blocks are 128 columns with one scale: nothing has to be regrouped.
#![allow(unsafe_code)]

use half::f16;

use crate::kernels::activations::COARSE_UNITS as BLOCK_UNITS;
use crate::kernels::formats::{Format, prefetch_ahead};
use crate::kernels::gemm::panel::place_together;
use crate::kernels::int8::{BLOCK, HALF, Int8};

/// Unpacks a row to row `r` of a tile's weights and scales, which are as of
/// [regrouped](super::regrouped) ones, with `together` columns side by side.
#[inline(always)]
pub(super) fn unpack_row<I: Int8, F: Format, const R: usize>(
    isa: I,
    row: &[u8],
    r: usize,
    together: usize,
    weights: &mut [u8],
    scales: &mut [f32],
) {
    const { assert!(!F::IS_COARSE || F::DTYPE.block_len() == BLOCK) };
    let n_blocks = row.len() / F::DTYPE.block_bytes();
    let block_bytes = R * BLOCK * I::BYTE_WEIGHT_BYTES;
    assert!(BLOCK.is_multiple_of(together));
    // Half a unit is stored as one piece, or in pieces of the instruction set's own.
    assert!(together == I::PANEL_COLUMNS || together >= HALF && I::PANEL_COLUMNS >= HALF);
    assert!(r < R && weights.len() == n_blocks * block_bytes && scales.len() == n_blocks * R);
    let half_at = |half: usize| place_together(together, R, r, half * HALF) * I::BYTE_WEIGHT_BYTES;
    let apart = R * I::PANEL_COLUMNS * I::BYTE_WEIGHT_BYTES;
    for block in 0..n_blocks {
        prefetch_ahead::<I, F>(isa, row, block * BLOCK_UNITS);
        let bytes = row[block * F::DTYPE.block_bytes()..]
            .first_chunk()
            .expect("a block");
        scales[block * R + r] = f16::from_le_bytes(*bytes).to_f32();
        let weights = weights[block * block_bytes..][..block_bytes].as_mut_ptr();
        for pair in 0..BLOCK_UNITS / 2 {
            // SAFETY: the row has the block, and the tile has room for all of its halves.
            unsafe {
                let pair_of_row = block * (BLOCK_UNITS / 2) + pair;
                let integers = F::byte_pair(isa, row.as_ptr(), pair_of_row, usize::MAX);
                let mut to = [weights; 4];
                for (i, to) in to.iter_mut().enumerate() {
                    *to = to.add(half_at(4 * pair + i));
                }
                isa.store_byte_weights(to, apart, integers);
            }
        }
    }
}
