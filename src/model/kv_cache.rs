//! Keys and values of the positions computed so far.

use crate::model::config::DecoderConfig;
use crate::ops::attention::Heads;

/// A cache for one sequence: rotated keys and values, `f32`, each head's rows contiguous.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// Positions there is room for.
    capacity: usize,
    /// Positions that every layer has.
    len: usize,
}

/// The part of one decoder block.
#[derive(Clone, Debug)]
pub(super) struct LayerCache {
    /// `[n_kv_heads, capacity, head_dim]`.
    keys: Vec<f32>,
    /// `[n_kv_heads, capacity, head_dim]`.
    values: Vec<f32>,
    head_dim: usize,
    capacity: usize,
}

impl KvCache {
    /// Reserves room for `capacity` positions. Pages that are never written cost nothing.
    pub fn new(config: &DecoderConfig, capacity: usize) -> Self {
        let layer = || LayerCache {
            keys: vec![0.0; capacity * config.kv_dim()],
            values: vec![0.0; capacity * config.kv_dim()],
            head_dim: config.head_dim(),
            capacity,
        };
        KvCache {
            layers: (0..config.n_layers).map(|_| layer()).collect(),
            capacity,
            len: 0,
        }
    }

    /// Bytes that `capacity` positions take.
    pub fn bytes(config: &DecoderConfig, capacity: usize) -> u64 {
        2 * size_of::<f32>() as u64
            * config.n_layers as u64
            * config.kv_dim() as u64
            * capacity as u64
    }

    /// Positions in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn layer_mut(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
    }

    /// Counts `n` more positions, which every layer has stored by now.
    pub(super) fn advance(&mut self, n: usize) {
        self.len += n;
        assert!(self.len <= self.capacity);
    }
}

impl LayerCache {
    /// Stores rows of `keys, values: [n, kv_dim]` from position `first` on.
    pub fn store(&mut self, first: usize, keys: &[f32], values: &[f32]) {
        let (head_dim, capacity) = (self.head_dim, self.capacity);
        let kv_dim = self.keys.len() / capacity;
        for (cache, rows) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (i, row) in rows.chunks_exact(kv_dim).enumerate() {
                for (head, part) in row.chunks_exact(head_dim).enumerate() {
                    let start = (head * capacity + first + i) * head_dim;
                    cache[start..start + head_dim].copy_from_slice(part);
                }
            }
        }
    }

    /// All keys.
    pub fn keys(&self) -> Heads<'_> {
        self.heads(&self.keys)
    }

    /// All values.
    pub fn values(&self) -> Heads<'_> {
        self.heads(&self.values)
    }

    fn heads<'a>(&self, data: &'a [f32]) -> Heads<'a> {
        Heads {
            data,
            offset: 0,
            head_stride: self.capacity * self.head_dim,
            row_stride: self.head_dim,
        }
    }
}
