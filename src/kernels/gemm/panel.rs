//! Weights unpacked for [`gemm`](super): in the order in which products read them.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::kernels::activations::BATCH_BLOCK_UNITS;
use crate::kernels::aligned::AlignedFloats;
use crate::kernels::formats::{Format, prefetch_ahead};
use crate::kernels::gemm::regrouped::{self, is_regrouped};
use crate::kernels::int8::{CHUNK_UNITS, HALF, Int8, UNIT};
use crate::kernels::matmul::WeightView;

/// Unpacked weight rows, and what comes of them; a buffer that each thread keeps.
#[derive(Debug, Default)]
pub struct Panel {
    /// `[tiles, groups, rows, group]` integers; `[tiles, units, rows, 32]` where they are [regrouped].
    pub(super) weights: AlignedFloats,
    /// `[tiles, chunks, groups, rows]`; `[tiles, blocks, rows]` where they are [regrouped].
    pub(super) scales: AlignedFloats,
    /// `[tiles, chunks, units, rows]`, of a format that has any.
    pub(super) mins: AlignedFloats,
    /// `[tiles, rows, width]`: products with a tile of tokens.
    pub(super) products: AlignedFloats,
}

/// Unpacks `rows` of the weights into tiles of `R` rows. A last tile that is not full repeats the
/// last row.
#[inline(always)]
pub(super) fn unpack<I: Int8, F: Format, const R: usize>(
    isa: I,
    weight: WeightView,
    rows: Range<usize>,
    panel: &mut Panel,
) {
    let n_units = weight.n_cols / UNIT;
    let n_padded = padded(n_units);
    let n_tiles = rows.len().div_ceil(R);
    let row_bytes = weight.bytes_per_row();
    assert!(rows.end * row_bytes <= weight.bytes.len());
    let row = |index: usize| {
        let row = (rows.start + index).min(rows.end - 1);
        &weight.bytes[row * row_bytes..(row + 1) * row_bytes]
    };
    panel.weights.resize(n_tiles * R * weight.n_cols / 4);
    if is_regrouped::<I, F>() {
        panel
            .scales
            .resize(n_tiles * R * n_units.div_ceil(BATCH_BLOCK_UNITS));
        for index in 0..n_tiles * R {
            let place = (index / R, index % R);
            regrouped::unpack_row::<I, F, R>(isa, row(index), place, n_units, panel);
        }
        return;
    }
    panel
        .scales
        .resize(n_tiles * R * n_padded * F::GROUPS_PER_UNIT);
    let n_mins = if F::HAS_MINS { n_padded } else { 0 };
    panel.mins.resize(n_tiles * R * n_mins);

    for index in 0..n_tiles * R {
        let (tile, r) = (index / R, index % R);
        let unpacked = bytemuck::cast_slice_mut::<f32, u8>(&mut panel.weights);
        let part = |len: usize| tile * R * len..(tile + 1) * R * len;
        let tile = PanelTileMut {
            weights: &mut unpacked[part(weight.n_cols)],
            scales: &mut panel.scales[part(n_padded * F::GROUPS_PER_UNIT)],
            mins: &mut panel.mins[part(n_mins)],
        };
        unpack_row::<I, F, R>(isa, row(index), r, tile);
    }
}

/// `n_units`, and what completes a chunk.
#[inline(always)]
pub(super) fn padded(n_units: usize) -> usize {
    n_units.next_multiple_of(CHUNK_UNITS)
}

/// Unpacks one row to row `r` of a tile of a panel.
#[inline(always)]
fn unpack_row<I: Int8, F: Format, const R: usize>(
    isa: I,
    row: &[u8],
    r: usize,
    tile: PanelTileMut,
) {
    let n_units = tile.weights.len() / (R * UNIT);
    let n_padded = padded(n_units);
    assert!(tile.weights.len() == n_units * R * UNIT);
    assert!(tile.scales.len() == n_padded * F::GROUPS_PER_UNIT * R);
    assert!(!F::HAS_MINS || tile.mins.len() == n_padded * R);
    assert!(r < R && row.len() * F::DTYPE.block_len() == n_units * UNIT * F::DTYPE.block_bytes());
    let weights = tile.weights.as_mut_ptr();
    // Where half `half` of the row's columns, counted in halves of units, goes.
    let half_at = |half: usize| {
        let group = half * HALF / F::GROUP;
        let within = half * HALF % F::GROUP;
        weights.wrapping_add(group * R * F::GROUP + place::<I>(F::GROUP, R, r, within))
    };
    for first in (0..n_units).step_by(CHUNK_UNITS) {
        prefetch_ahead::<I, F>(isa, row, first);
        let n_in_chunk = CHUNK_UNITS.min(n_units - first);
        // SAFETY: these are units of the row.
        let chunk = unsafe { F::scales(isa, row.as_ptr(), first, n_in_chunk) };
        let n_before = first / CHUNK_UNITS;
        let groups_per_chunk = CHUNK_UNITS * F::GROUPS_PER_UNIT;
        for i in 0..F::GROUPS_PER_UNIT {
            for (j, scale) in isa.eight_values(chunk.groups[i]).into_iter().enumerate() {
                let group = i * CHUNK_UNITS + j;
                tile.scales[chunk_value(R, groups_per_chunk, n_before, group) + r] = scale;
            }
        }
        if F::HAS_MINS {
            for (unit, min) in isa.eight_values(chunk.mins).into_iter().enumerate() {
                tile.mins[chunk_value(R, CHUNK_UNITS, n_before, unit) + r] = min;
            }
        }
        // A whole chunk needs no thought about where the row ends.
        let end = match n_in_chunk {
            CHUNK_UNITS => usize::MAX,
            _ => n_units,
        };
        for pair in first / 2..(first + n_in_chunk).div_ceil(2) {
            // A pair without a second unit has the first one twice, which goes where it was.
            let second = (2 * pair + 1).min(end - 1);
            let halves = [4 * pair, 4 * pair + 1, 2 * second, 2 * second + 1];
            // SAFETY: these are units of the row, and the tile has room for all of them.
            unsafe {
                let integers = F::pair(isa, row.as_ptr(), pair, end);
                isa.store_halves(halves.map(half_at), R * I::PANEL_COLUMNS, integers);
            }
        }
    }
}

/// Where a weight lies in a group of `len` columns of a panel's tile of `n_rows`:
/// `[len / PANEL_COLUMNS, n_rows, PANEL_COLUMNS]`.
#[inline(always)]
pub(in crate::kernels) fn place<I: Int8>(
    len: usize,
    n_rows: usize,
    row: usize,
    column: usize,
) -> usize {
    let together = I::PANEL_COLUMNS.min(len);
    (column / together * n_rows + row) * together + column % together
}

/// Where, in a tile of `n_rows`, the values of group `group` of a chunk of `n_groups` begin, one for each
/// row: side by side, as a product reads them.
#[inline(always)]
pub(super) fn chunk_value(n_rows: usize, n_groups: usize, chunk: usize, group: usize) -> usize {
    (chunk * n_groups + group) * n_rows
}

/// One tile of a panel, to be written to.
struct PanelTileMut<'a> {
    /// `[groups, R, group]`, [`place`] says in which order.
    weights: &'a mut [u8],
    /// `[chunks, groups, R]`.
    scales: &'a mut [f32],
    /// `[chunks, units, R]`.
    mins: &'a mut [f32],
}
