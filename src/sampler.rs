//! The choice of the next token from the logits.
//!
//! The filters and their order are those of transformers' `generate`: repeat penalty, temperature,
//! top-k, top-p, min-p, softmax, draw. The exponentials come from `libm` and the random numbers from
//! SplitMix64, so that the same logits and seed give the same text on every machine.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::gguf::names::general as key;
use crate::gguf::write::Metadata;

/// Up to this temperature the likeliest token is always taken: the rule of the reference's
/// `model_worker.py`. Division by less would overflow.
const MAX_GREEDY_TEMPERATURE: f32 = 0.001;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 (and all up to 0.001) takes the likeliest token always.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens (and those as likely as the last of them); 0 is off.
    pub top_k: usize,
    /// Only the likeliest tokens that make up this much probability; 1 is off.
    pub top_p: f32,
    /// Only tokens at least this likely, relative to the likeliest; 0 is off.
    pub min_p: f32,
    /// Logits of tokens that occurred are divided (or, if negative, multiplied) by this; 1 is off.
    pub repeat_penalty: f32,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy, with what the reference uses once a temperature is set: `top_k` is transformers'
    /// default of 50.
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// The defaults of an open file: `generation_config.json` of its checkpoint.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::Kind::Model), naming the key, for values of another type or out of
    /// range.
    pub fn read(gguf: &Gguf) -> Result<Self> {
        let default = Sampling::default();
        let sampling = Sampling {
            temperature: gguf
                .find(key::SAMPLING_TEMPERATURE)?
                .unwrap_or(default.temperature),
            top_k: gguf.find(key::SAMPLING_TOP_K)?.unwrap_or(default.top_k),
            top_p: gguf.find(key::SAMPLING_TOP_P)?.unwrap_or(default.top_p),
            ..default
        };
        let in_key = |name| move |message: String| Error::model(message).in_key(name);
        check_not_negative(sampling.temperature).map_err(in_key(key::SAMPLING_TEMPERATURE))?;
        check_fraction(sampling.top_p).map_err(in_key(key::SAMPLING_TOP_P))?;
        Ok(sampling)
    }

    /// Adds the defaults to the metadata of a file to be written.
    pub fn write(&self, metadata: &mut Metadata) {
        metadata.set(key::SAMPLING_TEMPERATURE, self.temperature);
        // More than there are tokens is as good as any more.
        let top_k = u32::try_from(self.top_k).unwrap_or(u32::MAX);
        metadata.set(key::SAMPLING_TOP_K, top_k);
        metadata.set(key::SAMPLING_TOP_P, self.top_p);
    }

    /// Whether the likeliest token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= MAX_GREEDY_TEMPERATURE
    }

    /// Checks the ranges of all values.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage), naming the field, for a value out of range.
    pub fn check(&self) -> Result<()> {
        let in_field = |name| move |message: String| Error::usage(message).in_parameter(name);
        check_not_negative(self.temperature).map_err(in_field("temperature"))?;
        check_fraction(self.top_p).map_err(in_field("top_p"))?;
        check_fraction(self.min_p).map_err(in_field("min_p"))?;
        check_positive(self.repeat_penalty).map_err(in_field("repeat_penalty"))
    }
}

fn check_not_negative(value: f32) -> Result<(), String> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(format!("is {value}, expected 0 or more")),
    }
}

fn check_fraction(value: f32) -> Result<(), String> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(format!("is {value}, expected 0 to 1")),
    }
}

fn check_positive(value: f32) -> Result<(), String> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(format!("is {value}, expected more than 0")),
    }
}

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which token.
    pub id: u32,
    /// How likely it is among the candidates.
    pub probability: f32,
    /// Its logit, divided by the temperature.
    logit: f32,
}

/// Chooses tokens. All memory is allocated once.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
    candidates: Vec<Candidate>,
    /// Logits, to be reordered.
    scratch: Vec<f32>,
    /// Which ids have their penalty already; all false between calls.
    penalized: Vec<bool>,
}

impl Sampler {
    /// A sampler for logits of `vocab_size` tokens.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::Kind::Usage), naming the field, for a value out of range.
    pub fn new(sampling: Sampling, vocab_size: usize) -> Result<Self> {
        sampling.check()?;
        Ok(Sampler {
            random: SplitMix64 {
                state: sampling.seed,
            },
            sampling,
            candidates: Vec::with_capacity(vocab_size),
            scratch: Vec::with_capacity(vocab_size),
            penalized: vec![false; vocab_size],
        })
    }

    /// Chooses the next token. `logits: [vocab_size]`, changed in place; `recent` are the ids of
    /// the prompt and the answer so far, for the repeat penalty.
    ///
    /// A token is ruled out by a logit of minus infinity, such as `</s>` in an answer that is not
    /// to end yet.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u32]) -> u32 {
        self.choose_candidates(logits, recent);
        let total: f64 = self
            .candidates
            .iter()
            .map(|c| f64::from(c.probability))
            .sum();
        let mut rest = self.random.next_unit() * total;
        for candidate in &self.candidates {
            rest -= f64::from(candidate.probability);
            if rest < 0.0 {
                return candidate.id;
            }
        }
        // Rounding left a rest: it belongs to the last one.
        self.candidates.last().map_or(0, |last| last.id)
    }

    /// The tokens that [`Sampler::sample`] would draw from, in no particular order, with
    /// probabilities that add up to 1.
    pub fn probabilities(&mut self, logits: &mut [f32], recent: &[u32]) -> &[Candidate] {
        self.choose_candidates(logits, recent);
        &self.candidates
    }

    fn choose_candidates(&mut self, logits: &mut [f32], recent: &[u32]) {
        self.penalize(logits, recent);
        self.candidates.clear();
        if self.sampling.is_greedy() {
            self.keep_likeliest(logits);
            return;
        }
        let temperature = self.sampling.temperature;
        logits.iter_mut().for_each(|logit| *logit /= temperature);
        self.keep_top_k(logits);
        if self.sampling.top_p < 1.0 {
            self.keep_top_p();
        }
        if self.sampling.min_p > 0.0 {
            self.keep_min_p();
        }
        self.softmax();
        if self.candidates.is_empty() {
            self.keep_likeliest(logits);
        }
    }

    /// transformers' `RepetitionPenaltyLogitsProcessor`: once for each id that occurred.
    fn penalize(&mut self, logits: &mut [f32], recent: &[u32]) {
        let penalty = self.sampling.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        for &id in recent {
            let id = id as usize;
            let (Some(logit), Some(penalized)) = (logits.get_mut(id), self.penalized.get_mut(id))
            else {
                continue;
            };
            if !std::mem::replace(penalized, true) {
                *logit = match *logit < 0.0 {
                    true => *logit * penalty,
                    false => *logit / penalty,
                };
            }
        }
        for &id in recent {
            if let Some(penalized) = self.penalized.get_mut(id as usize) {
                *penalized = false;
            }
        }
    }

    /// The highest logit alone, the lowest id on ties.
    fn keep_likeliest(&mut self, logits: &[f32]) {
        let mut best = Candidate {
            id: 0,
            probability: 1.0,
            logit: f32::NEG_INFINITY,
        };
        for (id, &logit) in (0..).zip(logits) {
            if logit > best.logit {
                best = Candidate { id, logit, ..best };
            }
        }
        self.candidates.push(best);
    }

    /// All logits from the k-th highest on, those equal to it included.
    fn keep_top_k(&mut self, logits: &[f32]) {
        let k = self.sampling.top_k;
        let mut threshold = f32::NEG_INFINITY;
        if (1..logits.len()).contains(&k) {
            self.scratch.clear();
            self.scratch.extend_from_slice(logits);
            let descending = |a: &f32, b: &f32| b.total_cmp(a);
            threshold = *self.scratch.select_nth_unstable_by(k - 1, descending).1;
        }
        let kept = (0..)
            .zip(logits)
            .filter(|&(_, &logit)| logit >= threshold && logit > f32::NEG_INFINITY);
        self.candidates.extend(kept.map(|(id, &logit)| Candidate {
            id,
            probability: 0.0,
            logit,
        }));
    }

    /// transformers' `TopPLogitsWarper`: from the least likely on, tokens are left out while
    /// their probabilities add up to at most 1 - p; one always stays.
    fn keep_top_p(&mut self) {
        self.candidates.sort_unstable_by(ascending);
        self.softmax();
        let left_out = (1.0 - f64::from(self.sampling.top_p)) as f32;
        // PyTorch's cumulative sum of float32 adds up in float64.
        let mut sum = 0.0;
        let n_left_out = self
            .candidates
            .iter()
            .take_while(|candidate| {
                sum += f64::from(candidate.probability);
                sum as f32 <= left_out
            })
            .count();
        let most = self.candidates.len().saturating_sub(1);
        self.candidates.drain(..n_left_out.min(most));
    }

    /// Tokens at least `min_p` times as likely as the likeliest.
    fn keep_min_p(&mut self) {
        self.softmax();
        let best = self
            .candidates
            .iter()
            .map(|c| c.probability)
            .fold(0.0, f32::max);
        let least = self.sampling.min_p * best;
        self.candidates.retain(|c| c.probability >= least);
    }

    /// Fills in the probabilities.
    fn softmax(&mut self) {
        let highest = self
            .candidates
            .iter()
            .map(|c| c.logit)
            .fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for candidate in &mut self.candidates {
            candidate.probability = libm::expf(candidate.logit - highest);
            sum += f64::from(candidate.probability);
        }
        for candidate in &mut self.candidates {
            candidate.probability = (f64::from(candidate.probability) / sum) as f32;
        }
    }
}

/// By logit, on ties the higher id first, so that top-p leaves that out first.
fn ascending(a: &Candidate, b: &Candidate) -> Ordering {
    a.logit.total_cmp(&b.logit).then(b.id.cmp(&a.id))
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014), with
/// the constants of Vigna's public-domain `splitmix64.c`.
#[derive(Clone, Debug)]
struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, not including, 1.
    fn next_unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
