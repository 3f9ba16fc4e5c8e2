//! How likely words are at the end of a prompt: one pass over it, and no new token.

mod slots;
mod together;

use std::sync::Arc;
use std::time::Instant;

use super::assistant::{Assistant, check_context};
use super::picture::Preparation;
use super::{Pixels, Prompt, Source};
use crate::error::{Error, Result};
use crate::image::{Aspect, Reading};
use crate::perplexity::statistics::log_sum_exp;
use crate::reuse::{Position, PromptCache};
use crate::timing::{Stage, Timings};
use crate::workspace::Workspace;
use slots::Slots;

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
        self.word_logits_from(&mut PromptCache::new(), request)
    }

    /// [`Assistant::word_logits`], computing only what `memory` does not hold of the prompt already,
    /// and leaving the prompt in it for the next request.
    ///
    /// # Errors
    /// As [`Assistant::word_logits`].
    pub fn word_logits_from(
        &self,
        memory: &mut PromptCache,
        request: &WordsRequest,
    ) -> Result<WordLogits> {
        let memories = std::slice::from_mut(memory);
        let requests = std::slice::from_ref(request);
        let mut logits = self.word_logits_each(memories, requests, &mut || true);
        logits
            .pop()
            .unwrap_or_else(|| Err(Error::input("there is nothing to compute")))
    }

    /// [`Assistant::word_logits_from`] for several requests, whose prompts are computed together: they
    /// share the readings of the weights. Each gets the bits that it would get alone. Before each
    /// request but the first is prepared, its pictures above all, `go_on` says whether it should be; the
    /// requests before it are answered in any case.
    ///
    /// # Panics
    /// Where there are not as many memories as requests.
    pub fn word_logits_each(
        &self,
        memories: &mut [PromptCache],
        requests: &[WordsRequest],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Vec<Result<WordLogits>> {
        assert_eq!(memories.len(), requests.len());
        self.compute(|workspace| {
            let mut asked = Vec::with_capacity(requests.len());
            for (i, (memory, request)) in memories.iter_mut().zip(requests).enumerate() {
                if i > 0 && !go_on() {
                    break;
                }
                asked.push(self.prepare(memory, workspace, request, None));
            }
            self.read_each(memories, workspace, asked)
        })
    }

    /// The likeliest answer to the prompt of a request, of one token at least and up to
    /// `max_tokens`, as evaluations ask for it. Its words are not looked at.
    ///
    /// # Errors
    /// As [`Assistant::word_logits`].
    #[cfg(feature = "eval")]
    pub(crate) fn brief_answer(
        &self,
        memory: &mut PromptCache,
        request: &WordsRequest,
        max_tokens: usize,
    ) -> Result<Vec<u32>> {
        let eos_id = self.tokenizer.vocabulary().eos_id;
        self.compute(|workspace| {
            let mut asked = self.prepare(memory, workspace, request, Some(max_tokens))?;
            self.read(memory, workspace, &mut asked)?;
            let n_prompt = asked.positions.len();
            let mut ids: Vec<u32> = Vec::new();
            while ids.len() < max_tokens {
                if let Some(&last) = ids.last() {
                    if last == eos_id {
                        break;
                    }
                    memory.step(workspace, last)?;
                }
                let is_barred = |id: u32| ids.is_empty() && id == eos_id;
                let logits = (0..).zip(memory.logits_mut(workspace).iter());
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
            true => Err(Error::usage("has a word without letters").in_parameter("words")),
            false => Ok(ids),
        }
    }

    /// Does all that comes before the prompt of a request is computed, with room for `n_more` positions
    /// after it, or for its longest word.
    fn prepare<'r>(
        &self,
        memory: &mut PromptCache,
        workspace: &mut Workspace,
        request: &'r WordsRequest,
        n_more: Option<usize>,
    ) -> Result<Asked<'r>> {
        self.identity.check_unchanged()?;
        let words = request.words.iter();
        let words = match n_more {
            Some(_) => Vec::new(),
            None => words
                .map(|word| self.word_ids(word))
                .collect::<Result<Vec<_>>>()?,
        };
        if n_more.is_none() && words.is_empty() {
            return Err(Error::usage("names no word").in_parameter("words"));
        }
        let longest = words.iter().map(Vec::len).max().unwrap_or(1);
        let n_more = n_more.unwrap_or(match request.first_piece {
            true => 0,
            false => longest - 1,
        });
        let mut timings = Timings::default();
        let slots = Slots::new(self, request)?;
        let pictures = self.slot_pixels(&slots, request, &mut timings)?;
        let positions = slots.positions(&pictures);
        check_context(positions.len().saturating_add(n_more))?;
        let n_positions = positions.len() + n_more;
        let n_kept = memory.n_kept(&self.model, n_positions, &positions);
        let beside = match self.is_encoding(slots.picture_ends(), &pictures, n_kept) {
            true => self.model.picture_bytes(),
            false => 0,
        };
        memory.reserve_beside(workspace, n_positions, beside)?;
        let n_held = memory.keep(&positions);
        let rows = self.rows(&slots, &pictures, n_held, &mut timings)?;
        Ok(Asked {
            request,
            words,
            slots,
            positions,
            rows,
            timings,
        })
    }

    /// Computes what the memory does not hold of a prompt.
    fn read(
        &self,
        memory: &mut PromptCache,
        workspace: &mut Workspace,
        asked: &mut Asked,
    ) -> Result<()> {
        let n_held = memory.held().len();
        let inputs =
            asked
                .slots
                .inputs(&asked.rows, n_held, self.model.config().decoder.hidden_size);
        let new = &asked.positions[n_held..];
        asked.timings.measure(Stage::Prefill, || {
            memory.extend(workspace, &inputs, new, &mut |_| true)
        })?;
        Ok(())
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
    pub(super) fn encoded(&self, pixels: &Pixels, timings: &mut Timings) -> Result<Arc<[f32]>> {
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
}

/// A request that is ready to be computed.
struct Asked<'r> {
    request: &'r WordsRequest,
    /// The ids of its words.
    words: Vec<Vec<u32>>,
    slots: Slots<'r>,
    /// What stands at each position of the prompt.
    positions: Vec<Position>,
    /// The decoder's inputs for each picture that was not held.
    rows: Vec<Arc<[f32]>>,
    timings: Timings,
}

impl Asked<'_> {
    /// Computes how likely each word is after the prompt, after which the logits are `first`.
    fn rated(
        mut self,
        memory: &mut PromptCache,
        workspace: &mut Workspace,
        first: &[f32],
        n_reused: usize,
    ) -> Result<WordLogits> {
        let start = Instant::now();
        let n_prompt = self.positions.len();
        let log_sum = log_sum_exp(first);
        let mut words = Vec::with_capacity(self.words.len());
        for (word, ids) in self.request.words.iter().zip(self.words) {
            let logit = first[ids[0] as usize];
            let mut log_probability = f64::from(logit) - log_sum;
            if !self.request.first_piece {
                log_probability += rest(memory, workspace, &ids, n_prompt)?;
            }
            words.push(WordLogit {
                word: word.clone(),
                ids,
                logit,
                log_probability,
            });
        }
        self.timings.add(Stage::Decode, start.elapsed());
        Ok(WordLogits {
            words,
            n_prompt,
            n_reused,
            timings: self.timings,
        })
    }
}

/// Sum of the log probabilities of all pieces but the first, each after those before it.
fn rest(
    memory: &mut PromptCache,
    workspace: &mut Workspace,
    ids: &[u32],
    n_prompt: usize,
) -> Result<f64> {
    let mut sum = 0.0;
    for pair in ids.windows(2) {
        memory.step(workspace, pair[0])?;
        let logits = memory.logits_mut(workspace);
        sum += f64::from(logits[pair[1] as usize]) - log_sum_exp(logits);
    }
    memory.truncate(n_prompt);
    Ok(sum)
}
