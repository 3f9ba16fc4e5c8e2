//! Matrix products with weights in any block format.

use crate::gguf::{DType, TensorBytes};
use crate::kernels::matmul::{TILE_ROWS, WeightView, matmul};
use crate::kernels::tiles::Tiles;
use crate::ops::{Compute, Floats};
use crate::quant;

/// A matrix `[n_rows, n_cols]` in a block format, where it lies in the file.
#[derive(Clone, Debug)]
pub struct Matrix {
    bytes: TensorBytes,
    dtype: DType,
    n_rows: usize,
    n_cols: usize,
}

impl Matrix {
    /// Views a tensor's bytes as `n_rows` rows of `n_cols` values.
    ///
    /// # Panics
    /// Where the sizes do not agree; the model's binding has checked that they do.
    pub fn new(bytes: TensorBytes, dtype: DType, n_rows: usize, n_cols: usize) -> Self {
        let row_bytes = n_cols / dtype.block_len() * dtype.block_bytes();
        assert_eq!(bytes.len(), n_rows * row_bytes);
        Matrix {
            bytes,
            dtype,
            n_rows,
            n_cols,
        }
    }

    /// Number of rows: outputs of a projection, or entries of an embedding.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Values of a row.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Writes row `index` to `out: [n_cols]`.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        let row_bytes = self.bytes.len() / self.n_rows;
        let bytes = &self.bytes[index * row_bytes..(index + 1) * row_bytes];
        quant::dequantize(self.dtype, bytes, out);
    }

    /// `y = x W^T + bias` for `x: [n, n_cols]` and `y: [n, n_rows]`.
    fn multiply(&self, compute: &Compute, bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
        let n_tokens = x.len() / self.n_cols;
        assert_eq!(x.len(), n_tokens * self.n_cols);
        assert_eq!(y.len(), n_tokens * self.n_rows);
        let weight = WeightView {
            bytes: &self.bytes,
            dtype: self.dtype,
            n_cols: self.n_cols,
        };
        let tiles = Tiles::new(y, self.n_rows, n_tokens.max(1), TILE_ROWS);
        compute.threads.run(|| {
            while let Some(mut tile) = tiles.take() {
                matmul(compute.isa, weight, bias, x, &mut tile);
            }
        });
    }
}

/// A projection: a weight matrix `[n_out, n_in]` and perhaps a bias `[n_out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The weights.
    pub weight: Matrix,
    /// What is added to each output.
    pub bias: Option<Floats>,
}

impl Linear {
    /// `y = x W^T + b` for `x: [n, n_in]` and `y: [n, n_out]`.
    pub fn forward(&self, compute: &Compute, x: &[f32], y: &mut [f32]) {
        self.weight.multiply(compute, self.bias.as_deref(), x, y);
    }
}
