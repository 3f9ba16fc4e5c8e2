//! One sequence in progress: what has been computed, and the logits of what comes next.
//!
//! This is the only stateful part; every front (command line, server, bindings) drives it.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::kernels::float::all_finite;
use crate::model::Model;
use crate::model::adaptive::{Modality, Run};
use crate::model::decoder::Scratch;
use crate::model::kv_cache::{CacheType, KvCache};
use crate::model::observer::{FirstNotFinite, Observer};
use crate::ops::Role;

/// The most positions of a prompt that are computed together. More would only cost memory: the weights
/// are read once a batch, and at this size reading them no longer shows.
const BATCH: usize = 512;
/// The most positions whose logits are computed at a time: the one-token kernels take so many.
pub const LOGIT_ROWS: usize = 8;

/// A piece of a sequence.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Token ids.
    Tokens(&'a [u32]),
    /// Rows of an encoded picture, as [`Model::encode_image`] makes them.
    Image(&'a [f32]),
}

/// The state of one sequence.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Model,
    cache: KvCache,
    scratch: Scratch,
    /// Positions that `scratch` has room for.
    batch: usize,
    runs: Vec<Run>,
    /// `[rows, vocab_size]`: after each position that a look ahead was at.
    logits: Vec<f32>,
    /// Which of these rows is current.
    row: usize,
}

impl<'m> Session<'m> {
    /// An empty sequence with room for `context` positions, of which up to `batch` are computed
    /// together.
    fn with_batch(model: &'m Model, context: usize, cache_type: CacheType, batch: usize) -> Self {
        let config = &model.config().decoder;
        Session {
            model,
            cache: KvCache::new(config, cache_type, context),
            scratch: Scratch::new(model.decoder(), batch),
            batch,
            runs: Vec::with_capacity(batch),
            logits: vec![0.0; config.vocab_size],
            row: 0,
        }
    }

    /// An empty sequence with room for `context` positions, its cache of the model's own type.
    pub fn new(model: &'m Model, context: usize) -> Self {
        Self::with_cache(model, context, model.cache_type())
    }

    /// An empty sequence with room for `context` positions.
    pub fn with_cache(model: &'m Model, context: usize, cache_type: CacheType) -> Self {
        Self::with_batch(model, context, cache_type, BATCH.min(context).max(1))
    }

    /// Bytes that a session with room for `context` positions allocates, with a cache of the
    /// model's own type.
    pub fn bytes(model: &Model, context: usize) -> u64 {
        let config = &model.config().decoder;
        KvCache::bytes(config, model.cache_type(), context)
            + Scratch::bytes(config, BATCH.min(context).max(1))
            + (config.vocab_size * size_of::<f32>()) as u64
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

    /// The model that it runs.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Keys and values of its positions.
    pub(crate) fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The same, to be read from a file.
    pub(crate) fn cache_mut(&mut self) -> &mut KvCache {
        &mut self.cache
    }

    /// Logits of the token after the last position, `[vocab_size]`; zeros before the first.
    pub fn logits(&self) -> &[f32] {
        let vocab_size = self.model.config().decoder.vocab_size;
        &self.logits[self.row * vocab_size..(self.row + 1) * vocab_size]
    }

    /// The same, to be changed by a sampler.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        let vocab_size = self.model.config().decoder.vocab_size;
        &mut self.logits[self.row * vocab_size..(self.row + 1) * vocab_size]
    }

    /// Appends `ids`, tokens of an answer, and computes the logits after each: the same as
    /// [`Session::step`] computes one by one. Those after the first are current then;
    /// [`Session::next_logits`] goes on to the others. Allocates only where no call looked as far.
    ///
    /// # Errors
    /// As [`Session::extend`], and for more ids than are computed together.
    pub fn look_ahead(&mut self, ids: &[u32]) -> Result<()> {
        let vocab_size = self.model.config().decoder.vocab_size;
        self.check_together(ids)?;
        let n_rows = ids.len().max(1);
        if self.logits.len() < n_rows * vocab_size {
            self.logits.resize(n_rows * vocab_size, 0.0);
        }
        self.advance(
            Role::Answer,
            &[Input::Tokens(ids)],
            n_rows,
            &mut (),
            &mut |_| true,
        )?;
        Ok(())
    }

    /// Positions that are computed together.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Appends `ids`, no more than are computed together, as a prompt. Leaves the logits after each
    /// to [`Session::logits_after`].
    ///
    /// # Errors
    /// As [`Session::extend`], and for more ids than are computed together.
    pub fn extend_together(&mut self, ids: &[u32]) -> Result<()> {
        self.check_together(ids)?;
        let inputs = [Input::Tokens(ids)];
        self.advance(Role::Prompt, &inputs, 0, &mut (), &mut |_| true)?;
        Ok(())
    }

    /// Computes the logits after each of `rows`, counted from the first position that the last call
    /// of [`Session::extend_together`] appended: `[rows, vocab_size]`.
    ///
    /// # Panics
    /// For more than [`LOGIT_ROWS`], or positions that call did not append.
    pub fn logits_after(&mut self, rows: Range<usize>) -> &[f32] {
        let n_rows = rows.len();
        assert!(n_rows <= LOGIT_ROWS);
        assert!(rows.end <= self.runs.last().map_or(0, |run| run.rows.end));
        let n_logits = n_rows * self.model.config().decoder.vocab_size;
        if self.logits.len() < n_logits {
            self.logits.resize(n_logits, 0.0);
        }
        self.row = 0;
        let (model, logits) = (self.model, &mut self.logits[..n_logits]);
        let compute = model.compute();
        let decoder = model.decoder();
        decoder.logits(compute, rows, &mut self.scratch, logits, &mut ());
        logits
    }

    /// Makes the logits after the next position of a look ahead the current ones.
    ///
    /// # Panics
    /// Where it was not that long.
    pub fn next_logits(&mut self) {
        let vocab_size = self.model.config().decoder.vocab_size;
        assert!((self.row + 1) * vocab_size < self.logits.len());
        self.row += 1;
    }

    /// Forgets all positions from `len` on. The logits stay those of the last call.
    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    /// Appends one generated token. Allocates nothing.
    ///
    /// # Errors
    /// As [`Session::extend`].
    pub fn step(&mut self, id: u32) -> Result<()> {
        let inputs = [Input::Tokens(&[id])];
        self.advance(Role::Answer, &inputs, 1, &mut (), &mut |_| true)
            .map(drop)
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
        self.advance(Role::Prompt, inputs, 1, observer, &mut |_| true)
            .map(drop)
    }

    /// [`Session::extend`] that can be stopped: before each batch but the first, `go_on` is given
    /// the positions of the sequence and says whether to compute more. `Ok(false)` is a sequence
    /// that ends with those, and has no new logits.
    ///
    /// # Errors
    /// As [`Session::extend`].
    pub fn extend_while(
        &mut self,
        inputs: &[Input],
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool> {
        self.advance(Role::Prompt, inputs, 1, &mut (), go_on)
    }

    /// Appends `inputs` and computes the logits after each of the last `n_rows` positions, as one
    /// turn: sessions of a model that are used at once alternate by whole calls.
    fn advance<O: Observer>(
        &mut self,
        role: Role,
        inputs: &[Input],
        n_rows: usize,
        observer: &mut O,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool> {
        let threads = &self.model.compute().threads;
        threads.enter(|| self.advance_in_turn(role, inputs, n_rows, observer, go_on))
    }

    fn advance_in_turn<O: Observer>(
        &mut self,
        role: Role,
        inputs: &[Input],
        n_rows: usize,
        observer: &mut O,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool> {
        let n_new = self.check(inputs)?;
        let start = self.len();
        if !self.compute_inputs(role, inputs, n_new, n_rows, observer, go_on) {
            return Ok(false);
        }
        let vocab_size = self.model.config().decoder.vocab_size;
        if !all_finite(&self.logits[..n_rows * vocab_size]) {
            // Once more, with a look at each stage.
            let mut first = FirstNotFinite::default();
            self.truncate(start);
            self.compute_inputs(role, inputs, n_new, n_rows, &mut first, &mut |_| true);
            self.truncate(start);
            return Err(self.model.blame(first.error("the output head")));
        }
        Ok(true)
    }

    /// [`Session::advance`] for inputs of `n_new` positions that have been checked; whether all of
    /// them were computed.
    fn compute_inputs<O: Observer>(
        &mut self,
        role: Role,
        inputs: &[Input],
        n_new: usize,
        n_rows: usize,
        observer: &mut O,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> bool {
        let longest = self.len() + n_new;
        let model = self.model;
        let width = model.config().decoder.hidden_size;
        // Pieces of equal length, since a short one at the end would take longer than its share. The
        // rows whose logits are wanted have to be in the last one.
        let n_pieces = n_new.div_ceil(self.batch);
        let piece = n_new.div_ceil(n_pieces).max(n_rows);

        let mut n = 0;
        self.runs.clear();
        for input in inputs {
            for i in 0..input.n_positions(width) {
                if n == piece {
                    // Its rows only give keys and values to those that follow.
                    self.compute(role, 0, longest, observer);
                    self.runs.clear();
                    n = 0;
                    if !go_on(self.len()) {
                        return false;
                    }
                }
                let row = &mut self.scratch.x[n * width..(n + 1) * width];
                match input {
                    Input::Tokens(ids) => model.decoder().embed(ids[i], row),
                    Input::Image(rows) => row.copy_from_slice(&rows[i * width..(i + 1) * width]),
                }
                append(&mut self.runs, input.modality());
                n += 1;
            }
        }
        self.compute(
            role,
            if n_rows == 0 { n } else { n_rows },
            longest,
            observer,
        );
        if n_rows == 0 {
            return true;
        }
        let rows = n - n_rows..n;
        let logits = &mut self.logits[..n_rows * model.config().decoder.vocab_size];
        model
            .decoder()
            .logits(model.compute(), rows, &mut self.scratch, logits, observer);
        self.row = 0;
        true
    }

    /// Passes the rows gathered in `scratch.x` through the decoder; what comes out is wanted of the
    /// last `n_wanted`.
    fn compute<O: Observer>(
        &mut self,
        role: Role,
        n_wanted: usize,
        longest: usize,
        observer: &mut O,
    ) {
        self.model.decoder().forward(
            self.model.compute(),
            role,
            &self.runs,
            n_wanted,
            longest,
            &mut self.cache,
            &mut self.scratch,
            observer,
        );
    }

    /// Fails for more ids than are computed together.
    fn check_together(&self, ids: &[u32]) -> Result<()> {
        if ids.len() > self.batch {
            return Err(Error::capacity(format!(
                "{} positions are too many to compute together; up to {} are",
                ids.len(),
                self.batch
            )));
        }
        Ok(())
    }

    /// Checks `inputs` and counts their positions.
    fn check(&self, inputs: &[Input]) -> Result<usize> {
        let config = &self.model.config().decoder;
        let mut n_new = 0;
        for input in inputs {
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
            n_new += input.n_positions(config.hidden_size);
        }
        if n_new == 0 {
            return Err(Error::input("there is nothing to compute"));
        }
        if n_new > self.capacity() - self.len() {
            return Err(Error::capacity(format!(
                "{} positions are used and {n_new} more are asked for, but the context has {}; raise it with --ctx-size",
                self.len(),
                self.capacity()
            )));
        }
        Ok(n_new)
    }
}

impl Input<'_> {
    fn modality(&self) -> Modality {
        match self {
            Input::Tokens(_) => Modality::Text,
            Input::Image(_) => Modality::Image,
        }
    }

    fn n_positions(&self, width: usize) -> usize {
        match self {
            Input::Tokens(ids) => ids.len(),
            Input::Image(rows) => rows.len() / width,
        }
    }
}

/// Adds one position to the runs of a batch.
fn append(runs: &mut Vec<Run>, modality: Modality) {
    match runs.last_mut() {
        Some(run) if run.modality == modality => run.rows.end += 1,
        last => {
            let start = last.map_or(0, |run| run.rows.end);
            runs.push(Run {
                modality,
                rows: start..start + 1,
            });
        }
    }
}
