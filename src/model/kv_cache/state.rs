//! The positions of a cache as bytes, to be written to a file and read again, or copied.
//!
//! Layer by layer, keys then values, head by head: the rows of all positions as they lie in
//! memory. Only a program on a machine of the same byte order may read them.

use std::io::{self, Read, Write};
use std::ops::Range;

use super::{CacheRows, CacheType, KvCache, LayerCache};

impl KvCache {
    /// Bytes of one position.
    pub(crate) fn position_bytes(&self) -> usize {
        let per_layer = |layer: &LayerCache| 2 * layer.n_kv_heads * layer.row_bytes();
        self.layers.iter().map(per_layer).sum()
    }

    /// Writes all positions.
    pub(crate) fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        for layer in &self.layers {
            for rows in [&layer.keys, &layer.values] {
                for head in layer.heads_of(self.len) {
                    out.write_all(&rows.bytes()[head])?;
                }
            }
        }
        Ok(())
    }

    /// Takes the first `len` positions of `other` in place of those there are.
    ///
    /// # Panics
    /// Where there is no room for as many, `other` has fewer, or keeps them otherwise.
    pub(crate) fn copy_prefix(&mut self, other: &KvCache, len: usize) {
        assert!(len <= self.capacity && len <= other.len);
        assert_eq!(self.layers.len(), other.layers.len());
        for (layer, other) in self.layers.iter_mut().zip(&other.layers) {
            let heads = layer.heads_of(len);
            let others = other.heads_of(len);
            for (rows, other) in [
                (&mut layer.keys, &other.keys),
                (&mut layer.values, &other.values),
            ] {
                assert_eq!(rows.cache_type(), other.cache_type());
                for (head, other_head) in heads.clone().zip(others.clone()) {
                    rows.bytes_mut()[head].copy_from_slice(&other.bytes()[other_head]);
                }
            }
        }
        self.len = len;
    }

    /// Reads `len` positions in place of those there are; none are left where that fails.
    ///
    /// # Panics
    /// Where there is no room for as many.
    pub(crate) fn restore(&mut self, len: usize, input: &mut dyn Read) -> io::Result<()> {
        assert!(len <= self.capacity);
        self.len = 0;
        for layer in &mut self.layers {
            let heads = layer.heads_of(len);
            for rows in [&mut layer.keys, &mut layer.values] {
                for head in heads.clone() {
                    input.read_exact(&mut rows.bytes_mut()[head])?;
                }
            }
        }
        self.len = len;
        Ok(())
    }
}

impl LayerCache {
    /// Bytes of one row of one head.
    fn row_bytes(&self) -> usize {
        self.keys.cache_type().row_bytes(self.head_dim)
    }

    /// The bytes of each head's first `len` rows.
    fn heads_of(&self, len: usize) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        let row_bytes = self.row_bytes();
        let capacity = self.capacity;
        (0..self.n_kv_heads).map(move |head| {
            let start = head * capacity * row_bytes;
            start..start + len * row_bytes
        })
    }
}

impl CacheRows {
    fn cache_type(&self) -> CacheType {
        match self {
            CacheRows::F32(_) => CacheType::F32,
            CacheRows::F16(_) => CacheType::F16,
            CacheRows::Q8_0(_) => CacheType::Q8_0,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            CacheRows::F32(rows) => bytemuck::cast_slice(rows),
            CacheRows::F16(rows) => bytemuck::cast_slice(rows),
            CacheRows::Q8_0(rows) => rows,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            CacheRows::F32(rows) => bytemuck::cast_slice_mut(rows),
            CacheRows::F16(rows) => bytemuck::cast_slice_mut(rows),
            CacheRows::Q8_0(rows) => rows,
        }
    }
}
