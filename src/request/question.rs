//! The short way to ask: a [`Question`], answered as [`Settings`] say.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::{Answer, Assistant, Event, Prompt, Request, Source};
#[cfg(feature = "constrain")]
use crate::constrain::Constraint;
use crate::error::Result;
use crate::image::Aspect;
use crate::ops::Compute;
use crate::prompt::{Message, place_images};
use crate::threads;

/// A question, and the pictures it is about.
///
/// ```
/// use owl2::Question;
///
/// let which = Question::new("<|image|> or <|image|>: which is older?").picture("a.jpg").picture("b.jpg");
/// ```
#[derive(Clone, Debug)]
pub struct Question {
    prompt: String,
    pictures: Vec<Source>,
}

impl Question {
    /// A question without a picture.
    ///
    /// Pictures replace the `<|image|>` markers in its text, in order; without a marker they come
    /// before it.
    pub fn new(prompt: impl Into<String>) -> Self {
        Question {
            prompt: prompt.into(),
            pictures: Vec::new(),
        }
    }

    /// Adds a picture: a path, the bytes of a file as `Vec<u8>`, or a [`Source`].
    #[must_use]
    pub fn picture(mut self, picture: impl Into<Source>) -> Self {
        self.pictures.push(picture.into());
        self
    }
}

impl From<&str> for Question {
    fn from(prompt: &str) -> Self {
        Question::new(prompt)
    }
}

impl From<String> for Question {
    fn from(prompt: String) -> Self {
        Question::new(prompt)
    }
}

/// How to answer. The defaults are those of the model file, and the likeliest token always.
///
/// ```
/// use owl2::Settings;
///
/// let settings = Settings::default().temperature(0.7).seed(1).max_tokens(100);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Settings {
    system: Option<String>,
    temperature: f32,
    top_k: Option<usize>,
    top_p: Option<f32>,
    seed: u64,
    max_tokens: Option<usize>,
    stops: Vec<String>,
    context: Option<usize>,
    aspect: Option<Aspect>,
    #[cfg(feature = "constrain")]
    constraint: Option<Constraint>,
}

impl Settings {
    /// Sets the system prompt. The default is that of the template, if it has one.
    #[must_use]
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.system = Some(text.into());
        self
    }

    /// Samples tokens with this temperature; 0, the default, always takes the likeliest one.
    #[must_use]
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.temperature = temperature;
        self
    }

    /// Samples from the `k` likeliest tokens; 0 from all.
    #[must_use]
    pub fn top_k(mut self, k: usize) -> Self {
        self.top_k = Some(k);
        self
    }

    /// Samples from the likeliest tokens with a total probability of `p`.
    #[must_use]
    pub fn top_p(mut self, p: f32) -> Self {
        self.top_p = Some(p);
        self
    }

    /// Sets the seed: the same seed gives the same text.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the longest answer in tokens; [`UNLIMITED`](super::UNLIMITED) is what the context has
    /// room for. The default is 512, or what the context has room for.
    #[must_use]
    pub fn max_tokens(mut self, n: usize) -> Self {
        self.max_tokens = Some(n);
        self
    }

    /// Ends the answer before this text. Can be called several times.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stops.push(text.into());
        self
    }

    /// Sets the context in tokens, for prompt, pictures and answer. The default is what the model
    /// was trained with, or less where memory is short.
    #[must_use]
    pub fn context(mut self, n: usize) -> Self {
        self.context = Some(n);
        self
    }

    /// Sets how pictures that are not square are fitted.
    #[must_use]
    pub fn aspect(mut self, aspect: Aspect) -> Self {
        self.aspect = Some(aspect);
        self
    }

    /// Sets what the answer must be.
    #[cfg(feature = "constrain")]
    #[must_use]
    pub fn constraint(mut self, constraint: Constraint) -> Self {
        self.constraint = Some(constraint);
        self
    }

    /// The request for an answer of `assistant` to `prompt`.
    pub(crate) fn request(&self, assistant: &Assistant, prompt: Prompt) -> Request {
        let mut sampling = assistant.sampling().clone();
        sampling.temperature = self.temperature;
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
        sampling.seed = self.seed;
        Request {
            sampling,
            max_tokens: self.max_tokens,
            stops: self.stops.clone(),
            context: self.context,
            aspect: self.aspect,
            #[cfg(feature = "constrain")]
            constraint: self.constraint.clone(),
            ..Request::new(prompt)
        }
    }
}

impl Assistant {
    /// Opens the model file at `path`, with a worker thread per physical core.
    ///
    /// # Errors
    /// As [`Assistant::open_with`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), Compute::new(threads::default_count())?)
    }

    /// [`Assistant::open`] with another number of worker threads.
    ///
    /// # Errors
    /// As [`Assistant::open_with`], and [`Kind::Usage`](crate::Kind::Usage) for too many threads.
    pub fn open_on(path: impl AsRef<Path>, n_threads: NonZeroUsize) -> Result<Self> {
        Self::open_with(path.as_ref(), Compute::new(n_threads)?)
    }

    /// The small model that is part of the library. It knows drawings of some 80 things.
    ///
    /// # Errors
    /// As [`Assistant::open_with`]; none for the file that is there.
    #[cfg(feature = "tiny")]
    pub fn built_in() -> Result<Self> {
        let compute = Compute::new(threads::default_count())?;
        Self::new(&crate::builtin::open()?, compute)
    }

    /// Answers a question with the default [`Settings`].
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub fn ask(&self, question: impl Into<Question>) -> Result<Answer> {
        self.ask_with(question, &Settings::default(), &mut |_| {
            ControlFlow::Continue(())
        })
    }

    /// Answers a question as `settings` say, and gives `receive` the text as it is generated. A
    /// [`ControlFlow::Break`] ends the answer there.
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub fn ask_with(
        &self,
        question: impl Into<Question>,
        settings: &Settings,
        receive: &mut (dyn FnMut(&str) -> ControlFlow<()> + Send),
    ) -> Result<Answer> {
        let question = question.into();
        let text = place_images(&question.prompt, question.pictures.len())?;
        let prompt = Prompt::Turns {
            messages: vec![Message::user(text), Message::assistant("")],
            system: settings.system.clone(),
            template: None,
        };
        let request = Request {
            pictures: question.pictures,
            ..settings.request(self, prompt)
        };
        self.answer(&request, &mut |event| match event {
            Event::Text(text) if !text.is_empty() => receive(text),
            _ => ControlFlow::Continue(()),
        })
    }
}

/// The text of the answer.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Source::File(path)
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Source::File(path.to_owned())
    }
}

impl From<&str> for Source {
    fn from(path: &str) -> Self {
        Source::File(path.into())
    }
}

impl From<String> for Source {
    fn from(path: String) -> Self {
        Source::File(path.into())
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Source::Bytes(bytes)
    }
}
