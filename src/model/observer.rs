//! A look at the intermediate values of a forward pass, for parity tests and debugging.

/// A place in the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// `[patches, C]`: the patch convolution, before class token and positions.
    PatchEmbeddings,
    /// `[tokens, C]`: after class token, positions and the first LayerNorm.
    VitEmbeddings,
    /// `[tokens, C]`: output of this ViT block.
    VitLayer(usize),
    /// `[tokens, C]`: output of the ViT.
    VitOutput,
    /// `[queries, C]`: output of this abstractor block.
    AbstractorLayer(usize),
    /// `[queries + 1, D]`: what goes into the decoder for one picture.
    AbstractorOutput,
    /// `[positions, D]`: embedded tokens and pictures.
    Embeddings,
    /// `[positions, D]`: output of this decoder block.
    DecoderLayer(usize),
    /// `[positions, D]`: after the final norm. Only the last position where nobody watches.
    FinalNorm,
}

/// Is shown the values at each [`Stage`].
pub trait Observer: Send {
    /// Whether anybody looks; if not, values that only an observer needs are not computed.
    const ACTIVE: bool = true;

    /// Called with the values at `stage`.
    fn observe(&mut self, stage: Stage, values: &[f32]);
}

/// Nobody looks.
impl Observer for () {
    const ACTIVE: bool = false;

    fn observe(&mut self, _: Stage, _: &[f32]) {}
}
