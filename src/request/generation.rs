//! A request in progress: pictures, prompt, then token after token.
//!
//! A [`Generation`] computes nothing by itself. It says what it needs next ([`Need`]), and the owner of a
//! [`Workspace`] computes that: for this request alone ([`Generation::drive`]), or for several in one pass
//! ([`Engine`](crate::engine::Engine)). Both give the same bits.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer_text::AnswerText;
use super::assistant::Assistant;
use super::chooser::{Choice, Chooser};
use super::lookup::{self, Lookup};
use super::picture::Preparation;
use super::plan::RequestPlan;
use super::{Answer, Event, Listener, Pixels, Request, Source, StopReason};
use crate::error::Result;
use crate::model::Vision;
use crate::ops::RowRole;
use crate::reuse::{Position, PromptCache};
use crate::session::{Input, Sequence, SequencePart};
use crate::timing::{Stage, Timings};
use crate::workspace::Workspace;

/// Rows of an answer that may be computed at once: a token, and what a draft says will follow it.
const MAX_ROWS: usize = 1 + lookup::MAX_TOKENS;

/// What is to be computed next of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// More blocks of a picture.
    Picture,
    /// So many positions of the prompt.
    Prompt(usize),
    /// The next token of the answer.
    Answer,
    /// Nothing: it has ended.
    Nothing,
}

/// A request in progress.
pub(crate) struct Generation<'a> {
    assistant: &'a Assistant,
    request: Cow<'a, Request>,
    plan: RequestPlan,
    listener: Box<Listener<'a>>,
    memory: PromptCache,
    chooser: Chooser,
    lookup: Lookup,
    /// The prompt's tokens, then the generated ones: what the repeat penalty looks at.
    ids: Vec<u32>,
    n_prompt_ids: usize,
    text: AnswerText<'a>,
    pictures: Vec<Arc<Pixels>>,
    warnings: Vec<String>,
    /// What stands at each position of the prompt.
    positions: Vec<Position>,
    n_reused: usize,
    /// The decoder's inputs of each picture; none for those that are not needed.
    rows: Vec<Arc<[f32]>>,
    phase: Phase,
    timings: Timings,
}

enum Phase {
    /// The pictures that are still to be encoded, by number, the next one last.
    Pictures {
        left: Vec<usize>,
        vision: Option<Vision>,
    },
    Prompt,
    Answer(Pending),
    Ended(StopReason),
}

/// What is to be computed of an answer: its last token, and what a draft says will follow it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    ids: [u32; MAX_ROWS],
    n: usize,
    /// When the answer began.
    start: Instant,
}

impl Pending {
    /// The tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids[..self.n]
    }
}

impl<'a> Generation<'a> {
    /// Decodes the pictures. [`Generation::settle`] has to be called before anything is computed.
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub(super) fn new(
        assistant: &'a Assistant,
        request: Cow<'a, Request>,
        plan: RequestPlan,
        chooser: Chooser,
        listener: Box<Listener<'a>>,
    ) -> Result<Self> {
        let ids = plan.ids();
        let text = AnswerText::new(&assistant.tokenizer, plan.stops.iter().map(String::as_str));
        let mut generation = Generation {
            assistant,
            n_prompt_ids: ids.len(),
            ids,
            text: text.spelling_specials(request.spells_specials),
            lookup: Lookup::new(request.lookup),
            request,
            plan,
            listener,
            memory: PromptCache::new(),
            chooser,
            pictures: Vec::new(),
            warnings: Vec::new(),
            positions: Vec::new(),
            n_reused: 0,
            rows: Vec::new(),
            phase: Phase::Prompt,
            timings: assistant.timings,
        };
        generation.pictures = generation.decode_pictures()?;
        generation.warnings = generation.damages();
        generation.positions = generation.plan.positions(&generation.pictures);
        Ok(generation)
    }

    /// What stands at each position of the prompt.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Bytes of the cache that it needs.
    pub(crate) fn cache_bytes(&self) -> u64 {
        Sequence::bytes(&self.assistant.model, self.plan.n_positions())
    }

    /// The memory that it has.
    pub(crate) fn memory(&mut self) -> &mut PromptCache {
        &mut self.memory
    }

    /// Takes over what `memory` holds of the prompt, after making room in it for all of the request.
    ///
    /// # Errors
    /// [`Kind::Capacity`](crate::Kind::Capacity) where the system would not give the memory.
    /// [`Generation::into_memory`] gives it back then.
    pub fn settle(&mut self, memory: PromptCache, workspace: &mut Workspace) -> Result<()> {
        self.memory = memory;
        let (assistant, n_positions) = (self.assistant, self.plan.n_positions());
        let n_kept = self
            .memory
            .n_kept(&assistant.model, n_positions, &self.positions);
        let beside = match assistant.is_encoding(self.plan.picture_ends(), &self.pictures, n_kept) {
            true => assistant.model.picture_bytes(),
            false => 0,
        };
        self.memory.reserve_beside(workspace, n_positions, beside)?;
        self.n_reused = self.memory.keep(&self.positions);
        self.rows = vec![Arc::from([]); self.pictures.len()];
        let ends = self.plan.picture_ends();
        let wanted = ends.filter(|&(_, end)| end > self.n_reused);
        let mut left: Vec<_> = wanted.map(|(index, _)| index).collect();
        left.reverse();
        self.phase = Phase::Pictures { left, vision: None };
        self.skip_known_pictures();
        Ok(())
    }

    /// The pixels of every picture, so that an unusable one is found before any is encoded.
    fn decode_pictures(&mut self) -> Result<Vec<Arc<Pixels>>> {
        let sources = &self.request.pictures;
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let preparation = Preparation {
            visual: self.assistant.visual()?,
            aspect: self.request.aspect,
            reading: self.request.reading,
        };
        let pixels = |source| preparation.pixels(source, &mut self.timings);
        sources.iter().map(pixels).collect()
    }

    /// What is missing in pictures that were decoded for this request.
    fn damages(&self) -> Vec<String> {
        let pictures = self.request.pictures.iter().zip(&self.pictures).enumerate();
        let warning = |(index, (source, pixels)): (usize, (&Source, &Arc<Pixels>))| {
            let damage = pixels.damage()?;
            match source {
                Source::File(path) => Some(format!("{}: {damage}", path.display())),
                Source::Bytes(_) => Some(format!("picture {}: {damage}", index + 1)),
                Source::Pixels(_) => None,
            }
        };
        pictures.filter_map(warning).collect()
    }

    /// What is to be computed next.
    pub fn need(&self) -> Need {
        match &self.phase {
            Phase::Pictures { .. } => Need::Picture,
            Phase::Prompt => Need::Prompt(self.positions.len() - self.memory.held().len()),
            Phase::Answer(_) => Need::Answer,
            Phase::Ended(_) => Need::Nothing,
        }
    }

    /// Ends it before its time.
    pub fn cancel(&mut self) {
        self.end(StopReason::Cancelled);
    }

    /// Computes all of it, in `workspace` and alone.
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub fn drive(&mut self, workspace: &mut Workspace) -> Result<()> {
        loop {
            match self.need() {
                Need::Picture => self.encode(usize::MAX)?,
                Need::Prompt(_) => self.read_prompt(workspace)?,
                Need::Answer => self.step(workspace)?,
                Need::Nothing => return Ok(()),
            }
        }
    }

    /// Goes on to the next picture that was not encoded for an earlier request, or to the prompt.
    fn skip_known_pictures(&mut self) {
        let n_pictures = self.pictures.len();
        while let Phase::Pictures { left, .. } = &mut self.phase {
            let Some(&index) = left.last() else {
                self.phase = Phase::Prompt;
                self.tell_read();
                return;
            };
            let Some(rows) = self.assistant.pictures().get(self.pictures[index].key) else {
                self.tell(Event::Encoding { index, n_pictures });
                return;
            };
            left.pop();
            self.rows[index] = rows;
        }
    }

    /// Computes up to `n_blocks` blocks of the vision tower of the next picture, and all that comes
    /// after the last.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) where numbers are not finite.
    pub fn encode(&mut self, n_blocks: usize) -> Result<()> {
        let assistant = self.assistant;
        let model = &assistant.model;
        let Phase::Pictures { left, vision } = &mut self.phase else {
            return Ok(());
        };
        let Some(&index) = left.last() else {
            return Ok(());
        };
        let pixels = &self.pictures[index];
        // Another request may have encoded it meanwhile.
        if vision.is_none() && assistant.pictures().get(pixels.key).is_some() {
            self.skip_known_pictures();
            return Ok(());
        }
        let start = Instant::now();
        let mut pass = match vision.take() {
            Some(pass) => pass,
            None => model.begin_vision(&pixels.values)?,
        };
        let seen = match model.advance_vision(&mut pass, n_blocks)? {
            0 => model.end_vision(pass, &pixels.values).map(Some)?,
            _ => {
                *vision = Some(pass);
                None
            }
        };
        self.timings.add(Stage::Vit, start.elapsed());
        let Some(seen) = seen else {
            return Ok(());
        };
        let abstracted = self
            .timings
            .measure(Stage::Abstractor, || model.abstract_picture(&seen, &mut ()))?;
        assistant.pictures().put(pixels.key, abstracted.into());
        self.skip_known_pictures();
        Ok(())
    }

    /// Computes all that is not held of the prompt.
    fn read_prompt(&mut self, workspace: &mut Workspace) -> Result<()> {
        let n_held = self.memory.held().len();
        let n_positions = self.positions.len();
        let width = self.assistant.model.config().decoder.hidden_size;
        let (plan, rows) = (&self.plan, &self.rows);
        let inputs = plan.inputs(rows, width, n_held, n_positions - n_held);
        let (memory, listener) = (&mut self.memory, &mut self.listener);
        let mut go_on = |n_done| {
            let reading = Event::Reading {
                n_done,
                n_positions,
            };
            listener(reading).is_continue()
        };
        let new = &self.positions[n_held..];
        let is_whole = self.timings.measure(Stage::Prefill, || {
            memory.extend(workspace, &inputs, new, &mut go_on)
        })?;
        match is_whole {
            true => self.receive(workspace, 0),
            false => {
                self.end(StopReason::Cancelled);
                Ok(())
            }
        }
    }

    /// The next `n` positions of the prompt, and where they go.
    pub fn prompt_inputs(&mut self, n: usize) -> (Vec<Input<'_>>, PromptPart<'_>) {
        let n_held = self.memory.held().len();
        let width = self.assistant.model.config().decoder.hidden_size;
        let is_last = n_held + n == self.positions.len();
        let inputs = self.plan.inputs(&self.rows, width, n_held, n);
        let part = PromptPart {
            memory: &mut self.memory,
            n_logits: usize::from(is_last),
        };
        (inputs, part)
    }

    /// Takes what came of [`Generation::prompt_inputs`]: `row` is that of its logits, if it has any.
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub fn take_prompt(
        &mut self,
        workspace: &mut Workspace,
        row: usize,
        n: usize,
        took: Duration,
    ) -> Result<()> {
        let n_held = self.memory.held().len();
        let new = self.positions[n_held..n_held + n].iter().copied();
        self.memory.hold(RowRole::Prompt, new);
        self.timings.add(Stage::Prefill, took);
        match n_held + n == self.positions.len() {
            true => self.receive(workspace, row),
            false => {
                self.tell_read();
                Ok(())
            }
        }
    }

    /// Computes the next token, and what a draft says will follow it.
    fn step(&mut self, workspace: &mut Workspace) -> Result<()> {
        self.draft(lookup::MAX_TOKENS);
        let Phase::Answer(pending) = self.phase else {
            return Ok(());
        };
        self.memory.look_ahead(workspace, pending.ids())?;
        self.receive(workspace, 0)
    }

    /// Adds a draft of up to `most` tokens to what is pending.
    pub fn draft(&mut self, most: usize) {
        let room = self.memory.room_ahead().min(most);
        if let Phase::Answer(pending) = &mut self.phase
            && pending.n == 1
        {
            let draft = self.lookup.draft(&self.ids, room);
            pending.ids[1..=draft.len()].copy_from_slice(draft);
            pending.n += draft.len();
        }
    }

    /// What is to be computed of the answer.
    pub fn pending(&self) -> Option<Pending> {
        match self.phase {
            Phase::Answer(pending) => Some(pending),
            _ => None,
        }
    }

    /// The part of a pass that computes `inputs`, which [`Generation::pending`] gave.
    ///
    /// # Errors
    /// Where nothing was reserved.
    pub fn answer_part<'p>(
        &'p mut self,
        inputs: &'p [Input<'p>],
        n: usize,
    ) -> Result<SequencePart<'p>> {
        self.memory.part(inputs, n)
    }

    /// Forgets what a pass that failed may have left behind the positions that are held.
    pub fn rewind(&mut self) {
        self.memory.truncate(self.memory.held().len());
    }

    /// Takes what came of it: `row` is the first of its logits.
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub fn take_answer(&mut self, workspace: &mut Workspace, row: usize) -> Result<()> {
        if let Some(pending) = self.pending() {
            let new = pending.ids().iter().copied().map(Position::Token);
            self.memory.hold(RowRole::Answer, new);
        }
        self.receive(workspace, row)
    }

    /// Chooses tokens from the logits in `row` and, as long as a draft foresaw them, in those after it.
    fn receive(&mut self, workspace: &mut Workspace, row: usize) -> Result<()> {
        let start = match &self.phase {
            Phase::Answer(pending) => pending.start,
            _ => Instant::now(),
        };
        let mut row = row;
        loop {
            let id = match self.choose(workspace.logits_mut(row))? {
                Chosen::Token(id) => id,
                Chosen::Ended(stop) => {
                    self.timings.add(Stage::Decode, start.elapsed());
                    self.end(stop);
                    return Ok(());
                }
            };
            if !self.lookup.confirms(id) {
                self.forget_drafts();
                let mut ids = [0; MAX_ROWS];
                ids[0] = id;
                self.phase = Phase::Answer(Pending { ids, n: 1, start });
                return Ok(());
            }
            row += 1;
        }
    }

    /// Chooses the next token and shows its text.
    fn choose(&mut self, logits: &mut [f32]) -> Result<Chosen> {
        let eos_id = self.assistant.tokenizer.vocabulary().eos_id;
        let choice = self.chooser.choose(logits, &self.ids)?;
        let (Choice::End(id) | Choice::Token(id) | Choice::LastToken(id)) = choice;
        self.ids.push(id);
        if matches!(choice, Choice::End(_)) {
            return Ok(Chosen::Ended(StopReason::EndOfText));
        }
        if self.text.push(id) {
            return Ok(Chosen::Ended(StopReason::StopText));
        }
        if matches!(choice, Choice::LastToken(_)) {
            self.ids.push(eos_id);
            return Ok(Chosen::Ended(StopReason::EndOfText));
        }
        let text = self.text.take_safe();
        if (self.listener)(Event::Text(text)).is_break() {
            return Ok(Chosen::Ended(StopReason::Cancelled));
        }
        let n_generated = self.ids.len() - self.n_prompt_ids;
        match n_generated == self.plan.max_tokens {
            true => Ok(Chosen::Ended(self.plan.at_max_tokens)),
            false => Ok(Chosen::Token(id)),
        }
    }

    /// Ends the answer, with what was held back of its text.
    fn end(&mut self, stop: StopReason) {
        self.forget_drafts();
        self.phase = Phase::Ended(stop);
        match stop {
            StopReason::Cancelled => return,
            StopReason::StopText => {}
            _ if self.text.finish() => {}
            StopReason::EndOfText => self.text.end(self.assistant.tokenizer.vocabulary().eos_id),
            _ => {}
        }
        let rest = self.text.take_rest();
        if !rest.is_empty() {
            // There is nothing left to be stopped.
            let _ = (self.listener)(Event::Text(rest));
        }
    }

    /// Forgets positions that were computed and not chosen.
    fn forget_drafts(&mut self) {
        let n_chosen = self.memory.held().len() - self.lookup.forget();
        self.memory.truncate(n_chosen);
    }

    /// Reports progress, which may end it.
    fn tell(&mut self, event: Event) {
        if (self.listener)(event).is_break() {
            self.end(StopReason::Cancelled);
        }
    }

    fn tell_read(&mut self) {
        self.tell(Event::Reading {
            n_done: self.memory.held().len(),
            n_positions: self.positions.len(),
        });
    }

    /// The outcome, once nothing is needed any more, and what was computed for it.
    pub fn finish(mut self) -> (Answer, PromptCache) {
        let stop = match self.phase {
            Phase::Ended(stop) => stop,
            _ => StopReason::Cancelled,
        };
        let (n_drafted, n_accepted) = self.lookup.counts();
        let is_fulfilled = match stop {
            StopReason::EndOfText => true,
            // The stop text was part of what was asked for, and is not in the answer.
            StopReason::StopText => !self.chooser.is_constrained(),
            _ => self.chooser.is_fulfilled(),
        };
        let answer = Answer {
            text: self.text.into_text(),
            ids: self.ids.split_off(self.n_prompt_ids),
            n_prompt: self.plan.n_prompt,
            n_image: self.plan.n_image,
            n_reused: self.n_reused,
            n_drafted,
            n_accepted,
            warnings: self.warnings,
            is_fulfilled,
            stop,
            timings: self.timings,
        };
        (answer, self.memory)
    }

    /// What was computed, where there is no outcome.
    pub fn into_memory(self) -> PromptCache {
        self.memory
    }
}

/// Where positions of a prompt go.
pub(crate) struct PromptPart<'p> {
    memory: &'p mut PromptCache,
    n_logits: usize,
}

impl<'p> PromptPart<'p> {
    /// The part of a pass that computes `inputs`, which came with it.
    ///
    /// # Errors
    /// Where nothing was reserved.
    pub fn with(self, inputs: &'p [Input<'p>]) -> Result<SequencePart<'p>> {
        self.memory.part(inputs, self.n_logits)
    }

    /// Rows of logits that it will have.
    pub fn n_logits(&self) -> usize {
        self.n_logits
    }
}

/// What [`Generation::choose`] found.
enum Chosen {
    /// A token after which the answer goes on.
    Token(u32),
    Ended(StopReason),
}
