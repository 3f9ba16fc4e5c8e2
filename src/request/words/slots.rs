//! A prompt with its picture slots filled.

use std::sync::Arc;

use super::super::assistant::Assistant;
use super::super::{Pixels, Source};
use super::WordsRequest;
use crate::error::{Error, Result};
use crate::prompt::Segment;
use crate::reuse::Position;
use crate::session::Input;

/// A run of a prompt.
pub(super) enum SlotRun {
    Tokens(Vec<u32>),
    /// The rows of the picture with this number.
    Picture(usize),
}

/// A prompt whose slots are filled.
pub(super) struct Slots<'s> {
    pub parts: Vec<SlotRun>,
    /// Positions that one picture takes.
    n_rows: usize,
    pub pictures: Vec<&'s Source>,
}

impl<'s> Slots<'s> {
    pub fn new(assistant: &Assistant, request: &'s WordsRequest) -> Result<Self> {
        if request.slots.iter().any(Vec::is_empty) {
            return Err(Error::input("a clip has no frames"));
        }
        let (segments, _) = assistant.segments(&request.prompt);
        assistant.picture_slots(&segments, request.slots.len())?;
        let mut slots = Slots {
            parts: Vec::new(),
            n_rows: assistant.picture_rows(),
            pictures: Vec::new(),
        };
        for segment in segments {
            match segment {
                Segment::Tokens(ids) => slots.parts.push(SlotRun::Tokens(ids)),
                Segment::Image(slot) => {
                    for picture in &request.slots[slot] {
                        slots.parts.push(SlotRun::Picture(slots.pictures.len()));
                        slots.pictures.push(picture);
                    }
                }
            }
        }
        Ok(slots)
    }

    /// Each picture's number, and the position after its last one.
    pub fn picture_ends(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut end = 0;
        self.parts.iter().filter_map(move |part| {
            end += self.len(part);
            match part {
                SlotRun::Tokens(_) => None,
                SlotRun::Picture(index) => Some((*index, end)),
            }
        })
    }

    /// Positions that a part takes.
    pub fn len(&self, part: &SlotRun) -> usize {
        match part {
            SlotRun::Tokens(ids) => ids.len(),
            SlotRun::Picture(_) => self.n_rows,
        }
    }

    /// What stands at each position.
    pub fn positions(&self, pictures: &[Arc<Pixels>]) -> Vec<Position> {
        let mut positions = Vec::new();
        for part in &self.parts {
            match part {
                SlotRun::Tokens(ids) => positions.extend(ids.iter().copied().map(Position::Token)),
                SlotRun::Picture(index) => {
                    let key = pictures[*index].key;
                    let rows = 0..self.n_rows as u32;
                    positions.extend(rows.map(|row| Position::Picture { key, row }));
                }
            }
        }
        positions
    }

    /// The prompt without its first `n_held` positions; `width` is that of a row.
    pub fn inputs<'r>(
        &'r self,
        rows: &'r [Arc<[f32]>],
        n_held: usize,
        width: usize,
    ) -> Vec<Input<'r>> {
        let mut n_skipped = n_held;
        let mut inputs = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let len = self.len(part);
            let skipped = n_skipped.min(len);
            n_skipped -= skipped;
            if skipped < len {
                inputs.push(match part {
                    SlotRun::Tokens(ids) => Input::Tokens(&ids[skipped..]),
                    SlotRun::Picture(index) => Input::Image(&rows[*index][skipped * width..]),
                });
            }
        }
        inputs
    }
}
