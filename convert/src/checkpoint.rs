//! A checkpoint directory: its configuration, vocabulary and tensors.

use std::path::Path;

use owl2::model::config::Config;
use owl2::sampler::Sampling;
use owl2::tokenizer::Vocabulary;
use owl2::{Error, Result};

/// How a tensor's values are stored in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// The upper halves of 32-bit floats.
    BF16,
}

/// What a checkpoint says about a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMeta {
    /// Its name.
    pub name: String,
    /// Dimensions, slowest first.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub element: ElementType,
}

/// Named tensors that can be read piece by piece, from several threads at once.
pub trait TensorSource: Sync {
    /// Names in any order; `inv_freq` and unused tables are left out.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;
    /// What is known of the tensor called `name`.
    fn meta(&self, name: &str) -> Option<&TensorMeta>;
    /// Reads elements `start .. start + out.len()` of the row-major flattened tensor as `f32`.
    ///
    /// # Errors
    /// [`Kind::Io`](owl2::Kind::Io) where the shard cannot be read.
    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()>;
}

/// An open checkpoint directory.
pub struct Checkpoint {
    config: Config,
    vocabulary: Vocabulary,
    sampling: Sampling,
    name: String,
    tensors: std::collections::HashMap<String, TensorMeta>,
}

impl Checkpoint {
    /// Opens `dir`.
    ///
    /// # Errors
    /// Always.
    pub fn open(dir: &Path) -> Result<Self> {
        Err(Error::model("cannot be read yet").in_file(dir))
    }

    /// Merges an adapter.
    ///
    /// # Errors
    /// Always.
    pub fn with_lora(self, adapter_dir: &Path) -> Result<Self> {
        Err(Error::model("cannot be read yet").in_file(adapter_dir))
    }

    /// Hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Sampling.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl TensorSource for Checkpoint {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.keys().map(String::as_str))
    }

    fn meta(&self, name: &str) -> Option<&TensorMeta> {
        self.tensors.get(name)
    }

    fn read(&self, _: &str, _: usize, _: &mut [f32]) -> Result<()> {
        Ok(())
    }
}
