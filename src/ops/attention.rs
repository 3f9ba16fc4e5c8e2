//! Multi-head attention, for the ViT, the abstractor and the decoder alike.

use crate::kernels::attention::{Head, HeadRows, TILE_QUERIES, attend};
use crate::kernels::tiles::Tiles;
use crate::ops::Compute;

/// The rows of several heads in one buffer: row `i` of head `h` starts at
/// `offset + h * head_stride + i * row_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The buffer.
    pub data: &'a [f32],
    /// Where the first head's first row starts.
    pub offset: usize,
    /// Distance of one head to the next.
    pub head_stride: usize,
    /// Distance of one row to the next.
    pub row_stride: usize,
}

impl<'a> Heads<'a> {
    /// Heads side by side in the columns of a matrix with rows of `width`, from column `first` on.
    pub fn in_columns(data: &'a [f32], width: usize, first: usize, head_dim: usize) -> Self {
        Heads {
            data,
            offset: first,
            head_stride: head_dim,
            row_stride: width,
        }
    }

    fn head(&self, index: usize) -> HeadRows<'a> {
        HeadRows {
            data: self.data,
            offset: self.offset + index * self.head_stride,
            stride: self.row_stride,
        }
    }
}

/// The inputs of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; each serves `n_heads / n_kv_heads` query heads in a row.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// The queries.
    pub queries: Heads<'a>,
    /// The keys.
    pub keys: Heads<'a>,
    /// The values.
    pub values: Heads<'a>,
    /// Keys and values there are.
    pub n_keys: usize,
    /// With `Some(start)`, query `i` sees the keys up to and including `start + i`.
    pub causal_start: Option<usize>,
}

impl Attention<'_> {
    /// `out = softmax(q k^T / sqrt(head_dim)) v` for `out: [n_queries, n_heads * head_dim]`.
    pub fn forward(&self, compute: &Compute, out: &mut [f32]) {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let group = self.n_heads / self.n_kv_heads;
        let tiles = Tiles::new(
            out,
            self.n_heads * self.head_dim,
            TILE_QUERIES,
            self.head_dim,
        );
        compute.threads.run(|| {
            while let Some(mut tile) = tiles.take() {
                let head = tile.cols().start / self.head_dim;
                let inputs = Head {
                    queries: self.queries.head(head),
                    keys: self.keys.head(head / group),
                    values: self.values.head(head / group),
                    n_keys: self.n_keys,
                    causal_start: self.causal_start,
                    scale,
                };
                attend(compute.isa, inputs, &mut tile);
            }
        });
    }
}
