//! Softmax attention of one head, tile by tile, without ever holding all scores.
//!
//! Queries of a tile walk the keys in blocks, keeping a running maximum and sum for each query
//! (the online softmax), so memory does not grow with the number of keys. Block borders are fixed
//! key positions, so a query's result does not depend on which other queries share its tile.

use pulp::{Simd, WithSimd};

use crate::kernels::tiles::Tile;
use crate::kernels::{Isa, float};

/// Queries of one tile.
pub const TILE_QUERIES: usize = 16;
/// Keys whose scores are held at a time.
const KEY_BLOCK: usize = 64;
/// Keys whose scores are computed together.
const KEYS_AT_ONCE: usize = 4;

/// One head's rows in a larger matrix: row `i` starts at `offset + i * stride`.
#[derive(Clone, Copy, Debug)]
pub struct HeadRows<'a> {
    /// The matrix.
    pub data: &'a [f32],
    /// Where the head's first row starts.
    pub offset: usize,
    /// Distance of one row to the next.
    pub stride: usize,
}

impl<'a> HeadRows<'a> {
    #[inline(always)]
    fn row(&self, index: usize, head_dim: usize) -> &'a [f32] {
        let start = self.offset + index * self.stride;
        &self.data[start..start + head_dim]
    }
}

/// The inputs of one head's attention.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Queries, `head_dim` values each.
    pub queries: HeadRows<'a>,
    /// Keys.
    pub keys: HeadRows<'a>,
    /// Values.
    pub values: HeadRows<'a>,
    /// Keys and values there are.
    pub n_keys: usize,
    /// With `Some(start)`, query `i` sees the keys up to and including `start + i`; with `None`
    /// every query sees all.
    pub causal_start: Option<usize>,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
}

/// Computes `softmax(q k^T * scale) v` for the queries of `tile`, whose rows are query indices
/// and whose columns are this head's part of the output.
pub fn attend(isa: Isa, head: Head, tile: &mut Tile) {
    assert!(tile.rows().len() <= TILE_QUERIES);
    isa.run(AttendTile { head, tile });
}

struct AttendTile<'a, 'b, 'c> {
    head: Head<'a>,
    tile: &'b mut Tile<'c>,
}

/// Running softmax of one query.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

impl WithSimd for AttendTile<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let AttendTile { head, tile } = self;
        let head_dim = tile.cols().len();
        let n_visible = |query: usize| match head.causal_start {
            Some(start) => (start + query + 1).min(head.n_keys),
            None => head.n_keys,
        };
        let queries = tile.rows();
        let mut running = [Running {
            max: f32::NEG_INFINITY,
            sum: 0.0,
        }; TILE_QUERIES];
        for query in queries.clone() {
            tile.row_mut(query).fill(0.0);
        }

        let most_visible = queries.clone().last().map_or(0, n_visible);
        for first in (0..most_visible).step_by(KEY_BLOCK) {
            for (query, state) in queries.clone().zip(&mut running) {
                let end = n_visible(query).min(first + KEY_BLOCK);
                if first >= end {
                    continue;
                }
                let mut scores = [0.0; KEY_BLOCK];
                let scores = &mut scores[..end - first];
                let q = head.queries.row(query, head_dim);
                score(simd, q, head.keys, first, head.scale, scores);
                let shrink = weigh(scores, state);
                let out = tile.row_mut(query);
                add_values(simd, scores, head.values, first, shrink, out);
            }
        }
        for (query, state) in queries.zip(&running) {
            let inverse = 1.0 / state.sum;
            tile.row_mut(query).iter_mut().for_each(|x| *x *= inverse);
        }
    }
}

/// Scores of the keys from `first` on.
#[inline(always)]
fn score<S: Simd>(
    simd: S,
    q: &[f32],
    keys: HeadRows,
    first: usize,
    scale: f32,
    scores: &mut [f32],
) {
    let n = scores.len();
    let in_full = n - n % KEYS_AT_ONCE;
    for i in (0..in_full).step_by(KEYS_AT_ONCE) {
        let rows = std::array::from_fn(|j| keys.row(first + i + j, q.len()));
        let products: [f32; KEYS_AT_ONCE] = dots(simd, q, rows);
        for (score, product) in scores[i..].iter_mut().zip(products) {
            *score = product * scale;
        }
    }
    for i in in_full..n {
        let [product] = dots(simd, q, [keys.row(first + i, q.len())]);
        scores[i] = product * scale;
    }
}

#[inline(always)]
fn dots<S: Simd, const N: usize>(simd: S, q: &[f32], rows: [&[f32]; N]) -> [f32; N] {
    let (q, q_tail) = S::as_simd_f32s(q);
    let rows = rows.map(S::as_simd_f32s);
    let vectors = rows.map(|(vectors, _)| &vectors[..q.len()]);
    let mut sums = [simd.splat_f32s(0.0); N];
    for (i, &q) in q.iter().enumerate() {
        for j in 0..N {
            sums[j] = simd.mul_add_e_f32s(vectors[j][i], q, sums[j]);
        }
    }
    if !q_tail.is_empty() {
        let q = simd.partial_load_f32s(q_tail);
        for j in 0..N {
            sums[j] = simd.mul_add_e_f32s(simd.partial_load_f32s(rows[j].1), q, sums[j]);
        }
    }
    sums.map(|sum| simd.reduce_sum_f32s(sum))
}

/// Turns scores into weights relative to the running maximum, and returns what everything summed
/// so far has to be multiplied with because that maximum grew.
#[inline(always)]
fn weigh(scores: &mut [f32], state: &mut Running) -> f32 {
    let max = state.max.max(float::max(scores));
    let shrink = float::exp(state.max - max);
    for score in scores.iter_mut() {
        *score = float::exp(*score - max);
    }
    state.sum = state.sum * shrink + float::sum(scores);
    state.max = max;
    shrink
}

/// `out = out * shrink + sum of weights[i] * values[first + i]`.
#[inline(always)]
fn add_values<S: Simd>(
    simd: S,
    weights: &[f32],
    values: HeadRows,
    first: usize,
    shrink: f32,
    out: &mut [f32],
) {
    let head_dim = out.len();
    let (out, out_tail) = S::as_mut_simd_f32s(out);
    let shrink = simd.splat_f32s(shrink);
    for (i, out) in out.iter_mut().enumerate() {
        let mut sum = simd.mul_f32s(*out, shrink);
        for (j, &weight) in weights.iter().enumerate() {
            let value = S::as_simd_f32s(values.row(first + j, head_dim)).0[i];
            sum = simd.mul_add_e_f32s(simd.splat_f32s(weight), value, sum);
        }
        *out = sum;
    }
    if !out_tail.is_empty() {
        let mut sum = simd.mul_f32s(simd.partial_load_f32s(out_tail), shrink);
        for (j, &weight) in weights.iter().enumerate() {
            let tail = S::as_simd_f32s(values.row(first + j, head_dim)).1;
            let value = simd.partial_load_f32s(tail);
            sum = simd.mul_add_e_f32s(simd.splat_f32s(weight), value, sum);
        }
        simd.partial_store_f32s(out_tail, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tiles::Tiles;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| (((i + seed) * 7919) % 2003) as f32 / 500.0 - 2.0)
            .collect()
    }

    fn naive(
        q: &[f32],
        k: &[f32],
        v: &[f32],
        head_dim: usize,
        n_visible: usize,
        scale: f32,
    ) -> Vec<f64> {
        let scores: Vec<f64> = (0..n_visible)
            .map(|j| {
                (0..head_dim)
                    .map(|d| f64::from(q[d]) * f64::from(k[j * head_dim + d]))
                    .sum::<f64>()
                    * f64::from(scale)
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        (0..head_dim)
            .map(|d| {
                weights
                    .iter()
                    .enumerate()
                    .map(|(j, w)| w / sum * f64::from(v[j * head_dim + d]))
                    .sum()
            })
            .collect()
    }

    #[test]
    fn matches_the_definition() {
        for head_dim in [2, 16, 20, 64, 128] {
            for (n_queries, n_keys, causal_start) in [
                (1, 1, None),
                (3, 65, None),
                (17, 200, None),
                (5, 5, Some(0)),
                (33, 133, Some(100)),
                (1, 64, Some(63)),
            ] {
                let q = values(n_queries * head_dim, 1);
                let k = values(n_keys * head_dim, 2);
                let v = values(n_keys * head_dim, 3);
                let scale = 1.0 / (head_dim as f32).sqrt();
                let rows = |data| HeadRows {
                    data,
                    offset: 0,
                    stride: head_dim,
                };
                let head = Head {
                    queries: rows(&q),
                    keys: rows(&k),
                    values: rows(&v),
                    n_keys,
                    causal_start,
                    scale,
                };
                for isa in Isa::available() {
                    let mut out = vec![f32::NAN; n_queries * head_dim];
                    let tiles = Tiles::of_rows(&mut out, head_dim, TILE_QUERIES);
                    while let Some(mut tile) = tiles.take() {
                        attend(isa, head, &mut tile);
                    }
                    drop(tiles);
                    for (i, got) in out.chunks(head_dim).enumerate() {
                        let n_visible = causal_start.map_or(n_keys, |start| start + i + 1);
                        let q = &q[i * head_dim..];
                        let exact = naive(q, &k, &v, head_dim, n_visible, scale);
                        for (a, b) in got.iter().zip(exact) {
                            assert!((f64::from(*a) - b).abs() < 2e-5, "{isa} {head_dim} {a} {b}");
                        }
                    }
                }
            }
        }
    }
}
