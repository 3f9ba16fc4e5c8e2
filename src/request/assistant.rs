//! An open model file, and the checks that a request must pass before work starts.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sha2::{Digest, Sha256};

use super::chooser::Chooser;
use super::generation::Generation;
use super::picture::Preparation;
use super::plan::RequestPlan;
use super::{
    Answer, DEFAULT_MAX_TOKENS, Listener, Pixels, Prompt, Request, Source, StopReason, UNLIMITED,
};
use crate::capacity;
#[cfg(feature = "constrain")]
use crate::constrain::{Constraint, Grammars, Guide};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Identity};
use crate::image::{Aspect, Picture, Reading};
use crate::kernels::ARITHMETIC;
use crate::model::Model;
use crate::model::config::Config;
use crate::model::kv_cache::CacheType;
use crate::model::visual_config::VisualConfig;
use crate::ops::Compute;
use crate::prompt::{Part, Segment, Template, tokenize, tokenize_raw};
use crate::reuse::{PictureCache, PromptCache};
use crate::sampler::Sampling;
use crate::score::Rule;
use crate::timing::{Stage, Timings};
use crate::tokenizer::{Tokenizer, Vocabulary};
use crate::workspace::Workspace;

/// Largest context in positions; what is larger is taken for a mistake.
const MAX_CONTEXT: usize = 1 << 24;

/// A model file, ready to answer.
#[derive(Debug)]
pub struct Assistant {
    pub(super) model: Model,
    pub(crate) tokenizer: Tokenizer,
    template: Option<Template>,
    sampling: Sampling,
    score_rule: Option<Rule>,
    pub(super) identity: Identity,
    pictures: Mutex<PictureCache>,
    /// What requests are computed in, while none is.
    workspace: Mutex<Option<Workspace>>,
    /// Made for the first request that has a constraint.
    #[cfg(feature = "constrain")]
    grammars: OnceLock<Grammars>,
    /// What opening took.
    pub(super) timings: Timings,
    /// Positions of a request that does not say how many, once one has asked.
    default_context: OnceLock<usize>,
}

impl Assistant {
    /// Opens the model file at `path`.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io) where it cannot be read, [`Kind::Model`](crate::Kind::Model)
    /// with the key or tensor where it is no usable model.
    pub fn open_with(path: &Path, compute: Compute) -> Result<Self> {
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
        // What no other file of the same model would have comes before how this one is stored.
        Config::read(gguf)?;
        let template = Template::read(gguf)?;
        let tokenizer = Tokenizer::new(Vocabulary::read(gguf)?)?;
        Ok(Assistant {
            model: Model::new(gguf, compute)?,
            tokenizer,
            template,
            sampling: Sampling::read(gguf)?,
            score_rule: Rule::read(gguf)?,
            identity: Identity::new(gguf),
            pictures: Mutex::default(),
            workspace: Mutex::default(),
            #[cfg(feature = "constrain")]
            grammars: OnceLock::new(),
            timings: Timings::default(),
            default_context: OnceLock::new(),
        })
    }

    /// Decides how keys and values are kept; in the model's own way unless this is called.
    ///
    /// # Errors
    /// As [`Model::set_cache_type`].
    pub fn set_cache_type(&mut self, cache_type: CacheType) -> Result<()> {
        self.default_context = OnceLock::new();
        // It holds a handle of the model as it was.
        self.workspace = Mutex::default();
        self.model.set_cache_type(cache_type)
    }

    /// Does `work` when it is its turn, in the buffers that all requests use by turns.
    pub(crate) fn compute<R>(&self, work: impl FnOnce(&mut Workspace) -> R) -> R {
        let kept = || {
            self.workspace
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        self.model.compute().threads.enter(|| {
            // A listener may ask in its turn, and gets buffers of its own.
            let taken = kept().take();
            let mut workspace = taken.unwrap_or_else(|| Workspace::new(&self.model));
            let result = work(&mut workspace);
            *kept() = Some(workspace);
            result
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What turns text into tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The file's own prompt template; plain LLaMA files have none.
    pub fn template(&self) -> Option<Template> {
        self.template
    }

    /// The file's own sampling, the defaults of a request that wants to choose at random.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The rule by which its logits are scores; `None` where the file names none.
    pub fn score_rule(&self) -> Option<Rule> {
        self.score_rule
    }

    /// Answers `request`, giving `listener` the text as it comes.
    ///
    /// Several threads may ask at once. They take turns in the order in which they came: a request
    /// has all workers of the model until it is answered, and those after it wait, without using a
    /// processor. `listener` is called on the thread that asks. It must not wait for another
    /// request of this assistant on another thread, which waits for this one to end.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) for values out of range,
    /// [`Kind::Capacity`](crate::Kind::Capacity) where the context or the memory is too small, with
    /// the numbers, [`Kind::Input`](crate::Kind::Input) where prompt and pictures do not fit
    /// together or a picture is none, [`Kind::Io`](crate::Kind::Io) where its file cannot be read,
    /// [`Kind::Model`](crate::Kind::Model) where the model's file was changed since it was opened.
    pub fn answer(&self, request: &Request, listener: &mut Listener) -> Result<Answer> {
        self.answer_from(&mut PromptCache::new(), request, listener)
    }

    /// [`Assistant::answer`], computing only what `memory` does not hold of the prompt already, and
    /// leaving prompt and answer in it for the next request.
    ///
    /// # Errors
    /// As [`Assistant::answer`].
    pub fn answer_from(
        &self,
        memory: &mut PromptCache,
        request: &Request,
        listener: &mut Listener,
    ) -> Result<Answer> {
        // A constraint may take seconds, during which others can be answered.
        let chooser = Chooser::new(self, request)?;
        self.compute(|workspace| {
            self.identity.check_unchanged()?;
            let plan = self.plan(request)?;
            let (request, listener) = (Cow::Borrowed(request), Box::new(listener));
            let mut generation = Generation::new(self, request, plan, chooser, listener)?;
            let settled = generation.settle(std::mem::take(memory), workspace);
            match settled.and_then(|()| generation.drive(workspace)) {
                Ok(()) => {
                    let (answer, computed) = generation.finish();
                    *memory = computed;
                    Ok(answer)
                }
                Err(e) => {
                    *memory = generation.into_memory();
                    Err(e)
                }
            }
        })
    }

    /// A request that is computed with others, by an [`Engine`](crate::engine::Engine).
    ///
    /// # Errors
    /// As [`Assistant::answer`], before it begins.
    pub(crate) fn begin<'a>(
        &'a self,
        request: Request,
        listener: Box<Listener<'a>>,
    ) -> Result<Generation<'a>> {
        let chooser = Chooser::new(self, &request)?;
        self.identity.check_unchanged()?;
        let plan = self.plan(&request)?;
        Generation::new(self, Cow::Owned(request), plan, chooser, listener)
    }

    /// Checks all of a request that can be checked without computing: its settings, its constraint,
    /// and whether prompt, pictures and answer fit the context. Does not wait for other requests.
    ///
    /// # Errors
    /// As [`Assistant::answer`] fails for it before it begins.
    pub fn check(&self, request: &Request) -> Result<()> {
        Chooser::new(self, request)?;
        self.plan(request).map(drop)
    }

    /// Whether a picture has to be encoded. `ends` has the number of each and the position after its
    /// last one in the prompt, whose first `n_kept` positions are held already.
    pub(super) fn is_encoding(
        &self,
        mut ends: impl Iterator<Item = (usize, usize)>,
        pictures: &[Arc<Pixels>],
        n_kept: usize,
    ) -> bool {
        let encoded = self.pictures();
        ends.any(|(index, end)| end > n_kept && !encoded.holds(pictures[index].key))
    }

    /// Decodes a picture and brings it to the model's size, so that requests need not do it again.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where the model has no image branch or the picture is
    /// none, [`Kind::Io`](crate::Kind::Io) where its file cannot be read.
    pub fn pixels(
        &self,
        source: &Source,
        aspect: Option<Aspect>,
        reading: Reading,
    ) -> Result<Arc<Pixels>> {
        let preparation = self.preparation(aspect, reading)?;
        let threads = &self.model.compute().threads;
        threads.enter(|| preparation.pixels(source, &mut Timings::default()))
    }

    /// [`Assistant::pixels`] on this thread alone, while requests are computed on others.
    ///
    /// # Errors
    /// As [`Assistant::pixels`].
    pub fn pixels_beside(
        &self,
        source: &Source,
        aspect: Option<Aspect>,
        reading: Reading,
    ) -> Result<Arc<Pixels>> {
        self.timed_pixels(source, aspect, reading, &mut Timings::default())
    }

    /// [`Assistant::pixels_beside`], adding what it takes to `timings`.
    ///
    /// # Errors
    /// As [`Assistant::pixels`].
    pub(crate) fn timed_pixels(
        &self,
        source: &Source,
        aspect: Option<Aspect>,
        reading: Reading,
        timings: &mut Timings,
    ) -> Result<Arc<Pixels>> {
        let preparation = self.preparation(aspect, reading)?;
        preparation.pixels(source, timings)
    }

    /// A picture that is decoded already, at the model's size.
    ///
    /// # Errors
    /// As [`Assistant::pixels`].
    pub fn picture_pixels(&self, picture: &Picture, aspect: Option<Aspect>) -> Result<Arc<Pixels>> {
        let preparation = self.preparation(aspect, Reading::default())?;
        preparation.preprocess(picture)
    }

    /// How pictures become what the model sees.
    pub(super) fn preparation(
        &self,
        aspect: Option<Aspect>,
        reading: Reading,
    ) -> Result<Preparation<'_>> {
        Ok(Preparation {
            visual: self.visual()?,
            aspect,
            reading,
        })
    }

    /// SHA-256 of what tells the model file from others.
    #[cfg(all(feature = "cli", feature = "serve"))]
    pub(crate) fn file_fingerprint(&self) -> [u8; 32] {
        self.identity.fingerprint()
    }

    /// SHA-256 of what computed positions depend on besides the prompt: the model file, the
    /// instruction set's arithmetic, what its kernels compute and the type of the cache.
    pub fn fingerprint(&self) -> [u8; 32] {
        let isa = self.model.compute().isa.arithmetic();
        let cache_type = self.model.cache_type();
        let mut hash = Sha256::new();
        hash.update(self.identity.fingerprint());
        hash.update(format!("{isa} {ARITHMETIC} {cache_type}"));
        hash.finalize().into()
    }

    /// What holds the answer to the request's constraint, if it has one.
    #[cfg(feature = "constrain")]
    pub(super) fn guide(&self, request: &Request) -> Result<Option<Guide>> {
        let Some(constraint) = &request.constraint else {
            return Ok(None);
        };
        self.grammars()?.guide(constraint).map(Some)
    }

    #[cfg(feature = "constrain")]
    fn grammars(&self) -> Result<&Grammars> {
        match self.grammars.get() {
            Some(grammars) => Ok(grammars),
            None => {
                let grammars = Grammars::new(&self.tokenizer)?;
                Ok(self.grammars.get_or_init(|| grammars))
            }
        }
    }

    /// Compiles a constraint, which the next request that has it need not do again.
    ///
    /// # Errors
    /// As [`Assistant::answer`] fails for such a request.
    #[cfg(feature = "constrain")]
    pub fn check_constraint(&self, constraint: &Constraint) -> Result<()> {
        self.grammars()?.guide(constraint).map(drop)
    }

    /// The pictures encoded so far.
    pub(super) fn pictures(&self) -> MutexGuard<'_, PictureCache> {
        // A thread that panicked while it held the lock has left whole entries.
        self.pictures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks all that can be checked before work starts.
    fn plan(&self, request: &Request) -> Result<RequestPlan> {
        self.check_length(request)?;
        let (segments, template) = self.segments(&request.prompt);
        let n_slots = self.picture_slots(&segments, request.pictures.len())?;
        let n_picture_rows = self.picture_rows();
        let n_image = n_slots * n_picture_rows;
        let n_prompt = n_image + n_tokens(&segments);
        let (max_tokens, at_max_tokens) = self.room(request, n_prompt, n_image)?;
        let stops = request.stops.iter().map(String::as_str);
        Ok(RequestPlan {
            segments,
            n_prompt,
            n_image,
            n_picture_rows,
            max_tokens,
            at_max_tokens,
            stops: stops
                .chain(template.map(Template::stop))
                .map(str::to_owned)
                .collect(),
        })
    }

    /// Fails for a prompt that cannot fit the context, however it is tokenized, which takes time and
    /// many times its memory.
    fn check_length(&self, request: &Request) -> Result<()> {
        let n_bytes = match &request.prompt {
            Prompt::Raw(text) => text.len(),
            Prompt::Turns { messages, .. } => messages.iter().map(|m| m.text.len()).sum(),
        };
        let context = self.context(request.context)?;
        match self.is_beyond(n_bytes, context) {
            false => Ok(()),
            true => Err(Error::capacity(format!(
                "the prompt has {n_bytes} bytes, which is far more than the {context} positions of \
                 the context can hold; shorten it"
            ))
            .advise("or raise", "context", "")),
        }
    }

    /// Whether texts of `n_bytes` take more than `room` positions in any case.
    pub(crate) fn is_beyond(&self, n_bytes: usize, room: usize) -> bool {
        self.tokenizer.fewest_ids(n_bytes) > room
    }

    /// The tokenized prompt, and the template it was put together with.
    pub(crate) fn segments(&self, prompt: &Prompt) -> (Vec<Segment>, Option<Template>) {
        match prompt {
            Prompt::Raw(text) => (tokenize_raw(&self.tokenizer, text), None),
            Prompt::Turns {
                messages,
                system,
                template,
            } => {
                let template = template.or(self.template);
                let system = system.as_deref();
                let parts = match template {
                    Some(template) => template.parts(system, messages),
                    None => {
                        let texts = messages.iter().map(|message| message.text.as_str());
                        system.into_iter().chain(texts).map(Part::Text).collect()
                    }
                };
                (tokenize(&self.tokenizer, &parts), template)
            }
        }
    }

    /// Positions that a prompt takes with the slots of its `n_pictures` pictures.
    ///
    /// # Errors
    /// [`Kind::Input`](crate::Kind::Input) where there are not as many slots, or no image branch.
    pub fn n_positions(&self, prompt: &Prompt, n_pictures: usize) -> Result<usize> {
        let (segments, _) = self.segments(prompt);
        let n_slots = self.picture_slots(&segments, n_pictures)?;
        Ok(n_slots * self.picture_rows() + n_tokens(&segments))
    }

    /// Positions that a picture takes.
    pub(crate) fn picture_rows(&self) -> usize {
        let visual = self.model.config().visual.as_ref();
        visual.map_or(0, |visual| visual.abstractor.n_positions())
    }

    /// Counts the slots for pictures, which must be as many as there are pictures.
    pub(super) fn picture_slots(&self, segments: &[Segment], n_pictures: usize) -> Result<usize> {
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
        Ok(n_slots)
    }

    /// The image branch's hyper-parameters.
    pub(crate) fn visual(&self) -> Result<&VisualConfig> {
        self.model
            .config()
            .visual
            .as_ref()
            .ok_or_else(|| Error::input("this model has no image branch; ask it without a picture"))
    }

    /// The context of a request that asks for `wanted`, in positions; of one that asks for nothing,
    /// what the model was trained with, or less where memory is short.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) where no memory could hold it.
    pub fn context(&self, wanted: Option<usize>) -> Result<usize> {
        let default = || capacity::default_context(&self.model);
        let context = wanted.unwrap_or_else(|| *self.default_context.get_or_init(default));
        check_context(context)?;
        Ok(context)
    }

    /// How many tokens the answer may have, and why it ends there.
    fn room(
        &self,
        request: &Request,
        n_prompt: usize,
        n_image: usize,
    ) -> Result<(usize, StopReason)> {
        let context = self.context(request.context)?;
        let room = context.saturating_sub(n_prompt);
        let (wanted, reason) = match request.max_tokens {
            Some(0) => {
                return Err(Error::usage("is 0, expected 1 or more").in_parameter("max_tokens"));
            }
            Some(UNLIMITED) => (room.max(1), StopReason::ContextFull),
            Some(wanted) => (wanted, StopReason::MaxTokens),
            None if (1..DEFAULT_MAX_TOKENS).contains(&room) => (room, StopReason::ContextFull),
            None => (DEFAULT_MAX_TOKENS, StopReason::MaxTokens),
        };
        if wanted > room {
            return Err(Error::capacity(format!(
                "the prompt takes {n_prompt} positions ({n_image} of them for pictures) and the \
                 answer up to {wanted}, but the context has {context}"
            ))
            .advise(
                "set",
                "context",
                format!("to {}, or ask for less", n_prompt.saturating_add(wanted)),
            ));
        }
        Ok((wanted, reason))
    }
}

/// Fails for a context that no memory could hold.
pub(crate) fn check_context(context: usize) -> Result<()> {
    if context <= MAX_CONTEXT {
        return Ok(());
    }
    Err(
        Error::usage(format!("is {context}, expected at most {MAX_CONTEXT}"))
            .in_parameter("context"),
    )
}

fn n_tokens(segments: &[Segment]) -> usize {
    segments
        .iter()
        .map(|segment| token_ids(segment).len())
        .sum()
}

/// The token ids of a segment, none for a picture.
pub(super) fn token_ids(segment: &Segment) -> &[u32] {
    match segment {
        Segment::Tokens(ids) => ids,
        Segment::Image(_) => &[],
    }
}

#[cfg(all(test, feature = "tiny"))]
mod tests {
    use std::num::NonZeroUsize;
    use std::ops::ControlFlow;

    use super::*;
    use crate::prompt::Message;

    #[test]
    fn only_pictures_that_have_to_be_encoded_ask_for_memory() {
        let gguf = crate::builtin::open().unwrap();
        let compute = Compute::new(NonZeroUsize::MIN).unwrap();
        let assistant = Assistant::new(&gguf, compute).unwrap();
        let picture = |value: u8| {
            let picture = Picture::from_rgb(2, 1, vec![value; 6]).unwrap();
            Source::Pixels(assistant.picture_pixels(&picture, None).unwrap())
        };
        let request = |pictures: &[Source]| {
            let text = "<|image|>".repeat(pictures.len()) + "What?";
            let turns = vec![Message::user(text), Message::assistant("")];
            Request {
                pictures: pictures.to_vec(),
                max_tokens: Some(1),
                ..Request::new(Prompt::turns(turns))
            }
        };
        let is_encoding = |request: &Request, n_kept: usize| {
            let plan = assistant.plan(request).unwrap();
            let pixels = |source| {
                assistant
                    .pixels_beside(source, None, Reading::default())
                    .unwrap()
            };
            let pictures: Vec<_> = request.pictures.iter().map(pixels).collect();
            assistant.is_encoding(plan.picture_ends(), &pictures, n_kept)
        };
        let one = request(&[picture(7)]);
        let two = request(&[picture(7), picture(8)]);
        assert!(!is_encoding(&request(&[]), 0));
        assert!(is_encoding(&one, 0) && is_encoding(&two, 0));
        // Held positions need no encoding, whether the picture is known or not.
        let n_prompt = assistant.plan(&one).unwrap().n_prompt;
        assert!(!is_encoding(&one, n_prompt));
        let answer = assistant.answer(&one, &mut |_| ControlFlow::Continue(()));
        answer.unwrap();
        assert!(!is_encoding(&one, 0) && is_encoding(&two, 0));
        let second_begins = assistant.picture_rows() + 1;
        assert!(is_encoding(&two, second_begins));
    }

    #[test]
    fn what_a_memory_will_keep_is_known_before() {
        let gguf = crate::builtin::open().unwrap();
        let compute = Compute::new(NonZeroUsize::MIN).unwrap();
        let assistant = Assistant::new(&gguf, compute).unwrap();
        let mut memory = PromptCache::new();
        let request = Request {
            max_tokens: Some(2),
            ..Request::new(Prompt::Raw("a cat".into()))
        };
        let plan = assistant.plan(&request).unwrap();
        let positions = plan.positions(&[]);
        assert_eq!(memory.n_kept(&assistant.model, 4, &positions), 0);
        let mut go_on = |_: crate::request::Event| ControlFlow::Continue(());
        let answer = assistant.answer_from(&mut memory, &request, &mut go_on);
        answer.unwrap();
        let n_kept = memory.n_kept(&assistant.model, plan.n_prompt, &positions);
        assert_eq!(n_kept, plan.n_prompt - 1);
        // A longer one needs another session, which holds nothing.
        assert_eq!(memory.n_kept(&assistant.model, 4000, &positions), 0);
        assert_eq!(memory.keep(&positions), n_kept);
    }
}
