//! Scores of queries with keys in 8-bit integers: the matrix product of [`gemm`](super::super::gemm)
//! with a block of keys in the place of weights.
//!
//! Keys are quantized with a scale for each [`BLOCK`] of columns, as queries are: for all of a head's,
//! usually. Both are [rotated](crate::quant::rotation) before, which leaves their products as they
//! are and spreads the outliers that one scale would have to pay for.

use std::sync::LazyLock;

use crate::kernels::Isa;
use crate::kernels::activations::{PackedLayout, Quantize, ScaleSpan};
use crate::kernels::aligned::AlignedFloats;
use crate::kernels::gemm::TileWidth;
use crate::kernels::gemm::panel::place;
use crate::kernels::gemm::regrouped::{RegroupedRows, store_four};
use crate::kernels::int8::{BLOCK, HALF, Int8, Int8Op, UNIT};
use crate::kernels::rotate::rotate;
use crate::quant::rotation::{self, Rotation};

/// What queries and keys are rotated with. Which rotation it is does not matter, as long as it is the
/// same for both.
static ROTATION: LazyLock<Rotation> = LazyLock::new(Rotation::default);

/// Quantized queries and a block of quantized keys; a buffer that each thread keeps.
#[derive(Debug, Default)]
pub struct Quantized {
    /// A record for each tile of queries.
    queries: AlignedFloats,
    /// A tile of queries, one after the other, rotated.
    rotated: AlignedFloats,
    keys: Keys,
}

/// A block of keys.
#[derive(Debug, Default)]
struct Keys {
    /// `[tiles, units, rows, 32]` integers as [`RegroupedRows`] has them.
    weights: AlignedFloats,
    /// `[tiles, blocks, rows]`.
    scales: AlignedFloats,
}

/// Queries side by side in a tile.
pub fn tile_width(isa: Isa) -> usize {
    isa.run_int8(TileWidth)
}

impl Quantized {
    fn layout(isa: Isa, head_dim: usize) -> PackedLayout {
        PackedLayout {
            width: tile_width(isa),
            n_cols: head_dim,
            span: ScaleSpan::Coarse,
        }
    }

    /// Quantizes queries of `head_dim` values, a multiple of 32, times `scale`. The first of them has
    /// number `n_before`; those before it are zeros.
    pub fn load_queries<'a>(
        &mut self,
        isa: Isa,
        head_dim: usize,
        scale: f32,
        n_before: usize,
        queries: impl ExactSizeIterator<Item = &'a [f32]>,
    ) {
        let layout = Self::layout(isa, head_dim);
        let n_tiles = (n_before + queries.len()).div_ceil(layout.width);
        self.queries.resize(n_tiles * layout.record_words());
        self.rotated.resize(layout.width * head_dim);
        let mut n_before = n_before;
        let mut rest = queries;
        for record in self.queries.chunks_exact_mut(layout.record_words()) {
            let n_absent = n_before.min(layout.width);
            n_before -= n_absent;
            let n = rest.len().min(layout.width - n_absent);
            let rows = &mut self.rotated[..(n_absent + n) * head_dim];
            let (absent, rotated) = rows.split_at_mut(n_absent * head_dim);
            absent.fill(0.0);
            isa.run_int8(RotateQueries {
                head_dim,
                scale,
                queries: rest.by_ref().take(n),
                rotated,
            });
            let queries = Quantize {
                layout,
                x: rows,
                stride: head_dim,
                // They are, beside their scale.
                rotation: None,
            };
            queries.run(isa, record);
        }
    }

    /// Quantizes `keys: [n, head_dim]`.
    pub fn load_keys(&mut self, isa: Isa, head_dim: usize, keys: &[f32]) {
        isa.run_int8(PackKeys {
            head_dim,
            keys,
            packed: &mut self.keys,
        });
    }

    /// `scores[key][query] = keys[key] . queries[query]` for the first `n_keys` of the loaded keys,
    /// rounded up to whole tiles, and tile `tile` of the queries. Scores of one key are `stride` from
    /// those of the next.
    pub fn score(
        &self,
        isa: Isa,
        head_dim: usize,
        n_keys: usize,
        tile: usize,
        scores: &mut [f32],
        stride: usize,
    ) {
        let layout = Self::layout(isa, head_dim);
        let words = layout.record_words();
        isa.run_int8(Score(KeyScores {
            keys: &self.keys,
            n_keys,
            record: &self.queries[tile * words..(tile + 1) * words],
            layout,
            scores,
            stride,
        }));
    }
}

/// `rotated = queries * scale * R`.
struct RotateQueries<'b, Q> {
    head_dim: usize,
    scale: f32,
    queries: Q,
    rotated: &'b mut [f32],
}

impl<'a, Q: Iterator<Item = &'a [f32]>> Int8Op for RotateQueries<'_, Q> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        let rotation = &*ROTATION;
        let rotated = self.rotated.chunks_exact_mut(self.head_dim);
        for (to, query) in rotated.zip(self.queries) {
            for (to, values) in to.chunks_mut(BLOCK).zip(query.chunks(BLOCK)) {
                rotate_block(isa, rotation, values, self.scale, to);
            }
        }
    }
}

/// `to = values * scale * R`, for [`BLOCK`] columns of a query or a key, or fewer at its end.
#[inline(always)]
fn rotate_block<I: Int8>(isa: I, rotation: &Rotation, values: &[f32], scale: f32, to: &mut [f32]) {
    const {
        assert!(
            BLOCK == rotation::BLOCK_LEN,
            "a block has a scale and a rotation"
        );
    }
    let mut start = 0;
    while start < values.len() {
        let len = rotation::block_len(values.len() - start);
        let (values, to) = (&values[start..start + len], &mut to[start..start + len]);
        rotate(isa, values, scale, rotation.factors(len), to);
        start += len;
    }
}

struct PackKeys<'a, 'b> {
    head_dim: usize,
    keys: &'a [f32],
    packed: &'b mut Keys,
}

impl Int8Op for PackKeys<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        assert!(
            self.keys.len().is_multiple_of(self.head_dim) && self.head_dim.is_multiple_of(UNIT)
        );
        let rotation = &*ROTATION;
        let rows = I::TILE_ROWS;
        let n_blocks = self.head_dim.div_ceil(BLOCK);
        let n_padded = (self.keys.len() / self.head_dim).next_multiple_of(rows);
        let n_bytes = n_padded * self.head_dim * I::BYTE_WEIGHT_BYTES;
        self.packed.weights.resize(n_bytes / size_of::<f32>());
        self.packed.scales.resize(n_padded * n_blocks);
        let weights = bytemuck::cast_slice_mut::<f32, u8>(&mut self.packed.weights);
        let mut rotated = [0.0; BLOCK];
        for (index, key) in self.keys.chunks_exact(self.head_dim).enumerate() {
            let (tile, row) = (index / rows, index % rows);
            for (block, values) in key.chunks(BLOCK).enumerate() {
                rotate_block(isa, rotation, values, 1.0, &mut rotated);
                let halves = rotated[..values.len()].as_chunks::<HALF>().0;
                // A score of minus infinity would be a weight of zero, and hide that a key is damaged.
                let mut scale = isa.largest(halves) / 127.0;
                if !scale.is_finite() {
                    scale = f32::NAN;
                }
                let inverse = if scale > f32::MIN_POSITIVE {
                    1.0 / scale
                } else {
                    0.0
                };
                self.packed.scales[(tile * n_blocks + block) * rows + row] = scale;
                for (half, values) in halves.iter().enumerate() {
                    let (mut quants, _) = isa.quantize(values, inverse);
                    if I::UNSIGNED_WEIGHTS {
                        for quant in &mut quants {
                            *quant ^= i8::MIN;
                        }
                    }
                    let column = block * BLOCK + half * HALF;
                    let start = (tile * self.head_dim + column / UNIT * UNIT) * rows;
                    for (i, four) in quants.as_chunks::<4>().0.iter().enumerate() {
                        let at = start + place::<I>(UNIT, rows, row, column % UNIT + 4 * i);
                        store_four::<I>(*four, &mut weights[at * I::BYTE_WEIGHT_BYTES..]);
                    }
                }
            }
        }
    }
}

/// What [`Int8::score`] works on.
#[derive(Debug)]
pub struct KeyScores<'a, 'b> {
    keys: &'a Keys,
    n_keys: usize,
    record: &'a [f32],
    layout: PackedLayout,
    scores: &'b mut [f32],
    stride: usize,
}

struct Score<'a, 'b>(KeyScores<'a, 'b>);

impl Int8Op for Score<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Int8>(self, isa: I) {
        isa.score(self.0);
    }
}

/// [`Quantized::score`] for one tile shape: `R` keys by `V` registers of queries.
#[inline(always)]
pub fn score<I: Int8, const R: usize, const V: usize>(isa: I, work: KeyScores) {
    let queries = work.layout.view(work.record);
    let n_cols = work.layout.n_cols;
    let weights: &[u8] = bytemuck::cast_slice(&work.keys.weights);
    let tiles = weights.chunks_exact(R * n_cols * I::BYTE_WEIGHT_BYTES);
    let scales = work.keys.scales.chunks_exact(R * n_cols.div_ceil(BLOCK));
    let scores = work.scores.chunks_mut(R * work.stride);
    let n_tiles = work.n_keys.div_ceil(R);
    for ((weights, scales), scores) in tiles.zip(scales).zip(scores).take(n_tiles) {
        let keys = RegroupedRows { weights, scales };
        keys.dot::<I, R, V>(isa, queries, 0, [0.0; R], scores, work.stride);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[keys][queries]`, from all tiles of both.
    fn scores(isa: Isa, head_dim: usize, queries: &[f32], keys: &[f32]) -> Vec<f32> {
        let n_queries = queries.len() / head_dim;
        let n_keys = keys.len() / head_dim;
        let mut quantized = Quantized::default();
        quantized.load_queries(isa, head_dim, 0.5, 0, queries.chunks(head_dim));
        quantized.load_keys(isa, head_dim, keys);
        let width = tile_width(isa);
        let stride = width + 3;
        let mut out = vec![0.0; n_keys * n_queries];
        for tile in 0..n_queries.div_ceil(width) {
            // Room for whatever number of keys a tile has.
            let mut scores = vec![0.0; (n_keys + 16) * stride];
            quantized.score(isa, head_dim, n_keys, tile, &mut scores, stride);
            for (key, scores) in scores.chunks(stride).take(n_keys).enumerate() {
                for (i, score) in scores[..width].iter().enumerate() {
                    let query = tile * width + i;
                    if query < n_queries {
                        out[key * n_queries + query] = *score;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn products_of_heads_of_any_width_have_the_same_bits_everywhere() {
        let values = |n: usize, seed: usize| -> Vec<f32> {
            (0..n)
                .map(|i| (((i + seed) * 7919) % 2003) as f32 / 1001.0 - 1.0)
                .collect()
        };
        for head_dim in [32, 64, 96, 128, 160, 256] {
            let (queries, keys) = (values(37 * head_dim, 1), values(11 * head_dim, 2));
            let scalar = scores(Isa::scalar(), head_dim, &queries, &keys);
            for (key, of_key) in scalar.chunks(37).enumerate() {
                for (query, score) in of_key.iter().enumerate() {
                    let pairs = queries[query * head_dim..(query + 1) * head_dim]
                        .iter()
                        .zip(&keys[key * head_dim..]);
                    let exact: f64 = pairs.map(|(q, k)| f64::from(q * 0.5) * f64::from(*k)).sum();
                    // Either factor is off by up to 1/254, each time another way.
                    let tolerance = 0.01 * (head_dim as f64).sqrt();
                    assert!((f64::from(*score) - exact).abs() < tolerance, "{head_dim}");
                }
            }
            for isa in Isa::available() {
                assert!(
                    scores(isa, head_dim, &queries, &keys) == scalar,
                    "{isa} {head_dim}"
                );
            }
        }
    }
}
