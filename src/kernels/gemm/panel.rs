//! Weights unpacked for [`gemm`](super): in the order in which products read them.
#![allow(unsafe_code)]

use std::ops::Range;

use crate::kernels::aligned::AlignedFloats;
use crate::kernels::formats::{Format, prefetch_ahead};
use crate::kernels::int8::{CHUNK_UNITS, HALF, Int8, UNIT};
use crate::kernels::matmul::WeightView;

/// Unpacked weight rows, and what comes of them; a buffer that each thread keeps.
#[derive(Debug, Default)]
pub struct Panel {
    /// `[tiles, groups, rows, group]` integers.
    weights: AlignedFloats,
    /// `[tiles, chunks, rows, groups]`, or as [`ChunkValues`] says.
    scales: AlignedFloats,
    /// `[tiles, chunks, rows, units]` likewise, of a format that has any.
    mins: AlignedFloats,
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
    let n_padded = padded(weight.n_cols / UNIT);
    let n_tiles = rows.len().div_ceil(R);
    panel.weights.resize(n_tiles * R * weight.n_cols / 4);
    panel
        .scales
        .resize(n_tiles * R * n_padded * F::GROUPS_PER_UNIT);
    let n_mins = if F::HAS_MINS { n_padded } else { 0 };
    panel.mins.resize(n_tiles * R * n_mins);
    let row_bytes = weight.bytes_per_row();
    assert!(rows.end * row_bytes <= weight.bytes.len());

    for index in 0..n_tiles * R {
        let (tile, r) = (index / R, index % R);
        let row = (rows.start + index).min(rows.end - 1);
        let bytes = &weight.bytes[row * row_bytes..(row + 1) * row_bytes];
        let unpacked = bytemuck::cast_slice_mut::<f32, u8>(&mut panel.weights);
        let part = |len: usize| tile * R * len..(tile + 1) * R * len;
        let tile = PanelTileMut {
            weights: &mut unpacked[part(weight.n_cols)],
            scales: &mut panel.scales[part(n_padded * F::GROUPS_PER_UNIT)],
            mins: &mut panel.mins[part(n_mins)],
        };
        unpack_row::<I, F, R>(isa, bytes, r, tile);
    }
}

/// `n_units`, and what completes a chunk.
#[inline(always)]
pub(in crate::kernels) fn padded(n_units: usize) -> usize {
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
    assert!(r < R && row.len() == n_units * UNIT / F::DTYPE.block_len() * F::DTYPE.block_bytes());
    let weights = tile.weights.as_mut_ptr();
    let scales = ChunkValues::new::<I>(R, CHUNK_UNITS * F::GROUPS_PER_UNIT);
    let mins = ChunkValues::new::<I>(R, CHUNK_UNITS);
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
        for i in 0..F::GROUPS_PER_UNIT {
            let values = isa.eight_values(chunk.groups[i]);
            scales.write(tile.scales, n_before, r, i * CHUNK_UNITS, values);
        }
        if F::HAS_MINS {
            let values = isa.eight_values(chunk.mins);
            mins.write(tile.mins, n_before, r, 0, values);
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

/// How a tile of a panel keeps the scales, or minimums, of a chunk: `[rows, groups]`, which stores
/// eight with one instruction, or `[groups, rows]`, which reads those of several rows with one.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct ChunkValues {
    len: usize,
    /// From a row's value to the next one's.
    pub(super) row_stride: usize,
    group_stride: usize,
}

impl ChunkValues {
    /// The way of an instruction set, for a tile of `n_rows` and chunks of `n_groups`.
    #[inline(always)]
    pub(in crate::kernels) fn new<I: Int8>(n_rows: usize, n_groups: usize) -> Self {
        let (row_stride, group_stride) = match I::SCALES_BY_GROUP {
            true => (1, n_rows),
            false => (n_groups, 1),
        };
        ChunkValues {
            len: n_rows * n_groups,
            row_stride,
            group_stride,
        }
    }

    /// Where the value of `row` and `group`, counted within its chunk, lies.
    #[inline(always)]
    pub(in crate::kernels) fn at(self, chunk: usize, row: usize, group: usize) -> usize {
        chunk * self.len + row * self.row_stride + group * self.group_stride
    }

    /// Writes those of a row's groups from `first` on.
    #[inline(always)]
    fn write(
        self,
        to: &mut [f32],
        chunk: usize,
        row: usize,
        first: usize,
        values: [f32; CHUNK_UNITS],
    ) {
        let to = &mut to[self.at(chunk, row, first)..];
        if self.group_stride == 1 {
            to[..CHUNK_UNITS].copy_from_slice(&values);
        } else {
            for (i, value) in values.into_iter().enumerate() {
                to[i * self.group_stride] = value;
            }
        }
    }
}

/// One tile of a panel, to be written to.
struct PanelTileMut<'a> {
    /// `[groups, R, group]`, [`place`] says in which order.
    weights: &'a mut [u8],
    /// [`ChunkValues`] of each chunk.
    scales: &'a mut [f32],
    /// Likewise.
    mins: &'a mut [f32],
}

/// One tile of a panel.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct PanelTile<'a> {
    /// `[groups, R, group]`, [`place`] says in which order.
    pub weights: &'a [u8],
    /// `[chunks, R, groups]`, or `[chunks, groups, R]` with [`Int8::SCALES_BY_GROUP`].
    pub scales: &'a [f32],
    /// `[chunks, R, units]` likewise, of a format that has any.
    pub mins: &'a [f32],
}

impl<'a> PanelTile<'a> {
    #[inline(always)]
    pub(super) fn new<F: Format, const R: usize>(
        panel: &'a Panel,
        index: usize,
        n_units: usize,
    ) -> Self {
        let part = |len: usize| index * len..(index + 1) * len;
        let weights: &[u8] = bytemuck::cast_slice(&panel.weights);
        PanelTile {
            weights: &weights[part(R * n_units * UNIT)],
            scales: &panel.scales[part(R * padded(n_units) * F::GROUPS_PER_UNIT)],
            mins: match F::HAS_MINS {
                true => &panel.mins[part(R * padded(n_units))],
                false => &[],
            },
        }
    }
}
