//! The modality-adaptive module: which positions are text, which are image, and what each uses.
//!
//! A prompt is a sequence of runs of one modality. What exists twice (K, V and the two norms of a
//! decoder block) is applied a run at a time, so that a run stays one batched operation.

use std::ops::Range;

/// Where a position of the decoder's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modality {
    /// A token, of the prompt or generated.
    Text,
    /// A row of a picture, the end-of-image vector included.
    Image,
}

/// Consecutive positions of one modality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Their modality.
    pub modality: Modality,
    /// Their rows in the batch.
    pub rows: Range<usize>,
}

/// Something of which each modality has its own; in a plain LLaMA there is only the text's.
#[derive(Clone, Debug)]
pub(super) struct PerModality<T> {
    pub text: T,
    pub image: Option<T>,
}

impl<T> PerModality<T> {
    /// The one for `modality`.
    pub fn of(&self, modality: Modality) -> &T {
        match (modality, &self.image) {
            (Modality::Image, Some(image)) => image,
            _ => &self.text,
        }
    }
}

/// The part of `matrix: [n, width]` that holds `rows`.
pub(super) fn rows_of<'a>(matrix: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &matrix[rows.start * width..rows.end * width]
}

/// The part of `matrix: [n, width]` that holds `rows`, to be written to.
pub(super) fn rows_of_mut<'a>(
    matrix: &'a mut [f32],
    rows: &Range<usize>,
    width: usize,
) -> &'a mut [f32] {
    &mut matrix[rows.start * width..rows.end * width]
}
