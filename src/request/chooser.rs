//! Chooses each token of an answer: sampling, and the constraint if there is one.

use super::{Assistant, Request};
#[cfg(feature = "constrain")]
use crate::constrain::Guide;
use crate::error::Result;
use crate::sampler::Sampler;

/// Chooses the tokens of one answer.
pub(super) struct Chooser {
    sampler: Sampler,
    #[cfg(feature = "constrain")]
    guide: Option<Guide>,
    eos_id: u32,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The answer has ended before.
    End(u32),
    /// More may follow.
    Token(u32),
    /// Nothing but `</s>` could follow.
    #[cfg_attr(not(feature = "constrain"), expect(dead_code))]
    LastToken(u32),
}

impl Chooser {
    pub fn new(assistant: &Assistant, request: &Request) -> Result<Self> {
        let vocab_size = assistant.model.config().decoder.vocab_size;
        Ok(Chooser {
            sampler: Sampler::new(request.sampling.clone(), vocab_size)?,
            #[cfg(feature = "constrain")]
            guide: assistant.guide(request)?,
            eos_id: assistant.tokenizer.vocabulary().eos_id,
        })
    }

    /// The next token. `logits: [vocab_size]`, changed in place; `recent` as in
    /// [`Sampler::sample`].
    pub fn choose(&mut self, logits: &mut [f32], recent: &[u32]) -> Result<Choice> {
        #[cfg(feature = "constrain")]
        if let Some(guide) = &mut self.guide {
            guide.restrict(logits)?;
        }
        let id = self.sampler.sample(logits, recent);
        if id == self.eos_id {
            return Ok(Choice::End(id));
        }
        #[cfg(feature = "constrain")]
        if let Some(guide) = &mut self.guide
            && guide.accept(id)?
        {
            return Ok(Choice::LastToken(id));
        }
        Ok(Choice::Token(id))
    }

    /// Whether the answer has a constraint.
    pub fn is_constrained(&self) -> bool {
        #[cfg(feature = "constrain")]
        return self.guide.is_some();
        #[cfg(not(feature = "constrain"))]
        false
    }

    /// Whether the tokens chosen so far are all that the constraint asks for, if there is one.
    pub fn is_fulfilled(&mut self) -> bool {
        #[cfg(feature = "constrain")]
        if let Some(guide) = &mut self.guide {
            return guide.is_fulfilled();
        }
        true
    }
}
