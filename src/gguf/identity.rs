//! Identifies a model file, and detects changes. Saved states and requests are checked against it.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Bytes, Gguf};
use crate::error::Result;

/// Bytes at the beginning of each tensor that count. Two files with the same header differ there,
/// as a model and its fine-tuned sister do.
const SAMPLE_BYTES: usize = 4096;

/// A file's bytes, and which of them tell it from others.
#[derive(Clone, Debug)]
pub struct Identity {
    bytes: Arc<Bytes>,
    samples: Vec<Range<usize>>,
}

impl Identity {
    /// The identity of an open file.
    pub fn new(gguf: &Gguf) -> Self {
        let tensors = gguf.tensors().iter().map(|tensor| tensor.range.clone());
        let header_end = tensors.clone().map(|range| range.start).min();
        let header = 0..header_end.unwrap_or(gguf.file_bytes());
        let samples = tensors.map(|range| range.start..range.end.min(range.start + SAMPLE_BYTES));
        Identity {
            bytes: gguf.bytes.clone(),
            samples: std::iter::once(header).chain(samples).collect(),
        }
    }

    /// Fails where the file was changed since it was opened.
    ///
    /// # Errors
    /// As [`Bytes::check_unchanged`].
    pub fn check_unchanged(&self) -> Result<()> {
        self.bytes.check_unchanged()
    }

    /// SHA-256 of the file's length, its header, and the first 4 KiB of each tensor. Reading all of
    /// a model would take as long as answering.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update((self.bytes.len() as u64).to_le_bytes());
        for range in &self.samples {
            hash.update(&self.bytes[range.clone()]);
        }
        hash.finalize().into()
    }
}
