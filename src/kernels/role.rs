//! The role of a row of activations: prompt or answer.

/// A row's role decides its arithmetic; nothing else does: not how many rows are computed with it,
/// how a prompt was cut, how many threads there are, nor what comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowRole {
    /// A row of a prompt or a picture: computed with many others as a rule, so by the kernels for
    /// batches, even where it is alone.
    Prompt,
    /// A row of an answer: computed alone as a rule, so by the kernels for single rows, even where
    /// it is one of several.
    Answer,
}
