//! What a conversion starts from: a checkpoint, a GGUF file of floats, or random weights of a shape.

mod gguf_file;

use std::path::Path;

use owl2::Result;
use owl2::gguf::names::{self, visual};
use owl2::gguf::write::Metadata;
use owl2::model::config::Config;
use owl2::prompt::Template;
use owl2::sampler::Sampling;
use owl2::tokenizer::Vocabulary;

use crate::checkpoint::{Checkpoint, TensorSource};
use crate::mapping::{self, Extra, Mapping};

/// Whose names and shapes the tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The checkpoint's.
    Checkpoint,
    /// Those of the file to be written.
    Gguf,
}

/// Everything a file is made from.
pub struct ConversionInput {
    /// The weights.
    pub tensors: Box<dyn TensorSource>,
    /// What they are called.
    pub naming: Naming,
    /// Hyper-parameters.
    pub config: Config,
    /// What else the file says: tokenizer, sampling, prompt template.
    pub metadata: Metadata,
    /// `general.name`.
    pub name: String,
    /// What to do about tensors that are not part of the model.
    pub extra: Extra,
}

impl ConversionInput {
    /// Opens a GGUF file of floats.
    ///
    /// # Errors
    /// [`Kind::Io`](owl2::Kind::Io) where it cannot be read, [`Kind::Model`](owl2::Kind::Model),
    /// naming the key or tensor, where it is no model that can be converted, or is quantized.
    pub fn open_gguf(path: &Path) -> Result<Self> {
        gguf_file::open(path).map_err(|e| e.in_file(path))
    }

    /// Maps every tensor of the file to be written, in its order.
    ///
    /// # Errors
    /// As [`mapping::map`].
    pub fn map(&self) -> Result<Mapping> {
        let tensors = self.tensors.as_ref();
        match self.naming {
            Naming::Checkpoint => mapping::map(&self.config, tensors, self.extra),
            Naming::Gguf => mapping::map_same(&self.config, tensors, self.extra),
        }
    }
}

impl From<Checkpoint> for ConversionInput {
    fn from(checkpoint: Checkpoint) -> Self {
        ConversionInput {
            naming: Naming::Checkpoint,
            config: checkpoint.config().clone(),
            metadata: metadata(checkpoint.vocabulary(), checkpoint.sampling()),
            name: checkpoint.name().to_owned(),
            tensors: Box::new(checkpoint),
            extra: Extra::Refuse,
        }
    }
}

/// What the file of an mPLUG-Owl2 model says beside its hyper-parameters.
pub(crate) fn metadata(vocabulary: &Vocabulary, sampling: &Sampling) -> Metadata {
    let mut metadata = Metadata::default();
    vocabulary.write(&mut metadata);
    sampling.write(&mut metadata);
    metadata.set(
        names::key(names::ARCHITECTURE, visual::PROMPT_TEMPLATE),
        Template::MplugOwl2.to_string(),
    );
    metadata
}
