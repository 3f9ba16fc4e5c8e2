//! A single sequence with its own buffers: a [`Sequence`] and a [`Workspace`].
//!
//! Programs with several sequences of a model share a workspace instead.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::kv_cache::CacheType;
use crate::model::observer::Observer;
pub use crate::model::sequence::{Input, Sequence, SequencePart};
use crate::ops::RowRole;
use crate::workspace::{MAX_ROWS, Workspace};

/// The most positions whose logits are computed at a time where they are computed after others.
pub const LOGIT_ROWS: usize = 8;

/// The state of one sequence.
#[derive(Debug)]
pub struct Session {
    sequence: Sequence,
    workspace: Workspace,
    /// Which row of the logits is current.
    row: usize,
    /// How many there are.
    n_rows: usize,
}

impl Session {
    /// An empty sequence with room for `context` positions, its cache of the model's own type.
    pub fn new(model: &Model, context: usize) -> Self {
        Self::with_cache(model, context, model.cache_type())
    }

    /// An empty sequence with room for `context` positions.
    pub fn with_cache(model: &Model, context: usize, cache_type: CacheType) -> Self {
        Session {
            sequence: Sequence::with_cache(model, context, cache_type),
            workspace: Workspace::with_room(model, context),
            row: 0,
            n_rows: 1,
        }
    }

    /// Bytes that a session with room for `context` positions allocates, with a cache of the
    /// model's own type.
    pub fn bytes(model: &Model, context: usize) -> u64 {
        Sequence::bytes(model, context).saturating_add(Workspace::bytes(model, context))
    }

    /// Positions computed so far.
    pub fn len(&self) -> usize {
        self.sequence.len()
    }

    /// Whether nothing has been computed yet.
    pub fn is_empty(&self) -> bool {
        self.sequence.is_empty()
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.sequence.capacity()
    }

    /// The model that it runs.
    pub fn model(&self) -> &Model {
        self.sequence.model()
    }

    /// Logits of the token after the last position, `[vocab_size]`; zeros before the first.
    pub fn logits(&self) -> &[f32] {
        self.workspace.logits(self.row)
    }

    /// The same, to be changed by a sampler.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        self.workspace.logits_mut(self.row)
    }

    /// Appends `ids`, tokens of an answer, and computes the logits after each: the same as
    /// [`Session::step`] computes one by one. Those after the first are current then;
    /// [`Session::next_logits`] goes on to the others. Allocates only where no call looked as far.
    ///
    /// # Errors
    /// As [`Session::extend`], and for more ids than are computed together.
    pub fn look_ahead(&mut self, ids: &[u32]) -> Result<()> {
        self.check_together(ids)?;
        let inputs = [Input::Tokens(ids)];
        self.compute(RowRole::Answer, &inputs, ids.len().max(1), &mut ())
    }

    /// Positions that are computed together.
    pub fn batch(&self) -> usize {
        self.workspace.batch()
    }

    /// Appends `ids`, no more than are computed together, as a prompt. Leaves the logits after each
    /// to [`Session::logits_after`].
    ///
    /// # Errors
    /// As [`Session::extend`], and for more ids than are computed together.
    pub fn extend_together(&mut self, ids: &[u32]) -> Result<()> {
        self.check_together(ids)?;
        let inputs = [Input::Tokens(ids)];
        let mut part = SequencePart::new(&mut self.sequence, &inputs, 0);
        self.workspace.compute_all(&mut part)
    }

    /// Computes the logits after each of `rows`, counted from the first position that the last call
    /// of [`Session::extend_together`] appended: `[rows, vocab_size]`.
    ///
    /// # Panics
    /// For more than [`LOGIT_ROWS`], or positions that call did not append.
    pub fn logits_after(&mut self, rows: Range<usize>) -> &[f32] {
        assert!(rows.len() <= LOGIT_ROWS);
        (self.row, self.n_rows) = (0, rows.len());
        self.workspace.logits_after(rows)
    }

    /// Makes the logits after the next position of a look ahead the current ones.
    ///
    /// # Panics
    /// Where it was not that long.
    pub fn next_logits(&mut self) {
        assert!(self.row + 1 < self.n_rows);
        self.row += 1;
    }

    /// Forgets all positions from `len` on. The logits stay those of the last call.
    pub fn truncate(&mut self, len: usize) {
        self.sequence.truncate(len);
    }

    /// Appends one generated token. Allocates nothing.
    ///
    /// # Errors
    /// As [`Session::extend`].
    pub fn step(&mut self, id: u32) -> Result<()> {
        let inputs = [Input::Tokens(&[id])];
        self.compute(RowRole::Answer, &inputs, 1, &mut ())
    }

    /// Appends `inputs`, a prompt or a part of it, and computes the logits of what comes next. Where
    /// a prompt is cut makes no difference to any bit.
    ///
    /// # Errors
    /// [`Kind::Capacity`](crate::Kind::Capacity) where there is not enough room,
    /// [`Kind::Input`](crate::Kind::Input) for ids outside the vocabulary, rows of another width
    /// than the decoder's, or nothing at all, [`Kind::Model`](crate::Kind::Model) where the logits
    /// are not finite, with the stage that was the first. Nothing has been computed then.
    pub fn extend(&mut self, inputs: &[Input]) -> Result<()> {
        self.extend_observed(inputs, &mut ())
    }

    /// [`Session::extend`] with a look at the intermediate values.
    ///
    /// # Errors
    /// As [`Session::extend`].
    pub fn extend_observed<O: Observer>(
        &mut self,
        inputs: &[Input],
        observer: &mut O,
    ) -> Result<()> {
        self.compute(RowRole::Prompt, inputs, 1, observer)
    }

    /// Appends `inputs` and computes the logits after each of the last `n_rows` positions.
    fn compute<O: Observer>(
        &mut self,
        role: RowRole,
        inputs: &[Input],
        n_rows: usize,
        observer: &mut O,
    ) -> Result<()> {
        let mut part = [SequencePart::new(&mut self.sequence, inputs, n_rows)];
        self.workspace
            .compute_while(role, &mut part, observer, &mut |_| true)?;
        (self.row, self.n_rows) = (0, n_rows);
        Ok(())
    }

    /// Fails for more ids than are computed together.
    fn check_together(&self, ids: &[u32]) -> Result<()> {
        let most = self.capacity().clamp(1, MAX_ROWS);
        if ids.len() > most {
            return Err(Error::capacity(format!(
                "{} positions are too many to compute together; up to {most} are",
                ids.len(),
            )));
        }
        Ok(())
    }
}
