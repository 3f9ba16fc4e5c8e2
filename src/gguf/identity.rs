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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::DType;
    use crate::gguf::write::{Metadata, TensorDecl, Writer};

    /// A file with one tensor, of these bytes.
    fn fingerprint(name: &str, tensor: &[u8]) -> [u8; 32] {
        let mut metadata = Metadata::default();
        metadata.set("general.name", name);
        let declared = TensorDecl {
            name: "weight".into(),
            dtype: DType::F32,
            shape: vec![tensor.len() / 4],
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        let mut writer = Writer::create(&path, &metadata, &[declared], false).unwrap();
        writer.write(tensor).unwrap();
        writer.finish().unwrap();
        Identity::new(&Gguf::open(&path).unwrap()).fingerprint()
    }

    #[test]
    fn the_header_and_the_beginning_of_each_tensor_tell_files_apart() {
        let tensor = vec![0; 2 * SAMPLE_BYTES];
        let one = fingerprint("a", &tensor);
        assert_eq!(fingerprint("a", &tensor), one);
        assert_ne!(fingerprint("b", &tensor), one);
        assert_ne!(fingerprint("a", &tensor[..tensor.len() - 4]), one);
        for (at, counts) in [(0, true), (SAMPLE_BYTES - 1, true), (SAMPLE_BYTES, false)] {
            let mut other = tensor.clone();
            other[at] = 1;
            assert_eq!(fingerprint("a", &other) != one, counts, "byte {at}");
        }
    }
}
