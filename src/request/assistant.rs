//! An open model file, and the checks that a request must pass before work starts.

use std::path::Path;

use super::run::{Plan, Run};
use super::{Answer, DEFAULT_MAX_TOKENS, Listener, Prompt, Request, StopReason};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, names};
use crate::model::Model;
use crate::model::visual_config::VisualConfig;
use crate::ops::Compute;
use crate::prompt::{Part, Segment, Template, tokenize, tokenize_raw};
use crate::sampler::Sampling;
use crate::session::Session;
use crate::timing::{Stage, Timings};
use crate::tokenizer::{Tokenizer, Vocabulary};

/// Largest context in positions; what is larger is taken for a mistake.
const MAX_CONTEXT: usize = 1 << 24;

/// A model file, ready to answer.
#[derive(Debug)]
pub struct Assistant {
    pub(super) model: Model,
    pub(crate) tokenizer: Tokenizer,
    template: Option<Template>,
    sampling: Sampling,
    /// What opening took.
    pub(super) timings: Timings,
}

impl Assistant {
    /// Opens the model file at `path`.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it cannot be read, [`Kind::Model`](crate::Kind::Model)
    /// with the key or tensor where it is no usable model.
    pub fn open(path: &Path, compute: Compute) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::model(format!(
                "is a directory, wanted a GGUF file; pack a checkpoint into one with \
                 'owl2-convert {} -o model.gguf'",
                path.display()
            ))
            .in_file(path));
        }
        let mut timings = Timings::default();
        let opened = timings.measure(Stage::Load, || Self::new(&Gguf::open(path)?, compute));
        let mut assistant = opened.map_err(|e| e.in_file(path))?;
        assistant.timings = timings;
        Ok(assistant)
    }

    /// Takes what a file that is open already holds.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model) with the key or tensor where it is no usable model.
    pub fn new(gguf: &Gguf, compute: Compute) -> Result<Self> {
        let key = names::key(names::ARCHITECTURE, names::visual::PROMPT_TEMPLATE);
        let template = match gguf.find::<&str>(&key)? {
            Some(name) => Some(
                name.parse()
                    .map_err(|e: Error| Error::model(e.to_string()).in_key(key))?,
            ),
            None => None,
        };
        Ok(Assistant {
            model: Model::new(gguf, compute)?,
            tokenizer: Tokenizer::new(Vocabulary::read(gguf)?)?,
            template,
            sampling: Sampling::read(gguf)?,
            timings: Timings::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The file's own prompt template; plain LLaMA files have none.
    pub fn template(&self) -> Option<Template> {
        self.template
    }

    /// The file's own sampling, the defaults of a request that wants to choose at random.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Answers `request`, giving `listener` the text as it comes.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) for values out of range,
    /// [`Kind::Capacity`](crate::Kind::Capacity) where the context or the memory is too small, with
    /// the numbers, [`Kind::Input`](crate::Kind::Input) where prompt and pictures do not fit
    /// together or a picture is none, [`Kind::Io`](crate::Kind::Io) where its file cannot be read.
    pub fn answer(&self, request: &Request, listener: &mut Listener) -> Result<Answer> {
        self.model.compute().threads.enter(|| {
            let plan = self.plan(request)?;
            Run::new(self, request, &plan, listener)?.answer()
        })
    }

    /// Checks all that can be checked before work starts.
    fn plan<'a>(&self, request: &'a Request) -> Result<Plan<'a>> {
        let (segments, template) = self.segments(&request.prompt);
        let n_image = self.image_positions(&segments, request.pictures.len())?;
        let n_prompt = n_image + segments.iter().map(|s| token_ids(s).len()).sum::<usize>();
        let (max_tokens, at_max_tokens) = self.room(request, n_prompt, n_image)?;
        let stops = request.stops.iter().map(String::as_str);
        Ok(Plan {
            segments,
            n_prompt,
            n_image,
            max_tokens,
            at_max_tokens,
            stops: stops.chain(template.map(Template::stop)).collect(),
        })
    }

    /// The tokenized prompt, and the template it was put together with.
    pub(crate) fn segments(&self, prompt: &Prompt) -> (Vec<Segment>, Option<Template>) {
        match prompt {
            Prompt::Raw(text) => (tokenize_raw(&self.tokenizer, text), None),
            Prompt::Turns { messages, template } => {
                let template = template.or(self.template);
                let parts = match template {
                    Some(template) => template.parts(messages),
                    None => messages.iter().map(|m| Part::Text(&m.text)).collect(),
                };
                (tokenize(&self.tokenizer, &parts), template)
            }
        }
    }

    /// Positions that the pictures take.
    fn image_positions(&self, segments: &[Segment], n_pictures: usize) -> Result<usize> {
        if n_pictures > 0 {
            self.visual()?;
        }
        let n_slots = segments
            .iter()
            .filter(|segment| matches!(segment, Segment::Image(_)))
            .count();
        if n_slots != n_pictures {
            return Err(Error::input(format!(
                "the prompt has slots for {n_slots} pictures, but there are {n_pictures}"
            )));
        }
        let visual = self.model.config().visual.as_ref();
        Ok(n_slots * visual.map_or(0, |visual| visual.abstractor.n_positions()))
    }

    /// The image branch's hyper-parameters.
    pub(crate) fn visual(&self) -> Result<&VisualConfig> {
        self.model
            .config()
            .visual
            .as_ref()
            .ok_or_else(|| Error::input("this model has no image branch; ask it without a picture"))
    }

    /// How many tokens the answer may have, and why it ends there.
    fn room(
        &self,
        request: &Request,
        n_prompt: usize,
        n_image: usize,
    ) -> Result<(usize, StopReason)> {
        let trained = self.model.config().decoder.max_position_embeddings;
        let context = request.context.unwrap_or(trained);
        check_context(context)?;
        let room = context.saturating_sub(n_prompt);
        let (wanted, reason) = match request.max_tokens {
            Some(0) => {
                return Err(Error::usage("is 0, wanted 1 or more").in_flag("--max-tokens"));
            }
            Some(wanted) => (wanted, StopReason::MaxTokens),
            None if (1..DEFAULT_MAX_TOKENS).contains(&room) => (room, StopReason::ContextFull),
            None => (DEFAULT_MAX_TOKENS, StopReason::MaxTokens),
        };
        if wanted > room {
            return Err(Error::capacity(format!(
                "the prompt takes {n_prompt} positions ({n_image} of them for pictures) and the \
                 answer up to {wanted}, but the context has {context}; set --ctx-size to {}, or \
                 ask for less",
                n_prompt.saturating_add(wanted)
            )));
        }
        self.check_memory(n_prompt + wanted)?;
        Ok((wanted, reason))
    }

    /// Fails where the system would not give the memory of a session: the allocations themselves
    /// would end the process.
    fn check_memory(&self, n_positions: usize) -> Result<()> {
        let bytes = Session::bytes(&self.model, n_positions);
        let is_granted = usize::try_from(bytes)
            .is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
        if is_granted {
            return Ok(());
        }
        Err(Error::capacity(format!(
            "a context of {n_positions} positions takes {} MiB of memory, which the system \
             refuses; ask for less",
            bytes >> 20
        )))
    }
}

/// Fails for a context that no memory could hold.
pub(crate) fn check_context(context: usize) -> Result<()> {
    if context <= MAX_CONTEXT {
        return Ok(());
    }
    Err(Error::usage(format!("is {context}, wanted at most {MAX_CONTEXT}")).in_flag("--ctx-size"))
}

/// The token ids of a segment, none for a picture.
pub(super) fn token_ids(segment: &Segment) -> &[u32] {
    match segment {
        Segment::Tokens(ids) => ids,
        Segment::Image(_) => &[],
    }
}
