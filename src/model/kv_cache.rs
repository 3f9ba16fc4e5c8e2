//! Keys and values of the positions computed so far.

mod state;

use std::fmt;
use std::str::FromStr;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::error::{Error, Result};
use crate::gguf::DType;
use crate::kernels::int8::UNIT;
use crate::model::config::DecoderConfig;
use crate::ops::attention::{Heads, StoredHeads};
use crate::quant::{self, BlockQ8_0};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// As they were computed.
    F32,
    /// Rounded to half precision: half the memory, and half of what attention reads.
    F16,
    /// 8-bit integers with a scale for each 32 values of a head: little more than half of that
    /// again. Heads must have a multiple of 32 values.
    Q8_0,
}

impl CacheType {
    /// Bytes of one row of one head.
    fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            CacheType::F32 => head_dim * size_of::<f32>(),
            CacheType::F16 => head_dim * size_of::<u16>(),
            CacheType::Q8_0 => head_dim / UNIT * size_of::<BlockQ8_0>(),
        }
    }

    /// Fails where heads of a model cannot be kept so.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage).
    pub fn check(self, config: &DecoderConfig) -> Result<()> {
        let head_dim = config.head_dim();
        if self == CacheType::Q8_0 && !head_dim.is_multiple_of(UNIT) {
            return Err(Error::usage(format!(
                "q8_0 needs heads of a multiple of {UNIT} values, and those of this model have \
                 {head_dim}; use f16"
            ))
            .in_parameter("cache_type"));
        }
        Ok(())
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Q8_0 => "q8_0",
        })
    }
}

impl FromStr for CacheType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(CacheType::F32),
            "f16" => Ok(CacheType::F16),
            "q8_0" => Ok(CacheType::Q8_0),
            _ => Err(Error::usage(format!(
                "unknown cache type '{text}' (expected f32, f16 or q8_0)"
            ))),
        }
    }
}

/// A cache for one sequence: rotated keys, and values, each head's rows contiguous.
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
    keys: CacheRows,
    /// `[n_kv_heads, capacity, head_dim]`.
    values: CacheRows,
    n_kv_heads: usize,
    head_dim: usize,
    capacity: usize,
}

/// Zeros at first, which the system provides only when a page of them is touched.
#[derive(Clone, Debug)]
enum CacheRows {
    F32(Vec<f32>),
    /// The bits of half-precision floats.
    F16(Vec<u16>),
    /// Whole blocks.
    Q8_0(Vec<u8>),
}

impl CacheRows {
    fn zeros(cache_type: CacheType, len: usize) -> Self {
        match cache_type {
            CacheType::F32 => CacheRows::F32(vec![0.0; len]),
            CacheType::F16 => CacheRows::F16(vec![0; len]),
            CacheType::Q8_0 => CacheRows::Q8_0(vec![0; cache_type.row_bytes(len)]),
        }
    }

    fn store(&mut self, start: usize, values: &[f32]) {
        let range = start..start + values.len();
        match self {
            CacheRows::F32(rows) => rows[range].copy_from_slice(values),
            CacheRows::F16(rows) => {
                let rows: &mut [f16] = rows[range].reinterpret_cast_mut();
                rows.convert_from_f32_slice(values);
            }
            CacheRows::Q8_0(rows) => {
                let [start, end] = [range.start, range.end].map(|at| CacheType::Q8_0.row_bytes(at));
                quant::quantize(DType::Q8_0, values, &mut rows[start..end]);
            }
        }
    }
}

impl KvCache {
    /// Reserves room for `capacity` positions. Pages that are never written cost nothing.
    ///
    /// # Panics
    /// For a type that [`CacheType::check`] refuses, and for more positions than can be addressed,
    /// which [`capacity::check`](crate::capacity::check) refuses.
    pub fn new(config: &DecoderConfig, cache_type: CacheType, capacity: usize) -> Self {
        assert!(cache_type.check(config).is_ok());
        let n_values = capacity.checked_mul(config.kv_dim());
        let n_values = n_values.expect("as many positions as can be addressed");
        let layer = || LayerCache {
            keys: CacheRows::zeros(cache_type, n_values),
            values: CacheRows::zeros(cache_type, n_values),
            n_kv_heads: config.n_kv_heads,
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
    pub fn bytes(config: &DecoderConfig, cache_type: CacheType, capacity: usize) -> u64 {
        let per_position = 2
            * cache_type.row_bytes(config.head_dim()) as u64
            * config.n_layers as u64
            * config.n_kv_heads as u64;
        per_position.saturating_mul(capacity as u64)
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

    pub(super) fn layer(&self, index: usize) -> &LayerCache {
        &self.layers[index]
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
        let kv_dim = self.n_kv_heads * head_dim;
        for (cache, rows) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (i, row) in rows.chunks_exact(kv_dim).enumerate() {
                for (head, part) in row.chunks_exact(head_dim).enumerate() {
                    cache.store((head * capacity + first + i) * head_dim, part);
                }
            }
        }
    }

    /// All keys.
    pub fn keys(&self) -> StoredHeads<'_> {
        self.heads(&self.keys)
    }

    /// All values.
    pub fn values(&self) -> StoredHeads<'_> {
        self.heads(&self.values)
    }

    fn heads<'a>(&self, rows: &'a CacheRows) -> StoredHeads<'a> {
        match rows {
            CacheRows::F32(rows) => StoredHeads::F32(self.view(rows, self.head_dim)),
            CacheRows::F16(rows) => {
                StoredHeads::F16(self.view(rows.reinterpret_cast(), self.head_dim))
            }
            CacheRows::Q8_0(rows) => {
                StoredHeads::Q8_0(self.view(bytemuck::cast_slice(rows), self.head_dim / UNIT))
            }
        }
    }

    fn view<'a, T>(&self, data: &'a [T], row_stride: usize) -> Heads<'a, T> {
        Heads {
            data,
            offset: 0,
            head_stride: self.capacity * row_stride,
            row_stride,
        }
    }
}
