//! Multi-head attention, for the ViT, the abstractor and the decoder alike.

use std::ops::Range;

use half::f16;

use crate::kernels::attention::{Head, HeadRows, Stored, attend, tile_queries};
use crate::kernels::tiles::Tiles;
use crate::ops::{Compute, RowRole};
use crate::quant::BlockQ8_0;

/// The rows of several heads in one buffer: row `i` of head `h` starts at
/// `offset + h * head_stride + i * row_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a, T = f32> {
    /// The buffer.
    pub data: &'a [T],
    /// Where the first head's first row starts.
    pub offset: usize,
    /// Distance of one head to the next.
    pub head_stride: usize,
    /// Distance of one row to the next.
    pub row_stride: usize,
}

impl<'a, T> Heads<'a, T> {
    fn head(&self, index: usize) -> HeadRows<'a, T> {
        HeadRows {
            data: self.data,
            offset: self.offset + index * self.head_stride,
            stride: self.row_stride,
        }
    }
}

impl<'a> Heads<'a> {
    /// Heads side by side in the columns of a matrix with rows of `width`, from column `first` on.
    pub fn in_columns(data: &'a [f32], row_stride: usize, first: usize, head_dim: usize) -> Self {
        Heads {
            data,
            offset: first,
            head_stride: head_dim,
            row_stride,
        }
    }
}

/// Keys or values of several heads.
#[derive(Clone, Copy, Debug)]
pub enum StoredHeads<'a> {
    /// As they were computed.
    F32(Heads<'a, f32>),
    /// Rounded to half precision.
    F16(Heads<'a, f16>),
    /// Blocks of 32 small integers; offsets and strides count blocks.
    Q8_0(Heads<'a, BlockQ8_0>),
}

impl<'a> StoredHeads<'a> {
    fn head(&self, index: usize) -> Stored<'a> {
        match self {
            StoredHeads::F32(heads) => Stored::F32(heads.head(index)),
            StoredHeads::F16(heads) => Stored::F16(heads.head(index)),
            StoredHeads::Q8_0(heads) => Stored::Q8_0(heads.head(index)),
        }
    }
}

impl<'a> From<Heads<'a>> for StoredHeads<'a> {
    fn from(heads: Heads<'a>) -> Self {
        StoredHeads::F32(heads)
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
    pub keys: StoredHeads<'a>,
    /// The values.
    pub values: StoredHeads<'a>,
    /// Keys and values there are.
    pub n_keys: usize,
    /// With `Some(start)`, query `i` sees the keys up to and including `start + i`.
    pub causal_start: Option<usize>,
    /// What the queries are for, which decides how they are computed.
    pub role: RowRole,
    /// Whether the queries of a prompt are computed in 8-bit and 16-bit integers.
    pub in_integers: bool,
}

impl<'a> Attention<'a> {
    /// `out = softmax(q k^T / sqrt(head_dim)) v` for `out: [n_queries, n_heads * head_dim]`.
    pub fn forward(&self, compute: &Compute, out: &mut [f32]) {
        let n_queries = out.len() / (self.n_heads * self.head_dim);
        Self::forward_each(compute, 1, |_| (0..n_queries, *self), out);
    }

    /// The attention of several sequences at once, in one parallel region: `part` gives each of
    /// `n_parts` with the rows of `out: [n, n_heads * head_dim]` that its queries have, one part
    /// behind the other. The heads of all are alike.
    pub fn forward_each(
        compute: &Compute,
        n_parts: usize,
        part: impl Fn(usize) -> (Range<usize>, Attention<'a>) + Sync,
        out: &mut [f32],
    ) {
        if n_parts == 0 {
            return;
        }
        let Attention {
            n_heads, head_dim, ..
        } = part(0).1;
        let width = n_heads * head_dim;
        let n_queries = out.len() / width;
        let tile_rows = tile_queries(n_queries, n_heads, compute.threads.count()).max(1);
        let tiles = Tiles::new(out, width, tile_rows, head_dim);
        compute.threads.run(|worker| {
            while let Some(mut tile) = tiles.take() {
                let index = tile.cols().start / head_dim;
                let scratch = &mut compute.scratches.of(worker);
                for (rows, attention) in (0..n_parts).map(&part) {
                    assert!(attention.n_heads == n_heads && attention.head_dim == head_dim);
                    if let Some(mut tile) = tile.within(&rows) {
                        attend(compute.isa, attention.head(index), &mut tile, scratch);
                    }
                }
            }
        });
    }

    /// The inputs of query head `index`.
    fn head(&self, index: usize) -> Head<'a> {
        let of_queries = self.n_heads / self.n_kv_heads;
        Head {
            queries: self.queries.head(index),
            keys: self.keys.head(index / of_queries),
            values: self.values.head(index / of_queries),
            n_keys: self.n_keys,
            causal_start: self.causal_start,
            role: self.role,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            in_integers: self.in_integers,
        }
    }
}
