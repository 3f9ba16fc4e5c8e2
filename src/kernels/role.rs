//! What a row of activations is for.

/// A row's role decides its arithmetic; nothing else does: neither how many rows there are, nor how
/// they are cut into passes. So the same request has the same bits, whatever is computed beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Many rows that are known together: those of a prompt or a picture. They are multiplied as a
    /// matrix.
    Prompt,
    /// A row that continues an answer. Each is computed for itself.
    Answer,
}
