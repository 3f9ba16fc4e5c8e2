//! How likely words are at the end of a prompt: one pass over it, and no new token.

use std::sync::Arc;

use super::assistant::{Assistant, check_context};
use super::picture::Preparation;
use super::{Pixels, Prompt, Source};
use crate::error::{Error, Result};
use crate::image::{Aspect, Reading};
use crate::perplexity::statistics::log_sum_exp;
use crate::prompt::Segment;
use crate::reuse::{Memory, Position};
use crate::session::Input;
use crate::timing::{Stage, Timings};

/// A prompt, and the words whose likelihood at its end is asked for.
#[derive(Clone, Debug)]
pub struct WordsRequest {
    /// The prompt.
    pub prompt: Prompt,
    /// What stands at each slot of the prompt: one picture, or the frames of a clip, whose rows
    /// follow one another.
    pub slots: Vec<Vec<Source>>,
    /// The words. Each is tokenized by itself, as if a space stood before it.
    pub words: Vec<String>,
    /// Whether only the first piece of a word counts, as in the scripts of the authors of several
    /// models.
    pub first_piece: bool,
    /// What becomes of pictures that are not square; `None` is the file's own default.
    pub aspect: Option<Aspect>,
    /// What becomes of orientation, transparency and 16-bit samples of pictures.
    pub reading: Reading,
}

impl WordsRequest {
    /// A request with the defaults and no pictures.
    pub fn new<W: Into<String>>(prompt: Prompt, words: impl IntoIterator<Item = W>) -> Self {
        WordsRequest {
            prompt,
            slots: Vec::new(),
            words: words.into_iter().map(Into::into).collect(),
            first_piece: false,
            aspect: None,
            reading: Reading::default(),
        }
    }
}

/// How likely a word is.
#[derive(Clone, Debug, PartialEq)]
pub struct WordLogit {
    /// The word.
    pub word: String,
    /// Its pieces.
    pub ids: Vec<u32>,
    /// Logit of its first piece.
    pub logit: f32,
    /// Natural logarithm of its probability among all that could follow: the sum over its pieces,
    /// or that of the first piece where only that counts.
    pub log_probability: f64,
}

/// How likely the words of a [`WordsRequest`] are, in its order.
#[derive(Clone, Debug, PartialEq)]
pub struct WordLogits {
    /// The words.
    pub words: Vec<WordLogit>,
    /// Positions of the prompt, pictures included.
    pub n_prompt: usize,
    /// Positions of the prompt that an earlier request had computed.
    pub n_reused: usize,
    /// How long it took.
    pub timings: Timings,
}

impl WordLogits {
    /// Logits of the words' first pieces.
    pub fn logits(&self) -> Vec<f32> {
        self.words.iter().map(|word| word.logit).collect()
    }

    /// Probabilities of the words among each other, which sum to 1.
    pub fn probabilities(&self) -> Vec<f64> {
        softmax(self.words.iter().map(|word| word.log_probability))
    }
}

/// Exponentials that are scaled to sum to 1.
pub(crate) fn softmax(values: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.map(|value| (value - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

impl Assistant {
    /// How likely words are at the end of a prompt.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) for an empty word or none, the others as
    /// [`Assistant::answer`].
    pub fn word_logits(&self, request: &WordsRequest) -> Result<WordLogits> {
        self.word_logits_from(&mut Memory::new(), request)
    }

    /// [`Assistant::word_logits`], computing only what `memory` does not hold of the prompt already,
    /// and leaving the prompt in it for the next request.
    ///
    /// # Errors
    /// As [`Assistant::word_logits`].
    pub fn word_logits_from<'m>(
        &'m self,
        memory: &mut Memory<'m>,
        request: &WordsRequest,
    ) -> Result<WordLogits> {
        let words = request.words.iter().map(|word| self.word_ids(word));
        let words: Vec<Vec<u32>> = words.collect::<Result<_>>()?;
        if words.is_empty() {
            return Err(Error::usage("names no word").in_flag("--words"));
        }
        let n_pieces = words.iter().map(Vec::len).max().unwrap_or(1);
        let n_more = match request.first_piece {
            true => 0,
            false => n_pieces - 1,
        };
        self.model.compute().threads.enter(|| {
            let mut timings = Timings::default();
            let (n_prompt, n_reused) = self.read(memory, request, n_more, &mut timings)?;
            let words = timings.measure(Stage::Decode, || {
                self.rate(memory, request, words, n_prompt)
            })?;
            Ok(WordLogits {
                words,
                n_prompt,
                n_reused,
                timings,
            })
        })
    }

    /// The likeliest answer to the prompt of a request, of one token at least and up to
    /// `max_tokens`, as evaluations ask for it. Its words are not looked at.
    ///
    /// # Errors
    /// As [`Assistant::word_logits`].
    #[cfg(feature = "cli")]
    pub(crate) fn brief_answer<'m>(
        &'m self,
        memory: &mut Memory<'m>,
        request: &WordsRequest,
        max_tokens: usize,
    ) -> Result<Vec<u32>> {
        let eos_id = self.tokenizer.vocabulary().eos_id;
        self.model.compute().threads.enter(|| {
            let (n_prompt, _) = self.read(memory, request, max_tokens, &mut Timings::default())?;
            let mut ids: Vec<u32> = Vec::new();
            while ids.len() < max_tokens {
                if let Some(&last) = ids.last() {
                    if last == eos_id {
                        break;
                    }
                    memory.step(last)?;
                }
                let is_barred = |id: u32| ids.is_empty() && id == eos_id;
                let logits = (0..).zip(memory.logits_mut().iter());
                let likeliest = logits.filter(|&(id, _)| !is_barred(id)).fold(
                    (0, f32::NEG_INFINITY),
                    |best, (id, &logit)| match logit > best.1 {
                        true => (id, logit),
                        false => best,
                    },
                );
                ids.push(likeliest.0);
            }
            memory.truncate(n_prompt);
            Ok(ids)
        })
    }

    /// The pieces of a word, tokenized by itself, without `<s>`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage) for a word of none.
    pub fn word_ids(&self, word: &str) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode(word);
        let bos_id = self.tokenizer.vocabulary().bos_id;
        let ids = match ids.split_first() {
            Some((&first, rest)) if first == bos_id => rest.to_vec(),
            _ => ids,
        };
        match ids.is_empty() {
            true => Err(Error::usage("has a word without letters").in_flag("--words")),
            false => Ok(ids),
        }
    }

    /// Computes what the memory does not hold of the prompt of a request, with room for `n_more`
    /// positions. Returns the positions of the prompt, and how many of them were held.
    fn read<'m>(
        &'m self,
        memory: &mut Memory<'m>,
        request: &WordsRequest,
        n_more: usize,
        timings: &mut Timings,
    ) -> Result<(usize, usize)> {
        self.identity.check_unchanged()?;
        let slots = Slots::new(self, request)?;
        let pictures = self.slot_pixels(&slots, request, timings)?;
        let positions = slots.positions(&pictures);
        check_context(positions.len().saturating_add(n_more))?;
        let n_positions = positions.len() + n_more;
        let n_kept = memory.n_kept(&self.model, n_positions, &positions);
        let beside = match self.is_encoding(slots.picture_ends(), &pictures, n_kept) {
            true => self.model.picture_bytes(),
            false => 0,
        };
        memory.reserve_beside(&self.model, n_positions, beside)?;
        let n_held = memory.keep(&positions);
        let rows = self.rows(&slots, &pictures, n_held, timings)?;
        let inputs = slots.inputs(&rows, n_held, self.model.config().decoder.hidden_size);
        timings.measure(Stage::Prefill, || {
            memory.extend(&inputs, &positions[n_held..], &mut |_| true)
        })?;
        Ok((positions.len(), n_held))
    }

    /// The decoder's inputs for each picture that does not lie in the first `n_held` positions.
    fn rows(
        &self,
        slots: &Slots,
        pictures: &[Arc<Pixels>],
        n_held: usize,
        timings: &mut Timings,
    ) -> Result<Vec<Arc<[f32]>>> {
        let mut rows = vec![Arc::from([]); pictures.len()];
        for (index, end) in slots.picture_ends() {
            if end > n_held {
                rows[index] = self.encoded(&pictures[index], timings)?;
            }
        }
        Ok(rows)
    }

    /// The pixels of every picture, so that an unusable one is found before any is encoded.
    fn slot_pixels(
        &self,
        slots: &Slots,
        request: &WordsRequest,
        timings: &mut Timings,
    ) -> Result<Vec<Arc<Pixels>>> {
        if slots.pictures.is_empty() {
            return Ok(Vec::new());
        }
        let preparation = Preparation {
            visual: self.visual()?,
            aspect: request.aspect,
            reading: request.reading,
        };
        let pixels = |source: &&Source| preparation.pixels(source, timings);
        slots.pictures.iter().map(pixels).collect()
    }

    /// The decoder's inputs for a picture, unless it was encoded lately.
    fn encoded(&self, pixels: &Pixels, timings: &mut Timings) -> Result<Arc<[f32]>> {
        if let Some(rows) = self.pictures().get(pixels.key) {
            return Ok(rows);
        }
        let seen = timings.measure(Stage::Vit, || self.model.vision(&pixels.values, &mut ()))?;
        let rows = timings.measure(Stage::Abstractor, || {
            self.model.abstract_picture(&seen, &mut ())
        })?;
        let rows: Arc<[f32]> = rows.into();
        self.pictures().put(pixels.key, rows.clone());
        Ok(rows)
    }

    /// Computes how likely each word is after the `n_prompt` positions that were read.
    fn rate(
        &self,
        memory: &mut Memory,
        request: &WordsRequest,
        words: Vec<Vec<u32>>,
        n_prompt: usize,
    ) -> Result<Vec<WordLogit>> {
        let first = memory.logits_mut().to_vec();
        let log_sum = log_sum_exp(&first);
        let mut rated = Vec::with_capacity(words.len());
        for (word, ids) in request.words.iter().zip(words) {
            let logit = first[ids[0] as usize];
            let mut log_probability = f64::from(logit) - log_sum;
            if !request.first_piece {
                log_probability += rest(memory, &ids, n_prompt)?;
            }
            rated.push(WordLogit {
                word: word.clone(),
                ids,
                logit,
                log_probability,
            });
        }
        Ok(rated)
    }
}

/// Sum of the log probabilities of all pieces but the first, each after those before it.
fn rest(memory: &mut Memory, ids: &[u32], n_prompt: usize) -> Result<f64> {
    let mut sum = 0.0;
    for pair in ids.windows(2) {
        memory.step(pair[0])?;
        let logits = memory.logits_mut();
        sum += f64::from(logits[pair[1] as usize]) - log_sum_exp(logits);
    }
    memory.truncate(n_prompt);
    Ok(sum)
}

/// A run of a prompt.
enum Part {
    Tokens(Vec<u32>),
    /// The rows of the picture with this number.
    Picture(usize),
}

/// A prompt whose slots are filled.
struct Slots<'s> {
    parts: Vec<Part>,
    /// Positions that one picture takes.
    n_rows: usize,
    pictures: Vec<&'s Source>,
}

impl<'s> Slots<'s> {
    fn new(assistant: &Assistant, request: &'s WordsRequest) -> Result<Self> {
        if request.slots.iter().any(Vec::is_empty) {
            return Err(Error::input("a clip has no frames"));
        }
        let (segments, _) = assistant.segments(&request.prompt);
        assistant.picture_slots(&segments, request.slots.len())?;
        let mut slots = Slots {
            parts: Vec::new(),
            n_rows: assistant.picture_rows(),
            pictures: Vec::new(),
        };
        for segment in segments {
            match segment {
                Segment::Tokens(ids) => slots.parts.push(Part::Tokens(ids)),
                Segment::Image(slot) => {
                    for picture in &request.slots[slot] {
                        slots.parts.push(Part::Picture(slots.pictures.len()));
                        slots.pictures.push(picture);
                    }
                }
            }
        }
        Ok(slots)
    }

    /// Each picture's number, and the position after its last one.
    fn picture_ends(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut end = 0;
        self.parts.iter().filter_map(move |part| {
            end += self.len(part);
            match part {
                Part::Tokens(_) => None,
                Part::Picture(index) => Some((*index, end)),
            }
        })
    }

    /// Positions that a part takes.
    fn len(&self, part: &Part) -> usize {
        match part {
            Part::Tokens(ids) => ids.len(),
            Part::Picture(_) => self.n_rows,
        }
    }

    /// What stands at each position.
    fn positions(&self, pictures: &[Arc<Pixels>]) -> Vec<Position> {
        let mut positions = Vec::new();
        for part in &self.parts {
            match part {
                Part::Tokens(ids) => positions.extend(ids.iter().copied().map(Position::Token)),
                Part::Picture(index) => {
                    let key = pictures[*index].key;
                    let rows = 0..self.n_rows as u32;
                    positions.extend(rows.map(|row| Position::Picture { key, row }));
                }
            }
        }
        positions
    }

    /// The prompt without its first `n_held` positions; `width` is that of a row.
    fn inputs<'r>(&'r self, rows: &'r [Arc<[f32]>], n_held: usize, width: usize) -> Vec<Input<'r>> {
        let mut n_skipped = n_held;
        let mut inputs = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let len = self.len(part);
            let skipped = n_skipped.min(len);
            n_skipped -= skipped;
            if skipped < len {
                inputs.push(match part {
                    Part::Tokens(ids) => Input::Tokens(&ids[skipped..]),
                    Part::Picture(index) => Input::Image(&rows[*index][skipped * width..]),
                });
            }
        }
        inputs
    }
}
