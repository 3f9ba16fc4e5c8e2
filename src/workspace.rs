//! Computes sequences: buffers that all sequences of a model share, and passes over parts of several
//! sequences together.
//!
//! ```text
//!   parts -> rows, up to a batch -> every block -> rows that are wanted -> logits
//! ```
//!
//! A pass reads the weights once for all of its rows. Each part gets the same bits as when it is
//! computed alone, however passes are composed (docs/numerics.md).

use std::ops::Range;

use crate::capacity;
use crate::error::{Error, Result};
use crate::kernels::float::all_finite;
use crate::model::Model;
use crate::model::decoder::{Decoder, DecoderScratch};
use crate::model::observer::{FirstNotFinite, Observer};
use crate::model::pass::Pass;
use crate::model::sequence::{Input, SequencePart};
use crate::ops::RowRole;

/// The most rows of a pass. More would only cost memory: the weights are read once a pass, and at this
/// size reading them no longer shows.
pub const MAX_ROWS: usize = 512;

/// Buffers to compute sequences of a model with, and the logits of the last ones. A server needs one,
/// however many sequences it has.
#[derive(Debug)]
pub struct Workspace {
    model: Model,
    scratch: DecoderScratch,
    /// Rows that `scratch` has room for.
    batch: usize,
    pass: Pass,
    /// `[rows, vocab_size]`.
    logits: Vec<f32>,
}

impl Workspace {
    /// One without buffers; they grow to what is computed.
    pub fn new(model: &Model) -> Self {
        Workspace {
            model: model.clone(),
            scratch: DecoderScratch::new(model.decoder(), 0),
            batch: 0,
            pass: Pass::default(),
            logits: Vec::new(),
        }
    }

    /// One that needs not grow for sequences of up to `n_positions`, or more that are computed
    /// together up to as many rows.
    pub fn with_room(model: &Model, n_positions: usize) -> Self {
        let mut workspace = Workspace::new(model);
        workspace.reserve(n_positions);
        workspace.reserve_logits(1);
        workspace
    }

    /// Bytes that one with room for `n_positions` takes.
    pub fn bytes(model: &Model, n_positions: usize) -> u64 {
        let config = &model.config().decoder;
        let logits = (config.vocab_size * size_of::<f32>()) as u64;
        DecoderScratch::bytes(config, n_positions.clamp(1, MAX_ROWS)) + logits
    }

    /// Bytes that its buffers take.
    pub fn held_bytes(&self) -> u64 {
        match self.batch {
            0 => 0,
            n => Workspace::bytes(&self.model, n),
        }
    }

    /// The model that it computes.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Rows that are computed together.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Makes room for passes of up to `n_rows`, or [`MAX_ROWS`] where that is less.
    pub fn reserve(&mut self, n_rows: usize) {
        let n_rows = n_rows.clamp(1, MAX_ROWS);
        if n_rows > self.batch {
            // The old buffers first, so that there are never both.
            self.scratch = DecoderScratch::new(self.model.decoder(), 0);
            self.scratch = DecoderScratch::new(self.model.decoder(), n_rows);
            self.pass.reserve(n_rows);
            self.batch = n_rows;
        }
    }

    /// Makes room for passes of `n_rows` and `n_logits` rows of logits, if there is memory for them.
    fn grow(&mut self, n_rows: usize, n_logits: usize) -> Result<()> {
        let n_rows = n_rows.min(MAX_ROWS);
        let mut bytes = 0;
        if n_rows > self.batch {
            bytes += Workspace::bytes(&self.model, n_rows) - self.held_bytes();
        }
        let n_more = (n_logits * self.vocab_size()).saturating_sub(self.logits.len());
        bytes += (n_more * size_of::<f32>()) as u64;
        let _promise = capacity::hold(bytes).map_err(|short| {
            Error::capacity(format!(
                "computing {n_rows} positions together takes {short}; compute fewer together, or \
                 close other programs"
            ))
        })?;
        self.reserve(n_rows);
        self.reserve_logits(n_logits);
        Ok(())
    }

    fn reserve_logits(&mut self, n_rows: usize) {
        let n_logits = n_rows * self.vocab_size();
        if self.logits.len() < n_logits {
            self.logits.resize(n_logits, 0.0);
        }
    }

    fn vocab_size(&self) -> usize {
        self.model.config().decoder.vocab_size
    }

    /// Appends to each part's sequence its inputs, all of them rows of `role`, and computes the logits
    /// that are wanted: [`Workspace::logits`] has them in the order of the parts. Any number of rows
    /// may be given; as many as fit are computed together.
    ///
    /// Threads that compute with one model take turns, by whole calls. Where neither rows nor logits
    /// are more than ever before, nothing is allocated.
    ///
    /// # Errors
    /// [`Kind::Capacity`](crate::Kind::Capacity) where a sequence has not enough room, or memory not
    /// enough for the buffers, [`Kind::Input`](crate::Kind::Input) for ids outside the vocabulary,
    /// rows of another width than the decoder's, a part with nothing to compute, or a sequence of
    /// another model, [`Kind::Model`](crate::Kind::Model) where logits are not finite, with the stage
    /// that was the first. The sequences are as they were then, those of the other parts too.
    pub fn compute(&mut self, role: RowRole, parts: &mut [SequencePart]) -> Result<()> {
        self.compute_while(role, parts, &mut (), &mut |_| true)
            .map(drop)
    }

    /// [`Workspace::compute`] with a look at the intermediate values, and a way to stop: before each
    /// pass but the first, `go_on` is given the rows computed so far and says whether to compute more.
    /// `Ok(false)` leaves the sequences with those, and no new logits.
    ///
    /// # Errors
    /// As [`Workspace::compute`].
    pub fn compute_while<O: Observer>(
        &mut self,
        role: RowRole,
        parts: &mut [SequencePart],
        observer: &mut O,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool> {
        let model = self.model.clone();
        model.compute().threads.enter(|| {
            for part in &*parts {
                part.check(&model)?;
            }
            let n_logits = parts.iter().map(SequencePart::n_logits).sum();
            self.grow(parts.iter().map(SequencePart::n_new).sum(), n_logits)?;
            if !self.passes(&model, role, parts, observer, go_on) {
                return Ok(false);
            }
            match all_finite(&self.logits[..n_logits * self.vocab_size()]) {
                true => Ok(true),
                false => Err(self.undo(&model, role, parts)),
            }
        })
    }

    /// Computes parts that were checked, pass by pass; whether to the end.
    fn passes<O: Observer>(
        &mut self,
        model: &Model,
        role: RowRole,
        parts: &mut [SequencePart],
        observer: &mut O,
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> bool {
        let n_rows: usize = parts.iter().map(SequencePart::n_new).sum();
        // Passes of equal length, since a short one at the end would take longer than its share.
        let n_passes = n_rows.div_ceil(self.batch).max(1);
        let n_together = n_rows.div_ceil(n_passes);
        let (mut n_done, mut n_logits) = (0, 0);
        while n_done < n_rows {
            if n_done > 0 && !go_on(n_done) {
                return false;
            }
            self.pass(model, role, parts, n_together, observer);
            n_done += self.pass.n();
            let n_wanted = self.pass.n_wanted();
            if n_wanted > 0 {
                self.write_logits(model.decoder(), 0..n_wanted, n_logits, observer);
                n_logits += n_wanted;
            }
        }
        true
    }

    /// Computes the next `n_together` rows, or as many as are left.
    fn pass<O: Observer>(
        &mut self,
        model: &Model,
        role: RowRole,
        parts: &mut [SequencePart],
        n_together: usize,
        observer: &mut O,
    ) {
        self.pass.clear();
        for part in &*parts {
            let n_done = part.n_done();
            let n = (part.n_new() - n_done).min(n_together - self.pass.n());
            self.pass.begin(part.first_new() + n_done, part.longest());
            self.gather_inputs(model, part.inputs(), n_done..n_done + n);
            // Those of its last rows that are in this pass.
            let n_before_wanted = part.n_new() - part.n_logits();
            self.pass
                .end((n_done + n).saturating_sub(n_before_wanted.max(n_done)));
        }
        model.decoder().forward(
            model.compute(),
            role,
            &self.pass,
            parts,
            &mut self.scratch,
            observer,
        );
    }

    /// Adds `positions` of `inputs` to the pass.
    fn gather_inputs(&mut self, model: &Model, inputs: &[Input], positions: Range<usize>) {
        let width = model.config().decoder.hidden_size;
        let mut end = 0;
        for input in inputs {
            let start = end;
            end += input.n_positions(width);
            let of_input =
                positions.start.clamp(start, end) - start..positions.end.clamp(start, end) - start;
            let first = self.pass.n() * width;
            let rows = &mut self.scratch.x[first..first + of_input.len() * width];
            match input {
                Input::Tokens(ids) => {
                    for (&id, row) in ids[of_input.clone()]
                        .iter()
                        .zip(rows.chunks_exact_mut(width))
                    {
                        model.decoder().embed(id, row);
                    }
                }
                Input::Image(values) => {
                    rows.copy_from_slice(&values[of_input.start * width..of_input.end * width]);
                }
            }
            self.pass.add(input.modality(), of_input.len());
        }
    }

    /// Computes the logits of `rows` of those wanted of the last pass, as rows `at..` of all.
    fn write_logits<O: Observer>(
        &mut self,
        decoder: &Decoder,
        rows: Range<usize>,
        at: usize,
        observer: &mut O,
    ) {
        let vocab_size = self.vocab_size();
        let logits = &mut self.logits[at * vocab_size..(at + rows.len()) * vocab_size];
        decoder.logits(
            self.model.compute(),
            &self.pass,
            rows,
            &mut self.scratch,
            logits,
            observer,
        );
    }

    /// Makes the sequences what they were; the error for the first part whose logits are not finite.
    fn undo(&mut self, model: &Model, role: RowRole, parts: &mut [SequencePart]) -> Error {
        for part in &mut *parts {
            part.undo();
        }
        let mut first = FirstNotFinite::default();
        let mut n_before = 0;
        for part in parts {
            let rows = n_before..n_before + part.n_logits();
            n_before = rows.end;
            let vocab_size = self.vocab_size();
            if !all_finite(&self.logits[rows.start * vocab_size..rows.end * vocab_size]) {
                // Once more and alone, with a look at each stage.
                let part = std::slice::from_mut(part);
                self.passes(model, role, part, &mut first, &mut |_| true);
                part[0].undo();
                break;
            }
        }
        model.blame(first.error("the output head"))
    }

    /// Logits that were computed last: row `row`, counted over all parts, `[vocab_size]`; zeros before
    /// anything was.
    ///
    /// # Panics
    /// For more rows than ever were computed.
    pub fn logits(&self, row: usize) -> &[f32] {
        let vocab_size = self.vocab_size();
        &self.logits[row * vocab_size..(row + 1) * vocab_size]
    }

    /// The same, to be changed by a sampler.
    ///
    /// # Panics
    /// As [`Workspace::logits`].
    pub fn logits_mut(&mut self, row: usize) -> &mut [f32] {
        let vocab_size = self.vocab_size();
        &mut self.logits[row * vocab_size..(row + 1) * vocab_size]
    }

    /// Computes `part` in one pass as a prompt, without logits: [`Workspace::logits_after`] gives those
    /// after any of its positions.
    ///
    /// # Errors
    /// As [`Workspace::compute`].
    ///
    /// # Panics
    /// For more rows than are computed together.
    pub(crate) fn compute_all(&mut self, part: &mut SequencePart) -> Result<()> {
        let model = self.model.clone();
        model.compute().threads.enter(|| {
            part.check(&model)?;
            let n = part.n_new();
            self.grow(n, 0)?;
            assert!(n <= self.batch);
            self.pass.clear();
            self.pass.begin(part.first_new(), part.longest());
            self.gather_inputs(&model, part.inputs(), 0..n);
            self.pass.end(n);
            model.decoder().forward(
                model.compute(),
                RowRole::Prompt,
                &self.pass,
                std::slice::from_mut(part),
                &mut self.scratch,
                &mut (),
            );
            Ok(())
        })
    }

    /// Computes the logits after `rows` of those that [`Workspace::compute_all`] has just computed:
    /// `[rows, vocab_size]`.
    ///
    /// # Panics
    /// For rows that it did not compute.
    pub(crate) fn logits_after(&mut self, rows: Range<usize>) -> &[f32] {
        assert!(rows.end <= self.pass.n_wanted());
        self.reserve_logits(rows.len());
        let model = self.model.clone();
        let n_logits = rows.len() * self.vocab_size();
        self.write_logits(model.decoder(), rows, 0, &mut ());
        &self.logits[..n_logits]
    }
}
