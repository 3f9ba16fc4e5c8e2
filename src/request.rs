//! One request from beginning to end: turns and pictures in, streamed text and an [`Answer`] out.
//!
//! ```text
//!   prompt -> token runs and picture slots -> does it fit the context?
//!   pictures -> pixels -> rows of decoder inputs
//!   both -> prefill -> choose a token, show its text, compute the next -> ... -> stop
//! ```
//!
//! Everything that can be refused is refused before the first picture is encoded. Every front
//! (command line, server, bindings) asks through [`Assistant::answer`],
//! [`Assistant::answer_from`] where requests follow one another, or an
//! [`Engine`](crate::engine::Engine) where there are many.

mod answer_text;
mod assistant;
mod chooser;
mod generation;
mod lookup;
mod picture;
mod plan;
mod question;
mod words;

use std::ops::ControlFlow;

pub use assistant::Assistant;
#[cfg(feature = "cli")]
pub(crate) use assistant::check_context;
pub(crate) use generation::{Generation, Need};
pub use picture::{Embedding, Pixels, Source};
pub use question::{Question, Settings};
pub(crate) use words::softmax;
pub use words::{WordLogit, WordLogits, WordsRequest};

#[cfg(feature = "constrain")]
use crate::constrain::Constraint;
use crate::image::{Aspect, Reading};
use crate::prompt::{IMAGE_MARKER, Message, Role, Template};
use crate::sampler::Sampling;
use crate::timing::Timings;

/// Longest answer in tokens where a request names none: the reference's `max_new_tokens`
/// (`cli.py`).
pub const DEFAULT_MAX_TOKENS: usize = 512;

/// [`Request::max_tokens`] of an answer that only the context limits.
pub const UNLIMITED: usize = usize::MAX;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The conversation, or a whole prompt.
    pub prompt: Prompt,
    /// As many pictures as the prompt has slots.
    pub pictures: Vec<Source>,
    /// What becomes of pictures that are not square; `None` is the file's own default.
    pub aspect: Option<Aspect>,
    /// What becomes of orientation, transparency and 16-bit samples of pictures.
    pub reading: Reading,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What the answer must be, if not any text.
    #[cfg(feature = "constrain")]
    pub constraint: Option<Constraint>,
    /// Longest answer in tokens. `None` is [`DEFAULT_MAX_TOKENS`], or as many as fit;
    /// [`UNLIMITED`] is as many as fit.
    pub max_tokens: Option<usize>,
    /// Texts before which the answer ends, besides the template's own.
    pub stops: Vec<String>,
    /// Whether control tokens of the answer are spelled out in its text.
    pub spells_specials: bool,
    /// Room for prompt, pictures and answer in positions; `None` is the trained context.
    pub context: Option<usize>,
    /// Tokens that are drafted from what was said already and verified together, up to 7; none with
    /// `Some(0)`, and with `None` as many as pay. The answer is the same.
    pub lookup: Option<usize>,
}

/// The prompt of a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation. No text in it can make a control token.
    Turns {
        /// The turns, with an open one of the assistant at the end.
        messages: Vec<Message>,
        /// What is said before them: `None` is the template's own, where it has one, and an empty
        /// text is none.
        system: Option<String>,
        /// `None` is the file's own. Where that has none either, as plain LLaMA files do, the texts
        /// of the turns follow one another as they are.
        template: Option<Template>,
    },
    /// A whole prompt that a program wrote, in which `<s>` and `</s>` count.
    Raw(String),
}

impl Prompt {
    /// A conversation in the file's own template.
    pub fn turns(messages: Vec<Message>) -> Self {
        Prompt::Turns {
            messages,
            system: None,
            template: None,
        }
    }
}

impl Prompt {
    /// Puts `n` slots in the place of each, for the frames of a clip in place of a picture.
    pub fn repeat_pictures(&mut self, n: usize) {
        let repeat = |text: &mut String| {
            *text = text.replace(IMAGE_MARKER, &IMAGE_MARKER.repeat(n));
        };
        match self {
            Prompt::Raw(text) => repeat(text),
            Prompt::Turns { messages, .. } => {
                let users = messages
                    .iter_mut()
                    .filter(|message| message.role == Role::User);
                users.for_each(|message| repeat(&mut message.text));
            }
        }
    }
}

/// What a request reports while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A picture is going to be encoded.
    Encoding {
        /// Which one, from 0.
        index: usize,
        /// How many there are.
        n_pictures: usize,
    },
    /// The prompt, or the rest of it, is going to be computed.
    Reading {
        /// Positions that are computed already, or were for an earlier request.
        n_done: usize,
        /// Its length.
        n_positions: usize,
    },
    /// A token was chosen. This is more of the answer, in whole words; none where the token
    /// completes none. Together all these are [`Answer::text`], unless the request was cancelled.
    Text(&'a str),
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The whole text, without the stop text.
    pub text: String,
    /// The generated tokens, a final `</s>` included.
    pub ids: Vec<u32>,
    /// Positions of the whole prompt, pictures included.
    pub n_prompt: usize,
    /// Positions that pictures take of these.
    pub n_image: usize,
    /// Positions of the prompt that an earlier request had computed.
    pub n_reused: usize,
    /// Tokens that were drafted.
    pub n_drafted: usize,
    /// Drafted tokens that the model chose.
    pub n_accepted: usize,
    /// What is missing in the files of pictures, each by the name of the file; that of
    /// [`Source::Pixels`] was known before.
    pub warnings: Vec<String>,
    /// Whether the text is what the request's constraint asks for, and not only the beginning of
    /// it; true without a constraint.
    pub is_fulfilled: bool,
    /// Why it ended.
    pub stop: StopReason,
    /// How long it took; [`Stage::Load`](crate::timing::Stage::Load) is that of the file, whichever request it is.
    pub timings: Timings,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The model said `</s>`, or nothing else could have followed.
    EndOfText,
    /// A stop text came.
    StopText,
    /// It has the longest length asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The receiver of the text wanted no more.
    Cancelled,
}

impl StopReason {
    /// Whether the model had more to say, and nobody wanted it to stop.
    pub fn is_cut(self) -> bool {
        matches!(self, StopReason::MaxTokens | StopReason::ContextFull)
    }

    /// Its name in OpenAI's API: `length` where the answer was cut, else `stop`.
    pub fn finish_reason(self) -> &'static str {
        match self.is_cut() {
            true => "length",
            false => "stop",
        }
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::EndOfText => "end_of_text",
            StopReason::StopText => "stop_text",
            StopReason::MaxTokens => "max_tokens",
            StopReason::ContextFull => "context_full",
            StopReason::Cancelled => "cancelled",
        }
    }
}

/// Receives the events of a request and says whether it should go on.
pub type Listener<'a> = dyn FnMut(Event) -> ControlFlow<()> + Send + 'a;

impl Request {
    /// A request with the defaults: no pictures, the likeliest token always.
    pub fn new(prompt: Prompt) -> Self {
        Request {
            prompt,
            pictures: Vec::new(),
            aspect: None,
            reading: Reading::default(),
            sampling: Sampling::default(),
            #[cfg(feature = "constrain")]
            constraint: None,
            max_tokens: None,
            stops: Vec::new(),
            spells_specials: false,
            context: None,
            lookup: None,
        }
    }
}
