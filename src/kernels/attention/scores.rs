//! Scores of queries with keys in 8-bit integers: the matrix product of [`gemm`](super::super::gemm)
//! with a block of keys in the place of weights.
//!
//! Keys are quantized as [`Q8_0`] weights are, a scale for each 32 columns.
#![allow(unsafe_code)]

use crate::kernels::Isa;
use crate::kernels::activations::{self, Layout};
use crate::kernels::aligned::AlignedFloats;
use crate::kernels::formats::Q8_0;
use crate::kernels::gemm::panel::{ChunkValues, PanelTile, padded, place};
use crate::kernels::gemm::{TileWidth, dot_tile};
use crate::kernels::int8::{CHUNK_UNITS, HALF, Int8, Int8Op, UNIT};

/// Quantized queries and a block of quantized keys; a buffer that each thread keeps.
#[derive(Debug, Default)]
pub struct Quantized {
    /// A record for each tile of queries.
    queries: AlignedFloats,
    /// A tile of queries, one after the other.
    copied: AlignedFloats,
    keys: Keys,
}

/// A block of keys.
#[derive(Debug, Default)]
struct Keys {
    /// `[tiles, units, rows, 32]` integers, [`place`] says in which order.
    weights: AlignedFloats,
    /// `[tiles, chunks, rows, units]`, or as [`ChunkValues`] says.
    scales: AlignedFloats,
}

/// Queries side by side in a tile.
pub fn tile_width(isa: Isa) -> usize {
    isa.run_int8(TileWidth)
}

impl Quantized {
    fn layout(isa: Isa, head_dim: usize) -> Layout {
        Layout {
            width: tile_width(isa),
            n_cols: head_dim,
        }
    }

    /// Quantizes queries of `head_dim` values, a multiple of 32, times `scale`.
    pub fn load_queries<'a>(
        &mut self,
        isa: Isa,
        head_dim: usize,
        scale: f32,
        queries: impl ExactSizeIterator<Item = &'a [f32]>,
    ) {
        let layout = Self::layout(isa, head_dim);
        let n_tiles = queries.len().div_ceil(layout.width);
        self.queries.resize(n_tiles * layout.record_words());
        self.copied.resize(layout.width * head_dim);
        let mut rest = queries;
        for record in self.queries.chunks_exact_mut(layout.record_words()) {
            let n = rest.len().min(layout.width);
            let copied = &mut self.copied[..n * head_dim];
            for (copy, query) in copied.chunks_exact_mut(head_dim).zip(&mut rest) {
                for (copy, value) in copy.iter_mut().zip(query) {
                    *copy = value * scale;
                }
            }
            activations::quantize(isa, layout, copied, record);
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

    /// `scores[key][query] = keys[key] . queries[query]` for the loaded keys, rounded up to whole
    /// tiles, and tile `tile` of the queries. Scores of one key are `stride` from those of the next.
    pub fn score(&self, isa: Isa, head_dim: usize, tile: usize, scores: &mut [f32], stride: usize) {
        let layout = Self::layout(isa, head_dim);
        let words = layout.record_words();
        isa.run_int8(Score(KeyScores {
            keys: &self.keys,
            record: &self.queries[tile * words..(tile + 1) * words],
            layout,
            scores,
            stride,
        }));
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
        let n_units = self.head_dim / UNIT;
        let rows = I::TILE_ROWS;
        let n_padded = (self.keys.len() / self.head_dim).next_multiple_of(rows);
        self.packed.weights.resize(n_padded * self.head_dim / 4);
        self.packed.scales.resize(n_padded * padded(n_units));
        let scale_places = ChunkValues::new::<I>(rows, CHUNK_UNITS);
        let weights = bytemuck::cast_slice_mut::<f32, [i8; 4]>(&mut self.packed.weights);
        for (index, key) in self.keys.chunks_exact(self.head_dim).enumerate() {
            for (unit, halves) in key
                .as_chunks::<HALF>()
                .0
                .as_chunks::<2>()
                .0
                .iter()
                .enumerate()
            {
                let (tile, row) = (index / rows, index % rows);
                let chunk = tile * padded(n_units) / CHUNK_UNITS + unit / CHUNK_UNITS;
                let at = scale_places.at(chunk, row, unit % CHUNK_UNITS);
                let first = (tile * n_units + unit) * rows;
                let scale = isa.largest(halves) / 127.0;
                let inverse = if scale > f32::MIN_POSITIVE {
                    1.0 / scale
                } else {
                    0.0
                };
                self.packed.scales[at] = scale;
                for (half, values) in halves.iter().enumerate() {
                    let (mut quants, _) = isa.quantize(values, inverse);
                    if I::UNSIGNED_WEIGHTS {
                        for quant in &mut quants {
                            *quant ^= i8::MIN;
                        }
                    }
                    for (i, four) in quants.as_chunks().0.iter().enumerate() {
                        let column = half * HALF + 4 * i;
                        let at = first * UNIT + place::<I>(UNIT, rows, row, column);
                        weights[at / 4] = *four;
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
    record: &'a [f32],
    layout: Layout,
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
    let n_units = work.layout.n_cols / UNIT;
    let weights: &[u8] = bytemuck::cast_slice(&work.keys.weights);
    let tiles = weights.chunks_exact(R * n_units * UNIT);
    let scales = work.keys.scales.chunks_exact(R * padded(n_units));
    let scores = work.scores.chunks_mut(R * work.stride);
    for ((weights, scales), scores) in tiles.zip(scales).zip(scores) {
        let keys = PanelTile {
            weights,
            scales,
            mins: &[],
        };
        dot_tile::<I, Q8_0, R, V>(isa, keys, queries, 0, [0.0; R], scores, work.stride);
    }
}
