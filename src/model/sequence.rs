//! A sequence: its KV cache, and the part of it that a pass computes.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::adaptive::Modality;
use crate::model::kv_cache::{CacheType, KvCache};

/// A piece of a sequence.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Token ids.
    Tokens(&'a [u32]),
    /// Rows of an encoded picture, as [`Model::encode_image`] makes them.
    Image(&'a [f32]),
}

impl Input<'_> {
    pub(crate) fn modality(&self) -> Modality {
        match self {
            Input::Tokens(_) => Modality::Text,
            Input::Image(_) => Modality::Image,
        }
    }

    /// Positions that it takes; `width` is that of a row.
    pub(crate) fn n_positions(&self, width: usize) -> usize {
        match self {
            Input::Tokens(ids) => ids.len(),
            Input::Image(rows) => rows.len() / width,
        }
    }
}

/// The keys and values of one sequence. What computes them belongs to a
/// [`Workspace`](crate::workspace::Workspace), one for all sequences of a model.
#[derive(Clone, Debug)]
pub struct Sequence {
    model: Model,
    pub(super) cache: KvCache,
}

impl Sequence {
    /// An empty sequence with room for `capacity` positions, its cache of the model's own type.
    /// Positions that are never computed cost nothing.
    ///
    /// # Panics
    /// For more positions than can be addressed, which
    /// [`capacity::check`](crate::capacity::check) refuses.
    pub fn new(model: &Model, capacity: usize) -> Self {
        Self::with_cache(model, capacity, model.cache_type())
    }

    /// The same, with a cache of another type.
    ///
    /// # Panics
    /// As [`Sequence::new`], and for a type that [`CacheType::check`] refuses.
    pub fn with_cache(model: &Model, capacity: usize, cache_type: CacheType) -> Self {
        Sequence {
            model: model.clone(),
            cache: KvCache::new(&model.config().decoder, cache_type, capacity),
        }
    }

    /// Bytes that a sequence of `n_positions` takes, with a cache of the model's own type.
    pub fn bytes(model: &Model, n_positions: usize) -> u64 {
        KvCache::bytes(&model.config().decoder, model.cache_type(), n_positions)
    }

    /// The model that it belongs to.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions computed so far.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether nothing has been computed yet.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    /// Takes over the first `len` positions of `other` in place of its own: what computing them again
    /// would give, bit by bit.
    ///
    /// # Panics
    /// Where there is no room for as many, `other` has not as many, or is of another model or has a
    /// cache of another type.
    pub fn copy_prefix(&mut self, other: &Sequence, len: usize) {
        assert!(self.model.is_same(&other.model));
        self.cache.copy_prefix(&other.cache, len);
    }

    /// Keys and values of its positions.
    pub(crate) fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The same, to be read from a file.
    pub(crate) fn cache_mut(&mut self) -> &mut KvCache {
        &mut self.cache
    }
}

/// What one sequence has computed in a pass.
#[derive(Debug)]
pub struct SequencePart<'a> {
    pub(super) sequence: &'a mut Sequence,
    inputs: &'a [Input<'a>],
    /// Of how many of its last positions the logits are wanted.
    n_logits: usize,
    /// Positions that the sequence had before.
    start: usize,
    /// Positions that `inputs` take.
    n_new: usize,
}

impl<'a> SequencePart<'a> {
    /// Appends `inputs` to `sequence`; the logits after the last `n_logits` of these positions are
    /// wanted.
    pub fn new(sequence: &'a mut Sequence, inputs: &'a [Input<'a>], n_logits: usize) -> Self {
        let width = sequence.model.config().decoder.hidden_size;
        SequencePart {
            start: sequence.len(),
            n_new: inputs.iter().map(|input| input.n_positions(width)).sum(),
            sequence,
            inputs,
            n_logits,
        }
    }

    /// What is appended.
    pub(crate) fn inputs(&self) -> &'a [Input<'a>] {
        self.inputs
    }

    /// Positions that are appended.
    pub(crate) fn n_new(&self) -> usize {
        self.n_new
    }

    /// Where the first of them stands in the sequence.
    pub(crate) fn first_new(&self) -> usize {
        self.start
    }

    /// How many of them have been computed.
    pub(crate) fn n_done(&self) -> usize {
        self.sequence.len() - self.start
    }

    /// Positions of the sequence in the end.
    pub(crate) fn longest(&self) -> usize {
        self.start + self.n_new
    }

    /// Of how many of its last positions the logits are wanted.
    pub(crate) fn n_logits(&self) -> usize {
        self.n_logits
    }

    /// Makes the sequence what it was.
    pub(crate) fn undo(&mut self) {
        self.sequence.truncate(self.start);
    }

    /// Fails where it cannot be computed with `model`.
    pub(crate) fn check(&self, model: &Model) -> Result<()> {
        if !self.sequence.model.is_same(model) {
            return Err(Error::input(
                "the sequence belongs to another model than the one that is to compute it",
            ));
        }
        let config = &model.config().decoder;
        for input in self.inputs {
            match input {
                Input::Tokens(ids) => {
                    if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
                        return Err(Error::input(format!(
                            "token id {id} is outside the vocabulary of {}",
                            config.vocab_size
                        )));
                    }
                }
                Input::Image(rows) if !rows.len().is_multiple_of(config.hidden_size) => {
                    return Err(Error::input(format!(
                        "{} picture values are no whole rows of {}",
                        rows.len(),
                        config.hidden_size
                    )));
                }
                Input::Image(_) => {}
            }
        }
        if self.n_new == 0 {
            return Err(Error::input("there is nothing to compute"));
        }
        if self.n_logits > self.n_new {
            return Err(Error::input(format!(
                "the logits after {} positions are asked for, but {} are computed",
                self.n_logits, self.n_new
            )));
        }
        let sequence = &self.sequence;
        if self.n_new > sequence.capacity() - sequence.len() {
            return Err(Error::capacity(format!(
                "{} positions are used and {} more are asked for, but the context has {}",
                sequence.len(),
                self.n_new,
                sequence.capacity()
            ))
            .advise("raise", "context", ""));
        }
        Ok(())
    }
}
