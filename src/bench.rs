//! Measures the stages of a model, and what the machine can do.
//!
//! Speed does not depend on weights and prompts, so prompts are random tokens and the picture is
//! synthetic. Every stage runs once to warm up. The memory of a machine may change its speed from one
//! minute to the next, so the limits are measured again before each repeat.

mod limits;

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Instant;

use crate::board::{DecoderWork, Machine, PictureWork, Work};
#[cfg(feature = "cli")]
use crate::capacity;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, names};
use crate::image::Picture;
use crate::model::Model;
use crate::model::visual_config::VisualConfig;
#[cfg(feature = "cli")]
use crate::ops::Compute;
use crate::ops::RowRole;
use crate::session::{Input, Sequence, SequencePart, Session};
use crate::workspace::Workspace;

/// Positions of a question about one picture: the picture's 65, the template, and a sentence.
const QUESTION_POSITIONS: usize = 100;
/// The synthetic picture, larger than what vision towers take, and not square.
const PICTURE_WIDTH: usize = 1024;
const PICTURE_HEIGHT: usize = 768;

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchPlan {
    /// Tokens of each prompt that is measured; a prompt of 0 is left out.
    pub prefill: Vec<usize>,
    /// Tokens to generate; with 0, generation is left out.
    pub generate: usize,
    /// Positions that precede the generated tokens.
    pub depth: usize,
    /// Sequences that generate at once.
    pub parallel: NonZeroUsize,
    /// Whether to measure what there is to a picture.
    pub image: bool,
    /// How often each stage is measured after its warm-up.
    pub repeats: NonZeroUsize,
}

/// Measurements of one figure, at least one.
#[derive(Clone, Debug)]
pub struct Measurements {
    ascending: Vec<f64>,
}

impl Measurements {
    fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty());
        values.sort_by(f64::total_cmp);
        Measurements { ascending: values }
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let n = self.ascending.len();
        (self.ascending[(n - 1) / 2] + self.ascending[n / 2]) / 2.0
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.ascending[0]
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.ascending[self.ascending.len() - 1]
    }

    /// Seconds as rates: `amount` of something was done in each.
    fn rates(&self, amount: f64) -> Self {
        // The clock may not resolve what a toy model takes.
        let rate = |seconds: &f64| amount / seconds.max(1e-9);
        Measurements::new(self.ascending.iter().map(rate).collect())
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct BenchReport {
    /// What there is to a picture.
    pub picture: Option<PictureReport>,
    /// Prompts, in the order of the plan.
    pub prefill: Vec<PrefillReport>,
    /// The tokens after them.
    pub generate: Option<GenerateReport>,
    /// Bytes a second that the machine reads of the model file, from the page cache.
    pub bandwidth: Measurements,
    /// 8-bit multiply-accumulates a second that the machine's multipliers do.
    pub int8: Measurements,
    /// The most memory the process ever held, with the part of the file that was read. Known on
    /// Linux only.
    pub peak_rss_bytes: Option<u64>,
    /// What the model asked of the machine.
    pub work: Work,
}

impl BenchReport {
    /// The limits that were measured.
    pub fn machine(&self) -> Machine {
        Machine {
            macs_per_s: self.int8.median(),
            bytes_per_s: self.bandwidth.median(),
        }
    }
}

/// Seconds for a picture, and its multiply-accumulates a second.
#[derive(Clone, Debug)]
pub struct PictureReport {
    /// From RGB to the vision tower's input.
    pub preprocess: Measurements,
    /// The vision transformer.
    pub vit: Measurements,
    /// The abstractor and the projection to the decoder's width.
    pub abstractor: Measurements,
    /// All three.
    pub encode: Measurements,
    /// From RGB to the first token of the answer to a question of [`Self::question_positions`].
    /// Opening the model and decoding the picture file are not in it.
    pub first_token: Measurements,
    /// Positions of the question, the picture's among them.
    pub question_positions: usize,
    /// Of the vision transformer, a second.
    pub vit_macs: Measurements,
    /// Of the abstractor, a second.
    pub abstractor_macs: Measurements,
}

/// How fast prompts are read.
#[derive(Clone, Debug)]
pub struct PrefillReport {
    /// Tokens of the prompt.
    pub n_tokens: usize,
    /// Tokens a second.
    pub tokens: Measurements,
    /// Multiply-accumulates a second.
    pub macs: Measurements,
}

/// How fast tokens are generated.
#[derive(Clone, Debug)]
pub struct GenerateReport {
    /// Tokens a second, of all sequences together.
    pub tokens: Measurements,
    /// Bytes of weights, keys and values a second.
    pub bytes: Measurements,
    /// Bytes of weights, keys and values that a token needs, on the average; sequences share those of
    /// the weights.
    pub bytes_per_token: f64,
}

/// Measures `model`, whose file is `gguf`.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) where a picture is wanted of a model without image branch.
pub fn run(gguf: &Gguf, model: &Model, plan: &BenchPlan) -> Result<BenchReport> {
    // As a request runs.
    let threads = &model.compute().threads;
    threads.enter(|| measure(gguf, model, plan))
}

/// What this machine can do, by a short measurement.
///
/// # Errors
/// [`Kind::Capacity`](crate::Kind::Capacity) where there is no memory to read.
#[cfg(feature = "cli")]
pub(crate) fn machine(compute: &Compute, is_rotated: bool) -> Result<Machine> {
    /// More than caches hold.
    const READ_BYTES: usize = 1 << 28;
    const REPEATS: usize = 3;
    let mut memory = Vec::new();
    if capacity::hold(READ_BYTES as u64).is_err() || memory.try_reserve_exact(READ_BYTES).is_err() {
        return Err(Error::capacity(format!(
            "measuring the memory takes {} of it",
            capacity::human_bytes(READ_BYTES as u64)
        )));
    }
    // Pages that were never written are all the same one.
    memory.resize(READ_BYTES, 1u8);
    Ok(compute.threads.enter(|| {
        let most = |measure: &dyn Fn() -> f64| (0..REPEATS).map(|_| measure()).fold(0.0, f64::max);
        Machine {
            macs_per_s: most(&|| limits::int8(compute, is_rotated)),
            bytes_per_s: most(&|| limits::bandwidth(compute, &memory)),
        }
    }))
}

fn measure(gguf: &Gguf, model: &Model, plan: &BenchPlan) -> Result<BenchReport> {
    let mut bench = Bench {
        model,
        file: gguf.bytes(),
        is_rotated: gguf.has(names::rotation::BLOCK_LENGTH),
        repeats: plan.repeats.get(),
        bandwidth: Vec::new(),
        int8: Vec::new(),
    };
    let work = DecoderWork::new(gguf, model);
    // The first read also maps the pages.
    limits::bandwidth(model.compute(), gguf.bytes());
    bench.probe();
    let picture = match plan.image {
        true => Some(bench.picture()?),
        false => None,
    };
    let lengths = plan.prefill.iter().filter(|&&n| n > 0);
    let prefill = lengths.map(|&n| bench.prefill(n, &work));
    let prefill = prefill.collect::<Result<_>>()?;
    let generate = match plan.generate {
        0 => None,
        n => Some(bench.generate(plan.depth, n, plan.parallel.get(), &work)?),
    };
    Ok(BenchReport {
        picture,
        prefill,
        generate,
        bandwidth: Measurements::new(bench.bandwidth),
        int8: Measurements::new(bench.int8),
        peak_rss_bytes: peak_rss_bytes(),
        work: Work::new(gguf, model),
    })
}

struct Bench<'a> {
    model: &'a Model,
    file: &'a [u8],
    is_rotated: bool,
    repeats: usize,
    bandwidth: Vec<f64>,
    int8: Vec<f64>,
}

impl Bench<'_> {
    /// Measures the machine.
    fn probe(&mut self) {
        let compute = self.model.compute();
        self.bandwidth.push(limits::bandwidth(compute, self.file));
        self.int8.push(limits::int8(compute, self.is_rotated));
    }

    /// Calls `once` to warm up and then for each repeat.
    fn repeat<T>(&mut self, mut once: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
        once()?;
        (0..self.repeats)
            .map(|_| {
                self.probe();
                once()
            })
            .collect()
    }

    fn picture(&mut self) -> Result<PictureReport> {
        let model = self.model;
        let config = model.config();
        let visual = config.visual.as_ref().ok_or_else(|| {
            Error::input("this model has no image branch, so there is no picture to measure")
        })?;
        let picture = synthetic_picture()?;
        let stages = self.repeat(|| encode(model, visual, &picture).map(|(_, seconds)| seconds))?;
        let stage = |i: usize| Measurements::new(stages.iter().map(|seconds| seconds[i]).collect());
        let (vit, abstractor) = (stage(1), stage(2));
        let whole = Measurements::new(stages.iter().map(|seconds| seconds.iter().sum()).collect());

        let n_picture = visual.abstractor.n_positions();
        // The beginning-of-text token and the template come before the picture.
        let n_text = QUESTION_POSITIONS.saturating_sub(n_picture).max(2);
        let ids = random_ids(n_text, config.decoder.vocab_size);
        let (before, after) = ids.split_at(n_text / 4 + 1);
        let mut session = Session::new(model, n_picture + n_text);
        let first_token = self.repeat(|| {
            session.truncate(0);
            let start = Instant::now();
            let (rows, _) = encode(model, visual, &picture)?;
            session.extend(&[
                Input::Tokens(before),
                Input::Image(&rows),
                Input::Tokens(after),
            ])?;
            black_box(likeliest(session.logits()));
            Ok(start.elapsed().as_secs_f64())
        })?;
        let work = PictureWork::new(config, visual);
        Ok(PictureReport {
            preprocess: stage(0),
            vit_macs: vit.rates(work.vit_macs as f64),
            abstractor_macs: abstractor.rates(work.abstractor_macs as f64),
            vit,
            abstractor,
            encode: whole,
            first_token: Measurements::new(first_token),
            question_positions: n_picture + n_text,
        })
    }

    fn prefill(&mut self, n: usize, work: &DecoderWork) -> Result<PrefillReport> {
        let ids = random_ids(n, self.model.config().decoder.vocab_size);
        let mut session = Session::new(self.model, n);
        let seconds = Measurements::new(self.repeat(|| {
            session.truncate(0);
            let start = Instant::now();
            session.extend(&[Input::Tokens(&ids)])?;
            Ok(start.elapsed().as_secs_f64())
        })?);
        Ok(PrefillReport {
            n_tokens: n,
            tokens: seconds.rates(n as f64),
            macs: seconds.rates(work.prefill_macs(n)),
        })
    }

    fn generate(
        &mut self,
        depth: usize,
        n: usize,
        n_sequences: usize,
        work: &DecoderWork,
    ) -> Result<GenerateReport> {
        let vocab_size = self.model.config().decoder.vocab_size;
        let ids = random_ids(depth + n + n_sequences, vocab_size);
        let mut workspace = Workspace::new(self.model);
        let mut sequences: Vec<Sequence> = (0..n_sequences)
            .map(|_| Sequence::new(self.model, depth + n))
            .collect();
        if depth > 0 {
            let before = [Input::Tokens(&ids[..depth])];
            let mut parts: Vec<SequencePart> = (sequences.iter_mut())
                .map(|sequence| SequencePart::new(sequence, &before, 0))
                .collect();
            workspace.compute(RowRole::Prompt, &mut parts)?;
        }
        let seconds = Measurements::new(self.repeat(|| {
            for sequence in &mut sequences {
                sequence.truncate(depth);
            }
            let start = Instant::now();
            for first in depth..depth + n {
                let next: Vec<_> = ids[first..first + n_sequences]
                    .iter()
                    .map(|id| [Input::Tokens(std::slice::from_ref(id))])
                    .collect();
                let mut parts: Vec<SequencePart> = (sequences.iter_mut().zip(&next))
                    .map(|(sequence, next)| SequencePart::new(sequence, next, 1))
                    .collect();
                workspace.compute(RowRole::Answer, &mut parts)?;
                for row in 0..n_sequences {
                    black_box(likeliest(workspace.logits(row)));
                }
            }
            Ok(start.elapsed().as_secs_f64())
        })?);
        let bytes_per_token = work.bytes_per_token(depth, n, n_sequences);
        let n_tokens = (n * n_sequences) as f64;
        Ok(GenerateReport {
            tokens: seconds.rates(n_tokens),
            bytes: seconds.rates(n_tokens * bytes_per_token),
            bytes_per_token,
        })
    }
}

/// Encodes a picture: its rows, and the seconds that each of the three stages took.
fn encode(model: &Model, visual: &VisualConfig, picture: &Picture) -> Result<(Vec<f32>, [f64; 3])> {
    let start = Instant::now();
    let pixels = model
        .compute()
        .threads
        .enter(|| visual.preprocess.pixels(picture, visual.aspect))?;
    let preprocessed = Instant::now();
    let tokens = model.vision(&pixels, &mut ())?;
    let seen = Instant::now();
    let rows = model.abstract_picture(&tokens, &mut ())?;
    let seconds = [preprocessed - start, seen - preprocessed, seen.elapsed()];
    Ok((rows, seconds.map(|time| time.as_secs_f64())))
}

/// What greedy decoding does with logits.
fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}

/// `n` token ids, the same in every run.
fn random_ids(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n)
        .map(|i| (scatter(i) % vocab_size as u64) as u32)
        .collect()
}

/// Colours that change slowly, with noise: nothing that a resampler could take a shortcut for.
fn synthetic_picture() -> Result<Picture> {
    let rgb = (0..PICTURE_WIDTH * PICTURE_HEIGHT * 3).map(|i| {
        let slow = 192 * i / (PICTURE_WIDTH * PICTURE_HEIGHT * 3);
        (slow as u64 + scatter(i) % 64) as u8
    });
    Picture::from_rgb(PICTURE_WIDTH, PICTURE_HEIGHT, rgb.collect())
}

/// Fibonacci hashing: the upper bits of a multiple of the golden ratio.
fn scatter(i: usize) -> u64 {
    (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33
}

/// The high-water mark of resident memory, as Linux keeps it.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_up() {
        let odd = Measurements::new(vec![3.0, 1.0, 2.0]);
        assert_eq!((odd.min(), odd.median(), odd.max()), (1.0, 2.0, 3.0));
        let even = Measurements::new(vec![4.0, 1.0, 2.0, 8.0]);
        assert_eq!(even.median(), 3.0);
        let rates = even.rates(8.0);
        assert_eq!((rates.min(), rates.median(), rates.max()), (1.0, 3.0, 8.0));
    }

    #[test]
    fn ids_are_of_the_vocabulary() {
        let ids = random_ids(1000, 7);
        for id in 0..7 {
            assert!(ids.contains(&id));
        }
        assert!(ids.iter().all(|&id| id < 7));
    }

    #[test]
    fn the_likeliest_is_found() {
        assert_eq!(likeliest(&[0.5, 2.0, -1.0]), Some(1));
        assert_eq!(likeliest(&[]), None);
    }
}
