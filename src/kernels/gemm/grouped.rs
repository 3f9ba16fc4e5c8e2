//! Products with weights that keep the groups of their format.
//!
//! If columns are not rotated, activations have a scale for each 32 columns, and all weights are
//! multiplied here: after each group, sums become floats and get both scales. If columns are rotated,
//! activations have a scale for each 128 columns, and 4- and 6-bit weights are multiplied here where
//! products of whole bytes take longer. Then sums stay in units of the token's scale until the next
//! block begins.
#![allow(unsafe_code)]

use crate::kernels::activations::{COARSE_UNITS, PackedTokens, ScaleSpan};
use crate::kernels::formats::{Format, prefetch_ahead};
use crate::kernels::gemm::panel::{Panel, bits, place, weight_bytes};
use crate::kernels::gemm::write_products;
use crate::kernels::int8::{CHUNK_UNITS, Group, HALF, Int8, UNIT};

/// `n_units`, and what completes a chunk.
#[inline(always)]
fn padded(n_units: usize) -> usize {
    n_units.next_multiple_of(CHUNK_UNITS)
}

/// Where, in a tile of `n_rows`, the values of group `group` of a chunk of `n_groups` begin, one for each
/// row: side by side, as a product reads them.
#[inline(always)]
fn chunk_value(n_rows: usize, n_groups: usize, chunk: usize, group: usize) -> usize {
    (chunk * n_groups + group) * n_rows
}

/// Makes room for `n_tiles` tiles.
#[inline(always)]
pub(super) fn resize<I: Int8, F: Format, const R: usize>(
    panel: &mut Panel,
    n_tiles: usize,
    n_units: usize,
) {
    let n_bytes = n_tiles * R * n_units * UNIT * weight_bytes::<I, F>();
    panel.weights.resize(n_bytes / size_of::<f32>());
    let n_values = n_tiles * R * padded(n_units);
    panel.scales.resize(n_values * F::GROUPS_PER_UNIT);
    panel.mins.resize(if F::HAS_MINS { n_values } else { 0 });
}

/// Unpacks a row of `n_units` to row `r` of tile `tile` of a panel.
#[inline(always)]
pub(super) fn unpack_row<I: Int8, F: Format, const R: usize>(
    isa: I,
    row: &[u8],
    (tile, r): (usize, usize),
    n_units: usize,
    panel: &mut Panel,
) {
    assert!(r < R && row.len() * F::DTYPE.block_len() == n_units * UNIT * F::DTYPE.block_bytes());
    let n_padded = padded(n_units);
    let part = |len: usize| tile * R * len..(tile + 1) * R * len;
    let weights = bytemuck::cast_slice_mut::<f32, u8>(&mut panel.weights);
    let weights = &mut weights[part(n_units * UNIT * weight_bytes::<I, F>())];
    let scales = &mut panel.scales[part(n_padded * F::GROUPS_PER_UNIT)];
    let mins = match F::HAS_MINS {
        true => &mut panel.mins[part(n_padded)],
        false => &mut [],
    };
    let weights = weights.as_mut_ptr();
    // Where half `half` of the row's columns, counted in halves of units, goes.
    let half_at = |half: usize| {
        let group = half * HALF / F::GROUP;
        let within = half * HALF % F::GROUP;
        let at = group * R * F::GROUP + place::<I>(F::GROUP, R, r, within);
        weights.wrapping_add(at * weight_bytes::<I, F>())
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
                scales[chunk_value(R, groups_per_chunk, n_before, group) + r] = scale;
            }
        }
        if F::HAS_MINS {
            let negated = isa.mul_eight(chunk.mins, isa.splat_eight(-1.0));
            for (unit, min) in isa.eight_values(negated).into_iter().enumerate() {
                mins[chunk_value(R, CHUNK_UNITS, n_before, unit) + r] = min;
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
                let apart = R * I::PANEL_COLUMNS * weight_bytes::<I, F>();
                if bits::<F>() == 8 {
                    isa.store_byte_weights(halves.map(half_at), apart, integers);
                } else {
                    isa.store_halves(halves.map(half_at), apart, integers);
                }
            }
        }
    }
}

/// Some rows of a panel: a tile.
#[derive(Clone, Copy)]
pub(super) struct GroupedRows<'a> {
    /// `[groups, R, group]` of [`weight_bytes`] each, [`place`] says in which order.
    weights: &'a [u8],
    /// `[chunks, groups, R]`.
    scales: &'a [f32],
    /// `[chunks, units, R]`, negated, of a format that has any.
    mins: &'a [f32],
}

impl<'a> GroupedRows<'a> {
    #[inline(always)]
    pub(super) fn new<I: Int8, F: Format, const R: usize>(
        panel: &'a Panel,
        index: usize,
        n_units: usize,
    ) -> Self {
        let part = |len: usize| index * R * len..(index + 1) * R * len;
        let weights: &[u8] = bytemuck::cast_slice(&panel.weights);
        GroupedRows {
            weights: &weights[part(n_units * UNIT * weight_bytes::<I, F>())],
            scales: &panel.scales[part(padded(n_units) * F::GROUPS_PER_UNIT)],
            mins: match F::HAS_MINS {
                true => &panel.mins[part(padded(n_units))],
                false => &[],
            },
        }
    }

    /// The products of `R` rows with `V` registers of tokens from lane `first_lane` of a record on,
    /// over all columns, to those lanes of `products`, `[R, width]`. `COARSE` tokens have a scale for
    /// each [`COARSE_UNITS`], others one for each unit.
    #[inline(always)]
    pub(super) fn dot<I: Int8, F: Format, const R: usize, const V: usize, const COARSE: bool>(
        self,
        isa: I,
        tokens: PackedTokens,
        first_lane: usize,
        biases: [f32; R],
        products: &mut [f32],
    ) {
        let width = I::TILE_VECTORS * I::LANES;
        let unit_bytes = R * UNIT * weight_bytes::<I, F>();
        let n_units = self.weights.len() / unit_bytes;
        let n_padded = padded(n_units);
        assert!(R == I::TILE_ROWS);
        assert!(self.weights.len() == n_units * unit_bytes && n_units > 0);
        assert!(self.scales.len() == R * n_padded * F::GROUPS_PER_UNIT);
        assert!(!F::HAS_MINS || self.mins.len() == R * n_padded);
        assert!(first_lane + V * I::LANES <= width);
        assert!(tokens.quants.len() == n_units * UNIT * width);
        assert!(tokens.scales.len() == n_units * width && tokens.sums.len() == 2 * n_units * width);
        assert!(tokens.unit_sums.len() == n_units * width);

        let operands = Operands {
            rows: self,
            tokens,
            first_lane,
        };
        assert!(
            tokens.span
                == if COARSE {
                    ScaleSpan::Coarse
                } else {
                    ScaleSpan::Unit
                }
        );
        let totals = if COARSE {
            assert!(tokens.ratios.len() == n_units.div_ceil(COARSE_UNITS) * width);
            // SAFETY: all lengths were just checked.
            unsafe { operands.dot_coarse::<I, F, R, V>(isa, n_units) }
        } else {
            let mut totals = [[isa.splat_f32(0.0); V]; R];
            for unit in 0..n_units {
                // SAFETY: all lengths were just checked.
                totals = unsafe { operands.add_unit::<I, F, R, V, true>(isa, unit, totals) };
            }
            totals
        };
        let totals = isa.by_rows(totals);
        write_products(isa, totals, first_lane, biases, products, width);
    }
}

/// The operands of [`GroupedRows::dot`], whose lengths it has checked.
struct Operands<'a> {
    rows: GroupedRows<'a>,
    tokens: PackedTokens<'a>,
    first_lane: usize,
}

impl Operands<'_> {
    /// All products, with activations that have a scale for each [`COARSE_UNITS`].
    ///
    /// # Safety
    /// There must be `n_units` of everything, `R` rows, and lanes for `V` registers.
    #[inline(always)]
    unsafe fn dot_coarse<I: Int8, F: Format, const R: usize, const V: usize>(
        &self,
        isa: I,
        n_units: usize,
    ) -> [[I::F32; V]; R] {
        // In units of the scales of the block at hand: at a new block, all are multiplied with a
        // ratio.
        let mut totals = [[isa.splat_f32(0.0); V]; R];
        let n_in_full = n_units - n_units % COARSE_UNITS;
        // SAFETY: the blocks and units are below `n_units`.
        unsafe {
            for first in (0..n_in_full).step_by(COARSE_UNITS) {
                totals = self.begin_block(isa, first, totals);
                for unit in first..first + COARSE_UNITS {
                    totals = self.add_unit::<I, F, R, V, false>(isa, unit, totals);
                }
            }
            if n_in_full < n_units {
                totals = self.begin_block(isa, n_in_full, totals);
                for unit in n_in_full..n_units {
                    totals = self.add_unit::<I, F, R, V, false>(isa, unit, totals);
                }
            }
            for v in 0..V {
                let scales = self.load_lanes(isa, self.tokens.scales, n_units - 1, v);
                for (r, totals) in totals.iter_mut().enumerate() {
                    totals[v] = isa.mul(totals[v], isa.token_values(r, scales));
                }
            }
        }
        totals
    }

    /// Register `v` of the tokens' values `[n, width]` at row `index`.
    ///
    /// # Safety
    /// There must be such a row, and lanes for the register.
    #[inline(always)]
    unsafe fn load_lanes<I: Int8>(&self, isa: I, values: &[f32], index: usize, v: usize) -> I::F32 {
        let width = I::TILE_VECTORS * I::LANES;
        let at = index * width + self.first_lane + v * I::LANES;
        // SAFETY: the caller vouches for the row and the lanes.
        unsafe { isa.load_f32(values.as_ptr().add(at)) }
    }

    /// Brings sums to the scales of the block that begins with unit `first`.
    ///
    /// # Safety
    /// There must be such a block, and lanes for `V` registers.
    #[inline(always)]
    unsafe fn begin_block<I: Int8, const R: usize, const V: usize>(
        &self,
        isa: I,
        first: usize,
        mut totals: [[I::F32; V]; R],
    ) -> [[I::F32; V]; R] {
        for v in 0..V {
            // SAFETY: the caller vouches for the block and the lanes.
            let ratios =
                unsafe { self.load_lanes(isa, self.tokens.ratios, first / COARSE_UNITS, v) };
            for (r, totals) in totals.iter_mut().enumerate() {
                totals[v] = isa.mul(totals[v], isa.token_values(r, ratios));
            }
        }
        totals
    }

    /// Adds the products of a unit to `totals`, with `SCALED` times the tokens' scales.
    ///
    /// # Safety
    /// There must be the unit, `R` rows, and lanes for `V` registers.
    #[allow(
        clippy::needless_range_loop,
        reason = "constant bounds keep the sums in registers"
    )]
    #[inline(always)]
    unsafe fn add_unit<I: Int8, F: Format, const R: usize, const V: usize, const SCALED: bool>(
        &self,
        isa: I,
        unit: usize,
        mut totals: [[I::F32; V]; R],
    ) -> [[I::F32; V]; R] {
        let Operands {
            rows,
            tokens,
            first_lane,
        } = self;
        let width = I::TILE_VECTORS * I::LANES;
        let kind = Group {
            len: F::GROUP,
            bits: bits::<F>(),
        };
        // SAFETY: the caller vouches for the unit, hence its groups, the rows and the lanes.
        unsafe {
            let mut token_scales = [isa.splat_f32(1.0); V];
            if SCALED {
                for (v, scales) in token_scales.iter_mut().enumerate() {
                    *scales = self.load_lanes(isa, tokens.scales, unit, v);
                }
            }
            for g in 0..F::GROUPS_PER_UNIT {
                let group = unit * F::GROUPS_PER_UNIT + g;
                let quants = group * F::GROUP * width + I::COLUMNS * first_lane;
                let weights = group * R * F::GROUP * weight_bytes::<I, F>();
                let sums = isa.dot_group::<R, V>(
                    kind,
                    rows.weights.as_ptr().add(weights),
                    tokens.quants.as_ptr().add(quants),
                    I::COLUMNS * width,
                    self.start::<I, F, R, V>(isa, unit, g),
                );
                let groups_per_chunk = CHUNK_UNITS * F::GROUPS_PER_UNIT;
                let at = chunk_value(
                    R,
                    groups_per_chunk,
                    unit / CHUNK_UNITS,
                    group % groups_per_chunk,
                );
                for r in 0..R {
                    let scale = isa.row_value(rows.scales.as_ptr().add(at), r);
                    for v in 0..V {
                        let mut sum = match I::UNSIGNED_WEIGHTS {
                            true => isa.to_f32(sums[r][v]),
                            false => isa.sum_to_f32(sums[r][v]),
                        };
                        if SCALED {
                            sum = isa.mul(sum, isa.token_values(r, token_scales[v]));
                        }
                        totals[r][v] = isa.mul_add(sum, scale, totals[r][v]);
                    }
                }
            }
            if F::HAS_MINS {
                let at = chunk_value(R, CHUNK_UNITS, unit / CHUNK_UNITS, unit % CHUNK_UNITS);
                for v in 0..V {
                    let mut sum = self.load_lanes(isa, tokens.unit_sums, unit, v);
                    if SCALED {
                        sum = isa.mul(sum, token_scales[v]);
                    }
                    for r in 0..R {
                        let min = isa.row_value(rows.mins.as_ptr().add(at), r);
                        totals[r][v] = isa.mul_add(min, isa.token_values(r, sum), totals[r][v]);
                    }
                }
            }
        }
        totals
    }

    /// What the integer sums of a unit's group `group` begin with: where weights are unsigned, what
    /// their products with the tokens will exceed those of the true weights by, negated.
    ///
    /// # Safety
    /// As [`Operands::add_unit`].
    #[inline(always)]
    unsafe fn start<I: Int8, F: Format, const R: usize, const V: usize>(
        &self,
        isa: I,
        unit: usize,
        group: usize,
    ) -> [[I::I32; V]; R] {
        if !I::UNSIGNED_WEIGHTS {
            return isa.zero_sums();
        }
        let mut of_tokens = [isa.zero_i32(); V];
        if F::OFFSET == 0 {
            return [of_tokens; R];
        }
        let width = I::TILE_VECTORS * I::LANES;
        for (v, of_token) in of_tokens.iter_mut().enumerate() {
            let at = (2 * unit + group) * width + self.first_lane + v * I::LANES;
            // SAFETY: the caller vouches for the unit and the lanes. There are sums of each 16
            // columns, so those of the unit's second half are `width` further on.
            let sum = unsafe {
                let sums = self.tokens.sums.as_ptr().add(at);
                match F::GROUP {
                    UNIT => isa.add_i32(isa.load_i32(sums), isa.load_i32(sums.add(width))),
                    _ => isa.load_i32(sums),
                }
            };
            *of_token = isa.shift_left(sum, F::OFFSET.trailing_zeros());
        }
        [of_tokens; R]
    }
}
