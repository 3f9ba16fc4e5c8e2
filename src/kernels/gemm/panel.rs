//! Weights unpacked for [`gemm`](super): in the order in which products read them.

use std::ops::Range;

use crate::kernels::aligned::AlignedFloats;
use crate::kernels::formats::Format;
use crate::kernels::gemm::grouped;
use crate::kernels::gemm::{Kind, regrouped};
use crate::kernels::int8::{Int8, UNIT};
use crate::kernels::matmul::WeightView;

/// Unpacked weight rows, and what comes of them; a buffer that each thread keeps.
#[derive(Debug, Default)]
pub struct Panel {
    /// `[tiles, groups, rows, group]` of [`weight_bytes`] each; where they are [regrouped], `[tiles,
    /// columns / together, rows, together]` for some number of columns together.
    pub(super) weights: AlignedFloats,
    /// `[tiles, chunks, groups, rows]`; `[tiles, blocks, rows]` where they are [regrouped].
    pub(super) scales: AlignedFloats,
    /// `[tiles, chunks, units, rows]`, negated, of a format that has any.
    pub(super) mins: AlignedFloats,
    /// `[tiles, rows, width]`: products with a tile of tokens.
    pub(super) products: AlignedFloats,
    /// Integer sums that go through memory, where registers of [whole tiles](super::tiled) make them.
    pub(super) sums: AlignedFloats,
}

/// Bits of unpacked weights that keep their groups. Those of coarse formats have one layout, grouped or
/// not.
#[inline(always)]
pub(super) const fn bits<F: Format>() -> u32 {
    if F::IS_COARSE { 8 } else { F::BITS }
}

/// Whether weights are [regrouped] where activations have a scale for each 128 columns.
#[inline(always)]
pub(super) const fn is_regrouped<I: Int8, F: Format>() -> bool {
    I::WHOLE_BYTES || bits::<F>() == 8
}

/// Bytes of an unpacked weight, [regrouped] or not.
#[inline(always)]
pub(super) const fn weight_bytes<I: Int8, F: Format>() -> usize {
    match is_regrouped::<I, F>() {
        true => I::BYTE_WEIGHT_BYTES,
        false => 1,
    }
}

/// Unpacks `rows` of the weights into tiles of `R` rows. A last tile that is not full repeats the
/// last row. Of [regrouped] rows, `together` columns lie side by side.
#[inline(always)]
pub(super) fn unpack<I: Int8, F: Format, const R: usize>(
    isa: I,
    weight: WeightView,
    rows: Range<usize>,
    kind: Kind,
    together: usize,
    panel: &mut Panel,
) {
    let n_units = weight.n_cols / UNIT;
    let n_tiles = rows.len().div_ceil(R);
    let row_bytes = weight.bytes_per_row();
    assert!(rows.end * row_bytes <= weight.bytes.len());
    let row = |index: usize| {
        let row = (rows.start + index).min(rows.end - 1);
        &weight.bytes[row * row_bytes..(row + 1) * row_bytes]
    };
    match kind {
        Kind::Regrouped => {
            regrouped::resize::<I, R>(panel, n_tiles, n_units);
            for index in 0..n_tiles * R {
                let place = (index / R, index % R);
                regrouped::unpack_row::<I, F, R>(isa, row(index), place, n_units, together, panel);
            }
        }
        Kind::Grouped | Kind::GroupedCoarse => {
            grouped::resize::<I, F, R>(panel, n_tiles, n_units);
            for index in 0..n_tiles * R {
                let place = (index / R, index % R);
                grouped::unpack_row::<I, F, R>(isa, row(index), place, n_units, panel);
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
    place_together(I::PANEL_COLUMNS.min(len), n_rows, row, column)
}

/// [`place`] for any number of columns `together`: `[columns / together, n_rows, together]`.
#[inline(always)]
pub(super) fn place_together(together: usize, n_rows: usize, row: usize, column: usize) -> usize {
    (column / together * n_rows + row) * together + column % together
}
