//! What a conversion starts from: a checkpoint, or random weights of a shape.

use owl2::model::config::Config;
use owl2::sampler::Sampling;
use owl2::tokenizer::Vocabulary;

use crate::checkpoint::{Checkpoint, TensorSource};

/// Everything a file is made from.
pub struct Input {
    /// The weights, under the checkpoint's names.
    pub tensors: Box<dyn TensorSource>,
    /// Hyper-parameters.
    pub config: Config,
    /// The pieces of the tokenizer.
    pub vocabulary: Vocabulary,
    /// How tokens are chosen by default.
    pub sampling: Sampling,
    /// `general.name`.
    pub name: String,
}

impl From<Checkpoint> for Input {
    fn from(checkpoint: Checkpoint) -> Self {
        Input {
            config: checkpoint.config().clone(),
            vocabulary: checkpoint.vocabulary().clone(),
            sampling: checkpoint.sampling().clone(),
            name: checkpoint.name().to_owned(),
            tensors: Box::new(checkpoint),
        }
    }
}
