//! Many requests at once. The next tokens of all answers share a pass over the weights; between two
//! such passes, a piece of a prompt or some blocks of a picture are computed.
//!
//! ```text
//!   step: answers -> one row each, in one pass -> a token each
//!         then the oldest of the others -> some positions of its prompt, or blocks of its picture
//! ```
//!
//! A request gets the same bits as when it runs alone: the arithmetic of a row depends only on its role
//! and on the positions before it (docs/numerics.md). So an answer does not depend on other requests.
//! Nor does a request end because of others: an error or a panic in what is done for one ends that one.

mod schedule;

use std::time::{Duration, Instant};

use crate::capacity::{self, human_bytes};
use crate::error::{Error, Kind, Result};
use crate::ops::RowRole;
use crate::panics::caught;
use crate::request::{Answer, Assistant, Generation, Listener, Need, Request};
use crate::reuse::{Position, PromptCache};
use crate::session::{Input, SequencePart};
use crate::workspace::Workspace;
pub use schedule::{MAX_TOGETHER, Share, State, Step, StepLimits, schedule};

/// What a request that has ended is known by.
pub type Id = u64;

/// Whose a request is: what was computed for one group is not used for another.
pub type Group = usize;

/// Computes requests together.
#[derive(Debug)]
pub struct Engine<'a> {
    assistant: &'a Assistant,
    limits: StepLimits,
    /// Whether the bound of the caches was measured, not asked for. Then it decides who waits, and a request
    /// that is alone may be larger.
    is_measured: bool,
    /// In the order in which they came.
    running: Vec<Running<'a>>,
    /// One that has begun, but for whose positions there is no memory until another ends.
    waiting: Option<Running<'a>>,
    /// What ended requests left, the last one at the end, and whose they were.
    kept: Vec<(Group, PromptCache)>,
}

struct Running<'a> {
    id: Id,
    group: Group,
    generation: Generation<'a>,
}

impl std::fmt::Debug for Running<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A request that has ended.
pub type Ended = (Id, Result<Answer>);

impl<'a> Engine<'a> {
    /// One that has nothing to do yet.
    pub fn new(assistant: &'a Assistant, limits: StepLimits) -> Self {
        let room = || capacity::room(assistant.model());
        Engine {
            assistant,
            limits: StepLimits {
                cache_bytes: limits.cache_bytes.or_else(room),
                ..limits
            },
            is_measured: limits.cache_bytes.is_none(),
            running: Vec::new(),
            waiting: None,
            kept: Vec::new(),
        }
    }

    /// One with the same limits that has nothing to do yet.
    pub fn anew(&self) -> Self {
        Engine {
            is_measured: self.is_measured,
            ..Engine::new(self.assistant, self.limits)
        }
    }

    /// Takes over what a memory holds, for the first request that begins like it.
    pub fn with_memory(mut self, memory: PromptCache) -> Self {
        self.keep(0, memory);
        self
    }

    /// What the request that ended last has left.
    pub fn into_memory(mut self) -> PromptCache {
        self.kept
            .pop()
            .map_or_else(PromptCache::new, |(_, memory)| memory)
    }

    /// Requests that are on their way.
    pub fn len(&self) -> usize {
        self.running.len() + usize::from(self.waiting.is_some())
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one more request may begin. None may while one waits for memory: nobody is overtaken.
    pub fn has_room(&self) -> bool {
        self.waiting.is_none() && self.running.len() < self.limits.together.clamp(1, MAX_TOGETHER)
    }

    /// Begins a request: decodes its pictures and finds what earlier ones have computed of it. Where
    /// there is no memory for it while others have theirs, it waits for them to end. `listener` hears of
    /// it, and says whether it should go on.
    ///
    /// # Errors
    /// As [`Assistant::answer`], before it begins; [`Kind::Usage`] also where its cache is larger than
    /// [`StepLimits::cache_bytes`].
    pub fn begin(
        &mut self,
        id: Id,
        group: Group,
        request: Request,
        listener: Box<Listener<'a>>,
    ) -> Result<()> {
        let generation = caught(|| self.assistant.begin(request, listener))?;
        let needed = generation.cache_bytes();
        let limit = self.limits.cache_bytes.filter(|_| !self.is_measured);
        if let Some(limit) = limit.filter(|&limit| needed > limit) {
            return Err(Error::usage(format!(
                "the request needs {} for its positions, and all requests together may have {}; ask for \
                 fewer tokens, or raise the limit",
                human_bytes(needed),
                human_bytes(limit)
            ))
            .in_parameter("max_tokens"));
        }
        self.settle(Running {
            id,
            group,
            generation,
        })
    }

    /// Gives a request its memory, or lets it wait for it.
    fn settle(&mut self, mut running: Running<'a>) -> Result<()> {
        let mut memory = self.memory_for(running.group, running.generation.positions());
        let needed = running.generation.cache_bytes();
        while self.exceeds_limit(needed.max(memory.sequence_bytes())) {
            // What ended requests left must not keep a new one out.
            if !self.kept.is_empty() {
                self.kept.remove(0);
            } else if memory.sequence_bytes() > needed {
                memory = PromptCache::new();
            } else {
                self.keep(running.group, memory);
                self.waiting = Some(running);
                return Ok(());
            }
        }
        loop {
            let settled = self.assistant.compute(|workspace| {
                let settled = caught(|| running.generation.settle(memory, workspace));
                renew_after_panic(workspace, &settled);
                settled
            });
            match settled {
                Ok(()) => {
                    self.running.push(running);
                    return Ok(());
                }
                Err(e) if e.kind() == Kind::Capacity && !self.kept.is_empty() => {
                    self.kept.remove(0);
                }
                Err(e) if e.kind() == Kind::Capacity && !self.running.is_empty() => {
                    // It has none until it is settled.
                    let memory = std::mem::take(running.generation.memory());
                    self.keep(running.group, memory);
                    self.waiting = Some(running);
                    return Ok(());
                }
                Err(e) => {
                    self.keep_after(&e, running);
                    return Err(e);
                }
            }
            memory = std::mem::take(running.generation.memory());
        }
    }

    /// Whether the caches would be too large with one more of so many bytes.
    fn exceeds_limit(&mut self, bytes: u64) -> bool {
        let Some(limit) = self.limits.cache_bytes else {
            return false;
        };
        let running = self.running.iter_mut();
        let running: u64 = running
            .map(|running| running.generation.memory().sequence_bytes())
            .sum();
        let kept: u64 = self
            .kept
            .iter()
            .map(|(_, memory)| memory.sequence_bytes())
            .sum();
        let held = running + kept;
        held + bytes > limit && !(self.is_measured && held == 0)
    }

    /// Gives the request that waits its memory, if there is some now.
    fn settle_waiting(&mut self) -> Vec<Ended> {
        let Some(running) = self.waiting.take() else {
            return Vec::new();
        };
        if running.generation.need() == Need::Nothing {
            // It was cancelled, and is ended as the others are.
            self.running.push(running);
            return Vec::new();
        }
        let id = running.id;
        match self.settle(running) {
            Ok(()) => Vec::new(),
            Err(e) => vec![(id, Err(e))],
        }
    }

    /// What is kept that has the most in common with a prompt.
    fn memory_for(&mut self, group: Group, positions: &[Position]) -> PromptCache {
        let of_group = self
            .kept
            .iter()
            .enumerate()
            .filter(|(_, (of, _))| *of == group);
        let best = of_group.max_by_key(|(_, (_, memory))| memory.n_common(positions));
        match best.map(|(index, _)| index) {
            Some(index) => self.kept.remove(index).1,
            None => PromptCache::new(),
        }
    }

    /// Ends a request before its time.
    pub fn cancel(&mut self, id: Id) {
        let mut all = self.running.iter_mut().chain(&mut self.waiting);
        if let Some(running) = all.find(|running| running.id == id) {
            running.generation.cancel();
        }
    }

    /// Computes the next token of every answer and a piece of what else there is to do; gives the
    /// requests that have ended with it.
    pub fn step(&mut self) -> Vec<Ended> {
        let mut ended = self.settle_waiting();
        let states: Vec<State> = self.running.iter().map(Running::state).collect();
        let step = schedule(&states, &self.limits);
        let mut failed = Vec::new();
        self.assistant.compute(|workspace| {
            answer(&mut self.running, workspace, step.drafts, &mut failed);
            match step.share {
                Share::Nothing => {}
                Share::Blocks { of, n } => {
                    let running = &mut self.running[of];
                    if let Err(e) = caught(|| running.generation.encode(n)) {
                        failed.push((running.id, e));
                    }
                }
                Share::Rows(shares) => read(&mut self.running, workspace, &shares, &mut failed),
            }
        });
        ended.extend(self.take_ended(failed));
        ended
    }

    /// Takes out requests that have ended or failed.
    fn take_ended(&mut self, failed: Vec<(Id, crate::Error)>) -> Vec<Ended> {
        let mut ended = Vec::new();
        for (id, e) in failed {
            if let Some(index) = self.running.iter().position(|running| running.id == id) {
                let running = self.running.remove(index);
                self.keep_after(&e, running);
                ended.push((id, Err(e)));
            }
        }
        let mut index = 0;
        while index < self.running.len() {
            match self.running[index].generation.need() {
                Need::Nothing => {
                    let running = self.running.remove(index);
                    let (answer, memory) = running.generation.finish();
                    self.keep(running.group, memory);
                    ended.push((running.id, Ok(answer)));
                }
                _ => index += 1,
            }
        }
        ended
    }

    /// Keeps what a request leaves that failed, unless it was left half done.
    fn keep_after(&mut self, error: &Error, running: Running<'a>) {
        if error.kind() != Kind::Bug {
            self.keep(running.group, running.generation.into_memory());
        }
    }

    /// Keeps what a request leaves for the next ones.
    fn keep(&mut self, group: Group, memory: PromptCache) {
        if memory.sequence_bytes() == 0 {
            return;
        }
        self.kept.push((group, memory));
        if self.kept.len() > self.limits.kept {
            self.kept.remove(0);
        }
    }
}

impl Running<'_> {
    fn state(&self) -> State {
        match self.generation.need() {
            Need::Picture => State::Picture,
            Need::Prompt(n) => State::Prompt(n),
            Need::Answer => State::Answer,
            Need::Nothing => State::Ended,
        }
    }
}

/// The next token of every answer, with drafts of up to `drafts` tokens.
fn answer(
    running: &mut [Running],
    workspace: &mut Workspace,
    drafts: usize,
    failed: &mut Vec<(Id, crate::Error)>,
) {
    let mut pending = Vec::with_capacity(running.len());
    for (index, running) in running.iter_mut().enumerate() {
        running.generation.draft(drafts);
        if let Some(of) = running.generation.pending() {
            pending.push((index, of));
        }
    }
    if pending.is_empty() {
        return;
    }
    let inputs: Vec<[Input; 1]> = pending
        .iter()
        .map(|(_, pending)| [Input::Tokens(pending.ids())])
        .collect();
    let mut answering: Vec<&mut Running> = running
        .iter_mut()
        .filter(|running| running.generation.pending().is_some())
        .collect();
    let parts = answering
        .iter_mut()
        .zip(&pending)
        .zip(&inputs)
        .map(|((running, (_, of)), inputs)| running.generation.answer_part(inputs, of.ids().len()));
    let parts = parts.collect::<Result<Vec<_>>>();
    let computed = pass(workspace, RowRole::Answer, parts);
    let mut row = 0;
    for ((running, (_, of)), inputs) in answering.into_iter().zip(&pending).zip(&inputs) {
        let n = of.ids().len();
        let generation = &mut running.generation;
        let (alone, row_of_it) = match &computed {
            Ok(()) => (Ok(()), row),
            // One of them failed, and is found by computing each alone.
            Err(_) => {
                generation.rewind();
                let part = generation.answer_part(inputs, n).map(|part| vec![part]);
                (pass(workspace, RowRole::Answer, part), 0)
            }
        };
        let taken = alone.and_then(|()| caught(|| generation.take_answer(workspace, row_of_it)));
        row += n;
        if let Err(e) = taken {
            failed.push((running.id, e));
        }
    }
}

/// Positions of prompts: so many of each, given by number.
fn read(
    running: &mut [Running],
    workspace: &mut Workspace,
    shares: &[(usize, usize)],
    failed: &mut Vec<(Id, crate::Error)>,
) {
    let share = |index: usize| shares.iter().find(|&&(of, _)| of == index).map(|&(_, n)| n);
    let start = Instant::now();
    let (mut inputs, mut targets, mut reading) = (Vec::new(), Vec::new(), Vec::new());
    let mut row = 0;
    for (index, running) in running.iter_mut().enumerate() {
        if let Some(n) = share(index) {
            let (of, target) = running.generation.prompt_inputs(n);
            reading.push((index, n, row));
            row += target.n_logits();
            inputs.push(of);
            targets.push(target);
        }
    }
    let parts = targets
        .into_iter()
        .zip(&inputs)
        .map(|(target, inputs)| target.with(inputs));
    let parts = parts.collect::<Result<Vec<_>>>();
    let computed = pass(workspace, RowRole::Prompt, parts);
    let took = start.elapsed() / reading.len().max(1) as u32;
    drop(inputs);
    for (index, n, row) in reading {
        let Running { id, generation, .. } = &mut running[index];
        let taken = match &computed {
            Ok(()) => caught(|| generation.take_prompt(workspace, row, n, took)),
            // As for answers.
            Err(_) => read_alone(generation, workspace, n),
        };
        if let Err(e) = taken {
            failed.push((*id, e));
        }
    }
}

fn read_alone(generation: &mut Generation, workspace: &mut Workspace, n: usize) -> Result<()> {
    let start = Instant::now();
    generation.rewind();
    let (inputs, target) = generation.prompt_inputs(n);
    let part = target.with(&inputs).map(|part| vec![part]);
    pass(workspace, RowRole::Prompt, part)?;
    drop(inputs);
    let took: Duration = start.elapsed();
    caught(|| generation.take_prompt(workspace, 0, n, took))
}

/// Computes parts together. After a panic the buffers are new ones, and the parts' sequences have to be
/// brought back to what they held ([`Generation::rewind`]).
fn pass(workspace: &mut Workspace, role: RowRole, parts: Result<Vec<SequencePart>>) -> Result<()> {
    let mut parts = parts?;
    let computed = caught(|| workspace.compute(role, &mut parts));
    renew_after_panic(workspace, &computed);
    computed
}

/// Gives a workspace in which a panic came new buffers.
fn renew_after_panic(workspace: &mut Workspace, outcome: &Result<()>) {
    if matches!(outcome, Err(e) if e.kind() == Kind::Bug) {
        let model = workspace.model().clone();
        *workspace = Workspace::new(&model);
    }
}
