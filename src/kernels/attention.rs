//! Softmax attention of one head, block by block of keys, without ever holding all scores.
//!
//! Queries walk the keys in blocks, each keeping a running maximum and sum (the online softmax),
//! so memory does not grow with the number of keys.
//!
//! The queries of a prompt are a matrix product twice over: registers hold the same column of
//! neighbouring queries, and keys and values are broadcast from a contiguous copy of their block.
//! Those of an answer are taken row by row instead.
//!
//! With a causal mask, a query's operations do not depend on later positions, nor on where a
//! sequence is cut into passes. Blocks of keys and groups of queries begin at fixed positions;
//! lanes of absent queries are computed for nothing; and where the scale of a block's values is
//! shared by all of its keys, as it is in integers, every position of the group sees all of them.

use pulp::{Simd, WithSimd};

use crate::kernels::aligned::AlignedFloats;
use crate::kernels::attention::scores::Quantized;
use crate::kernels::attention::values::Packed;
use crate::kernels::int8::UNIT;
use crate::kernels::role::RowRole;
use crate::kernels::tiles::Tile;
use crate::kernels::{Isa, float};

mod operands;
mod rows;
pub mod scores;
#[cfg(test)]
mod tests;
pub mod values;

pub use operands::{HeadRows, Stored};

/// Queries that a thread takes at a time, about.
pub const TILE_QUERIES: usize = 512;
/// The most queries that a thread takes at a time.
const MAX_TILE_QUERIES: usize = TILE_QUERIES / 2 * 3;
/// Floats of a block of keys or values, about half of a first-level cache.
const BLOCK_FLOATS: usize = 8192;
/// The most keys of a block.
const MAX_BLOCK_KEYS: usize = 64;
/// Keys, or columns of values, that are multiplied together.
const ROWS_AT_ONCE: usize = 8;
/// A multiple of [`ROWS_AT_ONCE`] and of every [`Int8::TILE_ROWS`](super::int8::Int8::TILE_ROWS).
const KEY_GROUPS: usize = 24;
/// Registers of queries side by side.
const QUERY_VECTORS: usize = 2;
/// The most lanes of a register.
const MAX_LANES: usize = 16;
/// The most lanes of a group.
const MAX_GROUP: usize = QUERY_VECTORS * MAX_LANES;
/// 0, 1, 2, ...
const LANE_NUMBERS: [f32; MAX_GROUP] = {
    let mut numbers = [0.0; MAX_GROUP];
    let mut lane = 0;
    while lane < MAX_GROUP {
        numbers[lane] = lane as f32;
        lane += 1;
    }
    numbers
};

/// Queries of a tile where there are `n` of each of `n_heads`: tiles of [`TILE_QUERIES`] about, all
/// but the last of the same size. Each tile copies all keys and values, so a short one would cost as
/// much. They are half as long where the threads would otherwise not end together.
pub fn tile_queries(n: usize, n_heads: usize, n_threads: usize) -> usize {
    /// Pieces of work for each thread.
    const PIECES: usize = 8;

    let n_tiles = |about: usize| ((n + about / 2) / about).max(1);
    let n_tiles = match n_tiles(TILE_QUERIES) {
        few if few * n_heads < PIECES * n_threads => n_tiles(TILE_QUERIES / 2),
        enough => enough,
    };
    n.div_ceil(n_tiles).next_multiple_of(MAX_GROUP)
}

/// The inputs of one head's attention.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Queries, `head_dim` values each.
    pub queries: HeadRows<'a>,
    /// Keys.
    pub keys: Stored<'a>,
    /// Values.
    pub values: Stored<'a>,
    /// Keys and values there are.
    pub n_keys: usize,
    /// With `Some(start)`, query `i` sees the keys up to and including `start + i`; with `None`
    /// every query sees all.
    pub causal_start: Option<usize>,
    /// What the queries are for, which decides how they are computed.
    pub role: RowRole,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
    /// Whether the queries of a prompt have their scores computed in 8-bit integers where `head_dim`
    /// allows it, and values multiplied as 16-bit integers where that is faster too.
    pub in_integers: bool,
}

impl Head<'_> {
    /// Keys that query `query` sees.
    #[inline(always)]
    fn n_visible(&self, query: usize) -> usize {
        match self.causal_start {
            Some(start) => (start + query + 1).min(self.n_keys),
            None => self.n_keys,
        }
    }

    /// The position of query `query` in the sequence that its group is counted in.
    fn position(&self, query: usize) -> usize {
        self.causal_start.unwrap_or(0) + query
    }

    /// The keys that all positions from `position` on see.
    fn n_visible_from(&self, position: usize) -> usize {
        match self.causal_start {
            Some(_) => (position + 1).min(self.n_keys),
            None => self.n_keys,
        }
    }
}

/// Which keys of a block are hidden from which lanes of a group: with a causal mask, the first lanes
/// are blind to the last keys.
#[derive(Clone, Copy)]
struct Mask {
    /// Keys before the first that is hidden from any lane.
    n_seen_by_all: usize,
    /// Lanes that are blind to that key; to each later one, one lane more is.
    n_blind: usize,
}

impl Mask {
    /// For `n_keys` from `first_key` on, and a group that begins at `position`.
    #[inline(always)]
    fn new(head: &Head, position: usize, first_key: usize, n_keys: usize) -> Self {
        let n_seen_by_all = head.n_visible_from(position).saturating_sub(first_key);
        let n_seen_by_all = n_seen_by_all.min(n_keys);
        Mask {
            n_seen_by_all,
            n_blind: (first_key + n_seen_by_all).saturating_sub(position),
        }
    }

    /// Puts the hidden ones of `scores: [keys, group]` to minus infinity.
    #[inline(always)]
    fn hide(self, group: usize, scores: &mut [f32]) {
        let later = scores.chunks_exact_mut(group).skip(self.n_seen_by_all);
        for (i, row) in later.enumerate() {
            row[..(self.n_blind + i).min(group)].fill(f32::NEG_INFINITY);
        }
    }
}

/// Buffers that each thread keeps.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// `[block, head_dim]`.
    keys: AlignedFloats,
    /// `[block, head_dim]`.
    values: AlignedFloats,
    /// `[groups of queries, head_dim, group]`.
    queries: AlignedFloats,
    /// Queries and keys, where scores are computed in integers.
    quantized: Quantized,
    /// Values and weights, where they are multiplied as integers.
    packed: Packed,
    /// `[block, group]`: scores, then weights.
    weights: AlignedFloats,
    /// `[groups of queries, head_dim, group]`.
    out: AlignedFloats,
    /// `[queries]`: the largest score so far.
    max: AlignedFloats,
    /// `[queries]`: the sum of the weights so far.
    sum: AlignedFloats,
    /// `[group]`: what has been summed has to be multiplied with this.
    shrink: AlignedFloats,
}

/// Computes `softmax(q k^T * scale) v` for the queries of `tile`, whose rows are query indices, at
/// most those of [`tile_queries`], and whose columns are this head's part of the output.
pub fn attend(isa: Isa, head: Head, tile: &mut Tile, scratch: &mut AttentionScratch) {
    assert!(tile.rows().len() <= MAX_TILE_QUERIES);
    let head_dim = tile.cols().len();
    let block = (BLOCK_FLOATS / head_dim).clamp(1, MAX_BLOCK_KEYS);
    match head.role {
        RowRole::Answer => rows::attend(isa, head, block, tile, &mut scratch.keys),
        RowRole::Prompt => {
            // Whole groups of keys are computed; those that are not there are left out afterwards.
            let padded_block = block.next_multiple_of(KEY_GROUPS);
            scratch.keys.resize(padded_block * head_dim);
            scratch.values.resize(block * head_dim);
            isa.run(AttendBatch {
                isa,
                head,
                block,
                tile,
                scratch,
            });
        }
    }
}

/// Queries in groups of as many as [`QUERY_VECTORS`] registers hold. A group begins at a multiple of
/// its width in the sequence, so of the first one there may be only the last queries.
struct AttendBatch<'a, 'b, 'c> {
    isa: Isa,
    head: Head<'a>,
    block: usize,
    tile: &'b mut Tile<'c>,
    scratch: &'b mut AttentionScratch,
}

impl WithSimd for AttendBatch<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let AttendBatch {
            isa,
            head,
            block,
            tile,
            scratch,
        } = self;
        let head_dim = tile.cols().len();
        let group = QUERY_VECTORS * S::F32_LANES;
        let rows = tile.rows();
        // Lanes of the first group whose queries belong to an earlier pass or tile.
        let n_before = head.position(rows.start) % group;
        let n_groups = (n_before + rows.len()).div_ceil(group);
        let first_position = head.position(rows.start) - n_before;
        // Without vector instructions a group is too narrow to hold a tile; floats do as well there.
        let tile_width = scores::tile_width(isa);
        let in_integers =
            head.in_integers && head_dim.is_multiple_of(UNIT) && group.is_multiple_of(tile_width);
        let i16_values = in_integers && values::pays(isa);
        if in_integers {
            let queries = rows.clone().map(|query| head.queries.row(query, head_dim));
            scratch
                .quantized
                .load_queries(isa, head_dim, head.scale, n_before, queries);
        } else {
            load_queries(&head, rows.clone(), n_before, head_dim, group, scratch);
        }
        scratch.out.resize(n_groups * head_dim * group);
        scratch.out.fill(0.0);
        scratch.max.resize(n_groups * group);
        scratch.max.fill(f32::NEG_INFINITY);
        scratch.sum.resize(n_groups * group);
        scratch.sum.fill(0.0);
        scratch.shrink.resize(group);
        scratch
            .weights
            .resize(block.next_multiple_of(KEY_GROUPS) * group);

        let most_visible = head.n_visible(rows.end - 1);
        for first in (0..most_visible).step_by(block) {
            let n_keys = block.min(most_visible - first);
            let keys = &mut scratch.keys[..n_keys * head_dim];
            head.keys.copy_to(isa, first, head_dim, keys);
            if in_integers {
                scratch.quantized.load_keys(isa, head_dim, keys);
            }
            let values = &mut scratch.values[..n_keys * head_dim];
            head.values.copy_to(isa, first, head_dim, values);
            // Whether a group that begins at a position sees all of the block, wherever keys end.
            let sees_all = |position| first + block <= head.n_visible_from(position);
            let last_position = first_position + (n_groups - 1) * group;
            let in_i16 =
                |position| i16_values && (head.causal_start.is_none() || sees_all(position));
            if in_i16(last_position) {
                scratch.packed.load(isa, head_dim, values);
            }
            for index in 0..n_groups {
                let group_position = first_position + index * group;
                let last_query = rows.end.min(rows.start + (index + 1) * group - n_before) - 1;
                let n_keys = n_keys.min(head.n_visible(last_query).saturating_sub(first));
                if n_keys == 0 {
                    continue;
                }
                let in_i16 = in_i16(group_position);
                let mask = Mask::new(&head, group_position, first, n_keys);
                let part = index * head_dim * group..(index + 1) * head_dim * group;
                let lanes = index * group..(index + 1) * group;
                if in_integers {
                    // Tiles of absent queries at the end are not loaded, and their lanes not read.
                    let n_tiles = (n_before + rows.len()).div_ceil(tile_width);
                    let n_tiles = (n_tiles - index * (group / tile_width)).min(group / tile_width);
                    for tile in 0..n_tiles {
                        let scores = &mut scratch.weights[tile * tile_width..];
                        let tile = index * (group / tile_width) + tile;
                        scratch
                            .quantized
                            .score(isa, head_dim, n_keys, tile, scores, group);
                    }
                } else {
                    let queries = &scratch.queries[part.clone()];
                    score::<S>(simd, &scratch.keys, queries, n_keys, &mut scratch.weights);
                }
                let weights = &mut scratch.weights[..n_keys * group];
                mask.hide(group, weights);
                weigh(
                    simd,
                    weights,
                    &mut scratch.max[lanes.clone()],
                    &mut scratch.sum[lanes],
                    &mut scratch.shrink,
                );
                let out = &mut scratch.out[part];
                if in_i16 {
                    scratch.packed.add(isa, weights, &scratch.shrink, out);
                } else {
                    add_values::<S>(simd, weights, mask, &scratch.values, &scratch.shrink, out);
                }
            }
        }
        for query in rows.clone() {
            let place = n_before + query - rows.start;
            let (index, lane) = (place / group, place % group);
            let inverse = 1.0 / scratch.sum[index * group + lane];
            let out = &scratch.out[index * head_dim * group..];
            for (column, y) in tile.row_mut(query).iter_mut().enumerate() {
                *y = out[column * group + lane] * inverse;
            }
        }
    }
}

/// Copies the queries, scaled, so that the same column of a group lies side by side; the first
/// `n_before` lanes stay zero.
#[inline(always)]
fn load_queries(
    head: &Head,
    rows: std::ops::Range<usize>,
    n_before: usize,
    head_dim: usize,
    group: usize,
    scratch: &mut AttentionScratch,
) {
    let n_groups = (n_before + rows.len()).div_ceil(group);
    scratch.queries.resize(n_groups * head_dim * group);
    scratch.queries.fill(0.0);
    for (i, query) in rows.enumerate() {
        let i = n_before + i;
        let start = i / group * head_dim * group + i % group;
        for (column, value) in head.queries.row(query, head_dim).iter().enumerate() {
            scratch.queries[start + column * group] = value * head.scale;
        }
    }
}

/// `weights[key][query] = keys[key] . queries[query]`, for `n_keys` rounded up to whole groups.
#[inline(always)]
fn score<S: Simd>(simd: S, keys: &[f32], queries: &[f32], n_keys: usize, weights: &mut [f32]) {
    let group = QUERY_VECTORS * S::F32_LANES;
    let head_dim = queries.len() / group;
    let queries = S::as_simd_f32s(queries).0.as_chunks::<QUERY_VECTORS>().0;
    let queries = &queries[..head_dim];
    for first in (0..n_keys).step_by(ROWS_AT_ONCE) {
        let rows: [&[f32]; ROWS_AT_ONCE] = std::array::from_fn(|r| {
            let start = (first + r) * head_dim;
            &keys[start..start + head_dim]
        });
        let mut sums = [[simd.splat_f32s(0.0); QUERY_VECTORS]; ROWS_AT_ONCE];
        for column in 0..head_dim {
            let q = queries[column];
            for r in 0..ROWS_AT_ONCE {
                let key = simd.splat_f32s(rows[r][column]);
                for v in 0..QUERY_VECTORS {
                    sums[r][v] = simd.mul_add_e_f32s(key, q[v], sums[r][v]);
                }
            }
        }
        let out = &mut weights[first * group..(first + ROWS_AT_ONCE) * group];
        let out = S::as_mut_simd_f32s(out)
            .0
            .as_chunks_mut::<QUERY_VECTORS>()
            .0;
        for (out, sums) in out.iter_mut().zip(sums) {
            *out = sums;
        }
    }
}

/// Turns scores `[keys, group]` into weights relative to the new maximum of each query. Each has
/// seen a key by then: all see the first.
#[inline(always)]
fn weigh<S: Simd>(
    simd: S,
    weights: &mut [f32],
    max: &mut [f32],
    sum: &mut [f32],
    shrink: &mut [f32],
) {
    let rows = S::as_mut_simd_f32s(weights).0;
    let rows = rows.as_chunks_mut::<QUERY_VECTORS>().0;
    let max = S::as_mut_simd_f32s(max).0;
    let sum = S::as_mut_simd_f32s(sum).0;
    let shrink = S::as_mut_simd_f32s(shrink).0;
    for v in 0..QUERY_VECTORS {
        let mut largest = max[v];
        for row in rows.iter() {
            largest = simd.max_f32s(row[v], largest);
        }
        shrink[v] = float::exp_nonpositive(simd, simd.sub_f32s(max[v], largest));
        max[v] = largest;
        let mut total = simd.mul_f32s(sum[v], shrink[v]);
        for row in rows.iter_mut() {
            row[v] = float::exp_nonpositive(simd, simd.sub_f32s(row[v], largest));
            total = simd.add_f32s(total, row[v]);
        }
        sum[v] = total;
    }
}

/// `out[column][query] = out[column][query] * shrink[query] + sum of weights[key][query] *
/// values[key][column]`, without the keys that `mask` hides from a query.
#[inline(always)]
fn add_values<S: Simd>(
    simd: S,
    weights: &[f32],
    mask: Mask,
    values: &[f32],
    shrink: &[f32],
    out: &mut [f32],
) {
    let group = QUERY_VECTORS * S::F32_LANES;
    let head_dim = out.len() / group;
    let weights = S::as_simd_f32s(weights).0.as_chunks::<QUERY_VECTORS>().0;
    let shrink = S::as_simd_f32s(shrink).0.as_chunks::<QUERY_VECTORS>().0[0];
    let out = S::as_mut_simd_f32s(out)
        .0
        .as_chunks_mut::<QUERY_VECTORS>()
        .0;
    let in_full = head_dim - head_dim % ROWS_AT_ONCE;
    for first in (0..in_full).step_by(ROWS_AT_ONCE) {
        let out = out[first..].first_chunk_mut::<ROWS_AT_ONCE>();
        let out = out.expect("there are as many columns");
        add_columns(simd, weights, mask, values, head_dim, first, shrink, out);
    }
    for (first, out) in out.iter_mut().enumerate().skip(in_full) {
        let out = std::array::from_mut(out);
        add_columns(simd, weights, mask, values, head_dim, first, shrink, out);
    }
}

/// [`add_values`] for `R` columns from `first` on.
#[allow(
    clippy::too_many_arguments,
    reason = "of one caller, which the loop below is part of"
)]
#[inline(always)]
fn add_columns<S: Simd, const R: usize>(
    simd: S,
    weights: &[[S::f32s; QUERY_VECTORS]],
    mask: Mask,
    values: &[f32],
    head_dim: usize,
    first: usize,
    shrink: [S::f32s; QUERY_VECTORS],
    out: &mut [[S::f32s; QUERY_VECTORS]; R],
) {
    let mut sums = *out;
    for sums in &mut sums {
        for v in 0..QUERY_VECTORS {
            sums[v] = simd.mul_f32s(sums[v], shrink[v]);
        }
    }
    let (seen_by_all, later) = weights.split_at(mask.n_seen_by_all);
    let mut values = values.chunks_exact(head_dim);
    for (weights, values) in seen_by_all.iter().zip(&mut values) {
        let values: &[f32] = &values[first..first + R];
        for r in 0..R {
            let value = simd.splat_f32s(values[r]);
            for v in 0..QUERY_VECTORS {
                sums[r][v] = simd.mul_add_e_f32s(value, weights[v], sums[r][v]);
            }
        }
    }
    // A weight of zero is not enough: its product with an infinite value would be NaN, and with
    // any other could turn a negative zero into a positive one.
    for (i, (weights, values)) in later.iter().zip(values).enumerate() {
        let values: &[f32] = &values[first..first + R];
        let last_blind = simd.splat_f32s((mask.n_blind + i) as f32 - 1.0);
        for v in 0..QUERY_VECTORS {
            // Not a lane of the first register sees a key that is late enough.
            if mask.n_blind + i >= (v + 1) * S::F32_LANES {
                continue;
            }
            let sees = simd.less_than_f32s(last_blind, lane_numbers(simd, v));
            for r in 0..R {
                let value = simd.splat_f32s(values[r]);
                let sum = simd.mul_add_e_f32s(value, weights[v], sums[r][v]);
                sums[r][v] = simd.select_f32s(sees, sum, sums[r][v]);
            }
        }
    }
    *out = sums;
}

/// The numbers of register `vector`'s lanes in a group.
#[inline(always)]
fn lane_numbers<S: Simd>(simd: S, vector: usize) -> S::f32s {
    let first = vector * S::F32_LANES;
    simd.partial_load_f32s(&LANE_NUMBERS[first..first + S::F32_LANES])
}
