//! A checked request on its way: pictures, prompt, and then token after token.

use std::time::Instant;

use super::answer_text::AnswerText;
use super::assistant::{Assistant, token_ids};
use super::{Answer, Event, Listener, Request, Source, StopReason};
use crate::error::Result;
use crate::image::{self, Exif, Limits, Picture};
use crate::prompt::Segment;
use crate::sampler::Sampler;
use crate::session::{Input, Session};
use crate::timing::{Stage, Timings};

/// What the checks of a request found.
pub(super) struct Plan<'a> {
    /// The prompt.
    pub segments: Vec<Segment>,
    /// Positions of the prompt, pictures included.
    pub n_prompt: usize,
    /// Positions that pictures take of these.
    pub n_image: usize,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// Why an answer of that length ends.
    pub at_max_tokens: StopReason,
    /// Texts before which the answer ends.
    pub stops: Vec<&'a str>,
}

/// A request in progress.
pub(super) struct Run<'a> {
    assistant: &'a Assistant,
    request: &'a Request,
    plan: &'a Plan<'a>,
    listener: &'a mut Listener<'a>,
    sampler: Sampler,
    /// The prompt's tokens, then the generated ones: what the repeat penalty looks at.
    ids: Vec<u32>,
    text: AnswerText<'a>,
    is_cancelled: bool,
    timings: Timings,
}

impl<'a> Run<'a> {
    pub fn new(
        assistant: &'a Assistant,
        request: &'a Request,
        plan: &'a Plan<'a>,
        listener: &'a mut Listener<'a>,
    ) -> Result<Self> {
        let vocab_size = assistant.model.config().decoder.vocab_size;
        let mut ids = Vec::with_capacity(plan.n_prompt + plan.max_tokens);
        ids.extend(plan.segments.iter().flat_map(token_ids));
        Ok(Run {
            assistant,
            request,
            plan,
            listener,
            sampler: Sampler::new(request.sampling.clone(), vocab_size)?,
            ids,
            text: AnswerText::new(&assistant.tokenizer, plan.stops.iter().copied()),
            is_cancelled: false,
            timings: assistant.timings,
        })
    }

    pub fn answer(mut self) -> Result<Answer> {
        let n_prompt_ids = self.ids.len();
        let pictures = self.pictures()?;
        let rows = self.encode(&pictures)?;
        let mut session = Session::new(
            &self.assistant.model,
            self.plan.n_prompt + self.plan.max_tokens,
        );
        self.prefill(&rows, &mut session)?;
        let start = Instant::now();
        let stop = self.generate(&mut session)?;
        self.timings.add(Stage::Decode, start.elapsed());
        Ok(Answer {
            text: self.text.into_text(),
            ids: self.ids.split_off(n_prompt_ids),
            n_prompt: self.plan.n_prompt,
            n_image: self.plan.n_image,
            stop,
            timings: self.timings,
        })
    }

    /// The pixels of every picture, so that an unusable one is found before any is encoded.
    fn pictures(&mut self) -> Result<Vec<Vec<f32>>> {
        let request = self.request;
        let sources = request.pictures.iter();
        sources.map(|source| self.pixels(source)).collect()
    }

    fn pixels(&mut self, source: &Source) -> Result<Vec<f32>> {
        let visual = self.assistant.visual()?;
        let aspect = self.request.aspect.unwrap_or(visual.aspect);
        let exif = self.request.exif;
        let picture = self
            .timings
            .measure(Stage::DecodeImage, || source.decode(exif))?;
        self.timings.measure(Stage::Preprocess, || {
            let pixels = visual.preprocess.pixels(&picture, aspect);
            pixels.map_err(|e| source.name_in(e))
        })
    }

    /// The decoder's inputs for each picture.
    fn encode(&mut self, pictures: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
        let model = &self.assistant.model;
        let mut rows = Vec::with_capacity(pictures.len());
        for (index, pixels) in pictures.iter().enumerate() {
            let n_pictures = pictures.len();
            if !self.tell(Event::Encoding { index, n_pictures }) {
                break;
            }
            let seen = self
                .timings
                .measure(Stage::Vit, || model.vision(pixels, &mut ()))?;
            let abstracted = self
                .timings
                .measure(Stage::Abstractor, || model.abstract_picture(&seen, &mut ()))?;
            rows.push(abstracted);
        }
        Ok(rows)
    }

    /// Passes the prompt through the decoder.
    fn prefill(&mut self, rows: &[Vec<f32>], session: &mut Session) -> Result<()> {
        let n_positions = self.plan.n_prompt;
        if self.is_cancelled || !self.tell(Event::Reading { n_positions }) {
            return Ok(());
        }
        let inputs: Vec<Input> = self
            .plan
            .segments
            .iter()
            .map(|segment| match segment {
                Segment::Tokens(ids) => Input::Tokens(ids),
                Segment::Image(index) => Input::Image(&rows[*index]),
            })
            .collect();
        self.timings
            .measure(Stage::Prefill, || session.extend(&inputs))
    }

    /// Chooses tokens and shows their text until something ends the answer.
    fn generate(&mut self, session: &mut Session) -> Result<StopReason> {
        if self.is_cancelled {
            return Ok(StopReason::Cancelled);
        }
        let stop = self.choose_tokens(session)?;
        match stop {
            StopReason::Cancelled => return Ok(stop),
            StopReason::StopText => {}
            _ => self.text.finish(),
        }
        show(self.text.take_rest(), self.listener);
        Ok(stop)
    }

    fn choose_tokens(&mut self, session: &mut Session) -> Result<StopReason> {
        let eos_id = self.assistant.tokenizer.vocabulary().eos_id;
        for n_generated in 1.. {
            let id = self.sampler.sample(session.logits_mut(), &self.ids);
            self.ids.push(id);
            if id == eos_id {
                return Ok(StopReason::EndOfText);
            }
            if self.text.push(id) {
                return Ok(StopReason::StopText);
            }
            if !show(self.text.take_safe(), self.listener) {
                break;
            }
            if n_generated == self.plan.max_tokens {
                return Ok(self.plan.at_max_tokens);
            }
            session.step(id)?;
        }
        Ok(StopReason::Cancelled)
    }

    /// Reports progress; whether the request should go on.
    fn tell(&mut self, event: Event) -> bool {
        self.is_cancelled |= (self.listener)(event).is_break();
        !self.is_cancelled
    }
}

/// Gives text to the listener; whether it wants more.
fn show(text: &str, listener: &mut Listener) -> bool {
    text.is_empty() || listener(Event::Text(text)).is_continue()
}

impl Source {
    fn decode(&self, exif: Exif) -> Result<Picture> {
        let limits = Limits::default();
        match self {
            Source::File(path) => image::open(path, exif, &limits),
            Source::Bytes(bytes) => image::decode(bytes, exif, &limits),
        }
    }

    /// Adds the file that an error is about.
    fn name_in(&self, error: crate::Error) -> crate::Error {
        match self {
            Source::File(path) => error.in_file(path),
            Source::Bytes(_) => error,
        }
    }
}
