//! A request that passed all checks: its segments and lengths.

use std::sync::Arc;

use super::assistant::token_ids;
use super::{Pixels, StopReason};
use crate::prompt::Segment;
use crate::reuse::Position;
use crate::session::Input;

/// A request that fits the context.
#[derive(Debug)]
pub(super) struct RequestPlan {
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
    pub stops: Vec<String>,
}

impl RequestPlan {
    /// Positions of prompt and answer together.
    pub fn n_positions(&self) -> usize {
        self.n_prompt + self.max_tokens
    }

    /// The prompt's tokens, with room for the answer's.
    pub fn ids(&self) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.n_positions());
        ids.extend(self.segments.iter().flat_map(token_ids));
        ids
    }

    /// Positions that a segment takes.
    fn segment_len(&self, segment: &Segment) -> usize {
        match segment {
            Segment::Tokens(ids) => ids.len(),
            Segment::Image(_) => self.n_picture_rows,
        }
    }

    /// Each picture's number, and the position after its last one, in the order of the prompt.
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

    /// The `n` positions of the prompt after its first `n_held`. `rows` are those of the pictures,
    /// `width` values each.
    pub fn inputs<'r>(
        &'r self,
        rows: &'r [Arc<[f32]>],
        width: usize,
        n_held: usize,
        n: usize,
    ) -> Vec<Input<'r>> {
        let mut inputs = Vec::with_capacity(self.segments.len());
        let mut end = 0;
        for segment in &self.segments {
            let start = end;
            end += self.segment_len(segment);
            let from = n_held.clamp(start, end) - start;
            let to = (n_held + n).clamp(start, end) - start;
            if from < to {
                inputs.push(match segment {
                    Segment::Tokens(ids) => Input::Tokens(&ids[from..to]),
                    Segment::Image(index) => Input::Image(&rows[*index][from * width..to * width]),
                });
            }
        }
        inputs
    }
}
