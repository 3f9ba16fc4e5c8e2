//! Computes the prompts of several requests in one pass, and their common beginning once.

use std::time::Instant;

use super::super::assistant::Assistant;
use super::{Asked, WordLogits};
use crate::error::Result;
use crate::ops::RowRole;
use crate::reuse::PromptCache;
use crate::session::Input;
use crate::timing::Stage;
use crate::workspace::Workspace;

impl Assistant {
    /// Computes what memories do not hold of the prompts of requests that could be prepared, and how
    /// likely their words are.
    pub(super) fn read_each(
        &self,
        memories: &mut [PromptCache],
        workspace: &mut Workspace,
        asked: Vec<Result<Asked>>,
    ) -> Vec<Result<WordLogits>> {
        let width = self.model.config().decoder.hidden_size;
        let mut ready: Vec<(&mut PromptCache, &Asked)> = (memories.iter_mut().zip(&asked))
            .filter_map(|(memory, asked)| Some((memory, asked.as_ref().ok()?)))
            .collect();
        let start = Instant::now();
        let shared = share_prefix(&mut ready, workspace, width);
        let n_held: Vec<usize> = ready
            .iter()
            .map(|(memory, _)| memory.held().len())
            .collect();
        let inputs: Vec<Vec<Input>> = (ready.iter().zip(&n_held))
            .map(|((_, asked), &n_held)| asked.slots.inputs(&asked.rows, n_held, width))
            .collect();
        let read = shared.and_then(|()| {
            let parts = ready.iter_mut().zip(&inputs);
            let parts = parts.map(|((memory, _), inputs)| memory.part(inputs, 1));
            let mut parts = parts.collect::<Result<Vec<_>>>()?;
            workspace.compute(RowRole::Prompt, &mut parts)
        });
        let n_ready = ready.len() as u32;
        let mut logits = Vec::with_capacity(ready.len());
        for (row, (memory, asked)) in ready.into_iter().enumerate() {
            memory.hold(
                RowRole::Prompt,
                asked.positions[memory.held().len()..].iter().copied(),
            );
            logits.push(read.is_ok().then(|| workspace.logits(row).to_vec()));
        }
        let took = start.elapsed();
        let (mut logits, mut n_held) = (logits.into_iter(), n_held.into_iter());
        let mut rated = Vec::with_capacity(asked.len());
        for (memory, asked) in memories.iter_mut().zip(asked) {
            rated.push(asked.and_then(|mut asked| {
                let n_reused = n_held.next().unwrap_or(0);
                let first = match logits.next().flatten() {
                    Some(first) => {
                        asked.timings.add(Stage::Prefill, took / n_ready);
                        first
                    }
                    // One of them failed, and is found by computing each alone.
                    None => {
                        self.read(memory, workspace, &mut asked)?;
                        memory.logits_mut(workspace).to_vec()
                    }
                };
                asked.rated(memory, workspace, &first, n_reused)
            }));
        }
        rated
    }
}

/// Rows that take about as long as the weights are unpacked for: a pass of fewer costs no less.
const SHORT_PASS: usize = 32;

/// Computes what prompts begin with in common in one of the memories, and copies it to the others,
/// where that takes fewer rows than computing it in each, and a pass of its own pays.
fn share_prefix(
    ready: &mut [(&mut PromptCache, &Asked)],
    workspace: &mut Workspace,
    width: usize,
) -> Result<()> {
    let Some(((first, of_first), others)) = ready.split_first_mut() else {
        return Ok(());
    };
    // Of the shortest prompt too, a position is left to be computed.
    let mut n_shared = of_first.positions.len().saturating_sub(1);
    for (_, asked) in &*others {
        let pairs = of_first.positions.iter().zip(&asked.positions);
        let n_common = pairs.take_while(|(a, b)| a == b).count();
        n_shared = n_shared.min(n_common).min(asked.positions.len() - 1);
    }
    let n_missing = |memory: &PromptCache| n_shared.saturating_sub(memory.held().len());
    let n_missing_in_others: usize = others.iter().map(|(memory, _)| n_missing(memory)).sum();
    let depends_on_length =
        |memory: &PromptCache, asked: &Asked| memory.depends_on_length(asked.positions.len());
    if n_missing_in_others < SHORT_PASS
        || depends_on_length(first, of_first)
        || others
            .iter()
            .any(|(memory, asked)| depends_on_length(memory, asked))
    {
        return Ok(());
    }
    let n_held = first.held().len();
    if n_held < n_shared {
        let inputs = of_first.slots.inputs(&of_first.rows, n_held, width);
        let inputs = beginning(inputs, n_shared - n_held, width);
        let new = &of_first.positions[n_held..n_shared];
        first.extend(workspace, &inputs, new, &mut |_| true)?;
    }
    for (memory, _) in others {
        if n_missing(memory) > 0 {
            memory.take_over(first, n_shared);
        }
    }
    Ok(())
}

/// The first `n` positions of `inputs`.
fn beginning(inputs: Vec<Input>, n: usize, width: usize) -> Vec<Input> {
    let mut n_left = n;
    let mut beginning = Vec::with_capacity(inputs.len());
    for input in inputs {
        let n_of_input = input.n_positions(width).min(n_left);
        n_left -= n_of_input;
        if n_of_input > 0 {
            beginning.push(match input {
                Input::Tokens(ids) => Input::Tokens(&ids[..n_of_input]),
                Input::Image(rows) => Input::Image(&rows[..n_of_input * width]),
            });
        }
    }
    beginning
}
