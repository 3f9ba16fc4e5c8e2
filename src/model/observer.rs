//! Access to the intermediate values of a forward pass, for parity tests and debugging.

use std::fmt;

use crate::error::Error;
use crate::kernels::float::all_finite;

/// A place in the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardStage {
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

/// Is shown the values at each [`ForwardStage`].
pub trait Observer: Send {
    /// Whether anybody looks; if not, values that only an observer needs are not computed.
    const ACTIVE: bool = true;

    /// Called with the values at `stage`.
    fn observe(&mut self, stage: ForwardStage, values: &[f32]);
}

/// Nobody looks.
impl Observer for () {
    const ACTIVE: bool = false;

    fn observe(&mut self, _: ForwardStage, _: &[f32]) {}
}

impl fmt::Display for ForwardStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardStage::PatchEmbeddings => f.write_str("the patch embeddings"),
            ForwardStage::VitEmbeddings => f.write_str("the vision tower's embeddings"),
            ForwardStage::VitLayer(i) => write!(f, "layer {i} of the vision tower"),
            ForwardStage::VitOutput => f.write_str("the vision tower's output"),
            ForwardStage::AbstractorLayer(i) => write!(f, "layer {i} of the abstractor"),
            ForwardStage::AbstractorOutput => f.write_str("the abstractor's output"),
            ForwardStage::Embeddings => f.write_str("the decoder's input"),
            ForwardStage::DecoderLayer(i) => write!(f, "layer {i} of the decoder"),
            ForwardStage::FinalNorm => f.write_str("the decoder's final norm"),
        }
    }
}

/// Finds the first stage with values that are not finite.
#[derive(Debug, Default)]
pub(crate) struct FirstNotFinite(Option<ForwardStage>);

impl Observer for FirstNotFinite {
    fn observe(&mut self, stage: ForwardStage, values: &[f32]) {
        if self.0.is_none() && !all_finite(values) {
            self.0 = Some(stage);
        }
    }
}

impl FirstNotFinite {
    /// What is to be said of a result that is not finite. Where no stage was, `after` all of them it
    /// was.
    pub fn error(&self, after: &str) -> Error {
        let place = match self.0 {
            Some(stage) => stage.to_string(),
            None => after.to_owned(),
        };
        Error::model(format!(
            "the model computes values that are not finite, first in {place}: its weights are damaged, \
             or too large for how they are stored; fetch or convert it again, and check it with \
             'owl2-convert --verify'"
        ))
    }
}
