//! `y = x W^T + b` for weights in any block format and activations in `f32`.
//!
//! A tile of output columns is a few rows of `W`. They are dequantized a slice of columns at a
//! time into a panel that stays in the first-level cache, and every token's slice is multiplied
//! with it. So the weights are read once from memory whatever the number of tokens, and no more
//! than a panel of them is ever expanded.
//!
//! Each output is the same sequence of operations whatever the tile it falls in, so results do
//! not depend on the number of threads or on how tokens are batched.

use pulp::{Simd, WithSimd};

use crate::gguf::DType;
use crate::kernels::Isa;
use crate::kernels::tiles::Tile;
use crate::quant;

/// Weight rows of one tile: one cache line of output.
pub const TILE_ROWS: usize = 16;
/// Columns dequantized at a time: a multiple of every block length.
const SLICE: usize = 256;
/// Weight rows that are multiplied together.
const ROWS_AT_ONCE: usize = 4;

/// A weight matrix `[n_rows, n_cols]` as it lies in the file.
#[derive(Clone, Copy, Debug)]
pub struct WeightView<'a> {
    /// All rows, one after the other.
    pub bytes: &'a [u8],
    /// Their format.
    pub dtype: DType,
    /// Values of a row.
    pub n_cols: usize,
}

impl WeightView<'_> {
    /// Bytes of a row.
    pub fn bytes_per_row(&self) -> usize {
        bytes_of(self.dtype, self.n_cols)
    }
}

/// Computes one tile of `y: [n_tokens, n_rows]` from `x: [n_tokens, n_cols]`, whose rows are
/// `stride` apart, and an optional `bias: [n_rows]`, added to what `y` holds where `accumulate`
/// says so. The tile spans all tokens and at most [`TILE_ROWS`] columns.
pub fn matmul(
    isa: Isa,
    weight: WeightView,
    bias: Option<&[f32]>,
    x: &[f32],
    stride: usize,
    accumulate: bool,
    tile: &mut Tile,
) {
    assert!(tile.cols().len() <= TILE_ROWS && weight.n_cols <= stride);
    assert_eq!(x.len(), tile.rows().len() * stride);
    for token in tile.rows() {
        let cols = tile.cols();
        let y = tile.row_mut(token);
        if !accumulate {
            y.fill(0.0);
        }
        if let Some(bias) = bias {
            y.iter_mut()
                .zip(&bias[cols])
                .for_each(|(y, bias)| *y += bias);
        }
    }
    isa.run(MatmulTile {
        weight,
        x,
        stride,
        tile,
    });
}

struct MatmulTile<'a, 'b, 'c> {
    weight: WeightView<'a>,
    x: &'a [f32],
    stride: usize,
    tile: &'b mut Tile<'c>,
}

impl WithSimd for MatmulTile<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let WeightView {
            bytes,
            dtype,
            n_cols,
        } = self.weight;
        let row_bytes = bytes_of(dtype, n_cols);
        let rows = self.tile.cols();
        let mut panel = [[0.0; SLICE]; TILE_ROWS];

        for start in (0..n_cols).step_by(SLICE) {
            let len = SLICE.min(n_cols - start);
            let slice_start = bytes_of(dtype, start);
            let slice_bytes = bytes_of(dtype, len);
            for (row, out) in rows.clone().zip(&mut panel) {
                let at = row * row_bytes + slice_start;
                quant::dequantize(dtype, &bytes[at..at + slice_bytes], &mut out[..len]);
            }
            if S::REGISTER_COUNT >= 32 {
                sweep_tokens::<S, 4>(
                    simd,
                    &panel,
                    (self.x, self.stride),
                    start..start + len,
                    self.tile,
                );
            } else {
                sweep_tokens::<S, 2>(
                    simd,
                    &panel,
                    (self.x, self.stride),
                    start..start + len,
                    self.tile,
                );
            }
        }
    }
}

/// Bytes of `n` values, which validation has made a whole number of blocks.
#[inline(always)]
fn bytes_of(dtype: DType, n: usize) -> usize {
    n / dtype.block_len() * dtype.block_bytes()
}

/// Adds the products of one panel with the columns `cols` of every token, `T` tokens at a time.
#[inline(always)]
fn sweep_tokens<S: Simd, const T: usize>(
    simd: S,
    panel: &[[f32; SLICE]; TILE_ROWS],
    (x, stride): (&[f32], usize),
    cols: std::ops::Range<usize>,
    tile: &mut Tile,
) {
    let token_slice = |token: usize| &x[token * stride..][cols.clone()];
    let n_tokens = tile.rows().len();
    let in_full = n_tokens - n_tokens % T;
    for token in (0..in_full).step_by(T) {
        let tokens = std::array::from_fn::<_, T, _>(|t| token_slice(token + t));
        add_products(simd, panel, tokens, token, tile);
    }
    for token in in_full..n_tokens {
        add_products(simd, panel, [token_slice(token)], token, tile);
    }
}

#[inline(always)]
fn add_products<S: Simd, const T: usize>(
    simd: S,
    panel: &[[f32; SLICE]; TILE_ROWS],
    tokens: [&[f32]; T],
    first_token: usize,
    tile: &mut Tile,
) {
    let n_rows = tile.cols().len();
    let len = tokens[0].len();
    for first_row in (0..n_rows).step_by(ROWS_AT_ONCE) {
        // Rows past the tile's last are leftovers of the panel: computed with, never stored.
        let rows = std::array::from_fn::<_, ROWS_AT_ONCE, _>(|r| &panel[first_row + r][..len]);
        let products = dots(simd, rows, tokens);
        for (t, of_token) in products.iter().enumerate() {
            let out = tile.row_mut(first_token + t);
            for (y, product) in out[first_row..].iter_mut().zip(of_token) {
                *y += product;
            }
        }
    }
}

/// The dot product of each of `R` rows with each of `T` tokens, all of one length.
#[inline(always)]
fn dots<S: Simd, const R: usize, const T: usize>(
    simd: S,
    rows: [&[f32]; R],
    tokens: [&[f32]; T],
) -> [[f32; R]; T] {
    let rows = rows.map(S::as_simd_f32s);
    let tokens = tokens.map(S::as_simd_f32s);
    let n_vectors = rows[0].0.len();
    // Loops below, since closures would not be compiled for the instruction set.
    let zero = simd.splat_f32s(0.0);
    let mut sums = [[zero; R]; T];
    let vectors_of_rows = rows.map(|(vectors, _)| &vectors[..n_vectors]);
    let vectors_of_tokens = tokens.map(|(vectors, _)| &vectors[..n_vectors]);
    for i in 0..n_vectors {
        let mut w = [zero; R];
        for (w, vectors) in w.iter_mut().zip(vectors_of_rows) {
            *w = vectors[i];
        }
        for t in 0..T {
            let x = vectors_of_tokens[t][i];
            for r in 0..R {
                sums[t][r] = simd.mul_add_e_f32s(w[r], x, sums[t][r]);
            }
        }
    }
    if !rows[0].1.is_empty() {
        let mut w = [zero; R];
        for (w, (_, tail)) in w.iter_mut().zip(rows) {
            *w = simd.partial_load_f32s(tail);
        }
        for t in 0..T {
            let x = simd.partial_load_f32s(tokens[t].1);
            for r in 0..R {
                sums[t][r] = simd.mul_add_e_f32s(w[r], x, sums[t][r]);
            }
        }
    }
    let mut results = [[0.0; R]; T];
    for (results, sums) in results.iter_mut().zip(sums) {
        for (result, sum) in results.iter_mut().zip(sums) {
            *result = simd.reduce_sum_f32s(sum);
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::instruction_sets;
    use crate::kernels::tiles::Tiles;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| (((i + seed) * 7919) % 2003) as f32 / 1001.0 - 1.0)
            .collect()
    }

    fn run(
        isa: Isa,
        weight: WeightView,
        n_rows: usize,
        bias: Option<&[f32]>,
        x: &[f32],
    ) -> Vec<f32> {
        let mut y = vec![f32::NAN; x.len() / weight.n_cols * n_rows];
        let n_tokens = x.len() / weight.n_cols;
        let tiles = Tiles::new(&mut y, n_rows, n_tokens, TILE_ROWS);
        while let Some(mut tile) = tiles.take() {
            matmul(isa, weight, bias, x, weight.n_cols, false, &mut tile);
        }
        y
    }

    /// Every format and instruction set, odd shapes and tails, against a sum in `f64`.
    #[test]
    fn matches_the_definition() {
        for dtype in DType::ALL {
            let block = dtype.block_len();
            for (n_rows, n_cols) in [(1, block), (17, block * 3), (33, block * 21), (5, 1280)] {
                if n_cols % block != 0 {
                    continue;
                }
                let weights = values(n_rows * n_cols, 1);
                let mut bytes = vec![0; bytes_of(dtype, weights.len())];
                quant::quantize(dtype, &weights, &mut bytes);
                let mut stored = vec![0.0; weights.len()];
                quant::dequantize(dtype, &bytes, &mut stored);
                let bias = values(n_rows, 5);
                let weight = WeightView {
                    bytes: &bytes,
                    dtype,
                    n_cols,
                };
                for n_tokens in [1, 2, 3, 4, 5, 9] {
                    let x = values(n_tokens * n_cols, 3);
                    for isa in instruction_sets() {
                        for bias in [None, Some(bias.as_slice())] {
                            let y = run(isa, weight, n_rows, bias, &x);
                            for t in 0..n_tokens {
                                for r in 0..n_rows {
                                    let exact: f64 = (0..n_cols)
                                        .map(|c| {
                                            f64::from(stored[r * n_cols + c])
                                                * f64::from(x[t * n_cols + c])
                                        })
                                        .sum::<f64>()
                                        + bias.map_or(0.0, |bias| f64::from(bias[r]));
                                    let got = f64::from(y[t * n_rows + r]);
                                    assert!(
                                        (got - exact).abs() < 1e-6 * n_cols as f64 + 1e-5,
                                        "{dtype} {isa} [{n_rows}, {n_cols}] token {t} row {r}: {got} not {exact}"
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_token_alone_equals_the_same_token_in_a_batch() {
        let (n_rows, n_cols, n_tokens) = (21, 588, 7);
        let weights = values(n_rows * n_cols, 1);
        let bytes = bytemuck::cast_slice(&weights);
        let weight = WeightView {
            bytes,
            dtype: DType::F32,
            n_cols,
        };
        let x = values(n_tokens * n_cols, 9);
        for isa in instruction_sets() {
            let batch = run(isa, weight, n_rows, None, &x);
            for (t, token) in x.chunks(n_cols).enumerate() {
                let alone = run(isa, weight, n_rows, None, token);
                assert_eq!(alone, batch[t * n_rows..(t + 1) * n_rows], "{isa}");
            }
        }
    }
}
