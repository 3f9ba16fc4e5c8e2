//! A checked request on its way: pictures, prompt, and then token after token.

use std::sync::Arc;
use std::time::Instant;

use super::answer_text::AnswerText;
use super::assistant::{Assistant, token_ids};
use super::chooser::{Choice, Chooser};
use super::lookup::{self, Lookup};
use super::{Answer, Event, Listener, Pixels, Request, Source, StopReason};
use crate::error::Result;
use crate::prompt::Segment;
use crate::reuse::{Memory, Position};
use crate::session::Input;
use crate::timing::{Stage, Timings};

/// What the checks of a request found.
pub(super) struct Plan<'a> {
    /// The prompt.
    pub segments: Vec<Segment>,
    /// Positions of the prompt, pictures included.
    pub n_prompt: usize,
    /// Positions that pictures take of these.
    pub n_image: usize,
    /// Positions that one picture takes.
    pub n_picture_rows: usize,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// Why an answer of that length ends.
    pub at_max_tokens: StopReason,
    /// Texts before which the answer ends.
    pub stops: Vec<&'a str>,
}

impl Plan<'_> {
    /// Positions that a segment takes.
    fn segment_len(&self, segment: &Segment) -> usize {
        match segment {
            Segment::Tokens(ids) => ids.len(),
            Segment::Image(_) => self.n_picture_rows,
        }
    }

    /// What stands at each position of the prompt.
    pub fn positions(&self, pictures: &[Arc<Pixels>]) -> Vec<Position> {
        let mut positions = Vec::with_capacity(self.n_prompt);
        for segment in &self.segments {
            match segment {
                Segment::Tokens(ids) => positions.extend(ids.iter().copied().map(Position::Token)),
                Segment::Image(index) => {
                    let key = pictures[*index].key;
                    let rows = 0..self.n_picture_rows as u32;
                    positions.extend(rows.map(|row| Position::Picture { key, row }));
                }
            }
        }
        positions
    }

    /// Each picture's number, and the position after its last one.
    pub fn picture_ends(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut end = 0;
        self.segments.iter().filter_map(move |segment| {
            end += self.segment_len(segment);
            match segment {
                Segment::Tokens(_) => None,
                Segment::Image(index) => Some((*index, end)),
            }
        })
    }
}

/// A request in progress.
pub(super) struct Run<'a, 'm> {
    assistant: &'m Assistant,
    memory: &'a mut Memory<'m>,
    request: &'a Request,
    plan: &'a Plan<'a>,
    listener: &'a mut Listener<'a>,
    chooser: Chooser,
    lookup: Lookup,
    /// The prompt's tokens, then the generated ones: what the repeat penalty looks at.
    ids: Vec<u32>,
    text: AnswerText<'a>,
    is_cancelled: bool,
    timings: Timings,
}

impl<'a, 'm: 'a> Run<'a, 'm> {
    pub fn new(
        assistant: &'m Assistant,
        memory: &'a mut Memory<'m>,
        request: &'a Request,
        plan: &'a Plan<'a>,
        chooser: Chooser,
        listener: &'a mut Listener<'a>,
    ) -> Self {
        let mut ids = Vec::with_capacity(plan.n_prompt + plan.max_tokens);
        ids.extend(plan.segments.iter().flat_map(token_ids));
        Run {
            assistant,
            memory,
            request,
            plan,
            listener,
            chooser,
            lookup: Lookup::new(request.lookup),
            ids,
            text: AnswerText::new(&assistant.tokenizer, plan.stops.iter().copied())
                .spelling_specials(request.spells_specials),
            is_cancelled: false,
            timings: assistant.timings,
        }
    }

    /// Answers: `pictures` are the request's, `positions` what stands in its prompt with them, and
    /// `timings` what both took.
    pub fn answer(
        mut self,
        pictures: &[Arc<Pixels>],
        positions: &[Position],
        timings: Timings,
    ) -> Result<Answer> {
        self.timings = timings;
        let n_prompt_ids = self.ids.len();
        let warnings = self.warnings(pictures);
        let n_reused = self.memory.keep(positions);
        self.prefill(pictures, positions)?;
        let start = Instant::now();
        let stop = self.generate()?;
        self.forget_drafts();
        let (n_drafted, n_accepted) = self.lookup.counts();
        let is_fulfilled = self.is_fulfilled(stop);
        self.timings.add(Stage::Decode, start.elapsed());
        Ok(Answer {
            text: self.text.into_text(),
            ids: self.ids.split_off(n_prompt_ids),
            n_prompt: self.plan.n_prompt,
            n_image: self.plan.n_image,
            n_reused,
            n_drafted,
            n_accepted,
            warnings,
            is_fulfilled,
            stop,
            timings: self.timings,
        })
    }

    /// What is missing in pictures that were decoded for this request.
    fn warnings(&self, pictures: &[Arc<Pixels>]) -> Vec<String> {
        let pictures = self.request.pictures.iter().zip(pictures).enumerate();
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

    /// Computes what the memory does not hold of the prompt.
    fn prefill(&mut self, pictures: &[Arc<Pixels>], positions: &[Position]) -> Result<()> {
        let n_held = self.memory.held().len();
        let rows = self.encode(pictures, n_held)?;
        let n_positions = positions.len();
        let reading = |n_done| Event::Reading {
            n_done,
            n_positions,
        };
        if self.is_cancelled || !self.tell(reading(n_held)) {
            return Ok(());
        }
        let inputs = self.inputs(&rows, n_held);
        let (memory, listener) = (&mut *self.memory, &mut *self.listener);
        let mut go_on = |n_done| listener(reading(n_done)).is_continue();
        let new = &positions[n_held..];
        let is_whole = self
            .timings
            .measure(Stage::Prefill, || memory.extend(&inputs, new, &mut go_on))?;
        self.is_cancelled = !is_whole;
        Ok(())
    }

    /// The decoder's inputs for each picture that does not lie in the first `n_held` positions.
    fn encode(&mut self, pictures: &[Arc<Pixels>], n_held: usize) -> Result<Vec<Arc<[f32]>>> {
        let n_pictures = pictures.len();
        let mut rows = vec![Arc::from([]); n_pictures];
        for (index, end) in self.plan.picture_ends() {
            if end <= n_held {
                continue;
            }
            let pixels = &pictures[index];
            let kept = self.assistant.pictures().get(pixels.key);
            rows[index] = match kept {
                Some(rows) => rows,
                None if self.tell(Event::Encoding { index, n_pictures }) => {
                    self.encode_anew(pixels)?
                }
                None => break,
            };
        }
        Ok(rows)
    }

    fn encode_anew(&mut self, pixels: &Pixels) -> Result<Arc<[f32]>> {
        let model = &self.assistant.model;
        let seen = self
            .timings
            .measure(Stage::Vit, || model.vision(&pixels.values, &mut ()))?;
        let abstracted = self
            .timings
            .measure(Stage::Abstractor, || model.abstract_picture(&seen, &mut ()))?;
        let rows: Arc<[f32]> = abstracted.into();
        self.assistant.pictures().put(pixels.key, rows.clone());
        Ok(rows)
    }

    /// The prompt without its first `n_held` positions.
    fn inputs<'r>(&self, rows: &'r [Arc<[f32]>], n_held: usize) -> Vec<Input<'r>>
    where
        'a: 'r,
    {
        let width = self.assistant.model.config().decoder.hidden_size;
        let mut n_skipped = n_held;
        let mut inputs = Vec::with_capacity(self.plan.segments.len());
        for segment in &self.plan.segments {
            let len = self.plan.segment_len(segment);
            let skipped = n_skipped.min(len);
            n_skipped -= skipped;
            if skipped < len {
                inputs.push(match segment {
                    Segment::Tokens(ids) => Input::Tokens(&ids[skipped..]),
                    Segment::Image(index) => Input::Image(&rows[*index][skipped * width..]),
                });
            }
        }
        inputs
    }

    /// Chooses tokens and shows their text until something ends the answer.
    fn generate(&mut self) -> Result<StopReason> {
        if self.is_cancelled {
            return Ok(StopReason::Cancelled);
        }
        let stop = self.choose_tokens()?;
        match stop {
            StopReason::Cancelled => return Ok(stop),
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
        Ok(stop)
    }

    fn choose_tokens(&mut self) -> Result<StopReason> {
        for n_generated in 1.. {
            let choice = self.chooser.choose(self.memory.logits_mut(), &self.ids)?;
            let (Choice::End(id) | Choice::Token(id) | Choice::LastToken(id)) = choice;
            self.ids.push(id);
            if matches!(choice, Choice::End(_)) {
                return Ok(StopReason::EndOfText);
            }
            if self.text.push(id) {
                return Ok(StopReason::StopText);
            }
            if matches!(choice, Choice::LastToken(_)) {
                self.ids.push(self.assistant.tokenizer.vocabulary().eos_id);
                return Ok(StopReason::EndOfText);
            }
            let text = self.text.take_safe();
            if (self.listener)(Event::Text(text)).is_break() {
                break;
            }
            if n_generated == self.plan.max_tokens {
                return Ok(self.plan.at_max_tokens);
            }
            self.compute(id)?;
        }
        Ok(StopReason::Cancelled)
    }

    /// Computes what comes after `id`, unless a draft has foreseen it.
    fn compute(&mut self, id: u32) -> Result<()> {
        if self.lookup.confirms(id) {
            self.memory.next_logits();
            return Ok(());
        }
        self.forget_drafts();
        let draft = self.lookup.draft(&self.ids, self.memory.room_ahead());
        if draft.is_empty() {
            return self.memory.step(id);
        }
        let mut ids = [id; 1 + lookup::MAX_TOKENS];
        ids[1..=draft.len()].copy_from_slice(draft);
        self.memory.look_ahead(&ids[..=draft.len()])
    }

    /// Whether the text is what the constraint asks for, if there is one.
    fn is_fulfilled(&mut self, stop: StopReason) -> bool {
        match stop {
            StopReason::EndOfText => true,
            // The stop text was part of what was asked for, and is not in the answer.
            StopReason::StopText => !self.chooser.is_constrained(),
            _ => self.chooser.is_fulfilled(),
        }
    }

    /// Forgets positions that were computed and not chosen.
    fn forget_drafts(&mut self) {
        let n_chosen = self.memory.held().len() - self.lookup.n_pending();
        self.memory.truncate(n_chosen);
    }

    /// Reports progress; whether the request should go on.
    fn tell(&mut self, event: Event) -> bool {
        self.is_cancelled |= (self.listener)(event).is_break();
        !self.is_cancelled
    }
}
