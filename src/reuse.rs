//! What one request leaves to the next: computed positions, and encoded pictures.
//!
//! A [`Memory`] holds a session and what stands at each of its positions. The next prompt is
//! compared with that from the beginning on, and only what follows the common part is computed:
//! keys and values depend on nothing but the positions up to theirs and on their [`Role`]. So
//! positions that were computed as a prompt's are those of a fresh run, bit by bit. Those of an answer
//! are rounded otherwise; they are reused only where [`Memory::reusing_answers`] says so. Pictures are
//! told apart by a hash
//! of their pixels ([`PictureKey`]), under which [`PictureCache`] also keeps what the vision tower
//! made of them. [`Memory::save`] and [`Memory::restore`] carry a memory from one process to the
//! next.

mod pictures;
mod state;

pub use pictures::{PictureCache, PictureKey};
pub use state::Restored;

use crate::capacity;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::config::RopeScalingKind;
use crate::ops::Role;
use crate::session::{Input, Session};

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
pub struct Held {
    /// What stands there.
    pub position: Position,
    /// What it was computed as.
    pub role: Role,
}

/// A sequence that outlives the request it was computed for.
#[derive(Debug, Default)]
pub struct Memory<'m> {
    session: Option<Session<'m>>,
    /// What stands at the session's positions; as many.
    held: Vec<Held>,
    /// Whether positions of answers serve later prompts.
    reuses_answers: bool,
    /// The longest that the sequence has been since its first position was computed.
    longest: usize,
    /// Positions that a session is made for, where a request needs no more.
    room: usize,
}

impl<'m> Memory<'m> {
    /// Nothing yet. Sessions are made for the request that needs one.
    pub fn new() -> Self {
        Memory::default()
    }

    /// Nothing yet, and sessions with room for `room` positions at least: a conversation grows.
    pub fn with_room(room: usize) -> Self {
        Memory {
            room,
            ..Memory::default()
        }
    }

    /// Lets positions of answers serve later prompts that repeat them, as those of a conversation do.
    /// That saves computing each answer twice. What follows is then rounded otherwise than in a fresh
    /// run of the same prompt, and may differ from its answer.
    pub fn reusing_answers(self) -> Self {
        Memory {
            reuses_answers: true,
            ..self
        }
    }

    /// What stands at the positions computed so far.
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Makes room for `n_positions` in all. A session that is too small is replaced.
    ///
    /// # Errors
    /// [`Kind::Capacity`](crate::Kind::Capacity) where the system would not give the memory.
    pub fn reserve(&mut self, model: &'m Model, n_positions: usize) -> Result<()> {
        self.reserve_beside(model, n_positions, 0)
    }

    /// [`Memory::reserve`], where `beside` bytes are needed for the model's work on pictures.
    pub(crate) fn reserve_beside(
        &mut self,
        model: &'m Model,
        n_positions: usize,
        beside: u64,
    ) -> Result<()> {
        if self.has_room(model, n_positions) {
            return capacity::check_beside(beside);
        }
        let n_positions = n_positions.max(self.room);
        self.truncate(0);
        self.session = None;
        capacity::check(model, n_positions, beside)?;
        self.session = Some(Session::new(model, n_positions));
        self.held.reserve(n_positions);
        Ok(())
    }

    /// Whether its session can take `n_positions` in all.
    fn has_room(&self, model: &Model, n_positions: usize) -> bool {
        self.session.as_ref().is_some_and(|session| {
            session.capacity() >= n_positions && std::ptr::eq(session.model(), model)
        })
    }

    /// What [`Memory::keep`] gives for `wanted` after [`Memory::reserve`] for `n_positions`.
    pub(crate) fn n_kept(&self, model: &Model, n_positions: usize, wanted: &[Position]) -> usize {
        match self.has_room(model, n_positions) {
            true => self.n_common(wanted),
            false => 0,
        }
    }

    /// Forgets all but what `wanted` begins with, and gives its length. At least one position of
    /// `wanted` is always left to be computed: without it there were no logits.
    pub fn keep(&mut self, wanted: &[Position]) -> usize {
        let n_kept = self.n_common(wanted);
        self.truncate(n_kept);
        n_kept
    }

    /// How much of `wanted` is held and can be kept.
    fn n_common(&self, wanted: &[Position]) -> usize {
        let is_wanted = |(held, wanted): &(&Held, &Position)| {
            held.position == **wanted && (self.reuses_answers || held.role == Role::Prompt)
        };
        let common = self.held.iter().zip(wanted);
        let n_common = common.take_while(is_wanted).count();
        match self.depends_on_length(wanted.len()) {
            true => 0,
            false => n_common.min(wanted.len().saturating_sub(1)),
        }
    }

    /// Whether keys would have been rotated otherwise in a sequence of `len` positions computed
    /// anew: dynamic rotary scaling depends on how long the sequence is.
    fn depends_on_length(&self, len: usize) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        let config = &session.model().config().decoder;
        let is_dynamic = config
            .rope_scaling
            .is_some_and(|scaling| scaling.kind == RopeScalingKind::Dynamic);
        is_dynamic && len.max(self.longest) > config.max_position_embeddings
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if let Some(session) = &mut self.session {
            session.truncate(len);
        }
        self.held.truncate(len);
        if self.held.is_empty() {
            self.longest = 0;
        }
    }

    /// Computes `inputs`, at which `positions` stand, behind what is held. `go_on` is asked as in
    /// [`Session::extend_while`]; the result is its.
    ///
    /// # Errors
    /// As [`Session::extend`], and where nothing was reserved.
    pub fn extend(
        &mut self,
        inputs: &[Input],
        positions: &[Position],
        go_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool> {
        let session = self.session.as_mut().ok_or_else(no_session)?;
        let is_whole = session.extend_while(inputs, go_on)?;
        let held = positions.iter().map(|&position| Held {
            position,
            role: Role::Prompt,
        });
        self.held.extend(held);
        self.longest = self.longest.max(self.held.len());
        self.held.truncate(session.len());
        Ok(is_whole)
    }

    /// Computes one generated token.
    ///
    /// # Errors
    /// As [`Memory::extend`].
    pub fn step(&mut self, id: u32) -> Result<()> {
        let session = self.session.as_mut().ok_or_else(no_session)?;
        session.step(id)?;
        self.held.push(Held::of_answer(id));
        self.longest = self.longest.max(self.held.len());
        Ok(())
    }

    /// Computes one generated token and what a draft says will follow it. The logits after the first
    /// are current then, see [`Memory::next_logits`].
    ///
    /// # Errors
    /// As [`Memory::extend`].
    pub fn look_ahead(&mut self, ids: &[u32]) -> Result<()> {
        let session = self.session.as_mut().ok_or_else(no_session)?;
        session.look_ahead(ids)?;
        self.held.extend(ids.iter().copied().map(Held::of_answer));
        self.longest = self.longest.max(self.held.len());
        Ok(())
    }

    /// Goes on to the logits after the next position of a look ahead.
    pub fn next_logits(&mut self) {
        if let Some(session) = &mut self.session {
            session.next_logits();
        }
    }

    /// Tokens that a look ahead can have besides the one at hand. None where positions that are
    /// forgotten afterwards would have changed how others are rotated.
    pub fn room_ahead(&self) -> usize {
        let Some(session) = &self.session else {
            return 0;
        };
        let room = session.capacity() - session.len();
        match session.model().config().decoder.rope_scaling {
            Some(scaling) if scaling.kind == RopeScalingKind::Dynamic => 0,
            _ => room.saturating_sub(1),
        }
    }

    /// Logits of what comes next, to be changed by a sampler; none before anything was reserved.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        match &mut self.session {
            Some(session) => session.logits_mut(),
            None => &mut [],
        }
    }
}

impl Held {
    fn of_answer(id: u32) -> Self {
        Held {
            position: Position::Token(id),
            role: Role::Answer,
        }
    }
}

fn no_session() -> Error {
    Error::capacity("no memory was reserved for the sequence")
}
