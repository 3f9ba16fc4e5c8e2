//! Reuse between requests: computed positions (prefix cache), and encoded pictures.
//!
//! A [`PromptCache`] holds a sequence and the content of each of its positions. The next prompt is
//! compared with them from the start, and only the part after the common prefix is computed. This is
//! exact: keys and values depend only on the positions up to theirs and on their [`RowRole`]. Positions
//! that were computed as part of a prompt equal those of a fresh run, bit by bit. Positions of an answer are
//! rounded differently, and are reused only with [`PromptCache::reusing_answers`].
//!
//! A picture is identified by a hash of its pixels ([`PictureKey`]). [`PictureCache`] keeps encoded
//! pictures by that key. [`PromptCache::save`] and [`PromptCache::restore`] move a cache from one process
//! to the next.

mod pictures;
mod state;

pub use pictures::{PictureCache, PictureKey};
pub use state::Restored;

use crate::capacity;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::RopeScalingKind;
use crate::ops::RowRole;
use crate::session::{Input, Sequence, SequencePart};
use crate::workspace::Workspace;

/// What stands at a position of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A token.
    Token(u32),
    /// A row of an encoded picture.
    Picture {
        /// Which picture.
        key: PictureKey,
        /// Which of its rows, from 0.
        row: u32,
    },
}

/// A position that was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedPosition {
    /// What stands there.
    pub position: Position,
    /// What it was computed as.
    pub role: RowRole,
}

/// A sequence that outlives the request it was computed for.
#[derive(Debug, Default)]
pub struct PromptCache {
    sequence: Option<Sequence>,
    /// What stands at the sequence's positions; as many.
    held: Vec<CachedPosition>,
    /// Whether positions of answers serve later prompts.
    reuses_answers: bool,
    /// The longest that the sequence has been since its first position was computed.
    longest: usize,
    /// Positions that a sequence is made for, where a request needs no more.
    room: usize,
    /// Which row of the logits is current.
    row: usize,
}

impl PromptCache {
    /// Nothing yet. Sequences are made for the request that needs one.
    pub fn new() -> Self {
        PromptCache::default()
    }

    /// Nothing yet, and sequences with room for `room` positions at least: a conversation grows.
    pub fn with_room(room: usize) -> Self {
        PromptCache {
            room,
            ..PromptCache::default()
        }
    }

    /// Lets positions of answers serve later prompts that repeat them, as those of a conversation do.
    /// That saves computing each answer twice. What follows is then rounded otherwise than in a fresh
    /// run of the same prompt, and may differ from its answer.
    pub fn reusing_answers(self) -> Self {
        PromptCache {
            reuses_answers: true,
            ..self
        }
    }

    /// What stands at the positions computed so far.
    pub fn held(&self) -> &[CachedPosition] {
        &self.held
    }

    /// Bytes that its sequence takes.
    pub(crate) fn sequence_bytes(&self) -> u64 {
        self.sequence.as_ref().map_or(0, |sequence| {
            Sequence::bytes(sequence.model(), sequence.capacity())
        })
    }

    /// Makes room for `n_positions` in all, here and in `workspace`. A sequence that is too small is
    /// replaced.
    ///
    /// # Errors
    /// [`Kind::Capacity`](crate::Kind::Capacity) where the system would not give the memory.
    pub fn reserve(&mut self, workspace: &mut Workspace, n_positions: usize) -> Result<()> {
        self.reserve_beside(workspace, n_positions, 0)
    }

    /// [`PromptCache::reserve`], where `beside` bytes are needed for the model's work on pictures.
    pub(crate) fn reserve_beside(
        &mut self,
        workspace: &mut Workspace,
        n_positions: usize,
        beside: u64,
    ) -> Result<()> {
        let held_bytes = workspace.held_bytes();
        self.reserve_in(workspace.model(), n_positions, beside, held_bytes)?;
        workspace.reserve(n_positions);
        Ok(())
    }

    /// Makes room in the sequence, where a workspace has `held_bytes` already.
    fn reserve_in(
        &mut self,
        model: &Model,
        n_positions: usize,
        beside: u64,
        held_bytes: u64,
    ) -> Result<()> {
        if self.has_room(model, n_positions) {
            return capacity::check_beside(beside);
        }
        let n_positions = n_positions.max(self.room);
        self.truncate(0);
        self.sequence = None;
        capacity::check(model, n_positions, beside, held_bytes)?;
        self.sequence = Some(Sequence::new(model, n_positions));
        self.held.reserve(n_positions);
        Ok(())
    }

    /// Whether its sequence can take `n_positions` in all.
    fn has_room(&self, model: &Model, n_positions: usize) -> bool {
        self.sequence.as_ref().is_some_and(|sequence| {
            sequence.capacity() >= n_positions
                && sequence.model().is_same(model)
                && sequence.model().cache_type() == model.cache_type()
        })
    }

    /// What [`PromptCache::keep`] gives for `wanted` after [`PromptCache::reserve`] for `n_positions`.
    pub(crate) fn n_kept(&self, model: &Model, n_positions: usize, wanted: &[Position]) -> usize {
        match self.has_room(model, n_positions) {
            true => self.n_common(wanted),
            false => 0,
        }
    }

    /// How many of the first positions of `wanted` need not be computed. At least one position of
    /// `wanted` is always left to be computed: without it there were no logits.
    pub(crate) fn n_common(&self, wanted: &[Position]) -> usize {
        let is_wanted = |(held, wanted): &(&CachedPosition, &Position)| {
            held.position == **wanted && (self.reuses_answers || held.role == RowRole::Prompt)
        };
        let common = self.held.iter().zip(wanted);
        let n_common = common.take_while(is_wanted).count();
        match self.depends_on_length(wanted.len()) {
            true => 0,
            false => n_common.min(wanted.len().saturating_sub(1)),
        }
    }

    /// Forgets all but what `wanted` begins with, and gives its length, which leaves at least one
    /// position of `wanted` to be computed.
    pub fn keep(&mut self, wanted: &[Position]) -> usize {
        let n_kept = self.n_common(wanted);
        self.truncate(n_kept);
        n_kept
    }

    /// Whether keys would have been rotated otherwise in a sequence of `len` positions computed
    /// anew: dynamic rotary scaling depends on how long the sequence is.
    pub(crate) fn depends_on_length(&self, len: usize) -> bool {
        let Some(sequence) = &self.sequence else {
            return false;
        };
        let config = &sequence.model().config().decoder;
        let is_dynamic = config
            .rope_scaling
            .is_some_and(|scaling| scaling.kind == RopeScalingKind::Dynamic);
        is_dynamic && len.max(self.longest) > config.max_position_embeddings
    }

    /// Takes over the first `len` positions that `other` holds in place of its own.
    ///
    /// # Panics
    /// Where `other` has not as many, or there is not room for as many.
    pub(crate) fn take_over(&mut self, other: &PromptCache, len: usize) {
        let held = &other.held[..len];
        if let (Some(sequence), Some(other)) = (&mut self.sequence, &other.sequence) {
            sequence.copy_prefix(other, len);
            self.held.clear();
            self.held.extend_from_slice(held);
            self.longest = len;
        }
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if let Some(sequence) = &mut self.sequence {
            sequence.truncate(len);
        }
        self.held.truncate(len);
        if self.held.is_empty() {
            self.longest = 0;
        }
    }

    /// Computes `inputs`, at which `positions` stand, behind what is held. `go_on` is given the
    /// positions held so far before each pass but the first, and says whether to compute more;
    /// `Ok(false)` is a sequence that ends with those, and has no new logits.
    ///
    /// # Errors
    /// As [`Workspace::compute`], and where nothing was reserved.
    pub fn extend(
        &mut self,
        workspace: &mut Workspace,
        inputs: &[Input],
        positions: &[Position],
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool> {
        let n_before = self.held.len();
        let mut parts = [self.part(inputs, 1)?];
        let mut go_on = |n_done| go_on(n_before + n_done);
        let is_whole = workspace.compute_while(RowRole::Prompt, &mut parts, &mut (), &mut go_on)?;
        self.hold(RowRole::Prompt, positions.iter().copied());
        self.row = 0;
        Ok(is_whole)
    }

    /// The part of a pass that computes `inputs` behind what is held, with the logits after the last
    /// `n_logits` of them. [`PromptCache::hold`] has to say then what they were.
    ///
    /// # Errors
    /// Where nothing was reserved.
    pub(crate) fn part<'a>(
        &'a mut self,
        inputs: &'a [Input<'a>],
        n_logits: usize,
    ) -> Result<SequencePart<'a>> {
        let sequence = self.sequence.as_mut().ok_or_else(no_sequence)?;
        Ok(SequencePart::new(sequence, inputs, n_logits))
    }

    /// Notes what stands at the positions behind what is held: `positions`, or as many of them as were
    /// computed.
    pub(crate) fn hold(&mut self, role: RowRole, positions: impl IntoIterator<Item = Position>) {
        let new = positions.into_iter();
        self.held
            .extend(new.map(|position| CachedPosition { position, role }));
        self.longest = self.longest.max(self.held.len());
        self.held
            .truncate(self.sequence.as_ref().map_or(0, Sequence::len));
    }

    /// Computes one generated token.
    ///
    /// # Errors
    /// As [`PromptCache::extend`].
    pub fn step(&mut self, workspace: &mut Workspace, id: u32) -> Result<()> {
        self.look_ahead(workspace, &[id])
    }

    /// Computes one generated token and what a draft says will follow it. The logits after the first
    /// are current then, see [`PromptCache::next_logits`].
    ///
    /// # Errors
    /// As [`PromptCache::extend`].
    pub fn look_ahead(&mut self, workspace: &mut Workspace, ids: &[u32]) -> Result<()> {
        let inputs = [Input::Tokens(ids)];
        let mut parts = [self.part(&inputs, ids.len())?];
        workspace.compute(RowRole::Answer, &mut parts)?;
        self.hold(RowRole::Answer, ids.iter().copied().map(Position::Token));
        self.row = 0;
        Ok(())
    }

    /// Goes on to the logits after the next position of a look ahead.
    pub fn next_logits(&mut self) {
        self.row += 1;
    }

    /// Tokens that a look ahead can have besides the one at hand. None where positions that are
    /// forgotten afterwards would have changed how others are rotated.
    pub fn room_ahead(&self) -> usize {
        let Some(sequence) = &self.sequence else {
            return 0;
        };
        let room = sequence.capacity() - sequence.len();
        match sequence.model().config().decoder.rope_scaling {
            Some(scaling) if scaling.kind == RopeScalingKind::Dynamic => 0,
            _ => room.saturating_sub(1),
        }
    }

    /// Logits of what comes next, to be changed by a sampler, as long as `workspace`, which computed
    /// the last positions, has computed nothing else.
    pub fn logits_mut<'w>(&self, workspace: &'w mut Workspace) -> &'w mut [f32] {
        workspace.logits_mut(self.row)
    }
}

fn no_sequence() -> Error {
    Error::capacity("no memory was reserved for the sequence")
}
